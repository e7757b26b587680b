//! Panics of the threads that block, and of the disk under them: every caller is answered, and reopening recovers.

mod common;

use common::{
    Ledger, builder,
    disk::{HookedDisk, OPERATIONS},
    load, patiently,
    stage::Stage,
    until,
};
use mailring::{Durability, Error, FaultSite, Heal, NodeState, Result, kinds};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// The thread that writes and forces is a part of the journal: whatever it was doing, the engine turns read-only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_thread_that_panics_leaves_a_read_only_engine_that_reopens_whole() -> Result<()> {
    // One that is provoked by holding the thread up, below.
    let kinds = kinds::IO.iter().filter(|kind| **kind != "ReportSpare");
    for kind in kinds {
        for handled in [false, true] {
            println!("{kind}, handled: {handled}");
            let durability = match *kind {
                "ForceIfDue" => Durability::Interval(Duration::from_millis(10)),
                _ => Durability::Always,
            };
            let stage = Stage::tuned(|builder| builder.durability(durability)).await?;
            stage.trap.set("io", None, kind, handled, 0, 1);
            for round in 0.. {
                stage.write_until_a_segment_is_full(round).await;
                if stage.trap.sprung() == 1 {
                    break;
                }
                assert!(round < 200, "no such request was ever made");
            }
            stage.assert_read_only().await?;
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

/// The spare that was just taken by a group on its way is asked for again: that takes a thread that is slower than the
/// journal's clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_thread_that_panics_while_it_reports_a_spare_does_the_same() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let (ticks, sprung) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, panics) = (Arc::clone(&ticks), Arc::clone(&sprung));
    let hook = move |site: &FaultSite<'_>| match (site.actor, site.message, site.handled) {
        ("journal", "Tick", true) => {
            seen.fetch_add(1, SeqCst);
        }
        ("io", "Write", false) => {
            let before = seen.load(SeqCst);
            // A clock that has been stopped does not tick.
            while seen.load(SeqCst) < before + 2 && panics.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
        }
        ("io", "ReportSpare", true) => {
            panics.fetch_add(1, SeqCst);
            panic!("on command");
        }
        _ => {}
    };
    let db = builder(directory.path())
        .fault_hook(Arc::new(hook))
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let writers: Vec<_> = (0..4)
        .map(|task| {
            let ks = ks.clone();
            tokio::spawn(async move {
                let mut written = Vec::new();
                for number in 0..200 {
                    let key = format!("{task}-{number}");
                    if ks.put(&key, vec![0; 300 << 10]).await.is_err() {
                        break;
                    }
                    written.push(key);
                }
                written
            })
        })
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        written.extend(patiently(writer).await.unwrap());
    }
    assert_eq!(sprung.load(SeqCst), 1);
    until(|| db.stats().read_only.is_some()).await;
    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    for key in written {
        assert!(ks.contains(&key).await?, "{key}");
    }
    Ok(())
}

/// Nobody notices: the journal asks for its segment again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_prepares_segments_may_panic() -> Result<()> {
    for handled in [false, true] {
        let stage = Stage::open().await?;
        stage.trap.set("segments", None, "Prepare", handled, 0, 3);
        for round in 0.. {
            stage.write_until_a_segment_is_full(round).await;
            if stage.trap.sprung() == 3 {
                break;
            }
            assert!(round < 200, "no segment was ever asked for");
        }
        patiently(async {
            while let Err(error) = stage.ks.put("behind", "v").await {
                assert!(common::is_harmless(&error), "{error}");
            }
        })
        .await;
        stage.check().await;
        assert_eq!(stage.db.stats().read_only, None);
        stage.assert_reopens_whole().await?;
    }
    Ok(())
}

/// A checkpoint that fails so says so, and the next one makes up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_threads_of_a_checkpoint_may_panic() -> Result<()> {
    let runs = kinds::RUNS.iter().map(|kind| ("runs", *kind));
    for (actor, kind) in runs.chain([("compaction", "Compact")]) {
        for handled in [false, true] {
            println!("{actor} {kind}, handled: {handled}");
            let stage = Stage::open().await?;
            stage.trap.set(actor, None, kind, handled, 0, 1);
            stage.load("before", 4, 5).await;
            let error = patiently(stage.db.checkpoint()).await.unwrap_err();
            assert!(error.to_string().contains("panicked"), "{error}");
            assert_eq!(stage.trap.sprung(), 1);
            stage.load("between", 4, 5).await;
            patiently(stage.db.checkpoint()).await?;
            stage.load("after", 4, 5).await;
            stage.check().await;
            assert_eq!(stage.db.stats().read_only, None);
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_rebuilding_thread_panics_is_down_and_the_others_go_on() -> Result<()> {
    let stage = Stage::tuned(|builder| builder.heal(Heal::Wait)).await?;
    stage.first.set("node", Some(1), "Request", true, 3, 1);
    stage
        .trap
        .set("rebuild", None, "Rebuild", false, 0, usize::MAX);
    stage.load("during", 8, 10).await;
    until(|| stage.db.stats().nodes[1].state == NodeState::Down).await;
    let failure = stage.db.stats().nodes[1].last_failure.clone();
    assert!(failure.unwrap().contains("trap"));
    for key in common::keys_of(&stage.db, &stage.ks, 0, 3).await {
        patiently(stage.ks.put(key, "v")).await?;
    }
    stage.assert_reopens_whole().await
}

/// A disk that panics at its n-th operation of a kind, wherever that is: in place on the journal's thread, on one of its
/// own, in an opening or at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_panics_leaves_nobody_waiting_and_loses_nothing() -> Result<()> {
    for operation in OPERATIONS {
        for skip in [0, 2, 8] {
            println!("{operation}, {skip}");
            let directory = tempfile::tempdir().unwrap();
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let counter = Arc::clone(&left);
            let hook = move |asked: &'static str, _: &str| {
                if asked == operation {
                    let before = counter.fetch_sub(1, SeqCst);
                    assert!(before > 0, "the disk panics on command");
                    if before == usize::MAX {
                        counter.store(usize::MAX, SeqCst);
                    }
                }
                Ok(())
            };
            let disk = Arc::new(HookedDisk::new(directory.path(), Arc::new(hook)));
            let open = || {
                builder(directory.path())
                    .disk(Arc::clone(&disk) as Arc<_>)
                    .open()
            };
            let db = open().await?;
            let ks = db.keyspace("ks").await?;
            let ledger = Arc::<Mutex<Ledger>>::default();
            left.store(skip, SeqCst);
            for round in 0..4 {
                load(&ks, &ledger, &format!("round-{round}"), 4, 10).await;
                for number in 0..5 {
                    let _ = patiently(ks.put(format!("large-{number}"), vec![0; 300 << 10])).await;
                }
                let _ = patiently(db.checkpoint()).await;
            }
            let _ = patiently(db.shutdown()).await;
            drop((ks, db));
            // Openings meet what is left, and fail with an error.
            let mut refusals = 0;
            let db = loop {
                match patiently(open()).await {
                    Ok(db) => break db,
                    Err(error) => {
                        assert!(matches!(error, Error::Io { .. }), "{error}");
                        refusals += 1;
                        left.store(usize::MAX, SeqCst);
                    }
                }
                assert!(refusals < 2);
            };
            let ledger = std::mem::take(&mut *ledger.lock().unwrap());
            ledger.check(&db.keyspace("ks").await?).await;
        }
    }
    Ok(())
}

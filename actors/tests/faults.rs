//! A disk that fails, dies or is full under a running engine: who is told what, and what a reopening finds.
//!
//! The journal and the manifest are on a simulated disk, the trees in a temporary directory: a crash takes from the
//! first what was not forced, and the trees may then be ahead of the manifest, as after a real one.

mod common;

use common::{Ledger, Trap, check, is_harmless, load, patiently, tuned, until, until_idle};
use mailring::{Builder, Durability, Error, Mailring, NodeState, Result, TxnOutcome};
use mailring_engine::disk::{SimulatedDisk, Survivors};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};

fn on(disk: &SimulatedDisk, trees: &Path) -> Builder {
    tuned(Mailring::builder(trees))
        .nodes(2)
        .disk(Arc::new(disk.clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_or_force_turns_the_engine_read_only_until_it_is_reopened() -> Result<()> {
    for survivors in [
        Survivors::Nothing,
        Survivors::Everything,
        Survivors::Seeded(7),
    ] {
        for fail in [
            SimulatedDisk::fail_next_write,
            SimulatedDisk::fail_next_force,
        ] {
            let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
            let db = on(&disk, trees.path()).open().await?;
            let ks = db.keyspace("ks").await?;
            let ledger = Arc::<Mutex<Ledger>>::default();
            load(&ks, &ledger, "before", 4, 5).await;
            // A failure that meets the preparation of a segment or a manifest harms nobody: only the journal's own
            // writes count.
            for round in 0.. {
                fail(&disk);
                load(&ks, &ledger, &format!("during-{round}"), 8, 5).await;
                if db.stats().read_only.is_some() {
                    break;
                }
            }
            until_idle(&db).await;
            check(&ledger, &ks).await;
            assert!(matches!(
                ks.put("key", "v").await,
                Err(Error::ReadOnly { .. })
            ));
            assert!(matches!(
                ks.add("sum", 1).await,
                Err(Error::ReadOnly { .. })
            ));
            assert!(matches!(
                db.keyspace("new").await,
                Err(Error::ReadOnly { .. })
            ));
            assert!(matches!(db.checkpoint().await, Err(Error::ReadOnly { .. })));
            assert!(db.snapshot()?.scan(&ks, ..).count().await? > 0);
            patiently(db.shutdown()).await?;
            drop((ks, db));

            disk.crash(survivors);
            let db = on(&disk, trees.path()).open().await?;
            let ks = db.keyspace("ks").await?;
            check(&ledger, &ks).await;
            load(&ks, &ledger, "after", 4, 5).await;
            check(&ledger, &ks).await;
        }
    }
    Ok(())
}

/// The simulator's seed 62: where groups are not forced at once, the force before a checkpoint failed, and the manifest
/// was saved all the same. It told of transactions as committed that the crash had taken.
#[tokio::test]
async fn a_manifest_is_not_ahead_of_a_journal_that_could_not_be_forced() -> Result<()> {
    let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let unforced = || on(&disk, trees.path()).durability(Durability::None);
    let db = unforced().open().await?;
    let ks = db.keyspace("ks").await?;
    db.checkpoint().await?;
    // The failure may hit a spare segment that is being prepared, which harms nothing: then it is armed again.
    let mut rounds = 0;
    let txn = loop {
        rounds += 1;
        assert!(rounds < 100, "no force has failed under a checkpoint");
        let txn = db.begin()?;
        let id = txn.id();
        for number in 0..8 {
            txn.put(&ks, format!("key-{rounds}-{number}"), "v").await?;
        }
        txn.commit().await?;
        disk.fail_next_force();
        match patiently(db.checkpoint()).await {
            Ok(_) => {}
            Err(_) => break id,
        }
    };
    // Whatever the checkpoint was about to do is done. That the journal can't be closed is no news.
    let _ = patiently(db.shutdown()).await;
    drop((ks, db));
    disk.crash(Survivors::Nothing);
    let db = unforced().open().await?;
    let ks = db.keyspace("ks").await?;
    let is_there = matches!(db.outcome(txn).await?, TxnOutcome::Committed(_));
    let lost = ks.get(format!("key-{rounds}-0")).await?.is_none();
    assert!(
        !(is_there && lost),
        "it is said to be committed, and is lost"
    );
    Ok(())
}

/// Reads see only what a crash can't take back, also while the force of newer writes is failing.
#[tokio::test]
async fn what_was_read_before_a_failed_force_is_there_after_it() -> Result<()> {
    let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let db = on(&disk, trees.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    let mut acknowledged = 0u32;
    ks.put("key", acknowledged.to_string()).await?;
    // The failure may hit a spare segment that is being prepared, which harms nothing: then it is armed again.
    let error = loop {
        disk.fail_next_force();
        match patiently(ks.put("key", (acknowledged + 1).to_string())).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100, "no force has failed");
    };
    assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
    let expected = acknowledged.to_string();
    assert_eq!(ks.get("key").await?.as_deref(), Some(expected.as_bytes()));
    drop((ks, db));
    disk.crash(Survivors::Everything);
    let db = on(&disk, trees.path()).open().await?;
    let value = db.keyspace("ks").await?.get("key").await?;
    assert_eq!(value.as_deref(), Some(expected.as_bytes()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_machine_at_any_step_takes_nothing_acknowledged() -> Result<()> {
    let seed = std::env::var("MAILRING_SEED").map_or_else(
        |_| rand::random(),
        |seed| seed.parse().expect("a number in MAILRING_SEED"),
    );
    println!("MAILRING_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let ledger = Arc::<Mutex<Ledger>>::default();
    let open = || {
        on(&disk, trees.path())
            .checkpoint_bytes(16 << 10)
            .open_blocking()
    };
    drop(open()?);
    for round in 0..40 {
        disk.die_after(random.random_range(0..200));
        if let Ok(db) = open()
            && let Ok(ks) = patiently(db.keyspace("ks")).await
        {
            load(&ks, &ledger, &format!("round-{round}"), 6, 60).await;
            if random.random_bool(0.3) {
                // Whatever it answers, it does not hang and loses nothing.
                let _ = patiently(db.shutdown()).await;
            }
        }
        disk.crash(match random.random_range(0..3) {
            0 => Survivors::Nothing,
            1 => Survivors::Everything,
            _ => Survivors::Seeded(random.random()),
        });
        let db = open()?;
        let ks = patiently(db.keyspace("ks")).await?;
        check(&ledger, &ks).await;
        patiently(db.verify()).await?;
    }
    assert!(ledger.lock().unwrap().acknowledged() > 100);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_keeps_reads_and_clears_without_a_restart() -> Result<()> {
    let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let trap = Trap::new();
    let db = on(&disk, trees.path())
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let ledger = Arc::<Mutex<Ledger>>::default();
    disk.set_capacity(Some(0));
    let value = vec![7; 10_000];
    let mut written = Vec::new();
    let error = loop {
        let key = format!("big-{}", written.len());
        match patiently(ks.put(&key, &value)).await {
            Ok(_) => written.push(key),
            Err(error) => break error,
        }
        assert!(written.len() < 10_000, "the disk is never full");
    };
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert!(error.is_retryable() && is_harmless(&error));
    let stats = db.stats();
    assert!(matches!(stats.disk_full, Some(Error::DiskFull { .. })));
    assert_eq!(stats.read_only, None);
    for key in &written {
        assert!(ks.contains(key).await?, "{key}");
    }
    // A node that restarts while the disk is full needs a record of its own: there is room for it.
    trap.set("node", None, "Request", true, 0, 3);
    load(&ks, &ledger, "full", 4, 20).await;
    assert_eq!(trap.sprung(), 3);
    assert!(matches!(
        patiently(db.keyspace("new")).await,
        Err(Error::DiskFull { .. }) | Ok(_)
    ));
    // A checkpoint needs a manifest, which has no room either. It fails and can be repeated.
    let checkpoint = patiently(db.checkpoint()).await;
    assert!(
        matches!(checkpoint, Err(Error::DiskFull { .. })),
        "{checkpoint:?}"
    );
    assert_eq!(db.stats().read_only, None);

    disk.set_capacity(None);
    patiently(async {
        while let Err(error) = ks.put("cleared", "v").await {
            assert!(error.is_retryable(), "{error}");
        }
    })
    .await;
    until(|| db.stats().disk_full.is_none()).await;
    load(&ks, &ledger, "cleared", 4, 5).await;
    check(&ledger, &ks).await;
    patiently(db.checkpoint()).await?;
    assert!(
        db.stats()
            .nodes
            .iter()
            .all(|node| node.state != NodeState::Down)
    );
    patiently(db.shutdown()).await?;
    drop((ks, db));
    disk.crash(Survivors::Nothing);
    let db = on(&disk, trees.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    check(&ledger, &ks).await;
    for key in &written {
        assert!(ks.contains(key).await?, "{key}");
    }
    Ok(())
}

/// The first and the second opening found no room for the journal; the third one has it.
#[tokio::test]
async fn a_directory_whose_creation_failed_for_want_of_room_can_be_opened_later() -> Result<()> {
    let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    disk.set_capacity(Some(4096));
    for _ in 0..3 {
        let error = on(&disk, trees.path()).open().await.err();
        assert!(matches!(error, Some(Error::DiskFull { .. })), "{error:?}");
    }
    disk.set_capacity(None);
    let db = on(&disk, trees.path()).open().await?;
    db.keyspace("ks").await?.put("key", "value").await?;
    db.shutdown().await
}

#[tokio::test]
async fn a_machine_that_dies_at_any_step_of_the_first_openings_leaves_what_can_be_opened()
-> Result<()> {
    for steps in 0..40 {
        let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
        for survivors in [
            Survivors::Nothing,
            Survivors::Everything,
            Survivors::Seeded(steps),
        ] {
            disk.die_after(steps);
            drop(on(&disk, trees.path()).open().await);
            disk.crash(survivors);
        }
        let db = on(&disk, trees.path()).open().await?;
        db.keyspace("ks").await?.put("key", "value").await?;
    }
    Ok(())
}

//! The memory budget, time to live, and what callers that go away leave behind: nothing.

mod common;

use common::{
    Gate, OpensAtTheEnd, builder, disk::HookedDisk, memory_used, patiently, until, until_idle,
};
use mailring::{Error, Mailring, Result, WatchEvent};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
    time::Duration,
};

const BUDGET: usize = 32 << 20;

fn assert_within_budget(db: &Mailring) {
    let stats = db.stats();
    let used = memory_used(&stats);
    assert!(used <= BUDGET, "{used} bytes are used, {stats:?}");
}

/// Writes three times the budget while every checkpoint is held up until the figures have been looked at many times, and
/// nobody reads a watch of it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_is_kept_when_the_disk_is_slower_than_the_writers() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let _open = OpensAtTheEnd(Arc::clone(&gate));
    let db = builder(directory.path())
        .memory_budget(BUDGET)
        .disk(Arc::new(HookedDisk::gated(
            directory.path(),
            Arc::clone(&gate),
        )))
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let mut unread = ks.watch("").await?;
    let (left, running) = (
        Arc::new(AtomicUsize::new(3 * BUDGET / (32 << 10))),
        Arc::new(AtomicUsize::new(8)),
    );
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (ks, left, running) = (ks.clone(), Arc::clone(&left), Arc::clone(&running));
            tokio::spawn(async move {
                let value = vec![1; 32 << 10];
                while let Ok(number) = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                {
                    while let Err(error) = ks.put(number.to_be_bytes(), &value).await {
                        // `Overloaded`, or `DeadlineExceeded` where the gate was shut behind its admission.
                        assert!(error.is_retryable(), "{error}");
                    }
                }
                running.fetch_sub(1, SeqCst);
            })
        })
        .collect();
    let mut looks = 0u64;
    patiently(async {
        while running.load(SeqCst) > 0 {
            assert_within_budget(&db);
            looks += 1;
            if looks.is_multiple_of(64) {
                gate.open();
            } else if looks % 64 == 32 {
                gate.close();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.open();
    for writer in writers {
        patiently(writer).await.unwrap();
    }
    assert_within_budget(&db);
    assert!(db.stats().checkpoints > 1);
    patiently(db.checkpoint()).await?;
    assert_eq!(ks.scan(..).count().await?, (3 * BUDGET / (32 << 10)) as u64);
    assert_within_budget(&db);
    assert!(db.stats().watch_bytes > 0);
    let first = patiently(unread.next()).await;
    assert!(
        matches!(first, Some(WatchEvent::Missed { .. })),
        "{first:?}"
    );
    drop(unread);
    assert_eq!(db.stats().watch_bytes, 0);
    until_idle(&db).await;
    Ok(())
}

#[tokio::test]
async fn a_value_with_time_to_live_is_gone_everywhere_once_it_has_expired() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("overwritten", "lives for ever").await?;
    ks.put_with_ttl("overwritten", "v", Duration::from_millis(1))
        .await?;
    ks.put_with_ttl("kept", "v", Duration::MAX).await?;
    let mut batch = db.batch();
    batch.put_with_ttl(&ks, "batched", "v", Duration::from_millis(1));
    batch.commit().await?;
    for checkpointed in [false, true] {
        if checkpointed {
            patiently(db.checkpoint()).await?;
        }
        // Expiry is by the wall clock: it is waited for, not slept for.
        patiently(async {
            while ks.get("overwritten").await?.is_some() || ks.get("batched").await?.is_some() {
                tokio::task::yield_now().await;
            }
            Ok::<_, Error>(())
        })
        .await?;
        assert!(
            !ks.contains("overwritten").await?,
            "the older value does not come back"
        );
        let pairs = ks.scan(..).collect().await?;
        assert_eq!(pairs.len(), 1, "{pairs:?}");
        assert_eq!(db.snapshot()?.get(&ks, "overwritten")?, None);
    }
    assert_eq!(
        ks.add("overwritten", 5).await?,
        5,
        "an expired value counts as absent"
    );
    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.scan(..).count().await?, 2);
    ks.put("kept", "v").await?;
    Ok(())
}

/// Callers give up at random points: never polled, polled once, or with the answer on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_leave_no_place_and_no_byte_behind() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .nodes(2)
        .memory_budget(BUDGET)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let mut random = StdRng::seed_from_u64(7);
    let gone = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..4)
        .map(|task| {
            let (ks, gone) = (ks.clone(), Arc::clone(&gone));
            tokio::spawn(async move {
                let mut number = 0u32;
                while !gone.load(SeqCst) {
                    ks.put(format!("{task}-{}", number % 100), vec![0; 1000])
                        .await
                        .unwrap();
                    number += 1;
                }
            })
        })
        .collect();
    for round in 0..500 {
        let key = format!("given-up-{round}");
        let mut put = pin!(ks.put(&key, vec![1; 10_000]));
        let mut add = pin!(ks.add("sum", 1));
        for _ in 0..random.random_range(0..4) {
            let context = &mut Context::from_waker(Waker::noop());
            if put.as_mut().poll(context).is_ready() {
                break;
            }
            if round % 2 == 0 && add.as_mut().poll(context).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    gone.store(true, SeqCst);
    for other in others {
        patiently(other).await.unwrap();
    }
    until_idle(&db).await;
    // What was given up is whole, if it is there.
    let mut there = ks.prefix("given-up-");
    while let Some((_, value)) = there.next().await? {
        assert_eq!(value[..], [1; 10_000]);
    }
    let sum = ks.add("sum", 0).await?;
    assert!((0..=500).contains(&sum), "{sum}");
    drop(db.checkpoint());
    drop(db.verify());
    patiently(db.checkpoint()).await?;
    Ok(())
}

#[tokio::test]
async fn a_dropped_keyspace_gives_its_keys_back_and_stays_gone() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let kept = db.keyspace("kept").await?;
    kept.put("key", "v").await?;
    for round in 0..4u32 {
        let ks = db.keyspace("ks").await?;
        assert_eq!(ks.scan(..).count().await?, 0, "round {round}");
        ks.put_many((0..300u32).map(|number| (number.to_be_bytes(), "v")))
            .await?;
        if round % 2 == 0 {
            patiently(db.checkpoint()).await?;
        }
        ks.put("newest", "v").await?;
        let snapshot = db.snapshot()?;
        db.drop_keyspace("ks").await?;
        assert!(matches!(
            snapshot.get(&ks, "newest"),
            Err(Error::KeyspaceNotFound { .. })
        ));
        assert!(matches!(
            ks.get("newest").await,
            Err(Error::KeyspaceNotFound { .. })
        ));
    }
    patiently(db.checkpoint()).await?;
    until(|| db.stats().nodes.iter().all(|node| node.queue_depth == 0)).await;
    drop((kept, db));
    let db = builder(directory.path()).open().await?;
    assert_eq!(db.keyspaces().await?, ["kept"]);
    assert_eq!(db.verify().await?.keys, 1);
    assert_eq!(db.keyspace("ks").await?.scan(..).count().await?, 0);
    Ok(())
}

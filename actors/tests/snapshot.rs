//! Snapshots: one moment over all nodes, for as long as it is held.

mod common;

use common::{builder, patiently};
use mailring::{Keyspace, Result, Snapshot};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

const COUNTERS: usize = 12;

fn counters(snapshot: &Snapshot, ks: &Keyspace) -> Result<Vec<i64>> {
    (0..COUNTERS)
        .map(|number| {
            let value = snapshot.get(ks, format!("counter-{number}"))?;
            Ok(value.map_or(0, |bytes| i64::from_le_bytes(bytes[..].try_into().unwrap())))
        })
        .collect()
}

/// One writer raises the counters one after the other, over and over, so that at every moment the counters before some
/// place are one ahead of those behind it. Each is on whichever node owns it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_shows_all_nodes_at_one_moment_while_writers_and_checkpoints_go_on() -> Result<()>
{
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(4).open().await?;
    let ks = db.keyspace("ks").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (ks, stop) = (ks.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(SeqCst) {
                for number in 0..COUNTERS {
                    ks.add(format!("counter-{number}"), 1).await?;
                }
            }
            Ok::<_, mailring::Error>(())
        })
    };
    let mut last = (db.snapshot()?.lsn(), vec![0; COUNTERS]);
    let mut held = Vec::new();
    for round in 0..60 {
        if round % 10 == 0 {
            patiently(db.checkpoint()).await?;
        }
        let snapshot = db.snapshot()?;
        let seen = counters(&snapshot, &ks)?;
        let (first, least) = (seen[0], seen[COUNTERS - 1]);
        assert!((0..=1).contains(&(first - least)), "{seen:?}");
        assert!(seen.is_sorted_by(|a, b| a >= b), "{seen:?}");
        assert!(snapshot.lsn() >= last.0, "a later snapshot is not older");
        assert!(seen.iter().zip(&last.1).all(|(now, before)| now >= before));
        last = (snapshot.lsn(), seen.clone());
        let scanned: Vec<_> = snapshot.prefix(&ks, "counter-").collect().await?;
        let sum: i64 = scanned
            .iter()
            .map(|(_, value)| i64::from_le_bytes(value[..].try_into().unwrap()))
            .sum();
        assert_eq!(sum, seen.iter().sum::<i64>(), "a scan sees what reads see");
        if round % 15 == 0 {
            held.push((snapshot, seen));
        }
        // Some additions, so that the next snapshot has something new.
        ks.put("noise", round.to_string()).await?;
    }
    stop.store(true, SeqCst);
    patiently(writer).await.unwrap()?;
    patiently(db.checkpoint()).await?;
    for (snapshot, seen) in held {
        assert_eq!(counters(&snapshot, &ks)?, seen, "what was seen stays");
    }
    Ok(())
}

#[tokio::test]
async fn a_snapshot_keeps_what_is_overwritten_deleted_and_checkpointed_meanwhile() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    for number in 0..200u32 {
        ks.put(format!("{number:03}"), "old").await?;
    }
    let snapshot = db.snapshot()?;
    for round in 0..3 {
        for number in 0..200u32 {
            if number % 3 == 0 {
                ks.delete(format!("{number:03}")).await?;
            } else {
                ks.put(format!("{number:03}"), format!("new {round}"))
                    .await?;
            }
        }
        ks.put(format!("new-{round}"), "v").await?;
        db.checkpoint().await?;
        assert_eq!(snapshot.get(&ks, "000")?.as_deref(), Some(&b"old"[..]));
        let pairs = snapshot.clone().scan(&ks, ..).collect().await?;
        assert_eq!(pairs.len(), 200);
        assert!(pairs.iter().all(|(_, value)| &value[..] == b"old"));
    }
    let many = ks.get_many(["000", "001", "new-2", "none"]).await?;
    let many: Vec<_> = many.iter().map(Option::as_deref).collect();
    assert_eq!(many, [None, Some(&b"new 2"[..]), Some(&b"v"[..]), None]);
    let before = db.stats().generation_bytes;
    drop(snapshot);
    assert!(
        db.stats().generation_bytes < before,
        "what only it held is freed"
    );
    Ok(())
}

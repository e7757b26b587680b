//! Trees that can't be written, or only slowly: reads go on, memory stays within its budget, writers are told why, and all
//! of it clears by itself.

mod common;

use common::{
    full::{
        BUDGET, VALUE_BYTES, assert_there, assert_within_budget, small, until_it_clears,
        write_until_refused,
    },
    patiently,
    store::Trees,
    until,
};
use mailring::{Error, Result};
use std::{
    io::ErrorKind,
    sync::{Arc, atomic::Ordering::SeqCst},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trees_that_can_not_be_written_refuse_writes_keep_reads_and_clear_by_themselves()
-> Result<()> {
    for failure in [ErrorKind::StorageFull, ErrorKind::Other] {
        let directory = tempfile::tempdir().unwrap();
        let trees = Trees::new();
        let db = small(directory.path())
            .store_hook(trees.hook())
            .open()
            .await?;
        let ks = db.keyspace("ks").await?;
        trees.fail(Some(failure));
        let (written, error) = write_until_refused(&db, &ks, "first").await;
        match (failure, &error) {
            (ErrorKind::StorageFull, Error::DiskFull { .. }) => assert!(error.is_retryable()),
            (ErrorKind::Other, Error::Io { .. }) => assert!(!error.is_retryable()),
            other => panic!("{other:?}"),
        }
        assert!(written.len() * VALUE_BYTES > BUDGET / 8, "memory was used");
        let stats = db.stats();
        assert_eq!(stats.checkpoint_failure, Some(error.clone()));
        let is_full = failure == ErrorKind::StorageFull;
        assert_eq!(stats.disk_full, is_full.then(|| error.clone()));
        assert_eq!(stats.read_only, None);
        // Whoever comes now is refused at once, not at a deadline of 100 s; so is who asks for a checkpoint.
        for _ in 0..10 {
            let refusal = patiently(ks.put("more", vec![1; VALUE_BYTES])).await;
            assert_eq!(refusal, Err(error.clone()));
        }
        assert_eq!(patiently(db.checkpoint()).await, Err(error));
        assert_there(&ks, &written).await?;
        assert_eq!(ks.prefix("first-").count().await?, written.len() as u64);
        // It is tried again, but not all the time.
        let failures = trees.failures.load(SeqCst);
        until(|| trees.failures.load(SeqCst) > failures).await;

        trees.fail(None);
        until_it_clears(&db, &ks).await;
        assert_there(&ks, &written).await?;
        trees.fail(Some(failure));
        let (second, _) = write_until_refused(&db, &ks, "second").await;
        // What is only in the journal survives the engine.
        drop((ks, db));
        let db = small(directory.path()).open().await?;
        let ks = db.keyspace("ks").await?;
        for written in [written, second] {
            assert_there(&ks, &written).await?;
        }
        patiently(db.checkpoint()).await?;
        patiently(db.verify()).await?;
    }
    Ok(())
}

/// A checkpoint that is only slow is worth waiting for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_starved_at_the_hard_limit_goes_through_when_a_slow_checkpoint_ends() -> Result<()>
{
    let directory = tempfile::tempdir().unwrap();
    let trees = Trees::new();
    let _open = OpensTrees(Arc::clone(&trees));
    let db = small(directory.path())
        .store_hook(trees.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    trees.gate.close();
    let writer = {
        let ks = ks.clone();
        tokio::spawn(async move {
            for number in 0..2 * BUDGET / VALUE_BYTES {
                ks.put(format!("key-{number:06}"), vec![1; VALUE_BYTES])
                    .await?;
            }
            Ok::<_, Error>(())
        })
    };
    // At the limit: half of the budget is the caches', an eighth the requests', a sixteenth that of open transactions, and an
    // eighth of the rest that of watches.
    let limit = BUDGET / 16 * 5 / 8 * 7;
    until(|| {
        assert_within_budget(&db);
        db.stats().generation_bytes + 2 * VALUE_BYTES > limit
    })
    .await;
    until(|| trees.gate.waiting() > 0).await;
    trees.gate.open();
    patiently(writer).await.unwrap()?;
    assert_within_budget(&db);
    assert_eq!(
        ks.prefix("key-").count().await?,
        (2 * BUDGET / VALUE_BYTES) as u64
    );
    Ok(())
}

/// The drop was answered `DiskFull`, as if nothing had been dropped, and its repetition `KeyspaceNotFound`.
#[tokio::test]
async fn a_keyspace_is_dropped_also_where_its_tree_can_not_be_cleaned_up() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trees = Trees::new();
    let db = small(directory.path())
        .store_hook(trees.hook())
        .open()
        .await?;
    let old = db.keyspace("ks").await?;
    old.put("key", "old").await?;
    patiently(db.checkpoint()).await?;
    trees.refuse_drops(Some(ErrorKind::StorageFull));
    assert_eq!(patiently(db.drop_keyspace("ks")).await, Ok(()));
    let name = "ks".to_owned();
    let gone = Error::KeyspaceNotFound { name };
    assert_eq!(old.get("key").await, Err(gone));
    let new = db.keyspace("ks").await?;
    assert_eq!(new.get("key").await?, None);
    new.put("key", "new").await?;
    patiently(db.shutdown()).await?;
    drop((old, new, db));

    let db = small(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get("key").await?.as_deref(), Some(&b"new"[..]));
    assert_eq!(db.verify().await?.tree_keys, 1, "the space came back");
    Ok(())
}

struct OpensTrees(Arc<Trees>);

impl Drop for OpensTrees {
    fn drop(&mut self) {
        self.0.gate.open();
    }
}

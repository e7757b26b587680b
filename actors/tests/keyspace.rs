//! What a keyspace promises, over a directory and in memory.

mod common;

use mailring::{CompareAndSet, Durability, Error, Mailring, Result};
use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

fn engines() -> Vec<(tempfile::TempDir, Mailring)> {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = Mailring::builder(directory.path()).open_blocking().unwrap();
    let in_memory = Mailring::memory().open_blocking().unwrap();
    vec![
        (directory, on_disk),
        (tempfile::tempdir().unwrap(), in_memory),
    ]
}

#[tokio::test]
async fn what_was_put_is_read_and_what_was_deleted_is_not() -> Result<()> {
    for (_directory, db) in engines() {
        let ks = db.keyspace("ks").await?;
        for number in 0..500u32 {
            ks.put(number.to_be_bytes(), format!("value {number}"))
                .await?;
        }
        db.checkpoint().await?;
        for number in (0..500u32).step_by(2) {
            ks.delete(number.to_be_bytes()).await?;
        }
        for number in 0..500u32 {
            let expected = (number % 2 == 1).then(|| format!("value {number}").into());
            assert_eq!(
                ks.get(number.to_be_bytes()).await?,
                expected,
                "key {number}"
            );
        }
        assert_eq!(ks.scan(..).count().await?, 250);
        db.checkpoint().await?;
        assert_eq!(ks.scan(..).count().await?, 250);
        let reversed = ks.scan(..).reverse().limit(2).collect().await?;
        assert_eq!(reversed[0].0[..], 499u32.to_be_bytes());
        assert_eq!(reversed[1].0[..], 497u32.to_be_bytes());
        db.shutdown().await?;
        assert_eq!(ks.get(b"x").await, Err(Error::Closed));
    }
    Ok(())
}

#[tokio::test]
async fn a_key_has_the_node_of_its_tag_whatever_keyspace_it_is_in_and_wherever_the_data_is()
-> Result<()> {
    let [(_directory, on_disk), (_, in_memory)] = <[_; 2]>::try_from(engines()).unwrap();
    let (here, there) = (on_disk.keyspace("a").await?, in_memory.keyspace("b").await?);
    let mut nodes = std::collections::BTreeSet::new();
    for number in 0..500u32 {
        let node = here.node_of(format!("{{user{number}}}:name"));
        assert_eq!(node, here.node_of(format!("cart of {{user{number}}}")));
        assert_eq!(node, there.node_of(format!("{{user{number}}}")));
        nodes.insert(node);
    }
    assert_eq!(nodes.len(), on_disk.stats().nodes.len());
    Ok(())
}

#[tokio::test]
async fn counters_of_many_tasks_add_up_and_compare_and_set_excludes() -> Result<()> {
    for (_directory, db) in engines() {
        let ks = db.keyspace("counters").await?;
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let ks = ks.clone();
                tokio::spawn(async move {
                    for _ in 0..25 {
                        ks.add("hot", 2).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(ks.add("hot", 0).await?, 16 * 25 * 2);
        assert!(matches!(
            ks.compare_and_set("new", None, Some(b"1")).await?,
            CompareAndSet::Swapped(_)
        ));
        assert_eq!(
            ks.compare_and_set("new", None, Some(b"2")).await?,
            CompareAndSet::Mismatch(Some("1".into()))
        );
        let updated = ks
            .update("new", |old| Some([old.unwrap_or_default(), b"!"].concat()))
            .await?;
        assert_eq!(updated.as_deref(), Some(&b"1!"[..]));
        assert_eq!(ks.add("new", 1).await, Err(Error::NotACounter { len: 2 }));
        ks.add("edge", i64::MAX).await?;
        assert!(matches!(
            ks.add("edge", 1).await,
            Err(Error::CounterOverflow { .. })
        ));
    }
    Ok(())
}

#[tokio::test]
async fn a_value_with_time_to_live_expires_and_is_gone_after_a_checkpoint() -> Result<()> {
    for (_directory, db) in engines() {
        let ks = db.keyspace("ttl").await?;
        ks.put_with_ttl("gone", "v", Duration::ZERO).await?;
        ks.put_with_ttl("stays", "v", Duration::from_secs(3600))
            .await?;
        assert_eq!(ks.get("gone").await?, None);
        assert!(ks.contains("stays").await?);
        db.checkpoint().await?;
        assert_eq!(ks.scan(..).count().await?, 1);
        assert!(matches!(
            ks.compare_and_set("gone", None, Some(b"back")).await?,
            CompareAndSet::Swapped(_)
        ));
    }
    Ok(())
}

#[tokio::test]
async fn reopening_finds_everything_with_and_without_a_shutdown() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..6u32 {
        let db = Mailring::builder(directory.path()).open().await?;
        let ks = db.keyspace("ks").await?;
        for old in 0..round {
            for number in 0..50u32 {
                let key = [old.to_be_bytes(), number.to_be_bytes()].concat();
                assert_eq!(
                    ks.get(&key).await?.as_deref(),
                    Some(&key[..]),
                    "{old} {number}"
                );
            }
        }
        for number in 0..50u32 {
            let key = [round.to_be_bytes(), number.to_be_bytes()].concat();
            ks.put(&key, &key).await?;
        }
        if round % 3 == 1 {
            db.checkpoint().await?;
        }
        if round % 2 == 0 {
            db.shutdown().await?;
        }
    }
    assert!(Mailring::verify_directory(directory.path())?.tree_keys > 0);
    Ok(())
}

#[tokio::test]
async fn a_dropped_keyspace_is_empty_when_it_is_created_again() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = Mailring::builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("key", "value").await?;
    db.checkpoint().await?;
    ks.put("other", "value").await?;
    db.drop_keyspace("ks").await?;
    assert!(matches!(
        ks.get("key").await,
        Err(Error::KeyspaceNotFound { .. })
    ));
    assert_eq!(db.keyspaces().await?, Vec::<String>::new());
    let again = db.keyspace("ks").await?;
    assert_eq!(again.get("key").await?, None);
    assert_eq!(again.scan(..).count().await?, 0);
    db.shutdown().await?;
    let db = Mailring::builder(directory.path()).open().await?;
    assert_eq!(db.keyspaces().await?, ["ks"]);
    assert_eq!(db.keyspace("ks").await?.scan(..).count().await?, 0);
    Ok(())
}

/// The rows of the old one are in trees, in frozen generations and in the journal when the new one gets its own.
#[tokio::test]
async fn rows_of_a_dropped_keyspace_never_appear_in_a_newer_one_of_its_name() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let open = || common::builder(directory.path()).open();
    let mut db = open().await?;
    for round in 0..3u32 {
        let old = db.keyspace("ks").await?;
        let keys =
            |part: &'static str| (0..100u32).map(move |key| (format!("{part}-{key}"), "old"));
        old.put_many(keys("tree")).await?;
        db.checkpoint().await?;
        old.put_many(keys("journal")).await?;
        // Overwrites hide nothing of it either.
        old.put_many(keys("tree")).await?;
        db.drop_keyspace("ks").await?;
        let new = db.keyspace("ks").await?;
        new.put("journal-7", "new").await?;
        drop((old, new));
        for step in 0..6 {
            let new = db.keyspace("ks").await?;
            let pairs = new.scan(..).collect().await?;
            assert_eq!(pairs.len(), 1, "round {round}, step {step}: {pairs:?}");
            assert_eq!(new.get("journal-7").await?.as_deref(), Some(&b"new"[..]));
            assert_eq!(new.get("tree-7").await?, None);
            assert_eq!(new.get("journal-8").await?, None);
            assert_eq!(db.snapshot()?.get(&new, "tree-8")?, None);
            assert_eq!(db.verify().await?.keys, 1);
            drop(new);
            match step {
                1 | 3 => drop(db.checkpoint().await?),
                // As after a kill, and after a shutdown.
                0 | 2 => {
                    drop(db);
                    db = open().await?;
                }
                _ => {
                    db.shutdown().await?;
                    drop(db);
                    db = open().await?;
                }
            }
        }
        db.drop_keyspace("ks").await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_durability_keeps_what_was_written_when_the_engine_is_dropped() -> Result<()> {
    for durability in [
        Durability::Always,
        Durability::Interval(Duration::from_millis(10)),
        Durability::None,
    ] {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            Mailring::builder(directory.path())
                .durability(durability)
                .checkpoint_bytes(64 << 10)
                .open()
        };
        let db = open().await?;
        let ks = db.keyspace("ks").await?;
        for number in 0..2_000u32 {
            ks.put(number.to_be_bytes(), number.to_le_bytes()).await?;
        }
        drop((ks, db));
        let db = open().await?;
        let ks = db.keyspace("ks").await?;
        for number in 0..2_000u32 {
            let value = ks.get(number.to_be_bytes()).await?;
            assert_eq!(
                value.as_deref(),
                Some(&number.to_le_bytes()[..]),
                "{durability:?}"
            );
        }
        db.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn durability_none_forces_nothing_until_it_has_to() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = Mailring::builder(directory.path())
        .durability(Durability::None)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    for number in 0..100u32 {
        ks.put(number.to_be_bytes(), "v").await?;
    }
    let stats = db.stats();
    assert_eq!(stats.journal_forces, 0);
    assert!(stats.journal_records >= 100);
    Ok(())
}

/// Polls a future once and drops it.
async fn begin(future: impl Future) {
    let mut future = pin!(future);
    poll_fn(|context| {
        // Whatever it says: nobody waits for it.
        let _ = future.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

/// The handle of who dropped it was what kept writes out: with its future gone, writes were acknowledged in a keyspace
/// that the next opening did not find.
#[tokio::test]
async fn a_drop_whose_caller_walks_away_keeps_writes_out_all_the_same() -> Result<()> {
    for (directory, db) in engines() {
        let ks = db.keyspace("ks").await?;
        ks.put("k", "old").await?;
        begin(db.drop_keyspace("ks")).await;
        // What is answered behind the drop has its LSN behind it.
        db.keyspace("another").await?;
        let name = "ks".into();
        let gone = Error::KeyspaceNotFound { name };
        assert_eq!(ks.put("k", "late").await, Err(gone.clone()));
        let txn = db.transaction().begin()?;
        assert_eq!(txn.put(&ks, "k", "late").await, Err(gone));
        let again = db.keyspace("ks").await?;
        assert_eq!(again.get("k").await?, None);
        again.put("k", "new").await?;
        drop((ks, again, txn, db));
        if directory.path().join("MANIFEST").exists() {
            let db = Mailring::builder(directory.path()).open().await?;
            let value = db.keyspace("ks").await?.get("k").await?;
            assert_eq!(value.as_deref(), Some(&b"new"[..]));
        }
    }
    Ok(())
}

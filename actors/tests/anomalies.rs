//! The anomalies that strict serializability excludes, each by its name, as scripts on a running engine of several nodes.
//!
//! | anomaly | what would happen | what keeps it out |
//! |---|---|---|
//! | dirty write | two commits interleave, each wins on one node | one record and one LSN for all nodes |
//! | dirty read | what is not durable, or never comes to be, is read | the visible LSN |
//! | lost update | two read, both write, one write is overwritten unseen | reads are validated and held until the LSN |
//! | read skew | half of a transaction is read before it and half after | one snapshot for all reads |
//! | write skew | two read both keys, each writes one | reads are validated also where nothing is written |
//! | phantom | a key appears in a range that was scanned | ranges are validated as far as they were read |
//! | long fork | two readers see two writers in different orders | one order of LSNs, one snapshot |
//! | stale read | what was acknowledged is not there for who begins later | acknowledged only once it is visible |
//!
//! Adya, *Weak Consistency* (1999), and Berenson and others, *A Critique of ANSI SQL Isolation Levels* (1995), have the
//! definitions. `engine/tests/anomalies.rs` has the same at the level of messages.

mod common;

use common::{Gate, OpensAtTheEnd, builder, keys_of, patiently, text, two_nodes, until};
use mailring::{Committed, Error, FaultSite, Result, Rival};
use std::sync::Arc;

fn is_conflict(result: &Result<Committed>) -> bool {
    matches!(result, Err(Error::Conflict { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dirty_write() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    for round in 0..200 {
        let mut running = Vec::new();
        for writer in ["one", "other"] {
            let txn = db.begin()?;
            let value = format!("{writer} {round}");
            txn.put(&ks, &a, &value).await?;
            txn.put(&ks, &b, &value).await?;
            running.push(tokio::spawn(async move { (value, txn.commit().await) }));
        }
        let mut last = None;
        for commit in running {
            let (value, committed) = patiently(commit).await.unwrap();
            last = last.max(Some((committed?.lsn, value)));
        }
        let (_, value) = last.expect("two have written");
        let snapshot = db.snapshot()?;
        for key in [&a, &b] {
            let found = snapshot.get(&ks, key)?;
            assert_eq!(found.as_deref(), Some(value.as_bytes()), "round {round}");
        }
    }
    Ok(())
}

/// The journal is held up before it writes: nodes 1 and 2 have installed the commit, which nobody may see before it is
/// durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dirty_read() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let _opens = OpensAtTheEnd(Arc::clone(&gate));
    let hook = {
        let gate = Arc::clone(&gate);
        move |site: &FaultSite<'_>| {
            if (site.actor, site.message, site.handled) == ("journal", "Cut", false) {
                gate.pass();
            }
        }
    };
    // The journal has a thread to itself but for node 0, so that the others install while it is held up.
    let db = builder(directory.path()).nodes(3).arbiters(3);
    let db = db.fault_hook(Arc::new(hook)).open().await?;
    let ks = db.keyspace("ks").await?;
    let [a, b] = [1, 2].map(|node| keys_of(&db, &ks, node, 1));
    let [a, b] = [a.await.remove(0), b.await.remove(0)];
    ks.put_many([(&a, "old"), (&b, "old")]).await?;
    let before = db.stats().nodes[1].generation_bytes;
    let txn = db.begin()?;
    txn.put(&ks, &a, "new").await?;
    txn.put(&ks, &b, "new").await?;
    gate.close();
    let commit = tokio::spawn(async move { txn.commit().await });
    until(|| gate.waiting() > 0 && db.stats().nodes[1].generation_bytes > before).await;
    let snapshot = db.snapshot()?;
    for key in [&a, &b] {
        assert_eq!(text(&ks, key).await?.as_deref(), Some("old"));
        assert_eq!(snapshot.get(&ks, key)?.as_deref(), Some(&b"old"[..]));
        let read = db.begin()?.get(&ks, key).await?;
        assert_eq!(read.as_deref(), Some(&b"old"[..]));
    }
    gate.open();
    patiently(commit).await.unwrap()?;
    assert_eq!(text(&ks, &a).await?.as_deref(), Some("new"));
    // Nor what never comes to be: refused on one node, it was staged on the other.
    let refused = db.begin()?;
    refused.get(&ks, &b).await?;
    refused.put(&ks, &a, "never").await?;
    ks.put(&b, "newer").await?;
    assert!(is_conflict(&refused.commit().await));
    assert_eq!(text(&ks, &a).await?.as_deref(), Some("new"));
    Ok(())
}

#[tokio::test]
async fn lost_update() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    for own in [&a, &b] {
        let txn = db.begin()?;
        txn.get(&ks, &a).await?;
        txn.put(&ks, own, "mine").await?;
        let lsn = ks.put(&a, "theirs").await?;
        let Err(Error::Conflict { key, with }) = txn.commit().await else {
            panic!("a lost update");
        };
        assert_eq!(&key[4..], a.as_bytes());
        assert_eq!(with, Rival::Version(lsn));
        assert_eq!(txn.commit().await, Err(Error::TransactionEnded));
        assert_eq!(txn.put(&ks, &a, "late").await, Err(Error::TransactionEnded));
    }
    assert_eq!(text(&ks, &a).await?.as_deref(), Some("theirs"));
    assert_eq!(text(&ks, &b).await?, None);
    let stats = db.stats();
    assert_eq!((stats.aborts, stats.conflicts), (2, 2));
    Ok(())
}

#[tokio::test]
async fn read_skew() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    ks.put_many([(&a, "old"), (&b, "old")]).await?;
    let reader = db.begin()?;
    assert_eq!(reader.get(&ks, &a).await?.as_deref(), Some(&b"old"[..]));
    ks.put_many([(&a, "new"), (&b, "new")]).await?;
    assert_eq!(reader.get(&ks, &b).await?.as_deref(), Some(&b"old"[..]));
    let found = reader.prefix(&ks, "").collect().await?;
    assert!(found.iter().all(|(_, value)| *value == "old"), "{found:?}");
    reader.put(&ks, "seen", "old and old").await?;
    assert!(is_conflict(&reader.commit().await));
    Ok(())
}

/// One after the other, which the newer version refuses, and at once, which the write that is prepared refuses.
#[tokio::test]
async fn write_skew() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    for at_once in [false, true] {
        let (one, other) = (db.begin()?, db.begin()?);
        for txn in [&one, &other] {
            txn.get(&ks, &a).await?;
            txn.get(&ks, &b).await?;
        }
        one.put(&ks, &a, "off").await?;
        other.put(&ks, &b, "off").await?;
        let (one, other) = match at_once {
            true => tokio::join!(one.commit(), other.commit()),
            false => (one.commit().await, other.commit().await),
        };
        assert!(at_once || one.is_ok(), "{one:?}");
        assert!(
            is_conflict(&one) || is_conflict(&other),
            "{one:?} {other:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn phantom() -> Result<()> {
    let (db, ks, [a, _]) = two_nodes().await?;
    ks.put_many([("x1", "v"), ("x5", "v")]).await?;
    let whole = db.begin()?;
    assert_eq!(whole.prefix(&ks, "x").collect().await?.len(), 2);
    whole.put(&ks, &a, "1").await?;
    let first = db.begin()?;
    assert_eq!(first.prefix(&ks, "x").limit(1).collect().await?.len(), 1);
    first.put(&ks, &a, "2").await?;
    ks.put("x3", "phantom").await?;
    assert!(is_conflict(&whole.commit().await));
    first.commit().await?;
    assert_eq!(text(&ks, &a).await?.as_deref(), Some("2"));
    Ok(())
}

#[tokio::test]
async fn long_fork() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    let second = db.begin()?;
    assert_eq!(second.get(&ks, &a).await?, None);
    ks.put(&a, "v").await?;
    let first = db.begin()?;
    assert!(first.get(&ks, &a).await?.is_some());
    assert_eq!(first.get(&ks, &b).await?, None);
    ks.put(&b, "v").await?;
    // For the first reader `a` was written before `b`: for nobody may it be the other way round.
    assert_eq!(second.get(&ks, &b).await?, None);
    for reader in [first, second] {
        reader.put(&ks, "seen", "v").await?;
        assert!(is_conflict(&reader.commit().await));
    }
    Ok(())
}

/// Whoever was told of a commit tells others, who see it, in whatever way they look, on their own threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_read() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    let [a, b] = [0, 1].map(|node| keys_of(&db, &ks, node, 1));
    let [a, b] = [a.await.remove(0), b.await.remove(0)];
    for round in 0..100u32 {
        let value = round.to_string();
        let txn = db.begin()?;
        txn.put(&ks, &a, &value).await?;
        if round % 2 == 0 {
            txn.put(&ks, &b, &value).await?;
        }
        let lsn = txn.commit().await?.lsn;
        let (db, ks, key) = (db.clone(), ks.clone(), a.clone());
        let later = tokio::spawn(async move {
            let began = db.begin()?;
            assert!(began.snapshot_lsn() >= lsn);
            let read = began.get(&ks, &key).await?;
            assert_eq!(read.as_deref(), Some(value.as_bytes()));
            assert_eq!(text(&ks, &key).await?, Some(value.clone()));
            let snapshot = db.snapshot()?.get(&ks, &key)?;
            assert_eq!(snapshot.as_deref(), Some(value.as_bytes()));
            Ok::<_, Error>(())
        });
        patiently(later).await.unwrap()?;
    }
    Ok(())
}

//! Watching: every change once, in LSN order, and a word when some were missed.

mod common;

use common::{builder, patiently};
use mailring::{Lsn, Result, WatchEvent};
use std::collections::{BTreeMap, BTreeSet};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_every_change_once_and_in_the_order_of_commits() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .watch_capacity(100_000)
        .checkpoint_bytes(16 << 10)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let other = db.keyspace("other").await?;
    ks.put("a-before", "v").await?;
    let mut watch = ks.watch("a-").await?;
    let writers: Vec<_> = (0..6)
        .map(|task| {
            let (db, ks, other) = (db.clone(), ks.clone(), other.clone());
            tokio::spawn(async move {
                let mut written = Vec::new();
                for number in 0..40 {
                    let key = format!("a-{task}-{}", number % 7);
                    let value = format!("{number}");
                    if number % 5 == 4 {
                        written.push((ks.delete(&key).await?, key, None));
                    } else {
                        written.push((ks.put(&key, &value).await?, key, Some(value)));
                    }
                    other.put(format!("a-{task}"), "unwatched").await?;
                    ks.put(format!("b-{task}"), "unwatched").await?;
                }
                let mut batch = db.batch();
                batch.put(&ks, format!("a-{{{task}}}-x"), "1");
                batch.put(&ks, format!("a-{{{task}}}-y"), "2");
                batch.commit().await?;
                Ok::<_, mailring::Error>(written)
            })
        })
        .collect();
    let mut expected = BTreeMap::new();
    for writer in writers {
        for (lsn, key, value) in patiently(writer).await.unwrap()? {
            expected.insert((lsn, key), value);
        }
    }
    let (mut last, mut batches) = (watch.since(), BTreeMap::<Lsn, BTreeSet<String>>::new());
    for _ in 0..expected.len() + 2 * 6 {
        match patiently(watch.next()).await {
            Some(WatchEvent::Changed { lsn, key, value }) => {
                assert!(lsn >= last, "{lsn} came after {last}");
                last = lsn;
                let key = String::from_utf8(key.to_vec()).unwrap();
                let value = value.map(|value| String::from_utf8(value.to_vec()).unwrap());
                match expected.remove(&(lsn, key.clone())) {
                    Some(written) => assert_eq!(written, value),
                    None => assert!(batches.entry(lsn).or_default().insert(key)),
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(expected, BTreeMap::new());
    assert_eq!(
        batches.len(),
        6,
        "the parts of a batch on one node share an LSN"
    );
    ks.put("a-last", "v").await?;
    let event = patiently(watch.next()).await;
    assert!(matches!(event, Some(WatchEvent::Changed { key, .. }) if &key[..] == b"a-last"));
    db.shutdown().await?;
    assert_eq!(patiently(watch.next()).await, None);
    Ok(())
}

#[tokio::test]
async fn a_change_is_visible_when_the_watch_tells_of_it() -> Result<()> {
    let db = mailring::Mailring::memory().open().await?;
    let ks = db.keyspace("ks").await?;
    let mut watch = ks.watch("").await?;
    for number in 0..100u32 {
        let writer = tokio::spawn({
            let ks = ks.clone();
            async move { ks.put("key", number.to_string()).await }
        });
        let Some(WatchEvent::Changed { lsn, value, .. }) = patiently(watch.next()).await else {
            panic!("a change is told");
        };
        assert!(db.stats().visible_lsn >= lsn);
        assert_eq!(ks.get("key").await?, value);
        assert_eq!(patiently(writer).await.unwrap()?, lsn);
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_watcher_is_told_that_it_missed_changes_and_gets_the_later_ones() -> Result<()> {
    let db = mailring::Mailring::memory()
        .watch_capacity(4)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let mut watch = ks.watch("").await?;
    for number in 0..50u32 {
        ks.put("key", number.to_string()).await?;
    }
    let missed = match patiently(watch.next()).await {
        Some(WatchEvent::Missed { groups }) => groups,
        other => panic!("{other:?}"),
    };
    let mut told = Vec::new();
    while told.last() != Some(&49) {
        match patiently(watch.next()).await {
            Some(WatchEvent::Changed { value, .. }) => {
                let value = String::from_utf8(value.unwrap().to_vec()).unwrap();
                told.push(value.parse::<u64>().unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    // Each put was a group of its own.
    assert_eq!(told, (missed..50).collect::<Vec<_>>());
    ks.put("key", "again").await?;
    let event = patiently(watch.next()).await;
    assert!(
        matches!(event, Some(WatchEvent::Changed { .. })),
        "{event:?}"
    );
    Ok(())
}

/// The value's first byte, or how many groups were missed.
fn seen(event: Option<WatchEvent>) -> std::result::Result<u8, u64> {
    match event {
        Some(WatchEvent::Changed { value, .. }) => Ok(value.expect("a value")[0]),
        Some(WatchEvent::Missed { groups }) => Err(groups),
        None => panic!("the engine is open"),
    }
}

/// With a budget of 32 MiB the caches have 16, requests 4, open transactions 2; an eighth of the rest is for watches.
#[tokio::test]
async fn a_watcher_that_never_reads_has_a_share_of_the_memory_and_one_that_keeps_up_misses_nothing()
-> Result<()> {
    const SHARE: usize = (10 << 20) / 8;
    let db = mailring::Mailring::memory()
        .memory_budget(32 << 20)
        .open()
        .await?;
    let (ks, other) = (db.keyspace("ks").await?, db.keyspace("other").await?);
    let (mut slow, mut fast) = (ks.watch("").await?, ks.watch("").await?);
    let elsewhere = other.watch("").await?;
    for number in 0..100 {
        ks.put("key", vec![number; 64 << 10]).await?;
        assert_eq!(seen(patiently(fast.next()).await), Ok(number));
        let kept = db.stats().watch_bytes;
        assert!(kept <= SHARE, "{kept} bytes after {number}");
    }
    let kept = db.stats().watch_bytes;
    assert!(
        kept > SHARE / 2,
        "{kept}: no more is given up than is needed"
    );
    // One that is larger than the share is kept until the next one comes.
    ks.put("key", vec![100; 3 << 20]).await?;
    assert!(db.stats().watch_bytes > 3 << 20);
    assert_eq!(seen(patiently(fast.next()).await), Ok(100));
    ks.put("key", vec![101; 1]).await?;
    assert!(db.stats().watch_bytes < 1 << 10);
    assert_eq!(seen(patiently(fast.next()).await), Ok(101));
    assert_eq!(seen(patiently(slow.next()).await), Err(101));
    assert_eq!(seen(patiently(slow.next()).await), Ok(101));
    ks.put("key", vec![102; 1]).await?;
    assert_eq!(seen(patiently(slow.next()).await), Ok(102));
    drop((slow, fast, elsewhere));
    assert_eq!(db.stats().watch_bytes, 0);
    Ok(())
}

#[tokio::test]
async fn a_watch_begins_where_it_was_asked_for() -> Result<()> {
    let db = mailring::Mailring::memory().open().await?;
    let ks = db.keyspace("ks").await?;
    for round in 0..20u32 {
        // The last watcher is gone before the next one comes: nobody watches in between.
        let before = ks.put("key", "before").await?;
        let mut watch = ks.watch("key").await?;
        assert!(watch.since() >= before);
        let lsn = ks.put("key", round.to_string()).await?;
        match patiently(watch.next()).await {
            Some(WatchEvent::Changed { lsn: told, .. }) => assert_eq!(told, lsn),
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

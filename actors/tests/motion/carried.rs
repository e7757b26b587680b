//! What goes with a key: its history, its time to live, who watches it, what was committed under an idempotency key, and the
//! lock of the key.

use crate::{
    common::{OpensAtTheEnd, patiently, until},
    world::{Stop, builder, check_still, check_whole, fill, node},
};
use mailring::{ChangeEnd, Error, Mailring, Once, Result, Transaction};
use std::{sync::Arc, time::Duration};

/// So many keys that some of them are among the third that moves to a third node.
async fn some_keys(db: &Mailring, count: usize) -> Result<Vec<String>> {
    let ks = db.keyspace("ks").await?;
    let keys: Vec<_> = (0..count).map(|number| format!("mover-{number}")).collect();
    for key in &keys {
        ks.put(key, "before").await?;
    }
    Ok(keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_before_reads_the_state_of_before() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(2).open().await?;
    let ks = fill(&db).await?;
    let keys = some_keys(&db, 50).await?;
    let snapshot = db.snapshot()?;
    let txn = db.transaction().read_only().begin()?;
    assert_eq!(
        patiently(db.nodes().add(1).await?.wait()).await?,
        ChangeEnd::Completed
    );
    assert!(
        keys.iter().any(|key| ks.node_of(key) == node(2)),
        "some have moved"
    );
    for key in &keys {
        ks.put(key, "after").await?;
    }
    ks.delete(&keys[0]).await?;
    db.checkpoint().await?;
    for key in &keys {
        assert_eq!(snapshot.get(&ks, key)?.as_deref(), Some(&b"before"[..]));
        assert_eq!(txn.get(&ks, key).await?.as_deref(), Some(&b"before"[..]));
    }
    let seen = snapshot.prefix(&ks, "mover-").collect().await?;
    assert_eq!(seen.len(), keys.len());
    assert!(seen.iter().all(|(_, value)| value == "before"));
    let now = ks.prefix("mover-").collect().await?;
    assert_eq!(now.len(), keys.len() - 1);
    assert!(now.iter().all(|(_, value)| value == "after"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_every_change_once_over_a_move() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(2).open().await?;
    let ks = fill(&db).await?;
    let mut watch = ks.watch("seen-").await?;
    let change = db.nodes().add(1).await?;
    let mut written = 0_u32;
    while change.is_under_way() || written < 50 {
        ks.put(format!("seen-{written:05}"), "value").await?;
        written += 1;
    }
    assert_eq!(change.wait().await?, ChangeEnd::Completed);
    for number in 0..written {
        match patiently(watch.next()).await {
            Some(mailring::WatchEvent::Changed { key, .. }) => {
                assert_eq!(key, format!("seen-{number:05}").as_bytes());
            }
            other => panic!("{other:?} in place of {number}"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn times_to_live_go_on_over_a_move() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(2).open().await?;
    let ks = fill(&db).await?;
    let soon = Duration::from_millis(300);
    for number in 0..40 {
        ks.put_with_ttl(format!("short-{number}"), "value", soon)
            .await?;
        ks.put_with_ttl(format!("long-{number}"), "value", Duration::from_secs(3600))
            .await?;
    }
    assert_eq!(
        patiently(db.nodes().add(1).await?.wait()).await?,
        ChangeEnd::Completed
    );
    for number in 0..40 {
        assert!(ks.contains(format!("long-{number}")).await?);
    }
    patiently(async {
        while ks.prefix("short-").count().await.expect("scans work") > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for number in 0..40 {
        assert!(!ks.contains(format!("short-{number}")).await?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_under_a_key_stays_committed_over_a_move() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(2).open().await?;
    let ks = fill(&db).await?;
    let once = async |key: String| {
        let body = async |txn: Transaction| txn.add(&ks, format!("once-{key}"), 1).await;
        db.transaction().idempotency_key(&key).run(body).await
    };
    for number in 0..20 {
        assert!(matches!(once(number.to_string()).await?, Once::Ran(1)));
    }
    assert_eq!(
        patiently(db.nodes().add(1).await?.wait()).await?,
        ChangeEnd::Completed
    );
    for number in 0..20 {
        assert!(matches!(once(number.to_string()).await?, Once::Before(_)));
        let counter = ks.get(format!("once-{number}")).await?;
        assert_eq!(counter.as_deref(), Some(&1_i64.to_le_bytes()[..]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_key_stays_locked_over_a_move() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(2).open().await?;
    let ks = fill(&db).await?;
    let holder = db.begin()?;
    holder.get_for_update(&ks, "account-00").await?;
    assert_eq!(
        patiently(db.nodes().add(1).await?.wait()).await?,
        ChangeEnd::Completed
    );
    let next = tokio::spawn({
        let (db, ks) = (db.clone(), ks.clone());
        async move {
            let body = async |txn: Transaction| {
                let value = txn.get_for_update(&ks, "account-00").await?;
                txn.put(&ks, "account-00", value.expect("it is there"))
                    .await
            };
            db.transact(body).await
        }
    });
    let waits = || async { !db.locks().list().await.expect("locks").is_empty() };
    assert!(waits().await);
    assert!(!next.is_finished(), "the key is locked");
    holder.rollback();
    patiently(next).await.expect("it ended well")?;
    check_whole(&db, &ks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_from_before_a_cut_is_told_to_retry_and_nothing_of_it_is_written()
-> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(2).open().await?;
    let ks = fill(&db).await?;
    let keys = some_keys(&db, 30).await?;
    let begun: Vec<_> = keys.iter().map(|_| db.begin()).collect::<Result<_>>()?;
    for (txn, key) in begun.iter().zip(&keys) {
        txn.get(&ks, key).await?;
        txn.put(&ks, key, "by a late one").await?;
    }
    assert_eq!(
        patiently(db.nodes().add(1).await?.wait()).await?,
        ChangeEnd::Completed
    );
    let mut moved = 0;
    for (txn, key) in begun.iter().zip(&keys) {
        let is_moved = ks.node_of(key) == node(2);
        match txn.commit().await {
            Ok(_) => assert!(!is_moved, "{key} has another owner"),
            Err(error) => {
                let retry = matches!(error, Error::Moved { .. } | Error::Conflict { .. });
                assert!(retry && error.is_retryable(), "{error:?}");
                assert_eq!(ks.get(key).await?.as_deref(), Some(&b"before"[..]));
                moved += 1;
            }
        }
    }
    assert!(moved > 0, "some keys have moved");
    Ok(())
}

/// Nobody waits for the vote of a node that is not there any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_over_a_node_that_has_left_is_told_so_by_name() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(3).open().await?;
    let ks = fill(&db).await?;
    let of = |wanted| {
        let mut keys = (0..400).map(|number| format!("still-{number:03}"));
        let key = keys.find(|key| ks.node_of(key) == node(wanted));
        key.expect("each node has some")
    };
    let (stays, leaves) = (of(0), of(2));
    let late = db.begin()?;
    late.put(&ks, &stays, "late").await?;
    late.put(&ks, &leaves, "late").await?;
    assert_eq!(
        patiently(db.nodes().remove(node(2)).await?.wait()).await?,
        ChangeEnd::Completed
    );
    let error = patiently(late.commit()).await.unwrap_err();
    assert_eq!(error, Error::Moved { node: node(2) });
    check_still(&ks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_never_stop_and_a_write_waits_only_for_the_cut() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let stop = Stop::new();
    let _opens = OpensAtTheEnd(Arc::clone(&stop.gate));
    let db = builder(directory.path())
        .nodes(2)
        .arbiters(8)
        .fault_hook(stop.hook())
        .open()
        .await?;
    let ks = fill(&db).await?;
    let keys = some_keys(&db, 30).await?;
    // Its answer is held up, so the source is frozen for these arcs until then.
    stop.close_at("router", "HandedOver");
    let change = db.nodes().add(1).await?;
    stop.until_held_up().await;
    for key in &keys {
        assert_eq!(ks.get(key).await?.as_deref(), Some(&b"before"[..]));
    }
    let writes: Vec<_> = keys
        .iter()
        .cloned()
        .map(|key| {
            let ks = ks.clone();
            tokio::spawn(async move { ks.put(&key, "after").await })
        })
        .collect();
    // Who is not concerned is answered all the same.
    until(|| writes.iter().any(|write| write.is_finished())).await;
    stop.open();
    for write in writes {
        patiently(write).await.expect("it ended well")?;
    }
    assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
    for key in &keys {
        assert_eq!(ks.get(key).await?.as_deref(), Some(&b"after"[..]));
    }
    check_whole(&db, &ks).await
}

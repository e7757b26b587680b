//! Where transactions meet a bound: full queues, memory, keyspaces that go, keys that expire, an engine that stops.

mod common;

use common::{Gate, OpensAtTheEnd, builder, keys_of, patiently, until, until_idle};
use mailring::{Error, FaultSite, Keyspace, Mailring, Once, Result, Transaction};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// A key of each of the first two nodes.
async fn key_of_each(db: &Mailring, ks: &Keyspace) -> [String; 2] {
    [
        keys_of(db, ks, 0, 1).await.remove(0),
        keys_of(db, ks, 1, 1).await.remove(0),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_of_the_coordinator_answers_overloaded_and_forgets_nothing_that_it_took()
-> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let _opens = OpensAtTheEnd(Arc::clone(&gate));
    let hook = {
        let gate = Arc::clone(&gate);
        move |site: &FaultSite<'_>| {
            if (site.actor, site.message, site.handled) == ("coordinator", "Commit", false) {
                gate.pass();
            }
        }
    };
    let db = builder(directory.path()).mailbox_capacity(3);
    let db = db.fault_hook(Arc::new(hook)).open().await?;
    let ks = db.keyspace("ks").await?;
    let [a, b] = key_of_each(&db, &ks).await;
    let begin = async |number: usize| {
        let txn = db.begin()?;
        txn.put(&ks, format!("{{{a}}}{number}"), "v").await?;
        txn.put(&ks, format!("{{{b}}}{number}"), "v").await?;
        Ok::<_, Error>(txn)
    };
    gate.close();
    let mut taken = Vec::new();
    for number in 0..3 {
        let txn = begin(number).await?;
        let before = db.stats().in_flight_bytes;
        taken.push(tokio::spawn(async move { txn.commit().await }));
        until(|| db.stats().in_flight_bytes > before).await;
    }
    let refused = begin(3).await?.commit().await.unwrap_err();
    assert!(matches!(refused, Error::Overloaded { .. }), "{refused}");
    gate.open();
    for commit in taken {
        patiently(commit).await.unwrap()?;
    }
    assert_eq!(ks.scan(..).count().await?, 6);
    until_idle(&db).await;
    assert_eq!(db.stats().transaction_bytes, 0);
    Ok(())
}

/// Both have been told that there was none before, and both commit: the later decision gets the earlier one's outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_transactions_that_run_at_once_under_one_key_one_is_carried_out() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let hook = {
        let asked = Arc::clone(&asked);
        move |site: &FaultSite<'_>| {
            if (site.actor, site.message, site.handled) == ("journal", "Asks", false) {
                asked.fetch_add(1, SeqCst);
            }
        }
    };
    let db = builder(directory.path()).fault_hook(Arc::new(hook));
    let db = db.open().await?;
    let ks = db.keyspace("ks").await?;
    let [a, b] = key_of_each(&db, &ks).await;
    for round in 0..20 {
        let both = Arc::new(tokio::sync::Barrier::new(2));
        let running = [0, 1].map(|task| {
            let (db, ks, both) = (db.clone(), ks.clone(), Arc::clone(&both));
            let keys = [format!("{{{a}}}{round}"), format!("{{{b}}}{round}")];
            tokio::spawn(async move {
                let order = db.transaction().idempotency_key(format!("order-{round}"));
                let body = async |txn: Transaction| {
                    both.wait().await;
                    for key in &keys {
                        txn.put(&ks, format!("{key}-{task}"), "v").await?;
                    }
                    Ok(txn.snapshot_lsn())
                };
                order.run(body).await
            })
        });
        let [one, other] = running;
        let one = patiently(one).await.unwrap()?;
        let other = patiently(other).await.unwrap()?;
        let lsn = match (&one, &other) {
            (Once::Ran(_), Once::Before(lsn)) | (Once::Before(lsn), Once::Ran(_)) => *lsn,
            _ => panic!("round {round}: {one:?}, {other:?}"),
        };
        assert!(lsn <= db.stats().visible_lsn);
        assert_eq!(ks.scan(..).count().await?, 2 * (round + 1));
    }
    assert_eq!(asked.load(SeqCst), 0, "the answer says it all");
    Ok(())
}

#[tokio::test]
async fn what_a_transaction_writes_with_a_time_to_live_expires() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    let [a, b] = key_of_each(&db, &ks).await;
    let txn = db.begin()?;
    let (hour, moment) = (Duration::from_secs(3600), Duration::from_millis(20));
    txn.put_with_ttl(&ks, &a, 1i64.to_le_bytes(), moment)
        .await?;
    txn.put_with_ttl(&ks, &b, "kept", hour).await?;
    let overdue = txn.get(&ks, &a).await?;
    // An addition keeps the time; on a slow machine the counter has begun anew, and then has none.
    let kept_time = txn.add(&ks, &a, 1).await? == 2;
    assert!(overdue.is_some() || !kept_time);
    let expired = Duration::ZERO;
    txn.put_with_ttl(&ks, "never", "seen", expired).await?;
    assert_eq!(txn.get(&ks, "never").await?, None);
    let scanned = txn.prefix(&ks, "never").collect().await?;
    assert!(scanned.is_empty());
    txn.commit().await?;
    assert_eq!(ks.get("never").await?, None);
    if kept_time {
        patiently(async {
            while ks.contains(&a).await.unwrap() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert_eq!(ks.get(&b).await?.as_deref(), Some(&b"kept"[..]));
    Ok(())
}

#[tokio::test]
async fn open_transactions_share_a_part_of_the_memory_budget_and_give_it_back() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).memory_budget(32 << 20);
    let db = db.open().await?;
    let ks = db.keyspace("ks").await?;
    let value = vec![7; 1 << 20];
    let mut open = Vec::new();
    let refused = loop {
        let txn = db.begin()?;
        match txn.put(&ks, "key", &value).await {
            Ok(()) => open.push(txn),
            Err(error) => break error,
        }
        assert!(open.len() < 32, "nobody counts them");
    };
    assert!(matches!(refused, Error::Overloaded { .. }), "{refused}");
    assert!(refused.is_retryable());
    assert!(db.stats().transaction_bytes >= open.len() << 20);
    ks.put("others", "go on").await?;
    let last = open.pop().expect("one fits");
    last.commit().await?;
    let next = db.begin()?;
    next.put(&ks, "other key", &value).await?;
    drop((open, next));
    assert_eq!(
        db.stats().transaction_bytes,
        0,
        "also while one is kept that has ended"
    );
    // Alone, a transaction may be as large as one may be.
    let large = db.begin()?;
    for number in 0..9 {
        large.put(&ks, number.to_string(), &value).await?;
    }
    large.commit().await?;
    assert_eq!(db.stats().transaction_bytes, 0);
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_has_ended_holds_no_generation() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("large", vec![7; 1 << 20]).await?;
    let ended = [db.begin()?, db.begin()?, db.begin()?];
    for txn in &ended {
        assert!(txn.get(&ks, "large").await?.is_some());
    }
    patiently(db.checkpoint()).await?;
    assert!(db.stats().generation_bytes > 1 << 20);
    ended[0].put(&ks, "other", "v").await?;
    ended[0].commit().await?;
    ended[1].rollback();
    ended[2].commit().await?;
    assert!(db.stats().generation_bytes < 1 << 20);
    assert!(ended[0].snapshot_lsn() < db.stats().visible_lsn);
    Ok(())
}

#[tokio::test]
async fn a_commit_into_a_keyspace_that_was_dropped_meanwhile_is_refused_as_a_whole() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let (ks, gone) = (db.keyspace("ks").await?, db.keyspace("gone").await?);
    let (writer, reader, looker) = (db.begin()?, db.begin()?, db.begin()?);
    writer.put(&gone, "key", "v").await?;
    writer.put(&ks, "key", "v").await?;
    reader.get(&gone, "key").await?;
    reader.put(&ks, "key", "v").await?;
    looker.get(&gone, "key").await?;
    db.drop_keyspace("gone").await?;
    for txn in [writer, reader] {
        let refused = txn.commit().await.unwrap_err();
        assert!(
            matches!(refused, Error::KeyspaceNotFound { .. }),
            "{refused}"
        );
    }
    looker.commit().await?;
    assert_eq!(ks.get("key").await?, None);
    Ok(())
}

/// A snapshot keeps all generations, so that no checkpoint makes room for who waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_memory_is_told_when_the_engine_is_shut_down() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).memory_budget(32 << 20);
    let db = db.open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("first", "v").await?;
    let snapshot = db.snapshot()?;
    let puts: Vec<_> = (0..64)
        .map(|number| {
            let ks = ks.clone();
            tokio::spawn(async move { ks.put(number.to_string(), vec![7; 1 << 20]).await })
        })
        .collect();
    until(|| db.stats().generation_bytes > 8 << 20).await;
    patiently(db.shutdown()).await?;
    let mut closed = 0;
    for put in puts {
        match patiently(put).await.unwrap() {
            Ok(_) | Err(Error::Unknown { .. }) => {}
            Err(Error::Closed) => closed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(closed > 0, "there was no room for all");
    drop(snapshot);
    Ok(())
}

//! Transactions over nodes, seen from the handle.

mod common;

use common::{Gate, OpensAtTheEnd, builder, patiently, text, two_nodes, until, until_idle};
use mailring::{
    Error, FaultSite, Keyspace, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_KEYS, Mailring, Once,
    Result, Transaction, TxnOutcome, WatchEvent,
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

#[tokio::test]
async fn a_commit_over_nodes_is_there_as_a_whole_at_one_lsn_and_nothing_is_before() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    let txn = db.begin()?;
    txn.put(&ks, &a, "1").await?;
    txn.put(&ks, &b, "1").await?;
    assert_eq!((text(&ks, &a).await?, text(&ks, &b).await?), (None, None));
    let committed = txn.commit().await?;
    assert_eq!(committed.txn, txn.id());
    assert!(!committed.repeated);
    assert_eq!(db.snapshot()?.lsn(), committed.lsn);
    assert_eq!(text(&ks, &a).await?.as_deref(), Some("1"));
    assert_eq!(text(&ks, &b).await?.as_deref(), Some("1"));
    let stats = db.stats();
    assert_eq!((stats.commits, stats.aborts, stats.prepared), (1, 0, 0));
    Ok(())
}

#[tokio::test]
async fn a_transaction_reads_its_own_writes_and_else_its_snapshot() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    ks.put_many([("x1", "old"), ("x3", "old"), ("x5", "old")])
        .await?;
    ks.put(&a, "old").await?;
    let txn = db.begin()?;
    ks.put(&a, "newer").await?;
    ks.put("x2", "newer").await?;
    let get = async |key: &str| {
        let value = txn.get(&ks, key).await?;
        Ok::<_, Error>(value.map(|value| String::from_utf8(value.to_vec()).unwrap()))
    };
    assert_eq!(get(&a).await?.as_deref(), Some("old"));
    assert_eq!(get(&b).await?, None);
    txn.put(&ks, &b, "own").await?;
    txn.put(&ks, "x4", "own").await?;
    txn.put(&ks, "x5", "own").await?;
    txn.delete(&ks, "x1").await?;
    assert_eq!(get(&b).await?.as_deref(), Some("own"));
    let found = txn.prefix(&ks, "x").collect().await?;
    let found: Vec<_> = found.iter().map(|(k, v)| (&k[..], &v[..])).collect();
    assert_eq!(
        found,
        [(&b"x3"[..], &b"old"[..]), (b"x4", b"own"), (b"x5", b"own")]
    );
    assert_eq!(txn.scan(&ks, "x4"..).limit(1).collect().await?.len(), 1);
    let many = txn.get_many(&ks, ["x1", "x3", "x4"]).await?;
    assert_eq!(many.iter().flatten().count(), 2);
    assert_eq!(txn.add(&ks, "counter", 2).await?, 2);
    assert_eq!(txn.add(&ks, "counter", 3).await?, 5);
    Ok(())
}

/// The bank in small: every transfer reads and writes two accounts; whoever looks sees the same total.
#[test]
fn transfers_of_eight_threads_lose_nothing_and_every_snapshot_adds_up() -> Result<()> {
    const ACCOUNTS: u64 = 8;
    const TRANSFERS: u64 = 40;
    let db = common::tuned(Mailring::memory()).nodes(4).open_blocking()?;
    let blocking = db.blocking();
    let ks = blocking.keyspace("accounts")?;
    for account in 0..ACCOUNTS {
        ks.add(account.to_string(), 100)?;
    }
    let total = |pairs: Vec<(bytes::Bytes, bytes::Bytes)>| {
        let balances = pairs
            .iter()
            .map(|(_, balance)| i64::from_le_bytes(balance[..].try_into().expect("a counter")));
        balances.sum::<i64>()
    };
    let is_over = AtomicBool::new(false);
    let audits = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8u64)
            .map(|client| {
                let (blocking, ks) = (&blocking, &ks);
                scope.spawn(move || {
                    for number in 0..TRANSFERS {
                        let from = (client * 7 + number * 3) % ACCOUNTS;
                        let to = (from + 1 + number % (ACCOUNTS - 1)) % ACCOUNTS;
                        let moved = blocking.transaction().deadline(Duration::from_secs(60));
                        let moved = moved.run_blocking(|txn| {
                            txn.add(ks, from.to_string(), -1)?;
                            txn.add(ks, to.to_string(), 1)?;
                            txn.add(ks, "moved", 0).map(drop)
                        });
                        moved.expect("the deadline is far");
                    }
                })
            })
            .collect();
        let auditor = scope.spawn(|| {
            while !is_over.load(SeqCst) {
                let pairs: Result<Vec<_>> = ks.scan(..).iter().collect();
                assert_eq!(total(pairs.unwrap()), 100 * ACCOUNTS as i64);
                audits.fetch_add(1, SeqCst);
            }
        });
        for client in clients {
            client.join().expect("no client has failed");
        }
        is_over.store(true, SeqCst);
        auditor.join().expect("every audit adds up");
    });
    assert!(audits.load(SeqCst) > 0);
    let stats = db.stats();
    assert_eq!(stats.commits, 8 * TRANSFERS);
    assert_eq!((stats.prepared, stats.parked, stats.committing), (0, 0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_is_run_again_until_it_succeeds_or_the_deadline_has_come() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    let attempts = AtomicUsize::new(0);
    let sum = db
        .transact(async |txn| {
            let attempt = attempts.fetch_add(1, SeqCst);
            let sum = txn.add(&ks, &a, 1).await?;
            txn.put(&ks, &b, "v").await?;
            if attempt < 3 {
                ks.add(&a, 10).await?;
            }
            Ok(sum)
        })
        .await?;
    assert_eq!((sum, attempts.load(SeqCst)), (31, 4));
    assert_eq!(db.stats().retries, 3);
    let always = db.transaction().deadline(Duration::from_millis(50));
    let always = always.run(async |txn| {
        txn.add(&ks, &a, 1).await?;
        ks.add(&a, 1).await?;
        txn.put(&ks, &b, "v").await
    });
    let error = patiently(always).await.unwrap_err();
    assert!(
        matches!(error, Error::Conflict { .. } | Error::DeadlineExceeded),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_savepoint_takes_back_writes_and_the_rest_is_committed() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    let txn = db.begin()?;
    txn.put(&ks, &a, "kept").await?;
    let savepoint = txn.savepoint()?;
    txn.put(&ks, &a, "gone").await?;
    txn.put(&ks, &b, "gone").await?;
    txn.rollback_to(savepoint)?;
    assert_eq!(txn.get(&ks, &a).await?.as_deref(), Some(&b"kept"[..]));
    txn.commit().await?;
    assert_eq!(text(&ks, &a).await?.as_deref(), Some("kept"));
    assert_eq!(text(&ks, &b).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_is_dropped_or_rolled_back_leaves_nothing() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    let before = db.stats().visible_lsn;
    let dropped = db.begin()?;
    dropped.put(&ks, &a, "x").await?;
    dropped.put(&ks, &b, "x").await?;
    let clone = dropped.clone();
    drop(dropped);
    assert_eq!(clone.get(&ks, &a).await?.as_deref(), Some(&b"x"[..]));
    drop(clone);
    let refused = db
        .transact(async |txn| {
            txn.put(&ks, &a, "x").await?;
            Err::<(), _>(Error::EmptyKey)
        })
        .await;
    assert_eq!(refused, Err(Error::EmptyKey));
    let rolled_back = db
        .transact(async |txn| {
            txn.put(&ks, &a, "x").await?;
            txn.rollback();
            Ok(7)
        })
        .await?;
    assert_eq!(rolled_back, 7);
    assert_eq!(text(&ks, &a).await?, None);
    let stats = db.stats();
    assert_eq!((stats.visible_lsn, stats.commits), (before, 0));
    assert_eq!((stats.prepared, stats.in_flight_bytes), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_commit_whose_future_is_dropped_is_carried_out_or_not_but_never_half() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    for number in 0..50u32 {
        let txn = db.begin()?;
        txn.put(&ks, &a, number.to_string()).await?;
        txn.put(&ks, &b, number.to_string()).await?;
        {
            let mut commit = Box::pin(txn.commit());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            for _ in 0..=number % 3 {
                if commit.as_mut().poll(&mut context).is_ready() {
                    break;
                }
            }
        }
        let outcome = db.outcome(txn.id()).await?;
        let snapshot = db.snapshot()?;
        let is_there = snapshot.get(&ks, &a)? == Some(number.to_string().into());
        assert_eq!(snapshot.get(&ks, &a)?, snapshot.get(&ks, &b)?, "half");
        assert_eq!(is_there, matches!(outcome, TxnOutcome::Committed(_)));
    }
    until(|| db.stats().prepared == 0).await;
    until_idle(&db).await;
    Ok(())
}

#[tokio::test]
async fn a_read_only_transaction_never_conflicts_and_writes_nothing() -> Result<()> {
    let (db, ks, [a, _]) = two_nodes().await?;
    ks.put(&a, "1").await?;
    let txn = db.transaction().read_only().begin()?;
    ks.put(&a, "2").await?;
    assert_eq!(txn.get(&ks, &a).await?.as_deref(), Some(&b"1"[..]));
    assert_eq!(txn.prefix(&ks, "").collect().await?.len(), 1);
    let refused = txn.put(&ks, &a, "3").await.unwrap_err();
    assert!(matches!(refused, Error::InvalidOption { .. }), "{refused}");
    let records = db.stats().journal_records;
    assert_eq!(txn.commit().await?.lsn, txn.snapshot_lsn());
    assert_eq!(db.stats().journal_records, records);
    Ok(())
}

#[tokio::test]
async fn an_idempotency_key_answers_the_first_outcome_also_after_reopening() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    let order = async |db: &Mailring, ks: &Keyspace| {
        let order = db.transaction().idempotency_key("order-1");
        order
            .run(async |txn: Transaction| txn.add(ks, "sum", 5).await)
            .await
    };
    assert_eq!(order(&db, &ks).await?, Once::Ran(5));
    let Once::Before(lsn) = order(&db, &ks).await? else {
        panic!("it was carried out twice");
    };
    // Two that run at once: the later decision gets the earlier one's outcome.
    let txn = db.transaction().idempotency_key("order-1").begin()?;
    txn.put(&ks, "other", "v").await?;
    let repeated = txn.commit().await?;
    assert_eq!((repeated.lsn, repeated.repeated), (lsn, true));
    assert_eq!(db.outcome(txn.id()).await?, TxnOutcome::Aborted);
    drop((txn, ks));
    db.shutdown().await?;
    drop(db);
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(order(&db, &ks).await?, Once::Before(lsn));
    assert_eq!(ks.add("sum", 0).await?, 5);
    assert_eq!(ks.get("other").await?, None);
    Ok(())
}

#[tokio::test]
async fn an_outcome_is_definite_also_after_reopening() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    let mut outcomes = Vec::new();
    for keys in [&["a"][..], &["a", "b", "c", "d", "e", "f"]] {
        let txn = db.begin()?;
        for key in keys {
            txn.put(&ks, key, "v").await?;
        }
        let committed = txn.commit().await?;
        outcomes.push((txn.id(), TxnOutcome::Committed(committed.lsn)));
    }
    let asked = db.begin()?;
    asked.put(&ks, "never", "v").await?;
    outcomes.push((asked.id(), TxnOutcome::Aborted));
    for (txn, outcome) in &outcomes {
        assert_eq!(db.outcome(*txn).await?, *outcome);
    }
    // Who was told "aborted" was told the truth.
    let refused = asked.commit().await;
    assert!(matches!(refused, Err(Error::Aborted { .. })), "{refused:?}");
    drop((asked, ks, db));
    let db = builder(directory.path()).open().await?;
    for (txn, outcome) in &outcomes {
        assert_eq!(db.outcome(*txn).await?, *outcome);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_beyond_the_limits_is_refused_and_the_transaction_goes_on() -> Result<()> {
    let (db, ks, [a, _]) = two_nodes().await?;
    let refusal = |len, limit, unit| Err(Error::TransactionTooLarge { len, limit, unit });
    let txn = db.begin()?;
    let rest = MAX_TRANSACTION_BYTES - a.len() - "more".len();
    txn.put(&ks, &a, vec![0; rest]).await?;
    txn.put(&ks, "more", "").await?;
    let (len, limit) = (MAX_TRANSACTION_BYTES + 1, MAX_TRANSACTION_BYTES);
    let refused = refusal(len, limit, "bytes");
    assert_eq!(txn.put(&ks, "more", "1").await, refused);
    assert_eq!(txn.get(&ks, "x").await.map(drop), refused);
    patiently(txn.commit()).await?;
    assert_eq!(ks.get(&a).await?.map(|value| value.len()), Some(rest));
    let txn = db.begin()?;
    for number in 0..MAX_TRANSACTION_KEYS {
        txn.put(&ks, (number as u32).to_be_bytes(), "").await?;
    }
    let (len, limit) = (MAX_TRANSACTION_KEYS + 1, MAX_TRANSACTION_KEYS);
    let refused = refusal(len, limit, "keys");
    assert_eq!(txn.get(&ks, &a).await.map(drop), refused);
    assert_eq!(txn.put(&ks, &a, "").await, refused);
    patiently(txn.commit()).await?;
    assert_eq!(ks.scan(..).count().await?, 100_002);
    let long = db.transaction().deadline(Duration::from_secs(61)).begin();
    assert!(matches!(long, Err(Error::InvalidOption { .. })));
    for key in ["", &"k".repeat(257)] {
        let keyed = db.transaction().idempotency_key(key).begin();
        assert!(matches!(keyed, Err(Error::InvalidOption { .. })));
    }
    Ok(())
}

#[tokio::test]
async fn past_its_deadline_a_transaction_does_nothing() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    let txn = db.transaction().deadline(Duration::from_nanos(1)).begin()?;
    let refused = Err(Error::DeadlineExceeded);
    assert_eq!(txn.put(&ks, &a, "v").await, refused);
    assert_eq!(txn.get(&ks, &b).await.map(drop), refused);
    assert_eq!(txn.commit().await.map(drop), refused);
    Ok(())
}

#[tokio::test]
async fn a_watch_sees_one_change_a_commit_with_all_its_keys() -> Result<()> {
    let (db, ks, [a, b]) = two_nodes().await?;
    let mut watch = ks.watch("").await?;
    let txn = db.begin()?;
    txn.put(&ks, &a, "1").await?;
    txn.put(&ks, &b, "1").await?;
    let committed = txn.commit().await?;
    let mut batch = db.batch();
    batch.put(&ks, &a, "2").put(&ks, &b, "2");
    batch.commit().await?;
    let mut seen = Vec::new();
    for _ in 0..4 {
        match patiently(watch.next()).await {
            Some(WatchEvent::Changed { lsn, key, .. }) => seen.push((lsn, key)),
            other => panic!("{other:?}"),
        }
    }
    let (first, second) = (seen[0].0, seen[2].0);
    assert_eq!(first, committed.lsn);
    assert!(second > first);
    for pair in seen.chunks(2) {
        assert_eq!(pair[0].0, pair[1].0);
        let keys: BTreeSet<_> = pair.iter().map(|(_, key)| key.to_vec()).collect();
        assert_eq!(keys.len(), 2);
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_over_nodes_is_one_record() -> Result<()> {
    let db = common::tuned(Mailring::memory()).nodes(4).open().await?;
    let ks = db.keyspace("ks").await?;
    let before = db.stats();
    ks.put_many((0..1_000u32).map(|number| (number.to_string(), "v")))
        .await?;
    let after = db.stats();
    assert_eq!(after.journal_records, before.journal_records + 1);
    assert_eq!(ks.scan(..).count().await?, 1_000);
    assert_eq!((after.prepared, after.committing), (0, 0));
    Ok(())
}

/// The disk is held up while transactions commit: at the end everybody has an answer, and none is half there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shutdown_answers_every_transaction_that_runs() -> Result<()> {
    let gate = Gate::new();
    let _opens = OpensAtTheEnd(Arc::clone(&gate));
    let hook = {
        let gate = Arc::clone(&gate);
        move |site: &FaultSite<'_>| {
            if (site.actor, site.message, site.handled) == ("coordinator", "Votes", false) {
                gate.pass();
            }
        }
    };
    let db = common::tuned(Mailring::memory())
        .nodes(2)
        .fault_hook(Arc::new(hook));
    let db = db.open().await?;
    let ks = db.keyspace("ks").await?;
    gate.close();
    let running: Vec<_> = (0..8)
        .map(|task| {
            let (db, ks) = (db.clone(), ks.clone());
            tokio::spawn(async move {
                db.transact(async |txn| {
                    for key in 0..8 {
                        txn.add(&ks, format!("{key}"), 1).await?;
                    }
                    txn.put(&ks, format!("task-{task}"), "v").await
                })
                .await
            })
        })
        .collect();
    until(|| gate.waiting() > 0).await;
    let shutdown = {
        let db = db.clone();
        tokio::spawn(async move { db.shutdown().await })
    };
    until(|| matches!(db.begin(), Err(Error::Closed))).await;
    gate.open();
    patiently(shutdown).await.unwrap()?;
    for task in running {
        let result = patiently(task).await.unwrap();
        assert!(
            matches!(
                result,
                Ok(()) | Err(Error::Unknown { .. } | Error::Closed | Error::Conflict { .. })
            ),
            "{result:?}"
        );
    }
    Ok(())
}

/// Two threads at one transaction. What lies between looking at its state and taking it is too short for this to meet it
/// reliably: it checks who is told what.
#[test]
fn of_two_clones_that_commit_at_once_one_is_carried_out_and_the_other_is_told() -> Result<()> {
    let db = common::tuned(Mailring::memory()).nodes(2).open_blocking()?;
    let ks = db.blocking().keyspace("ks")?;
    for round in 0..2_000u32 {
        let txn = db.blocking().begin()?;
        txn.put(&ks, "key", round.to_string())?;
        let both = std::sync::Barrier::new(2);
        let commit = || {
            both.wait();
            txn.commit()
        };
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(commit);
            (commit(), one.join().expect("it has not panicked"))
        });
        let ended = [&one, &other].map(|result| *result == Err(Error::TransactionEnded));
        assert!(ended[0] != ended[1], "{one:?} {other:?}");
        assert!(one.is_ok() || other.is_ok());
    }
    Ok(())
}

/// Forward, backward and as a sorted list: the same pairs, whatever the transaction has written or removed.
#[tokio::test]
async fn a_reverse_scan_is_a_scan_from_its_other_end_also_of_own_writes() -> Result<()> {
    let (db, ks, _) = two_nodes().await?;
    let key = |number: u32| format!("{number:03}");
    ks.put_many((0..60).step_by(2).map(|number| (key(number), "old")))
        .await?;
    let txn = db.begin()?;
    for number in (0..60).step_by(3) {
        txn.put(&ks, key(number), "own").await?;
    }
    for number in (0..60).step_by(5) {
        txn.delete(&ks, key(number)).await?;
    }
    ks.put(key(1), "newer").await?;
    for (low, high) in [(0, 60), (7, 43), (10, 11), (30, 30), (40, 20)] {
        let range = || key(low)..key(high);
        let forward = txn.scan(&ks, range()).collect().await?;
        let mut backward = txn.scan(&ks, range()).reverse().collect().await?;
        backward.reverse();
        assert_eq!(forward, backward);
        let expected =
            (low..high).filter(|number| number % 5 > 0 && (number % 2 == 0 || number % 3 == 0));
        let found = forward.iter().map(|(key, _)| key.to_vec());
        assert!(found.eq(expected.map(|number| key(number).into_bytes())));
    }
    let last = txn.prefix(&ks, "0").reverse().limit(2).collect().await?;
    assert_eq!(
        last,
        [
            (key(58).into(), "old".into()),
            (key(57).into(), "own".into())
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_reverse_scan_conflicts_as_far_as_it_was_read() -> Result<()> {
    let (db, ks, [a, _]) = two_nodes().await?;
    ks.put_many([("x1", "v"), ("x5", "v"), ("x7", "v")]).await?;
    let begin = async |pairs| {
        let txn = db.begin()?;
        let found = txn
            .prefix(&ks, "x")
            .reverse()
            .limit(pairs)
            .collect()
            .await?;
        assert!(found.len() <= pairs && found[0].0 == "x7");
        txn.put(&ks, &a, "v").await?;
        Ok::<_, Error>(txn)
    };
    let (before, at, whole) = (begin(1).await?, begin(2).await?, begin(9).await?);
    ks.put("x6", "phantom").await?;
    before.commit().await?;
    assert!(matches!(at.commit().await, Err(Error::Conflict { .. })));
    assert!(matches!(whole.commit().await, Err(Error::Conflict { .. })));
    let (at, whole) = (begin(2).await?, begin(9).await?);
    ks.put("x0", "phantom").await?;
    at.commit().await?;
    assert!(matches!(whole.commit().await, Err(Error::Conflict { .. })));
    Ok(())
}

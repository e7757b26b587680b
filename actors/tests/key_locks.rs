//! Keys locked ahead by transactions: turns instead of conflicts, deadlocks with named locks, and nobody left behind.

mod common;

use common::{
    Gate, OpensAtTheEnd, Trap, builder, keys_of, patiently, quick_restarts, tuned, until,
};
use mailring::{
    Builder, Error, FaultSite, Keyspace, LockInfo, Mailring, Resource, Result, SessionId,
    Transaction,
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

fn memory() -> Builder {
    tuned(Mailring::memory()).nodes(2)
}

async fn opened(builder: Builder) -> Result<(Mailring, Keyspace)> {
    let db = builder.open().await?;
    let ks = db.keyspace("ks").await?;
    Ok((db, ks))
}

fn number(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |bytes| {
        std::str::from_utf8(bytes).unwrap().parse().unwrap()
    })
}

/// Returns when so many requests wait for locks.
async fn until_waiting(db: &Mailring, count: usize) -> Result<()> {
    loop {
        let locks = db.locks().list().await?;
        if locks.iter().map(|lock| lock.waiters.len()).sum::<usize>() == count {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

async fn until_no_locks(db: &Mailring) -> Result<()> {
    while !db.locks().list().await?.is_empty() {
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn is_conflict<T>(outcome: &Result<T>) -> bool {
    matches!(outcome, Err(Error::Conflict { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_tasks_change_one_hot_key_in_turns_and_none_conflicts() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let (db, ks) = opened(builder(directory.path())).await?;
    let runs = Arc::new(AtomicUsize::new(0));
    let (tasks, rounds) = (64_u32, 5);
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let (db, ks, runs) = (db.clone(), ks.clone(), Arc::clone(&runs));
            tokio::spawn(async move {
                for _ in 0..rounds {
                    let body = async |txn: Transaction| {
                        runs.fetch_add(1, SeqCst);
                        let before = txn.get_for_update(&ks, "hot").await?;
                        let next = number(before.as_deref()) + 1;
                        txn.put(&ks, "hot", next.to_string()).await
                    };
                    db.transact(body).await?;
                }
                Result::Ok(())
            })
        })
        .collect();
    for task in running {
        patiently(task).await.unwrap()?;
    }
    let total = u64::from(tasks * rounds);
    assert_eq!(number(ks.get("hot").await?.as_deref()), total);
    assert_eq!(runs.load(SeqCst) as u64, total, "nothing was run again");
    until_no_locks(&db).await
}

/// On one node and over two: the next holder reads what the one before has committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gets_the_lock_reads_at_a_snapshot_behind_the_commit_before() -> Result<()> {
    let (db, ks) = opened(memory()).await?;
    let [a, b] = [keys_of(&db, &ks, 0, 1).await, keys_of(&db, &ks, 1, 1).await];
    for keys in [[&a[0], &a[0]], [&a[0], &b[0]]] {
        let first = db.begin()?;
        let second = db.begin()?;
        let old = second.snapshot_lsn();
        first.get_for_update(&ks, keys[0]).await?;
        let waiting = {
            let (second, ks, key) = (second.clone(), ks.clone(), keys[0].clone());
            tokio::spawn(async move { second.get_for_update(&ks, key).await })
        };
        until_waiting(&db, 1).await?;
        for key in keys {
            first.put(&ks, key, "first").await?;
        }
        let committed = first.commit().await?;
        let seen = patiently(waiting).await.unwrap()?;
        assert_eq!(seen.as_deref(), Some(&b"first"[..]));
        assert!(second.snapshot_lsn() >= committed.lsn && committed.lsn > old);
        second.put(&ks, keys[0], "second").await?;
        second.commit().await?;
        ks.delete(keys[0]).await?;
    }
    until_no_locks(&db).await
}

#[tokio::test]
async fn what_was_read_before_must_be_the_same_behind_the_lock() -> Result<()> {
    let (db, ks) = opened(memory()).await?;
    ks.put("read", "old").await?;
    ks.put("range-1", "old").await?;
    let changed = |key: &'static str| {
        let ks = &ks;
        async move { ks.put(key, "new").await.map(drop) }
    };

    let txn = db.begin()?;
    txn.get(&ks, "read").await?;
    txn.prefix(&ks, "range-").collect().await?;
    changed("other").await?;
    assert_eq!(
        txn.get_for_update(&ks, "other").await?.as_deref(),
        Some(&b"new"[..])
    );
    assert_eq!(txn.get(&ks, "read").await?.as_deref(), Some(&b"old"[..]));
    changed("read").await?;
    let outcome = txn.get_for_update(&ks, "locked").await;
    assert!(is_conflict(&outcome), "{outcome:?}");
    txn.rollback();

    let txn = db.begin()?;
    txn.prefix(&ks, "range-").collect().await?;
    changed("range-2").await?;
    let outcome = txn.get_for_update(&ks, "locked").await;
    assert!(is_conflict(&outcome), "a phantom: {outcome:?}");
    txn.rollback();

    // A lock does not keep out who does not ask for it; validation does.
    let txn = db.begin()?;
    txn.get_for_update(&ks, "locked").await?;
    changed("locked").await?;
    txn.put(&ks, "locked", "mine").await?;
    assert!(is_conflict(&txn.commit().await));
    until_no_locks(&db).await
}

#[tokio::test]
async fn a_scan_goes_on_at_the_snapshot_behind_the_lock() -> Result<()> {
    let (db, ks) = opened(memory()).await?;
    for key in ["s-1", "s-3", "s-5"] {
        ks.put(key, "old").await?;
    }
    let txn = db.begin()?;
    let mut scan = txn.scan(&ks, "s-1"..);
    let (first, _) = scan.next().await?.unwrap();
    assert_eq!(&first[..], b"s-1");
    ks.put("s-4", "new").await?;
    ks.put("s-5", "new").await?;
    txn.get_for_update(&ks, "locked").await?;
    let mut rest = Vec::new();
    while let Some((key, value)) = scan.next().await? {
        rest.push((key, value));
    }
    let pair = |key: &'static str, value: &'static str| (key.into(), value.into());
    let expected = [pair("s-3", "old"), pair("s-4", "new"), pair("s-5", "new")];
    assert_eq!(rest, expected);
    txn.put(&ks, "locked", "v").await?;
    txn.commit().await?;

    let txn = db.begin()?;
    let mut scan = txn.scan(&ks, "s-1"..);
    scan.next().await?;
    ks.put("s-1", "new").await?;
    assert!(is_conflict(&txn.get_for_update(&ks, "locked").await));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_released_by_a_rollback_a_drop_and_a_refused_commit() -> Result<()> {
    let (db, ks) = opened(memory()).await?;
    let lock = || async {
        let txn = db.begin()?;
        patiently(txn.get_for_update(&ks, "key")).await?;
        txn.get_for_update(&ks, "key").await?;
        Result::Ok(txn)
    };
    let txn = lock().await?;
    let listed = db.locks().list().await?;
    assert_eq!(
        listed[0].holders[0].session,
        SessionId::Transaction(txn.id())
    );
    assert_eq!(listed[0].holders[0].lease_left, None);
    assert!(matches!(listed[0].resource, Resource::Key(_)));
    txn.rollback();
    drop(lock().await?);
    lock().await?.commit().await?;
    let refused = lock().await?;
    ks.put("key", "v").await?;
    refused.put(&ks, "key", "mine").await?;
    assert!(is_conflict(&refused.commit().await));

    let holder = lock().await?;
    let waiter = db.begin()?;
    let waiting = {
        let (waiter, ks) = (waiter.clone(), ks.clone());
        tokio::spawn(async move { waiter.get_for_update(&ks, "key").await })
    };
    until_waiting(&db, 1).await?;
    waiter.rollback();
    drop(waiter);
    // Nobody tells a wait that was ended by another clone but who holds the key.
    drop(holder);
    let ended = patiently(waiting).await.unwrap().unwrap_err();
    assert_eq!(ended, Error::TransactionEnded);
    let holder = lock().await?;
    let dropped = tokio::spawn({
        let (txn, ks) = (db.begin()?, ks.clone());
        async move { txn.get_for_update(&ks, "key").await }
    });
    until_waiting(&db, 1).await?;
    dropped.abort();
    until_waiting(&db, 0).await?;
    drop(holder);
    until_no_locks(&db).await
}

#[tokio::test]
async fn a_wait_for_a_key_ends_at_the_transaction_s_deadline() -> Result<()> {
    let (db, ks) = opened(memory()).await?;
    let holder = db.begin()?;
    holder.get_for_update(&ks, "key").await?;
    let short = db.transaction().deadline(Duration::from_millis(50));
    let outcome = patiently(short.begin()?.get_for_update(&ks, "key")).await;
    assert!(
        matches!(
            outcome,
            Err(Error::LockTimeout {
                resource: Resource::Key(_)
            })
        ),
        "{outcome:?}"
    );
    let read_only = db.transaction().read_only().begin()?;
    let refused = read_only.get_for_update(&ks, "key").await.unwrap_err();
    assert!(matches!(
        refused,
        Error::InvalidOption {
            option: "read_only",
            ..
        }
    ));
    Ok(())
}

#[test]
fn plain_threads_take_turns_too() -> Result<()> {
    let db = memory().open_blocking()?;
    let db = db.blocking();
    let ks = db.keyspace("ks")?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let changed = db.transact(|txn| {
                        let before = txn.get_for_update(&ks, "hot")?;
                        let next = number(before.as_deref()) + 1;
                        txn.put(&ks, "hot", next.to_string())
                    });
                    changed.expect("it commits");
                }
            });
        }
    });
    assert_eq!(number(ks.get("hot")?.as_deref()), 80);
    Ok(())
}

/// The younger of two that lock the same keys in opposite orders is refused, and `transact` runs it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_over_keys_refuses_the_younger_and_transact_runs_it_again() -> Result<()> {
    let (db, ks) = opened(memory()).await?;
    let older = db.begin()?;
    older.get_for_update(&ks, "a").await?;
    let runs = Arc::new(AtomicUsize::new(0));
    let younger = tokio::spawn({
        let (db, ks, runs) = (db.clone(), ks.clone(), Arc::clone(&runs));
        async move {
            let body = async |txn: Transaction| {
                runs.fetch_add(1, SeqCst);
                txn.get_for_update(&ks, "b").await?;
                txn.get_for_update(&ks, "a").await?;
                txn.put(&ks, "b", "younger").await
            };
            db.transact(body).await
        }
    });
    until_waiting(&db, 1).await?;
    patiently(older.get_for_update(&ks, "b")).await?;
    older.put(&ks, "b", "older").await?;
    older.commit().await?;
    patiently(younger).await.unwrap()?;
    assert!(runs.load(SeqCst) >= 2);
    assert_eq!(ks.get("b").await?.as_deref(), Some(&b"younger"[..]));

    let older = db.begin()?;
    let younger = db.begin()?;
    older.get_for_update(&ks, "a").await?;
    younger.get_for_update(&ks, "b").await?;
    let waiting = tokio::spawn({
        let (older, ks) = (older.clone(), ks.clone());
        async move { older.get_for_update(&ks, "b").await }
    });
    until_waiting(&db, 1).await?;
    let error = patiently(younger.get_for_update(&ks, "a"))
        .await
        .unwrap_err();
    let Error::Deadlock { cycle } = &error else {
        panic!("{error}")
    };
    let sessions: Vec<_> = cycle.iter().map(|step| step.session).collect();
    let expected = [younger.id(), older.id()].map(SessionId::Transaction);
    assert_eq!(sessions, expected);
    drop(younger);
    patiently(waiting).await.unwrap()?;
    drop(older);
    until_no_locks(&db).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_of_a_named_lock_and_a_key_is_found_in_a_session() -> Result<()> {
    let (db, ks) = opened(memory()).await?;
    let locks = db.locks();
    let (older, younger) = (locks.session(), locks.session());
    let named = older.lock("till").await?;
    let txn = db.transaction().session(&younger).begin()?;
    txn.get_for_update(&ks, "key").await?;
    let waiting = tokio::spawn(younger.lock("till").acquire());
    until_waiting(&db, 1).await?;
    let runs = AtomicUsize::new(0);
    let body = async |txn: Transaction| {
        runs.fetch_add(1, SeqCst);
        txn.get_for_update(&ks, "key").await.map(drop)
    };
    let granted = tokio::spawn({
        let (db, ks) = (db.clone(), ks.clone());
        let txn = db.transaction().session(&older).begin()?;
        async move { txn.get_for_update(&ks, "key").await }
    });
    let error = patiently(waiting).await.unwrap().unwrap_err();
    let Error::Deadlock { cycle } = &error else {
        panic!("{error}")
    };
    assert_eq!(cycle.len(), 2);
    assert_eq!(
        (cycle[0].session, cycle[1].session),
        (younger.id(), older.id())
    );
    assert!(!granted.is_finished());
    drop(txn);
    patiently(granted).await.unwrap()?;
    drop(named);
    until_no_locks(&db).await?;

    // The transaction is the younger: running it again can't help while its session has the named lock.
    let (older, younger) = (locks.session(), locks.session());
    let holder = db.transaction().session(&older).begin()?;
    holder.get_for_update(&ks, "key").await?;
    let named = younger.lock("till").await?;
    let waiting = tokio::spawn(older.lock("till").acquire());
    until_waiting(&db, 1).await?;
    let refused = patiently(db.transaction().session(&younger).run(body)).await;
    assert!(
        matches!(refused, Err(Error::Deadlock { .. })),
        "{refused:?}"
    );
    assert_eq!(runs.load(SeqCst), 1);
    drop(named);
    drop(patiently(waiting).await.unwrap()?);

    let elsewhere = memory().open().await?;
    let refused = elsewhere.transaction().session(&older).begin().unwrap_err();
    assert!(matches!(
        refused,
        Error::InvalidOption {
            option: "session",
            ..
        }
    ));
    Ok(())
}

/// A key that was granted and lost before its transaction was woken: it heard of a lost lock, as the owner of a guard does,
/// which nobody tries again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lost_before_its_transaction_was_woken_is_a_restart() -> Result<()> {
    let trap = Trap::new();
    let (db, ks) = opened(memory().fault_hook(trap.hook())).await?;
    let (one, other) = (db.transaction().begin()?, db.transaction().begin()?);
    one.get_for_update(&ks, "k").await?;
    let mut waits = pin!(other.get_for_update(&ks, "k"));
    poll_fn(|context| {
        assert!(waits.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    one.rollback();
    let granted = SessionId::Transaction(other.id());
    let is_granted = |locks: &[LockInfo]| {
        let mut holders = locks.iter().flat_map(|lock| &lock.holders);
        holders.any(|holder| holder.session == granted)
    };
    while !is_granted(&db.locks().list().await?) {
        tokio::task::yield_now().await;
    }
    trap.set("locks", None, "Acquire", false, 0, 1);
    let refused = db.locks().try_lock("another").await;
    assert_eq!(refused.map(drop), Err(Error::LockManagerRestarted));
    // Requests are told in any order: who lists the locks of the next life comes behind all of that.
    until_no_locks(&db).await?;
    assert_eq!(waits.await, Err(Error::LockManagerRestarted));
    Ok(())
}

/// Validation keeps the promise when a panic has lost the locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_lock_manager_loses_keys_and_no_update() -> Result<()> {
    let trap = Trap::new();
    let (db, ks) = opened(memory().fault_hook(trap.hook())).await?;
    let first = db.begin()?;
    let before = number(first.get_for_update(&ks, "key").await?.as_deref());
    let waiting = tokio::spawn({
        let (txn, ks) = (db.begin()?, ks.clone());
        async move { txn.get_for_update(&ks, "key").await }
    });
    until_waiting(&db, 1).await?;
    trap.set("locks", None, "Acquire", false, 0, 1);
    let body = async |txn: Transaction| {
        let before = txn.get_for_update(&ks, "key").await?;
        let next = number(before.as_deref()) + 1;
        txn.put(&ks, "key", next.to_string()).await
    };
    patiently(db.transact(body)).await?;
    assert_eq!(trap.sprung(), 1);
    let lost = patiently(waiting).await.unwrap().unwrap_err();
    assert_eq!(lost, Error::LockManagerRestarted);
    first.put(&ks, "key", (before + 1).to_string()).await?;
    assert!(is_conflict(&first.commit().await));
    patiently(db.transact(body)).await?;
    assert_eq!(number(ks.get("key").await?.as_deref()), 2);
    until_no_locks(&db).await
}

#[tokio::test]
async fn where_the_lock_manager_is_down_no_key_is_locked_and_the_rest_goes_on() -> Result<()> {
    let trap = Trap::new();
    let policy = quick_restarts(0);
    let (db, ks) = opened(memory().restart_policy(policy).fault_hook(trap.hook())).await?;
    trap.set("locks", None, "Acquire", false, 0, 1);
    let txn = db.begin()?;
    for _ in 0..2 {
        let down = patiently(txn.get_for_update(&ks, "key")).await.unwrap_err();
        assert_eq!(down, Error::LockManagerDown);
    }
    txn.put(&ks, "key", "v").await?;
    txn.commit().await?;
    Ok(())
}

/// The journal stands before the commit's force: the key is not handed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_handed_on_only_when_the_commit_is_visible() -> Result<()> {
    let gate = Gate::new();
    let _opens = OpensAtTheEnd(Arc::clone(&gate));
    let stop = Arc::clone(&gate);
    let hook = Arc::new(move |site: &FaultSite<'_>| {
        if (site.actor, site.message, site.handled) == ("journal", "Cut", false) {
            stop.pass();
        }
    });
    let builder = tuned(Mailring::memory()).nodes(1).arbiters(2);
    let (db, ks) = opened(builder.fault_hook(hook)).await?;
    let txn = db.begin()?;
    txn.get_for_update(&ks, "key").await?;
    txn.put(&ks, "key", "v").await?;
    gate.close();
    let commit = tokio::spawn(async move { txn.commit().await });
    until(|| gate.waiting() == 1).await;
    let next = tokio::spawn({
        let (next, ks) = (db.begin()?, ks.clone());
        async move { next.get_for_update(&ks, "key").await }
    });
    until_waiting(&db, 1).await?;
    assert!(!next.is_finished() && !commit.is_finished());
    gate.open();
    let seen = patiently(next).await.unwrap()?;
    assert_eq!(seen.as_deref(), Some(&b"v"[..]));
    patiently(commit).await.unwrap().map(drop)
}

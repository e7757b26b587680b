//! Writes under a fence: refused inside their commit when the token is not the holder's any more.

mod common;

use common::{
    Gate, OpensAtTheEnd, Trap, builder, keys_of, patiently, quick_restarts, tuned, until,
};
use mailring::{
    Builder, Error, FaultSite, FencingToken, Keyspace, LockGuard, Mailring, Once, Result,
};
use std::{sync::Arc, time::Duration};

/// Longer than what a slow machine needs for a write, and short enough to be waited for.
const SHORT: Duration = Duration::from_secs(1);

/// The lock manager has a thread of its own.
fn memory() -> Builder {
    tuned(Mailring::memory()).nodes(1).arbiters(2)
}

fn stale(guard: &LockGuard) -> Error {
    Error::StaleFence {
        lock: guard.name().to_owned(),
        token: guard.token(),
    }
}

/// A write to each of the keys, if the guard holds its lock.
async fn write(db: &Mailring, ks: &Keyspace, keys: &[String], guard: &LockGuard) -> Result<()> {
    let by = guard.token().to_string();
    let (by, keys) = (&by, &keys);
    let body = |txn: mailring::Transaction| async move {
        for key in *keys {
            txn.put(ks, key, by).await?;
        }
        Ok(())
    };
    patiently(db.transaction().fence(guard).run(body)).await
}

/// Kleppmann, "How to do distributed locking", 2016: a holder is paused past its lease, a second holder writes, and then
/// the first one writes.
#[tokio::test]
async fn kleppmann_s_paused_holder_can_not_write_behind_the_next_one() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("files").await?;
    // On both nodes, and on one.
    let both = [keys_of(&db, &ks, 0, 1).await, keys_of(&db, &ks, 1, 1).await].concat();
    for keys in [&both[..], &both[..1]] {
        let lock = db.locks().lock("file").lease(SHORT).renewed_by_hand();
        let paused = patiently(lock.acquire()).await?;
        write(&db, &ks, keys, &paused).await?;
        patiently(paused.lost()).await;

        let refused = write(&db, &ks, keys, &paused).await.unwrap_err();
        assert_eq!(refused, stale(&paused), "nobody holds it");
        let next = db.locks().lock("file").await?;
        write(&db, &ks, keys, &next).await?;
        let refused = write(&db, &ks, keys, &paused).await.unwrap_err();
        assert_eq!(refused, stale(&paused));
        assert!(!refused.is_retryable());
        let mut late = db.batch();
        late.put(&ks, &keys[0], "late").fence(&paused);
        assert_eq!(patiently(late.commit()).await.unwrap_err(), stale(&paused));

        let token = next.token().to_string();
        for key in keys {
            assert_eq!(ks.get(key).await?.as_deref(), Some(token.as_bytes()));
        }
    }
    until(|| db.stats().prepared == 0).await;
    Ok(())
}

#[tokio::test]
async fn what_only_reads_under_a_fence_is_refused_behind_the_next_holder_too() -> Result<()> {
    let db = memory().open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("key", "value").await?;
    let guard = db.locks().lock("a").await?;
    let read = async |txn: mailring::Transaction| txn.get(&ks, "key").await;
    let read_by =
        async |guard: &LockGuard| patiently(db.transaction().fence(guard).run(read)).await;
    assert_eq!(read_by(&guard).await?.as_deref(), Some(&b"value"[..]));
    let late = db.begin()?;
    late.get(&ks, "key").await?;
    late.fence(&guard)?;
    let error = stale(&guard);
    drop(guard);
    let next = patiently(db.locks().lock("a").acquire()).await?;
    assert_eq!(patiently(late.commit()).await, Err(error));
    assert!(read_by(&next).await?.is_some());
    assert_eq!(db.stats().prepared, 0);
    Ok(())
}

#[tokio::test]
async fn a_batch_of_one_write_can_carry_a_fence_and_a_token_can_come_from_elsewhere() -> Result<()>
{
    let db = memory().open().await?;
    let ks = db.keyspace("ks").await?;
    let guard = db.locks().lock("a").await?;
    let mut batch = db.batch();
    batch.put(&ks, "key", "1").fence(&guard);
    patiently(batch.commit()).await?;

    let token = FencingToken(guard.token().0);
    let mut batch = db.batch();
    batch.put(&ks, "key", "2").fence_token("a", token);
    patiently(batch.commit()).await?;
    drop(guard);
    let body = async |txn: mailring::Transaction| {
        txn.put(&ks, "key", "3").await?;
        txn.fence_token("a", token)
    };
    let late = patiently(db.transact(body)).await.unwrap_err();
    let lock = "a".to_owned();
    assert_eq!(late, Error::StaleFence { lock, token });
    assert_eq!(ks.get("key").await?.as_deref(), Some(&b"2"[..]));
    Ok(())
}

#[test]
fn a_plain_thread_writes_under_a_fence() -> Result<()> {
    let db = memory().open_blocking()?;
    let db = db.blocking();
    let ks = db.keyspace("ks")?;
    let guard = db.locks().lock("a").acquire_blocking()?;
    let txn = db.begin()?;
    txn.put(&ks, "key", "v")?;
    txn.fence(&guard)?;
    txn.fence_token("a", guard.token())?;
    txn.commit()?;
    let late = db.begin()?;
    late.put(&ks, "key", "late")?;
    late.fence(&guard)?;
    let error = stale(&guard);
    drop(guard);
    assert_eq!(late.commit().unwrap_err(), error);
    Ok(())
}

#[tokio::test]
async fn all_of_several_fences_must_hold() -> Result<()> {
    let db = memory().open().await?;
    let ks = db.keyspace("ks").await?;
    let (one, other) = (
        db.locks().lock("a").shared().await?,
        db.locks().lock("b").await?,
    );
    let body = async |txn: mailring::Transaction| txn.put(&ks, "key", "v").await;
    let both = db.transaction().fence(&one).fence(&other);
    patiently(both.clone().run(body)).await?;
    let error = stale(&other);
    drop(other);
    assert_eq!(patiently(both.run(body)).await.unwrap_err(), error);
    drop(one);
    let next = patiently(db.locks().lock("a").acquire()).await?;
    assert!(next.is_held(), "nothing was kept");
    Ok(())
}

/// While the journal stands between a decision and its force, the guard is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_handed_on_only_when_the_commit_under_it_is_visible() -> Result<()> {
    let gate = Gate::new();
    let _opens = OpensAtTheEnd(Arc::clone(&gate));
    let stop = Arc::clone(&gate);
    let hook = Arc::new(move |site: &FaultSite<'_>| {
        if (site.actor, site.message, site.handled) == ("journal", "Cut", false) {
            stop.pass();
        }
    });
    let db = memory().fault_hook(hook).open().await?;
    let ks = db.keyspace("ks").await?;
    let guard = db.locks().lock("a").await?;
    gate.close();
    let mut batch = db.batch();
    batch.put(&ks, "key", "before").fence(&guard);
    let commit = tokio::spawn(batch.commit());
    until(|| gate.waiting() == 1).await;
    drop(guard);
    let next = tokio::spawn(db.locks().lock("a").acquire());
    loop {
        let locks = db.locks().list().await?;
        let lock = &locks[0];
        assert_eq!((locks.len(), lock.holders[0].fences), (1, 1), "it is kept");
        if (lock.holders[0].guards, lock.waiters.len()) == (0, 1) {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(!next.is_finished() && !commit.is_finished());
    gate.open();
    let _next = patiently(next).await.unwrap()?;
    assert_eq!(ks.get("key").await?.as_deref(), Some(&b"before"[..]));
    patiently(commit).await.unwrap()
}

/// The vote is on its way to the coordinator when the lock manager panics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_of_a_lock_manager_that_has_panicked_since_counts_for_nothing() -> Result<()> {
    let (gate, trap) = (Gate::new(), Trap::new());
    let _opens = OpensAtTheEnd(Arc::clone(&gate));
    let (stop, sprung) = (Arc::clone(&gate), trap.hook());
    let hook = Arc::new(move |site: &FaultSite<'_>| {
        sprung(site);
        if (site.actor, site.message, site.handled) == ("coordinator", "FenceVotes", false) {
            stop.pass();
        }
    });
    let db = memory().fault_hook(hook).open().await?;
    let ks = db.keyspace("ks").await?;
    let lock = db.locks().lock("a").lease(SHORT);
    let guard = patiently(lock.acquire()).await?;
    gate.close();
    let mut batch = db.batch();
    batch.put(&ks, "key", "late").fence(&guard);
    let commit = tokio::spawn(batch.commit());
    until(|| gate.waiting() == 1).await;
    trap.set("locks", None, "Acquire", false, 0, 1);
    let panicked = patiently(db.locks().try_lock("b")).await.unwrap_err();
    assert_eq!(panicked, Error::LockManagerRestarted);
    let shut = patiently(db.locks().try_lock("b")).await.unwrap_err();
    assert!(matches!(shut, Error::LockBusy { .. }), "{shut}");
    // By that answer the journal has been told of the new life.
    gate.open();
    let refused = patiently(commit).await.unwrap().unwrap_err();
    assert_eq!(refused, Error::LockLost);
    assert_eq!(ks.get("key").await?, None);
    let next = patiently(db.locks().lock("a").acquire()).await?;
    assert!(next.token() > guard.token());
    let mut batch = db.batch();
    batch.put(&ks, "key", "next").fence(&next);
    patiently(batch.commit()).await?;
    let mut batch = db.batch();
    batch.put(&ks, "key", "late").fence(&guard);
    assert_eq!(patiently(batch.commit()).await.unwrap_err(), stale(&guard));
    Ok(())
}

#[tokio::test]
async fn a_lock_manager_that_panics_at_the_question_votes_no() -> Result<()> {
    for handled in [false, true] {
        let trap = Trap::new();
        let db = memory().fault_hook(trap.hook()).open().await?;
        let ks = db.keyspace("ks").await?;
        let lock = db.locks().lock("a").lease(SHORT);
        let guard = patiently(lock.acquire()).await?;
        trap.set("locks", None, "PrepareFence", handled, 0, 1);
        let mut batch = db.batch();
        batch.put(&ks, "key", "v").fence(&guard);
        let refused = patiently(batch.commit()).await.unwrap_err();
        assert_eq!(refused, Error::LockLost, "handled: {handled}");
        assert!(!guard.is_held());
        assert_eq!(ks.get("key").await?, None);
        ks.put("key", "free").await?;
    }
    Ok(())
}

#[tokio::test]
async fn where_the_lock_manager_is_down_nothing_is_written_under_a_fence() -> Result<()> {
    let trap = Trap::new();
    let db = memory()
        .restart_policy(quick_restarts(0))
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let guard = db.locks().lock("a").await?;
    trap.set("locks", None, "Acquire", false, 0, 1);
    let down = patiently(db.locks().try_lock("b")).await.unwrap_err();
    assert_eq!(down, Error::LockManagerDown);
    let mut batch = db.batch();
    batch.put(&ks, "key", "v").fence(&guard);
    assert_eq!(patiently(batch.commit()).await, Err(down));
    ks.put("key", "free").await?;
    Ok(())
}

#[tokio::test]
async fn a_token_of_before_a_restart_of_the_process_is_refused() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    let token = db.locks().lock("a").await?.token();
    let guard = db.locks().lock("b").await?;
    let mut batch = db.batch();
    batch.put(&ks, "key", "first").fence(&guard);
    batch.commit().await?;
    db.shutdown().await?;
    drop((guard, ks, db));

    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    let guard = patiently(db.locks().lock("a").acquire()).await?;
    assert!(guard.token() > token);
    let mut late = db.batch();
    late.put(&ks, "key", "late").fence_token("a", token);
    let lock = "a".to_owned();
    assert_eq!(late.commit().await, Err(Error::StaleFence { lock, token }));
    let mut batch = db.batch();
    batch.put(&ks, "other", "v").fence(&guard);
    batch.commit().await?;
    assert_eq!(ks.get("key").await?.as_deref(), Some(&b"first"[..]));
    Ok(())
}

#[tokio::test]
async fn a_repetition_gets_the_first_outcome_whatever_has_become_of_the_lock() -> Result<()> {
    let db = memory().open().await?;
    let ks = &db.keyspace("ks").await?;
    let guard = db.locks().lock("a").await?;
    let token = guard.token();
    let body = |txn: mailring::Transaction| async move { txn.put(ks, "key", "v").await };
    let once = db.transaction().idempotency_key("order-7");
    let once = once.fence(&guard);
    assert_eq!(once.clone().run(body).await?, Once::Ran(()));
    drop(guard);
    assert!(matches!(once.run(body).await?, Once::Before(_)));
    let other = db.transaction().idempotency_key("order-8");
    let refused = other.fence_token("a", token).run(body).await;
    assert!(matches!(refused, Err(Error::StaleFence { .. })));
    Ok(())
}

#[tokio::test]
async fn what_can_t_be_a_fence_is_refused_with_a_clear_word() -> Result<()> {
    let db = memory().open().await?;
    let ks = db.keyspace("ks").await?;
    let guard = db.locks().lock("a").await?;
    let elsewhere = memory().open().await?;
    let invalid = |error: Error| {
        matches!(
            error,
            Error::InvalidOption {
                option: "fence",
                ..
            }
        )
    };
    let foreign = elsewhere.transaction().fence(&guard);
    assert!(invalid(foreign.begin().unwrap_err()));
    let mut foreign = elsewhere.batch();
    foreign.fence(&guard);
    assert!(invalid(foreign.commit().await.unwrap_err()));
    let read_only = db.transaction().read_only();
    assert!(invalid(
        read_only.clone().fence(&guard).begin().unwrap_err()
    ));
    assert!(invalid(read_only.begin()?.fence(&guard).unwrap_err()));

    let txn = db.begin()?;
    for name in [String::new(), "x".repeat(256)] {
        let error = txn.fence_token(&name, FencingToken(1)).unwrap_err();
        assert!(matches!(error, Error::InvalidLockName { .. }), "{error}");
    }
    for number in 0..16 {
        txn.fence_token(&format!("lock-{number}"), FencingToken(1))?;
    }
    txn.fence_token("lock-0", FencingToken(1))?;
    let error = txn.fence(&guard).unwrap_err();
    let (len, limit, unit) = (17, 16, "fences");
    assert_eq!(error, Error::TransactionTooLarge { len, limit, unit });
    let nobodys = txn.commit().await.unwrap_err();
    assert!(matches!(nobodys, Error::StaleFence { .. }), "{nobodys}");
    let ended = txn.fence(&guard).unwrap_err();
    assert_eq!(ended, Error::TransactionEnded);
    let mut empty = db.batch();
    empty.fence_token("nobody", FencingToken(7));
    empty.commit().await?;
    assert_eq!(ks.get("key").await?, None);
    Ok(())
}

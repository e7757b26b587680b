//! Named locks of a running engine: exclusion, waiting, sessions, elections, and who is told what at the end.

mod common;

use common::{
    Trap, builder,
    locks::{SHORT, busy, memory, until_idle, until_waiting},
    patiently,
};
use mailring::{Error, LockMode, Resource, Result};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

#[test]
fn threads_exclude_each_other_and_their_tokens_rise_in_the_order_of_their_turns() -> Result<()> {
    let db = memory().open_blocking()?;
    let inside = AtomicUsize::new(0);
    let tokens = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let guard = db.blocking().locks().lock("one").acquire_blocking();
                    let guard = guard.expect("the lock is granted");
                    assert_eq!(inside.fetch_add(1, SeqCst), 0, "two are inside");
                    tokens.lock().unwrap().push(guard.token());
                    assert!(guard.is_held());
                    inside.fetch_sub(1, SeqCst);
                }
            });
        }
    });
    let tokens = tokens.into_inner().unwrap();
    assert_eq!(tokens.len(), 1_800);
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_and_writers_do_not() -> Result<()> {
    let db = memory().open().await?;
    let locks = db.locks();
    let one = locks.lock("a").shared().await?;
    let other = locks.lock("a").shared().try_acquire().await?;
    assert!(busy(&locks.try_lock("a").await));
    assert!(busy(
        &locks.lock("a").intent_exclusive().try_acquire().await
    ));
    let part = locks.lock("a").intent_shared().try_acquire().await?;
    let writer = tokio::spawn(locks.lock("a").exclusive().acquire());
    until_waiting(&db, 1).await?;
    assert!(
        busy(&locks.lock("a").shared().try_acquire().await),
        "nobody overtakes the writer"
    );
    drop((one, other, part));
    let writer = patiently(writer).await.unwrap()?;
    assert_eq!(writer.name(), "a");
    Ok(())
}

#[tokio::test]
async fn a_dropped_future_leaves_the_queue() -> Result<()> {
    let db = memory().open().await?;
    let holder = db.locks().lock("a").shared().await?;
    let writer = tokio::spawn(db.locks().lock("a").acquire());
    until_waiting(&db, 1).await?;
    let reader = tokio::spawn(db.locks().lock("a").shared().acquire());
    until_waiting(&db, 2).await?;
    writer.abort();
    let reader = patiently(reader).await.unwrap()?;
    drop((holder, reader));
    drop(patiently(db.locks().lock("a").acquire()).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_crosses_a_dropped_future_is_given_back() -> Result<()> {
    let db = memory().open().await?;
    for round in 0..300u32 {
        let holder = db.locks().lock("a").await?;
        let waiter = tokio::spawn(db.locks().lock("a").acquire());
        if round % 2 == 0 {
            until_waiting(&db, 1).await?;
        }
        drop(holder);
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        waiter.abort();
        // Whether it was granted, then cancelled, or the other way round.
        drop(waiter.await);
        drop(patiently(db.locks().lock("a").acquire()).await?);
    }
    until_idle(&db).await
}

#[tokio::test]
async fn a_wait_ends_at_its_timeout() -> Result<()> {
    let db = memory().open().await?;
    let _holder = db.locks().lock("a").await?;
    let begun = Instant::now();
    let waiting = db.locks().lock("a").timeout(SHORT).acquire();
    let error = patiently(waiting).await.unwrap_err();
    let resource = Resource::Lock("a".into());
    assert_eq!(error, Error::LockTimeout { resource });
    assert!(error.is_retryable() && begun.elapsed() >= SHORT);
    let waiting = db.locks().lock("a").deadline(Instant::now()).acquire();
    assert!(matches!(
        patiently(waiting).await,
        Err(Error::LockTimeout { .. })
    ));
    until_waiting(&db, 0).await
}

#[tokio::test]
async fn a_session_enters_its_own_locks_again_and_its_deadlocks_are_found() -> Result<()> {
    let db = memory().open().await?;
    let (old, young) = (db.locks().session(), db.locks().session());
    let a = patiently(old.lock("a").acquire()).await?;
    let again = patiently(old.lock("a").acquire()).await?;
    assert_eq!(a.token(), again.token());
    let b = patiently(young.lock("b").acquire()).await?;
    let waiting = tokio::spawn(young.lock("a").acquire());
    until_waiting(&db, 1).await?;
    let old_waits = tokio::spawn(old.lock("b").acquire());
    let error = patiently(waiting).await.unwrap().unwrap_err();
    let Error::Deadlock { cycle } = &error else {
        panic!("{error}");
    };
    let cycle: Vec<_> = cycle
        .iter()
        .map(|step| (step.session, step.resource.clone()))
        .collect();
    let named = |name: &str| Resource::Lock(name.into());
    assert_eq!(cycle, [(young.id(), named("a")), (old.id(), named("b"))]);
    assert!(error.is_retryable());
    drop(b);
    let _b = patiently(old_waits).await.unwrap()?;
    Ok(())
}

#[tokio::test]
async fn a_guard_is_upgraded_and_downgraded() -> Result<()> {
    let db = memory().open().await?;
    let locks = db.locks();
    let mut guard = locks.lock("a").shared().await?;
    let shared = guard.token();
    let mut other = locks.lock("a").shared().await?;
    assert!(busy(&guard.try_upgrade().await));
    let late = guard.upgrade_within(Duration::from_millis(1));
    assert!(matches!(
        patiently(late).await,
        Err(Error::LockTimeout { .. })
    ));
    {
        let upgrade = tokio::spawn(async move {
            guard.upgrade().await?;
            Ok::<_, Error>(guard)
        });
        until_waiting(&db, 1).await?;
        let error = patiently(other.upgrade()).await.unwrap_err();
        assert!(matches!(error, Error::Deadlock { .. }), "{error}");
        drop(other);
        guard = patiently(upgrade).await.unwrap()?;
    }
    assert!(guard.token() > shared && guard.is_held());
    assert!(busy(&locks.lock("a").shared().try_acquire().await));
    let exclusive = guard.token();
    guard.downgrade(LockMode::Shared).await?;
    assert_eq!(guard.token(), exclusive);
    drop(locks.lock("a").shared().try_acquire().await?);
    Ok(())
}

#[tokio::test]
async fn the_list_shows_holders_waiters_and_edges() -> Result<()> {
    let db = memory().open().await?;
    let (one, other) = (db.locks().session(), db.locks().session());
    let guard = one.lock("a").shared().await?;
    let _b = other.lock("b").lease(Duration::from_secs(7)).await?;
    let waiting = tokio::spawn(other.lock("a").timeout(Duration::from_secs(100)).acquire());
    until_waiting(&db, 1).await?;
    let list = db.locks().list().await?;
    let names: Vec<_> = list.iter().map(|lock| lock.resource.to_string()).collect();
    assert_eq!(names, [r#"lock "a""#, r#"lock "b""#]);
    let (holder, waiter) = (&list[0].holders[0], &list[0].waiters[0]);
    assert_eq!((holder.session, holder.mode), (one.id(), LockMode::Shared));
    assert_eq!(
        (holder.token, holder.guards, holder.fences),
        (guard.token(), 1, 0)
    );
    assert!(list[1].holders[0].lease_left.unwrap() <= Duration::from_secs(7));
    assert_eq!(
        (waiter.session, waiter.mode),
        (other.id(), LockMode::Exclusive)
    );
    assert_eq!(waiter.waits_for, [one.id()]);
    assert!(waiter.wait_left.unwrap() <= Duration::from_secs(100));
    assert!(waiter.waited <= holder.held);
    drop(guard);
    drop(patiently(waiting).await.unwrap()?);
    Ok(())
}

#[tokio::test]
async fn what_can_t_be_a_lock_is_refused_with_a_clear_word() -> Result<()> {
    let db = memory().max_lease(SHORT).open().await?;
    for name in ["", &"x".repeat(mailring::MAX_LOCK_NAME_BYTES + 1)] {
        let error = db.locks().try_lock(name).await.unwrap_err();
        assert!(matches!(error, Error::InvalidLockName { .. }), "{error}");
    }
    let error = db.locks().lock("a").lease(2 * SHORT).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidOption {
                option: "lease",
                ..
            }
        ),
        "{error}"
    );
    drop(db.locks().try_lock("a").await?);
    let error = memory().max_lease(Duration::ZERO).open().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidOption {
                option: "max_lease",
                ..
            }
        ),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_answers_who_waits_and_tells_who_holds() -> Result<()> {
    let db = memory().open().await?;
    let held = db.locks().lock("a").await?;
    let waiting: Vec<_> = (0..20)
        .map(|_| tokio::spawn(db.locks().lock("a").acquire()))
        .collect();
    until_waiting(&db, 20).await?;
    patiently(db.shutdown()).await?;
    for waiter in waiting {
        let error = patiently(waiter).await.unwrap().unwrap_err();
        assert_eq!(error, Error::Closed);
    }
    patiently(held.lost()).await;
    assert!(!held.is_held());
    assert_eq!(db.locks().try_lock("b").await.unwrap_err(), Error::Closed);
    assert_eq!(db.locks().list().await.unwrap_err(), Error::Closed);
    Ok(())
}

#[tokio::test]
async fn a_guard_keeps_the_engine_running_until_it_is_dropped() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let guard = db.locks().lock("a").await?;
    drop(db);
    assert!(guard.is_held());
    let error = builder(directory.path()).open().await.unwrap_err();
    assert!(matches!(error, Error::DirectoryInUse { .. }), "{error}");
    drop(guard);
    builder(directory.path()).open().await?;
    Ok(())
}

#[tokio::test]
async fn a_leader_is_observed_until_he_resigns_or_loses_his_lease() -> Result<()> {
    let trap = Trap::new();
    let db = memory().fault_hook(trap.hook()).open().await?;
    let mut observer = db.locks().observe("boss");
    assert_eq!(patiently(observer.next()).await, Ok(None));
    let first = patiently(db.locks().campaign("boss", "first")).await?;
    let leader = patiently(observer.next()).await?.expect("somebody leads");
    assert_eq!(
        (&leader.value[..], leader.token),
        (&b"first"[..], first.guard().token())
    );
    assert_eq!(observer.leader(), Some(leader.clone()));

    let locks = db.locks();
    let second = tokio::spawn(async move { locks.campaign("boss", "second").await });
    until_waiting(&db, 1).await?;
    first.resign();
    let second = patiently(second).await.unwrap()?;
    let mut told = patiently(observer.next()).await?;
    if told.is_none() {
        // Between the two nobody led.
        told = patiently(observer.next()).await?;
    }
    let told = told.expect("somebody leads");
    assert_eq!(&told.value[..], b"second");
    assert!(told.token > leader.token);

    trap.set("locks", None, "Acquire", false, 0, 1);
    patiently(db.locks().try_lock("other")).await.unwrap_err();
    patiently(second.guard().lost()).await;
    assert_eq!(patiently(observer.next()).await, Ok(None));
    assert_eq!(db.locks().observe("boss").leader(), None);
    Ok(())
}

/// The observer's own handle kept the channel open that it waited at.
#[tokio::test]
async fn observers_are_told_that_it_is_over_when_the_engine_shuts_down() -> Result<()> {
    let db = memory().open().await?;
    let locks = db.locks();
    let mut lonely = locks.observe("nobody");
    assert_eq!(patiently(lonely.next()).await, Ok(None));
    let mut led = locks.observe("boss");
    let candidacy = patiently(locks.campaign("boss", "me")).await?;
    assert!(patiently(led.next()).await?.is_some());
    let waiting = tokio::spawn(async move { lonely.next().await });
    patiently(db.shutdown()).await?;

    assert_eq!(patiently(waiting).await.unwrap(), Err(Error::Closed));
    assert_eq!(patiently(led.next()).await, Ok(None), "nobody leads now");
    assert_eq!(patiently(led.next()).await, Err(Error::Closed));
    let mut late = locks.observe("boss");
    assert_eq!(patiently(late.next()).await, Ok(None));
    assert_eq!(late.next_blocking(), Err(Error::Closed));
    drop(candidacy);
    Ok(())
}

#[test]
fn locks_serve_plain_threads() -> Result<()> {
    let db = memory().open_blocking()?;
    let locks = db.blocking().locks();
    let mut guard = locks.lock("a").shared().acquire_blocking()?;
    guard.renew_blocking()?;
    guard.upgrade_blocking()?;
    let resource = Resource::Lock("a".into());
    let busy = Error::LockBusy { resource };
    assert_eq!(locks.try_lock_blocking("a").unwrap_err(), busy);
    guard.downgrade_blocking(LockMode::Shared)?;
    let other = locks.lock("a").shared().acquire_blocking()?;
    assert_eq!(locks.list_blocking()?[0].holders.len(), 2);
    assert_eq!(guard.try_upgrade_blocking(), Err(busy));
    let timed_out = guard.upgrade_within_blocking(Duration::ZERO);
    assert!(
        matches!(timed_out, Err(Error::LockTimeout { .. })),
        "{timed_out:?}"
    );
    drop(other);
    guard.try_upgrade_blocking()?;

    let mut observer = locks.observe("boss");
    assert_eq!(observer.next_blocking(), Ok(None));
    let candidacy = locks.campaign_blocking("boss", "me")?;
    let leader = observer.next_blocking()?.expect("somebody leads");
    assert_eq!(leader.token, candidacy.guard().token());
    db.blocking().shutdown()?;
    guard.lost_blocking();
    Ok(())
}

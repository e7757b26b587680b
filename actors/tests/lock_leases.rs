//! Leases of named locks, and tokens: while their holders live, when the manager panics, and over openings.

mod common;

use common::{
    Gate, OpensAtTheEnd, Trap, builder,
    locks::{SHORT, busy, memory, short, until_waiting},
    patiently, quick_restarts, until,
};
use mailring::{Error, FaultSite, FencingToken, Result};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

#[tokio::test]
async fn a_lost_lease_is_told_at_once_and_the_next_holder_s_token_is_higher() -> Result<()> {
    let db = memory().open().await?;
    let paused = short(&db, "a").await?;
    let next = patiently(db.locks().lock("a").acquire()).await?;
    patiently(paused.lost()).await;
    assert!(!paused.is_held() && next.is_held());
    assert!(next.token() > paused.token());
    assert_eq!(patiently(paused.renew()).await, Err(Error::LockLost));
    drop(paused);
    assert!(
        busy(&db.locks().try_lock("a").await),
        "what is lost releases nothing"
    );
    Ok(())
}

#[tokio::test]
async fn a_guard_renews_its_lease_while_it_lives() -> Result<()> {
    let db = memory().open().await?;
    let lease = Duration::from_millis(400);
    let begun = Instant::now();
    let kept = db.locks().lock("kept").lease(lease).await?;
    let mut longest_stall = Duration::ZERO;
    while begun.elapsed() < 3 * lease {
        let looked = Instant::now();
        patiently(short(&db, "clock").await?.lost()).await;
        longest_stall = longest_stall.max(looked.elapsed());
    }
    // A machine that stalls for most of a lease may lose it.
    assert!(kept.is_held() || longest_stall > lease / 2);
    assert!(busy(&db.locks().try_lock("kept").await) || longest_stall > lease / 2);
    Ok(())
}

#[tokio::test]
async fn a_lease_can_be_renewed_by_hand() -> Result<()> {
    let db = memory().open().await?;
    let guard = short(&db, "a").await?;
    let begun = Instant::now();
    // On a machine that stalls for a whole lease it is lost, which is right as well.
    while begun.elapsed() < 3 * SHORT {
        let stalled = Instant::now();
        match patiently(guard.renew()).await {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, Error::LockLost);
                assert!(stalled.elapsed() >= SHORT / 2 || !guard.is_held());
                return Ok(());
            }
        }
    }
    assert!(guard.is_held() || begun.elapsed() >= 4 * SHORT);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_sees_its_lease_end_by_its_own_clock_when_the_manager_can_t_tell() -> Result<()> {
    let gate = Gate::new();
    let _open = OpensAtTheEnd(Arc::clone(&gate));
    let stop = Arc::clone(&gate);
    let hook = Arc::new(move |site: &FaultSite<'_>| {
        if site.actor == "locks" && site.message == "Acquire" && !site.handled {
            stop.pass();
        }
    });
    let db = memory().mailbox_capacity(1).fault_hook(hook).open().await?;
    let guard = db.locks().lock("a").lease(SHORT).await?;
    gate.close();
    let stuck = tokio::spawn(db.locks().lock("b").acquire());
    until(|| gate.waiting() == 1).await;
    until(|| !guard.is_held()).await;

    // One of two finds room on the desk.
    let others = ["c", "d"].map(|name| tokio::spawn(db.locks().lock(name).acquire()));
    until(|| others.iter().any(|other| other.is_finished())).await;
    gate.open();
    patiently(guard.lost()).await;
    let _b = patiently(stuck).await.unwrap()?;
    let mut outcomes = Vec::new();
    for other in others {
        outcomes.push(patiently(other).await.unwrap().map(drop));
    }
    outcomes.sort_by_key(|outcome| outcome.is_err());
    assert!(
        matches!(outcomes[..], [Ok(()), Err(Error::Overloaded { .. })]),
        "{outcomes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_panic_of_the_manager_loses_every_lock_and_grants_none_before_the_old_leases_end()
-> Result<()> {
    for (message, handled) in [("Acquire", false), ("Acquire", true), ("Release", false)] {
        let trap = Trap::new();
        let db = memory().fault_hook(trap.hook()).open().await?;
        let lease = Duration::from_millis(700);
        let granted = Instant::now();
        let held = db.locks().lock("a").lease(lease).await?;
        let waiting = tokio::spawn(db.locks().lock("a").acquire());
        until_waiting(&db, 1).await?;
        let bystander = db.locks().lock("b").lease(lease).await?;
        trap.set("locks", None, message, handled, 0, 1);
        match message {
            "Acquire" => {
                let error = patiently(db.locks().try_lock("c")).await.unwrap_err();
                assert_eq!(error, Error::LockManagerRestarted);
            }
            _ => drop(bystander),
        }
        patiently(held.lost()).await;
        let error = patiently(waiting).await.unwrap().unwrap_err();
        assert_eq!(error, Error::LockManagerRestarted, "{message}, {handled}");
        assert!(error.is_retryable());
        assert_eq!(trap.sprung(), 1);

        let next = patiently(db.locks().lock("a").acquire()).await?;
        assert!(
            granted.elapsed() >= lease,
            "the old lease was still running"
        );
        assert!(next.token() > held.token());
        drop(held);
        assert!(next.is_held() && busy(&db.locks().try_lock("a").await));
    }
    Ok(())
}

/// The simulator's seed 46: the manager panicked right behind an opening, and its next table knew only of the leases that
/// it had given itself.
#[tokio::test]
async fn a_panic_behind_an_opening_does_not_forget_the_leases_of_the_opening_before() -> Result<()>
{
    let directory = tempfile::tempdir().unwrap();
    let longest = Duration::from_millis(700);
    let db = builder(directory.path()).max_lease(longest).open().await?;
    // A copy of the directory of a running engine is what a crash leaves.
    let copy = tempfile::tempdir().unwrap();
    let crashed = copy.path().join("crashed");
    common::copy_directory(directory.path(), &crashed);
    db.shutdown().await?;

    let (trap, begun) = (Trap::new(), Instant::now());
    let db = builder(&crashed).fault_hook(trap.hook()).open().await?;
    trap.set("locks", None, "Acquire", false, 0, 1);
    let error = patiently(db.locks().lock("a").acquire()).await.unwrap_err();
    assert_eq!(error, Error::LockManagerRestarted);
    let guard = patiently(db.locks().lock("a").acquire()).await?;
    let took = begun.elapsed();
    assert!(guard.is_held());
    assert!(
        took >= longest,
        "granted after {took:?}, while an old lease may run"
    );
    Ok(())
}

#[tokio::test]
async fn a_manager_over_its_intensity_is_down_and_the_rest_goes_on() -> Result<()> {
    let trap = Trap::new();
    let policy = quick_restarts(1);
    let db = memory()
        .restart_policy(policy)
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(db.stats().locks_down, None);
    trap.set("locks", None, "Acquire", false, 0, 2);
    let mut errors = Vec::new();
    for _ in 0..3 {
        errors.push(patiently(db.locks().lock("a").acquire()).await.unwrap_err());
    }
    let down = Error::LockManagerDown;
    assert_eq!(
        errors,
        [Error::LockManagerRestarted, down.clone(), down.clone()]
    );
    assert!(!down.is_retryable());
    let told = db.stats().locks_down;
    assert!(
        told.as_ref().is_some_and(|told| told.contains("trap")),
        "{told:?}"
    );
    ks.put("key", "value").await?;
    Ok(())
}

/// The token of the next lock of the directory, and how long it took to get it.
async fn token_after_opening(directory: &std::path::Path) -> Result<(FencingToken, Duration)> {
    let begun = Instant::now();
    let db = builder(directory)
        .max_lease(Duration::from_millis(200))
        .open()
        .await?;
    let token = patiently(db.locks().lock("a").acquire()).await?.token();
    let took = begun.elapsed();
    db.shutdown().await?;
    Ok((token, took))
}

#[tokio::test]
async fn tokens_rise_over_reopening_and_a_crash_keeps_locks_shut_for_the_longest_lease()
-> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let longest = Duration::from_millis(400);
    let db = builder(directory.path()).max_lease(longest).open().await?;
    let first = db.locks().try_lock("a").await?.token();
    let (copy, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    db.backup(backup.path().join("backup")).await?;
    // A copy of the directory of a running engine is what a crash leaves.
    common::copy_directory(directory.path(), &copy.path().join("crashed"));
    db.shutdown().await?;

    let db = builder(directory.path()).open().await?;
    let second = db.locks().try_lock("a").await?.token();
    assert!(second > first, "granted at once after a shutdown");
    drop(db);
    let db = builder(directory.path()).open().await?;
    let third = db.locks().try_lock("a").await?.token();
    assert!(third > second, "what was dropped has no guards either");
    drop(db);
    let (backed_up, _) = token_after_opening(&backup.path().join("backup")).await?;
    assert!(
        backed_up > first,
        "a backup goes on with the tokens of its original"
    );

    let crashed = copy.path().join("crashed");
    let (token, took) = token_after_opening(&crashed).await?;
    assert!(token > first);
    assert!(
        took >= longest,
        "granted after {took:?}, while an old lease may run"
    );
    let db = builder(&crashed).open().await?;
    assert!(db.locks().try_lock("a").await?.token() > token);
    Ok(())
}

#[tokio::test]
async fn engines_in_memory_share_one_line_of_lives() -> Result<()> {
    let first = memory().open().await?.locks().try_lock("a").await?.token();
    let second = memory().open().await?.locks().try_lock("a").await?.token();
    assert!(second > first);
    Ok(())
}

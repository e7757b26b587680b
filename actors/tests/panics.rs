//! A panic at every kind of message of every actor: everybody who asked is answered, nothing acknowledged is lost, and
//! the parts that can go on do.
//!
//! The tables must name every kind: a new kind of message without a row fails its test.

mod common;

use common::{patiently, quick_restarts, stage::Stage, until, until_idle};
use mailring::{Error, Heal, NodeState, Result, Transaction, kinds};
use std::{
    future::Future,
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Duration,
};

/// What has to go wrong first for a message of a kind to be sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum First {
    Nothing,
    NodePanics,
    NodeIsGivenUp,
    JournalFails,
    LocksPanic,
}
use First::{JournalFails, LocksPanic, NodeIsGivenUp, NodePanics, Nothing};

type Table = &'static [(&'static str, First)];

const NODE: Table = &[
    ("Request", Nothing),
    ("Flush", Nothing),
    ("Resolve", Nothing),
    ("Visible", Nothing),
    ("Freeze", Nothing),
    ("Flushed", Nothing),
    ("Fenced", NodePanics),
    ("Rebuilt", NodePanics),
    ("ReadOnly", JournalFails),
    ("GoDown", NodeIsGivenUp),
    ("Prepares", Nothing),
    ("Aborts", Nothing),
    ("Settles", Nothing),
    ("Tick", Nothing),
];

const COORDINATOR: Table = &[
    ("Commit", Nothing),
    ("Votes", Nothing),
    ("FenceVotes", Nothing),
    ("Decided", Nothing),
    ("NodeDown", NodeIsGivenUp),
    ("ReadOnly", JournalFails),
    ("Flush", Nothing),
    ("Tick", Nothing),
];

const JOURNAL: Table = &[
    ("Append", Nothing),
    ("Decides", Nothing),
    ("Asks", Nothing),
    ("FindKey", Nothing),
    ("Cut", Nothing),
    ("Persisted", Nothing),
    ("Failed", JournalFails),
    ("Spare", Nothing),
    ("Installed", Nothing),
    ("Fence", NodePanics),
    ("Down", NodeIsGivenUp),
    ("Mark", Nothing),
    ("CreateKeyspace", Nothing),
    ("DropKeyspace", Nothing),
    ("Watch", Nothing),
    ("LockLife", LocksPanic),
    ("Tick", Nothing),
    ("Subscribe", Nothing),
    ("Describe", Nothing),
];

const CHECKPOINTER: Table = &[
    ("Tick", Nothing),
    ("Request", Nothing),
    ("Frozen", Nothing),
    ("NodeDown", NodeIsGivenUp),
    ("MarkReached", Nothing),
    ("Written", Nothing),
    ("Saved", Nothing),
    ("Maintained", Nothing),
    ("ReadOnly", JournalFails),
];

const LOCKS: Table = &[
    ("Acquire", Nothing),
    ("Convert", Nothing),
    ("Release", Nothing),
    ("Renew", Nothing),
    ("ReleaseSession", Nothing),
    ("PrepareFence", Nothing),
    ("ResolveFence", Nothing),
    ("LifeKnown", LocksPanic),
    ("Tick", Nothing),
];

/// Every kind with its row.
fn rows(table: Table, kinds: &[&[&'static str]]) -> Vec<(&'static str, First)> {
    let row = |kind: &&'static str| {
        let row = table.iter().find(|(listed, _)| listed == kind);
        *row.unwrap_or_else(|| panic!("a new kind of message, {kind}, needs a row in the table"))
    };
    kinds
        .iter()
        .flat_map(|kinds| kinds.iter())
        .map(row)
        .collect()
}

async fn stage_for(first: First) -> Result<Stage> {
    let intensity = if first == NodeIsGivenUp { 0 } else { 5 };
    let stage = Stage::tuned(|builder| {
        builder
            .restart_policy(quick_restarts(intensity))
            .heal(Heal::Wait)
    })
    .await?;
    match first {
        Nothing => {}
        NodePanics | NodeIsGivenUp => stage.first.set("node", Some(1), "Request", true, 3, 1),
        JournalFails => stage.first.set("io", None, "Write", false, 1, 1),
        LocksPanic => stage.first.set("locks", None, "Release", false, 2, 1),
    }
    Ok(stage)
}

/// Does whatever makes messages, until the trap has sprung: writes small and large, checkpoints, keyspaces that come and
/// go, watches. All of it is answered; by what is for the caller to say.
async fn do_everything_until_sprung(stage: &Stage, times: usize) {
    for round in 0.. {
        let checkpoints = stage.checkpoints(2);
        let keyspaces = {
            let (db, ks) = (stage.db.clone(), stage.ks.clone());
            tokio::spawn(async move {
                if let Ok(other) = db.keyspace("other").await {
                    let _ = other.put("key", "v").await;
                    let _ = db.drop_keyspace("other").await;
                }
                let _ = db.keyspaces().await;
                let _ = ks.watch("").await;
                // Uses up segments.
                for number in 0..8 {
                    let _ = ks.put(format!("large-{number}"), vec![0; 300 << 10]).await;
                }
            })
        };
        let transfers = stage.transfers(6, 5);
        let fenced = stage.fenced_transfers(3, 3);
        stage.load(&format!("round-{round}"), 8, 10).await;
        patiently(transfers).await.expect("it has not panicked");
        patiently(fenced).await.expect("it has not panicked");
        patiently(keyspaces).await.expect("it has not panicked");
        let _ = patiently(checkpoints).await.expect("it has not panicked");
        if stage.trap.sprung() >= times {
            return;
        }
        assert!(round < 200, "no such message was ever sent");
    }
}

/// One restart (two where the restart itself is hit), no addition counted that was refused, and service as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_panics_at_any_message_loses_nothing_and_serves_again() -> Result<()> {
    for (kind, first) in rows(NODE, &[kinds::NODE, kinds::NODE_SHELL]) {
        for handled in [false, true] {
            println!("{kind}, handled: {handled}");
            let stage = stage_for(first).await?;
            let skip = usize::from(matches!(kind, "Request" | "Flush" | "Resolve")) * 3;
            stage.trap.set("node", Some(1), kind, handled, skip, 1);
            do_everything_until_sprung(&stage, 1).await;
            match first {
                Nothing | NodePanics | LocksPanic => {
                    assert_serves_again(&stage, kind, handled).await?;
                }
                NodeIsGivenUp => assert_is_down_alone(&stage).await?,
                JournalFails => stage.assert_read_only().await?,
            }
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

async fn assert_serves_again(stage: &Stage, kind: &str, handled: bool) -> Result<()> {
    let unknown = stage.ledger.lock().unwrap().unknown();
    assert!(
        unknown == 0 || (kind, handled) == ("Visible", true),
        "{unknown} additions are unknown where their fate can be told"
    );
    stage.load("after", 4, 2).await;
    patiently(stage.db.checkpoint()).await?;
    stage.check().await;
    until_idle(&stage.db).await;
    let stats = stage.db.stats();
    assert_eq!(stats.nodes[1].state, NodeState::Restarted);
    assert!(stats.nodes[1].last_failure.is_some());
    assert_eq!(stats.nodes[0].state, NodeState::Serving);
    assert_eq!(stats.read_only, None);
    stage.db.verify().await.map(drop)
}

async fn assert_is_down_alone(stage: &Stage) -> Result<()> {
    until(|| stage.db.stats().nodes[1].state == NodeState::Down).await;
    let up = common::keys_of(&stage.db, &stage.ks, 0, 3).await;
    for key in &up {
        let lsn = patiently(stage.ks.put(key, key)).await?;
        assert!(stage.db.stats().visible_lsn >= lsn, "nothing is held back");
    }
    patiently(stage.db.checkpoint()).await?;
    until_idle(&stage.db).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_panics_at_any_message_leaves_a_read_only_engine_that_reopens_whole()
-> Result<()> {
    for (kind, first) in rows(JOURNAL, &[kinds::JOURNAL, kinds::JOURNAL_SHELL]) {
        for handled in [false, true] {
            println!("{kind}, handled: {handled}");
            let stage = stage_for(first).await?;
            let is_frequent = matches!(kind, "Append" | "Cut" | "Persisted" | "Installed");
            let skip = usize::from(is_frequent) * 20;
            stage.trap.set("journal", None, kind, handled, skip, 1);
            do_everything_until_sprung(&stage, 1).await;
            match first {
                NodeIsGivenUp => {
                    until(|| stage.db.stats().read_only.is_some()).await;
                    stage.assert_refuses().await;
                }
                Nothing | NodePanics | JournalFails | LocksPanic => {
                    stage.assert_read_only().await?;
                }
            }
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_panics_at_any_message_goes_on_and_leaves_nothing_prepared() -> Result<()>
{
    for (kind, first) in rows(COORDINATOR, &[kinds::COORDINATOR, kinds::COORDINATOR_SHELL]) {
        for handled in [false, true] {
            println!("{kind}, handled: {handled}");
            let stage = stage_for(first).await?;
            stage.trap.set("coordinator", None, kind, handled, 0, 1);
            do_everything_until_sprung(&stage, 1).await;
            match first {
                Nothing | NodePanics | LocksPanic => {
                    until(|| stage.db.stats().prepared == 0).await;
                    let lsn = stage.transfer(0).await?;
                    assert!(stage.db.stats().visible_lsn >= lsn);
                    assert_eq!(stage.db.stats().nodes[1].state, NodeState::Serving);
                }
                NodeIsGivenUp => assert_is_down_alone(&stage).await?,
                JournalFails => stage.assert_read_only().await?,
            }
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_panics_too_often_is_given_up_and_not_the_engine() -> Result<()> {
    let stage = stage_for(Nothing).await?;
    stage
        .trap
        .set("coordinator", None, "Commit", false, 0, usize::MAX);
    do_everything_until_sprung(&stage, 6).await;
    // Its key takes it to the coordinator, whichever nodes it concerns.
    let keyed = stage.db.transaction().idempotency_key("refused");
    let body = async |txn: Transaction| txn.put(&stage.ks, "refused", "v").await;
    assert_eq!(keyed.run(body).await.err(), Some(Error::CoordinatorDown));
    assert!(stage.db.stats().coordinator_down.is_some());
    until(|| stage.db.stats().prepared == 0).await;
    assert_serves_again_without_transactions(&stage).await?;
    stage.assert_reopens_whole().await
}

async fn assert_serves_again_without_transactions(stage: &Stage) -> Result<()> {
    stage.load("after", 4, 2).await;
    patiently(stage.db.checkpoint()).await?;
    stage.check().await;
    assert_eq!(stage.db.stats().read_only, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_manager_that_panics_at_any_message_loses_its_locks_and_nothing_else() -> Result<()>
{
    for (kind, first) in rows(LOCKS, &[kinds::LOCKS, kinds::LOCKS_SHELL]) {
        for handled in [false, true] {
            println!("{kind}, handled: {handled}");
            let stage = stage_for(first).await?;
            let skip = if first == LocksPanic { 0 } else { 2 };
            stage.trap.set("locks", None, kind, handled, skip, 1);
            do_everything_until_sprung(&stage, 1).await;
            // The old leases are over before long, and then everybody gets what he asks for.
            patiently(stage.db.locks().lock("till").acquire())
                .await
                .map(drop)?;
            patiently(stage.fenced_transfer(0)).await?;
            until(|| stage.db.stats().prepared == 0).await;
            while !stage.db.locks().list().await?.is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(stage.db.stats().nodes[1].state, NodeState::Serving);
            assert_eq!(stage.db.stats().read_only, None);
            stage.check().await;
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpointer_that_panics_at_any_message_goes_on_and_refuses_nobody() -> Result<()> {
    for (kind, first) in rows(
        CHECKPOINTER,
        &[kinds::CHECKPOINTER, kinds::CHECKPOINTER_SHELL],
    ) {
        for handled in [false, true] {
            println!("{kind}, handled: {handled}");
            let stage = stage_for(first).await?;
            stage.trap.set("checkpointer", None, kind, handled, 0, 1);
            let checkpoint = stage.checkpoints(1);
            do_everything_until_sprung(&stage, 1).await;
            let checkpoint = patiently(checkpoint).await.unwrap();
            match first {
                JournalFails => stage.assert_read_only().await?,
                // A policy that gives a node up at once gives up the checkpointer too.
                NodeIsGivenUp => {
                    until(|| stage.db.stats().read_only.is_some()).await;
                    stage.assert_refuses().await;
                }
                Nothing | NodePanics | LocksPanic => {
                    checkpoint?;
                    let lsn = patiently(stage.ks.put("behind", "v")).await?;
                    assert!(patiently(stage.db.checkpoint()).await? >= lsn);
                    assert_eq!(stage.db.stats().read_only, None);
                    stage.check().await;
                }
            }
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpointer_that_panics_at_a_message_twice_leaves_a_read_only_engine() -> Result<()> {
    for (kind, first) in rows(
        CHECKPOINTER,
        &[kinds::CHECKPOINTER, kinds::CHECKPOINTER_SHELL],
    ) {
        println!("{kind}");
        let stage = stage_for(first).await?;
        let times = if first == NodeIsGivenUp { 1 } else { 2 };
        stage.trap.set("checkpointer", None, kind, false, 0, times);
        do_everything_until_sprung(&stage, times).await;
        if first == NodeIsGivenUp {
            until(|| stage.db.stats().read_only.is_some()).await;
            stage.assert_refuses().await;
        } else {
            stage.assert_read_only().await?;
        }
        stage.assert_reopens_whole().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_or_supervisor_that_panics_loses_no_report() -> Result<()> {
    for (actor, kind) in [("router", "NodeStatus"), ("supervisor", "Panicked")] {
        for handled in [false, true] {
            println!("{actor} {kind}, handled: {handled}");
            let stage = stage_for(NodePanics).await?;
            stage.trap.set(actor, None, kind, handled, 0, 1);
            do_everything_until_sprung(&stage, 1).await;
            until_idle(&stage.db).await;
            let node = stage.db.stats().nodes[1].clone();
            assert_eq!((node.state, node.restarts), (NodeState::Restarted, 1));
            stage.load("after", 4, 2).await;
            stage.check().await;
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_always_panics_gives_up_the_node_and_not_the_engine() -> Result<()> {
    for kind in ["Panicked", "Broken"] {
        println!("{kind}");
        let stage = stage_for(NodePanics).await?;
        stage
            .trap
            .set("supervisor", None, kind, false, 0, usize::MAX);
        if kind == "Broken" {
            // Every one: a rebuild that a checkpoint has overtaken is begun again.
            stage
                .second
                .set("rebuild", None, "Rebuild", false, 0, usize::MAX);
        }
        do_everything_until_sprung(&stage, 2).await;
        assert_is_down_alone(&stage).await?;
        stage.assert_reopens_whole().await?;
    }
    Ok(())
}

/// A panic behind the machine, while what it wants is carried out: the first effects have left, the others never will.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_panics_between_two_effects_loses_nothing_and_serves_again() -> Result<()> {
    for skip in [0, 1, 2, 3, 5, 9, 20, 60] {
        println!("effect {skip}");
        let stage = stage_for(Nothing).await?;
        let effect = kinds::EFFECT;
        stage.trap.set("node", Some(1), effect, true, skip, 1);
        do_everything_until_sprung(&stage, 1).await;
        // Whoever was to be told of what is visible may have been lost: `Unknown` is all that can be said then.
        assert_serves_again(&stage, "Visible", true).await?;
        stage.assert_reopens_whole().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_panics_between_two_effects_goes_on() -> Result<()> {
    for skip in [0, 1, 2, 3, 5, 9, 20, 60] {
        println!("effect {skip}");
        let stage = stage_for(Nothing).await?;
        let effect = kinds::EFFECT;
        stage.trap.set("coordinator", None, effect, true, skip, 1);
        do_everything_until_sprung(&stage, 1).await;
        until(|| stage.db.stats().prepared == 0).await;
        stage.transfer(0).await?;
        assert_eq!(stage.db.stats().nodes[1].state, NodeState::Serving);
        stage.assert_reopens_whole().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_or_checkpointer_that_panics_between_two_effects_leaves_a_read_only_engine()
-> Result<()> {
    for (actor, skips) in [
        ("journal", &[0, 3, 10, 60][..]),
        ("checkpointer", &[0, 1, 2]),
    ] {
        for skip in skips {
            println!("{actor}, effect {skip}");
            let stage = stage_for(Nothing).await?;
            let effect = kinds::EFFECT;
            stage.trap.set(actor, None, effect, true, *skip, 1);
            do_everything_until_sprung(&stage, 1).await;
            stage.assert_read_only().await?;
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_lock_manager_that_panics_between_two_effects_tells_whoever_holds_or_waits() -> Result<()>
{
    let stage = stage_for(Nothing).await?;
    let locks = stage.db.locks();
    let lease = Duration::from_millis(500);
    let held = locks.lock("held").lease(lease).await?;
    let mut waits = std::pin::pin!(locks.lock("held").acquire());
    let mut context = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    stage.trap.set("locks", None, kinds::EFFECT, true, 0, 1);
    let refused = patiently(locks.lock("other").acquire()).await;
    assert_eq!(refused.map(drop), Err(Error::LockManagerRestarted));
    let refused = patiently(waits).await;
    assert_eq!(refused.map(drop), Err(Error::LockManagerRestarted));
    patiently(held.lost()).await;
    let next = patiently(locks.lock("held").acquire()).await?;
    assert!(next.token() > held.token());
    Ok(())
}

/// A waker is code of the caller's, which runs on the actors' threads.
#[tokio::test]
async fn the_panic_of_a_callers_waker_is_no_business_of_the_engine() -> Result<()> {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the caller's");
        }
    }
    let stage = stage_for(Nothing).await?;
    let (db, ks) = (&stage.db, &stage.ks);
    let waker = Waker::from(Arc::new(Panics));
    let mut context = Context::from_waker(&waker);
    let txn = db.begin()?;
    for key in 0..8 {
        txn.put(ks, format!("key-{key}"), "v").await?;
    }
    let mut put = Box::pin(ks.put("put", "v"));
    let mut commit = Box::pin(txn.commit());
    let mut keyspace = Box::pin(db.keyspace("new"));
    let mut checkpoint = Box::pin(db.checkpoint());
    let guard = db.locks().lock("lock").await?;
    let mut lock = Box::pin(db.locks().lock("lock").acquire());
    assert!(put.as_mut().poll(&mut context).is_pending());
    assert!(commit.as_mut().poll(&mut context).is_pending());
    assert!(keyspace.as_mut().poll(&mut context).is_pending());
    assert!(checkpoint.as_mut().poll(&mut context).is_pending());
    assert!(lock.as_mut().poll(&mut context).is_pending());
    drop(guard);
    until_idle(db).await;
    patiently(put).await?;
    patiently(commit).await?;
    patiently(keyspace).await?;
    patiently(checkpoint).await?;
    patiently(lock).await.map(drop)?;
    let stats = db.stats();
    assert!(stats.nodes.iter().all(|node| node.restarts == 0));
    assert_eq!((stats.read_only, stats.coordinator_down), (None, None));
    stage.transfer(0).await.map(drop)
}

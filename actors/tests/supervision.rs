//! Panics under load: who is told what, what is kept, and what serves again.

mod common;

use common::{Gate, Ledger, OpensAtTheEnd, Trap, builder, load, patiently, until, until_idle};
use mailring::{Error, FaultSite, Mailring, NodeState, Result};
use std::sync::{Arc, Mutex};

const NODE_MESSAGES: [&str; 8] = [
    "Request", "Flush", "Resolve", "Visible", "Freeze", "Flushed", "Fenced", "Rebuilt",
];

/// The node's part of the story is the same whatever it dies of: one restart (two where the restart itself is hit),
/// nothing acknowledged lost, no addition counted that was refused, and service as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_panics_at_any_message_loses_nothing_and_serves_again() -> Result<()> {
    for message in NODE_MESSAGES {
        for handled in [false, true] {
            panic_at(message, handled).await?;
        }
    }
    Ok(())
}

async fn panic_at(message: &str, handled: bool) -> Result<()> {
    let context = format!("{message}, handled: {handled}");
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let first = Trap::new();
    let hooks = [trap.hook(), first.hook()];
    let hook = Arc::new(move |site: &FaultSite<'_>| hooks.iter().for_each(|hook| hook(site)));
    let db = builder(directory.path()).fault_hook(hook).open().await?;
    let ks = db.keyspace("ks").await?;
    let ledger = Arc::<Mutex<Ledger>>::default();
    load(&ks, &ledger, "before", 4, 2).await;

    let skip = usize::from(matches!(message, "Request" | "Flush" | "Resolve")) * 3;
    trap.set("node", Some(1), message, handled, skip, 1);
    if matches!(message, "Fenced" | "Rebuilt") {
        first.set("node", Some(1), "Request", true, 3, 1);
    }
    let checkpoints = {
        let db = db.clone();
        tokio::spawn(async move {
            for _ in 0..3 {
                db.checkpoint().await?;
            }
            Ok::<_, Error>(())
        })
    };
    load(&ks, &ledger, "during", 8, 10).await;
    patiently(checkpoints).await.unwrap()?;
    assert_eq!(trap.sprung(), 1, "{context}");
    let unknown = ledger.lock().unwrap().unknown();
    assert!(
        unknown == 0 || (message, handled) == ("Visible", true),
        "{context}: {unknown} additions are unknown where their fate can be told"
    );

    load(&ks, &ledger, "after", 4, 2).await;
    patiently(db.checkpoint()).await?;
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    ledger.check(&ks).await;
    until_idle(&db).await;
    let stats = db.stats();
    assert_eq!(stats.nodes[1].state, NodeState::Restarted, "{context}");
    assert!(stats.nodes[1].last_failure.is_some(), "{context}");
    assert_eq!(stats.nodes[0].state, NodeState::Serving, "{context}");
    assert_eq!(stats.read_only, None, "{context}");
    db.verify().await?;

    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    ledger.check(&db.keyspace("ks").await?).await;
    Ok(())
}

#[tokio::test]
async fn requests_queued_behind_a_panic_are_kept_and_answered() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let (trap, gate) = (Trap::new(), Gate::new());
    let _open = OpensAtTheEnd(Arc::clone(&gate));
    let (hook, stop) = (trap.hook(), Arc::clone(&gate));
    let hook = Arc::new(move |site: &FaultSite<'_>| {
        if site.message == "Request" && !site.handled {
            stop.pass();
        }
        hook(site);
    });
    let db = builder(directory.path())
        .nodes(1)
        .fault_hook(hook)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    gate.close();
    trap.set("node", None, "Request", false, 0, 1);
    let mut writers: Vec<_> = Vec::new();
    for number in 0..50u32 {
        let ks = ks.clone();
        writers.push(tokio::spawn(async move { ks.add("sum", 1).await }));
        let queued = number as usize + 1;
        until(|| db.stats().nodes[0].queue_depth == queued).await;
    }
    gate.open();
    let mut outcomes = Vec::new();
    for writer in writers {
        outcomes.push(patiently(writer).await.unwrap());
    }
    assert!(
        matches!(outcomes[0], Err(Error::NodeRestarted { .. })),
        "{:?}",
        outcomes[0]
    );
    let sums: Vec<i64> = outcomes.into_iter().skip(1).collect::<Result<_>>()?;
    assert_eq!(sums, (1..50).collect::<Vec<i64>>(), "in the order sent");
    Ok(())
}

#[tokio::test]
async fn a_node_over_its_intensity_is_down_and_the_others_go_on() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .restart_policy(common::quick_restarts(2))
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let down = common::keys_of(&db, &ks, 1, 3).await;
    let up = common::keys_of(&db, &ks, 0, 3).await;
    ks.put(&down[0], "before").await?;
    ks.put(&up[0], "before").await?;
    trap.set("node", Some(1), "Request", false, 0, usize::MAX);
    let mut restarts = 0;
    let error = loop {
        match patiently(ks.put(&down[1], "value")).await {
            Err(Error::NodeRestarted { .. }) => restarts += 1,
            // It had waited in the queue of the restarting node.
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(
        error,
        Error::NodeDown {
            node: mailring::NodeId(1)
        }
    );
    assert!(
        restarts >= 3,
        "two restarts are allowed, {restarts} were tried"
    );

    assert_eq!(ks.get(&down[0]).await, Err(error.clone()));
    assert_eq!(ks.put(&down[0], "x").await, Err(error.clone()));
    assert_eq!(db.snapshot().err(), Some(error.clone()));
    assert_eq!(ks.scan::<&[u8]>(..).count().await, Err(error));
    for round in 0..20 {
        let lsn = patiently(ks.put(&up[1], format!("{round}"))).await?;
        assert!(db.stats().visible_lsn >= lsn, "nothing is held back");
    }
    assert_eq!(ks.get(&up[0]).await?.as_deref(), Some(&b"before"[..]));
    patiently(db.checkpoint()).await?;
    patiently(ks.put(&up[2], "after the checkpoint")).await?;
    let stats = db.stats();
    assert_eq!(stats.nodes[1].state, NodeState::Down);
    assert_eq!(stats.nodes[1].restarts, 2);
    assert!(
        stats.nodes[1]
            .last_failure
            .as_deref()
            .unwrap()
            .contains("trap")
    );
    assert_eq!(stats.nodes[0].state, NodeState::Serving);

    patiently(db.shutdown()).await?;
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get(&down[0]).await?.as_deref(), Some(&b"before"[..]));
    assert_eq!(ks.get(&up[1]).await?.as_deref(), Some(&b"19"[..]));
    ks.put(&down[0], "again").await?;
    Ok(())
}

/// The node goes down with commits staged, sent, resolved and half installed: the visible LSN passes them, and what was
/// acknowledged is there after reopening.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_goes_down_under_load_holds_nobody_back() -> Result<()> {
    for message in [
        "Request", "Flush", "Resolve", "Visible", "Freeze", "Flushed",
    ] {
        for handled in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let trap = Trap::new();
            let db = builder(directory.path())
                .restart_policy(common::quick_restarts(0))
                .fault_hook(trap.hook())
                .open()
                .await?;
            let ks = db.keyspace("ks").await?;
            let ledger = Arc::<Mutex<Ledger>>::default();
            trap.set("node", Some(1), message, handled, 2, 1);
            let checkpoints = {
                let db = db.clone();
                tokio::spawn(async move {
                    for _ in 0..4 {
                        db.checkpoint().await?;
                    }
                    Ok::<_, Error>(())
                })
            };
            load(&ks, &ledger, "during", 8, 10).await;
            patiently(checkpoints).await.unwrap()?;
            assert_eq!(trap.sprung(), 1, "{message} {handled}");
            until(|| db.stats().nodes[1].state == NodeState::Down).await;
            let up = format!("after-{message}-{handled}");
            for number in 0..20 {
                match patiently(ks.put(format!("{up}-{number}"), "v")).await {
                    Ok(lsn) => assert!(db.stats().visible_lsn >= lsn),
                    Err(error) => assert!(matches!(error, Error::NodeDown { .. }), "{error}"),
                }
            }
            until_idle(&db).await;
            drop((ks, db));
            let db = builder(directory.path()).open().await?;
            let ledger = std::mem::take(&mut *ledger.lock().unwrap());
            ledger.check(&db.keyspace("ks").await?).await;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_panics_leaves_a_read_only_engine_that_reopens_whole() -> Result<()> {
    for message in ["Append", "Cut", "Persisted", "Installed", "Mark"] {
        for handled in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let trap = Trap::new();
            let db = builder(directory.path())
                .fault_hook(trap.hook())
                .open()
                .await?;
            let ks = db.keyspace("ks").await?;
            ks.put("first", "value").await?;
            let ledger = Arc::<Mutex<Ledger>>::default();
            let skip = if message == "Mark" { 0 } else { 20 };
            trap.set("journal", None, message, handled, skip, 1);
            let checkpoint = {
                let db = db.clone();
                tokio::spawn(async move { db.checkpoint().await })
            };
            load(&ks, &ledger, "during", 8, 200).await;
            let checkpoint = patiently(checkpoint).await.unwrap();
            assert_eq!(trap.sprung(), 1, "{message} {handled}");
            assert!(
                matches!(checkpoint, Ok(_) | Err(Error::ReadOnly { .. })),
                "{checkpoint:?}"
            );
            assert_read_only(&db).await?;
            let ledger = std::mem::take(&mut *ledger.lock().unwrap());
            drop((ks, db));
            let db = builder(directory.path()).open().await?;
            let ks = db.keyspace("ks").await?;
            ledger.check(&ks).await;
            ks.put("first", "again").await?;
        }
    }
    Ok(())
}

async fn assert_read_only(db: &Mailring) -> Result<()> {
    until(|| db.stats().read_only.is_some()).await;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get("first").await?.as_deref(), Some(&b"value"[..]));
    assert!(ks.scan::<&[u8]>(..).count().await? > 0);
    let refused = |error: Option<Error>| matches!(error, Some(Error::ReadOnly { .. }));
    assert!(refused(patiently(ks.put("first", "x")).await.err()));
    assert!(refused(patiently(ks.add("counter", 1)).await.err()));
    assert!(refused(patiently(db.keyspace("new")).await.err()));
    assert!(refused(patiently(db.drop_keyspace("ks")).await.err()));
    assert!(refused(patiently(db.checkpoint()).await.err()));
    until_idle(db).await;
    patiently(db.shutdown()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpointer_that_panics_leaves_a_read_only_engine_that_reopens_whole() -> Result<()> {
    for handled in [false, true] {
        for skip in [0, 2, 4] {
            let directory = tempfile::tempdir().unwrap();
            let trap = Trap::new();
            let db = builder(directory.path())
                .fault_hook(trap.hook())
                .open()
                .await?;
            let ks = db.keyspace("ks").await?;
            ks.put("first", "value").await?;
            let ledger = Arc::<Mutex<Ledger>>::default();
            let checkpoint = {
                let db = db.clone();
                trap.set("checkpointer", None, "Checkpoint", handled, skip, 1);
                tokio::spawn(async move { db.checkpoint().await })
            };
            load(&ks, &ledger, "during", 4, 20).await;
            let checkpoint = patiently(checkpoint).await.unwrap();
            assert!(
                matches!(checkpoint, Ok(_) | Err(Error::ReadOnly { .. })),
                "{checkpoint:?}"
            );
            until(|| trap.sprung() == 1).await;
            assert_read_only(&db).await?;
            let ledger = std::mem::take(&mut *ledger.lock().unwrap());
            drop((ks, db));
            let db = builder(directory.path()).open().await?;
            ledger.check(&db.keyspace("ks").await?).await;
            patiently(db.checkpoint()).await?;
        }
    }
    Ok(())
}

/// A rebuild, a checkpoint and the load at the same time, many times over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_and_checkpoints_at_once_do_not_take_a_node_down() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .restart_policy(common::quick_restarts(100))
        .checkpoint_bytes(4 << 10)
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let ledger = Arc::<Mutex<Ledger>>::default();
    for round in 0..20 {
        let kind = ["Request", "Freeze", "Flushed", "Visible"][round % 4];
        trap.set("node", None, kind, round % 3 == 0, round % 5, 2);
        load(&ks, &ledger, &format!("round-{round}"), 8, 5).await;
    }
    trap.set("node", None, "", false, 0, 0);
    assert!(trap.sprung() > 10);
    patiently(db.checkpoint()).await?;
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    ledger.check(&ks).await;
    assert!(
        db.stats()
            .nodes
            .iter()
            .all(|node| node.state != NodeState::Down)
    );
    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    ledger.check(&db.keyspace("ks").await?).await;
    Ok(())
}

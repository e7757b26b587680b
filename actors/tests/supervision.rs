//! What a restart means to callers: who is told what, what is kept, and who goes on. For every kind of message see
//! `panics`.

mod common;

use common::{
    Gate, OpensAtTheEnd, Trap, builder, patiently, quick_restarts, stage::Stage, until, until_idle,
};
use mailring::{Error, FaultSite, Heal, NodeEvent, NodeId, NodeState, Result};
use std::sync::Arc;

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
        .restart_policy(quick_restarts(2))
        .heal(Heal::Wait)
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
    assert_eq!(error, Error::NodeDown { node: NodeId(1) });
    assert!(
        restarts >= 3,
        "two restarts are allowed, {restarts} were tried"
    );

    assert_eq!(ks.get(&down[0]).await, Err(error.clone()));
    assert_eq!(ks.put(&down[0], "x").await, Err(error.clone()));
    assert_eq!(db.snapshot().err(), Some(error.clone()));
    assert_eq!(
        ks.get_many([&up[0], &down[0]]).await,
        Err(error.clone()),
        "one of them is out of reach"
    );
    assert_eq!(
        ks.get_many([&up[0], &up[2]]).await?,
        [Some("before".into()), None]
    );
    assert_eq!(ks.scan(..).count().await, Err(error));
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

/// Who dies of a message again when it is told once more is given up; that it has panicked too is no restart.
#[tokio::test]
async fn a_node_that_dies_twice_of_a_message_is_down_and_never_said_to_be_back() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .restart_policy(quick_restarts(5))
        .heal(Heal::Wait)
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let lost = common::keys_of(&db, &ks, 1, 1).await;
    let kept = common::keys_of(&db, &ks, 0, 1).await;
    until_idle(&db).await;
    let mut events = db.nodes().events();
    trap.set("node", Some(1), "Effect", true, 0, 2);
    patiently(db.checkpoint()).await?;
    let down = patiently(events.next()).await;
    assert!(
        matches!(&down, Some(NodeEvent::Down { node, .. }) if *node == NodeId(1)),
        "{down:?}"
    );
    assert_eq!(trap.sprung(), 2);
    // What the supervisor says is heard in order.
    trap.set("node", Some(0), "Request", false, 0, 1);
    let restarted = patiently(ks.put(&kept[0], "value")).await;
    assert!(matches!(restarted, Err(Error::NodeRestarted { .. })));
    let next = patiently(events.next()).await;
    assert!(
        matches!(&next, Some(NodeEvent::Restarted { node, .. }) if *node == NodeId(0)),
        "{next:?}"
    );
    let stats = db.stats();
    assert_eq!(stats.nodes[1].state, NodeState::Down);
    assert_eq!(stats.nodes[1].restarts, 0);
    assert_eq!(
        ks.get(&lost[0]).await,
        Err(Error::NodeDown { node: NodeId(1) })
    );
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
            let stage =
                Stage::tuned(|builder| builder.restart_policy(quick_restarts(0)).heal(Heal::Wait))
                    .await?;
            let db = &stage.db;
            stage.trap.set("node", Some(1), message, handled, 2, 1);
            let checkpoints = stage.checkpoints(4);
            stage.load("during", 8, 10).await;
            patiently(checkpoints).await.unwrap()?;
            assert_eq!(stage.trap.sprung(), 1, "{message} {handled}");
            until(|| db.stats().nodes[1].state == NodeState::Down).await;
            let up = format!("after-{message}-{handled}");
            for number in 0..20 {
                match patiently(stage.ks.put(format!("{up}-{number}"), "v")).await {
                    Ok(lsn) => assert!(db.stats().visible_lsn >= lsn),
                    Err(error) => assert!(matches!(error, Error::NodeDown { .. }), "{error}"),
                }
            }
            until_idle(db).await;
            stage.assert_reopens_whole().await?;
        }
    }
    Ok(())
}

/// A rebuild, a checkpoint and the load at the same time, many times over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_and_checkpoints_at_once_do_not_take_a_node_down() -> Result<()> {
    let stage = Stage::tuned(|builder| {
        builder
            .restart_policy(quick_restarts(100))
            .checkpoint_bytes(4 << 10)
    })
    .await?;
    for round in 0..20 {
        let kind = ["Request", "Freeze", "Flushed", "Visible"][round % 4];
        stage
            .trap
            .set("node", None, kind, round % 3 == 0, round % 5, 2);
        stage.load(&format!("round-{round}"), 8, 5).await;
    }
    stage.trap.set("node", None, "", false, 0, 0);
    assert!(stage.trap.sprung() > 10);
    patiently(stage.db.checkpoint()).await?;
    stage.check().await;
    let nodes = stage.db.stats().nodes;
    assert!(nodes.iter().all(|node| node.state != NodeState::Down));
    stage.assert_reopens_whole().await
}

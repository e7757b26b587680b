//! Panics at every kind of message that a change sends, and trees that can't be written.

use crate::{
    common::{OpensAtTheEnd, Trap, patiently, store::Trees, until},
    world::{Stop, beside_load, builder, check_whole, fill, members},
};
use mailring::{ChangeEnd, Error, FaultSite, Result, kinds};
use std::{io::ErrorKind, sync::Arc};

/// Who can panic, and at what, while a change goes its way.
const PANICS: &[(&str, &[&str])] = &[
    (
        "router",
        &[
            "Start",
            "NodesReady",
            "RingAnswer",
            "Held",
            "HandedOver",
            "Worked",
            "Checkpointed",
            "Forgotten",
            "Publish",
            "Opened",
            "Effect",
        ],
    ),
    ("mover", &["Copy", "Follow", "Sweep"]),
    ("node", &["HandOver", "Owners", "Forget"]),
    ("runs", &["Ingest"]),
    ("checkpointer", &["Hold"]),
];

/// Kinds that need something else to happen first, and have tests of their own.
const ELSEWHERE: &[&str] = &[
    "Open",
    "Ring",
    "RingPublished",
    "Cancel",
    "KeepArcs",
    "Resume",
    "NodeRestarted",
    // Nothing is done for it but to show it.
    "Working",
    // A node that is given up, and an engine that is read-only, stop a change whatever the router does.
    "NodeDown",
    "ReadOnly",
    // Met in `panics.rs`, and by whatever is tried again here.
    "Tick",
    "NodeStatus",
    // Where there are several directories: `directories.rs`.
    "Place",
];

#[test]
fn every_kind_has_its_row() {
    let all = [
        kinds::MOTION,
        kinds::ROUTER_SHELL,
        kinds::MOVER,
        kinds::MOVER_WORK,
        kinds::NODE_MOVES,
        kinds::JOURNAL_MOVES,
        kinds::CHECKPOINTER_MOVES,
        kinds::RUNS_MOVES,
    ];
    for kind in all.iter().flat_map(|kinds| kinds.iter()) {
        let has_row = PANICS.iter().any(|(_, rows)| rows.contains(kind));
        assert!(has_row || ELSEWHERE.contains(kind), "{kind} needs a row");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_any_message_of_a_change_stops_nobody() -> Result<()> {
    for (actor, messages) in PANICS {
        for message in *messages {
            let directory = tempfile::tempdir().unwrap();
            let trap = Trap::new();
            let db = builder(directory.path())
                .nodes(2)
                .fault_hook(trap.hook())
                .open()
                .await?;
            let ks = fill(&db).await?;
            trap.set(actor, None, message, *message == "Effect", 0, 1);
            let change = patiently(db.nodes().add(1)).await?;
            let end = patiently(change.wait()).await?;
            assert_eq!(end, ChangeEnd::Completed, "{actor} {message}");
            assert_eq!(trap.sprung(), 1, "{actor} {message}");
            assert_eq!(members(&db).len(), 3);
            check_whole(&db, &ks).await?;
        }
    }
    Ok(())
}

/// The source stayed frozen, and its writers waited, until the engine was opened again.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_given_up_in_a_hand_over_leaves_all_keys_writable() -> Result<()> {
    for (message, skip) in [
        ("Held", 0),
        ("Worked", 0),
        ("HandedOver", 0),
        ("RingAnswer", 1),
        ("Checkpointed", 0),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let trap = Trap::new();
        let open = || {
            let builder = builder(directory.path()).nodes(2);
            builder.fault_hook(trap.hook()).open()
        };
        let db = open().await?;
        let ks = fill(&db).await?;
        trap.set("router", None, message, false, skip, 2);
        let change = patiently(db.nodes().add(1)).await?;
        let refused = patiently(change.wait()).await.unwrap_err();
        assert!(
            matches!(refused, Error::RingChangeRefused { .. }),
            "{message}: {refused}"
        );
        assert_eq!(trap.sprung(), 2, "{message}");
        for number in 0..100 {
            patiently(ks.put(format!("since-{number}"), message)).await?;
        }
        patiently(db.checkpoint()).await?;
        drop((change, ks, db));
        // It goes on where the journal knows of it.
        let db = open().await?;
        let ks = db.keyspace("ks").await?;
        let change = db.nodes().change().expect("it goes on");
        assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
        assert_eq!(ks.prefix("since-").count().await?, 100, "{message}");
        check_whole(&db, &ks).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_panics_again_and_again_under_load_hands_over_in_the_end() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .nodes(2)
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = fill(&db).await?;
    trap.set("node", None, "HandOver", true, 0, 3);
    let end = {
        let change = db.nodes().add(1).await?;
        patiently(change.wait()).await?
    };
    assert_eq!(end, ChangeEnd::Completed);
    assert_eq!(trap.sprung(), 3);
    check_whole(&db, &ks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_a_copy_up_until_there_is_room() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trees = Trees::new();
    let db = builder(directory.path())
        .nodes(2)
        .store_hook(trees.hook())
        .open()
        .await?;
    let ks = fill(&db).await?;
    trees.fail(Some(ErrorKind::StorageFull));
    let story = async {
        let change = db.nodes().add(1).await?;
        until(|| change.progress().failure.is_some()).await;
        assert!(change.is_under_way(), "it never gives up");
        assert!(
            db.stats()
                .change
                .expect("it is under way")
                .failure
                .is_some()
        );
        trees.fail(None);
        change.wait().await
    };
    assert_eq!(beside_load(&db, &ks, story).await?, ChangeEnd::Completed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_limit_is_kept_and_cancelling_does_not_wait_for_it() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .nodes(2)
        .move_rate(2_000)
        .open()
        .await?;
    let ks = fill(&db).await?;
    let value = vec![7; 100 << 10];
    for number in 0..20 {
        ks.put(format!("large-{number}"), &value).await?;
    }
    let change = db.nodes().add(1).await?;
    until(|| change.progress().step == mailring::ChangeStep::Copying).await;
    assert_eq!(patiently(change.cancel()).await?, ChangeEnd::Cancelled);
    assert_eq!(members(&db).len(), 2);
    check_whole(&db, &ks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_not_be_opened_is_an_error_and_the_next_attempt_finds_its_place()
-> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .nodes(2)
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = fill(&db).await?;
    trap.set("mover", None, "Open", true, 0, 1);
    let change = db.nodes().add(1).await?;
    let error = patiently(change.wait()).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert_eq!(members(&db).len(), 2);
    let end = patiently(db.nodes().add(1).await?.wait()).await?;
    assert_eq!(end, ChangeEnd::Completed);
    assert_eq!(members(&db).len(), 3);
    check_whole(&db, &ks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_change_is_cancelled_stops_nobody() -> Result<()> {
    for (actor, message) in [("router", "Cancel"), ("node", "KeepArcs")] {
        let directory = tempfile::tempdir().unwrap();
        let (trap, stop) = (Trap::new(), Stop::new());
        let _opens = OpensAtTheEnd(Arc::clone(&stop.gate));
        let hooks = [trap.hook(), stop.hook()];
        let hook = Arc::new(move |site: &FaultSite<'_>| hooks.iter().for_each(|hook| hook(site)));
        let db = builder(directory.path())
            .nodes(2)
            .arbiters(8)
            .fault_hook(hook)
            .open()
            .await?;
        let ks = fill(&db).await?;
        trap.set(actor, None, message, false, 0, 1);
        stop.close_at("node", "HandOver");
        let change = db.nodes().add(1).await?;
        stop.until_held_up().await;
        let cancelled = tokio::spawn({
            let change = change.clone();
            async move { change.cancel().await }
        });
        stop.open();
        let end = patiently(cancelled).await.expect("it ended well")?;
        assert!(members(&db).len() == if end == ChangeEnd::Cancelled { 2 } else { 3 });
        check_whole(&db, &ks).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_dies_of_a_record_of_the_ring_goes_on_when_it_is_opened_again() -> Result<()>
{
    for message in ["Ring", "RingPublished"] {
        for skip in 0..4 {
            let directory = tempfile::tempdir().unwrap();
            let trap = Trap::new();
            let db = builder(directory.path())
                .nodes(2)
                .fault_hook(trap.hook())
                .open()
                .await?;
            let ks = fill(&db).await?;
            trap.set("journal", None, message, true, skip, 1);
            let change = db.nodes().add(1).await?;
            let error = patiently(change.wait()).await.unwrap_err();
            let names = (message, skip);
            assert!(
                matches!(error, Error::ReadOnly { .. }),
                "{names:?}: {error:?}"
            );
            drop((change, ks, db));
            let db = builder(directory.path()).open().await?;
            if let Some(change) = db.nodes().change() {
                let end = patiently(change.wait()).await?;
                assert_eq!(end, ChangeEnd::Completed, "{names:?}");
            }
            let ks = db.keyspace("ks").await?;
            check_whole(&db, &ks).await?;
        }
    }
    Ok(())
}

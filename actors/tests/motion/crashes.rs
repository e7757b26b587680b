//! A change is cancelled, or the engine ends, at every step; it leads back, or goes on.

use crate::{
    common::{OpensAtTheEnd, patiently},
    world::{Stop, beside_load, builder, check_whole, fill, members, node},
};
use mailring::{ChangeEnd, Mailring, Result};
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

const CHILD: &str = "MAILRING_MOTION_CHILD";
const DIRECTORY: &str = "MAILRING_MOTION_DIRECTORY";
const HELD_UP: &str = "the child is held up";
const TEST: &str =
    "crashes::an_engine_that_is_killed_at_any_step_goes_on_with_the_change_when_it_is_opened";

/// Places at which a change that adds a node can be found.
const PLACES: &[(&str, &str)] = &[
    ("mover", "Open"),
    ("router", "Opened"),
    ("journal", "Ring"),
    ("router", "Publish"),
    ("router", "Held"),
    ("mover", "Copy"),
    ("runs", "Ingest"),
    ("mover", "Follow"),
    ("node", "HandOver"),
    ("router", "HandedOver"),
    ("node", "Owners"),
    ("journal", "RingPublished"),
    ("mover", "Sweep"),
    ("router", "Checkpointed"),
    ("node", "Forget"),
    ("router", "Forgotten"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_cancelled_at_any_step_leads_back_or_has_ended() -> Result<()> {
    for (actor, message) in PLACES {
        let directory = tempfile::tempdir().unwrap();
        let stop = Stop::new();
        let _opens = OpensAtTheEnd(Arc::clone(&stop.gate));
        let db = builder(directory.path())
            .nodes(2)
            .fault_hook(stop.hook())
            .open()
            .await?;
        let ks = fill(&db).await?;
        let before = members(&db);
        let story = async {
            stop.close_at(actor, message);
            let change = tokio::spawn({
                let nodes = db.nodes();
                async move { nodes.add(1).await }
            });
            stop.until_held_up().await;
            let cancelled = tokio::spawn(async move {
                let change = change.await.expect("it was started")?;
                change.cancel().await
            });
            stop.open();
            patiently(cancelled).await.expect("it ended well")
        };
        let end = beside_load(&db, &ks, story).await?;
        match end {
            ChangeEnd::Cancelled => assert_eq!(members(&db), before, "{actor} {message}"),
            ChangeEnd::Completed => assert_eq!(members(&db).len(), 3, "{actor} {message}"),
        }
        // Another change finds everything as if nothing had been.
        let told = patiently(db.nodes().add(1).await?.wait()).await?;
        assert_eq!(told, ChangeEnd::Completed, "{actor} {message}");
        check_whole(&db, &ks).await?;
    }
    Ok(())
}

/// Opens the directory, adds a node, and says so when that has come to the place. Then it waits to be killed.
async fn child(place: &str) {
    let directory = env::var(DIRECTORY).expect("the parent says where");
    let (actor, message) = place.split_once(' ').expect("an actor and a message");
    let stop = Stop::new();
    let db = builder(Path::new(&directory))
        .nodes(2)
        .fault_hook(stop.hook())
        .open()
        .await
        .expect("the child opens the directory");
    let ks = fill(&db).await.expect("the child fills it");
    stop.close_at(actor, message);
    let nodes = db.nodes();
    let add = tokio::spawn(async move { nodes.add(1).await });
    stop.until_held_up().await;
    println!("{HELD_UP}");
    for line in std::io::stdin().lines() {
        println!("{line:?} instead of a kill");
    }
    drop((add, ks));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_at_any_step_goes_on_with_the_change_when_it_is_opened()
-> Result<()> {
    if let Ok(place) = env::var(CHILD) {
        child(&place).await;
        return Ok(());
    }
    for (actor, message) in PLACES {
        let directory = tempfile::tempdir().unwrap();
        let place = format!("{actor} {message}");
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args([TEST, "--exact", "--nocapture"])
            .env(CHILD, &place)
            .env(DIRECTORY, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let is_held_up = output
            .lines()
            .any(|line| line.is_ok_and(|line| line.contains(HELD_UP)));
        child.kill().expect("the child is killed");
        child.wait().expect("the child has ended");
        assert!(is_held_up, "the child never came to {place}");
        let db = builder(directory.path()).open().await?;
        let ks = db.keyspace("ks").await?;
        if let Some(change) = db.nodes().change() {
            let told = patiently(change.wait()).await?;
            assert_eq!(told, ChangeEnd::Completed, "{place}");
        }
        let members = members(&db);
        assert!((2..=3).contains(&members.len()), "{place}: {members:?}");
        check_whole(&db, &ks).await?;
        // Whatever came of it, the next change finds its feet.
        let told = patiently(db.nodes().set_weight(node(0), 2).await?.wait()).await?;
        assert_eq!(told, ChangeEnd::Completed, "{place}");
        check_whole(&db, &ks).await?;
        db.shutdown().await?;
        Mailring::verify_directory(directory.path())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_dropped_in_the_middle_resumes_under_load() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let stop = Stop::new();
    {
        let opens = OpensAtTheEnd(Arc::clone(&stop.gate));
        let db = builder(directory.path())
            .nodes(3)
            .fault_hook(stop.hook())
            .open()
            .await?;
        let ks = fill(&db).await?;
        stop.close_at("node", "Owners");
        let change = db.nodes().remove(node(0)).await?;
        stop.until_held_up().await;
        drop(opens);
        drop((change, ks, db));
    }
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    let story = async {
        match db.nodes().change() {
            Some(change) => change.wait().await,
            None => Ok(ChangeEnd::Completed),
        }
    };
    assert_eq!(beside_load(&db, &ks, story).await?, ChangeEnd::Completed);
    assert_eq!(members(&db), BTreeMap::from([(1, 1), (2, 1)]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_the_middle_is_whole_and_goes_on_by_itself() -> Result<()> {
    for (actor, message) in [
        ("mover", "Copy"),
        ("mover", "Sweep"),
        ("router", "HandedOver"),
    ] {
        let (directory, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stop = Stop::new();
        let _opens = OpensAtTheEnd(Arc::clone(&stop.gate));
        let db = builder(directory.path())
            .nodes(2)
            .arbiters(8)
            .fault_hook(stop.hook())
            .open()
            .await?;
        let ks = fill(&db).await?;
        stop.close_at(actor, message);
        let change = db.nodes().add(1).await?;
        stop.until_held_up().await;
        db.backup(backup.path()).await?;
        db.verify().await?;
        stop.open();
        assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
        check_whole(&db, &ks).await?;
        drop((change, ks, db));
        let db = builder(backup.path()).open().await?;
        if let Some(change) = db.nodes().change() {
            assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
        }
        let ks = db.keyspace("ks").await?;
        assert_eq!(members(&db).len(), 3, "{actor} {message}");
        check_whole(&db, &ks).await?;
    }
    Ok(())
}

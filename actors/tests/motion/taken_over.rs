//! A node that is given up, and whose arcs the others take over.

use crate::{
    common::{OpensAtTheEnd, Trap, keys_of, patiently, quick_restarts, until},
    world::{
        ACCOUNTS, Stop, TOTAL, account, builder, check_still, check_whole, fill, members, node,
        total, transfer,
    },
};
use mailring::{
    ChangeEnd, Error, FaultHook, FaultSite, Heal, Keyspace, Mailring, NodeEvent, NodeId, NodeState,
    Result,
};
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

/// The node that is lost.
const LOST: u16 = 1;

/// An engine of three nodes under a load, of which one can be made to panic at every message.
struct Loss {
    directory: tempfile::TempDir,
    trap: Arc<Trap>,
    /// What must go wrong before that.
    first: Arc<Trap>,
    stop: Arc<Stop>,
    db: Mailring,
    ks: Keyspace,
}

/// What a counter has been told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    acknowledged: i64,
    unknown: i64,
}

fn hook(traps: [&Arc<Trap>; 2], stop: &Arc<Stop>) -> FaultHook {
    let hooks = [traps[0].hook(), traps[1].hook(), stop.hook()];
    Arc::new(move |site: &FaultSite<'_>| hooks.iter().for_each(|hook| hook(site)))
}

impl Loss {
    async fn open(nodes: u16, heal: Heal) -> Result<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (trap, first, stop) = (Trap::new(), Trap::new(), Stop::new());
        let db = builder(directory.path())
            .nodes(nodes)
            .restart_policy(quick_restarts(1))
            .arbiters(8)
            .heal(heal)
            .fault_hook(hook([&first, &trap], &stop))
            .open()
            .await?;
        let ks = fill(&db).await?;
        Ok(Self {
            directory,
            trap,
            first,
            stop,
            db,
            ks,
        })
    }

    /// Has the node panic at this message until it is given up.
    fn lose_at(&self, message: &str, handled: bool, skip: usize) {
        self.trap
            .set("node", Some(LOST), message, handled, skip, usize::MAX);
    }

    async fn until_taken_over(&self) {
        until(|| !members(&self.db).contains_key(&LOST)).await;
        until(|| self.db.nodes().change().is_none()).await;
    }

    /// Writers of every sort beside `story`, who take `NodeDown` for an answer. What they were told must be there in the end,
    /// and after another opening too.
    async fn beside_load(&self, story: impl Future<Output = ()>) -> Result<()> {
        let over = Arc::new(AtomicBool::new(false));
        let told: Arc<Mutex<BTreeMap<String, Told>>> = Arc::default();
        let mut tasks = Vec::new();
        for task in 0..3_u32 {
            let (db, ks, over) = (self.db.clone(), self.ks.clone(), Arc::clone(&over));
            tasks.push(tokio::spawn(async move {
                let mut number = task * 11;
                while !over.load(SeqCst) {
                    let _ = transfer(&db, &ks, number).await;
                    number += 1;
                }
            }));
        }
        for task in 0..3_usize {
            let (ks, over, told) = (self.ks.clone(), Arc::clone(&over), Arc::clone(&told));
            tasks.push(tokio::spawn(async move {
                for number in 0.. {
                    if over.load(SeqCst) {
                        break;
                    }
                    let key = format!("counter-{}", (task + number) % 7);
                    let sum = ks.add(&key, 1).await;
                    let mut told = told.lock().unwrap();
                    let told = told.entry(key).or_default();
                    match sum {
                        Ok(_) => told.acknowledged += 1,
                        Err(Error::Unknown { .. }) => told.unknown += 1,
                        Err(error) => assert!(
                            error.is_retryable() || matches!(error, Error::NodeDown { .. }),
                            "{error:?}"
                        ),
                    }
                }
            }));
        }
        {
            let (ks, over) = (self.ks.clone(), Arc::clone(&over));
            tasks.push(tokio::spawn(async move {
                while !over.load(SeqCst) {
                    match total(&ks).await {
                        Ok(sum) => assert_eq!(sum, TOTAL),
                        Err(error) => assert!(matches!(error, Error::NodeDown { .. }), "{error:?}"),
                    }
                }
            }));
        }
        until(|| !told.lock().unwrap().is_empty()).await;
        patiently(story).await;
        over.store(true, SeqCst);
        for task in tasks {
            patiently(task).await.expect("the task ended well");
        }
        let told = told.lock().unwrap().clone();
        check_told(&self.ks, &told).await?;
        Ok(())
    }

    async fn check_whole(&self) -> Result<()> {
        check_whole(&self.db, &self.ks).await
    }

    /// Opens the directory again, as it was left.
    async fn reopen(self) -> Result<(tempfile::TempDir, Mailring, Keyspace)> {
        let Self {
            directory, db, ks, ..
        } = self;
        drop((db, ks));
        let db = builder(directory.path()).open().await?;
        let ks = db.keyspace("ks").await?;
        check_whole(&db, &ks).await?;
        Ok((directory, db, ks))
    }
}

async fn check_told(ks: &Keyspace, told: &BTreeMap<String, Told>) -> Result<()> {
    for (key, told) in told {
        let value = ks.get(key).await?;
        let value = value.map_or(0, |value| crate::world::counter(&value));
        let possible = told.acknowledged..=told.acknowledged + told.unknown;
        assert!(possible.contains(&value), "{key} is {value}: {told:?}");
    }
    Ok(())
}

/// Every kind of message at which a node that serves can die.
const MESSAGES: &[&str] = &[
    "Request", "Flush", "Resolve", "Visible", "Prepares", "Settles", "Aborts", "Freeze", "Flushed",
    "Fenced", "Rebuilt",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_of_any_message_is_taken_over_under_load_and_nothing_is_lost() -> Result<()>
{
    for message in MESSAGES {
        for handled in [false, true] {
            println!("{message} {handled}");
            let loss = Loss::open(3, Heal::TakeOver).await?;
            let story = async {
                let is_of_restart = matches!(*message, "Fenced" | "Rebuilt");
                loss.lose_at(message, handled, if is_of_restart { 0 } else { 3 });
                if is_of_restart {
                    loss.first.set("node", Some(LOST), "Request", true, 5, 1);
                }
                let checkpoints = tokio::spawn({
                    let db = loss.db.clone();
                    async move {
                        while members(&db).contains_key(&LOST) {
                            let _ = db.checkpoint().await;
                        }
                    }
                });
                loss.until_taken_over().await;
                checkpoints.await.expect("checkpoints go on");
            };
            loss.beside_load(story).await?;
            assert_eq!(members(&loss.db), BTreeMap::from([(0, 1), (2, 1)]));
            loss.check_whole().await?;
            let (_directory, db, _) = loss.reopen().await?;
            assert_eq!(members(&db).len(), 2);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn its_keys_answer_node_down_until_the_others_serve_them_and_all_of_it_is_told() -> Result<()>
{
    let loss = Loss::open(3, Heal::TakeOver).await?;
    let _opens = OpensAtTheEnd(Arc::clone(&loss.stop.gate));
    let mut events = loss.db.nodes().events();
    let key = keys_of(&loss.db, &loss.ks, LOST, 1).await.remove(0);
    loss.ks.put(&key, "before").await?;
    // What a reader has left in the cache is not what is there in the end.
    loss.ks.get(&key).await?;
    loss.stop.close_at("mover", "Copy");
    loss.lose_at("Resolve", false, 0);
    let mut last = String::new();
    for number in 0.. {
        let value = number.to_string();
        match patiently(loss.ks.put(&key, &value)).await {
            Ok(_) | Err(Error::Unknown { .. }) => last = value,
            Err(Error::NodeDown { .. }) => break,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
        if number == 0 {
            assert_eq!(loss.ks.get(&key).await?.as_deref(), Some(&b"0"[..]));
        }
    }
    loss.stop.until_held_up().await;
    let down = Error::NodeDown { node: node(LOST) };
    assert_eq!(loss.ks.get(&key).await, Err(down.clone()));
    assert_eq!(loss.ks.put(&key, "never").await, Err(down.clone()));
    assert_eq!(loss.db.snapshot().err(), Some(down.clone()));
    assert_eq!(loss.ks.scan(..).count().await, Err(down));
    let change = loss.db.nodes().change().expect("it is under way");
    assert_eq!(change.progress().taken_over, [node(LOST)]);
    let state = loss.db.stats().nodes[usize::from(LOST)].state;
    assert_eq!(state, NodeState::Down);
    let refused = loss.db.nodes().add(1).await;
    assert!(
        matches!(refused, Err(Error::RingChangeRefused { .. })),
        "one at a time"
    );
    loss.stop.open();
    assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
    assert_eq!(loss.ks.get(&key).await?.as_deref(), Some(last.as_bytes()));
    loss.ks.put(&key, "again").await?;
    loss.check_whole().await?;
    let mut told = Vec::new();
    while !matches!(told.last(), Some(NodeEvent::TakenOver { .. })) {
        told.push(patiently(events.next()).await.expect("the engine is there"));
    }
    let (nodes, last) = (vec![node(LOST)], told.len() - 3);
    assert!(
        matches!(
            told[0],
            NodeEvent::Restarted {
                node: NodeId(LOST),
                ..
            }
        ),
        "{told:?}"
    );
    assert!(
        matches!(
            told[last],
            NodeEvent::Down {
                node: NodeId(LOST),
                ..
            }
        ),
        "{told:?}"
    );
    let take_over = NodeEvent::TakeOver {
        nodes: nodes.clone(),
    };
    assert_eq!(
        told[last + 1..],
        [take_over, NodeEvent::TakenOver { nodes }]
    );
    // Whoever comes later hears it too.
    let mut late = loss.db.nodes().events();
    assert_eq!(late.next().await.as_ref(), told.first());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_heal_wait_a_lost_node_is_lost_until_the_engine_is_opened_again() -> Result<()> {
    let loss = Loss::open(3, Heal::Wait).await?;
    let key = keys_of(&loss.db, &loss.ks, LOST, 1).await.remove(0);
    loss.ks.put(&key, "before").await?;
    loss.lose_at("Request", false, 0);
    while !matches!(loss.ks.put(&key, "v").await, Err(Error::NodeDown { .. })) {}
    assert!(loss.db.nodes().change().is_none());
    let refused = loss.db.nodes().remove(node(LOST)).await;
    assert_eq!(refused.err(), Some(Error::NodeDown { node: node(LOST) }));
    let (_directory, db, ks) = loss.reopen().await?;
    assert_eq!(members(&db).len(), 3);
    assert_eq!(ks.get(&key).await?.as_deref(), Some(&b"before"[..]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_alone_waits_and_is_whole_when_it_is_opened_again() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .nodes(1)
        .restart_policy(quick_restarts(0))
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = fill(&db).await?;
    trap.set("node", None, "Request", false, 0, 1);
    assert!(ks.put("key", "v").await.is_err());
    until(|| db.stats().nodes[0].state == NodeState::Down).await;
    assert!(db.nodes().change().is_none());
    drop((db, ks));
    let db = builder(directory.path()).nodes(1).open().await?;
    let ks = db.keyspace("ks").await?;
    check_whole(&db, &ks).await
}

/// The source, the target and somebody else of a change that is under way.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_lost_while_a_change_runs_is_taken_over_in_its_place_or_behind_it() -> Result<()>
{
    for lost in [0, LOST, 2] {
        for (actor, message) in [
            ("mover", "Copy"),
            ("node", "HandOver"),
            ("router", "HandedOver"),
            ("mover", "Sweep"),
        ] {
            println!("{lost} {actor} {message}");
            let loss = Loss::open(2, Heal::TakeOver).await?;
            let _opens = OpensAtTheEnd(Arc::clone(&loss.stop.gate));
            let story = async {
                loss.stop.close_at(actor, message);
                let change = loss.db.nodes().add(1).await.expect("it begins");
                loss.stop.until_held_up().await;
                // What is there of a node that only joins are ticks and marks.
                let kind = if lost == 2 { "Freeze" } else { "Request" };
                loss.trap
                    .set("node", Some(lost), kind, false, 0, usize::MAX);
                let over = Arc::new(AtomicBool::new(lost != 2));
                let checkpoints = tokio::spawn({
                    let (db, over) = (loss.db.clone(), Arc::clone(&over));
                    async move {
                        while !over.load(SeqCst) {
                            let _ = db.checkpoint().await;
                        }
                    }
                });
                loss.stop.open();
                until(|| !members(&loss.db).contains_key(&lost)).await;
                until(|| loss.db.nodes().change().is_none()).await;
                over.store(true, SeqCst);
                checkpoints.await.expect("checkpoints go on");
                drop(change);
            };
            loss.beside_load(story).await?;
            loss.check_whole().await?;
            let others: Vec<u16> = members(&loss.db).into_keys().collect();
            assert!(!others.is_empty() && !others.contains(&lost), "{others:?}");
            loss.reopen().await?;
        }
    }
    Ok(())
}

/// The copy was asked for while its source lived. When it begins, more is visible than the source has installed; it said to be
/// complete up to there, and the take-over went on from that without the last commit. (Seed 2881 of the simulator.)
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_node_that_has_just_gone_down_is_no_newer_than_what_it_has_left() -> Result<()>
{
    let loss = Loss::open(2, Heal::TakeOver).await?;
    let _opens = OpensAtTheEnd(Arc::clone(&loss.stop.gate));
    let (db, ks) = (&loss.db, &loss.ks);
    let source = 0;
    // Of so many some are on arcs that move.
    let keys = keys_of(db, ks, source, 40).await;
    let other = keys_of(db, ks, LOST, 1).await.remove(0);
    loss.stop.close_at("mover", "Copy");
    let change = db.nodes().add(1).await?;
    loss.stop.until_held_up().await;

    // It dies before it installs what was committed, and again before it has that from the journal.
    loss.first.set("node", Some(source), "Resolve", false, 0, 1);
    loss.trap
        .set("node", Some(source), "Fenced", false, 0, usize::MAX);
    let mut last = db.batch();
    for key in &keys {
        last.put(ks, key, "last");
    }
    let told = patiently(last.commit()).await;
    assert!(
        matches!(told, Ok(_) | Err(Error::Unknown { .. })),
        "{told:?}"
    );
    until(|| db.stats().nodes[usize::from(source)].state == NodeState::Down).await;
    // Acknowledged when it is visible, and so is all before it.
    patiently(ks.put(&other, "later")).await?;

    loss.stop.open();
    patiently(change.wait()).await?;
    drop(change);
    until(|| !members(db).contains_key(&source) && db.nodes().change().is_none()).await;
    for key in &keys {
        assert_eq!(ks.get(key).await?.as_deref(), Some(&b"last"[..]), "{key}");
    }
    loss.check_whole().await?;
    let (_directory, _db, ks) = loss.reopen().await?;
    for key in &keys {
        assert_eq!(ks.get(key).await?.as_deref(), Some(&b"last"[..]), "{key}");
    }
    Ok(())
}

/// A panic at each step of a take-over, of whoever takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_any_message_of_a_take_over_stops_nobody() -> Result<()> {
    for (actor, message) in [
        ("router", "RingAnswer"),
        ("router", "Held"),
        ("router", "Worked"),
        ("router", "Publish"),
        ("router", "NodeDown"),
        ("mover", "Copy"),
        ("mover", "Follow"),
        ("node", "Owners"),
        ("runs", "Ingest"),
        ("checkpointer", "Hold"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (trap, loses) = (Trap::new(), Trap::new());
        let hooks = [trap.hook(), loses.hook()];
        let db = builder(directory.path())
            .nodes(3)
            .restart_policy(quick_restarts(1))
            .fault_hook(Arc::new(move |site: &FaultSite<'_>| {
                hooks.iter().for_each(|hook| hook(site));
            }))
            .open()
            .await?;
        let ks = fill(&db).await?;
        trap.set(actor, None, message, false, 0, 1);
        loses.set("node", Some(LOST), "Request", false, 0, usize::MAX);
        for number in 0..ACCOUNTS {
            let _ = ks.get(account(number)).await;
            let _ = ks.add(format!("new-{number}"), 1).await;
        }
        until(|| !members(&db).contains_key(&LOST)).await;
        until(|| db.nodes().change().is_none()).await;
        assert_eq!(trap.sprung(), 1, "{actor} {message}");
        check_whole(&db, &ks).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_is_cancelled_leaves_the_node_as_it_is_and_the_engine_serves() -> Result<()>
{
    let loss = Loss::open(3, Heal::TakeOver).await?;
    let _opens = OpensAtTheEnd(Arc::clone(&loss.stop.gate));
    loss.stop.close_at("mover", "Follow");
    let key = keys_of(&loss.db, &loss.ks, LOST, 1).await.remove(0);
    loss.lose_at("Request", false, 0);
    while !matches!(loss.ks.put(&key, "v").await, Err(Error::NodeDown { .. })) {}
    loss.stop.until_held_up().await;
    let change = loss.db.nodes().change().expect("it is under way");
    let cancelled = tokio::spawn(async move { change.cancel().await });
    loss.stop.open();
    let end = patiently(cancelled).await.expect("it ended well")?;
    assert_eq!(end, ChangeEnd::Cancelled);
    assert!(members(&loss.db).contains_key(&LOST));
    let mut events = loss.db.nodes().events();
    loop {
        match patiently(events.next()).await.expect("the engine is there") {
            NodeEvent::TakeOverUndone { nodes, failure } => {
                assert_eq!((nodes, failure), (vec![node(LOST)], None));
                break;
            }
            _ => continue,
        }
    }
    let (_directory, db, ks) = loss.reopen().await?;
    assert_eq!(members(&db).len(), 3);
    // Arcs come to it only when it has written what it has lost.
    patiently(db.nodes().set_weight(node(LOST), 3).await?.wait()).await?;
    check_whole(&db, &ks).await
}

const CHILD: &str = "MAILRING_TAKE_OVER_CHILD";
const DIRECTORY: &str = "MAILRING_TAKE_OVER_DIRECTORY";
const HELD_UP: &str = "the child is held up";
const TEST: &str = "taken_over::a_take_over_goes_on_when_the_engine_is_killed_at_any_step_of_it";

/// Opens the directory, loses a node under a load, and says so when the take-over has come to the place. Then it waits to be
/// killed.
async fn child(place: &str) {
    let directory = env::var(DIRECTORY).expect("the parent says where");
    let (actor, message) = place.split_once(' ').expect("an actor and a message");
    let (trap, first, stop) = (Trap::new(), Trap::new(), Stop::new());
    let db = builder(Path::new(&directory))
        .nodes(3)
        .restart_policy(quick_restarts(1))
        .fault_hook(hook([&first, &trap], &stop))
        .open()
        .await
        .expect("the child opens the directory");
    let ks = fill(&db).await.expect("the child fills it");
    for number in 0..50 {
        transfer(&db, &ks, number).await.expect("it serves");
    }
    db.checkpoint().await.expect("it can be written");
    stop.close_at(actor, message);
    trap.set("node", Some(LOST), "Resolve", false, 3, usize::MAX);
    let writer = tokio::spawn(async move {
        for number in 0.. {
            let _ = transfer(&db, &ks, number).await;
        }
    });
    stop.until_held_up().await;
    println!("{HELD_UP}");
    for line in std::io::stdin().lines() {
        println!("{line:?} instead of a kill");
    }
    drop(writer);
}

/// The node is as good as new when the directory is opened again, and what has begun goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_goes_on_when_the_engine_is_killed_at_any_step_of_it() -> Result<()> {
    if let Ok(place) = env::var(CHILD) {
        child(&place).await;
        return Ok(());
    }
    for (actor, message) in [
        ("router", "NodeDown"),
        ("journal", "Ring"),
        ("router", "RingAnswer"),
        ("router", "Held"),
        ("mover", "Copy"),
        ("runs", "Ingest"),
        ("mover", "Follow"),
        ("router", "Worked"),
        ("node", "Owners"),
        ("router", "Publish"),
        ("journal", "RingPublished"),
    ] {
        let place = format!("{actor} {message}");
        println!("{place}");
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args([TEST, "--exact", "--nocapture"])
            .env(CHILD, &place)
            .env(DIRECTORY, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
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
        let mut expected = BTreeMap::from([(0, 1), (LOST, 1), (2, 1)]);
        if let Some(change) = db.nodes().change() {
            assert_eq!(
                patiently(change.wait()).await?,
                ChangeEnd::Completed,
                "{place}"
            );
            expected.remove(&LOST);
        }
        assert_eq!(members(&db), expected, "{place}");
        check_whole(&db, &ks).await?;
        transfer(&db, &ks, 1).await?;
        db.shutdown().await?;
        Mailring::verify_directory(directory.path())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_four_are_lost_and_the_others_serve_everything() -> Result<()> {
    let loss = Loss::open(4, Heal::TakeOver).await?;
    let story = async {
        loss.lose_at("Request", false, 2);
        loss.until_taken_over().await;
        loss.trap
            .set("node", Some(3), "Resolve", true, 2, usize::MAX);
        until(|| members(&loss.db).len() == 2).await;
        until(|| loss.db.nodes().change().is_none()).await;
    };
    loss.beside_load(story).await?;
    assert_eq!(members(&loss.db), BTreeMap::from([(0, 1), (2, 1)]));
    loss.check_whole().await?;
    check_still(&loss.ks).await?;
    // The numbers are never used again.
    patiently(loss.db.nodes().add(1).await?.wait()).await?;
    assert_eq!(members(&loss.db), BTreeMap::from([(0, 1), (2, 1), (4, 1)]));
    let (_directory, db, _) = loss.reopen().await?;
    assert_eq!(members(&db).len(), 3);
    Ok(())
}

//! Several directories in one engine: where things are, what is one commit, and what is said when one of them is not there.

mod common;

use common::{
    Ledger, Trap, check, copy_directory, keys_of, load, patiently, tuned, until, until_idle,
};
use mailring::{
    Builder, ChangeEnd, Durability, Error, Keyspace, Mailring, NodeId, RestoreLoss, Result,
    Transaction, TxnOutcome,
};
use mailring_engine::{
    disk::{SimulatedDisk, Survivors},
    ids::DirectoryNo,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tempfile::TempDir;

/// Two directories beside each other, and room for more.
struct Disks {
    root: TempDir,
}

impl Disks {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    fn second(&self) -> PathBuf {
        self.root.path().join("second")
    }

    fn third(&self) -> PathBuf {
        self.root.path().join("third")
    }

    /// Two nodes, one in each.
    fn create(&self) -> Builder {
        self.known().directory(self.second()).nodes(2)
    }

    /// As somebody opens it who names none but the first.
    fn known(&self) -> Builder {
        tuned(Mailring::builder(self.home()))
    }
}

/// Whether there is a tree of the node.
fn has_tree(directory: &Path, node: u16) -> bool {
    directory.join(format!("node-{node:03}")).exists()
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Moves 1 between two keys of different nodes.
async fn transfer(db: &Mailring, ks: &Keyspace, keys: &[String; 2]) -> Result<()> {
    db.transact(async |txn: Transaction| {
        txn.add(ks, &keys[0], -1).await?;
        txn.add(ks, &keys[1], 1).await.map(drop)
    })
    .await
}

async fn a_key_of_each(db: &Mailring, ks: &Keyspace) -> [String; 2] {
    [
        keys_of(db, ks, 0, 1).await.remove(0),
        keys_of(db, ks, 1, 1).await.remove(0),
    ]
}

async fn balance(ks: &Keyspace, key: &str) -> Result<i64> {
    ks.add(key, 0).await
}

fn missing(outcome: Result<Mailring>) -> (DirectoryNo, PathBuf, String) {
    match outcome.map(|_| ()) {
        Err(Error::DirectoryMissing {
            directory,
            path,
            reason,
        }) => (directory, path, reason),
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn nodes_live_in_all_directories_and_are_found_again_without_naming_them() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    for _ in 0..20 {
        transfer(&db, &ks, &keys).await?;
    }
    for key in &keys {
        ks.put(format!("{key}-own"), key.as_str()).await?;
    }
    assert!(has_tree(&disks.home(), 0) && has_tree(&disks.second(), 1));
    assert!(!has_tree(&disks.home(), 1) && !has_tree(&disks.second(), 0));
    let folders = [disks.home(), disks.second()].map(|path| fs::canonicalize(path).unwrap());
    assert_eq!(db.nodes().directories(), folders);
    let in_memory = Mailring::memory().open().await?;
    assert!(in_memory.nodes().directories().is_empty());
    let second = entries(&disks.second());
    assert!(
        second.iter().any(|name| name.starts_with("journal-")),
        "{second:?}"
    );
    assert!(!second.contains(&"MANIFEST".to_owned()), "there is one");
    let durable = db.stats().durable_lsn;
    assert_eq!(durable, db.stats().visible_lsn, "everything is forced");
    // Without a checkpoint, so all is read back from the journals; then with one.
    drop((ks, db));
    for round in 0..2 {
        let db = disks.known().open().await?;
        let ks = db.keyspace("ks").await?;
        assert_eq!(balance(&ks, &keys[0]).await?, -20, "round {round}");
        assert_eq!(balance(&ks, &keys[1]).await?, 20);
        for key in &keys {
            let own = ks.get(format!("{key}-own")).await?;
            assert_eq!(own.as_deref(), Some(key.as_bytes()));
        }
        db.verify().await?;
        patiently(db.shutdown()).await?;
        let verified = Mailring::verify_directory(disks.home())?;
        assert!(verified.keys >= 4);
    }
    Ok(())
}

#[tokio::test]
async fn nodes_are_placed_where_the_builder_says() -> Result<()> {
    let disks = Disks::new();
    let placed = |directories: [u8; 3]| disks.create().nodes(3).node_directories(directories);
    drop(placed([1, 1, 0]).open().await?);
    assert!(has_tree(&disks.second(), 0) && has_tree(&disks.second(), 1));
    assert!(has_tree(&disks.home(), 2));
    drop(placed([1, 1, 0]).open().await?);
    let error = placed([1, 0, 0]).open().await.unwrap_err();
    assert!(
        matches!(&error, Error::SettingsMismatch { setting: "node_directories", directory, .. }
            if directory == "[1, 1, 0]"),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named_and_nothing_is_put_in_its_place() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    transfer(&db, &ks, &keys).await?;
    drop((ks, db));
    let away = disks.third();
    fs::rename(disks.second(), &away).unwrap();
    let second = || fs::canonicalize(disks.root.path()).unwrap().join("second");
    // Nothing is there; also where it is named.
    for builder in [disks.known(), disks.create()] {
        let (number, path, reason) = missing(builder.open().await);
        assert_eq!((number, path), (DirectoryNo(1), second()));
        assert_eq!(reason, "there is no such folder");
        assert!(!disks.second().exists());
    }
    let verified = Mailring::verify_directory(disks.home());
    assert!(matches!(verified, Err(Error::DirectoryMissing { .. })));
    // An empty folder: the disk is not mounted.
    fs::create_dir(disks.second()).unwrap();
    for builder in [disks.known(), disks.create()] {
        let (number, _, reason) = missing(builder.open().await);
        assert_eq!(number, DirectoryNo(1));
        assert_eq!(reason, "the folder there is not that of an engine");
        assert_eq!(entries(&disks.second()), [""; 0], "it is left alone");
    }
    fs::remove_dir(disks.second()).unwrap();
    // That of another engine.
    let other = Disks::new();
    drop(other.create().open().await?);
    fs::rename(other.second(), disks.second()).unwrap();
    let (number, _, reason) = missing(disks.known().open().await);
    assert_eq!(number, DirectoryNo(1));
    assert_eq!(reason, "a directory of another engine is there");
    // It is found where it is now, and from then on without being told.
    let db = disks.known().directory(&away).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[1]).await?, 1);
    drop((ks, db));
    let db = disks.known().open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[0]).await?, -1);
    Ok(())
}

#[tokio::test]
async fn directories_that_were_swapped_are_named_and_found_by_what_they_are() -> Result<()> {
    let disks = Disks::new();
    let three = || disks.create().directory(disks.third());
    drop(three().open().await?);
    fs::rename(disks.second(), disks.root.path().join("aside")).unwrap();
    fs::rename(disks.third(), disks.second()).unwrap();
    fs::rename(disks.root.path().join("aside"), disks.third()).unwrap();
    let (number, _, reason) = missing(disks.known().open().await);
    assert_eq!(number, DirectoryNo(1));
    assert_eq!(reason, "directory 2 of the engine is there");
    drop(three().open().await?);
    drop(disks.known().open().await?);
    Ok(())
}

#[tokio::test]
async fn an_older_copy_of_a_directory_is_named() -> Result<()> {
    for older in [DirectoryNo(0), DirectoryNo(1)] {
        let disks = Disks::new();
        let at = |number: DirectoryNo| match number {
            DirectoryNo(0) => disks.home(),
            _ => disks.second(),
        };
        let db = disks.create().open().await?;
        let ks = db.keyspace("ks").await?;
        let keys = a_key_of_each(&db, &ks).await;
        transfer(&db, &ks, &keys).await?;
        drop((ks, db));
        let copy = disks.third();
        copy_directory(&at(older), &copy);
        let db = disks.known().open().await?;
        let ks = db.keyspace("ks").await?;
        for _ in 0..3 {
            transfer(&db, &ks, &keys).await?;
        }
        drop((ks, db));
        fs::remove_dir_all(at(older)).unwrap();
        fs::rename(&copy, at(older)).unwrap();
        let error = disks.known().open().await.unwrap_err();
        assert!(
            matches!(error, Error::DirectoryBehind { directory, .. } if directory == older),
            "{older}: {error:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_engine_of_one_directory_takes_another_and_new_nodes_live_there() -> Result<()> {
    let disks = Disks::new();
    let db = disks.known().nodes(1).open().await?;
    let ks = db.keyspace("ks").await?;
    for number in 0..200 {
        ks.put(format!("pair-{number}"), number.to_string()).await?;
    }
    drop((ks, db));
    let db = disks.known().directory(disks.second()).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("more", "v").await?;
    assert!(has_tree(&disks.home(), 0) && !has_tree(&disks.second(), 0));
    // Number 1 comes to directory 1.
    let end = patiently(db.nodes().add(1).await?.wait()).await?;
    assert_eq!(end, ChangeEnd::Completed);
    assert!(has_tree(&disks.second(), 1));
    let keys = a_key_of_each(&db, &ks).await;
    transfer(&db, &ks, &keys).await?;
    drop((ks, db));
    let db = disks.known().open().await?;
    let ks = db.keyspace("ks").await?;
    for number in 0..200 {
        let value = ks.get(format!("pair-{number}")).await?;
        assert_eq!(value.as_deref(), Some(number.to_string().as_bytes()));
    }
    db.verify().await?;
    // And back: all is at home again.
    patiently(db.nodes().remove(NodeId(0)).await?.wait()).await?;
    assert_eq!(ks.scan(..).count().await?, 203);
    patiently(db.shutdown()).await?;
    drop((ks, db));
    assert!(Mailring::verify_directory(disks.home())?.keys >= 203);
    let db = disks.known().open().await?;
    assert_eq!(db.keyspace("ks").await?.scan(..).count().await?, 203);
    Ok(())
}

#[tokio::test]
async fn a_node_is_added_where_it_is_wanted() -> Result<()> {
    let disks = Disks::new();
    let trap = Trap::new();
    let db = disks.create().fault_hook(trap.hook()).open().await?;
    let ks = db.keyspace("ks").await?;
    for number in 0..200 {
        ks.put(format!("pair-{number}"), number.to_string()).await?;
    }
    let (home, second) = (DirectoryNo(0), DirectoryNo(1));
    let error = db.nodes().add_in(DirectoryNo(2), 1).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidOption {
                option: "directory",
                ..
            }
        ),
        "{error:?}"
    );
    // A panic on the way is an error, and the next attempt goes on.
    for handled in [false, true] {
        trap.set("runs", None, "Place", handled, 0, 1);
        let failed = patiently(db.nodes().add_in(second, 1).await?.wait()).await;
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        assert_eq!(trap.sprung(), 1 + usize::from(handled));
    }
    let placed = |db: &Mailring| -> Vec<_> {
        let nodes = db.nodes().list();
        nodes
            .iter()
            .map(|info| (info.node.0, info.directory))
            .collect()
    };
    for node in [2, 3] {
        let change = db.nodes().add_in(second, 1).await?;
        // Its number would be taken by then.
        let meanwhile = db.nodes().add_in(home, 1).await;
        assert!(
            matches!(meanwhile, Err(Error::RingChangeRefused { .. })),
            "{meanwhile:?}"
        );
        assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
        assert!(has_tree(&disks.second(), node) && !has_tree(&disks.home(), node));
    }
    let expected = [(0, home), (1, second), (2, second), (3, second)];
    assert_eq!(placed(&db), expected);
    db.transact(async |txn: Transaction| {
        for number in 0..200 {
            txn.put(&ks, format!("pair-{number}"), "new").await?;
        }
        Ok(())
    })
    .await?;
    drop((ks, db));
    let db = disks.known().open().await?;
    assert_eq!(placed(&db), expected);
    let ks = db.keyspace("ks").await?;
    for number in 0..200 {
        let value = ks.get(format!("pair-{number}")).await?;
        assert_eq!(value.as_deref(), Some(&b"new"[..]));
    }
    db.verify().await?;
    Ok(())
}

/// As the runbook says.
#[tokio::test]
async fn a_disk_that_is_about_to_go_is_emptied_and_its_folder_moved() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().nodes(4).open().await?;
    let ks = db.keyspace("ks").await?;
    for number in 0..200 {
        ks.put(format!("pair-{number}"), number.to_string()).await?;
    }
    let nodes = db.nodes();
    let leaving = nodes.list().into_iter();
    let leaving = leaving.filter(|node| node.directory == DirectoryNo(1));
    for old in leaving {
        patiently(nodes.add_in(DirectoryNo(0), old.weight).await?.wait()).await?;
        patiently(nodes.remove(old.node).await?.wait()).await?;
    }
    db.checkpoint().await?;
    patiently(db.shutdown()).await?;
    drop((ks, nodes, db));
    // The folders of nodes that have left go at the next opening.
    copy_directory(&disks.second(), &disks.third());
    fs::remove_dir_all(disks.second()).unwrap();
    let db = disks.known().directory(disks.third()).open().await?;
    assert!(!has_tree(&disks.third(), 1) && !has_tree(&disks.third(), 3));
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.scan(..).count().await?, 200);
    ks.put("after", "v").await?;
    db.verify().await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_restarts_reads_its_own_journal() -> Result<()> {
    let disks = Disks::new();
    let trap = Trap::new();
    let db = disks.create().fault_hook(trap.hook()).open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    for node in [0, 1] {
        for _ in 0..5 {
            transfer(&db, &ks, &keys).await?;
        }
        trap.set("node", Some(node), "Request", false, 0, 1);
        let struck = ks.put(format!("{{{}}}-x", keys[usize::from(node)]), "v");
        assert!(struck.await.is_err(), "the node has panicked");
        until(|| db.stats().nodes[usize::from(node)].restarts == 1).await;
        transfer(&db, &ks, &keys).await?;
    }
    assert_eq!(balance(&ks, &keys[0]).await?, -12);
    assert_eq!(balance(&ks, &keys[1]).await?, 12);
    Ok(())
}

/// The journal of the second directory is on a disk that fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_makes_the_engine_read_only_and_takes_nothing_that_was_told() -> Result<()>
{
    for survivors in [
        Survivors::Nothing,
        Survivors::Everything,
        Survivors::Seeded(3),
    ] {
        let disks = Disks::new();
        let simulated = SimulatedDisk::new();
        let on = |builder: Builder| builder.disk_of(1, Arc::new(simulated.clone()));
        let db = on(disks.create()).open().await?;
        let ks = db.keyspace("ks").await?;
        let keys = a_key_of_each(&db, &ks).await;
        let ledger = Arc::<Mutex<Ledger>>::default();
        load(&ks, &ledger, "before", 4, 5).await;
        let mut told = 0;
        for round in 0.. {
            simulated.fail_next_force();
            load(&ks, &ledger, &format!("during-{round}"), 4, 5).await;
            told += i64::from(transfer(&db, &ks, &keys).await.is_ok());
            if db.stats().read_only.is_some() {
                break;
            }
        }
        until_idle(&db).await;
        check(&ledger, &ks).await;
        let txn = db.begin()?;
        let id = txn.id();
        txn.put(&ks, &keys[0], "v").await?;
        let refused = txn.commit().await;
        assert!(
            matches!(refused, Err(Error::ReadOnly { .. })),
            "{refused:?}"
        );
        assert!(ks.scan(..).count().await? > 0, "reads go on");
        patiently(db.shutdown()).await?;
        drop((ks, db));
        simulated.crash(survivors);
        let db = on(disks.known()).open().await?;
        let ks = db.keyspace("ks").await?;
        check(&ledger, &ks).await;
        assert!(!matches!(db.outcome(id).await?, TxnOutcome::Committed(_)));
        let moved = balance(&ks, &keys[1]).await?;
        assert!(moved >= told);
        assert_eq!(balance(&ks, &keys[0]).await?, -moved, "not half of one");
        load(&ks, &ledger, "after", 4, 5).await;
        check(&ledger, &ks).await;
    }
    Ok(())
}

/// A full disk refuses what is written there, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_concerns_it_until_there_is_room() -> Result<()> {
    let disks = Disks::new();
    let simulated = SimulatedDisk::new();
    let on = |builder: Builder| builder.disk_of(1, Arc::new(simulated.clone()));
    let db = on(disks.create()).open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    simulated.set_capacity(Some(0));
    let large = vec![7; 200_000];
    let full = loop {
        match ks.put(&keys[1], large.clone()).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::DiskFull { .. }), "{full:?}");
    for _ in 0..3 {
        ks.put(&keys[0], large.clone()).await?;
    }
    assert!(db.stats().disk_full.is_some());
    simulated.set_capacity(None);
    until(|| db.stats().disk_full.is_none()).await;
    ks.put(&keys[1], "fits").await?;
    Ok(())
}

/// A crash may leave the second directory at any point of its making, and takes with it what was not forced; also where the
/// first has data already.
#[tokio::test]
async fn a_creation_that_is_cut_short_anywhere_begins_again() -> Result<()> {
    for has_data in [false, true] {
        let mut deaths = 0;
        for death in 0.. {
            let disks = Disks::new();
            let (home, second) = (SimulatedDisk::new(), SimulatedDisk::new());
            let known = || disks.known().disk(Arc::new(home.clone()));
            let both = || {
                let builder = known().directory(disks.second());
                builder.disk_of(1, Arc::new(second.clone()))
            };
            if has_data {
                let ks = known().nodes(2).open().await?.keyspace("ks").await?;
                ks.put("before", "v").await?;
            }
            let which = if death % 2 == 0 { &home } else { &second };
            which.die_after(death / 2);
            let died = both().nodes(2).open().await.is_err();
            home.crash(Survivors::Seeded(death));
            second.crash(Survivors::Seeded(death + 1));
            let db = both().nodes(2).open().await?;
            let ks = db.keyspace("ks").await?;
            let keys = a_key_of_each(&db, &ks).await;
            transfer(&db, &ks, &keys).await?;
            drop((ks, db));
            let db = both().open().await?;
            let ks = db.keyspace("ks").await?;
            assert_eq!(balance(&ks, &keys[1]).await?, 1);
            assert_eq!(ks.get("before").await?.is_some(), has_data);
            let in_second = has_tree(&disks.second(), 1);
            assert_eq!(in_second, !has_data, "nodes stay where they are");
            deaths += u32::from(died);
            if !died && death > 20 {
                break;
            }
        }
        assert!(deaths > 10, "{deaths} were cut short");
    }
    Ok(())
}

#[tokio::test]
async fn without_forces_each_journal_is_forced_by_the_clock_and_at_the_end() -> Result<()> {
    let disks = Disks::new();
    let unforced = |builder: Builder| builder.durability(Durability::None);
    let db = unforced(disks.create()).open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    for _ in 0..50 {
        transfer(&db, &ks, &keys).await?;
    }
    let stats = db.stats();
    assert!(stats.durable_lsn < stats.visible_lsn, "nothing was forced");
    db.checkpoint().await?;
    let stats = db.stats();
    assert_eq!(
        stats.durable_lsn, stats.visible_lsn,
        "a checkpoint forces all"
    );
    transfer(&db, &ks, &keys).await?;
    drop((ks, db));
    let db = unforced(disks.known()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[1]).await?, 51);
    Ok(())
}

#[tokio::test]
async fn a_backup_is_one_directory() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    transfer(&db, &ks, &keys).await?;
    db.backup(disks.third()).await?;
    assert!(has_tree(&disks.third(), 0) && has_tree(&disks.third(), 1));
    // The original is not needed.
    drop((ks, db));
    fs::remove_dir_all(disks.second()).unwrap();
    Mailring::verify_directory(disks.third())?;
    let copy = Mailring::builder(disks.third())
        .create(false)
        .open()
        .await?;
    let ks = copy.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[1]).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_node_is_restored_alone_where_it_lives() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    transfer(&db, &ks, &keys).await?;
    db.checkpoint().await?;
    let old = disks.root.path().join("old");
    db.backup(&old).await?;
    let between = format!("{{{}}}-between", keys[1]);
    ks.put(&between, "v").await?;
    transfer(&db, &ks, &keys).await?;
    db.checkpoint().await?;
    db.backup(disks.third()).await?;
    transfer(&db, &ks, &keys).await?;
    drop((ks, db));
    fs::remove_dir_all(disks.second().join("node-001")).unwrap();
    let db = disks.known().open().await?;
    let ks = db.keyspace("ks").await?;
    assert!(matches!(
        ks.get(&keys[1]).await,
        Err(Error::CorruptTree { .. })
    ));
    assert_eq!(balance(&ks, &keys[0]).await?, -3, "the other node serves");
    drop((ks, db));
    let restore = |backup: &Path| {
        Mailring::restore_node(disks.home(), NodeId(1), backup, RestoreLoss::Refuse)
    };
    let refused = restore(&old);
    let why = "it is older than the node's last checkpoint, and of several directories the journals are not read from before";
    assert!(
        matches!(&refused, Err(Error::InvalidOption { option: "backup", value, reason })
            if value.starts_with(&old.display().to_string()) && reason.starts_with(why)
                && reason.contains("RestoreLoss::Accept")),
        "{refused:?}"
    );

    let restored = restore(&disks.third())?;
    assert!(
        restored
            .damaged
            .starts_with(fs::canonicalize(disks.second()).unwrap())
    );
    let db = disks.known().open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[1]).await?, 3);
    db.verify().await?;
    assert!(ks.get(&between).await?.is_some());
    drop((ks, db));
    // It says that this can be done too: what the node has committed in between is lost, and nothing of others.
    Mailring::restore_node(disks.home(), NodeId(1), &old, RestoreLoss::Accept)?;
    let db = disks.known().open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[0]).await?, -3);
    assert_eq!(balance(&ks, &keys[1]).await?, 3, "written again since");
    assert_eq!(ks.get(&between).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_directory_that_can_not_be_is_refused_and_left_alone() -> Result<()> {
    let disks = Disks::new();
    let refused = async |builder: Builder| builder.open().await.unwrap_err();
    let option = |error: Error| match error {
        Error::InvalidOption { option, reason, .. } => (option, reason),
        error => panic!("{error:?}"),
    };
    let twice = disks.create().directory(disks.second());
    assert_eq!(
        option(refused(twice).await),
        ("directory", "it is named twice")
    );
    let home = disks.known().directory(disks.home());
    assert_eq!(
        option(refused(home).await),
        ("directory", "it is named twice")
    );
    let memory = Mailring::memory().directory(disks.second());
    let reason = "an engine in memory has none";
    assert_eq!(option(refused(memory).await), ("directory", reason));
    let placed = disks.create().node_directories([0, 2]);
    let reason = "there are not so many directories; they are numbered from 0";
    assert_eq!(option(refused(placed).await), ("node_directories", reason));
    let placed = disks.create().node_directories([0]);
    let reason = "it must name a directory for each node";
    assert_eq!(option(refused(placed).await), ("node_directories", reason));
    // Something else, an engine, and a directory of another engine.
    fs::create_dir(disks.third()).unwrap();
    fs::write(disks.third().join("letter"), "dear").unwrap();
    let other = Disks::new();
    drop(other.create().open().await?);
    for (path, found) in [
        (disks.third(), "letter"),
        (other.home(), "MANIFEST"),
        (other.second(), "DIRECTORY"),
    ] {
        let before = entries(&path);
        let error = refused(disks.known().nodes(2).directory(&path)).await;
        assert!(
            matches!(&error, Error::ForeignDirectory { entry, .. } if entry == found),
            "{error:?}"
        );
        let mut after = entries(&path);
        after.retain(|name| name != "LOCK" || before.contains(name));
        assert_eq!(after, before);
    }
    let error = refused(Mailring::builder(other.second())).await;
    assert!(
        matches!(&error, Error::ForeignDirectory { entry, .. } if entry == "DIRECTORY"),
        "{error:?}"
    );
    // Nobody else may use one that is open.
    let db = other.known().open().await?;
    let error = refused(disks.known().directory(other.second())).await;
    assert!(matches!(
        error,
        Error::DirectoryInUse { .. } | Error::ForeignDirectory { .. }
    ));
    drop(db);
    drop(other.known().open().await?);
    Ok(())
}

//! Several directories in one engine: where nodes live, and how directories and nodes come and go.

mod common;

use common::{
    Trap, copy_directory, patiently,
    several::{Disks, a_key_of_each, balance, entries, has_tree, transfer},
    until,
};
use mailring::{ChangeEnd, DirectoryNo, Error, Mailring, NodeId, Result, Transaction};
use std::fs;

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

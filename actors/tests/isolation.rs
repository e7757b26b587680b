//! A node whose tree can't be read when the engine is opened: the others serve, and nothing of it is lost.

mod common;

use common::{Trap, keys_of, patiently, quick_restarts, tuned, until};
use mailring::{
    Builder, Error, Heal, Keyspace, Mailring, NodeEvent, NodeId, NodeState, RestoreLoss, Result,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

const ISOLATED: NodeId = NodeId(1);

fn builder(directory: &Path) -> Builder {
    tuned(Mailring::builder(directory)).nodes(3)
}

/// Every file of a node's tree.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn names_the_node(error: &Error, folder: &Path) {
    match error {
        Error::CorruptTree { node, file, .. } => {
            assert_eq!(*node, ISOLATED);
            assert!(file.starts_with(folder), "{}", file.display());
        }
        other => panic!("{other:?}"),
    }
}

/// Some keys of each node, in the trees and in the journal.
async fn fill(directory: &Path) -> Result<Vec<Vec<String>>> {
    let db = builder(directory).open().await?;
    let ks = db.keyspace("ks").await?;
    let mut keys = Vec::new();
    for node in 0..3 {
        keys.push(keys_of(&db, &ks, node, 4).await);
    }
    for key in keys.iter().flatten() {
        ks.put(key, "tree").await?;
    }
    db.checkpoint().await?;
    for keys in &keys {
        ks.put(&keys[0], "journal").await?;
    }
    Ok(keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_file_of_a_tree_isolates_its_node_or_is_told_by_who_reads_it()
-> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let keys = fill(directory.path()).await?;
    let folder = directory.path().join("node-001");
    let mut isolated = 0;
    for file in files(&folder) {
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        fs::write(&file, &damaged).unwrap();
        let db = patiently(builder(directory.path()).open()).await?;
        let ks = db.keyspace("ks").await?;
        let down = usize::from(ISOLATED.0);
        if db.stats().nodes[down].state == NodeState::Isolated {
            isolated += 1;
            until(|| db.stats().nodes[down].last_failure.is_some()).await;
            for key in &keys[down] {
                names_the_node(&ks.get(key).await.unwrap_err(), &folder);
                names_the_node(&patiently(ks.put(key, "never")).await.unwrap_err(), &folder);
            }
            commits_name_the_node(&db, &ks, &keys, &folder).await?;
            match patiently(db.nodes().events().next()).await {
                Some(NodeEvent::Isolated { node, error }) => {
                    assert_eq!(node, ISOLATED);
                    names_the_node(&error, &folder);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(db.nodes().list()[down].state, NodeState::Isolated);
            names_the_node(&ks.scan(..).count().await.unwrap_err(), &folder);
            names_the_node(&db.snapshot().unwrap_err(), &folder);
            names_the_node(&db.verify().await.unwrap_err(), &folder);
            let refused = patiently(db.nodes().add(1)).await.map(drop);
            names_the_node(&refused.unwrap_err(), &folder);
            let refused = patiently(db.nodes().remove(NodeId(0))).await.map(drop);
            names_the_node(&refused.unwrap_err(), &folder);
            assert!(db.nodes().change().is_none(), "nobody can take over");
        }
        for keys in [&keys[0], &keys[2]] {
            assert_eq!(ks.get(&keys[0]).await?.as_deref(), Some(&b"journal"[..]));
            assert_eq!(ks.get(&keys[1]).await?.as_deref(), Some(&b"tree"[..]));
            patiently(ks.put(&keys[2], "since")).await?;
        }
        patiently(db.checkpoint()).await?;
        patiently(db.shutdown()).await?;
        drop((db, ks));
        if damaged == fs::read(&file).unwrap_or_default() {
            fs::write(&file, &whole).unwrap();
        }
        // As if nothing had been: the journal has kept what the node had not written.
        let db = builder(directory.path()).open().await?;
        let ks = db.keyspace("ks").await?;
        for keys in &keys {
            assert_eq!(ks.get(&keys[0]).await?.as_deref(), Some(&b"journal"[..]));
            assert_eq!(ks.get(&keys[1]).await?.as_deref(), Some(&b"tree"[..]));
        }
        db.verify().await?;
    }
    assert!(isolated > 0, "none was");
    Ok(())
}

/// Whatever would write on the isolated node says which file it is, and writes nothing elsewhere.
async fn commits_name_the_node(
    db: &Mailring,
    ks: &Keyspace,
    keys: &[Vec<String>],
    folder: &Path,
) -> Result<()> {
    let over = [&keys[0][3], &keys[1][3], &keys[2][3]];
    let mut alone = db.batch();
    alone.put(ks, over[1], "never");
    names_the_node(&patiently(alone.commit()).await.unwrap_err(), folder);
    let mut batch = db.batch();
    for key in over {
        batch.put(ks, key, "never");
    }
    names_the_node(&patiently(batch.commit()).await.unwrap_err(), folder);
    let put_many = ks.put_many(over.map(|key| (key, "never")));
    names_the_node(&patiently(put_many).await.unwrap_err(), folder);
    let reader = db.begin()?;
    names_the_node(&reader.get(ks, over[1]).await.unwrap_err(), folder);
    let writer = db.begin()?;
    for key in over {
        writer.put(ks, key, "never").await?;
    }
    names_the_node(&patiently(writer.commit()).await.unwrap_err(), folder);
    for key in [over[0], over[2]] {
        assert_eq!(ks.get(key).await?.as_deref(), Some(&b"tree"[..]));
    }
    Ok(())
}

/// One node is down, another one's tree can't be read: what concerns both says what somebody must mend.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_node_that_is_down_the_one_that_can_not_be_read_is_told() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let keys = fill(directory.path()).await?;
    let folder = directory.path().join("node-001");
    let trap = Trap::new();
    for file in files(&folder) {
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    }
    let db = builder(directory.path())
        .heal(Heal::Wait)
        .restart_policy(quick_restarts(1))
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    trap.set("node", Some(0), "Request", false, 0, 10);
    until(|| db.stats().nodes[1].state == NodeState::Isolated).await;
    while db.stats().nodes[0].state != NodeState::Down {
        let _ = patiently(ks.put(&keys[0][0], "never")).await;
    }
    let mut batch = db.batch();
    for keys in &keys {
        batch.put(&ks, &keys[3], "never");
    }
    names_the_node(&patiently(batch.commit()).await.unwrap_err(), &folder);
    let mut batch = db.batch();
    batch.put(&ks, &keys[0][3], "never");
    batch.put(&ks, &keys[2][3], "never");
    let refused = patiently(batch.commit()).await;
    assert_eq!(refused, Err(Error::NodeDown { node: NodeId(0) }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_node_can_be_read_the_engine_does_not_open() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = tuned(Mailring::builder(directory.path()))
        .nodes(1)
        .open()
        .await?;
    db.keyspace("ks").await?.put("key", "value").await?;
    db.checkpoint().await?;
    drop(db);
    fs::write(directory.path().join("node-000").join("current"), b"x").unwrap();
    let error = tuned(Mailring::builder(directory.path()))
        .open()
        .await
        .err();
    assert!(
        matches!(error, Some(Error::CorruptTree { .. })),
        "{error:?}"
    );
    Ok(())
}

/// Spoils every file of the node's tree.
fn spoil(folder: &Path) {
    for file in files(folder) {
        let mut bytes = fs::read(&file).unwrap();
        for byte in bytes.iter_mut().step_by(7) {
            *byte ^= 0x10;
        }
        fs::write(&file, bytes).unwrap();
    }
}

async fn value(ks: &Keyspace, key: &str) -> Result<Option<String>> {
    common::text(ks, key).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_restored_from_a_backup_alone_and_the_journal_has_what_came_since() -> Result<()>
{
    for is_checkpointed in [false, true] {
        let (directory, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys = fill(directory.path()).await?;
        let own = &keys[usize::from(ISOLATED.0)];
        let db = builder(directory.path()).open().await?;
        let ks = db.keyspace("ks").await?;
        let backup_lsn = db.backup(backup.path()).await?.lsn;
        ks.put(&own[1], "since").await?;
        ks.delete(&own[2]).await?;
        if is_checkpointed {
            db.checkpoint().await?;
        }
        ks.put(&own[3], "later").await?;
        drop((db, ks));
        spoil(&directory.path().join("node-001"));
        let db = builder(directory.path()).open().await?;
        let ks = db.keyspace("ks").await?;
        assert!(ks.get(&own[0]).await.is_err());
        ks.put(&keys[0][0], "meanwhile").await?;
        db.shutdown().await?;
        drop((db, ks));
        let restore = || {
            let loss = RestoreLoss::Refuse;
            Mailring::restore_node(directory.path(), ISOLATED, backup.path(), loss)
        };
        let restored = restore()?;
        assert_eq!(restored.backup_lsn, backup_lsn);
        assert!(restored.replayed_after <= backup_lsn);
        assert!(restored.damaged.is_dir(), "the damaged tree is kept");
        // It may be done again, and is none the worse for it.
        let again = restore()?;
        assert_ne!(again.damaged, restored.damaged);
        for _ in 0..2 {
            let db = builder(directory.path()).open().await?;
            let ks = db.keyspace("ks").await?;
            let found = [&own[0], &own[1], &own[2], &own[3], &keys[0][0], &keys[2][1]];
            let expected = [
                Some("journal"),
                Some("since"),
                None,
                Some("later"),
                Some("meanwhile"),
                Some("tree"),
            ];
            for (key, expected) in found.into_iter().zip(expected) {
                assert_eq!(value(&ks, key).await?.as_deref(), expected, "{key}");
            }
            db.verify().await?;
            db.shutdown().await?;
        }
        Mailring::verify_directory(directory.path())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_to_which_the_journal_does_not_reach_back_is_refused_unless_the_loss_is_accepted()
-> Result<()> {
    let (directory, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let keys = fill(directory.path()).await?;
    let own = &keys[usize::from(ISOLATED.0)];
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    db.backup(backup.path()).await?;
    ks.put(&own[1], "lost").await?;
    // Until the journal has let go of its first segments.
    for number in 0..12 {
        ks.put(format!("large-{number}"), vec![0; 900 << 10])
            .await?;
        db.checkpoint().await?;
    }
    ks.put(&own[2], "later").await?;
    drop((db, ks));
    let folder = directory.path().join("node-001");
    spoil(&folder);
    let restore = |loss| Mailring::restore_node(directory.path(), ISOLATED, backup.path(), loss);
    let whole = files(directory.path());
    match restore(RestoreLoss::Refuse) {
        Err(Error::InvalidOption { reason, .. }) => {
            assert!(reason.contains("accept the loss"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(files(directory.path()), whole, "nothing has changed");
    restore(RestoreLoss::Accept)?;
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(value(&ks, &own[0]).await?.as_deref(), Some("journal"));
    assert_eq!(
        value(&ks, &own[1]).await?.as_deref(),
        Some("tree"),
        "as the backup has it"
    );
    assert_eq!(value(&ks, &own[2]).await?.as_deref(), Some("later"));
    assert_eq!(value(&ks, &keys[0][1]).await?.as_deref(), Some("tree"));
    db.verify().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_backup_of_the_node_as_it_is_now_is_refused() -> Result<()> {
    let [directory, backup, other, nothing] = [0; 4].map(|_| tempfile::tempdir().unwrap());
    fill(directory.path()).await?;
    let db = builder(directory.path()).open().await?;
    db.backup(backup.path()).await?;
    let refused = |backup: &Path, node| {
        let loss = RestoreLoss::Accept;
        Mailring::restore_node(directory.path(), node, backup, loss).unwrap_err()
    };
    let in_use = refused(backup.path(), ISOLATED);
    assert!(matches!(in_use, Error::DirectoryInUse { .. }), "{in_use}");
    patiently(db.nodes().set_weight(NodeId(0), 2).await?.wait()).await?;
    drop(db);
    let stranger = tuned(Mailring::builder(other.path()))
        .nodes(2)
        .open()
        .await?;
    stranger.keyspace("other").await?;
    drop(stranger);
    let reason = |error: Error| match error {
        Error::InvalidOption { reason, .. } => reason,
        other => panic!("{other}"),
    };
    assert!(reason(refused(backup.path(), ISOLATED)).contains("the nodes have changed since"));
    assert!(reason(refused(backup.path(), NodeId(9))).contains("no such node"));
    assert!(reason(refused(other.path(), ISOLATED)).contains("another engine"));
    let none = refused(nothing.path(), ISOLATED);
    assert!(matches!(none, Error::NoEngine { .. }), "{none}");
    builder(directory.path()).open().await.map(drop)
}

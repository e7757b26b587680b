//! Every error that an opening answers: directories in use, other settings, options, damage.

mod common;

use common::{
    builder, copy_directory,
    kept::{assert_kept, fresh, refusal},
};
use mailring::{Durability, Error, Mailring, NodeId, Result};
use mailring_engine::{disk::DirectoryDisk, ids::KeyspaceId, manifest::Manifest};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

#[tokio::test]
async fn a_directory_in_use_is_told_until_it_is_closed() -> Result<()> {
    let (directory, db, ks) = fresh().await?;
    let path = directory.path().to_owned();
    let in_use = Error::DirectoryInUse { path: path.clone() };
    assert_eq!(refusal(builder(&path)).await, in_use);
    assert_eq!(Mailring::verify_directory(&path), Err(in_use));
    assert_kept(&ks).await?;
    drop(db);
    assert!(
        refusal(builder(&path)).await.to_string().contains("open"),
        "a keyspace holds it"
    );
    drop(ks);
    let db = builder(&path).open().await?;
    assert_kept(&db.keyspace("ks").await?).await
}

#[tokio::test]
async fn other_settings_than_the_directorys_are_refused() -> Result<()> {
    let (directory, db, ks) = fresh().await?;
    drop((ks, db));
    let path = directory.path();
    for (builder, setting) in [
        (builder(path).nodes(3), "nodes and their weights"),
        (builder(path).weights([1, 2]), "nodes and their weights"),
        (builder(path).arc_bits(5), "arc_bits"),
    ] {
        match refusal(builder).await {
            Error::SettingsMismatch { setting: found, .. } => assert_eq!(found, setting),
            other => panic!("{other}"),
        }
    }
    let unsaid = Mailring::builder(path).open().await?;
    assert_kept(&unsaid.keyspace("ks").await?).await
}

#[tokio::test]
async fn options_that_can_not_work_are_refused_before_anything_is_created() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new");
    let endless = mailring::RestartPolicy {
        window: Duration::ZERO,
        ..mailring::RestartPolicy::default()
    };
    let too_often = Durability::Interval(Duration::from_millis(9));
    let fresh = || Mailring::builder(&path);
    for (builder, option) in [
        (fresh().memory_budget(1), "memory_budget"),
        (fresh().cache_bytes(512 << 20), "cache_bytes"),
        (fresh().mailbox_capacity(0), "mailbox_capacity"),
        (fresh().arbiters(0), "arbiters"),
        (fresh().arbiters(257), "arbiters"),
        (fresh().durability(too_often), "durability"),
        (fresh().watch_capacity(0), "watch_capacity"),
        (fresh().watch_capacity(usize::MAX), "watch_capacity"),
        (fresh().segment_bytes(4096), "segment_bytes"),
        (fresh().checkpoint_bytes(usize::MAX), "checkpoint_bytes"),
        (fresh().restart_policy(endless), "restart window"),
    ] {
        match refusal(builder).await {
            Error::InvalidOption { option: found, .. } => assert_eq!(found, option),
            other => panic!("{other}"),
        }
        assert!(!path.exists(), "{option}");
    }
    for builder in [
        fresh().nodes(0),
        fresh().weights([0, 0]),
        fresh().weights(vec![1; 10_486]),
        fresh().arc_bits(60),
    ] {
        let error = refusal(builder).await;
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    let db = fresh().open().await?;
    db.keyspace("ks").await?.put("key", "v").await?;
    Ok(())
}

/// The default looked at their number alone.
#[tokio::test]
async fn the_default_number_of_arcs_suits_unequal_weights() -> Result<()> {
    let db = Mailring::memory().weights([1, 100]).open().await?;
    assert_eq!(db.stats().nodes.len(), 2);
    Ok(())
}

/// A closed directory with something in the journal and in the trees.
async fn closed(keys: u32) -> Result<tempfile::TempDir> {
    let (directory, db, ks) = fresh().await?;
    for number in 0..keys {
        ks.put(format!("tree-{number}"), vec![b'v'; 100]).await?;
    }
    db.checkpoint().await?;
    for number in 0..keys {
        ks.put(format!("journal-{number}"), vec![b'v'; 100]).await?;
    }
    drop((ks, db));
    Ok(directory)
}

fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 0x55;
    fs::write(file, bytes).unwrap();
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_under(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn a_damaged_journal_is_reported_with_file_and_offset_and_not_changed() -> Result<()> {
    let directory = closed(50).await?;
    let needle = b"journal-7";
    let (file, offset) = files_under(directory.path())
        .into_iter()
        .filter(|file| file.extension().is_none_or(|extension| extension != "tmp"))
        .find_map(|file| {
            let bytes = fs::read(&file).unwrap();
            let at = bytes
                .windows(needle.len())
                .position(|part| part == needle)?;
            (file.parent() == Some(directory.path())).then_some((file, at))
        })
        .expect("the record is in a segment");
    let whole = fs::read(&file).unwrap();
    flip(&file, offset);
    let damaged = fs::read(&file).unwrap();
    for error in [
        refusal(builder(directory.path())).await,
        Mailring::verify_directory(directory.path()).unwrap_err(),
    ] {
        match error {
            Error::CorruptJournal {
                file: found,
                offset: at,
                ..
            } => {
                assert_eq!(found, file);
                assert!(
                    at <= offset as u64 && offset as u64 - at < 4096,
                    "{at} {offset}"
                );
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(
        fs::read(&file).unwrap(),
        damaged,
        "the damage is left for the repair"
    );
    fs::write(&file, whole).unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.prefix("journal-").count().await?, 50);
    assert_kept(&ks).await
}

#[tokio::test]
async fn a_damaged_tree_is_reported_with_its_node_and_file() -> Result<()> {
    let directory = closed(2000).await?;
    let whole = tempfile::tempdir().unwrap();
    copy_directory(directory.path(), whole.path());
    let folder = directory.path().join("node-001");
    let table = files_under(&folder)
        .into_iter()
        .max_by_key(|file| fs::metadata(file).unwrap().len())
        .unwrap();
    let middle = fs::metadata(&table).unwrap().len() / 3;
    flip(&table, usize::try_from(middle).unwrap());
    let names_the_file = |error: Error| match error {
        Error::CorruptTree { node, file, .. } => {
            assert_eq!(node, NodeId(1));
            assert!(
                file.starts_with(&folder),
                "{} {}",
                file.display(),
                folder.display()
            );
        }
        other => panic!("{other}"),
    };
    names_the_file(Mailring::verify_directory(directory.path()).unwrap_err());
    match builder(directory.path()).open().await {
        Err(error) => names_the_file(error),
        Ok(db) => {
            names_the_file(db.verify().await.unwrap_err());
            // A read answers what was written or the error, and nothing else.
            let ks = db.keyspace("ks").await?;
            let mut refused = 0;
            for number in 0..2000 {
                match ks.get(format!("tree-{number}")).await {
                    Ok(value) => assert_eq!(value.as_deref(), Some(&[b'v'; 100][..])),
                    Err(error) => {
                        names_the_file(error);
                        refused += 1;
                    }
                }
            }
            assert!(refused > 0);
            assert!(ks.scan(..).count().await.is_err());
            assert_kept(&ks).await?;
        }
    }
    let db = builder(whole.path()).open().await?;
    assert_eq!(
        db.keyspace("ks").await?.prefix("tree-").count().await?,
        2000
    );
    Ok(())
}

/// What the journal has let go of is in the trees alone: none of them may come back as another one.
#[tokio::test]
async fn a_tree_that_is_not_the_one_that_was_left_is_not_served_and_nothing_is_made_in_its_place()
-> Result<()> {
    let directory = closed(200).await?;
    let path = directory.path();
    let [tree, other] = [0, 1].map(|node| path.join(format!("node-00{node}")));
    let copies = tempfile::tempdir().unwrap();
    let older = copies.path().join("older");
    copy_directory(&tree, &older);
    let db = builder(path).open().await?;
    db.keyspace("ks").await?.put("one-more", "v").await?;
    for number in 0..20 {
        let key = format!("later-{number}");
        db.keyspace("ks").await?.put(key, "v").await?;
    }
    db.shutdown().await?;
    let newest = copies.path().join("newest");
    copy_directory(&tree, &newest);

    let is_told = async |reason: &str| {
        let verified = Mailring::verify_directory(path).unwrap_err();
        // Its node is isolated, whatever is written and stopped beside it.
        let db = builder(path).open().await.unwrap();
        let isolated = db.snapshot().unwrap_err();
        db.checkpoint().await.unwrap();
        db.shutdown().await.unwrap();
        for error in [isolated, verified] {
            let Error::CorruptTree {
                node,
                file,
                reason: told,
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!((*node, file), (NodeId(0), &tree));
            assert!(told.contains(reason), "{error}");
        }
    };
    fs::remove_dir_all(&tree).unwrap();
    is_told("missing").await;
    assert!(!tree.exists(), "nothing is made in its place");
    fs::create_dir(&tree).unwrap();
    is_told("missing").await;
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
    fs::remove_dir(&tree).unwrap();
    copy_directory(&older, &tree);
    is_told("older copy").await;
    fs::remove_dir_all(&tree).unwrap();
    copy_directory(&other, &tree);
    is_told("another node").await;

    fs::remove_dir_all(&tree).unwrap();
    copy_directory(&newest, &tree);
    let db = builder(path).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.prefix("later-").count().await?, 20);
    assert_eq!(ks.prefix("").count().await?, 422);
    Ok(())
}

#[tokio::test]
async fn a_damaged_or_missing_manifest_is_reported_and_nothing_is_created_over_it() -> Result<()> {
    let directory = closed(20).await?;
    let manifest = directory.path().join("MANIFEST");
    let whole = fs::read(&manifest).unwrap();
    for offset in 0..whole.len() {
        flip(&manifest, offset);
        match refusal(builder(directory.path())).await {
            Error::CorruptManifest { file, .. } => assert_eq!(file, manifest),
            other => panic!("byte {offset}: {other}"),
        }
        fs::write(&manifest, &whole).unwrap();
    }
    fs::remove_file(&manifest).unwrap();
    let error = refusal(builder(directory.path())).await;
    assert!(
        matches!(
            error,
            Error::CorruptJournal { .. } | Error::CorruptManifest { .. }
        ),
        "{error}"
    );
    assert!(
        !manifest.exists(),
        "a refused opening leaves nothing behind"
    );
    let verified = Mailring::verify_directory(directory.path()).unwrap_err();
    assert!(
        matches!(verified, Error::CorruptManifest { .. }),
        "{verified}"
    );
    let empty = tempfile::tempdir().unwrap();
    for nothing in [empty.path().to_owned(), empty.path().join("mistyped")] {
        let verified = Mailring::verify_directory(&nothing).unwrap_err();
        assert!(matches!(verified, Error::NoEngine { .. }), "{verified}");
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "nothing was made");
    fs::write(&manifest, &whole).unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.scan(..).count().await?, 41);
    assert_kept(&ks).await
}

#[tokio::test]
async fn a_place_that_is_no_directory_is_an_error_of_the_system() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "not ours").unwrap();
    let error = refusal(builder(&file)).await;
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"not ours");
    Ok(())
}

/// Also of a damaged or hostile manifest: an opening went through all numbers ever given, one by one.
#[tokio::test]
async fn an_opening_costs_the_same_however_many_keyspaces_were_dropped() -> Result<()> {
    let (directory, db, ks) = fresh().await?;
    db.shutdown().await?;
    drop((db, ks));
    let disk = DirectoryDisk::new(directory.path()).unwrap();
    let mut manifest = Manifest::load(&disk)?.expect("it is there");
    manifest.next_keyspace = KeyspaceId(u32::MAX);
    manifest.save(&disk)?;
    let db = builder(directory.path()).open().await?;
    assert_kept(&db.keyspace("ks").await?).await?;
    let refused = db.keyspace("one more").await.err();
    assert!(
        matches!(refused, Some(Error::InvalidKeyspaceName { .. })),
        "{refused:?}"
    );
    Ok(())
}

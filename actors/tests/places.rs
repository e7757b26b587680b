//! Where an engine may be opened and where it is created.

mod common;

use common::builder;
use mailring::{Error, Mailring, Result};
use std::{fs, path::Path};

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_directory_with_something_else_in_it_is_refused_and_left_as_it_is() -> Result<()> {
    for others in [
        &["notes.txt"][..],
        // What other stores leave.
        &["CURRENT", "LOCK", "MANIFEST-000001"],
        &["data.mdb", "lock.mdb"],
        &["journal-1.txt", "node-old"],
        &[".hidden"],
    ] {
        let directory = tempfile::tempdir().unwrap();
        for name in others {
            fs::write(directory.path().join(name), "theirs").unwrap();
        }
        let before = names(directory.path());
        for create in [true, false] {
            match builder(directory.path()).create(create).open().await {
                Err(Error::ForeignDirectory { path, entry }) => {
                    assert_eq!(path, directory.path());
                    assert!(others.contains(&entry.as_str()), "{entry}");
                }
                other => panic!("{others:?}: {other:?}"),
            }
        }
        assert!(Mailring::verify_directory(directory.path()).is_err());
        assert_eq!(names(directory.path()), before);
    }
    Ok(())
}

#[tokio::test]
async fn an_engine_can_live_in_the_root_of_a_file_system_and_beside_later_files() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    let db = builder(directory.path()).open().await?;
    db.keyspace("ks").await?.put("key", "v").await?;
    db.shutdown().await?;
    drop(db);
    fs::write(directory.path().join("notes.txt"), "about this engine").unwrap();
    let db = builder(directory.path()).open().await?;
    assert!(db.keyspace("ks").await?.contains("key").await?);
    Ok(())
}

#[tokio::test]
async fn where_none_shall_be_created_there_must_be_an_engine() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("typo");
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for path in [&missing, &empty] {
        let error = builder(path).create(false).open().await.err();
        assert_eq!(error, Some(Error::NoEngine { path: path.clone() }));
    }
    assert!(!missing.exists());
    assert_eq!(names(&empty), [""; 0]);
    drop(builder(&empty).open().await?);
    drop(builder(&empty).create(false).open().await?);
    let error = Mailring::memory().create(false).open().await.err();
    assert!(
        matches!(
            error,
            Some(Error::InvalidOption {
                option: "create",
                ..
            })
        ),
        "{error:?}"
    );
    Ok(())
}

#[test]
fn the_calls_for_plain_threads_reach_everything() -> Result<()> {
    let db = Mailring::memory().nodes(2).open_blocking()?.blocking();
    let ks = db.keyspace("ks")?;
    let mut batch = db.batch();
    batch
        .put(ks.keyspace(), "a", "1")
        .put(ks.keyspace(), "b", "2");
    batch.commit_blocking()?;
    let snapshot = db.snapshot()?;
    ks.put("b", "3")?;
    assert_eq!(
        snapshot.get(ks.keyspace(), "b")?.as_deref(),
        Some(&b"2"[..])
    );
    let keys = |scan: mailring::Scan| -> Result<Vec<_>> {
        let mut scan = scan;
        scan.iter().map(|pair| Ok(pair?.0)).collect()
    };
    assert_eq!(keys(ks.scan(..))?, ["a", "b"]);
    assert_eq!(keys(ks.scan("a".."b"))?, ["a"]);
    assert_eq!(keys(ks.scan(b"b".to_vec()..))?, ["b"]);
    assert_eq!(keys(ks.scan(..="a").reverse())?, ["a"]);
    assert_eq!(keys(ks.prefix("b"))?, ["b"]);
    assert_eq!(db.stats().nodes.len(), 2);
    assert!(db.stats().visible_lsn >= snapshot.lsn());
    Ok(())
}

//! Several directories: what is said when one of them is not there, is another one or an older copy, or can't be one.

mod common;

use common::{
    copy_directory,
    several::{Disks, a_key_of_each, balance, entries, missing, transfer},
};
use mailring::{Builder, DirectoryNo, Error, Mailring, Result};
use std::fs;

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
    let second = || disks.second();
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
    fs::rename(disks.second(), disks.at("aside")).unwrap();
    fs::rename(disks.third(), disks.second()).unwrap();
    fs::rename(disks.at("aside"), disks.third()).unwrap();
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

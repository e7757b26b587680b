//! Several directories: where they are looked for, whose they are, and how more of them come.

mod common;

use common::{
    copy_directory,
    disk::{DiskHook, HookedDisk},
    patiently,
    several::{Disks, write, written},
    tuned,
};
use mailring::{Builder, DirectoryNo, Error, Mailring, NodeId, RestoreLoss, Result};
use mailring_engine::disk::SimulatedDisk;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

fn missing<T: std::fmt::Debug>(outcome: Result<T>) -> (PathBuf, String) {
    match outcome {
        Err(Error::DirectoryMissing {
            directory: DirectoryNo(1),
            path,
            reason,
        }) => (path, reason),
        outcome => panic!("{outcome:?}"),
    }
}

async fn opened(builder: Builder) -> Result<()> {
    builder.open().await.map(drop)
}

/// The copy of home says where the original's directories are. Opening it by that took them, and committed there.
#[tokio::test]
async fn a_copy_never_takes_the_directories_of_the_original() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    write(&db, "both").await?;
    drop(db);
    disks.copy("home", "copy-home");
    disks.copy("second", "copy-second");
    let before = [disks.files("copy-home"), disks.files("second")];
    let verify = || Mailring::verify_directory(disks.at("copy-home")).map(drop);
    for outcome in [opened(disks.open_at("copy-home")).await, verify()] {
        let (path, reason) = missing(outcome);
        assert_eq!(path, disks.at("second"));
        let home = disks.at("home");
        let moved = format!("the engine was copied or moved from {}", home.display());
        assert!(reason.starts_with(&moved), "{reason}");
    }
    assert_eq!(before, [disks.files("copy-home"), disks.files("second")]);
    // The original is in use meanwhile, which nobody notices who has the copy.
    let original = disks.known().open().await?;
    let named = || {
        disks
            .open_at("copy-home")
            .directory(disks.at("copy-second"))
    };
    assert!(named().verify()?.journal_records > 0);
    let copy = named().open().await?;
    write(&copy, "copy").await?;
    write(&original, "original").await?;
    assert_eq!(written(&copy, "original").await?, 0);
    assert_eq!(written(&original, "copy").await?, 0);
    drop(copy);
    // From now on it is known where they are.
    let copy = disks.open_at("copy-home").open().await?;
    assert_eq!(written(&copy, "copy").await?, 2);
    drop(original);
    let original = disks.known().open().await?;
    assert_eq!(written(&original, "original").await?, 2);
    assert_eq!(written(&original, "both").await?, 2);
    Ok(())
}

#[tokio::test]
async fn what_was_copied_or_moved_as_a_whole_finds_its_own() -> Result<()> {
    let disks = Disks::new();
    fs::create_dir_all(disks.at("a/home")).unwrap();
    let create = disks.open_at("a/home").directory(disks.at("a/second"));
    let db = create.nodes(2).open().await?;
    write(&db, "both").await?;
    drop(db);
    copy_directory(&disks.at("a/home"), &disks.at("home"));
    copy_directory(&disks.at("a/second"), &disks.at("second"));
    let original = disks.open_at("a/home").open().await?;
    Mailring::verify_directory(disks.at("home"))?;
    let copy = disks.known().open().await?;
    write(&copy, "copy").await?;
    assert_eq!(written(&original, "copy").await?, 0);
    drop((copy, original));
    fs::rename(disks.at("a"), disks.at("b")).unwrap();
    let moved = disks.open_at("b/home").open().await?;
    assert_eq!(written(&moved, "both").await?, 2);
    assert_eq!(written(&moved, "copy").await?, 0);
    Ok(())
}

/// As the runbook says of a disk that is about to go: its folder is copied, and still there.
#[tokio::test]
async fn the_copy_that_is_named_is_used_while_the_original_is_there() -> Result<()> {
    let disks = Disks::new();
    drop(disks.create().open().await?);
    disks.copy("second", "moved");
    let left = disks.files("second");
    let verified = disks.known().directory(disks.at("moved")).verify();
    assert!(verified.is_ok(), "{verified:?}");
    let db = disks.known().directory(disks.at("moved")).open().await?;
    write(&db, "moved").await?;
    drop(db);
    let db = disks.known().open().await?;
    assert_eq!(written(&db, "moved").await?, 2);
    assert_eq!(disks.files("second"), left);
    drop(db);
    // Nobody can tell which one is meant of two that are named.
    let both = disks.create().directory(disks.at("moved"));
    let error = opened(both).await.unwrap_err();
    assert!(
        matches!(&error, Error::InvalidOption { option: "directory", reason, .. }
            if reason.starts_with("it is a copy")),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_node_is_restored_in_a_directory_that_has_moved() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    write(&db, "kept").await?;
    db.checkpoint().await?;
    db.backup(disks.at("backup")).await?;
    drop(db);
    disks.copy("second", "moved");
    fs::remove_dir_all(disks.at("moved/node-001")).unwrap();
    let left = disks.files("second");
    let builder = || disks.known().directory(disks.at("moved"));
    let restored = builder().restore_node(NodeId(1), disks.at("backup"), RestoreLoss::Refuse)?;
    assert!(restored.damaged.starts_with(disks.at("moved")));
    assert_eq!(disks.files("second"), left);
    let db = builder().open().await?;
    assert_eq!(written(&db, "kept").await?, 2);
    drop(db);
    // What is no directory of the engine is not looked at.
    let error = builder().directory(disks.at("backup")).verify();
    let reason = "it is no directory of the engine";
    assert!(
        matches!(&error, Err(Error::InvalidOption { reason: found, .. }) if *found == reason),
        "{error:?}"
    );
    let memory = Mailring::memory().verify();
    assert!(matches!(memory, Err(Error::InvalidOption { .. })));
    Ok(())
}

/// It was listed before anybody had looked, and was to be made before the engine could be opened again.
#[tokio::test]
async fn a_directory_that_can_not_be_made_does_not_keep_the_engine_closed() -> Result<()> {
    let disks = Disks::new();
    let db = disks.known().nodes(2).open().await?;
    write(&db, "before").await?;
    drop(db);
    let before = disks.files("home");
    // A path below a file.
    fs::write(disks.at("file"), "x").unwrap();
    let below = disks.known().directory(disks.at("file").join("below"));
    let error = opened(below).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    // That of another engine, behind one that could be made.
    let other = Disks::new();
    drop(other.create().open().await?);
    let third = disks.known().directory(disks.at("third"));
    let error = opened(third.directory(other.at("second"))).await;
    assert!(matches!(error, Err(Error::ForeignDirectory { .. })));
    assert!(!disks.at("third").exists());
    // One that somebody has open.
    let lock = fs::File::create_new({
        fs::create_dir(disks.at("third")).unwrap();
        disks.at("third/LOCK")
    });
    let lock = lock.unwrap();
    lock.lock().unwrap();
    let error = opened(disks.known().directory(disks.at("third"))).await;
    assert!(matches!(error, Err(Error::DirectoryInUse { .. })));
    drop(lock);
    assert_eq!(disks.files("home"), before, "nothing was written");
    let db = disks.known().open().await?;
    assert_eq!(written(&db, "before").await?, 2);
    Ok(())
}

/// Here it fails behind the list.
#[tokio::test]
async fn a_directory_on_a_full_disk_is_forgotten_or_made_later() -> Result<()> {
    for wanted in [None, Some("third"), Some("second")] {
        let disks = Disks::new();
        let db = disks.known().nodes(2).open().await?;
        write(&db, "before").await?;
        drop(db);
        let full = SimulatedDisk::new();
        full.set_capacity(Some(0));
        let second = disks.known().directory(disks.at("second"));
        let error = opened(second.disk_of(1, Arc::new(full))).await;
        assert!(matches!(error, Err(Error::DiskFull { .. })), "{error:?}");
        Mailring::verify_directory(disks.at("home"))?;
        for round in 0..2 {
            let builder = match wanted {
                Some(name) if round == 0 => disks.known().directory(disks.at(name)),
                _ => disks.known(),
            };
            let db = builder.open().await?;
            assert_eq!(written(&db, "before").await?, 2);
            write(&db, &format!("round-{round}")).await?;
            assert_eq!(written(&db, "round-0").await?, 2);
            let placed = db.nodes().add_in(DirectoryNo(1), 1).await;
            match wanted {
                Some(_) => drop(patiently(placed?.wait()).await?),
                None => assert!(matches!(placed, Err(Error::InvalidOption { .. }))),
            }
            if let Some(name) = wanted {
                let node = disks.at(name).join(format!("node-{:03}", 2 + round));
                assert!(node.exists(), "{}", node.display());
            }
        }
    }
    Ok(())
}

/// The disk of home is not mounted, and the other one is that of the engine which was meant.
#[tokio::test]
async fn a_new_engine_is_not_begun_beside_the_directory_of_another() -> Result<()> {
    let disks = Disks::new();
    drop(disks.create().open().await?);
    let elsewhere = disks.open_at("unmounted").directory(disks.at("second"));
    let error = opened(elsewhere).await;
    assert!(matches!(error, Err(Error::ForeignDirectory { .. })));
    assert_eq!(disks.files("unmounted"), BTreeMap::new());
    drop(disks.known().open().await?);
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_is_named_twice_by_a_link_is_named_twice() -> Result<()> {
    let disks = Disks::new();
    drop(disks.known().nodes(2).open().await?);
    fs::create_dir(disks.at("real")).unwrap();
    std::os::unix::fs::symlink(disks.at("real"), disks.at("link")).unwrap();
    let before = disks.files("home");
    let twice = disks.known().directory(disks.at("real/a/b"));
    let error = opened(twice.directory(disks.at("link/a/b"))).await;
    let reason = "it is named twice";
    assert!(
        matches!(&error, Err(Error::InvalidOption { reason: found, .. }) if *found == reason),
        "{error:?}"
    );
    assert!(!disks.at("real/a").exists());
    assert_eq!(disks.files("home"), before);
    // By the other name it is the same one.
    drop(disks.known().directory(disks.at("link/a/b")).open().await?);
    drop(disks.known().directory(disks.at("real/a/b")).open().await?);
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_before_all_directories_are_found() -> Result<()> {
    let disks = Disks::new();
    let three = disks.create().directory(disks.at("third")).nodes(3);
    let db = three.open().await?;
    write(&db, "before").await?;
    drop(db);
    let before = || [disks.files("home"), disks.files("second")];
    let files = before();
    fs::rename(disks.at("third"), disks.at("away")).unwrap();
    let error = opened(disks.known()).await;
    assert!(matches!(
        error,
        Err(Error::DirectoryMissing { directory, .. }) if directory == DirectoryNo(2)
    ));
    assert_eq!(before(), files);
    Ok(())
}

#[tokio::test]
async fn an_opening_that_is_refused_adds_no_directory() -> Result<()> {
    let disks = Disks::new();
    drop(disks.known().nodes(2).open().await?);
    let error = disks.create().node_directories([0, 1]).open().await;
    assert!(
        matches!(&error, Err(Error::SettingsMismatch { setting, .. }) if *setting == "node_directories"),
        "{error:?}"
    );
    fs::remove_dir_all(disks.at("second")).unwrap();
    let db = disks.known().open().await?;
    let nodes = db.nodes().list();
    assert!(nodes.iter().all(|node| node.directory == DirectoryNo::HOME));
    Ok(())
}

/// Its path could not be noted, and a copy of the engine not be told from the original.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_home_whose_name_can_not_be_noted_has_no_other_directories() -> Result<()> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let disks = Disks::new();
    let home = disks.at("home").join(OsStr::from_bytes(b"\xff"));
    fs::create_dir(disks.at("home")).unwrap();
    drop(tuned(Mailring::builder(&home)).nodes(2).open().await?);
    let several = tuned(Mailring::builder(&home)).directory(disks.at("second"));
    let error = several.open().await;
    assert!(
        matches!(&error, Err(Error::InvalidOption { reason, .. }) if *reason == "its name must be UTF-8"),
        "{error:?}"
    );
    drop(tuned(Mailring::builder(&home)).open().await?);
    Ok(())
}

/// The folder of a node goes with the node, and everything in it.
#[tokio::test]
async fn a_directory_in_another_one_is_refused_and_nothing_is_made() -> Result<()> {
    let disks = Disks::new();
    let refused = async |builder: Builder, name: &str, reason: &str| {
        let error = opened(builder).await;
        assert!(
            matches!(&error, Err(Error::InvalidOption { option: "directory", value, reason: found })
                if *value == disks.at(name).display().to_string() && found.starts_with(reason)),
            "{name}: {error:?}"
        );
    };
    let (within, around) = (
        "it lies in another",
        "another directory of the engine lies in it",
    );
    for (home, named, refusal, reason) in [
        ("home", &["home/within"][..], "home/within", within),
        (
            "home",
            &["home/node-001/deep/er"],
            "home/node-001/deep/er",
            within,
        ),
        ("home", &["a", "a/node-000"], "a/node-000", within),
        ("home", &["a/b", "a"], "a/b", within),
        ("outer/node-001", &["outer"], "outer", around),
    ] {
        let builder = disks.open_at(home).nodes(2);
        let all = named.iter();
        let builder = all.fold(builder, |builder, name| builder.directory(disks.at(name)));
        refused(builder, refusal, reason).await;
        assert!(!disks.at("a").exists() && !disks.at(home).exists());
    }
    // Of an engine that is there.
    let db = disks.create().open().await?;
    write(&db, "before").await?;
    drop(db);
    let before = [disks.files("home"), disks.files("second")];
    let more = |name: &str| disks.known().directory(disks.at(name));
    for name in [
        "home/within",
        "home/node-000/x",
        "second/node-001",
        "second/x",
    ] {
        refused(more(name), name, within).await;
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(disks.at("home/node-000"), disks.at("link")).unwrap();
        let linked = more("link/x");
        refused(linked, "home/node-000/x", within).await;
    }
    assert_eq!(before, [disks.files("home"), disks.files("second")]);
    // One that was moved there.
    fs::rename(disks.at("second"), disks.at("home/node-000/second")).unwrap();
    for outcome in [
        opened(more("home/node-000/second")).await,
        more("home/node-000/second").verify().map(drop),
    ] {
        assert!(
            matches!(&outcome, Err(Error::InvalidOption { reason, .. }) if reason.starts_with(within)),
            "{outcome:?}"
        );
    }
    fs::rename(disks.at("home/node-000/second"), disks.at("moved")).unwrap();
    let db = more("moved").open().await?;
    assert_eq!(written(&db, "before").await?, 2);
    Ok(())
}

/// It says that the other one is still to be made, and that one's journal was said to be corrupt.
#[tokio::test]
async fn an_older_home_from_before_a_directory_was_made_is_named() -> Result<()> {
    let disks = Disks::new();
    let full = SimulatedDisk::new();
    full.set_capacity(Some(0));
    let error = opened(disks.create().disk_of(1, Arc::new(full))).await;
    assert!(matches!(error, Err(Error::DiskFull { .. })), "{error:?}");
    disks.copy("home", "older");
    // Now it is made.
    let db = disks.known().open().await?;
    write(&db, "later").await?;
    drop(db);
    fs::rename(disks.at("home"), disks.at("newer")).unwrap();
    disks.copy("older", "home");
    let before = [disks.files("home"), disks.files("second")];
    for builder in [disks.known(), disks.create()] {
        let error = opened(builder).await;
        assert!(
            matches!(&error, Err(Error::DirectoryBehind { directory: DirectoryNo::HOME, path, reason })
                if *path == disks.at("home") && reason.contains("directory 1 of opening 2")),
            "{error:?}"
        );
        assert_eq!(before, [disks.files("home"), disks.files("second")]);
    }
    fs::remove_dir_all(disks.at("home")).unwrap();
    fs::rename(disks.at("newer"), disks.at("home")).unwrap();
    let db = disks.known().open().await?;
    assert_eq!(written(&db, "later").await?, 2);
    Ok(())
}

/// The disk of the second directory, on which something is done before its file `DIRECTORY` is read for the second time.
fn before_the_second_look(
    disks: &Disks,
    what: impl Fn() + Send + Sync + 'static,
) -> Arc<HookedDisk> {
    let looks = AtomicUsize::new(0);
    let hook: DiskHook = Arc::new(move |operation, name| {
        if (operation, name) == ("open", "DIRECTORY") && looks.fetch_add(1, SeqCst) == 1 {
            what();
        }
        Ok(())
    });
    Arc::new(HookedDisk::new(&disks.at("second"), hook))
}

/// It was looked at before it was locked, and whatever came in between was written over.
#[tokio::test]
async fn what_a_directory_is_counts_behind_its_lock() -> Result<()> {
    let other = Disks::new();
    drop(other.create().open().await?);
    for is_swapped in [true, false] {
        let disks = Disks::new();
        let db = disks.create().open().await?;
        write(&db, "before").await?;
        drop(db);
        let (from, to) = (other.at("second/DIRECTORY"), disks.at("second/DIRECTORY"));
        let kept = fs::read(&to).unwrap();
        let file = to.clone();
        let disk = before_the_second_look(&disks, move || match is_swapped {
            true => fs::copy(&from, &file).map(drop).unwrap(),
            false => fs::remove_file(&file).unwrap(),
        });
        let before = disks.files("home");
        let (path, reason) = missing(opened(disks.known().disk_of(1, disk)).await);
        assert_eq!(path, disks.at("second"));
        assert!(reason.starts_with("it was exchanged"), "{reason}");
        assert_eq!(disks.files("home"), before);
        fs::write(&to, kept).unwrap();
        let db = disks.known().open().await?;
        assert_eq!(written(&db, "before").await?, 2);
    }
    Ok(())
}

#[tokio::test]
async fn a_folder_that_was_taken_while_it_was_locked_is_not_made_another_s() -> Result<()> {
    let other = Disks::new();
    drop(other.create().open().await?);
    let disks = Disks::new();
    fs::create_dir(disks.at("second")).unwrap();
    let (from, to) = (other.at("second/DIRECTORY"), disks.at("second/DIRECTORY"));
    let disk = before_the_second_look(&disks, move || {
        fs::copy(&from, &to).unwrap();
    });
    let error = opened(disks.create().disk_of(1, disk)).await;
    assert!(
        matches!(&error, Err(Error::ForeignDirectory { path, .. }) if *path == disks.at("second")),
        "{error:?}"
    );
    assert_eq!(disks.files("home"), BTreeMap::new(), "nothing was begun");
    Ok(())
}

/// Only the folder of a node goes with a node.
#[tokio::test]
async fn an_engine_whose_directory_lies_in_a_folder_that_is_named_almost_as_a_node_s_opens()
-> Result<()> {
    let disks = Disks::new();
    drop(disks.create().open().await?);
    fs::create_dir(disks.at("home/node-disks")).unwrap();
    let inner = disks.at("home/node-disks/second");
    fs::rename(disks.at("second"), &inner).unwrap();
    disks.known().directory(&inner).open().await?;
    Ok(())
}

#[tokio::test]
async fn a_path_that_goes_up_from_where_nothing_is_is_refused() {
    let disks = Disks::new();
    let named = disks.at("nope/../home/second");
    let made = disks.known().directory(named).nodes(2).open().await;
    let refused = made.expect_err("nobody can tell where that is").to_string();
    assert!(refused.contains("goes up"), "{refused}");
    assert!(!disks.at("home/second").exists());
}

#[tokio::test]
async fn a_new_engine_that_is_refused_leaves_nothing_in_the_other_directory() -> Result<()> {
    let disks = Disks::new();
    let within = disks.open_at("second/home").directory(disks.at("second"));
    let refused = within.nodes(2).open().await;
    assert!(matches!(refused, Err(Error::InvalidOption { .. })));
    disks.create().open().await?;
    Ok(())
}

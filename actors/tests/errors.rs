//! Every variant of the error: what provokes it, and that nothing is lost by it.

mod common;

use common::{
    Gate, OpensAtTheEnd, Trap, builder, copy_directory, patiently, quick_restarts, until,
    until_idle,
};
use mailring::{
    Builder, Error, FaultSite, Keyspace, MAX_BATCH_BYTES, MAX_BATCH_KEYS, MAX_KEY_BYTES,
    MAX_VALUE_BYTES, Mailring, NodeId, Result,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

async fn fresh() -> Result<(tempfile::TempDir, Mailring, Keyspace)> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    Ok((directory, db, ks))
}

async fn assert_kept(ks: &Keyspace) -> Result<()> {
    assert_eq!(ks.get("kept").await?.as_deref(), Some(&b"value"[..]));
    ks.put("still writable", "yes").await.map(drop)
}

/// Why a directory does not open.
async fn refusal(builder: Builder) -> Error {
    builder.open().await.expect_err("this does not open")
}

#[tokio::test]
async fn keys_and_values_beyond_the_limits_are_refused_and_at_the_limits_kept() -> Result<()> {
    let (directory, db, ks) = fresh().await?;
    assert_eq!(ks.put("", "v").await, Err(Error::EmptyKey));
    assert_eq!(ks.get("").await, Err(Error::EmptyKey));
    let (longest, limit) = (vec![b'k'; MAX_KEY_BYTES], MAX_KEY_BYTES);
    let key_error = Error::KeyTooLarge {
        len: limit + 1,
        limit,
    };
    let too_long = vec![b'k'; limit + 1];
    assert_eq!(ks.put(&too_long, "v").await, Err(key_error.clone()));
    assert_eq!(ks.get(&too_long).await, Err(key_error.clone()));
    assert_eq!(ks.add(&too_long, 1).await, Err(key_error.clone()));
    assert_eq!(ks.delete(&too_long).await, Err(key_error));
    let (largest, limit) = (vec![b'v'; MAX_VALUE_BYTES], MAX_VALUE_BYTES);
    let too_large = vec![b'v'; limit + 1];
    let value_error = Error::ValueTooLarge {
        len: limit + 1,
        limit,
    };
    assert_eq!(ks.put("big", &too_large).await, Err(value_error.clone()));
    let swap = ks.compare_and_set("big", None, Some(&too_large)).await;
    assert_eq!(swap, Err(value_error.clone()));
    assert_eq!(ks.put_many([("big", &too_large)]).await, Err(value_error));

    patiently(ks.put(&longest, &largest)).await?;
    patiently(ks.put("empty value", "")).await?;
    for reopened in [false, true] {
        if reopened {
            db.checkpoint().await?;
        }
        assert_eq!(ks.get(&longest).await?.as_deref(), Some(&largest[..]));
        assert_eq!(ks.get("empty value").await?.as_deref(), Some(&b""[..]));
        assert_eq!(ks.get("big").await?, None);
    }
    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get(&longest).await?.as_deref(), Some(&largest[..]));
    assert_kept(&ks).await
}

/// Behind a few bytes that are far from the checkpoint threshold, the generations' part of a small budget has no room
/// for the largest value: a checkpoint makes it.
#[tokio::test]
async fn the_largest_value_fits_under_the_smallest_budget() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .memory_budget(32 << 20)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let largest = vec![1; MAX_VALUE_BYTES];
    for round in 0..3 {
        patiently(ks.put("small", "value")).await?;
        patiently(ks.put(format!("large-{round}"), &largest)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_beyond_the_limits_is_refused_as_a_whole() -> Result<()> {
    let (_directory, db, ks) = fresh().await?;
    let mut keys = db.batch();
    for number in 0..=MAX_BATCH_KEYS {
        keys.put(&ks, format!("key-{number}"), "");
    }
    let (len, limit) = (MAX_BATCH_KEYS + 1, MAX_BATCH_KEYS);
    let refused = Err(Error::BatchTooLarge {
        len,
        limit,
        unit: "keys",
    });
    assert_eq!(keys.commit().await, refused);
    let mut bytes = db.batch();
    bytes.put(&ks, "key-0", vec![0; MAX_BATCH_BYTES / 2 - 5]);
    bytes.put(&ks, "key-1", vec![0; MAX_BATCH_BYTES / 2 - 5]);
    bytes.put(&ks, "x", "");
    let (len, limit) = (MAX_BATCH_BYTES + 1, MAX_BATCH_BYTES);
    let refused = Err(Error::BatchTooLarge {
        len,
        limit,
        unit: "bytes",
    });
    assert_eq!(bytes.commit().await, refused);
    let mut bad_key = db.batch();
    bad_key
        .put(&ks, "key-0", "v")
        .put(&ks, "", "v")
        .put(&ks, "key-1", "v");
    assert_eq!(bad_key.commit().await, Err(Error::EmptyKey));
    assert_eq!(ks.prefix("key-").count().await?, 0);
    db.batch().commit().await?;
    assert_kept(&ks).await
}

#[tokio::test]
async fn bad_and_dropped_names_of_keyspaces_are_refused() -> Result<()> {
    let (_directory, db, ks) = fresh().await?;
    for name in ["", "a\nb", &"x".repeat(256)] {
        let error = db.keyspace(name).await.err().unwrap();
        assert!(
            matches!(error, Error::InvalidKeyspaceName { .. }),
            "{error}"
        );
    }
    let missing = |name: &str| Error::KeyspaceNotFound { name: name.into() };
    assert_eq!(db.drop_keyspace("none").await, Err(missing("none")));
    let gone = db.keyspace("gone").await?;
    gone.put("key", "v").await?;
    db.drop_keyspace("gone").await?;
    assert_eq!(gone.get("key").await, Err(missing("gone")));
    assert_eq!(gone.put("key", "v").await, Err(missing("gone")));
    assert_eq!(gone.add("key", 1).await, Err(missing("gone")));
    assert_eq!(gone.scan(..).count().await, Err(missing("gone")));
    assert_eq!(gone.watch("").await.err(), Some(missing("gone")));
    let mut batch = db.batch();
    batch.put(&ks, "x", "v").put(&gone, "key", "v");
    assert_eq!(batch.commit().await, Err(missing("gone")));
    assert_eq!(ks.get("x").await?, None);
    assert_kept(&ks).await
}

#[tokio::test]
async fn a_counter_keeps_its_value_when_an_addition_is_refused() -> Result<()> {
    let (_directory, _db, ks) = fresh().await?;
    assert_eq!(ks.add("kept", 1).await, Err(Error::NotACounter { len: 5 }));
    ks.add("edge", i64::MAX).await?;
    let refused = Err(Error::CounterOverflow {
        current: i64::MAX,
        delta: 1,
    });
    assert_eq!(ks.add("edge", 1).await, refused);
    ks.add("low", i64::MIN).await?;
    let refused = Err(Error::CounterOverflow {
        current: i64::MIN,
        delta: -1,
    });
    assert_eq!(ks.add("low", -1).await, refused);
    assert_eq!(ks.add("edge", 0).await?, i64::MAX);
    assert_eq!(ks.add("low", 0).await?, i64::MIN);
    assert_kept(&ks).await
}

/// An engine whose nodes stop before each request while the gate is closed.
async fn gated(builder: Builder) -> Result<(Arc<Gate>, OpensAtTheEnd, Mailring, Keyspace)> {
    let gate = Gate::new();
    let stop = Arc::clone(&gate);
    let hook = Arc::new(move |site: &FaultSite<'_>| {
        if (site.actor, site.message, site.handled) == ("node", "Request", false) {
            stop.pass();
        }
    });
    let db = builder.fault_hook(hook).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    Ok((Arc::clone(&gate), OpensAtTheEnd(gate), db, ks))
}

#[tokio::test]
async fn a_full_mailbox_answers_overloaded_and_forgets_nothing_that_it_took() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let small = builder(directory.path()).nodes(1).mailbox_capacity(3);
    let (gate, _open, db, ks) = gated(small).await?;
    gate.close();
    let mut taken = Vec::new();
    for number in 0..3 {
        let ks = ks.clone();
        taken.push(tokio::spawn(async move {
            ks.put(format!("taken-{number}"), "v").await
        }));
        until(|| db.stats().nodes[0].queue_depth == number + 1).await;
    }
    let error = ks.put("refused", "v").await.unwrap_err();
    assert!(matches!(error, Error::Overloaded { .. }), "{error}");
    assert_eq!(
        ks.get("kept").await?.as_deref(),
        Some(&b"value"[..]),
        "reads pass"
    );
    gate.open();
    for (number, put) in taken.into_iter().enumerate() {
        patiently(put).await.unwrap()?;
        assert!(ks.contains(format!("taken-{number}")).await?);
    }
    assert_eq!(ks.get("refused").await?, None);
    until_idle(&db).await;
    assert_kept(&ks).await
}

#[tokio::test]
async fn a_memory_budget_that_is_not_freed_answers_overloaded_at_the_deadline() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let _open = OpensAtTheEnd(Arc::clone(&gate));
    let db = builder(directory.path())
        .memory_budget(32 << 20)
        .deadline(Duration::from_millis(300))
        .disk(Arc::new(common::disk::HookedDisk::gated(
            directory.path(),
            Arc::clone(&gate),
        )))
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    // The manifest of the first checkpoint is held up, so that there is no second.
    let value = vec![7; 1 << 20];
    gate.close();
    let mut written = Vec::new();
    let error = loop {
        let key = format!("big-{}", written.len());
        match patiently(ks.put(&key, &value)).await {
            Ok(_) => written.push(key),
            // A slow machine may have found room too late.
            Err(Error::DeadlineExceeded) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Overloaded { .. }), "{error}");
    assert!(ks.contains("kept").await?);
    gate.open();
    patiently(async {
        while let Err(error) = ks.put("cleared", "v").await {
            assert!(error.is_retryable(), "{error}");
        }
    })
    .await;
    for key in &written {
        assert_eq!(ks.get(key).await?.as_deref(), Some(&value[..]), "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_refuses_the_write() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .deadline(Duration::ZERO)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    for _ in 0..3 {
        assert_eq!(
            patiently(ks.put("late", "v")).await,
            Err(Error::DeadlineExceeded)
        );
        assert_eq!(
            patiently(ks.add("late", 1)).await,
            Err(Error::DeadlineExceeded)
        );
    }
    assert_eq!(ks.get("late").await?, None);
    db.shutdown().await?;
    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get("late").await?, None);
    assert_eq!(ks.add("late", 1).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_node_that_restarts_says_so_and_one_that_is_down_too() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .nodes(1)
        .restart_policy(quick_restarts(1))
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    let node = NodeId(0);
    trap.set("node", None, "Request", true, 0, 1);
    assert_eq!(
        patiently(ks.put("a", "v")).await,
        Err(Error::NodeRestarted { node })
    );
    patiently(ks.put("queued", "v")).await?;
    trap.set("node", None, "Request", true, 0, 1);
    // The node goes down before the journal has told it what had arrived.
    let error = patiently(ks.put("a", "v")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    until(|| db.stats().nodes[0].state == mailring::NodeState::Down).await;
    assert_eq!(
        patiently(ks.put("a", "v")).await,
        Err(Error::NodeDown { node })
    );
    patiently(db.shutdown()).await?;
    let db = builder(directory.path()).nodes(1).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get("a").await?, None);
    assert!(ks.contains("queued").await?);
    assert_kept(&ks).await
}

/// The answer was under way when the node panicked: the write is there, and the caller is told that this can't be told.
#[tokio::test]
async fn an_answer_lost_with_its_node_is_unknown_and_the_write_is_there() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    trap.set("node", None, "Visible", true, 0, 1);
    let error = patiently(ks.put("key", "v")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(ks.contains("key").await?);
    assert_kept(&ks).await
}

#[tokio::test]
async fn an_engine_that_is_shut_down_answers_closed() -> Result<()> {
    let (directory, db, ks) = fresh().await?;
    let snapshot = db.snapshot()?;
    let mut watch = ks.watch("").await?;
    db.shutdown().await?;
    db.shutdown().await?;
    assert_eq!(ks.get("kept").await, Err(Error::Closed));
    assert_eq!(ks.put("kept", "v").await, Err(Error::Closed));
    assert_eq!(ks.scan(..).count().await, Err(Error::Closed));
    assert_eq!(snapshot.get(&ks, "kept"), Err(Error::Closed));
    assert_eq!(db.keyspace("new").await.err(), Some(Error::Closed));
    assert_eq!(db.checkpoint().await, Err(Error::Closed));
    assert_eq!(db.verify().await, Err(Error::Closed));
    assert_eq!(db.snapshot().err(), Some(Error::Closed));
    let copy = directory.path().join("backup");
    assert_eq!(db.backup(copy).await, Err(Error::Closed));
    assert_eq!(watch.next().await, None);
    let db = builder(directory.path()).open().await?;
    assert_kept(&db.keyspace("ks").await?).await
}

#[tokio::test]
async fn a_directory_in_use_is_refused_until_it_is_closed() -> Result<()> {
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
    let fresh = || Mailring::builder(&path);
    for (builder, option) in [
        (fresh().memory_budget(1), "memory_budget"),
        (fresh().cache_bytes(512 << 20), "cache_bytes"),
        (fresh().mailbox_capacity(0), "mailbox_capacity"),
        (fresh().arbiters(0), "arbiters"),
        (fresh().arbiters(257), "arbiters"),
        (fresh().watch_capacity(0), "watch_capacity"),
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
        fresh().arc_bits(60),
    ] {
        let error = refusal(builder).await;
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    let db = fresh().open().await?;
    db.keyspace("ks").await?.put("key", "v").await?;
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

#[test]
fn only_what_was_certainly_not_applied_and_can_succeed_later_is_retryable() {
    let (reason, path) = (String::new(), PathBuf::new());
    let table = [
        (Error::EmptyKey, false),
        (Error::KeyTooLarge { len: 1, limit: 0 }, false),
        (Error::ValueTooLarge { len: 1, limit: 0 }, false),
        (
            Error::BatchTooLarge {
                len: 1,
                limit: 0,
                unit: "keys",
            },
            false,
        ),
        (
            Error::InvalidKeyspaceName {
                name: String::new(),
                reason: "",
            },
            false,
        ),
        (
            Error::KeyspaceNotFound {
                name: String::new(),
            },
            false,
        ),
        (Error::NotACounter { len: 1 }, false),
        (
            Error::CounterOverflow {
                current: 1,
                delta: 1,
            },
            false,
        ),
        (Error::Overloaded { what: "" }, true),
        (Error::DeadlineExceeded, true),
        (
            Error::Unknown {
                reason: reason.clone(),
            },
            false,
        ),
        (Error::NodeRestarted { node: NodeId(0) }, true),
        (Error::NodeDown { node: NodeId(0) }, false),
        (
            Error::ReadOnly {
                reason: reason.clone(),
            },
            false,
        ),
        (
            Error::DiskFull {
                context: String::new(),
            },
            true,
        ),
        (
            Error::CorruptJournal {
                file: path.clone(),
                offset: 0,
                reason: reason.clone(),
            },
            false,
        ),
        (
            Error::CorruptTree {
                node: NodeId(0),
                file: path.clone(),
                reason: reason.clone(),
            },
            false,
        ),
        (
            Error::CorruptManifest {
                file: path.clone(),
                reason,
            },
            false,
        ),
        (Error::DirectoryInUse { path: path.clone() }, false),
        (Error::NoEngine { path: path.clone() }, false),
        (
            Error::ForeignDirectory {
                path: path.clone(),
                entry: String::new(),
            },
            false,
        ),
        (
            Error::NewerFormat {
                file: path,
                found: 2,
                supported: 1,
            },
            false,
        ),
        (
            Error::SettingsMismatch {
                setting: "",
                directory: String::new(),
                requested: String::new(),
            },
            false,
        ),
        (
            Error::InvalidOption {
                option: "",
                value: String::new(),
                reason: "",
            },
            false,
        ),
        (Error::io("", &io::Error::other("")), false),
        (Error::io("", &io::ErrorKind::StorageFull.into()), true),
        (Error::Closed, false),
    ];
    for (error, retryable) in table {
        assert_eq!(error.is_retryable(), retryable, "{error:?}");
    }
}

//! Backups: taken while the engine serves, opened like any directory.

mod common;

use common::{builder, patiently, store::Trees, until};
use mailring::{Error, Mailring, Result};
use std::{
    fs,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_is_one_moment_of_the_engine() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .checkpoint_bytes(32 << 10)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let empty = db.keyspace("empty").await?;
    empty.put("key", "v").await?;
    empty.delete("key").await?;
    db.keyspace("dropped").await?.put("key", "v").await?;
    db.drop_keyspace("dropped").await?;
    ks.put_with_ttl("expired", "v", Duration::ZERO).await?;
    ks.put_with_ttl("lives", "v", Duration::from_secs(1_000_000))
        .await?;
    for number in 0..500u32 {
        ks.put(format!("fixed-{number}"), number.to_string())
            .await?;
    }
    let done = Arc::new(AtomicI64::new(0));
    let writer = {
        let (ks, done) = (ks.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            for _ in 0..400 {
                // Two keys on whichever nodes: the second never passes the first.
                ks.add("first", 1).await?;
                ks.add("second", 1).await?;
                done.fetch_add(1, SeqCst);
            }
            Ok::<_, Error>(())
        })
    };
    until(|| done.load(SeqCst) >= 20).await;
    let copy = directory.path().join("copies").join("one");
    let backup = patiently(db.backup(&copy)).await?;
    assert!(done.load(SeqCst) >= 20);
    patiently(writer).await.unwrap()?;

    assert_eq!(backup.directory, copy);
    assert_eq!(backup.keys, 500 + 1 + 2);
    assert!(backup.bytes > 0 && backup.lsn <= db.stats().visible_lsn);
    assert_eq!(Mailring::verify_directory(&copy)?.tree_keys, backup.keys);
    let copied = Mailring::builder(&copy).open().await?;
    assert_eq!(copied.keyspaces().await?, ["empty", "ks"]);
    let cks = copied.keyspace("ks").await?;
    for number in 0..500u32 {
        let value = cks.get(format!("fixed-{number}")).await?;
        assert_eq!(value.as_deref(), Some(number.to_string().as_bytes()));
    }
    assert!(cks.contains("lives").await? && !cks.contains("expired").await?);
    let (first, second) = (cks.add("first", 0).await?, cks.add("second", 0).await?);
    assert!(
        first >= 20 && (0..=1).contains(&(first - second)),
        "{first} {second}"
    );
    assert_eq!(
        ks.add("first", 0).await?,
        400,
        "the original goes its own way"
    );
    assert!(
        copied.stats().visible_lsn > backup.lsn,
        "the copy counts on"
    );

    cks.put("new", "v").await?;
    drop((cks, copied));
    let copied = Mailring::builder(&copy).open().await?;
    assert!(copied.keyspace("ks").await?.contains("new").await?);
    Ok(())
}

#[tokio::test]
async fn an_engine_in_memory_can_be_backed_up_to_a_directory() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = Mailring::memory().nodes(3).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put_many((0..100u32).map(|number| (number.to_be_bytes(), "v")))
        .await?;
    assert_eq!(db.backup(directory.path()).await?.keys, 100);
    let copied = Mailring::builder(directory.path()).nodes(3).open().await?;
    let cks = copied.keyspace("ks").await?;
    assert_eq!(cks.scan(..).collect().await?, ks.scan(..).collect().await?);
    Ok(())
}

#[tokio::test]
async fn a_backup_does_not_write_over_anything() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = Mailring::memory().open().await?;
    db.keyspace("ks").await?.put("key", "v").await?;
    let file = directory.path().join("file");
    fs::write(&file, "mine").unwrap();
    let refused = db.backup(directory.path()).await;
    assert!(
        matches!(refused, Err(Error::InvalidOption { .. })),
        "{refused:?}"
    );
    assert!(matches!(db.backup(&file).await, Err(Error::Io { .. })));
    let copy = directory.path().join("copy");
    db.backup(&copy).await?;
    assert!(matches!(
        db.backup(&copy).await,
        Err(Error::InvalidOption { .. })
    ));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert!(Mailring::builder(&copy).open().await.is_ok());
    Ok(())
}

/// What it had written made the same call an `InvalidOption`.
#[tokio::test]
async fn a_backup_that_failed_leaves_nothing_behind_and_can_be_made_again() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trees = Trees::new();
    let db = builder(&directory.path().join("db"))
        .store_hook(trees.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    ks.put_many((0..100u32).map(|number| (number.to_be_bytes(), "v")))
        .await?;
    patiently(db.checkpoint()).await?;
    let copy = directory.path().join("copy");
    trees.break_off_reads(Some(ErrorKind::Other));
    for _ in 0..2 {
        let failed = patiently(db.backup(&copy)).await;
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 0);
    }
    trees.break_off_reads(None);
    assert_eq!(patiently(db.backup(&copy)).await?.keys, 100);
    assert_eq!(Mailring::verify_directory(&copy)?.tree_keys, 100);
    Ok(())
}

//! The handle under every kind of caller, and that nothing of the engine is left when it has gone.
//!
//! One test alone in its process: it counts the threads of the process.

mod common;

use mailring::{Error, Mailring, Result};
use std::{fs, path::Path, time::Instant};

/// Threads of the engine and of actors; the caller's own actix system has one of the latter.
fn engine_threads() -> Vec<String> {
    let mut names = Vec::new();
    for task in fs::read_dir("/proc/self/task").expect("the process lists its threads") {
        // A thread may end while it is looked at.
        if let Ok(name) = fs::read_to_string(task.unwrap().path().join("comm"))
            && (name.starts_with("mailring-") || name.starts_with("actix-rt"))
        {
            names.push(name.trim().to_owned());
        }
    }
    names
}

/// A thread gets its name a moment after it begins, and leaves the list a moment after it was joined.
fn wait_for(what: &str, condition: impl Fn(&[String]) -> bool) {
    let begun = Instant::now();
    loop {
        let threads = engine_threads();
        if condition(&threads) {
            return;
        }
        assert!(
            begun.elapsed().as_secs() < 60,
            "{what}, but there are {threads:?}"
        );
        std::thread::yield_now();
    }
}

fn assert_all_ended() {
    wait_for("no thread is left", <[String]>::is_empty);
    assert!(actix::System::try_current().is_none());
}

fn open(directory: &Path) -> Result<Mailring> {
    common::builder(directory).arbiters(3).open_blocking()
}

async fn use_it(db: &Mailring, name: &str) -> Result<()> {
    let ks = db.keyspace(name).await?;
    ks.put("key", "v").await?;
    assert!(db.locks().lock(name).await?.is_held());
    let tasks = (0..20).map(|_| ks.add("sum", 1));
    for task in tasks {
        task.await?;
    }
    assert_eq!(ks.add("sum", 0).await?, 20);
    db.checkpoint().await?;
    assert_eq!(ks.scan(..).count().await?, 2);
    Ok(())
}

fn use_it_blocking(db: &Mailring, name: &str) -> Result<()> {
    let db = db.blocking();
    let ks = db.keyspace(name)?;
    ks.put("key", "v")?;
    assert_eq!(ks.add("sum", 20)?, 20);
    assert_eq!(ks.get("key")?.as_deref(), Some(&b"v"[..]));
    db.checkpoint().map(drop)
}

#[test]
fn every_kind_of_caller_is_served_and_no_thread_and_no_system_is_left() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();

    let db = open(path)?;
    wait_for("the engine has threads", |threads| threads.len() >= 5);
    assert!(actix::System::try_current().is_none());
    std::thread::scope(|scope| {
        for number in 0..4 {
            let db = &db;
            scope.spawn(move || use_it_blocking(db, &format!("plain-{number}")).unwrap());
        }
    });
    drop(db);
    assert_all_ended();

    let current = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    current.block_on(async {
        let db = common::builder(path).open().await?;
        use_it(&db, "current").await?;
        // The last handle goes within the runtime.
        drop(db);
        assert_all_ended();
        let db = common::builder(path).open().await?;
        use_it(&db, "current again").await?;
        db.shutdown().await
    })?;
    assert_all_ended();

    let multi = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    multi.block_on(async {
        let db = common::builder(path).open().await?;
        let task = tokio::spawn({
            let db = db.clone();
            async move { use_it(&db, "multi").await }
        });
        task.await.unwrap()?;
        db.shutdown().await?;
        assert_all_ended();
        assert_eq!(db.keyspace("x").await.err(), Some(Error::Closed));
        Ok::<_, Error>(())
    })?;

    let system = actix::System::new();
    system.block_on(async {
        let mine = actix::System::current().id();
        let before = engine_threads().len();
        let db = common::builder(path).open().await?;
        use_it(&db, "actix").await?;
        use_it_blocking(&db, "actix blocking")?;
        assert_eq!(
            actix::System::current().id(),
            mine,
            "the caller's system is left alone"
        );
        let clone = db.clone();
        drop(db);
        clone.shutdown().await?;
        wait_for("only the caller's are left", |threads| {
            threads.len() == before
        });
        assert_eq!(actix::System::current().id(), mine);
        Ok::<_, Error>(())
    })?;
    actix::System::current().stop();
    drop(system);

    let held = open(path)?;
    assert!(matches!(open(path), Err(Error::DirectoryInUse { .. })));
    let ks = held.blocking().keyspace("plain-0")?;
    drop(held);
    assert!(
        ks.get("key")?.is_some(),
        "what was made from a handle keeps the engine"
    );
    drop(ks);
    let is_engines = |name: &String| name.starts_with("mailring-");
    wait_for("none of the engine is left", |threads| {
        !threads.iter().any(is_engines)
    });
    let refused = common::builder(path).nodes(3).open_blocking();
    assert!(matches!(refused, Err(Error::SettingsMismatch { .. })));
    wait_for("a refused opening leaves none", |threads| {
        !threads.iter().any(is_engines)
    });
    Ok(())
}

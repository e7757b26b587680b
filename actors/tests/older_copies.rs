//! An engine of two directories one of which is put back as it was before: nothing is forced but by openings and ends, and
//! still nobody sees half of it.

mod common;

use common::{copy_directory, keys_of, patiently, tuned};
use mailring::{Durability, Error, Mailring, Result, Transaction};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Two directories, and what they are called in the engine.
struct Pair(tempfile::TempDir);

impl Pair {
    const NAMES: [&str; 2] = ["home", "second"];

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn open(&self, durability: Durability) -> Result<Mailring> {
        let builder = tuned(Mailring::builder(self.at("home"))).durability(durability);
        let is_new = !self.at("home").exists();
        let second = is_new.then(|| self.at("second"));
        let builder = second
            .into_iter()
            .fold(builder, |all, at| all.directory(at));
        builder.nodes(2).open().await
    }
}

/// Moves from a node of one directory to one of the other.
async fn transfer(db: &Mailring) -> Result<()> {
    let ks = db.keyspace("ks").await?;
    let from = keys_of(db, &ks, 0, 1).await.remove(0);
    let to = keys_of(db, &ks, 1, 1).await.remove(0);
    for _ in 0..10 {
        db.transact(async |txn: Transaction| {
            txn.add(&ks, &from, -1).await?;
            txn.add(&ks, &to, 1).await.map(drop)
        })
        .await?;
    }
    Ok(())
}

/// What is there when the directory of this number is put back as it was between two openings.
async fn put_back(durability: Durability, number: usize, is_clean: bool) -> Result<Mailring> {
    let pair = Pair(tempfile::tempdir().unwrap());
    let db = pair.open(durability).await?;
    transfer(&db).await?;
    patiently(db.shutdown()).await?;
    drop(db);
    let (name, older) = (pair.at(Pair::NAMES[number]), pair.at("older"));
    copy_directory(&name, &older);
    let db = pair.open(durability).await?;
    transfer(&db).await?;
    if is_clean {
        db.checkpoint().await?;
        patiently(db.shutdown()).await?;
    }
    drop(db);
    exchange(&name, &older);
    pair.open(durability).await
}

fn exchange(name: &Path, older: &Path) {
    fs::remove_dir_all(name).unwrap();
    fs::rename(older, name).unwrap();
}

#[tokio::test]
async fn an_older_copy_of_any_directory_is_named_whatever_is_forced() -> Result<()> {
    for durability in [
        Durability::Always,
        Durability::Interval(Duration::from_millis(20)),
        Durability::None,
    ] {
        for number in 0..2 {
            for is_clean in [false, true] {
                let outcome = put_back(durability, number, is_clean).await;
                let directory = match outcome {
                    Err(Error::DirectoryBehind { directory, .. }) => directory,
                    outcome => panic!("{durability:?}, {number}, {is_clean}: {outcome:?}"),
                };
                assert_eq!(usize::from(directory.0), number, "{durability:?}");
            }
        }
    }
    Ok(())
}

/// Where nothing is forced there is no stamp in a journal: what is missing is told by what comes behind it.
#[tokio::test]
async fn a_segment_that_is_gone_is_an_error_whatever_is_forced() -> Result<()> {
    for durability in [Durability::Always, Durability::None] {
        let pair = Pair(tempfile::tempdir().unwrap());
        let db = pair.open(durability).await?;
        transfer(&db).await?;
        drop(db);
        // The next opening begins a segment of its own.
        let db = pair.open(durability).await?;
        transfer(&db).await?;
        drop(db);
        let mut segments: Vec<_> = fs::read_dir(pair.at("second"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("journal-")
            })
            .collect();
        segments.sort();
        fs::remove_file(&segments[0]).unwrap();
        match pair.open(durability).await {
            Err(Error::CorruptJournal { .. }) => {}
            outcome => panic!("{durability:?}: {outcome:?}"),
        }
    }
    Ok(())
}

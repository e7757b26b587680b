//! A place for several directories, and an engine that commits over two of them.

use super::{copy_directory, keys_of, tuned};
use mailring::{Builder, DirectoryNo, Error, Keyspace, Mailring, Result, Transaction};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A place for directories.
pub struct Disks {
    root: TempDir,
}

impl Disks {
    pub fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.root.path()).unwrap().join(name)
    }

    pub fn home(&self) -> PathBuf {
        self.at("home")
    }

    pub fn second(&self) -> PathBuf {
        self.at("second")
    }

    pub fn third(&self) -> PathBuf {
        self.at("third")
    }

    pub fn open_at(&self, home: &str) -> Builder {
        tuned(Mailring::builder(self.at(home)))
    }

    pub fn known(&self) -> Builder {
        self.open_at("home")
    }

    /// Two nodes, one in each.
    pub fn create(&self) -> Builder {
        self.known().directory(self.at("second")).nodes(2)
    }

    pub fn copy(&self, from: &str, to: &str) {
        copy_directory(&self.at(from), &self.at(to));
    }

    /// All files of a directory, but the lock's.
    pub fn files(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.at(name), &mut files);
        files
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

/// Writes to both nodes in one transaction.
pub async fn write(db: &Mailring, name: &str) -> Result<()> {
    let ks = db.keyspace("ks").await?;
    let keys = [
        keys_of(db, &ks, 0, 1).await.remove(0),
        keys_of(db, &ks, 1, 1).await.remove(0),
    ];
    db.transact(async |txn: Transaction| {
        for key in &keys {
            txn.put(&ks, format!("{{{key}}}-{name}"), "v").await?;
        }
        Ok(())
    })
    .await
}

/// How many of the keys of [`write`] there are.
pub async fn written(db: &Mailring, name: &str) -> Result<usize> {
    let ks: Keyspace = db.keyspace("ks").await?;
    let mut scan = ks.scan(..);
    let mut found = 0;
    while let Some((key, _)) = scan.next().await? {
        found += usize::from(key.ends_with(format!("-{name}").as_bytes()));
    }
    Ok(found)
}

/// Whether there is a tree of the node.
pub fn has_tree(directory: &Path, node: u16) -> bool {
    directory.join(format!("node-{node:03}")).exists()
}

pub fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Moves 1 between two keys of different nodes.
pub async fn transfer(db: &Mailring, ks: &Keyspace, keys: &[String; 2]) -> Result<()> {
    db.transact(async |txn: Transaction| {
        txn.add(ks, &keys[0], -1).await?;
        txn.add(ks, &keys[1], 1).await.map(drop)
    })
    .await
}

pub async fn a_key_of_each(db: &Mailring, ks: &Keyspace) -> [String; 2] {
    [
        keys_of(db, ks, 0, 1).await.remove(0),
        keys_of(db, ks, 1, 1).await.remove(0),
    ]
}

pub async fn balance(ks: &Keyspace, key: &str) -> Result<i64> {
    ks.add(key, 0).await
}

pub fn missing(outcome: Result<Mailring>) -> (DirectoryNo, PathBuf, String) {
    match outcome.map(|_| ()) {
        Err(Error::DirectoryMissing {
            directory,
            path,
            reason,
        }) => (directory, path, reason),
        outcome => panic!("{outcome:?}"),
    }
}

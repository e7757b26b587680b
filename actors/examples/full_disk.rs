//! A file system that is really full: the engine refuses writes, keeps reads, clears by itself and loses nothing.
//!
//! `full_disk FOLDER` must be given a folder on a file system of its own, of 64 MiB or so: it is filled up. The tests tell
//! the same story with trees and a disk that only say that they are full.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{
    full::{VALUE_BYTES, assert_there, small, until_it_clears, write_until_refused},
    patiently,
};
use mailring::{Error, Result};
use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    path::PathBuf,
};

/// Fills a place up, and gives the room back.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(&self) {
        let mut file = File::create(&self.0).expect("there is room for a name");
        for block in [1 << 20, 4 << 10, 1] {
            while let Ok(()) = file.write_all(&vec![0; block]) {}
        }
        let error = file.write_all(&[0; 4 << 10]).expect_err("it is full now");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    fn remove(&self) {
        std::fs::remove_file(&self.0).expect("it is there");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let disk = std::env::args_os().nth(1).expect("usage: full_disk FOLDER");
    let disk = PathBuf::from(disk);
    let directory = disk.join("engine");
    let ballast = Ballast(disk.join("ballast"));
    let db = small(&directory).open().await?;
    let ks = db.keyspace("ks").await?;
    let mut all = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            let key = format!("before-{round}-{number}");
            patiently(ks.put(&key, vec![1; VALUE_BYTES])).await?;
            all.push(key);
        }
        ballast.fill();
        let checkpoint = patiently(db.checkpoint()).await;
        assert!(
            matches!(checkpoint, Err(Error::DiskFull { .. })),
            "{checkpoint:?}"
        );
        let (written, error) = write_until_refused(&db, &ks, &format!("full-{round}")).await;
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        all.extend(written);
        assert!(db.stats().disk_full.is_some());
        assert_there(&ks, &all).await?;
        ballast.remove();
        until_it_clears(&db, &ks).await;
        assert_there(&ks, &all).await?;
        patiently(db.checkpoint()).await?;
        patiently(db.verify()).await?;
    }
    ballast.fill();
    let (written, _) = write_until_refused(&db, &ks, "last").await;
    all.extend(written);
    drop((ks, db));
    ballast.remove();
    let db = small(&directory).open().await?;
    assert_there(&db.keyspace("ks").await?, &all).await?;
    println!("{} values are there, after 4 times without room", all.len());
    Ok(())
}

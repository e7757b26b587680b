//! Every released format opens, and a newer one is refused with a clear word.
//!
//! `tests/data/format-1` is a directory as the first release wrote it. To make one of a new format, after its number has
//! been raised, run
//!
//! ```text
//! MAILRING_FORMAT_DIRECTORY=actors/tests/data/format-2 cargo test -p mailring --test formats generator
//! ```
//!
//! and add its number to [`FORMATS`]. Zeros behind the last frame of a segment are cut off: only the kept files need
//! to be small, and a segment may end anywhere behind its frames.

mod common;

use common::{builder, copy_directory};
use mailring::{Error, Mailring, Result};
use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

const FORMATS: [u32; 1] = [1];

fn data(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/format-{format}"))
}

/// Something of everything: keys in the tree and in the journal, overwritten, deleted, counted, with a time to live, in
/// a keyspace that was dropped, and in one that came after a checkpoint.
async fn fill(directory: &Path) -> Result<()> {
    let db = builder(directory).open().await?;
    let users = db.keyspace("users").await?;
    db.keyspace("dropped").await?.put("key", "v").await?;
    for number in 0..100 {
        users
            .put(format!("{{{number}}}:name"), format!("name {number}"))
            .await?;
    }
    users
        .put_with_ttl("lives long", "v", Duration::from_secs(100 * 365 * 86_400))
        .await?;
    users.put_with_ttl("expired", "v", Duration::ZERO).await?;
    users.put("large", vec![b'x'; 10_000]).await?;
    users.add("visits", 40).await?;
    db.checkpoint().await?;
    db.drop_keyspace("dropped").await?;
    let late = db.keyspace("late").await?;
    late.put("key", "in the journal").await?;
    users.add("visits", 2).await?;
    for number in (0..100).step_by(3) {
        users.delete(format!("{{{number}}}:name")).await?;
    }
    let mut batch = db.batch();
    for number in 0..10 {
        batch.put(&users, format!("{{batch}}{number}"), number.to_string());
    }
    batch.commit().await
}

async fn check(directory: &Path) -> Result<()> {
    assert!(Mailring::verify_directory(directory)?.journal_records > 0);
    let db = Mailring::builder(directory).open().await?;
    assert_eq!(db.keyspaces().await?, ["late", "users"]);
    let users = db.keyspace("users").await?;
    for number in 0..100 {
        let name = users.get(format!("{{{number}}}:name")).await?;
        let expected = (number % 3 != 0).then(|| format!("name {number}").into());
        assert_eq!(name, expected, "{number}");
    }
    assert_eq!(
        users.get("large").await?.as_deref(),
        Some(&[b'x'; 10_000][..])
    );
    assert_eq!(users.add("visits", 0).await?, 42);
    assert!(users.contains("lives long").await? && !users.contains("expired").await?);
    assert_eq!(users.prefix("{batch}").count().await?, 10);
    let late = db.keyspace("late").await?;
    assert_eq!(
        late.get("key").await?.as_deref(),
        Some(&b"in the journal"[..])
    );
    users.put("new", "v").await?;
    db.checkpoint().await?;
    db.verify().await?;
    db.shutdown().await
}

fn journal_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    files.sort();
    files
}

/// Takes the zeros from the ends of the segments.
fn shrink(directory: &Path) {
    const PAGE: usize = 4096;
    for file in journal_files(directory) {
        let bytes = fs::read(&file).unwrap();
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let len = (used.next_multiple_of(PAGE) + PAGE).min(bytes.len());
        fs::write(&file, &bytes[..len]).unwrap();
    }
}

#[tokio::test]
async fn the_generator_writes_what_the_kept_directories_hold() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).await?;
    shrink(directory.path());
    if let Some(keep) = env::var_os("MAILRING_FORMAT_DIRECTORY") {
        // Relative to the workspace, where the command is given.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        copy_directory(directory.path(), &root.join(keep));
    }
    check(directory.path()).await
}

#[tokio::test]
async fn a_directory_of_each_released_format_opens_and_holds_what_it_should() -> Result<()> {
    for format in FORMATS {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&data(format), copy.path());
        check(copy.path()).await?;
        check_again(copy.path()).await?;
    }
    Ok(())
}

async fn check_again(directory: &Path) -> Result<()> {
    let db = Mailring::builder(directory).open().await?;
    let users = db.keyspace("users").await?;
    assert!(users.contains("new").await?);
    db.shutdown().await
}

/// Writes a version into a header and makes its checksum right.
fn set_version(file: &Path, checksum_at: usize, covered: &[(usize, usize)]) {
    let mut bytes = fs::read(file).unwrap();
    bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
    let mut all = Vec::new();
    for (from, to) in covered {
        all.extend_from_slice(&bytes[*from..(*to).min(bytes.len())]);
    }
    let checksum = xxhash_rust::xxh3::xxh3_64(&all);
    bytes[checksum_at..checksum_at + 8].copy_from_slice(&checksum.to_le_bytes());
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_newer_manifest_or_segment_is_refused_and_left_alone() -> Result<()> {
    let copy = tempfile::tempdir().unwrap();
    copy_directory(&data(1), copy.path());
    let manifest = copy.path().join("MANIFEST");
    let segment = journal_files(copy.path()).remove(0);
    for (file, checksum_at, covered) in [
        (manifest, 16, &[(8, 16), (24, usize::MAX)][..]),
        (segment, 56, &[(0, 56)][..]),
    ] {
        let whole = fs::read(&file).unwrap();
        set_version(&file, checksum_at, covered);
        let newer = fs::read(&file).unwrap();
        let error = Error::NewerFormat {
            file: file.clone(),
            found: 7,
            supported: 1,
        };
        assert_eq!(
            Mailring::builder(copy.path()).open().await.err(),
            Some(error.clone())
        );
        assert_eq!(Mailring::verify_directory(copy.path()), Err(error));
        assert_eq!(fs::read(&file).unwrap(), newer);
        fs::write(&file, whole).unwrap();
    }
    check(copy.path()).await
}

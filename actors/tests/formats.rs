//! Every released format opens, and a newer one is refused with a clear word.
//!
//! `tests/data/format-1` is a directory as the first release wrote it, `format-1-everything` one of the same format with every
//! kind of record and every section of the manifest: transactions, idempotency keys, leases, and changes of the ring, the
//! last of which is under way. To make some of a new format, after its number has been raised, run
//!
//! ```text
//! MAILRING_FORMAT_DIRECTORY=actors/tests/data/format-2 cargo test -p mailring --test formats generator
//! ```
//!
//! which makes both, and add its number to [`FORMATS`]. What is kept is never made anew. Zeros behind the last frame of a segment are cut off: only the kept files need
//! to be small, and a segment may end anywhere behind its frames.

mod common;

use common::{Gate, OpensAtTheEnd, builder, copy_directory, patiently, until, until_idle};
use mailring::{
    ChangeEnd, DirectoryNo, Error, FaultHook, FaultSite, FencingToken, Mailring, NodeId, Once,
    Result,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const FORMATS: [u32; 1] = [1];
/// A crash makes the next opening wait for it.
const LEASE: Duration = Duration::from_millis(100);

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

fn everything_of(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/format-{format}-everything"))
}

/// Holds up whoever sweeps what has moved away.
fn stops_at(gate: &Arc<Gate>) -> FaultHook {
    let gate = Arc::clone(gate);
    Arc::new(move |site: &FaultSite<'_>| {
        if (site.actor, site.message, site.handled) == ("mover", "Sweep", false) {
            gate.pass();
        }
    })
}

/// Every kind of record, below a checkpoint and behind it, into `directory` as a crash would leave it: a change of the ring
/// is under way, which began behind the checkpoint and has cut arcs off.
async fn fill_with_everything(directory: &Path) -> Result<()> {
    let sweeps = Gate::new();
    let place = tempfile::tempdir().unwrap();
    let builder = builder(place.path()).arc_bits(10).move_rate(None);
    let builder = builder.max_lease(LEASE).fault_hook(stops_at(&sweeps));
    let db = builder.open().await?;
    let _open = OpensAtTheEnd(Arc::clone(&sweeps));
    let ks = db.keyspace("everything").await?;
    for number in 0..40 {
        ks.put(format!("key-{number}"), vec![b'v'; 20]).await?;
    }
    // A node that came, and one that came and left.
    for _ in 0..2 {
        patiently(db.nodes().add(1).await?.wait()).await?;
    }
    patiently(db.nodes().remove(NodeId(3)).await?.wait()).await?;
    for round in ["in the tree", "in the journal"] {
        let gone = format!("gone {round}");
        db.keyspace(&gone).await?.put("key", "v").await?;
        db.drop_keyspace(&gone).await?;
        let mut batch = db.batch();
        for number in 0..10 {
            batch.put(&ks, format!("batch-{number}"), round);
        }
        batch.commit().await?;
        db.transact(async |txn| {
            for number in 0..10 {
                txn.add(&ks, format!("account-{number}"), number - 3)
                    .await?;
            }
            txn.delete(&ks, "key-0").await?;
            txn.put_with_ttl(
                &ks,
                "lives long",
                round,
                Duration::from_secs(100 * 365 * 86_400),
            )
            .await
        })
        .await?;
        let once = db.transaction().idempotency_key(round);
        let ran = once.run(async |txn| txn.put(&ks, "once", round).await);
        assert_eq!(ran.await?, Once::Ran(()));
        let guard = db.locks().lock("lock").await?;
        let fenced = db.transaction().fence(&guard);
        let token = guard.token().0.to_string();
        fenced
            .run(async |txn| txn.put(&ks, "fenced", &token).await)
            .await?;
        if round == "in the tree" {
            patiently(db.checkpoint()).await?;
        }
    }
    sweeps.close();
    // Its handle is not waited for: the change goes on without.
    let _under_way = db.nodes().set_weight(NodeId(2), 3).await?;
    until(|| sweeps.waiting() > 0).await;
    until_idle(&db).await;
    copy_directory(place.path(), directory);
    Ok(())
}

async fn check_everything(directory: &Path) -> Result<()> {
    Mailring::verify_directory(directory)?;
    let sweeps = Gate::new();
    sweeps.close();
    let builder = Mailring::builder(directory).move_rate(None);
    let db = builder.fault_hook(stops_at(&sweeps)).open().await?;
    let _open = OpensAtTheEnd(Arc::clone(&sweeps));
    assert_eq!(db.keyspaces().await?, ["everything"]);
    let ks = db.keyspace("everything").await?;
    let check = async || {
        for number in 1..40 {
            let value = ks.get(format!("key-{number}")).await?;
            assert_eq!(value.as_deref(), Some(&[b'v'; 20][..]), "{number}");
        }
        for number in 0..10 {
            let balance = ks.add(format!("account-{number}"), 0).await?;
            assert_eq!(balance, 2 * (number - 3), "{number}");
            let batch = ks.get(format!("batch-{number}")).await?;
            assert_eq!(batch.as_deref(), Some(&b"in the journal"[..]));
        }
        for key in ["once", "lives long"] {
            assert_eq!(ks.get(key).await?.as_deref(), Some(&b"in the journal"[..]));
        }
        assert!(!ks.contains("key-0").await?);
        Ok(())
    };
    check().await?;
    for round in ["in the tree", "in the journal"] {
        let once = db.transaction().idempotency_key(round);
        let ran = once.run(async |txn| txn.put(&ks, "once", "twice").await);
        assert!(matches!(ran.await?, Once::Before(_)), "{round}");
    }
    let old = ks.get("fenced").await?.expect("a token was written");
    let old: u64 = std::str::from_utf8(&old).unwrap().parse().unwrap();
    let guard = patiently(db.locks().lock("lock").acquire()).await?;
    assert!(guard.token().0 > old, "tokens rise over openings");
    let late = db.transaction().fence_token("lock", FencingToken(old));
    let late = late.run(async |txn| txn.put(&ks, "fenced", "late").await);
    assert!(matches!(late.await, Err(Error::StaleFence { .. })));
    // The change that was under way is ended, and the ring goes on from there.
    let change = db.nodes().change().expect("it is under way");
    sweeps.open();
    assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
    let members = || -> Vec<_> {
        let nodes = db.nodes().list();
        let members = nodes.iter().map(|node| (node.node.0, node.weight));
        members.collect()
    };
    assert_eq!(members(), [(0, 1), (1, 1), (2, 3)]);
    check().await?;
    patiently(db.nodes().add(1).await?.wait()).await?;
    let with_another = [(0, 1), (1, 1), (2, 3), (4, 1)];
    assert_eq!(members(), with_another, "numbers are not used again");
    check().await?;
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

/// It goes on with another directory, and without being told of it from then on.
#[tokio::test]
async fn every_kept_format_takes_a_second_directory() -> Result<()> {
    for format in FORMATS {
        let (copy, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        copy_directory(&data(format), copy.path());
        let db = Mailring::builder(copy.path())
            .directory(second.path())
            .open()
            .await?;
        let change = db.nodes().add_in(DirectoryNo(1), 1).await?;
        assert_eq!(change.wait().await?, ChangeEnd::Completed);
        drop((change, db));
        check(copy.path()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_generator_writes_what_the_kept_directories_hold() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).await?;
    shrink(directory.path());
    keep(directory.path(), "");
    check(directory.path()).await?;

    let directory = tempfile::tempdir().unwrap();
    fill_with_everything(directory.path()).await?;
    shrink(directory.path());
    keep(directory.path(), "-everything");
    check_everything(directory.path()).await
}

/// Keeps a directory, if that was asked for.
fn keep(directory: &Path, suffix: &str) {
    if let Some(mut keep) = env::var_os("MAILRING_FORMAT_DIRECTORY") {
        keep.push(suffix);
        // Relative to the workspace, where the command is given.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        copy_directory(directory, &root.join(keep));
    }
}

#[tokio::test]
async fn a_directory_of_each_released_format_opens_and_holds_what_it_should() -> Result<()> {
    for format in FORMATS {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&data(format), copy.path());
        check(copy.path()).await?;
        check_again(copy.path()).await?;

        let copy = tempfile::tempdir().unwrap();
        copy_directory(&everything_of(format), copy.path());
        check_everything(copy.path()).await?;
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

//! System calls that fail under a running engine, with real processes and real files.
//!
//! The test runs itself again as a child, under a preloaded shim (`common/shim.c`) that fails the n-th call of one kind, or
//! each from the n-th on. The child opens a directory, writes, checkpoints, reads and stops, and ends well whatever
//! fails: by errors that say that the disk failed, never by a panic, by wrong data or by calling a file corrupt.
//! Then nothing fails any more: the parent opens a copy and finds everything that was acknowledged. After calls that
//! change files one more child opens the directory and reads it, and what somebody has read must survive a loss of power:
//! of what the failed force was to make durable the shim keeps nothing.

mod common;

use common::{
    Ledger, copy_directory, is_harmless, load, patiently,
    shim::{Medium, Shim},
    tuned,
};
use mailring::{Error, Keyspace, Mailring, Result};
use rand::Rng;
use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

const DIRECTORY: &str = "MAILRING_STRUCK_DIRECTORY";
/// What the directory holds, as a ledger's text.
const LEDGER: &str = "MAILRING_STRUCK_LEDGER";
/// Set where no call fails for good: then no error may be seen.
const ALL_WELL: &str = "MAILRING_STRUCK_ALL_WELL";

/// Set where a child ends as soon as it has read everything.
const READ_ONLY: &str = "MAILRING_STRUCK_READ_ONLY";

/// Before each error that a child prints.
const TOLD: &str = "told: ";

const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// Not an error: half of the bytes are written.
const SHORT: i32 = 0;

const FOR_EVER: u64 = u64::MAX >> 1;

const KINDS: [&str; 12] = [
    "open",
    "create",
    "list",
    "stat",
    "read",
    "write",
    "fsync",
    "fdatasync",
    "dirsync",
    "rename",
    "unlink",
    "mkdir",
];
/// Those that may want room.
const WANT_ROOM: [&str; 7] = [
    "create",
    "write",
    "fsync",
    "fdatasync",
    "dirsync",
    "rename",
    "mkdir",
];
/// Those that end differently if they are wrong about what is durable.
const CHANGES: [&str; 7] = [
    "create",
    "write",
    "fsync",
    "fdatasync",
    "dirsync",
    "rename",
    "unlink",
];
/// Calls that were once answered wrongly: a directory that could not be looked into was said to be somebody else's.
const FOUND: [(&str, &str); 1] = [("stat", "/MANIFEST")];
/// How often a kind is failed with each error, in a child with a fresh directory and in one with a used one.
const POSITIONS: usize = 1;
/// Where calls are interrupted or do half: everywhere but in the tables of trees. The tree's checksum of a whole table
/// counts bytes twice that the system call did not take at once, and its verification then calls a good table corrupt.
const PARTS: [&str; 5] = ["/journal-", "/spare-", "/MANIFEST", "/.tmp", "/v"];

const ACCOUNTS: u64 = 4;
/// The size of keys, and of their values, that fill a segment within a child's life.
const LARGE: usize = 30_000;

fn open(directory: &Path) -> Result<Mailring> {
    tuned(Mailring::builder(directory)).nodes(2).open_blocking()
}

/// Whether an error says what has happened here.
fn is_fair(error: &Error) -> bool {
    let says_so = is_harmless(error)
        || matches!(
            error,
            Error::Io { .. } | Error::DiskFull { .. } | Error::Unknown { .. }
        );
    says_so && !error.to_string().contains("panicked")
}

fn note<T>(what: &str, outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(done) => Some(done),
        Err(error) => {
            assert!(
                env::var_os(ALL_WELL).is_none(),
                "{what}: nothing has failed for good: {error}"
            );
            assert!(is_fair(&error), "{what}: {error} ({error:?})");
            println!("{TOLD}{what}: {error}");
            None
        }
    }
}

/// Opens, writes, reads and stops, and prints its ledger. Says whether this process is a child at all.
fn live_if_child() -> bool {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return false;
    };
    let ledger = Ledger::read(&fs::read_to_string(env::var_os(LEDGER).unwrap()).unwrap());
    let ledger = Arc::new(Mutex::new(ledger));
    let db = note("opening", open(Path::new(&directory)));
    if let Some(db) = &db {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(use_it(db, &ledger));
    }
    println!("\n{}", ledger.lock().unwrap().to_text());
    if env::var_os(READ_ONLY).is_some() {
        // Nothing is shut down, which would write.
        std::process::exit(0);
    }
    true
}

async fn use_it(db: &Mailring, ledger: &Arc<Mutex<Ledger>>) {
    let Some(ks) = note("a keyspace", patiently(db.keyspace("ks")).await) else {
        return;
    };
    let mut settled = ledger.lock().unwrap().clone();
    note("comparing", settled.compare(&ks).await);
    if note("settling", settled.settle(&ks).await).is_some() {
        *ledger.lock().unwrap() = settled;
    }
    if env::var_os(READ_ONLY).is_some() {
        return;
    }
    let life = std::process::id();
    for part in 0..3 {
        load(&ks, ledger, &format!("life-{life}-{part}"), 3, 4).await;
        for number in 0..8 {
            let key = format!("large-{life}-{part}-{number}-{}", "x".repeat(LARGE));
            let put = patiently(ks.put(&key, &key)).await;
            ledger.lock().unwrap().put(&key, &put);
            note("a large put", put);
            note("a transfer", patiently(transfer(db, &ks, number)).await);
        }
        note("a checkpoint", patiently(db.checkpoint()).await);
        let now = ledger.lock().unwrap().clone();
        note("comparing", now.compare(&ks).await);
        note("the accounts", assert_balanced(&ks).await);
    }
    note("verifying", patiently(db.verify()).await);
    note("the shutdown", patiently(db.shutdown()).await);
}

async fn transfer(db: &Mailring, ks: &Keyspace, number: u64) -> Result<()> {
    db.transact(async |txn| {
        txn.add(ks, format!("account-{}", number % ACCOUNTS), -1)
            .await?;
        txn.add(ks, format!("account-{}", (number + 1) % ACCOUNTS), 1)
            .await
            .map(drop)
    })
    .await
}

async fn assert_balanced(ks: &Keyspace) -> Result<()> {
    let accounts = ks.prefix("account-").collect().await?;
    let balances = accounts
        .iter()
        .map(|(_, balance)| i64::from_le_bytes(balance[..].try_into().unwrap()));
    assert_eq!(balances.sum::<i64>(), 0, "half a transfer is there");
    Ok(())
}

/// A directory as a child finds it, and what it holds.
struct Start {
    folder: tempfile::TempDir,
    ledger: Ledger,
}

/// What fails: the environment's words.
#[derive(Debug)]
struct Plan {
    kind: &'static str,
    part: &'static str,
    error: i32,
    first: u64,
    period: u64,
    times: u64,
}

impl Plan {
    /// Fails `times` calls, from one on.
    fn failing(kind: &'static str, part: &'static str, error: i32, first: u64, times: u64) -> Self {
        Self {
            kind,
            part,
            error,
            first,
            period: 1,
            times,
        }
    }
}

/// Runs a child, which must end well, and gives what it says.
fn run(test: &str, medium: &Medium, before: &Ledger, plan: Option<&Plan>, env: &[&str]) -> String {
    let ledger = tempfile::NamedTempFile::new().unwrap();
    fs::write(ledger.path(), before.to_text()).unwrap();
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, medium.root().join("engine"))
        .env(LEDGER, ledger.path())
        .envs(medium.environment());
    if let Some(Plan {
        kind,
        part,
        error,
        first,
        period,
        times,
    }) = plan
    {
        child.env(
            "MAILRING_SHIM_FAIL",
            format!("{kind} {part} {error} {first} {period} {times}"),
        );
    }
    child.envs(env.iter().map(|name| (name, "1")));
    let output = child.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let short: String = said
        .lines()
        .filter(|line| !line.starts_with('='))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(
        output.status.success(),
        "{plan:?}: the child ended by {}:\n{short}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Opens a copy of the directory and compares it with a ledger.
fn check(medium: &Medium, ledger: &Ledger, when: &str) {
    let copy = tempfile::tempdir().unwrap();
    let engine = medium.root().join("engine");
    if engine.exists() {
        copy_directory(&engine, copy.path());
    }
    let db = open(copy.path()).unwrap_or_else(|error| panic!("{when}: {error} ({error:?})"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ks = db.keyspace("ks").await.unwrap();
        ledger.check(&ks).await;
        assert_balanced(&ks).await.unwrap();
        patiently(db.verify()).await.unwrap();
    });
}

/// Returns whether the child has seen an error.
fn strike(test: &str, shim: &Shim, start: &Start, plan: &Plan) -> bool {
    let place = tempfile::tempdir().unwrap();
    let mut medium = Medium::copy_of(start.folder.path(), shim, place.path());
    let said = run(test, &medium, &start.ledger, Some(plan), &[]);
    let ledger = Ledger::read(&said);
    check(&medium, &ledger, &format!("after {plan:?}"));
    if CHANGES.contains(&plan.kind) {
        let said = run(test, &medium, &ledger, None, &[ALL_WELL, READ_ONLY]);
        medium.lose_power(None);
        let when = format!("{plan:?}, another life, and a loss of power");
        check(&medium, &Ledger::read(&said), &when);
    }
    said.contains(TOLD)
}

/// An empty folder, and one with an engine that was shut down and lost no power.
fn starts(test: &str, shim: &Shim) -> [Start; 2] {
    let fresh = Start {
        folder: tempfile::tempdir().unwrap(),
        ledger: Ledger::default(),
    };
    let place = tempfile::tempdir().unwrap();
    let medium = Medium::copy_of(fresh.folder.path(), shim, place.path());
    let ledger = Ledger::read(&run(test, &medium, &fresh.ledger, None, &[ALL_WELL]));
    let used = Start {
        folder: tempfile::tempdir().unwrap(),
        ledger,
    };
    copy_directory(&medium.root(), used.folder.path());
    [fresh, used]
}

#[test]
fn a_call_that_fails_costs_nothing_acknowledged_and_is_told() {
    const TEST: &str = "a_call_that_fails_costs_nothing_acknowledged_and_is_told";
    if live_if_child() {
        return;
    }
    let Some(shim) = Shim::build() else { return };
    let mut random = common::seeded();
    let starts = starts(TEST, &shim);
    let mut plans = Vec::new();
    for start in &starts {
        plans
            .extend(FOUND.map(|(kind, part)| (start, Plan::failing(kind, part, EIO, 1, FOR_EVER))));
        let place = tempfile::tempdir().unwrap();
        let medium = Medium::copy_of(start.folder.path(), &shim, place.path());
        run(TEST, &medium, &start.ledger, None, &[ALL_WELL]);
        let counts = medium.counts();
        for kind in KINDS {
            for error in [EIO, ENOSPC] {
                if error == ENOSPC && !WANT_ROOM.contains(&kind) || counts[kind] == 0 {
                    continue;
                }
                for _ in 0..POSITIONS {
                    // Small numbers are as likely as large ones: opening makes few calls.
                    let first = (counts[kind] as f64).powf(random.random::<f64>()) as u64;
                    let times = if random.random() { 1 } else { FOR_EVER };
                    plans.push((start, Plan::failing(kind, "/", error, first, times)));
                }
            }
        }
    }
    assert!(
        plans.len() > KINDS.len() * POSITIONS,
        "calls are made: {}",
        plans.len()
    );
    let halves = plans.split_at(plans.len() / 2);
    let strike_all = |half: &[(&Start, Plan)]| {
        let told = half
            .iter()
            .filter(|(start, plan)| strike(TEST, &shim, start, plan));
        told.count()
    };
    let told = thread::scope(|scope| {
        let first = scope.spawn(|| strike_all(halves.0));
        strike_all(halves.1) + first.join().unwrap()
    });
    // What fails once and is tried again, or is only a file that could not be removed, is nobody's affair.
    assert!(told > plans.len() / 4, "{told} of {}", plans.len());
}

#[test]
fn a_call_that_is_interrupted_or_does_half_is_gone_on_with() {
    const TEST: &str = "a_call_that_is_interrupted_or_does_half_is_gone_on_with";
    if live_if_child() {
        return;
    }
    let Some(shim) = Shim::build() else { return };
    let starts = starts(TEST, &shim);
    for (kind, error) in [
        ("write", SHORT),
        ("write", EINTR),
        ("fsync", EINTR),
        ("fdatasync", EINTR),
        ("dirsync", EINTR),
        ("open", EINTR),
        ("create", EINTR),
    ] {
        let parts = if kind == "write" { &PARTS[..] } else { &["/"] };
        for (part, start) in parts.iter().zip(starts.iter().cycle()) {
            let plan = Plan {
                kind,
                part,
                error,
                first: 1,
                period: 2,
                times: FOR_EVER,
            };
            let place = tempfile::tempdir().unwrap();
            let mut medium = Medium::copy_of(start.folder.path(), &shim, place.path());
            let said = run(TEST, &medium, &start.ledger, Some(&plan), &[ALL_WELL]);
            medium.lose_power(None);
            let when = format!("{plan:?}, and a loss of power");
            check(&medium, &Ledger::read(&said), &when);
        }
    }
}

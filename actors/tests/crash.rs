//! SIGKILL at random moments under load, with real processes and a real directory.
//!
//! The test runs itself again as a child, which writes from several tasks, with checkpoints going on, and prints each
//! write once it is acknowledged. The parent kills it after a random number of acknowledgements, opens the directory,
//! and compares. The same directory goes through all rounds.
//!
//! SIGKILL leaves the page cache alone, so this does not test the force: `faults.rs` does.

mod common;

use common::tuned;
use mailring::{Keyspace, Mailring, Result};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

const CHILD: &str = "MAILRING_CRASH_CHILD";
const ROUND: &str = "MAILRING_CRASH_ROUND";
const ROUNDS: u64 = 100;
const TEST: &str = "what_was_acknowledged_before_a_sigkill_is_there_and_nothing_is_half_there";
/// Keys of one batch, on one node.
const BATCH_KEYS: u64 = 5;
/// Accounts that are moved between, over all nodes.
const ACCOUNTS: u64 = 12;
/// Numbers of one round begin here times the round: they rise over all rounds.
const NUMBERS_PER_ROUND: u64 = 1_000_000;

fn open(directory: &Path) -> Result<Mailring> {
    tuned(Mailring::builder(directory))
        .nodes(3)
        .checkpoint_bytes(64 << 10)
        .open_blocking()
}

/// A value that only the writer of `key` can have meant, of 0 to 2,000 bytes and more.
fn value_of(key: &str) -> String {
    let len = key.bytes().map(usize::from).sum::<usize>() * 7919 % 2000;
    format!("{key}:{}", "v".repeat(len))
}

/// Each kind of work counts up; what it has acknowledged last says what must be there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Work {
    /// Puts a key of its own for each number.
    Put,
    /// Overwrites the keys of one tag by batches.
    Batch,
    /// Adds one to a counter.
    Add,
    /// Sets a key for even numbers and deletes it for odd ones.
    Toggle,
    /// Moves 1 between accounts of all nodes by a transaction, and counts it.
    Move,
}

const WORKS: [(char, Work); 5] = [
    ('p', Work::Put),
    ('b', Work::Batch),
    ('a', Work::Add),
    ('t', Work::Toggle),
    ('m', Work::Move),
];

impl Work {
    async fn carry_out(self, db: &Mailring, ks: &Keyspace, task: u64, number: u64) -> Result<()> {
        match self {
            Self::Put => {
                let key = format!("put-{task}-{number}");
                ks.put(&key, value_of(&key)).await.map(drop)
            }
            Self::Batch => {
                let mut batch = db.batch();
                for part in 0..BATCH_KEYS {
                    batch.put(ks, format!("{{batch-{task}}}{part}"), number.to_string());
                }
                batch.commit().await
            }
            Self::Add => ks.add(format!("add-{task}"), 1).await.map(drop),
            Self::Move => {
                db.transaction()
                    .deadline(Duration::from_secs(60))
                    .run(async |txn| {
                        let (from, to) = (number % ACCOUNTS, (number * 5 + 1) % ACCOUNTS);
                        txn.add(ks, format!("account-{from}"), -1).await?;
                        txn.add(ks, format!("account-{to}"), 1).await?;
                        txn.add(ks, format!("moved-{task}"), 1).await.map(drop)
                    })
                    .await
            }
            Self::Toggle => {
                let key = format!("toggle-{task}");
                if number.is_multiple_of(2) {
                    ks.put(&key, number.to_string()).await.map(drop)
                } else {
                    ks.delete(&key).await.map(drop)
                }
            }
        }
    }
}

fn child(directory: &Path, round: u64) {
    let db = open(directory).expect("the child opens the directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let ks = db.keyspace("ks").await.expect("the keyspace opens");
        let tasks: Vec<_> = WORKS
            .iter()
            .flat_map(|work| [(*work, 0), (*work, 1)])
            .map(|((name, work), task)| {
                let (db, ks) = (db.clone(), ks.clone());
                tokio::spawn(async move {
                    for number in round * NUMBERS_PER_ROUND.. {
                        let outcome = work.carry_out(&db, &ks, task, number).await;
                        outcome.expect("the child writes until it is killed");
                        let line = format!("\n@{name} {task} {number}\n");
                        let mut out = std::io::stdout().lock();
                        if out
                            .write_all(line.as_bytes())
                            .and_then(|()| out.flush())
                            .is_err()
                        {
                            // The parent has gone.
                            std::process::exit(1);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// What was acknowledged, over all rounds.
#[derive(Default)]
struct Acknowledged {
    puts: Vec<(u64, u64)>,
    /// The last number of each task, and how many there were.
    last: BTreeMap<(Work, u64), (u64, i64)>,
    killed_children: i64,
}

impl Acknowledged {
    fn read(&mut self, line: &str) -> bool {
        let Some(line) = line.strip_prefix('@') else {
            return false;
        };
        // A kill can cut the last line short: who can't read it has not been told.
        let mut words = line.split(' ');
        let (Some(name), Some(Ok(task)), Some(Ok(number))) = (
            words.next(),
            words.next().map(str::parse),
            words.next().map(str::parse),
        ) else {
            return false;
        };
        let (_, work) = WORKS
            .iter()
            .find(|(known, _)| name.chars().eq([*known]))
            .expect("the child does known work");
        if *work == Work::Put {
            self.puts.push((task, number));
        }
        let (last, count) = self.last.entry((*work, task)).or_default();
        *last = number;
        *count += 1;
        true
    }

    async fn check(&mut self, ks: &Keyspace) -> Result<()> {
        for (task, number) in &self.puts {
            let key = format!("put-{task}-{number}");
            let value = ks.get(&key).await?;
            assert!(value.is_some(), "{key} was acknowledged and is gone");
        }
        let mut puts = ks.prefix("put-");
        while let Some((key, value)) = puts.next().await? {
            let key = String::from_utf8(key.to_vec()).unwrap();
            assert_eq!(value, value_of(&key).as_bytes(), "{key} is half there");
        }
        let mut total = 0;
        for (_, balance) in ks.prefix("account-").collect().await? {
            total += i64::from_le_bytes(balance[..].try_into().unwrap());
        }
        assert_eq!(total, 0, "half a transfer is there");
        let works: Vec<_> = self.last.iter().map(|(k, v)| (*k, *v)).collect();
        for ((work, task), (last, count)) in works {
            match work {
                Work::Put => {}
                Work::Batch => {
                    let parts: Vec<_> = ks
                        .prefix(format!("{{batch-{task}}}"))
                        .collect()
                        .await?
                        .into_iter()
                        .map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
                        .collect();
                    assert_eq!(parts.len() as u64, BATCH_KEYS);
                    assert!(parts.iter().all(|part| *part == parts[0]), "{parts:?}");
                    let found: u64 = parts[0].parse().unwrap();
                    assert!(
                        found == last
                            || found == last + 1
                            || found.is_multiple_of(NUMBERS_PER_ROUND)
                    );
                    assert!(
                        found >= last,
                        "batch {last} was acknowledged, {found} is there"
                    );
                }
                Work::Add | Work::Move => {
                    let name = if work == Work::Add { "add" } else { "moved" };
                    let found = ks.add(format!("{name}-{task}"), 0).await?;
                    // Each child had at most one addition under way when it was killed.
                    let possible = count..=count + self.killed_children;
                    assert!(possible.contains(&found), "{found} is not in {possible:?}");
                }
                Work::Toggle => {
                    let found = ks.get(format!("toggle-{task}")).await?;
                    let found = found.map(|value| String::from_utf8(value.to_vec()).unwrap());
                    let after =
                        |number: u64| (number.is_multiple_of(2)).then(|| number.to_string());
                    // The next child began again at an even number, and may have been killed before it was told.
                    let is_next_rounds = found.as_ref().is_some_and(|found| {
                        let number: u64 = found.parse().unwrap();
                        number > last && number.is_multiple_of(NUMBERS_PER_ROUND)
                    });
                    assert!(
                        found == after(last) || found == after(last + 1) || is_next_rounds,
                        "toggle {last} was acknowledged, {found:?} is there"
                    );
                }
            }
        }
        Ok(())
    }
}

#[test]
fn what_was_acknowledged_before_a_sigkill_is_there_and_nothing_is_half_there() -> Result<()> {
    if let Some(directory) = env::var_os(CHILD) {
        let round = env::var(ROUND).unwrap().parse().unwrap();
        child(Path::new(&directory), round);
        return Ok(());
    }
    let seed = env::var("MAILRING_SEED").map_or_else(
        |_| rand::random(),
        |seed| seed.parse().expect("a number in MAILRING_SEED"),
    );
    println!("MAILRING_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 1..=ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(CHILD, directory.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut left = random.random_range(0..300u32);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Also what was printed before the kill and is read after it was acknowledged.
        let mut killed = left == 0;
        if killed {
            child.kill().unwrap();
        }
        for line in lines {
            if acknowledged.read(&line.unwrap()) && !killed {
                left -= 1;
                if left == 0 {
                    child.kill().unwrap();
                    killed = true;
                }
            }
        }
        let status = child.wait().unwrap();
        assert!(killed, "round {round}: the child ended by itself: {status}");
        acknowledged.killed_children += 1;

        if round % 10 == 0 {
            Mailring::verify_directory(directory.path())?;
        }
        let db = open(directory.path())?;
        let blocking = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        blocking.block_on(async {
            let ks = db.keyspace("ks").await?;
            acknowledged.check(&ks).await?;
            db.verify().await?;
            if random.random_bool(0.2) {
                db.shutdown().await?;
            }
            Ok::<_, mailring::Error>(())
        })?;
    }
    assert!(acknowledged.puts.len() > 100);
    Ok(())
}

//! A process that is going to be killed: what it does, what it has acknowledged, and what must therefore be there.
//!
//! The child writes from several tasks, with checkpoints going on, and prints each write once it is acknowledged; before,
//! it prints what it has found. The parent reads that, and compares it with a directory. The same directory goes through
//! many rounds; in each another child goes on with what the one before has left.

use super::tuned;
use mailring::{Error, Keyspace, Mailring, Result};
use std::{
    collections::BTreeMap,
    env, fmt,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

const DIRECTORY: &str = "MAILRING_DOOMED_DIRECTORY";
const ROUND: &str = "MAILRING_DOOMED_ROUND";
/// Keys of one batch, on one node.
const BATCH_KEYS: u64 = 5;
/// Accounts that are moved between, over all nodes.
const ACCOUNTS: u64 = 12;
/// Numbers of one round begin here times the round: they rise over all rounds.
const NUMBERS_PER_ROUND: u64 = 1_000_000;
/// Tasks that do the same kind of work.
const TASKS: u64 = 2;

pub fn open(directory: &Path) -> Result<Mailring> {
    tuned(Mailring::builder(directory))
        .nodes(3)
        .checkpoint_bytes(64 << 10)
        .open_blocking()
}

/// A promise that was broken.
#[derive(Debug)]
pub struct Loss(pub String);

impl From<Error> for Loss {
    fn from(error: Error) -> Self {
        Self(format!("{error} ({error:?})"))
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn demand(is_so: bool, otherwise: impl FnOnce() -> String) -> std::result::Result<(), Loss> {
    if is_so {
        Ok(())
    } else {
        Err(Loss(otherwise()))
    }
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

/// The value of a counter, or the number in a batch's first key; what is not there yet is 0.
async fn number_of(ks: &Keyspace, work: Work, task: u64) -> Result<Option<i64>> {
    let key = match work {
        Work::Add => format!("add-{task}"),
        Work::Move => format!("moved-{task}"),
        Work::Batch => format!("{{batch-{task}}}0"),
        Work::Put | Work::Toggle => return Ok(None),
    };
    let value = ks.get(key).await?;
    Ok(Some(match value {
        None => 0,
        Some(text) if work == Work::Batch => std::str::from_utf8(&text).unwrap().parse().unwrap(),
        Some(counter) => i64::from_le_bytes(counter[..].try_into().unwrap()),
    }))
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let told = out
        .write_all(format!("\n{line}\n").as_bytes())
        .and_then(|()| out.flush());
    if told.is_err() {
        // The parent has gone.
        std::process::exit(1);
    }
}

/// The command that runs `test` again as a child, which must begin with [`live_if_child`].
pub fn child(test: &str, directory: &Path, round: u64) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped());
    command
}

/// Writes until it is killed, if this process is a child; else returns false.
pub fn live_if_child() -> bool {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return false;
    };
    let round: u64 = env::var(ROUND).unwrap().parse().unwrap();
    let db = open(Path::new(&directory)).expect("the child opens the directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let ks = db.keyspace("ks").await.expect("the keyspace opens");
        let works = || {
            WORKS
                .iter()
                .flat_map(|work| (0..TASKS).map(move |task| (*work, task)))
        };
        for ((name, work), task) in works() {
            let found = number_of(&ks, work, task).await.expect("the child reads");
            if let Some(found) = found {
                tell(&format!("#{name} {task} {found}"));
            }
        }
        let tasks: Vec<_> = works()
            .map(|((name, work), task)| {
                let (db, ks) = (db.clone(), ks.clone());
                tokio::spawn(async move {
                    for number in round * NUMBERS_PER_ROUND.. {
                        let outcome = work.carry_out(&db, &ks, task, number).await;
                        outcome.expect("the child writes until it is killed");
                        tell(&format!("@{name} {task} {number}"));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    true
}

/// What the children have said, over all rounds.
#[derive(Default)]
pub struct Acknowledged {
    pub puts: Vec<(u64, u64)>,
    /// The last number of each task, and how many there were.
    last: BTreeMap<(Work, u64), (u64, i64)>,
    /// What a child has read: it may not have been acknowledged, and nobody may take it back all the same.
    seen: BTreeMap<(Work, u64), i64>,
    children: i64,
}

impl Acknowledged {
    /// Runs a child until it dies, if not before then by SIGKILL after so many acknowledgements.
    pub fn run(&mut self, child: &mut Command, writes: Option<u32>) -> ExitStatus {
        let mut child = child.spawn().unwrap();
        let mut left = writes;
        if left == Some(0) {
            child.kill().unwrap();
        }
        // Also what was printed before the kill and is read after it was acknowledged.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if self.read(&line.unwrap()) && left > Some(0) {
                left = left.map(|left| left - 1);
                if left == Some(0) {
                    child.kill().unwrap();
                }
            }
        }
        self.children += 1;
        child.wait().unwrap()
    }

    /// Whether the line tells of an acknowledgement.
    fn read(&mut self, line: &str) -> bool {
        let (is_write, line) = match (line.strip_prefix('@'), line.strip_prefix('#')) {
            (Some(line), _) => (true, line),
            (_, Some(line)) => (false, line),
            _ => return false,
        };
        // A kill can cut the last line short: who can't read it has not been told.
        let mut words = line.split(' ');
        let (Some(name), Some(Ok(task)), Some(Ok(number))) = (
            words.next(),
            words.next().map(str::parse),
            words.next().map(str::parse::<u64>),
        ) else {
            return false;
        };
        let (_, work) = WORKS
            .iter()
            .find(|(known, _)| name.chars().eq([*known]))
            .expect("the child does known work");
        if !is_write {
            let number = i64::try_from(number).expect("a small number");
            self.seen.insert((*work, task), number);
            return false;
        }
        if *work == Work::Put {
            self.puts.push((task, number));
        }
        let (last, count) = self.last.entry((*work, task)).or_default();
        *last = number;
        *count += 1;
        true
    }

    /// Whether everything is there that was acknowledged or seen, and nothing is half there.
    pub async fn check(&self, ks: &Keyspace) -> std::result::Result<(), Loss> {
        for (task, number) in &self.puts {
            let key = format!("put-{task}-{number}");
            let is_there = ks.get(&key).await?.is_some();
            demand(is_there, || format!("{key} was acknowledged and is gone"))?;
        }
        let mut puts = ks.prefix("put-");
        while let Some((key, value)) = puts.next().await? {
            let key = String::from_utf8(key.to_vec()).unwrap();
            demand(value == value_of(&key).as_bytes(), || {
                format!("{key} is half there")
            })?;
        }
        let mut total = 0;
        for (_, balance) in ks.prefix("account-").collect().await? {
            total += i64::from_le_bytes(balance[..].try_into().unwrap());
        }
        demand(total == 0, || "half a transfer is there".to_owned())?;
        for ((work, task), seen) in &self.seen {
            let found = number_of(ks, *work, *task).await?;
            demand(found >= Some(*seen), || {
                format!("{work:?} {task} was {seen}, and is {found:?}")
            })?;
        }
        for ((work, task), (last, count)) in &self.last {
            self.check_task(ks, *work, *task, *last, *count).await?;
        }
        Ok(())
    }

    async fn check_task(
        &self,
        ks: &Keyspace,
        work: Work,
        task: u64,
        last: u64,
        count: i64,
    ) -> std::result::Result<(), Loss> {
        match work {
            Work::Put => Ok(()),
            Work::Batch => {
                let parts: Vec<_> = ks
                    .prefix(format!("{{batch-{task}}}"))
                    .collect()
                    .await?
                    .into_iter()
                    .map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
                    .collect();
                let is_whole =
                    parts.len() as u64 == BATCH_KEYS && parts.iter().all(|part| *part == parts[0]);
                demand(is_whole, || format!("batch {task} is {parts:?}"))?;
                let found: u64 = parts[0].parse().unwrap();
                let is_known =
                    found == last || found == last + 1 || found.is_multiple_of(NUMBERS_PER_ROUND);
                demand(is_known && found >= last, || {
                    format!("batch {last} was acknowledged, {found} is there")
                })
            }
            Work::Add | Work::Move => {
                let found = number_of(ks, work, task).await?.expect("a counter");
                // Each child had at most one addition under way when it was killed.
                let possible = count..=count + self.children;
                demand(possible.contains(&found), || {
                    format!("{work:?} {task} is {found}, which is not in {possible:?}")
                })
            }
            Work::Toggle => {
                let found = ks.get(format!("toggle-{task}")).await?;
                let found = found.map(|value| String::from_utf8(value.to_vec()).unwrap());
                let after = |number: u64| number.is_multiple_of(2).then(|| number.to_string());
                // The next child began again at an even number, and may have been killed before it was told.
                let is_next_rounds = found.as_ref().is_some_and(|found| {
                    let number: u64 = found.parse().unwrap();
                    number > last && number.is_multiple_of(NUMBERS_PER_ROUND)
                });
                let is_known = found == after(last) || found == after(last + 1) || is_next_rounds;
                demand(is_known, || {
                    format!("toggle {last} was acknowledged, {found:?} is there")
                })
            }
        }
    }
}

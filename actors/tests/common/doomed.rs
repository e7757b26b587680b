//! A process that is going to be killed: what it does, what it has acknowledged, and what must therefore be there.
//!
//! The child writes from several tasks, with checkpoints going on, and prints each write once it is acknowledged; before,
//! it prints what it has found. The parent reads that, and compares it with a directory. The same directory goes through
//! many rounds; in each another child goes on with what the one before has left.

use super::tuned;
use mailring::{Builder, Error, Keyspace, Mailring, Once, Result};
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
/// A killed child's leases are waited for by the next one.
const LEASE: Duration = Duration::from_millis(20);

pub fn open(directory: &Path) -> Result<Mailring> {
    settings(Mailring::builder(directory)).open_blocking()
}

/// The same over two directories, beside each other in this one: two nodes at home, one elsewhere.
pub fn open_striped(directory: &Path) -> Result<Mailring> {
    let home = Mailring::builder(directory.join("home"));
    settings(home.directory(directory.join("second"))).open_blocking()
}

fn settings(builder: Builder) -> Builder {
    tuned(builder)
        .nodes(3)
        .checkpoint_bytes(64 << 10)
        .max_lease(LEASE)
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
    /// Overwrites keys of all nodes by batches.
    Spread,
    /// Adds one to a counter by a transaction with an idempotency key of its own, which is run twice, and once more by the
    /// next child.
    Once,
    /// Writes its token under the fence of a lock that the tasks take turns with. The token is its number.
    Fenced,
}

const WORKS: [(char, Work); 8] = [
    ('p', Work::Put),
    ('b', Work::Batch),
    ('a', Work::Add),
    ('t', Work::Toggle),
    ('m', Work::Move),
    ('s', Work::Spread),
    ('o', Work::Once),
    ('f', Work::Fenced),
];

impl Work {
    /// Answers what is acknowledged: the number, or what has come of it.
    async fn carry_out(self, db: &Mailring, ks: &Keyspace, task: u64, number: u64) -> Result<u64> {
        if self == Self::Fenced {
            return write_fenced(db, ks, task).await;
        }
        let written = match self {
            Self::Put => {
                let key = format!("put-{task}-{number}");
                ks.put(&key, value_of(&key)).await.map(drop)
            }
            Self::Batch | Self::Spread => {
                let mut batch = db.batch();
                for part in 0..BATCH_KEYS {
                    let key = format!("{}{part}", self.batch_prefix(task));
                    batch.put(ks, key, number.to_string());
                }
                batch.commit().await
            }
            Self::Once => add_once(db, ks, task, number).await,
            Self::Fenced => unreachable!("its number is its token"),
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
        };
        written.map(|()| number)
    }

    /// With a tag the keys of a batch are those of one node.
    fn batch_prefix(self, task: u64) -> String {
        match self {
            Self::Batch => format!("{{batch-{task}}}"),
            _ => format!("spread-{task}-"),
        }
    }
}

/// What was committed before, by this child or the one before it, is not carried out again.
async fn add_once(db: &Mailring, ks: &Keyspace, task: u64, number: u64) -> Result<()> {
    let last = format!("last-once-{task}");
    let before = ks.get(&last).await?;
    let before = before.map(|number| String::from_utf8(number.to_vec()).unwrap());
    let number = number.to_string();
    for (number, is_known) in [
        (before.as_ref(), true),
        (Some(&number), false),
        (Some(&number), true),
    ] {
        let Some(number) = number else { continue };
        let once = db
            .transaction()
            .deadline(Duration::from_secs(60))
            .idempotency_key(format!("once-{task}-{number}"));
        let ran = once.run(async |txn| {
            txn.put(ks, &last, number).await?;
            txn.add(ks, format!("once-{task}"), 1).await
        });
        if let (Once::Ran(_), true) = (ran.await?, is_known) {
            tell(&format!("!once {task} {number} was carried out twice"));
        }
    }
    Ok(())
}

async fn write_fenced(db: &Mailring, ks: &Keyspace, task: u64) -> Result<u64> {
    loop {
        let guard = db.locks().lock("fenced").await?;
        let token = guard.token().0;
        let fenced = db.transaction().deadline(Duration::from_secs(60));
        let written = fenced.fence(&guard).run(async |txn| {
            txn.put(ks, "fenced", token.to_string()).await?;
            txn.put(ks, format!("fenced-{task}"), token.to_string())
                .await
        });
        match written.await {
            // A slow machine has let the lease run out.
            Err(Error::LockLost | Error::StaleFence { .. }) => {}
            written => return written.map(|()| token),
        }
    }
}

/// The value of a counter, or the number in a batch's first key; what is not there yet is 0.
async fn number_of(ks: &Keyspace, work: Work, task: u64) -> Result<Option<i64>> {
    let key = match work {
        Work::Add => format!("add-{task}"),
        Work::Move => format!("moved-{task}"),
        Work::Batch | Work::Spread => format!("{}0", work.batch_prefix(task)),
        Work::Once => format!("once-{task}"),
        Work::Fenced => format!("fenced-{task}"),
        Work::Put | Work::Toggle => return Ok(None),
    };
    let value = ks.get(key).await?;
    Ok(Some(match value {
        None => 0,
        Some(text) if matches!(work, Work::Batch | Work::Spread | Work::Fenced) => {
            std::str::from_utf8(&text).unwrap().parse().unwrap()
        }
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
    live_in_if_child(open)
}

/// The same in an engine that is opened like this.
pub fn live_in_if_child(open: fn(&Path) -> Result<Mailring>) -> bool {
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
                        let number = outcome.expect("the child writes until it is killed");
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
    /// The first promise that was broken while children lived.
    broken: Option<String>,
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
        if let Some(broken) = line.strip_prefix('!') {
            self.broken.get_or_insert_with(|| broken.to_owned());
            return false;
        }
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
        if *work == Work::Fenced && number <= *last {
            let broken = format!("task {task} was given token {number} behind {last}");
            self.broken.get_or_insert(broken);
        }
        *last = number;
        *count += 1;
        true
    }

    /// Whether there are enough of each kind to say something. On a slow machine, or with bad luck, the rarer ones want
    /// more rounds.
    pub fn is_of_every_kind(&self) -> bool {
        WORKS.iter().all(|(_, wanted)| {
            let of_work = self.last.iter().filter(|((work, _), _)| work == wanted);
            of_work.map(|(_, (_, count))| count).sum::<i64>() > 50
        })
    }

    /// Whether everything is there that was acknowledged or seen, and nothing is half there.
    pub async fn check(&self, ks: &Keyspace) -> std::result::Result<(), Loss> {
        if let Some(broken) = &self.broken {
            return Err(Loss(broken.clone()));
        }
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
            Work::Batch | Work::Spread => {
                let parts: Vec<_> = ks
                    .prefix(work.batch_prefix(task))
                    .collect()
                    .await?
                    .into_iter()
                    .map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
                    .collect();
                let is_whole =
                    parts.len() as u64 == BATCH_KEYS && parts.iter().all(|part| *part == parts[0]);
                demand(is_whole, || format!("{work:?} {task} is {parts:?}"))?;
                let found: u64 = parts[0].parse().unwrap();
                let is_known =
                    found == last || found == last + 1 || found.is_multiple_of(NUMBERS_PER_ROUND);
                demand(is_known && found >= last, || {
                    format!("{work:?} {last} was acknowledged, {found} is there")
                })
            }
            Work::Fenced => {
                let found = number_of(ks, work, task).await?;
                let newest = ks.get("fenced").await?.map(|token| {
                    let token = String::from_utf8(token.to_vec()).unwrap();
                    token.parse::<i64>().unwrap()
                });
                let is_there = found >= i64::try_from(last).ok() && newest >= found;
                demand(is_there, || {
                    format!(
                        "token {last} was acknowledged, {found:?} is there, and {newest:?} under the lock"
                    )
                })
            }
            Work::Add | Work::Move | Work::Once => {
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

//! What the tests of the running engine share.
//!
//! Tests wait for facts, not for time: [`until`] yields until something is so, and [`patiently`] turns a hang into a
//! failure. Neither says how long anything may take.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test file is a crate of its own and uses a part of this"
)]

pub mod disk;
pub mod doomed;
pub mod full;
pub mod kept;
pub mod locks;
pub mod several;
pub mod shim;
pub mod stage;
pub mod store;

use mailring::{
    Builder, FaultHook, FaultSite, Keyspace, Mailring, NodeId, RestartPolicy, Result, Stats,
};
use rand::{SeedableRng as _, rngs::StdRng};
use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// Numbers from the seed in `MAILRING_SEED`, or from a fresh one that is printed.
pub fn seeded() -> StdRng {
    let seed = std::env::var("MAILRING_SEED").map_or_else(
        |_| rand::random(),
        |seed| seed.parse().expect("a number in MAILRING_SEED"),
    );
    println!("MAILRING_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Fails instead of hanging for ever.
pub async fn patiently<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), what)
        .await
        .expect("this should have ended long ago: somebody was never answered")
}

/// Yields until `condition` holds.
pub async fn until(mut condition: impl FnMut() -> bool) {
    patiently(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Two nodes, small segments, quick restarts, and deadlines that a slow machine does not meet.
pub fn builder(directory: &Path) -> Builder {
    tuned(Mailring::builder(directory)).nodes(2)
}

pub fn tuned(builder: Builder) -> Builder {
    builder
        .segment_bytes(1 << 20)
        .deadline(Duration::from_secs(100))
        .restart_policy(quick_restarts(5))
}

pub fn quick_restarts(intensity: u32) -> RestartPolicy {
    RestartPolicy {
        intensity,
        window: Duration::from_secs(3600),
        first_back_off: Duration::from_millis(1),
        longest_back_off: Duration::from_millis(1),
    }
}

/// Everything that counts against the memory budget.
pub fn memory_used(stats: &Stats) -> usize {
    stats.generation_bytes
        + stats.in_flight_bytes
        + stats.transaction_bytes
        + stats.watch_bytes
        + stats.cache_bytes
        + stats.index_bytes
}

/// An engine of two nodes in memory, and a key of each.
pub async fn two_nodes() -> Result<(Mailring, Keyspace, [String; 2])> {
    let db = tuned(Mailring::memory()).nodes(2).open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = [
        keys_of(&db, &ks, 0, 1).await.remove(0),
        keys_of(&db, &ks, 1, 1).await.remove(0),
    ];
    Ok((db, ks, keys))
}

pub async fn text(ks: &Keyspace, key: &str) -> Result<Option<String>> {
    let value = ks.get(key).await?;
    Ok(value.map(|value| String::from_utf8(value.to_vec()).unwrap()))
}

/// `count` keys that node `node` owns, found by asking which node's reads rise. The other nodes may be down.
pub async fn keys_of(db: &Mailring, ks: &Keyspace, node: u16, count: usize) -> Vec<String> {
    let reads = || db.stats().nodes[usize::from(node)].reads;
    let mut keys = Vec::new();
    for number in 0.. {
        let key = format!("key-{number}");
        let before = reads();
        let _ = ks.get(&key).await;
        if reads() > before {
            keys.push(key);
        }
        if keys.len() == count {
            break;
        }
    }
    keys
}

/// Panics at chosen places, a chosen number of times.
#[derive(Default)]
pub struct Trap {
    armed: AtomicBool,
    actor: Mutex<String>,
    message: Mutex<String>,
    handled: AtomicBool,
    node: Mutex<Option<NodeId>>,
    /// Let so many pass first.
    skip: AtomicUsize,
    left: AtomicUsize,
    pub sprung: AtomicUsize,
}

impl Trap {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn hook(self: &Arc<Self>) -> FaultHook {
        let trap = Arc::clone(self);
        Arc::new(move |site: &FaultSite<'_>| trap.visit(site))
    }

    pub fn set(
        &self,
        actor: &str,
        node: Option<u16>,
        message: &str,
        handled: bool,
        skip: usize,
        times: usize,
    ) {
        self.armed.store(false, SeqCst);
        *self.actor.lock().unwrap() = actor.to_owned();
        *self.message.lock().unwrap() = message.to_owned();
        *self.node.lock().unwrap() = node.map(NodeId);
        self.handled.store(handled, SeqCst);
        self.skip.store(skip, SeqCst);
        self.left.store(times, SeqCst);
        self.armed.store(true, SeqCst);
    }

    pub fn sprung(&self) -> usize {
        self.sprung.load(SeqCst)
    }

    fn visit(&self, site: &FaultSite<'_>) {
        if !self.armed.load(SeqCst)
            || *self.actor.lock().unwrap() != site.actor
            || *self.message.lock().unwrap() != site.message
            || self.handled.load(SeqCst) != site.handled
            || (self.node.lock().unwrap().is_some() && *self.node.lock().unwrap() != site.node)
        {
            return;
        }
        let less = |count: usize| count.checked_sub(1);
        if self.skip.fetch_update(SeqCst, SeqCst, less).is_ok() {
            return;
        }
        if self.left.fetch_update(SeqCst, SeqCst, less).is_ok() {
            self.sprung.fetch_add(1, SeqCst);
            panic!("the trap at {site:?}");
        }
    }
}

/// Stops whoever comes to a place until it is opened.
#[derive(Default)]
pub struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.changed.notify_all();
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    pub fn pass(&self) {
        let mut closed = self.closed.lock().unwrap();
        if !*closed {
            return;
        }
        self.waiting.fetch_add(1, SeqCst);
        while *closed {
            closed = self.changed.wait(closed).unwrap();
        }
        self.waiting.fetch_sub(1, SeqCst);
    }
}

/// Opens its gate when it goes out of scope, so that a failing test ends instead of hanging.
pub struct OpensAtTheEnd(pub Arc<Gate>);

impl Drop for OpensAtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// What writers were told, and what must therefore be there.
#[derive(Default, Debug, Clone)]
pub struct Ledger {
    /// By counter: acknowledged additions, additions of unknown outcome.
    counters: BTreeMap<String, (i64, i64)>,
    /// Keys written once.
    puts: BTreeMap<String, bool>,
}

impl Ledger {
    pub fn added(&mut self, key: &str, outcome: &Result<i64>) {
        let (acknowledged, unknown) = self.counters.entry(key.to_owned()).or_default();
        match outcome {
            Ok(_) => *acknowledged += 1,
            Err(error) if is_harmless(error) => {}
            Err(_) => *unknown += 1,
        }
    }

    pub fn put<T>(&mut self, key: &str, outcome: &Result<T>) {
        self.puts.insert(key.to_owned(), outcome.is_ok());
    }

    pub fn unknown(&self) -> i64 {
        self.counters.values().map(|(_, unknown)| unknown).sum()
    }

    pub fn acknowledged(&self) -> i64 {
        let puts = self.puts.values().filter(|acknowledged| **acknowledged);
        self.counters.values().map(|(acked, _)| acked).sum::<i64>() + puts.count() as i64
    }

    /// Checks that everything acknowledged is there, and nothing that was not asked for. After a reopening, what is
    /// there now is certain.
    pub async fn check(&self, ks: &Keyspace) {
        self.compare(ks).await.expect("reads work");
    }

    /// Checks as far as it can be read.
    pub async fn compare(&self, ks: &Keyspace) -> Result<()> {
        for (key, (acknowledged, unknown)) in &self.counters {
            let value = counter(ks, key).await?;
            assert!(
                (*acknowledged..=acknowledged + unknown).contains(&value),
                "counter {key} is {value}, acknowledged {acknowledged}, unknown {unknown}"
            );
        }
        for (key, acknowledged) in &self.puts {
            match ks.get(key).await? {
                Some(value) => assert_eq!(value, key.as_bytes(), "the value of {key}"),
                None => assert!(!acknowledged, "{key} was acknowledged and is gone"),
            }
        }
        Ok(())
    }

    /// What is there now was read by somebody, so it is as good as acknowledged.
    pub async fn settle(&mut self, ks: &Keyspace) -> Result<()> {
        for (key, (acknowledged, unknown)) in &mut self.counters {
            (*acknowledged, *unknown) = (counter(ks, key).await?, 0);
        }
        for (key, acknowledged) in &mut self.puts {
            *acknowledged |= ks.contains(key).await?;
        }
        Ok(())
    }

    /// A line for each thing in it, by which another process can [`read`](Self::read) it.
    pub fn to_text(&self) -> String {
        let counters = self.counters.iter();
        let counters =
            counters.map(|(key, (acked, unknown))| format!("=c {key} {acked} {unknown}"));
        let puts = self.puts.iter();
        let puts = puts.map(|(key, acknowledged)| format!("=p {key} {acknowledged}"));
        counters.chain(puts).map(|line| line + "\n").collect()
    }

    /// Takes in what [`to_text`](Self::to_text) gave, from among other lines.
    pub fn read(text: &str) -> Self {
        let mut ledger = Self::default();
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["=c", key, acknowledged, unknown] => {
                    let counts = (acknowledged.parse().unwrap(), unknown.parse().unwrap());
                    ledger.counters.insert(key.to_owned(), counts);
                }
                ["=p", key, acknowledged] => {
                    let acknowledged = acknowledged.parse().unwrap();
                    ledger.puts.insert(key.to_owned(), acknowledged);
                }
                _ => {}
            }
        }
        ledger
    }
}

async fn counter(ks: &Keyspace, key: &str) -> Result<i64> {
    let value = ks.get(key).await?;
    Ok(value.map_or(0, |bytes| {
        i64::from_le_bytes(bytes[..].try_into().expect("a counter"))
    }))
}

/// [`Ledger::check`] of what is in a shared ledger now.
pub async fn check(ledger: &Mutex<Ledger>, ks: &Keyspace) {
    let now = ledger.lock().unwrap().clone();
    now.check(ks).await;
}

/// Whether the error promises that nothing was written.
pub fn is_harmless(error: &mailring::Error) -> bool {
    use mailring::Error;
    error.is_retryable()
        || matches!(
            error,
            Error::NodeDown { .. } | Error::ReadOnly { .. } | Error::Closed
        )
}

/// Adds to shared counters and puts keys of its own from `tasks` tasks, until `rounds` rounds are over or the engine
/// writes no more, and notes every outcome.
pub async fn load(
    ks: &Keyspace,
    ledger: &Arc<Mutex<Ledger>>,
    name: &str,
    tasks: usize,
    rounds: usize,
) {
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (ks, ledger, name) = (ks.clone(), Arc::clone(ledger), name.to_owned());
            tokio::spawn(async move {
                for round in 0..rounds {
                    let counter = format!("counter-{}", (task + round) % 5);
                    let sum = ks.add(&counter, 1).await;
                    ledger.lock().unwrap().added(&counter, &sum);
                    let key = format!("{name}-{task}-{round}");
                    let put = ks.put(&key, &key).await;
                    ledger.lock().unwrap().put(&key, &put);
                    if matches!(put, Err(mailring::Error::ReadOnly { .. })) {
                        break;
                    }
                }
            })
        })
        .collect();
    for task in running {
        patiently(task).await.expect("the task ended well");
    }
}

/// Waits until nobody holds a place in a queue or a byte of the budget.
pub async fn until_idle(db: &Mailring) {
    until(|| {
        let stats = db.stats();
        stats.in_flight_bytes == 0 && stats.nodes.iter().all(|node| node.queue_depth == 0)
    })
    .await;
}

/// Copies a directory and what is in it.
pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

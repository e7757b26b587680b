//! Every store against a `BTreeMap`: random runs, maintenance, pinned views, half-read ranges, drops and reopenings.
//!
//! Two stores of one engine stand side by side, each beside a model of its own: they share the block cache, the open
//! files and the numbers of tables, and one is reopened while views of the other are pinned. A run has 10,000 steps
//! from one seed; a failure prints the command that replays it. CI makes a million steps from seeds of its own:
//!
//! ```text
//! MAILRING_STEPS=340000 MAILRING_SEED=4711 cargo test --locked -p mailring-engine --test store differential
//! ```

use super::{
    common::folder,
    differential_model::{Checker, HalfRead, Kind, Model, Pinned, Tally, random_run},
};
use bytes::Bytes;
use mailring_engine::{
    store::{Store, StoreView},
    value::Value,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::BTreeSet,
    env,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;

/// Opens a store in a folder, with the prefixes that were dropped from it.
pub(crate) type Open<'a> = dyn Fn(&Path, Vec<Bytes>) -> Arc<dyn Store> + 'a;

const STEPS_OF_A_RUN: u64 = 10_000;
const DEFAULT_STEPS: u64 = 30_000;
/// Prefixes of a store that are not dropped. One that is dropped never comes back; another takes its place.
const LIVE_PREFIXES: u32 = 5;
const MOST_PINNED: usize = 12;

/// A store, and what it should hold.
struct Side {
    folder: TempDir,
    /// `None` only while it is reopened.
    store: Option<Arc<dyn Store>>,
    model: Arc<Model>,
    live: Vec<u32>,
    dropped: BTreeSet<u32>,
    pinned: Vec<Pinned>,
    half_read: Vec<HalfRead>,
    /// Views from before a reopening. They may outlive it, and go at some later step, but are not read any more.
    outlived: Vec<Arc<dyn StoreView>>,
}

impl Side {
    fn new(open: &Open<'_>) -> Self {
        let folder = folder();
        let store = open(folder.path(), Vec::new());
        Self {
            folder,
            store: Some(store),
            model: Arc::default(),
            live: (0..LIVE_PREFIXES).collect(),
            dropped: BTreeSet::new(),
            pinned: Vec::new(),
            half_read: Vec::new(),
            outlived: Vec::new(),
        }
    }

    fn store(&self) -> &dyn Store {
        self.store.as_deref().expect("the store is open")
    }

    /// Mostly a prefix that exists, at times one that was dropped.
    fn prefix(&self, rng: &mut StdRng) -> u32 {
        match self.dropped.last() {
            Some(&last) if rng.random_ratio(1, 16) => last,
            _ => *self.live.choose(rng).expect("some are live"),
        }
    }

    fn ingest(&mut self, rng: &mut StdRng, now_ms: u64) {
        let run = random_run(rng, now_ms, |rng| self.prefix(rng));
        let mut entries = run
            .iter()
            .map(|(key, value)| (key.clone(), value.as_ref().map(Value::encode)));
        self.store().ingest(&mut entries).unwrap();
        let model = Arc::make_mut(&mut self.model);
        for (key, value) in run {
            match value {
                _ if self.dropped.contains(&prefix_of(&key)) => {}
                Some(value) => drop(model.insert(key, value)),
                None => drop(model.remove(&key)),
            }
        }
    }

    fn drop_prefix(&mut self, rng: &mut StdRng) {
        let place = rng.random_range(0..self.live.len());
        let next = self.live.iter().chain(&self.dropped).max().expect("some") + 1;
        let prefix = std::mem::replace(&mut self.live[place], next);
        self.store().drop_prefix(&prefix.to_be_bytes()).unwrap();
        self.dropped.insert(prefix);
        Arc::make_mut(&mut self.model).retain(|key, _| prefix_of(key) != prefix);
    }

    fn reopen(&mut self, open: &Open<'_>) {
        self.half_read.clear();
        let outlived = self.pinned.drain(..).map(|pinned| pinned.view);
        self.outlived.extend(outlived);
        self.store = None;
        let dropped = self.dropped.iter();
        let dropped = dropped.map(|prefix| Bytes::copy_from_slice(&prefix.to_be_bytes()));
        self.store = Some(open(self.folder.path(), dropped.collect()));
    }

    fn verify(&self, now_ms: u64) {
        let keys = self.store().verify().unwrap();
        let live = self
            .model
            .values()
            .filter(|value| !value.is_expired(now_ms));
        let (least, most) = (live.count() as u64, self.model.len() as u64);
        assert!((least..=most).contains(&keys), "{least} {keys} {most}");
    }
}

fn prefix_of(key: &[u8]) -> u32 {
    u32::from_be_bytes(*key.first_chunk().expect("a key begins with its prefix"))
}

/// The test of one store.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) test: &'static str,
    /// What cargo is told to run it: the package, and what leads to the test's name.
    pub(crate) run_by: &'static str,
    /// Whether anything is left of the store when it was closed.
    pub(crate) reopens: bool,
}

/// Says how a failed run is replayed.
struct Replay {
    seed: u64,
    subject: Subject,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Subject { test, run_by, .. } = self.subject;
            println!(
                "replay: MAILRING_SEED={} MAILRING_STEPS={STEPS_OF_A_RUN} cargo test --locked {run_by}::{test}",
                self.seed
            );
        }
    }
}

/// One run.
pub(crate) fn check(
    seed: u64,
    clock: &AtomicU64,
    reopens: bool,
    tally: &mut Tally,
    open: &Open<'_>,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sides = [Side::new(open), Side::new(open)];
    for _ in 0..STEPS_OF_A_RUN {
        let now_ms = clock.fetch_add(1, Ordering::Relaxed) + 1;
        let side = &mut sides[usize::from(rng.random_ratio(1, 4))];
        let kind = match Kind::choose(&mut rng) {
            Kind::Reopen if !reopens => Kind::Get,
            Kind::Unpin if side.pinned.is_empty() => Kind::Pin,
            Kind::Pin if side.pinned.len() == MOST_PINNED => Kind::Unpin,
            Kind::GoOn if side.half_read.is_empty() => Kind::Begin,
            kind => kind,
        };
        tally.count(kind.name());
        match kind {
            Kind::Ingest => side.ingest(&mut rng, now_ms),
            Kind::Maintain => side.store().maintain().unwrap(),
            Kind::Pin => side.pinned.push(Pinned {
                view: side.store().view(),
                model: Arc::clone(&side.model),
            }),
            Kind::Unpin => {
                side.pinned
                    .swap_remove(rng.random_range(0..side.pinned.len()));
                if !side.outlived.is_empty() {
                    side.outlived
                        .swap_remove(rng.random_range(0..side.outlived.len()));
                }
            }
            Kind::DropPrefix => side.drop_prefix(&mut rng),
            Kind::Reopen => side.reopen(open),
            Kind::Verify => side.verify(now_ms),
            Kind::GoOn => {
                let index = rng.random_range(0..side.half_read.len());
                if side.half_read[index].go_on(&mut rng, now_ms) {
                    tally.count("range read to its end later");
                    side.half_read.swap_remove(index);
                }
            }
            Kind::Get | Kind::Scan | Kind::Begin => {
                let current = Pinned {
                    view: side.store().view(),
                    model: Arc::clone(&side.model),
                };
                let old = side.pinned.choose(&mut rng);
                let old = old.filter(|_| now_ms.is_multiple_of(2));
                if old.is_some() {
                    tally.count("read of a pinned view");
                }
                let of = old.unwrap_or(&current);
                let prefix = side.prefix(&mut rng);
                if side.dropped.contains(&prefix) {
                    tally.count("of a dropped prefix");
                }
                let mut checker = Checker {
                    rng: &mut rng,
                    now_ms,
                    prefix,
                    tally,
                };
                match kind {
                    Kind::Get => checker.get(of),
                    Kind::Scan => checker.scan(of),
                    _ => {
                        let begun = checker.begin(of);
                        side.half_read.push(begun);
                    }
                }
            }
        }
    }
    // Not only the last moment counts: every view that is still pinned reads as it did.
    let now_ms = clock.load(Ordering::Relaxed);
    for side in &sides {
        side.pinned.iter().for_each(|pinned| pinned.check(now_ms));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// As many runs as the environment asks for.
pub(crate) fn check_runs(subject: Subject, clock: &AtomicU64, open: &Open<'_>) {
    let first = setting("MAILRING_SEED", 1);
    let steps = setting("MAILRING_STEPS", DEFAULT_STEPS);
    let Subject { test, reopens, .. } = subject;
    let mut tally = Tally::default();
    for seed in first..first + steps.div_ceil(STEPS_OF_A_RUN) {
        let replay = Replay { seed, subject };
        // Each test draws other runs from the same seed.
        let own = seed ^ ((test.len() as u64) << 56);
        check(own, clock, reopens, &mut tally, open);
        drop(replay);
    }
    println!("{steps} steps from seed {first}: {tally:?}");
    if steps >= DEFAULT_STEPS {
        tally.demand(steps, reopens);
    }
}

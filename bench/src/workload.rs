//! What a client does: the YCSB core workloads A to F, and four plain ones.
//!
//! | name | reads | updates | inserts | scans | read-modify-writes | choice |
//! |---|---|---|---|---|---|---|
//! | `a` | 50 % | 50 % | | | | zipfian |
//! | `b` | 95 % | 5 % | | | | zipfian |
//! | `c` | 100 % | | | | | zipfian |
//! | `d` | 95 % | | 5 % | | | latest |
//! | `e` | | | 5 % | 95 %, 1 to 100 records | | zipfian |
//! | `f` | 50 % | | | | 50 % | zipfian |
//! | `put` | | 100 % | | | | uniform |
//! | `get` | 100 % | | | | | uniform |
//! | `scan` | | | | 100 %, exactly `--scan-length` records | | uniform |
//! | `load` | | | 100 %, in batches | | | in order of record number |
//!
//! Records have a number; a key is that number sent through a bijection and written in hexadecimal, so that keys
//! come in no order and never collide (YCSB's `insertorder=hashed`). Values are random bytes that no engine can
//! compress. YCSB's records are 1,000 bytes; here 100 is the default, because small records show an engine's own
//! cost.
//!
//! An insert takes the next record number. It may be read only after it has been acknowledged, so the generator
//! chooses among the numbers up to which every insert has been ([`Population`]).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use clap::ValueEnum;

use crate::distribution::{Chooser, Distribution, Rng, mix};

/// The size of the pool of random bytes that a client cuts its values from.
const VALUE_POOL_BYTES: usize = 1 << 20;

/// The shortest key: eight bytes tell the records apart.
pub(crate) const SHORTEST_KEY_BYTES: usize = 8;

/// The name of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// Update heavy: sessions.
    A,
    /// Read mostly: tags on photos.
    B,
    /// Read only: profiles.
    C,
    /// Read latest: status updates.
    D,
    /// Short ranges: threads of a conversation.
    E,
    /// Read-modify-write: a user database.
    F,
    /// Only puts.
    Put,
    /// Only gets.
    Get,
    /// Only scans.
    Scan,
    /// Inserts all records in batches and forces them at the end.
    Load,
}

impl Preset {
    /// Whether scans are part of it.
    pub(crate) fn scans(self) -> bool {
        matches!(self, Self::E | Self::Scan)
    }
}

/// Shares of the operations in percent; the rest are read-modify-writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mix {
    reads: u64,
    updates: u64,
    inserts: u64,
    scans: u64,
}

/// Everything that says which operations come.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    mix: Mix,
    distribution: Distribution,
    theta: f64,
    shape: Shape,
    scan_lengths: (u64, u64),
}

/// How many records of which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Records loaded before the first operation.
    pub(crate) records: u64,
    /// Bytes of a key.
    pub(crate) key_bytes: usize,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
}

impl Shape {
    /// Bytes of the keys and values of all records.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.records * (self.key_bytes + self.value_bytes) as u64
    }
}

/// One operation; the number is the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Reads a record.
    Read(u64),
    /// Overwrites a record.
    Update(u64),
    /// Adds the record.
    Insert(u64),
    /// Reads so many records in key order from this one on.
    Scan(u64, usize),
    /// Reads a record and writes it back changed.
    ReadModifyWrite(u64),
}

impl Workload {
    /// A workload by name; `distribution` overrides the usual one, `scan_length` is for [`Preset::Scan`].
    pub(crate) fn new(
        preset: Preset,
        shape: Shape,
        distribution: Option<Distribution>,
        theta: f64,
        scan_length: u64,
    ) -> Self {
        let (reads, updates, inserts, scans, usual) = match preset {
            Preset::A => (50, 50, 0, 0, Distribution::Zipfian),
            Preset::B => (95, 5, 0, 0, Distribution::Zipfian),
            Preset::C => (100, 0, 0, 0, Distribution::Zipfian),
            Preset::D => (95, 0, 5, 0, Distribution::Latest),
            Preset::E => (0, 0, 5, 95, Distribution::Zipfian),
            Preset::F => (50, 0, 0, 0, Distribution::Zipfian),
            Preset::Put => (0, 100, 0, 0, Distribution::Uniform),
            Preset::Get => (100, 0, 0, 0, Distribution::Uniform),
            Preset::Scan => (0, 0, 0, 100, Distribution::Uniform),
            Preset::Load => (0, 0, 100, 0, Distribution::Uniform),
        };
        Self {
            mix: Mix {
                reads,
                updates,
                inserts,
                scans,
            },
            distribution: distribution.unwrap_or(usual),
            theta,
            shape,
            scan_lengths: if preset == Preset::E {
                (1, 100)
            } else {
                (scan_length, scan_length)
            },
        }
    }

    /// The records and their size.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether no operation changes anything, so that one loaded directory serves every round.
    pub(crate) fn reads_only(&self) -> bool {
        self.mix.reads + self.mix.scans == 100
    }

    /// Whether the records must be there before the first operation.
    pub(crate) fn needs_records(&self) -> bool {
        self.mix.updates + self.mix.inserts < 100
    }

    /// Whether scans are part of it.
    pub(crate) fn scans(&self) -> bool {
        self.mix.scans > 0
    }
}

/// How many records there are while clients insert.
#[derive(Debug)]
pub(crate) struct Population {
    next: AtomicU64,
    acknowledged: AtomicU64,
    out_of_order: Mutex<BTreeSet<u64>>,
}

impl Population {
    /// A population of so many loaded records.
    pub(crate) fn new(records: u64) -> Self {
        Self {
            next: AtomicU64::new(records),
            acknowledged: AtomicU64::new(records),
            out_of_order: Mutex::new(BTreeSet::new()),
        }
    }

    /// The records that may be read.
    pub(crate) fn readable(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Takes a new record number.
    fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A new record has been acknowledged.
    pub(crate) fn acknowledge(&self, record: u64) {
        let mut waiting = self
            .out_of_order
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        waiting.insert(record);
        let mut readable = self.readable();
        while waiting.remove(&readable) {
            readable += 1;
        }
        self.acknowledged.store(readable, Ordering::Release);
    }
}

/// The operations of one client.
#[derive(Debug)]
pub(crate) struct Generator {
    workload: Workload,
    population: Arc<Population>,
    chooser: Chooser,
    rng: Rng,
    /// Records drawn ahead, so that a read of a hundred nanoseconds is not measured with the draw.
    tape: Vec<u64>,
    position: usize,
}

impl Generator {
    /// Operations for client `client` of a run with this seed; `tape` records are drawn ahead and repeat.
    pub(crate) fn new(
        workload: &Workload,
        population: &Arc<Population>,
        seed: u64,
        client: u64,
        tape: usize,
    ) -> Self {
        let mut rng = Rng::new(seed, client);
        let mut chooser = Chooser::new(workload.distribution, workload.theta);
        let records = workload.shape.records.max(1);
        let tape = (0..tape)
            .map(|_| chooser.choose(records, &mut rng))
            .collect();
        Self {
            workload: workload.clone(),
            population: population.clone(),
            chooser,
            rng,
            tape,
            position: 0,
        }
    }

    fn record(&mut self) -> u64 {
        if self.tape.is_empty() {
            let population = self.population.readable().max(1);
            return self.chooser.choose(population, &mut self.rng);
        }
        self.position = if self.position + 1 < self.tape.len() {
            self.position + 1
        } else {
            0
        };
        self.tape[self.position]
    }

    /// The next operation.
    pub(crate) fn operation(&mut self) -> Operation {
        let Mix {
            reads,
            updates,
            inserts,
            scans,
        } = self.workload.mix;
        let dice = if reads == 100 { 0 } else { self.rng.below(100) };
        if dice < reads {
            Operation::Read(self.record())
        } else if dice < reads + updates {
            Operation::Update(self.record())
        } else if dice < reads + updates + inserts {
            Operation::Insert(self.population.take())
        } else if dice < reads + updates + inserts + scans {
            let (shortest, longest) = self.workload.scan_lengths;
            let length = shortest + self.rng.below(longest - shortest + 1);
            Operation::Scan(self.record(), length as usize)
        } else {
            Operation::ReadModifyWrite(self.record())
        }
    }
}

/// Writes keys and cuts values; each client has its own.
#[derive(Debug)]
pub(crate) struct Records {
    key: Vec<u8>,
    pool: Vec<u8>,
    value_bytes: usize,
    rng: Rng,
}

impl Records {
    /// Records of this shape. The values depend on the seed and the client, the keys do not.
    pub(crate) fn new(shape: Shape, seed: u64, client: u64) -> Self {
        assert!(
            shape.key_bytes >= SHORTEST_KEY_BYTES,
            "a key needs {SHORTEST_KEY_BYTES} bytes"
        );
        let mut rng = Rng::new(!seed, client);
        let bytes = VALUE_POOL_BYTES.min(64 * shape.value_bytes.max(1)) + shape.value_bytes + 8;
        let pool = (0..bytes.div_ceil(8))
            .flat_map(|_| rng.bits().to_le_bytes())
            .collect();
        Self {
            key: vec![b'.'; shape.key_bytes],
            pool,
            value_bytes: shape.value_bytes,
            rng,
        }
    }

    /// The key of a record: 16 hexadecimal digits, or 8 raw bytes where the key is shorter than that, then dots.
    pub(crate) fn key(&mut self, record: u64) -> &[u8] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes = mix(record).to_be_bytes();
        if self.key.len() < 16 {
            self.key[..8].copy_from_slice(&bytes);
        } else {
            for (pair, byte) in self.key.chunks_exact_mut(2).zip(bytes) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
        }
        &self.key
    }

    /// The key of a record and a value for it.
    pub(crate) fn entry(&mut self, record: u64) -> (&[u8], &[u8]) {
        let start = self.rng.below((self.pool.len() - self.value_bytes) as u64) as usize;
        self.key(record);
        (&self.key, &self.pool[start..start + self.value_bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn shape(records: u64) -> Shape {
        Shape {
            records,
            key_bytes: 16,
            value_bytes: 100,
        }
    }

    fn operations(preset: Preset, seed: u64, count: usize) -> Vec<Operation> {
        let workload = Workload::new(preset, shape(1_000), None, 0.99, 100);
        let population = Arc::new(Population::new(1_000));
        let mut generator = Generator::new(&workload, &population, seed, 0, 0);
        (0..count).map(|_| generator.operation()).collect()
    }

    #[test]
    fn the_core_workloads_have_the_shares_of_ycsb() {
        let share = |preset, wanted: fn(&Operation) -> bool| {
            operations(preset, 1, 20_000)
                .iter()
                .filter(|operation| wanted(operation))
                .count()
                / 200
        };
        let near = |measured: usize, percent: usize| measured.abs_diff(percent) <= 1;
        assert!(near(
            share(Preset::A, |op| matches!(op, Operation::Update(_))),
            50
        ));
        assert!(near(
            share(Preset::B, |op| matches!(op, Operation::Update(_))),
            5
        ));
        assert_eq!(share(Preset::C, |op| matches!(op, Operation::Read(_))), 100);
        assert!(near(
            share(Preset::D, |op| matches!(op, Operation::Insert(_))),
            5
        ));
        assert!(near(
            share(Preset::E, |op| matches!(op, Operation::Scan(..))),
            95
        ));
        assert!(near(
            share(Preset::F, |op| matches!(op, Operation::ReadModifyWrite(_))),
            50
        ));
        assert_eq!(
            share(Preset::Put, |op| matches!(op, Operation::Update(_))),
            100
        );
        assert_eq!(
            share(Preset::Scan, |op| matches!(op, Operation::Scan(_, 100))),
            100
        );
    }

    #[test]
    fn one_seed_gives_one_sequence_of_operations() {
        assert_eq!(operations(Preset::E, 5, 500), operations(Preset::E, 5, 500));
        assert_ne!(operations(Preset::E, 5, 500), operations(Preset::E, 6, 500));
    }

    #[test]
    fn an_unacknowledged_insert_is_not_read() {
        let population = Population::new(10);
        let (first, second, third) = (population.take(), population.take(), population.take());
        population.acknowledge(second);
        assert_eq!(population.readable(), 10);
        population.acknowledge(first);
        assert_eq!(population.readable(), 12);
        population.acknowledge(third);
        assert_eq!(population.readable(), 13);
    }

    #[test]
    fn keys_have_their_length_and_never_collide() {
        for key_bytes in [8, 12, 16, 40] {
            let mut records = Records::new(
                Shape {
                    key_bytes,
                    ..shape(0)
                },
                1,
                1,
            );
            let keys: HashSet<Vec<u8>> = (0..2_000)
                .map(|record| records.key(record).to_vec())
                .collect();
            assert_eq!(keys.len(), 2_000);
            assert!(keys.iter().all(|key| key.len() == key_bytes));
        }
    }

    #[test]
    fn values_have_their_length_and_differ() {
        let mut records = Records::new(shape(0), 1, 1);
        let values: HashSet<Vec<u8>> = (0..50)
            .map(|record| records.entry(record).1.to_vec())
            .collect();
        assert!(values.len() > 40);
        assert!(values.iter().all(|value| value.len() == 100));
    }

    #[test]
    fn a_tape_repeats_what_was_drawn_ahead() {
        let workload = Workload::new(Preset::Get, shape(1_000), None, 0.99, 100);
        let population = Arc::new(Population::new(1_000));
        let mut generator = Generator::new(&workload, &population, 1, 0, 8);
        let round: Vec<Operation> = (0..8).map(|_| generator.operation()).collect();
        let again: Vec<Operation> = (0..8).map(|_| generator.operation()).collect();
        assert_eq!(round, again);
    }
}

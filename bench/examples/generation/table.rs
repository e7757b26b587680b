//! What both structures do, and the versions that they are given.

use std::ops::Bound;

use bytes::Bytes;
use mailring_engine::generation::Generation;
use mailring_engine::ids::Lsn;
use mailring_engine::value::{Value, Write};
use rand::distr::{Distribution, Uniform};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// An ordered table of versions, with one writer and many readers.
pub(crate) trait Table: Default + Sync {
    const NAME: &'static str;

    fn insert(&self, lsn: Lsn, write: &Write);

    /// The newest version of a key up to an LSN; an inner `None` is a tombstone.
    fn newest(&self, key: &[u8], at: Lsn) -> Option<(Lsn, Option<Value>)>;

    /// The newest versions of so many keys from one on.
    fn scan(&self, from: &[u8], limit: usize) -> Vec<(Bytes, Option<Value>)>;
}

impl Table for Generation {
    const NAME: &'static str = "b-tree";

    fn insert(&self, lsn: Lsn, write: &Write) {
        Self::insert(self, lsn, write);
    }

    fn newest(&self, key: &[u8], at: Lsn) -> Option<(Lsn, Option<Value>)> {
        Self::newest(self, key, at)
    }

    fn scan(&self, from: &[u8], limit: usize) -> Vec<(Bytes, Option<Value>)> {
        let from = Bound::Included(from);
        self.range_chunk(from, Bound::Unbounded, Lsn(u64::MAX), false, limit)
    }
}

/// Keys as a node has them: 4 bytes of a keyspace, then 16 of the caller, in no order.
pub(crate) struct Keys {
    keys: Vec<[u8; 20]>,
    value_bytes: usize,
}

impl Keys {
    pub(crate) fn new(count: u64, value_bytes: usize, seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let keys = (0..count).map(|number| {
            let mut key = [0; 20];
            key[3] = 1;
            key[4..12].copy_from_slice(&dice.random::<u64>().to_be_bytes());
            key[12..].copy_from_slice(&number.to_be_bytes());
            key
        });
        Self {
            keys: keys.collect(),
            value_bytes,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.keys.len() as u64
    }

    pub(crate) fn key(&self, number: u64) -> &[u8] {
        &self.keys[number as usize]
    }

    /// A new version of a key: key and value in one buffer, as a handle makes them.
    pub(crate) fn write(&self, number: u64) -> Write {
        let key = self.key(number);
        let mut buffer = Vec::with_capacity(key.len() + self.value_bytes);
        buffer.extend_from_slice(key);
        buffer.resize(key.len() + self.value_bytes, number as u8);
        let mut key_bytes = Bytes::from(buffer);
        let value = key_bytes.split_off(key.len());
        Write {
            key: key_bytes,
            value: Some(Value::new(value)),
        }
    }

    pub(crate) fn uniform(&self, seed: u64) -> Draws {
        let weights = Weights::Uniform(self.choice());
        Draws::new(weights, seed)
    }

    /// Few keys get most of the draws.
    pub(crate) fn zipf(&self, seed: u64) -> Draws {
        Draws::new(Weights::Skewed(self.count()), seed)
    }

    fn choice(&self) -> Uniform<u64> {
        Uniform::new(0, self.count()).expect("there are keys")
    }
}

enum Weights {
    Uniform(Uniform<u64>),
    Skewed(u64),
}

/// Numbers of keys, as they are drawn.
pub(crate) struct Draws {
    weights: Weights,
    dice: StdRng,
}

impl Draws {
    fn new(weights: Weights, seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        Self { weights, dice }
    }

    pub(crate) fn draw(&mut self) -> u64 {
        match &self.weights {
            Weights::Uniform(choice) => choice.sample(&mut self.dice),
            // Zipf of exponent 1 by its inverse: the logarithm of the rank is uniform. The keys are in no order, so ranks are
            // scattered.
            Weights::Skewed(count) => {
                let rank = (*count as f64).powf(self.dice.random::<f64>());
                (rank as u64 - 1).min(count - 1)
            }
        }
    }
}

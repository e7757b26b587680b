//! The naive model of the differential test: what is drawn, and how a view is read beside its model.
//!
//! A value that has expired may be there or not, until nobody asks for it any more; what lies under it must not show.

use super::common::collect;
use bytes::Bytes;
use mailring_engine::{
    store::{PairIterator, StoreView, StoredPair},
    value::Value,
};
use rand::{Rng, rngs::StdRng};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

pub(crate) type Model = BTreeMap<Bytes, Value>;

/// Keys of a prefix.
const NUMBERS: u16 = 120;

/// The kinds of step.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Get,
    Scan,
    Begin,
    GoOn,
    Ingest,
    Maintain,
    Pin,
    Unpin,
    DropPrefix,
    Reopen,
    Verify,
}

/// How many of a thousand steps are of a kind. Mostly reads, which cost microseconds; the rarest come 3,000 times in a
/// million steps.
const WEIGHTS: [(Kind, u32); 11] = [
    (Kind::Get, 550),
    (Kind::Scan, 280),
    (Kind::Begin, 20),
    (Kind::GoOn, 40),
    (Kind::Ingest, 32),
    (Kind::Maintain, 22),
    (Kind::Pin, 25),
    (Kind::Unpin, 22),
    (Kind::DropPrefix, 3),
    (Kind::Reopen, 3),
    (Kind::Verify, 3),
];

impl Kind {
    pub(crate) fn choose(rng: &mut StdRng) -> Self {
        let mut drawn = rng.random_range(0..1_000);
        for (kind, weight) in WEIGHTS {
            if drawn < weight {
                return kind;
            }
            drawn -= weight;
        }
        unreachable!("the weights make a thousand")
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Scan => "scan",
            Self::Begin => "range begun",
            Self::GoOn => "range gone on with",
            Self::Ingest => "ingest",
            Self::Maintain => "maintain",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::DropPrefix => "drop prefix",
            Self::Reopen => "reopen",
            Self::Verify => "verify",
        }
    }
}

/// What was done and met, by kind.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Each kind of step, and of what a read can meet, at least once in a thousand steps.
    pub(crate) fn demand(&self, steps: u64, reopens: bool) {
        let kinds = WEIGHTS.iter().map(|(kind, _)| kind.name());
        let met = [
            "found",
            "absent",
            "expired",
            "of a dropped prefix",
            "read of a pinned view",
            "range read to its end later",
        ];
        for what in kinds.chain(met) {
            let counted = self.0.get(what).copied().unwrap_or(0);
            let is_left_out = what == Kind::Reopen.name() && !reopens;
            assert!(
                counted >= steps / 1_000 || is_left_out,
                "{what}: {counted} of {steps} steps"
            );
        }
    }
}

/// A view, and what it shows.
pub(crate) struct Pinned {
    pub(crate) view: Arc<dyn StoreView>,
    pub(crate) model: Arc<Model>,
}

impl Pinned {
    /// Reads all of it.
    pub(crate) fn check(&self, now_ms: u64) {
        let found = collect(self.view.range(Bound::Unbounded, Bound::Unbounded));
        let found: Vec<_> = found
            .into_iter()
            .filter_map(|pair| live(pair, now_ms))
            .collect();
        let expected: Vec<_> = expected(&self.model, &Bound::Unbounded, &Bound::Unbounded)
            .filter(|(_, value)| !value.is_expired(now_ms))
            .collect();
        assert_same(&found, &expected, "all of a pinned view");
    }
}

/// Shows the first pair that differs: all of them would hide it.
fn assert_same(found: &[(Bytes, Value)], expected: &[(Bytes, Value)], what: &str) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "pair {index} of {what}");
    }
    let shorter = found.len().min(expected.len());
    let (more, missing) = (found.get(shorter), expected.get(shorter));
    assert_eq!(more, missing, "behind {shorter} pairs of {what}");
}

fn live((key, stored): StoredPair, now_ms: u64) -> Option<(Bytes, Value)> {
    let value = Value::decode(stored).unwrap();
    (!value.is_expired(now_ms)).then_some((key, value))
}

fn expected<'a>(
    model: &'a Model,
    low: &Bound<Bytes>,
    high: &Bound<Bytes>,
) -> impl Iterator<Item = (Bytes, Value)> + use<'a> {
    let bounds = (!crossed(low, high)).then(|| (low.clone(), high.clone()));
    let pairs = bounds.map(|bounds| model.range(bounds));
    let pairs = pairs.into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.clone()))
}

fn crossed(low: &Bound<Bytes>, high: &Bound<Bytes>) -> bool {
    match (low, high) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Excluded(low), Bound::Excluded(high)) => low >= high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low > high,
    }
}

/// A range of a view of which a part was read; the rest is read later, whatever comes between.
pub(crate) struct HalfRead {
    range: PairIterator,
    expected: VecDeque<(Bytes, Value)>,
}

impl HalfRead {
    /// Reads a few pairs at either end; whether that was all.
    pub(crate) fn go_on(&mut self, rng: &mut StdRng, now_ms: u64) -> bool {
        for _ in 0..rng.random_range(1..40) {
            let forward = rng.random();
            let found = loop {
                let next = match forward {
                    true => self.range.next(),
                    false => self.range.next_back(),
                };
                // What has expired is passed over on both sides.
                match next {
                    None => break None,
                    Some(pair) => {
                        if let Some(pair) = live(pair.unwrap(), now_ms) {
                            break Some(pair);
                        }
                    }
                }
            };
            let expected = loop {
                let next = match forward {
                    true => self.expected.pop_front(),
                    false => self.expected.pop_back(),
                };
                match next {
                    Some((_, value)) if value.is_expired(now_ms) => {}
                    next => break next,
                }
            };
            assert_eq!(found, expected, "forward {forward}");
            if found.is_none() {
                return true;
            }
        }
        false
    }
}

/// Reads a view beside its model.
pub(crate) struct Checker<'a> {
    pub(crate) rng: &'a mut StdRng,
    pub(crate) now_ms: u64,
    /// Where most keys are drawn from.
    pub(crate) prefix: u32,
    pub(crate) tally: &'a mut Tally,
}

impl Checker<'_> {
    pub(crate) fn get(&mut self, of: &Pinned) {
        let key = random_key(self.rng, self.prefix);
        let found = of.view.get(&key).unwrap();
        let found = found.map(|stored| Value::decode(stored).unwrap());
        let held = of.model.get(&key);
        self.tally.count(match held {
            None => "absent",
            Some(value) if value.is_expired(self.now_ms) => "expired",
            Some(_) => "found",
        });
        let live = |value: &Value| !value.is_expired(self.now_ms);
        assert_eq!(
            found.filter(live),
            held.cloned().filter(live),
            "get {key:?}"
        );
    }

    pub(crate) fn scan(&mut self, of: &Pinned) {
        let (low, high) = self.bounds();
        let range = range_of(of, &low, &high);
        let now_ms = self.now_ms;
        let found: Vec<_> = if self.rng.random() {
            range
                .filter_map(|pair| live(pair.unwrap(), now_ms))
                .collect()
        } else {
            let backward = range.rev();
            let mut found: Vec<_> = backward
                .filter_map(|pair| live(pair.unwrap(), now_ms))
                .collect();
            found.reverse();
            found
        };
        let expected: Vec<_> = expected(&of.model, &low, &high)
            .filter(|(_, value)| !value.is_expired(now_ms))
            .collect();
        assert_same(&found, &expected, &format!("scan {low:?} {high:?}"));
    }

    /// A range that is read from both ends in turns, now and later.
    pub(crate) fn begin(&mut self, of: &Pinned) -> HalfRead {
        let (low, high) = self.bounds();
        HalfRead {
            range: range_of(of, &low, &high),
            expected: expected(&of.model, &low, &high).collect(),
        }
    }

    /// Mostly a few keys, at times everything.
    fn bounds(&mut self) -> (Bound<Bytes>, Bound<Bytes>) {
        if self.rng.random_ratio(1, 40) {
            let prefix = self.prefix + 1;
            return (self.bound(self.prefix), self.bound(prefix));
        }
        let from = self.rng.random_range(0..NUMBERS);
        let to = from + self.rng.random_range(0..24);
        let (from, to) = (key(self.prefix, from), key(self.prefix, to));
        let bound = |rng: &mut StdRng, key| match rng.random_range(0..2) {
            0 => Bound::Included(key),
            _ => Bound::Excluded(key),
        };
        (bound(self.rng, from), bound(self.rng, to))
    }

    fn bound(&mut self, prefix: u32) -> Bound<Bytes> {
        match self.rng.random_range(0..5) {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Included(random_key(self.rng, prefix)),
            _ => Bound::Excluded(random_key(self.rng, prefix)),
        }
    }
}

fn range_of(of: &Pinned, low: &Bound<Bytes>, high: &Bound<Bytes>) -> PairIterator {
    let low = low.as_ref().map(|key| &key[..]);
    let high = high.as_ref().map(|key| &key[..]);
    of.view.range(low, high)
}

/// Few enough keys that they are overwritten, of several lengths, some of which begin others.
fn random_key(rng: &mut StdRng, prefix: u32) -> Bytes {
    key(prefix, rng.random_range(0..NUMBERS))
}

fn key(prefix: u32, number: u16) -> Bytes {
    let mut key = prefix.to_be_bytes().to_vec();
    key.extend(std::iter::repeat_n(b'k', usize::from(number / 30)));
    key.extend(number.to_be_bytes());
    if number % 7 == 3 {
        key.pop();
    }
    key.into()
}

pub(crate) fn random_run(
    rng: &mut StdRng,
    now_ms: u64,
    mut prefix: impl FnMut(&mut StdRng) -> u32,
) -> BTreeMap<Bytes, Option<Value>> {
    let keys = if rng.random_ratio(1, 20) {
        400
    } else {
        rng.random_range(0..30)
    };
    let mut run = BTreeMap::new();
    for _ in 0..keys {
        let prefix = prefix(rng);
        let key = random_key(rng, prefix);
        run.insert(key, random_value(rng, now_ms));
    }
    run
}

fn random_value(rng: &mut StdRng, now_ms: u64) -> Option<Value> {
    if rng.random_ratio(1, 4) {
        return None;
    }
    let len = if rng.random_ratio(1, 50) {
        5_000
    } else {
        rng.random_range(0..60)
    };
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes[..]);
    let expires_at_ms = if rng.random_ratio(1, 5) {
        now_ms + rng.random_range(1..2_000)
    } else {
        0
    };
    Some(Value {
        bytes: bytes.into(),
        expires_at_ms,
    })
}

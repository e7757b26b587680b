//! Which record an operation touches: uniform, zipfian and latest, as YCSB defines them.
//!
//! A zipfian choice gives rank `i` (from 1) the probability `i^-theta / zeta(n)`. It is drawn by the method of
//! Gray et al., "Quickly generating billion-record synthetic databases" (SIGMOD 1994), which is exact for the two
//! hottest ranks and within a few percent for the others. Drawn like that, the hot records are neighbours. YCSB
//! therefore draws from ten billion ranks and scatters them over the records by a hash (`scrambled`), so that
//! popularity says nothing about place, and so that it does not change when records are added. `latest` is
//! zipfian over the age of a record.
//!
//! Everything here is a function of its seed: two runs with one seed ask for the same records in the same order.

use clap::ValueEnum;

/// The ranks that the scrambled generator draws from, as in YCSB.
const SCRAMBLED_RANKS: u64 = 10_000_000_000;

/// Terms of the zeta sum that are added one by one; the rest follows from the Euler-Maclaurin formula.
const ZETA_TERMS: u64 = 1_000;

/// The shape of the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Distribution {
    /// Every record is equally likely.
    Uniform,
    /// Few records get most of the work, scattered over all of them.
    Zipfian,
    /// The newest records get most of the work.
    Latest,
}

/// A small generator of random numbers (SplitMix64), the same on every machine and in every version.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// A generator for one client of a run.
    pub(crate) fn new(seed: u64, client: u64) -> Self {
        Self(mix(seed ^ mix(client.wrapping_add(1))))
    }

    /// The next 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`, which must not be zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a choice needs at least one record");
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A bijection of 64 bits without visible pattern (the finalizer of SplitMix64).
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// FNV-1a over the eight bytes of a number, the hash that YCSB scatters ranks with.
fn fnv64(mut number: u64) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    for _ in 0..8 {
        hash ^= number & 0xFF;
        hash = hash.wrapping_mul(0x0000_0100_0000_01B3);
        number >>= 8;
    }
    hash
}

/// The sum of `i^-theta` for `i` from 1 to `items`.
///
/// Summing ten billion terms takes a minute; past the first thousand the Euler-Maclaurin formula is exact to more
/// digits than a double holds.
fn zeta(items: u64, theta: f64) -> f64 {
    let head = items.min(ZETA_TERMS);
    let sum: f64 = (1..=head).map(|rank| (rank as f64).powf(-theta)).sum();
    if items == head {
        return sum;
    }
    let (from, to) = (head as f64, items as f64);
    let integral = (to.powf(1.0 - theta) - from.powf(1.0 - theta)) / (1.0 - theta);
    let ends = (to.powf(-theta) - from.powf(-theta)) / 2.0;
    let slopes = -theta * (to.powf(-theta - 1.0) - from.powf(-theta - 1.0)) / 12.0;
    sum + integral + ends + slopes
}

/// Ranks with zipfian popularity; rank 0 is the hottest.
#[derive(Clone, Debug)]
pub(crate) struct Zipfian {
    items: u64,
    theta: f64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// # Panics
    ///
    /// If `theta` is not between 0 and 1, both exclusive (the method's limits), or there are no items.
    pub(crate) fn new(items: u64, theta: f64) -> Self {
        assert!(theta > 0.0 && theta < 1.0, "theta must lie between 0 and 1");
        assert!(items > 0, "a zipfian choice needs at least one item");
        let mut zipfian = Self {
            items: 0,
            theta,
            zeta: 0.0,
            eta: 0.0,
        };
        zipfian.resize(items);
        zipfian
    }

    /// Changes the number of ranks.
    pub(crate) fn resize(&mut self, items: u64) {
        if items == self.items {
            return;
        }
        self.items = items;
        self.zeta = zeta(items, self.theta);
        let two = 1.0 + 0.5f64.powf(self.theta);
        self.eta = (1.0 - (2.0 / items as f64).powf(1.0 - self.theta)) / (1.0 - two / self.zeta);
    }

    /// Draws a rank.
    pub(crate) fn rank(&self, rng: &mut Rng) -> u64 {
        let unit = rng.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 || self.items == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(self.theta) || self.items == 2 {
            return 1;
        }
        let base = self.eta * unit - self.eta + 1.0;
        let rank = (self.items as f64 * base.powf(1.0 / (1.0 - self.theta))) as u64;
        rank.min(self.items - 1)
    }

    /// The probability of a rank.
    #[cfg(test)]
    fn probability(&self, rank: u64) -> f64 {
        ((rank + 1) as f64).powf(-self.theta) / self.zeta
    }
}

/// Chooses the record of the next operation.
#[derive(Clone, Debug)]
pub(crate) enum Chooser {
    /// Every record alike.
    Uniform,
    /// Zipfian ranks, scattered by a hash.
    Scrambled(Zipfian),
    /// Zipfian by age.
    Latest(Zipfian),
}

impl Chooser {
    /// # Panics
    ///
    /// If `theta` is outside of what [`Zipfian::new`] takes.
    pub(crate) fn new(distribution: Distribution, theta: f64) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform,
            Distribution::Zipfian => Self::Scrambled(Zipfian::new(SCRAMBLED_RANKS, theta)),
            Distribution::Latest => Self::Latest(Zipfian::new(1, theta)),
        }
    }

    /// A record below `records`, the number of records that exist now.
    pub(crate) fn choose(&mut self, records: u64, rng: &mut Rng) -> u64 {
        match self {
            Self::Uniform => rng.below(records),
            Self::Scrambled(zipfian) => fnv64(zipfian.rank(rng)) % records,
            Self::Latest(zipfian) => {
                zipfian.resize(records);
                records - 1 - zipfian.rank(rng)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const DRAWS: u64 = 400_000;

    fn counts(mut draw: impl FnMut(&mut Rng) -> u64) -> HashMap<u64, u64> {
        let mut rng = Rng::new(7, 0);
        let mut counts = HashMap::new();
        for _ in 0..DRAWS {
            *counts.entry(draw(&mut rng)).or_default() += 1;
        }
        counts
    }

    /// Whether a count is within five standard deviations of what its probability says.
    fn plausible(count: u64, probability: f64) -> bool {
        let mean = DRAWS as f64 * probability;
        let deviation = (mean * (1.0 - probability)).sqrt();
        (count as f64 - mean).abs() < 5.0 * deviation
    }

    #[test]
    fn zeta_of_ten_billion_is_the_constant_of_ycsb() {
        assert!((zeta(SCRAMBLED_RANKS, 0.99) - 26.469_028_201_783_02).abs() < 1e-6);
        let by_hand: f64 = (1..=5_000).map(|rank| f64::from(rank).powf(-0.7)).sum();
        assert!((zeta(5_000, 0.7) - by_hand).abs() < 1e-9);
    }

    #[test]
    fn the_two_hottest_ranks_are_exact_and_the_others_within_the_method() {
        let zipfian = Zipfian::new(10_000, 0.99);
        let counts = counts(|rng| zipfian.rank(rng));
        assert!(plausible(counts[&0], zipfian.probability(0)));
        assert!(plausible(counts[&1], zipfian.probability(1)));
        for below in [10, 100, 1_000, 10_000] {
            let drawn: u64 = (0..below).filter_map(|rank| counts.get(&rank)).sum();
            let expected: f64 = (0..below).map(|rank| zipfian.probability(rank)).sum();
            let measured = drawn as f64 / DRAWS as f64;
            assert!(
                (measured / expected - 1.0).abs() < 0.06,
                "{below}: {measured} {expected}"
            );
        }
    }

    #[test]
    fn a_smaller_theta_is_flatter() {
        let share = |theta| {
            let zipfian = Zipfian::new(1_000, theta);
            let counts = counts(|rng| zipfian.rank(rng));
            assert!(plausible(counts[&0], zipfian.probability(0)));
            counts[&0]
        };
        assert!(share(0.5) < share(0.8) && share(0.8) < share(0.99));
    }

    #[test]
    fn scrambled_keeps_the_share_of_the_hottest_and_moves_its_place() {
        let mut chooser = Chooser::new(Distribution::Zipfian, 0.99);
        let counts = counts(|rng| chooser.choose(1_000_000, rng));
        let hottest = fnv64(0) % 1_000_000;
        assert!(plausible(counts[&hottest], 1.0 / 26.469_028));
        assert!(hottest > 1_000, "the hottest record is not at the start");
        assert!(counts.keys().all(|record| *record < 1_000_000));
    }

    #[test]
    fn uniform_gives_every_record_its_share() {
        let counts = counts(|rng| Chooser::Uniform.choose(100, rng));
        assert_eq!(counts.len(), 100);
        assert!(counts.values().all(|count| plausible(*count, 0.01)));
    }

    #[test]
    fn latest_follows_the_newest_record() {
        let mut chooser = Chooser::new(Distribution::Latest, 0.99);
        let mut rng = Rng::new(1, 0);
        for records in [1, 2, 3, 500, 10_000] {
            let mut newest = 0;
            for _ in 0..2_000 {
                let record = chooser.choose(records, &mut rng);
                assert!(record < records);
                newest += u64::from(record == records - 1);
            }
            let expected = 2_000.0 / zeta(records, 0.99);
            assert!((newest as f64 - expected).abs() <= 5.0 * expected.sqrt());
        }
    }

    #[test]
    fn one_seed_gives_one_sequence_and_clients_differ() {
        let draw = |seed, client| {
            let mut rng = Rng::new(seed, client);
            let mut chooser = Chooser::new(Distribution::Zipfian, 0.9);
            (0..100)
                .map(|_| chooser.choose(50_000, &mut rng))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(3, 1), draw(3, 1));
        assert_ne!(draw(3, 1), draw(3, 2));
        assert_ne!(draw(3, 1), draw(4, 1));
    }

    #[test]
    fn mixing_never_maps_two_numbers_to_one() {
        let mixed: std::collections::HashSet<u64> = (0..100_000).map(mix).collect();
        assert_eq!(mixed.len(), 100_000);
    }
}

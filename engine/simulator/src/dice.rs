//! The only source of chance: a seeded generator, in streams that do not disturb each other.
//!
//! The schedule, the faults and the clients draw from streams of their own, so that a fault that is switched off leaves
//! what the clients do as it was.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What happens next.
    Schedule,
    /// What goes wrong.
    Faults,
    /// What clients want.
    Clients,
    /// How many directories there are, and who lives where.
    Directories,
    /// What goes wrong only where there are several directories.
    DirectoryFaults,
}

/// A stream of chance.
#[derive(Debug, Clone)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64, stream: Stream) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream as u64);
        Self(generator)
    }

    /// A number in the range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// A number from 0 to below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end as u64) as usize
    }

    /// Whether one of `one_in` equal chances has come.
    pub fn chance(&mut self, one_in: u32) -> bool {
        self.0.random_range(0..one_in) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_a_seed_differ_and_repeat() {
        let draw = |stream| {
            let mut dice = Dice::new(7, stream);
            [dice.any(), dice.any(), dice.any()]
        };
        assert_eq!(draw(Stream::Faults), draw(Stream::Faults));
        assert_ne!(draw(Stream::Faults), draw(Stream::Clients));
        assert_ne!(draw(Stream::Schedule), draw(Stream::Clients));
    }
}

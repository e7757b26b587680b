//! How much of the tables' indexes and filters is held in memory, over all trees of an engine.
//!
//! A table that is read without them looks both up in the block cache, as blocks of hundreds of KiB, which there push out
//! the data or are pushed out themselves: a point read then loads and checks all of it for one key. They take 2 to 3 % of
//! the data, so they are held as long as an allowance lasts; the tables that come later go through the cache.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The allowance, and what is taken of it.
#[derive(Debug)]
pub(super) struct Pins {
    allowance: u64,
    taken: Arc<AtomicU64>,
}

impl Pins {
    pub(super) fn new(allowance: u64, taken: Arc<AtomicU64>) -> Self {
        Self { allowance, taken }
    }

    /// Whether it is worth to read so much in order to hold it.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.taken.load(Relaxed) + bytes <= self.allowance
    }

    /// Takes a part, which is given back when it is dropped; `None` if it is not there.
    pub(super) fn take(&self, bytes: usize) -> Option<Pin> {
        let bytes = bytes as u64;
        self.taken
            .try_update(Relaxed, Relaxed, |taken| {
                Some(taken + bytes).filter(|taken| *taken <= self.allowance)
            })
            .ok()?;
        Some(Pin {
            bytes,
            taken: Arc::clone(&self.taken),
        })
    }
}

/// A part of the allowance, in use.
#[derive(Debug)]
pub(super) struct Pin {
    bytes: u64,
    taken: Arc<AtomicU64>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowance_is_never_exceeded_and_comes_back() {
        let taken = Arc::new(AtomicU64::new(0));
        let pins = Pins::new(10, Arc::clone(&taken));
        let first = pins.take(6).expect("there is room");
        assert!(pins.take(5).is_none());
        let second = pins.take(4).expect("there is just enough");
        assert_eq!(taken.load(Relaxed), 10);
        drop(first);
        assert_eq!(taken.load(Relaxed), 4);
        assert!(pins.take(7).is_none());
        drop(second);
        assert!(pins.take(10).is_some());
    }
}

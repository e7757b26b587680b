//! A generation as a sorted source of a scan, read in chunks that grow with the scan.

use crate::{
    error::Result,
    generation::Generation,
    ids::Lsn,
    scan::{Source, Version},
    store::runs::Direction,
};
use bytes::Bytes;
use std::{collections::VecDeque, ops::Bound, sync::Arc};

const FIRST_CHUNK: usize = 16;
const LARGEST_CHUNK: usize = 256;

/// Keeps the generation alive and remembers where it stands in it.
#[derive(Debug)]
pub struct GenerationSource {
    generation: Arc<Generation>,
    low: Bound<Bytes>,
    high: Bound<Bytes>,
    at: Lsn,
    direction: Direction,
    chunk: VecDeque<Version>,
    chunk_size: usize,
    is_exhausted: bool,
}

impl GenerationSource {
    /// The versions at `at` of the keys between the bounds.
    #[must_use]
    pub fn new(
        generation: Arc<Generation>,
        low: Bound<Bytes>,
        high: Bound<Bytes>,
        at: Lsn,
        direction: Direction,
    ) -> Self {
        Self {
            generation,
            low,
            high,
            at,
            direction,
            chunk: VecDeque::new(),
            chunk_size: FIRST_CHUNK,
            is_exhausted: false,
        }
    }

    fn read_chunk(&mut self) {
        let chunk = self.generation.range_chunk(
            self.low.as_ref().map(|key| &key[..]),
            self.high.as_ref().map(|key| &key[..]),
            self.at,
            self.direction == Direction::Backward,
            self.chunk_size,
        );
        self.is_exhausted = chunk.len() < self.chunk_size;
        self.chunk_size = (self.chunk_size * 2).min(LARGEST_CHUNK);
        if let Some((last, _)) = chunk.last() {
            match self.direction {
                Direction::Forward => self.low = Bound::Excluded(last.clone()),
                Direction::Backward => self.high = Bound::Excluded(last.clone()),
            }
        }
        self.chunk = chunk.into();
    }
}

impl Source for GenerationSource {
    fn next(&mut self) -> Result<Option<Version>> {
        if self.chunk.is_empty() && !self.is_exhausted {
            self.read_chunk();
        }
        Ok(self.chunk.pop_front())
    }
}

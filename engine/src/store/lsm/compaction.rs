//! When to compact, and what with what.
//!
//! Ingested runs gather in the top level. While ingestion goes on, every [`FAN_IN`] of them are merged: with each level
//! below as long as that level is not more than [`GROWTH`] times what is being merged, else into the empty level above
//! the first one that is. So each run is a few times longer than all above it together, there are about
//! log(data / run) of them, and a pair is rewritten a few times per factor of [`GROWTH`] in size.
//!
//! A maintenance that no ingestion came before finds the store idle and merges all into one run, which scans like best,
//! unless the largest is more than [`IDLE_GROWTH`] times the rest: then it is not worth rewriting.

use super::{
    integrity::{Place, guarded},
    view::View,
};
use crate::error::Result;
use lsm_tree::{AbstractTree, AnyTree, SeqNo, compaction::PullDown};
use std::sync::Arc;

/// Runs in the top level that are merged in one go.
const FAN_IN: usize = 4;
/// A level this many times larger than what comes from above is left alone.
const GROWTH: u64 = 4;
/// The same while nothing else is to do.
const IDLE_GROWTH: u64 = 16;
/// Where a table ends and the run's next one begins.
const TABLE_BYTES: u64 = 64 * 1024 * 1024;
/// Levels of a tree, fixed by its format.
const LEVELS: usize = 7;

/// One call to the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Merge everything into the last level.
    All,
    /// Merge one level with one below it.
    Down {
        /// The upper level.
        from: u8,
        /// The lower one, which becomes one run.
        to: u8,
    },
}

impl Step {
    /// # Errors
    ///
    /// What the tree met; its files are unchanged then.
    pub(super) fn run(self, place: Place<'_>, tree: &AnyTree) -> Result<()> {
        // No reader goes through the tree's history, so every overwritten version may go: the watermark is the maximum.
        guarded(place, || match self {
            Self::All => tree.major_compact(TABLE_BYTES, SeqNo::MAX),
            Self::Down { from, to } => tree.compact(Arc::new(PullDown(from, to)), SeqNo::MAX),
        })
    }
}

/// What decides: runs and bytes of each level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Level {
    runs: usize,
    bytes: u64,
}

/// The levels of a tree, the top first.
pub(super) fn levels(view: &View) -> [Level; LEVELS] {
    let mut levels = [Level::default(); LEVELS];
    for run in &view.shared.runs {
        let level = &mut levels[run.level];
        level.runs += 1;
        level.bytes += run
            .tables
            .iter()
            .map(|reader| reader.table.metadata.file_size)
            .sum::<u64>();
    }
    levels
}

/// What to do now, in order; nothing if nothing is due.
pub(super) fn due(levels: &[Level; LEVELS], idle: bool) -> Vec<Step> {
    let occupied: Vec<usize> = (0..LEVELS)
        .filter(|&level| levels[level].runs > 0)
        .collect();
    let runs: usize = levels.iter().map(|level| level.runs).sum();
    if runs <= 1 {
        return Vec::new();
    }
    let bytes: u64 = levels.iter().map(|level| level.bytes).sum();
    let base = occupied.last().map_or(0, |&last| match last {
        // Everything is in the top level, where no run is a base yet.
        0 => 0,
        last => levels[last].bytes,
    });
    if idle && base <= IDLE_GROWTH * (bytes - base) {
        return vec![Step::All];
    }
    if levels[0].runs < FAN_IN && !(idle && levels[0].runs > 1) {
        return Vec::new();
    }
    let mut merged = levels[0].bytes;
    let mut steps = Vec::new();
    let mut from = 0;
    for &to in &occupied {
        if to == 0 {
            continue;
        }
        if levels[to].bytes > GROWTH * merged {
            if steps.is_empty() {
                // Above the first level there is no room: then it is merged with, whatever its size.
                steps.push(down(0, (to - 1).max(1)));
            }
            return steps;
        }
        merged += levels[to].bytes;
        steps.push(down(from, to));
        from = to;
    }
    // No level is left out, so one pass does.
    vec![Step::All]
}

fn down(from: usize, to: usize) -> Step {
    let level = |level| u8::try_from(level).expect("there are seven levels");
    Step::Down {
        from: level(from),
        to: level(to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(levels: &[(usize, usize, u64)]) -> [Level; LEVELS] {
        let mut all = [Level::default(); LEVELS];
        for &(level, runs, bytes) in levels {
            all[level] = Level { runs, bytes };
        }
        all
    }

    #[test]
    fn fewer_runs_than_the_fan_in_wait_for_more() {
        assert_eq!(due(&tree(&[(0, FAN_IN - 1, 30), (6, 1, 10)]), false), []);
        assert_eq!(due(&tree(&[]), true), []);
    }

    #[test]
    fn a_small_tree_is_merged_as_a_whole() {
        assert_eq!(due(&tree(&[(0, FAN_IN, 40)]), false), [Step::All]);
        assert_eq!(
            due(&tree(&[(0, FAN_IN, 40), (6, 1, 160)]), false),
            [Step::All]
        );
    }

    #[test]
    fn a_level_that_is_much_larger_is_left_alone() {
        assert_eq!(
            due(&tree(&[(0, FAN_IN, 40), (6, 1, 161)]), false),
            [down(0, 5)]
        );
        assert_eq!(
            due(&tree(&[(0, FAN_IN, 40), (5, 1, 100), (6, 1, 9_000)]), false),
            [down(0, 5)]
        );
        assert_eq!(
            due(
                &tree(&[(0, FAN_IN, 40), (4, 1, 100), (5, 1, 500), (6, 1, 9_000)]),
                false
            ),
            [down(0, 4), down(4, 5)]
        );
        assert_eq!(
            due(&tree(&[(0, FAN_IN, 1), (1, 1, 900), (6, 1, 9_000)]), false),
            [down(0, 1)]
        );
    }

    #[test]
    fn an_idle_tree_becomes_one_run_unless_its_base_is_too_large_for_that() {
        assert_eq!(due(&tree(&[(0, 2, 20)]), true), [Step::All]);
        assert_eq!(due(&tree(&[(0, 1, 10), (6, 1, 160)]), true), [Step::All]);
        assert_eq!(due(&tree(&[(0, 1, 10), (6, 1, 161)]), true), []);
        assert_eq!(due(&tree(&[(0, 2, 10), (6, 1, 161)]), true), [down(0, 5)]);
        assert_eq!(due(&tree(&[(6, 1, 161)]), true), []);
    }
}

//! What watches have not read yet: kept for them up to a share of the memory budget, the oldest given up first.
//!
//! ```text
//!  journal ── tell ──▶ Told ──▶ channel ──▶ each Watch, at its own pace
//!                        ▲
//!                        └── emptied, the oldest first, while all of them together exceed the share
//! ```
//!
//! The channel keeps a group of changes until the slowest watch has read it, and a group holds on to its keys and values.
//! So each is counted from when it is told until nobody can read it any more, and a watch that hangs costs the oldest
//! groups, not the process its memory: who arrives at an emptied group is told that he has missed it, and goes on behind it.
//!
//! # Invariants
//!
//! - What is kept is at most the share and the newest group.
//! - The newest group is never emptied, however large it is: who keeps up misses nothing. What it takes beyond the share,
//!   [`Budget`] takes from what writers may have, until there is a newer one.
//! - A group is counted once, however many watches have it before them.
//!
//! # Left out
//!
//! The empty shell of a group, some 100 bytes, stays until it is passed or falls out of the channel, which has room for
//! [`Builder::watch_capacity`](crate::Builder::watch_capacity) of them.

use crate::budget::Budget;
use arc_swap::{ArcSwapOption, Guard};
use mailring_engine::{ids::Lsn, sequencer::Change, value::Write};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};
use tokio::sync::broadcast;

/// A group of changes that became visible together.
#[derive(Debug)]
pub(crate) struct Told {
    last: Lsn,
    bytes: usize,
    changes: ArcSwapOption<Vec<Change>>,
    budget: Arc<Budget>,
}

impl Told {
    fn new(changes: Vec<Change>, budget: &Arc<Budget>) -> Self {
        let bytes = changes.iter().map(weight).sum();
        budget.keep_for_watches(bytes);
        Self {
            last: changes.last().map_or(Lsn(0), |change| change.lsn),
            bytes,
            changes: ArcSwapOption::from_pointee(changes),
            budget: Arc::clone(budget),
        }
    }

    /// The LSN of the last of them.
    pub(crate) fn last(&self) -> Lsn {
        self.last
    }

    /// The changes, unless they were given up. Not to be held on to.
    pub(crate) fn changes(&self) -> Guard<Option<Arc<Vec<Change>>>> {
        self.changes.load()
    }

    fn empty(&self) {
        if self.changes.swap(None).is_some() {
            self.budget.give_up_for_watches(self.bytes);
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.empty();
    }
}

fn weight(change: &Change) -> usize {
    let writes = change.writes.iter().map(Write::weight);
    size_of::<Change>() + writes.sum::<usize>()
}

/// All watches, as the journal's actor sees them.
#[derive(Debug)]
pub(crate) struct Watchers {
    sender: broadcast::Sender<Arc<Told>>,
    /// Every group that may be kept yet, in order.
    kept: VecDeque<Weak<Told>>,
    most: usize,
    budget: Arc<Budget>,
}

impl Watchers {
    /// A watch may lie so many groups behind.
    pub(crate) fn new(capacity: usize, budget: Arc<Budget>) -> Self {
        Self {
            sender: broadcast::Sender::new(capacity),
            kept: VecDeque::new(),
            // The channel rounds its capacity up; one more may be in the hands of who is reading it.
            most: capacity.next_power_of_two() + 1,
            budget,
        }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Told>> {
        self.sender.subscribe()
    }

    /// Tells all watches, and gives up what is too much. Whether there are any.
    pub(crate) fn tell(&mut self, changes: Vec<Change>) -> bool {
        let told = Arc::new(Told::new(changes, &self.budget));
        self.kept.push_back(Arc::downgrade(&told));
        let is_heard = self.sender.send(told).is_ok();
        self.trim();
        is_heard
    }

    fn trim(&mut self) {
        while let Some(oldest) = self.kept.front() {
            let is_newest = self.kept.len() == 1;
            let is_too_much = self.budget.is_over_watch_share() || self.kept.len() > self.most;
            match oldest.upgrade() {
                None => {}
                Some(oldest) if is_too_much && !is_newest => oldest.empty(),
                Some(_) => break,
            }
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Watch, WatchEvent, clock::Clock};
    use mailring_engine::ids::KeyspaceId;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    const KEYSPACE: KeyspaceId = KeyspaceId(1);
    const SHARE: usize = 10_000;

    fn watchers(capacity: usize) -> (Watchers, Arc<Budget>) {
        let budget = Budget::new(Clock::start(), Arc::default(), 100_000, 50_000, 1, SHARE);
        let budget = Arc::new(budget);
        (Watchers::new(capacity, Arc::clone(&budget)), budget)
    }

    fn watch(watchers: &Watchers, prefix: &str) -> Watch {
        Watch::new(KEYSPACE, prefix.as_bytes(), Lsn(0), watchers.subscribe())
    }

    /// A commit of these keys, each with a value of so many bytes.
    fn change(lsn: u64, keys: &[&str], bytes: usize) -> Change {
        let value = vec![0; bytes];
        let write = |key: &&str| Write::new(KEYSPACE, key.as_bytes(), Some((&value, 0)));
        Change {
            lsn: Lsn(lsn),
            writes: keys.iter().map(write).collect(),
        }
    }

    /// What a watch can tell now: an LSN and a key, or how many groups it has missed.
    fn next(watch: &mut Watch) -> Option<Result<(u64, String), u64>> {
        match pin!(watch.next()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(WatchEvent::Changed { lsn, key, .. })) => {
                Some(Ok((lsn.0, String::from_utf8_lossy(&key).into_owned())))
            }
            Poll::Ready(Some(WatchEvent::Missed { groups })) => Some(Err(groups)),
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    fn all(watch: &mut Watch) -> Vec<Result<(u64, String), u64>> {
        std::iter::from_fn(|| next(watch)).collect()
    }

    fn told(lsn: u64, key: &str) -> Result<(u64, String), u64> {
        Ok((lsn, key.to_owned()))
    }

    #[test]
    fn the_oldest_groups_are_given_up_and_who_arrives_there_is_told() {
        let (mut watchers, budget) = watchers(64);
        let (mut slow, mut fast) = (watch(&watchers, ""), watch(&watchers, ""));
        for lsn in 1..=20 {
            assert!(watchers.tell(vec![change(lsn, &["k"], 2_000)]));
            assert_eq!(all(&mut fast), [told(lsn, "k")]);
            assert!(budget.watch_bytes() <= SHARE, "{}", budget.watch_bytes());
        }
        assert_eq!(
            all(&mut slow),
            [
                Err(16),
                told(17, "k"),
                told(18, "k"),
                told(19, "k"),
                told(20, "k")
            ]
        );
        assert_eq!(budget.watch_bytes(), 0, "all have read all");
    }

    #[test]
    fn a_group_larger_than_the_share_reaches_who_keeps_up_and_is_given_up_for_the_next() {
        let (mut watchers, budget) = watchers(64);
        let (mut slow, mut fast) = (watch(&watchers, ""), watch(&watchers, ""));
        watchers.tell(vec![change(1, &["small"], 10)]);
        watchers.tell(vec![change(2, &["large"], 3 * SHARE)]);
        assert!(budget.watch_bytes() > 3 * SHARE);
        assert_eq!(all(&mut fast), [Err(1), told(2, "large")]);
        watchers.tell(vec![change(3, &["small"], 10)]);
        assert!(budget.watch_bytes() < SHARE);
        assert_eq!(all(&mut fast), [told(3, "small")]);
        assert_eq!(all(&mut slow), [Err(2), told(3, "small")]);
    }

    #[test]
    fn a_group_that_is_given_up_under_the_hands_of_who_reads_it_is_missed_from_there_on() {
        let (mut watchers, budget) = watchers(64);
        let (mut slow, mut one) = (watch(&watchers, ""), watch(&watchers, "a"));
        watchers.tell(vec![change(1, &["a", "b", "c"], 3_000)]);
        assert_eq!(next(&mut slow), Some(told(1, "a")));
        // Nothing more of this group is for the other one, so he misses nothing of it.
        assert_eq!(next(&mut one), Some(told(1, "a")));
        watchers.tell(vec![change(2, &["a"], 3_000)]);
        assert!(budget.watch_bytes() < 4_000);
        assert_eq!(all(&mut slow), [Err(1), told(2, "a")]);
        assert_eq!(all(&mut one), [told(2, "a")]);
    }

    #[test]
    fn what_is_missed_in_a_row_is_one_event_and_what_was_before_the_watch_is_none() {
        let (mut watchers, _) = watchers(4);
        let mut slow = watch(&watchers, "");
        let mut later = Watch::new(KEYSPACE, b"", Lsn(7), watchers.subscribe());
        for lsn in 1..=8 {
            watchers.tell(vec![change(lsn, &["k"], 6_000)]);
        }
        // Four have fallen out of the channel, three are there and empty.
        assert_eq!(all(&mut slow), [Err(7), told(8, "k")]);
        // It can't know of the four how old they were.
        assert_eq!(all(&mut later), [Err(4), told(8, "k")]);
    }

    #[test]
    fn who_stops_in_the_middle_of_a_group_does_not_make_the_list_of_them_grow() {
        let (mut watchers, budget) = watchers(4);
        let mut stuck = watch(&watchers, "");
        watchers.tell(vec![change(1, &["a", "b"], 1)]);
        assert_eq!(next(&mut stuck), Some(told(1, "a")));
        for lsn in 2..1_000 {
            watchers.tell(vec![change(lsn, &["k"], 1)]);
            assert!(watchers.kept.len() <= 6, "{}", watchers.kept.len());
        }
        assert_eq!(next(&mut stuck), Some(Err(995)));
        drop(stuck);
        assert_eq!(budget.watch_bytes(), 0);
        assert!(!watchers.tell(vec![change(1_000, &["k"], 1)]));
        assert_eq!(budget.watch_bytes(), 0, "nobody is there");
    }
}

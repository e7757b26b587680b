//! Handing arcs over under load: requests, transactions, refusals and restarts at random, beside a small journal.
//!
//! The journal of this test gives LSNs, refuses some batches, decides or never decides transactions, and judges every
//! commit that it accepts: none of a life that has handed the arcs over may touch them above the LSN that it named.

use super::{
    hand_over::{hand_over, moving},
    transactions::txn,
    *,
};
use crate::{
    ids::TxnId,
    transaction::{Abort, Ask, Ballot, KeyRange, Prepare, ReadSet, Settle, Vote},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

const NAMES: [&str; 7] = ["m1", "m2", "m3", "s1", "s2", "s3", "a"];
const RING_AFTER: Epoch = Epoch(9);
/// Steps within which a life that is asked gives its word: some deadlines of transactions, which nobody may decide.
const PATIENCE: u64 = 400;
const DEADLINE: u64 = 60;

/// What the driver knows of a transaction.
struct Txn {
    touches: bool,
    writes: Writes,
    voted: Option<Incarnation>,
}

struct Load {
    rng: StdRng,
    node: Bench,
    now: u64,
    to_node: VecDeque<NodeMessage>,
    to_journal: VecDeque<JournalMessage>,
    flushes: usize,
    requests: u64,
    txns: BTreeMap<TxnId, Txn>,
    settled: BTreeMap<TxnId, Option<Lsn>>,
    /// The journal: what each LSN wrote here.
    records: Vec<Writes>,
    life: Incarnation,
    refused_chain: Option<u64>,
    asked_at: Option<u64>,
    attempt: u64,
    word: Option<(Incarnation, Lsn)>,
    cut: Option<Lsn>,
    words: usize,
}

fn touches(name: &str) -> bool {
    name.starts_with('m')
}

fn writes_touch(writes: &[Write]) -> bool {
    let arcs = moving();
    writes
        .iter()
        .any(|write| arcs.contains_qualified(&write.key))
}

impl Load {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            node: bench(),
            now: 1,
            to_node: VecDeque::new(),
            to_journal: VecDeque::new(),
            flushes: 0,
            requests: 0,
            txns: BTreeMap::new(),
            settled: BTreeMap::new(),
            records: Vec::new(),
            life: LIFE,
            refused_chain: None,
            asked_at: None,
            attempt: 0,
            word: None,
            cut: None,
            words: 0,
        }
    }

    fn last_lsn(&self) -> Lsn {
        Lsn(self.records.len() as u64)
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.rng.random_range(0..NAMES.len())]
    }

    fn epoch(&mut self) -> Epoch {
        match self.rng.random() {
            true if self.cut.is_some() => RING_AFTER,
            _ => OWNED_SINCE,
        }
    }

    fn tell(&mut self, message: NodeMessage) {
        let mut out = Vec::new();
        let now = Time(self.now);
        self.node.machine.handle(now, message, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, effects: Vec<NodeEffect>) {
        for effect in effects {
            match effect {
                Journal(message) => self.to_journal.push_back(message),
                ScheduleFlush => self.flushes += 1,
                NodeEffect::Votes(votes) => votes.into_iter().for_each(|vote| self.voted(vote)),
                Rebuild {
                    incarnation,
                    after,
                    through,
                } => {
                    let generation = Generation::new();
                    for lsn in after.0 + 1..=through.0 {
                        for write in self.records[lsn as usize - 1].iter() {
                            generation.insert(Lsn(lsn), write);
                        }
                    }
                    self.to_node.push_back(NodeMessage::Rebuilt {
                        incarnation,
                        through,
                        generation: Ok(Arc::new(generation)),
                    });
                }
                NodeEffect::HandedOver {
                    attempt,
                    incarnation,
                    through,
                    ..
                } => {
                    assert_eq!(incarnation, self.node.machine.incarnation());
                    assert_eq!(attempt, self.attempt);
                    assert!(self.asked_at.take().is_some(), "it is said once");
                    self.word = Some((incarnation, through));
                    self.words += 1;
                }
                Reply(_, answer) => {
                    if let Err(error) = answer {
                        let is_known = matches!(
                            error,
                            Error::Moved { .. }
                                | Error::DeadlineExceeded
                                | Error::Conflict { .. }
                                | Error::NodeRestarted { .. }
                                | Error::Overloaded { .. }
                                | Error::NotACounter { .. }
                        );
                        assert!(is_known, "{error}");
                    }
                }
                other => panic!("nobody has asked for {other:?}"),
            }
        }
    }

    fn voted(&mut self, vote: Vote) {
        if let Ballot::Yes { incarnation, .. } = vote.ballot {
            let txn = self.txns.get_mut(&vote.txn).expect("it was asked");
            let (touches, before) = (txn.touches, txn.voted.replace(incarnation));
            let is_over = self.word.is_some_and(|(life, _)| life == incarnation);
            let is_new = before != Some(incarnation);
            assert!(!(is_over && is_new && touches), "a promise after the word");
        }
    }

    /// The journal accepts writes of a life.
    fn accept(&mut self, life: Incarnation, touches: bool, writes: Writes) -> Lsn {
        self.records.push(writes);
        let lsn = self.last_lsn();
        if let Some((word, through)) = self.word
            && word == life
            && touches
        {
            assert!(
                lsn <= through,
                "LSN {lsn} touches the arcs, {through} was the word"
            );
        }
        assert!(!(touches && self.cut.is_some()), "the arcs are another's");
        lsn
    }

    fn journal_step(&mut self) {
        match self.to_journal.pop_front() {
            None | Some(JournalMessage::Installed { .. }) => {}
            Some(JournalMessage::Append(append)) => {
                let is_void = append.incarnation < self.life
                    || self
                        .refused_chain
                        .is_some_and(|chain| append.chain <= chain);
                if is_void {
                    return;
                }
                let outcome = if self.rng.random_ratio(1, 12) {
                    self.refused_chain = Some(append.chain);
                    Err(Error::DeadlineExceeded)
                } else {
                    let first = self.last_lsn().next();
                    for commit in &append.commits {
                        let txn = commit.txn.and_then(|txn| self.txns.get(&txn));
                        let touches =
                            txn.is_some_and(|txn| txn.touches) || writes_touch(&commit.writes);
                        self.accept(append.incarnation, touches, commit.writes.clone());
                    }
                    Ok(first)
                };
                self.to_node.push_back(NodeMessage::Resolve(Resolve {
                    incarnation: append.incarnation,
                    chain: append.chain,
                    commits: append.commits.len(),
                    outcome,
                }));
            }
            Some(JournalMessage::Fence { incarnation, .. }) => {
                self.life = incarnation;
                self.refused_chain = None;
                self.records.push([].into());
                self.to_node.push_back(NodeMessage::Fenced {
                    incarnation,
                    through: self.last_lsn(),
                });
            }
            Some(JournalMessage::Asks(asks)) => {
                for Ask { txn, .. } in asks {
                    let lsn = *self.settled.entry(txn).or_default();
                    self.settle(txn, lsn);
                }
            }
            Some(other) => panic!("the node said {other:?}"),
        }
    }

    fn settle(&mut self, txn: TxnId, lsn: Option<Lsn>) {
        let Some(incarnation) = self.txns[&txn].voted else {
            return;
        };
        let settle = Settle {
            txn,
            incarnation,
            lsn,
        };
        self.to_node.push_back(NodeMessage::Settles(vec![settle]));
    }

    /// The coordinator decides, aborts, or is gone.
    fn end_a_transaction(&mut self) {
        let mut open = self.txns.iter().filter(|(txn, known)| {
            known.voted == Some(self.life) && !self.settled.contains_key(txn)
        });
        let Some(txn) = open.next().map(|(txn, _)| *txn) else {
            return;
        };
        match self.rng.random_range(0..4) {
            // Nobody will tell the node: it asks.
            0 => drop(self.settled.insert(txn, None)),
            1 => {
                self.settled.insert(txn, None);
                let deadline = Time(self.now + DEADLINE);
                self.tell(NodeMessage::Aborts(vec![Abort { txn, deadline }]));
            }
            _ => {
                let (touches, writes) = (self.txns[&txn].touches, self.txns[&txn].writes.clone());
                let lsn = self.accept(self.life, touches, writes);
                self.settled.insert(txn, Some(lsn));
                self.settle(txn, Some(lsn));
            }
        }
    }

    fn random_part(&mut self) -> (ReadSet, Writes, bool) {
        let mut touches_any = false;
        let mut names = |load: &mut Self, count| -> Vec<&'static str> {
            let mut names: Vec<_> = (0..count).map(|_| load.name()).collect();
            names.sort_unstable();
            names.dedup();
            touches_any |= names.iter().any(|name| touches(name));
            names
        };
        let reads = self.rng.random_range(0..2);
        let writes = self.rng.random_range(0..3);
        let (reads, writes) = (names(self, reads), names(self, writes));
        let mut ranges = Vec::new();
        if self.rng.random_ratio(1, 6) {
            touches_any = true;
            ranges.push(KeyRange {
                low: Bound::Included(key("s")),
                high: Bound::Unbounded,
            });
        }
        let snapshot = self.last_lsn();
        let read_set = ReadSet {
            snapshot,
            keys: reads.into_iter().map(key).collect(),
            ranges,
        };
        let writes = writes.into_iter().map(|name| counter(name, 1)).collect();
        (read_set, writes, touches_any)
    }

    fn request(&mut self) {
        self.requests += 1;
        let epoch = self.epoch();
        let (reads, writes, does_touch) = self.random_part();
        let new_txn = txn(self.requests);
        let name = self.name();
        let kind = self.rng.random_range(0..6);
        // Whoever is routed by the new ring asks for its arcs elsewhere.
        let is_elsewhere = match kind {
            0..=3 => touches(name),
            _ => does_touch,
        };
        if epoch == RING_AFTER && is_elsewhere {
            return;
        }
        if kind >= 4 {
            let voted = None;
            let known = Txn {
                touches: does_touch,
                writes: Arc::clone(&writes),
                voted,
            };
            self.txns.insert(new_txn, known);
        }
        let deadline = Time(self.now + DEADLINE);
        let operation = match kind {
            0 | 1 => Operation::Write([counter(name, 7)].into()),
            2 | 3 => Operation::Add {
                key: key(name),
                delta: 1,
                now_ms: 0,
            },
            4 => Operation::Transact {
                txn: new_txn,
                reads: reads.into(),
                writes,
            },
            _ => {
                let prepare = Prepare {
                    txn: new_txn,
                    deadline,
                    reads: reads.into(),
                    writes,
                    epoch,
                };
                return self.tell(NodeMessage::Prepares(vec![prepare]));
            }
        };
        self.tell(NodeMessage::Request {
            id: RequestId(self.requests),
            deadline,
            epoch,
            operation,
        });
    }

    /// The mover asks, goes on or goes back.
    fn move_on(&mut self) {
        match self.word {
            _ if self.cut.is_some() => {}
            None if self.asked_at.is_none() || self.rng.random_ratio(1, 4) => {
                self.attempt += 1;
                self.asked_at = Some(self.now);
                self.tell(hand_over(self.attempt));
            }
            None => {}
            Some((life, _)) if life == self.life && self.rng.random() => {
                self.records.push([].into());
                self.cut = Some(self.last_lsn());
                self.to_node.push_back(NodeMessage::Owners(Owners {
                    epoch: RING_AFTER,
                    lsn: self.last_lsn(),
                    lost: moving(),
                    lost_all: false,
                    gained: Arc::new(crate::ring::ArcSet::new(10)),
                    is_taken_over: false,
                    incarnation: life,
                }));
            }
            Some(_) => {
                self.word = None;
                self.asked_at = None;
                self.tell(NodeMessage::KeepArcs { change: 2 });
            }
        }
    }

    fn step(&mut self) {
        self.now += 1;
        match self.rng.random_range(0..100) {
            0..=39 => self.request(),
            40..=54 if self.flushes > 0 => {
                self.flushes -= 1;
                self.tell(NodeMessage::Flush);
            }
            40..=69 => self.journal_step(),
            70..=86 => {
                if let Some(message) = self.to_node.pop_front() {
                    self.tell(message);
                }
            }
            87..=93 => self.end_a_transaction(),
            94..=96 => {
                let mut out = Vec::new();
                self.node.machine.handle_timeout(Time(self.now), &mut out);
                self.carry_out(out);
            }
            97 if self.rng.random_ratio(1, 4) => {
                self.flushes = 0;
                let out = self.node.restart();
                self.carry_out(out);
                if let Some((_, _)) = self.word.take() {
                    self.asked_at = (self.cut.is_none()).then_some(self.now);
                }
                // The next life has its own time for it.
                self.asked_at = self.asked_at.map(|_| self.now);
            }
            98 => self.move_on(),
            _ => {}
        }
        if let Some(asked_at) = self.asked_at {
            assert!(
                self.now < asked_at + PATIENCE,
                "no word in {PATIENCE} steps"
            );
        }
    }

    /// What the node shows in the end is what the journal has.
    fn check(&mut self) {
        while !(self.to_node.is_empty() && self.to_journal.is_empty() && self.flushes == 0) {
            for _ in 0..std::mem::take(&mut self.flushes) {
                self.tell(NodeMessage::Flush);
            }
            self.journal_step();
            if let Some(message) = self.to_node.pop_front() {
                self.tell(message);
            }
        }
        let mut model = BTreeMap::new();
        for writes in &self.records {
            model.extend(writes.iter().map(|write| (&write.key, &write.value)));
        }
        for name in NAMES {
            let found = self.node.table.newest(&key(name)).expect("memory reads");
            let wanted = model.get(&key(name)).and_then(|value| (*value).clone());
            assert_eq!(found, wanted, "{name}");
        }
    }
}

#[test]
fn after_its_word_no_commit_of_a_life_touches_the_arcs_and_the_word_comes_in_time() {
    let (mut words, mut cuts) = (0, 0);
    for seed in 0..100 {
        let mut load = Load::new(seed);
        for _ in 0..3_000 {
            load.step();
        }
        load.check();
        words += load.words;
        cuts += usize::from(load.cut.is_some());
    }
    assert!(words > 200 && cuts > 60, "{words} words and {cuts} cuts");
}

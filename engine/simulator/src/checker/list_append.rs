//! Strict serializability of a history of lists, in the manner of Elle.
//!
//! From what transactions have read follows the order of the appends to each key, and from that who depends on whom:
//!
//! ```text
//!  ww   T2 appended right behind what T1 had appended
//!  wr   T2 read a list that ends with what T1 had appended
//!  rw   T1 read a list, and T2 appended the next value to it
//!  rt   T1 was answered before T2 began (real time)
//! ```
//!
//! A history is strictly serializable only if this graph has no cycle. The kind of a cycle is the name of the anomaly
//! (Adya): only `ww` is G0, with `wr` G1c, with one `rw` G-single, with more G2; and the same with `rt` where it takes
//! real time to close it. What needs no cycle is looked for first: a list that nobody can have written, a value of an
//! aborted transaction (G1a), a state between two appends of one transaction (G1b), two lists of which none begins with
//! the other.
//!
//! A transaction whose outcome is unknown counts as committed if anybody who counts has seen one of its values, else not
//! at all: that accuses nobody falsely. The end of a list that nobody has read is not known, so read everything at the end.
//!
//! # Left out
//!
//! Minimal explanations for people: a cycle is reported with its transactions and the kind of each step.

use super::history::{History, Key, Op, Outcome, Transaction};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

/// How one transaction depends on another: it must come behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    /// It wrote over what the other had written.
    WriteWrite,
    /// It read what the other had written.
    WriteRead,
    /// It wrote over what the other had read.
    ReadWrite,
    /// It began when the other had ended.
    RealTime,
}

/// What is wrong with a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anomaly {
    /// A list has a value that nobody has appended, or one twice, or lacks the reader's own appends.
    Impossible {
        /// Who read it.
        reader: usize,
        /// Which list.
        key: Key,
    },
    /// Two lists of a key of which none begins with the other.
    Forked {
        /// Two who read them.
        readers: [usize; 2],
        /// Which list.
        key: Key,
    },
    /// G1a: a value was read that an aborted transaction had appended.
    AbortedRead {
        /// Who read it.
        reader: usize,
        /// Who appended it.
        writer: usize,
    },
    /// G1b: a list was read that ends between two appends of one transaction.
    IntermediateRead {
        /// Who read it.
        reader: usize,
        /// Who appended.
        writer: usize,
    },
    /// A cycle: transactions of which each must come before the next, and the last before the first.
    Cycle {
        /// Which anomaly it is.
        kind: CycleKind,
        /// Each transaction, and how the next one depends on it.
        steps: Vec<(usize, Dependency)>,
    },
}

/// The names of cycles. With real time they are violations of strictness only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CycleKind {
    /// Dirty write: only `ww`.
    G0,
    /// Circular information flow: `ww` and `wr`.
    G1c,
    /// One anti-dependency: read skew, lost update.
    GSingle,
    /// Several anti-dependencies: write skew, phantoms.
    G2,
    /// The same, closed by real time: stale reads and their kin.
    RealTime,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Impossible { reader, key } => {
                write!(f, "T{reader} has read an impossible list of key {key}")
            }
            Self::Forked { readers, key } => {
                let [one, other] = readers;
                write!(
                    f,
                    "T{one} and T{other} have read two histories of key {key}"
                )
            }
            Self::AbortedRead { reader, writer } => {
                write!(
                    f,
                    "G1a: T{reader} has read from T{writer}, which was aborted"
                )
            }
            Self::IntermediateRead { reader, writer } => {
                write!(f, "G1b: T{reader} has read from the middle of T{writer}")
            }
            Self::Cycle { kind, steps } => {
                write!(f, "{kind:?}:")?;
                for (number, dependency) in steps {
                    write!(f, " T{number} -{dependency:?}->")?;
                }
                write!(f, " T{}", steps[0].0)
            }
        }
    }
}

/// Checks a history.
///
/// # Errors
///
/// The first anomaly that is found, of those that need no cycle first.
pub fn check(history: &History) -> Result<(), Anomaly> {
    let transactions = history.transactions();
    let writers = writers(transactions);
    let present = present(transactions, &writers);
    let readers: Vec<_> = transactions
        .iter()
        .enumerate()
        .filter(|(number, _)| present[*number])
        .collect();
    check_reads(&readers, transactions, &writers)?;
    let orders = orders(&readers)?;
    let mut graph = Graph::new(&readers, transactions.len(), &writers, &orders);
    graph.add_real_time(&readers);
    match graph.find_cycle() {
        Some(anomaly) => Err(anomaly),
        None => Ok(()),
    }
}

/// Who appended a value, and whether it was its last one to that key.
struct Writer {
    transaction: usize,
    is_last: bool,
}

type Writers = BTreeMap<(Key, u64), Writer>;

/// # Panics
///
/// Panics if a value was appended twice: then the workload is wrong, and no history can be judged.
fn writers(transactions: &[Transaction]) -> Writers {
    let mut writers = Writers::new();
    for (number, transaction) in transactions.iter().enumerate() {
        let mut last = BTreeMap::new();
        for op in &transaction.ops {
            if let Op::Append(key, value) = op {
                let writer = Writer {
                    transaction: number,
                    is_last: false,
                };
                let before = writers.insert((*key, *value), writer);
                assert!(before.is_none(), "value {value} of key {key} comes twice");
                last.insert(*key, *value);
            }
        }
        for place in last {
            writers.get_mut(&place).expect("it was inserted").is_last = true;
        }
    }
    writers
}

fn reads(transaction: &Transaction) -> impl Iterator<Item = (Key, &[u64])> {
    transaction.ops.iter().filter_map(|op| match op {
        Op::Read(key, list) => Some((*key, &list[..])),
        Op::Append(..) => None,
    })
}

/// A transaction and its number.
type Numbered<'a> = (usize, &'a Transaction);

/// Who was committed, as far as anybody can know.
fn present(transactions: &[Transaction], writers: &Writers) -> Vec<bool> {
    let is_committed = |transaction: &Transaction| transaction.outcome == Outcome::Committed;
    let mut present: Vec<_> = transactions.iter().map(is_committed).collect();
    let mut seen: Vec<_> = (0..present.len()).filter(|at| present[*at]).collect();
    while let Some(reader) = seen.pop() {
        for (key, list) in reads(&transactions[reader]) {
            let writers = list.iter().filter_map(|value| writers.get(&(key, *value)));
            for Writer { transaction, .. } in writers {
                let is_unknown = transactions[*transaction].outcome == Outcome::Unknown;
                if is_unknown && !std::mem::replace(&mut present[*transaction], true) {
                    seen.push(*transaction);
                }
            }
        }
    }
    present
}

/// What needs no order: impossible lists, G1a, G1b, and one's own appends.
fn check_reads(
    readers: &[Numbered<'_>],
    transactions: &[Transaction],
    writers: &Writers,
) -> Result<(), Anomaly> {
    for (reader, transaction) in readers.iter().copied() {
        let mut own: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
        for op in &transaction.ops {
            let (key, list) = match op {
                Op::Append(key, value) => {
                    own.entry(*key).or_default().push(*value);
                    continue;
                }
                Op::Read(key, list) => (*key, list),
            };
            let impossible = Anomaly::Impossible { reader, key };
            let own = own.get(&key).map_or(&[][..], |own| &own[..]);
            let Some(others) = list.strip_suffix(own) else {
                return Err(impossible);
            };
            let mut seen = BTreeSet::new();
            for value in others {
                let writer = writers.get(&(key, *value));
                let writer = writer.ok_or_else(|| impossible.clone())?.transaction;
                if !seen.insert(value) || writer == reader {
                    return Err(impossible);
                }
                if transactions[writer].outcome == Outcome::Aborted {
                    return Err(Anomaly::AbortedRead { reader, writer });
                }
            }
            if let Some(last) = others.last() {
                let Writer {
                    transaction: writer,
                    is_last,
                } = writers[&(key, *last)];
                if !is_last {
                    return Err(Anomaly::IntermediateRead { reader, writer });
                }
            }
        }
    }
    Ok(())
}

/// The longest list of each key that anybody has read; every other one must be its beginning.
fn orders(readers: &[Numbered<'_>]) -> Result<BTreeMap<Key, Vec<u64>>, Anomaly> {
    let mut longest: BTreeMap<Key, (usize, &[u64])> = BTreeMap::new();
    for (reader, transaction) in readers.iter().copied() {
        for (key, list) in reads(transaction) {
            let known = longest.entry(key).or_insert((reader, list));
            if list.len() > known.1.len() {
                *known = (reader, list);
            }
        }
    }
    for (reader, transaction) in readers.iter().copied() {
        for (key, list) in reads(transaction) {
            let (other, order) = longest[&key];
            if !order.starts_with(list) {
                let readers = [other, reader];
                return Err(Anomaly::Forked { readers, key });
            }
        }
    }
    let orders = longest.into_iter();
    Ok(orders
        .map(|(key, (_, list))| (key, list.to_vec()))
        .collect())
}

/// Who must come before whom.
struct Graph {
    /// By transaction, with the most telling dependency of each pair.
    next: Vec<BTreeMap<usize, Dependency>>,
}

impl Graph {
    fn new(
        readers: &[Numbered<'_>],
        transactions: usize,
        writers: &Writers,
        orders: &BTreeMap<Key, Vec<u64>>,
    ) -> Self {
        let mut graph = Self {
            next: vec![BTreeMap::new(); transactions],
        };
        let writer = |key: Key, value: u64| writers[&(key, value)].transaction;
        for (key, order) in orders {
            for pair in order.windows(2) {
                let (one, other) = (writer(*key, pair[0]), writer(*key, pair[1]));
                graph.add(one, other, Dependency::WriteWrite);
            }
        }
        for (reader, transaction) in readers.iter().copied() {
            for (key, list) in reads(transaction) {
                let own = |value: &&u64| writer(key, **value) == reader;
                let others = list.len() - list.iter().rev().take_while(own).count();
                let order = &orders[&key];
                if let Some(last) = list[..others].last() {
                    graph.add(writer(key, *last), reader, Dependency::WriteRead);
                }
                if let Some(next) = order.get(others) {
                    graph.add(reader, writer(key, *next), Dependency::ReadWrite);
                }
            }
        }
        graph
    }

    /// An edge from each transaction to those that began after its end, less those that follow from others.
    fn add_real_time(&mut self, readers: &[Numbered<'_>]) {
        let mut events = Vec::new();
        let mut lives = BTreeMap::new();
        for (number, transaction) in readers.iter().copied() {
            lives.insert(number, transaction);
            events.push((transaction.begin, number, true));
            events.extend(transaction.end.map(|end| (end, number, false)));
        }
        events.sort_unstable();
        // Those that have ended, but for those before whose end another one began that has ended too.
        let mut ended: Vec<usize> = Vec::new();
        for (_, number, begins) in events {
            if begins {
                for before in &ended {
                    self.add(*before, number, Dependency::RealTime);
                }
            } else {
                let begin = lives[&number].begin;
                ended.retain(|other| lives[other].end > Some(begin));
                ended.push(number);
            }
        }
    }

    fn add(&mut self, one: usize, other: usize, dependency: Dependency) {
        if one != other {
            let known = self.next[one].entry(other).or_insert(dependency);
            *known = dependency.min(*known);
        }
    }

    /// The worst cycle that there is, with the fewest steps of those through one transaction.
    fn find_cycle(&self) -> Option<Anomaly> {
        use Dependency::{ReadWrite, RealTime, WriteRead, WriteWrite};
        let every = |_: Dependency| true;
        let is_of_data = |dependency| dependency != RealTime;
        let cycle = |kind, steps| Some(Anomaly::Cycle { kind, steps });
        if let Some(steps) = self.shortest_cycle(&|dependency| dependency == WriteWrite) {
            return cycle(CycleKind::G0, steps);
        }
        if let Some(steps) = self.shortest_cycle(&|dependency| dependency <= WriteRead) {
            return cycle(CycleKind::G1c, steps);
        }
        if !self.has_cycle(&every) {
            return None;
        }
        if let Some(steps) = self.cycle_with_one_anti_dependency() {
            return cycle(CycleKind::GSingle, steps);
        }
        if let Some(steps) = self.shortest_cycle(&is_of_data) {
            debug_assert!(steps.iter().any(|step| step.1 == ReadWrite));
            return cycle(CycleKind::G2, steps);
        }
        let steps = self.shortest_cycle(&every);
        cycle(CycleKind::RealTime, steps.expect("there is one"))
    }

    /// Whether there is any cycle: takes away who depends on nobody, until nobody is left or everybody depends.
    fn has_cycle(&self, wanted: &dyn Fn(Dependency) -> bool) -> bool {
        let mut before = vec![0; self.next.len()];
        for (other, dependency) in self.next.iter().flatten() {
            before[*other] += usize::from(wanted(*dependency));
        }
        let mut free: Vec<_> = (0..before.len()).filter(|at| before[*at] == 0).collect();
        let mut taken = 0;
        while let Some(one) = free.pop() {
            taken += 1;
            for (other, dependency) in &self.next[one] {
                if wanted(*dependency) {
                    before[*other] -= 1;
                    if before[*other] == 0 {
                        free.push(*other);
                    }
                }
            }
        }
        taken < before.len()
    }

    fn shortest_cycle(
        &self,
        wanted: &dyn Fn(Dependency) -> bool,
    ) -> Option<Vec<(usize, Dependency)>> {
        if !self.has_cycle(wanted) {
            return None;
        }
        let cycles = (0..self.next.len()).filter_map(|start| self.path(start, start, wanted));
        cycles.min_by_key(Vec::len)
    }

    /// A cycle with one `rw`, and `ww` and `wr` besides.
    fn cycle_with_one_anti_dependency(&self) -> Option<Vec<(usize, Dependency)>> {
        let is_plain = |dependency| dependency <= Dependency::WriteRead;
        let mut found: Option<Vec<_>> = None;
        for (one, nexts) in self.next.iter().enumerate() {
            for (other, dependency) in nexts {
                if *dependency == Dependency::ReadWrite
                    && let Some(mut back) = self.path(*other, one, &is_plain)
                    && found.as_ref().is_none_or(|found| back.len() < found.len())
                {
                    back.insert(0, (one, *dependency));
                    found = Some(back);
                }
            }
        }
        found
    }

    /// The shortest way from one to another, by at least one step.
    fn path(
        &self,
        from: usize,
        to: usize,
        wanted: &dyn Fn(Dependency) -> bool,
    ) -> Option<Vec<(usize, Dependency)>> {
        let mut came_from: BTreeMap<usize, (usize, Dependency)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(one) = queue.pop_front() {
            for (other, dependency) in &self.next[one] {
                if !wanted(*dependency) || came_from.contains_key(other) {
                    continue;
                }
                came_from.insert(*other, (one, *dependency));
                if *other == to {
                    let mut steps = Vec::new();
                    let mut at = to;
                    while steps.is_empty() || at != from {
                        let (before, dependency) = came_from[&at];
                        steps.push((before, dependency));
                        at = before;
                    }
                    steps.reverse();
                    return Some(steps);
                }
                queue.push_back(*other);
            }
        }
        None
    }
}

//! Simulated clients: each does one job at a time, in steps, with everything else happening in between.
//!
//! ```text
//!  idle ──▶ a job is drawn ──▶ single operation ──────────────────────────▶ sent ──▶ answered ──▶ idle
//!                         └──▶ transaction: snapshot, views, reads, writes ─┘   └──▶ conflict: pause, once more
//! ```
//!
//! | job | what it shows |
//! |---|---|
//! | transfer, audit (`bank`) | the sum of all accounts is zero at every snapshot |
//! | lists (`lists`) | appends and reads and scans, judged by the checker of histories |
//! | mixed (`mixed`) | any reads, ranges and writes together |
//! | single operations (`single`) | counters, compare-and-set, registers, large values, values that expire |
//! | once (`mixed`) | under an idempotency key, repeated until its outcome is known |
//! | turns (`turns`) | keys locked ahead: who takes turns does not conflict |
//! | spaces (`spaces`) | keyspaces that come and go under the hands of their users |
//!
//! Reads go where those of a handle go: to the views of a snapshot, without a message. What is read is compared with the
//! model at once.

mod ahead;
mod bank;
mod lists;
mod lockers;
mod mixed;
mod single;
mod spaces;
mod transaction;
mod turns;

use crate::{
    checker::history::{History, Outcome},
    dice::{Dice, Stream},
    faults::Fault,
    keys::Kind,
    report::Seen,
    shell::KeyLocks,
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::{Lsn, NodeId, Time},
    participant::{Answer, Operation},
};
use std::collections::BTreeMap;
use transaction::Pinning;
use turns::Turns;
pub(crate) use {lists::list, spaces::SpaceRequest, transaction::Draft};

/// What a client is about to do.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    Transfer { from: usize, to: usize, sum: i64 },
    Audit,
    Lists(lists::ListJob),
    Mixed(mixed::MixedJob),
    Single,
    Turn(turns::TurnJob),
    Space(spaces::SpaceJob),
}

/// One try at a job.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    job: Job,
    /// Tries before this one.
    earlier: u32,
    deadline: Time,
    /// When the first try began: the age in a deadlock.
    begun: Time,
}

/// One client more than these can probe every node and the coordinator.
const MOST_NODES: u64 = 6;

/// Where a client is.
#[derive(Debug)]
enum Phase {
    Idle,
    /// A transaction on its way to its commit.
    Drafting(Box<Draft>),
    /// The operation waits for its answer.
    Waiting(Box<Sent>),
}

/// A job whose operation was sent.
#[derive(Debug)]
struct Sent {
    op: u64,
    attempt: Attempt,
    /// Its place in the history of lists.
    history: Option<usize>,
    /// The keys that it has locked.
    keys: Option<KeyLocks>,
}

#[derive(Debug)]
struct Client {
    phase: Phase,
    wake: Time,
    /// A job that must be done again: its outcome is unknown, and it is safe to repeat.
    again: Option<Job>,
    /// An operation that is to be sent by newer routes, and until when.
    routes_again: Option<(u64, Operation, Time)>,
}

/// All clients of a run.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) dice: Dice,
    all: Vec<Client>,
    /// Who waits for an operation.
    waiting: BTreeMap<u64, usize>,
    pub(crate) history: History,
    /// How often each kind of job is drawn.
    mix: [usize; 7],
    /// They begin nothing new any more.
    is_closing: bool,
    keys_used: u64,
    turns: Turns,
}

/// What a client hears.
enum Heard {
    Committed,
    /// An earlier one under the same key was committed.
    Repeated,
    Refused(Error),
    Unknown,
}

impl Clients {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, Stream::Clients);
        let count = dice.within(MOST_NODES + 1..12);
        let client = |_| Client {
            phase: Phase::Idle,
            wake: Time(0),
            again: None,
            routes_again: None,
        };
        // Some runs are all of one kind, most are of everything.
        let mix = match dice.below(8) {
            0 => [10, 2, 0, 0, 1, 0, 0],
            1 => [0, 0, 10, 0, 1, 0, 0],
            2 => [0, 0, 0, 10, 4, 0, 0],
            3 => [0, 0, 0, 2, 1, 10, 0],
            _ => [
                dice.below(5),
                dice.below(2),
                dice.below(6),
                dice.below(6),
                1 + dice.below(8),
                dice.below(4),
                dice.below(4),
            ],
        };
        Self {
            all: (0..count).map(client).collect(),
            waiting: BTreeMap::new(),
            history: History::default(),
            mix,
            is_closing: false,
            keys_used: 0,
            turns: Turns::default(),
            dice,
        }
    }

    /// Everybody runs transactions that read and write the same few keys.
    pub(crate) fn only_mix(&mut self) {
        self.mix = [0, 0, 2, 12, 1, 0, 0];
    }

    /// Everybody takes turns.
    pub(crate) fn only_turns(&mut self) {
        self.mix = [0, 0, 0, 2, 1, 10, 0];
    }

    /// Whether nobody waits for anything.
    pub(crate) fn are_idle(&self) -> bool {
        let mut all = self.all.iter();
        all.all(|client| matches!(client.phase, Phase::Idle) && client.routes_again.is_none())
    }
}

impl World {
    /// A client takes a step, if it is its time.
    pub(crate) fn clients_act(&mut self) {
        let number = self.clients.dice.below(self.clients.all.len());
        self.client_acts(number);
    }

    /// Nothing new is begun, and what is only being drafted is given up, unless it waits: who waits for a lock is to be
    /// answered.
    pub(crate) fn close_clients(&mut self) {
        self.clients.is_closing = true;
        for number in 0..self.clients.all.len() {
            let client = &mut self.clients.all[number];
            client.again = None;
            match std::mem::replace(&mut client.phase, Phase::Idle) {
                Phase::Drafting(draft) if draft.asks.is_none() => self.give_up(number, *draft),
                phase => client.phase = phase,
            }
        }
    }

    fn client_acts(&mut self, number: usize) {
        let client = &mut self.clients.all[number];
        if client.wake > self.now {
            return;
        }
        match std::mem::replace(&mut client.phase, Phase::Idle) {
            Phase::Idle => {
                if let Some(operation) = client.routes_again.take() {
                    self.send_again(number, operation);
                } else if let Some(job) = client.again.take() {
                    self.begin_first(number, job);
                } else if !self.clients.is_closing {
                    let job = self.draw_job();
                    self.begin_first(number, job);
                }
            }
            Phase::Drafting(draft) => self.go_on(number, draft),
            Phase::Waiting(sent) => {
                if self.strikes(Fault::ClientVanishes) {
                    // Its future is dropped; whatever it has begun goes on.
                    self.clients.waiting.remove(&sent.op);
                    self.ends_turn(sent.op, false);
                    self.let_go(number, sent.keys);
                } else {
                    self.clients.all[number].phase = Phase::Waiting(sent);
                }
            }
        }
    }

    /// Each client takes a step.
    pub(crate) fn all_clients_act(&mut self) {
        for number in 0..self.clients.all.len() {
            self.client_acts(number);
        }
    }

    /// A write to each node and a transaction over several are begun; their number.
    pub(crate) fn begin_probes(&mut self) -> usize {
        let nodes = Vec::from_iter(self.process.open_nodes());
        let mut probed = 0;
        for node in nodes {
            // A client each.
            probed += usize::from(self.send_probe(probed, NodeId(node)));
        }
        let job = Job::Transfer {
            from: 0,
            to: 1,
            sum: 1,
        };
        let attempt = Attempt {
            job,
            earlier: 0,
            deadline: Time::MAX,
            begun: self.now,
        };
        self.begin(probed, attempt);
        probed + 1
    }

    fn draw_job(&mut self) -> Job {
        let dice = &mut self.clients.dice;
        let mut at = dice.below(self.clients.mix.iter().sum());
        for (kind, share) in self.clients.mix.iter().enumerate() {
            if at < *share {
                return match kind {
                    0 => {
                        let accounts = self.keys.of(Kind::Account).len();
                        let from = dice.below(accounts);
                        let to = (from + 1 + dice.below(accounts - 1)) % accounts;
                        let sum = dice.within(1..100) as i64;
                        Job::Transfer { from, to, sum }
                    }
                    1 => Job::Audit,
                    2 => Job::Lists(lists::ListJob::draw(dice, &self.keys)),
                    3 => {
                        let used = &mut self.clients.keys_used;
                        let ring = self.process.routes.ring();
                        Job::Mixed(mixed::MixedJob::draw(dice, &self.keys, ring, used))
                    }
                    4 => Job::Single,
                    5 => Job::Turn(turns::TurnJob::draw(dice, &self.keys)),
                    _ => match self.draw_space() {
                        Some(space) => {
                            let dice = &mut self.clients.dice;
                            Job::Space(spaces::SpaceJob::draw(dice, space))
                        }
                        None => Job::Single,
                    },
                };
            }
            at -= share;
        }
        Job::Audit
    }

    /// Begins a job for the first time.
    fn begin_first(&mut self, number: usize, job: Job) {
        let patience = self.clients.dice.within(30..1_000);
        let attempt = Attempt {
            job,
            earlier: 0,
            deadline: self.scale.after(self.now, patience),
            begun: self.now,
        };
        self.begin(number, attempt);
    }

    /// Begins a job, for the first time or again.
    fn begin(&mut self, number: usize, attempt: Attempt) {
        if let Job::Single = attempt.job {
            return self.send_single(number);
        }
        let draft = self.draft(attempt);
        self.clients.all[number].phase = Phase::Drafting(Box::new(draft));
    }

    /// The answer to a single operation, or to a transaction of one node.
    pub(crate) fn answered(&mut self, id: u64, result: Result<Answer>) {
        if let Operation::Transact { .. } = self.model.ops[&id].operation {
            let lsn = result.map(|answer| match answer {
                Answer::Written(lsn) => lsn,
                answer => panic!("transaction {id} was answered {answer:?}"),
            });
            return self.transaction_answered(id, lsn);
        }
        self.note_answer(id, result.as_ref().err());
        let visible = self.process.visible.load();
        let now_ms = self.now_ms();
        self.model.answered(id, &result, visible, now_ms);
        let heard = match result {
            Ok(_) => Heard::Committed,
            Err(Error::Unknown { .. }) => Heard::Unknown,
            Err(error) => Heard::Refused(error),
        };
        self.tell_client(id, heard);
    }

    /// The answer to a transaction.
    pub(crate) fn transaction_answered(&mut self, id: u64, result: Result<Lsn>) {
        self.note_answer(id, result.as_ref().err());
        let was_waiting = self.model.waiting.remove(&id);
        assert!(was_waiting, "txn {id} was answered twice: {result:?}");
        let visible = self.process.visible.load();
        let repeats = self.model.transaction_answered(id, &result, visible);
        if let Err(error) = &result {
            self.check_turn(id, error);
        }
        self.ends_turn(id, result.is_ok());
        let heard = match result {
            Ok(_) if repeats => {
                self.count(Seen::Repeated, 1);
                Heard::Repeated
            }
            Ok(_) => Heard::Committed,
            Err(Error::Unknown { .. }) => Heard::Unknown,
            Err(error) => Heard::Refused(error),
        };
        self.tell_client(id, heard);
    }

    fn note_answer(&mut self, id: u64, error: Option<&Error>) {
        self.trace.note(id << 8 | u64::from(error.is_none()));
        self.trace.line(format_args!(
            "{:>6} -> answer to {id}: {}",
            self.steps,
            error.map_or("fine".to_owned(), ToString::to_string)
        ));
        let seen = match error {
            None => Seen::Acknowledged,
            Some(Error::Unknown { .. }) => Seen::Unknown,
            Some(Error::Conflict { .. }) => Seen::Conflict,
            Some(Error::Aborted { .. } | Error::NodeRestarted { .. }) => Seen::RolledBack,
            Some(Error::DeadlineExceeded) => Seen::Late,
            Some(Error::DiskFull { .. }) => Seen::FullDisk,
            Some(Error::Moved { .. }) => Seen::Moved,
            Some(_) => Seen::Refused,
        };
        self.count(seen, 1);
    }

    fn tell_client(&mut self, id: u64, heard: Heard) {
        let Some(number) = self.clients.waiting.remove(&id) else {
            // It has walked away.
            return;
        };
        let client = &mut self.clients.all[number];
        let Phase::Waiting(sent) = std::mem::replace(&mut client.phase, Phase::Idle) else {
            panic!("client {number} does not wait");
        };
        let sent = *sent;
        let heard = match self.strikes(Fault::ReplyLost) {
            true => Heard::Unknown,
            false => heard,
        };
        if let Some(number) = sent.history {
            let outcome = match heard {
                Heard::Committed => Outcome::Committed,
                Heard::Repeated | Heard::Refused(_) => Outcome::Aborted,
                Heard::Unknown => Outcome::Unknown,
            };
            self.clients.history.end(number, outcome);
        }
        self.rest(number);
        self.let_go(number, sent.keys);
        match heard {
            Heard::Committed => self.job_done(&sent.attempt.job),
            Heard::Repeated => {}
            Heard::Refused(error) => {
                let is_single = matches!(sent.attempt.job, Job::Single);
                let op = is_single.then_some(sent.op);
                self.refused(number, op, sent.attempt, &error);
            }
            Heard::Unknown => self.outcome_is_unknown(number, sent.attempt.job),
        }
    }

    fn rest(&mut self, number: usize) {
        let steps = self.clients.dice.within(0..40);
        self.clients.all[number].wake = self.scale.after(self.now, steps);
    }

    fn job_done(&mut self, job: &Job) {
        match job {
            Job::Transfer { .. } => self.count(Seen::Transfer, 1),
            Job::Lists(_) => self.count(Seen::ListTransaction, 1),
            Job::Space(_) => self.count(Seen::SpaceCommit, 1),
            Job::Audit | Job::Mixed(_) | Job::Single | Job::Turn(_) => {}
        }
    }

    /// Nothing was written: what is worth it is tried again, until its deadline.
    fn refused(&mut self, number: usize, op: Option<u64>, attempt: Attempt, error: &Error) {
        let is_tired = attempt.earlier >= 6 || attempt.deadline <= self.now;
        if let Error::Moved { .. } = error
            && let Some(op) = op
            && attempt.deadline > self.now
        {
            return self.route_again(number, op, attempt);
        }
        if error.is_worth_another_attempt() && !is_tired {
            let earlier = attempt.earlier + 1;
            self.begin(number, Attempt { earlier, ..attempt });
        }
    }

    /// A transaction's locks end with it.
    fn let_go(&mut self, number: usize, keys: Option<KeyLocks>) {
        if let Some(keys) = keys {
            self.release_keys(number, keys);
        }
    }

    /// A job with an idempotency key is done again: that is what the key is for.
    fn outcome_is_unknown(&mut self, number: usize, job: Job) {
        if let Job::Mixed(mixed) = &job
            && mixed.idempotency.is_some()
            && !self.clients.is_closing
            && self.strikes(Fault::ClientRetries)
        {
            self.clients.all[number].again = Some(job);
        }
    }

    /// The process has died: who waits will hear nothing, and what was only drafted is gone.
    pub(crate) fn clients_lose_the_engine(&mut self) {
        self.clients.waiting.clear();
        self.clients.turns = Turns::default();
        for number in 0..self.clients.all.len() {
            let client = &mut self.clients.all[number];
            client.wake = Time(0);
            client.routes_again = None;
            match std::mem::replace(&mut client.phase, Phase::Idle) {
                Phase::Idle => {}
                Phase::Drafting(draft) => {
                    if let Some(number) = draft.history {
                        self.clients.history.end(number, Outcome::Aborted);
                    }
                }
                // Its outcome stays unknown.
                Phase::Waiting(sent) => self.outcome_is_unknown(number, sent.attempt.job),
            }
        }
    }

    /// The client waits for the answer to an operation that was just sent.
    fn wait(&mut self, number: usize, sent: Sent) {
        self.clients.waiting.insert(sent.op, number);
        self.clients.all[number].phase = Phase::Waiting(Box::new(sent));
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op
    }
}

/// An idempotency key.
fn idempotency_key(number: u64) -> Bytes {
    Bytes::from(format!("once-{number}"))
}

//! A node's part in a transaction of several nodes: validate and vote, install or release, ask when in doubt.
//!
//! ```text
//!  coordinator ── Prepares ──▶ validate each read against versions, staged writes and prepared writes,
//!                              each write against held reads ── Votes ──▶ coordinator
//!                    a Yes ──▶ writes staged, reads held; requests that meet them are parked
//!  coordinator ── Aborts ────▶ released, parked requests go on
//!  journal     ── Settles ───▶ installed at the LSN, released, parked requests go on ── Installed ──▶ journal
//!  timeout     ── past the deadline ── Ask ──▶ journal ── Settles ──▶ as above
//! ```
//!
//! Why it is right: between the vote and the LSN nobody can write what was read. What was staged before the vote and is
//! not in the journal yet makes it a No; what comes later is parked or turned away; and what has an LSN already is in
//! the generations, where a version newer than the snapshot makes it a No. So when the LSN is given, the reads are true
//! there. A node where nothing is written holds just the same, until it is told.
//!
//! `Prepare` never waits: two transactions can't block each other across nodes. Whoever has to wait is a single-node
//! request, which holds nothing. It waits for those who hold now, not for ever new ones: who would read what a parked
//! request writes is turned away, unless the key is reserved, that is, the request waits for the transaction.
//!
//! A version that is in no generation is at most the view's complete LSN. A snapshot below that can't be validated by the
//! generations and is turned away ([`Rival::Floor`]): a checkpoint has ended since the transaction began. The tree could
//! not help, since it does not keep the LSN of a row; the window is a transaction's life in an interval of checkpoints.

use super::{
    NodeEffect, Participant, Phase,
    parked::{Request, keys_of},
    prepared::Entry,
};
use crate::{
    error::{Error, Result, Rival},
    ids::{Epoch, Time, TxnId},
    participant::Operation,
    sequencer::JournalMessage,
    transaction::{Abort, Ask, Asker, Ballot, Prepare, ReadSet, Settle, Vote},
    value::Write,
};
use bytes::Bytes;
use std::collections::VecDeque;

/// The keys that a transaction has read by name or writes.
fn touched<'a>(reads: &'a ReadSet, writes: &'a [Write]) -> impl Iterator<Item = &'a Bytes> {
    let written = writes.iter().map(|write| &write.key);
    reads.keys.iter().chain(written)
}

impl Participant {
    /// When [`Participant::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let (ask, parked) = (self.prepared.next_ask(), self.parked.next_timeout());
        ask.into_iter()
            .chain(parked)
            .chain(self.next_stashed())
            .min()
    }

    /// Whether anything is prepared, reserved or parked, so that [`Participant::handle_timeout`] is to be called.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// How many transactions are prepared.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.prepared.len()
    }

    /// How many requests wait behind transactions.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Asks what became of transactions past their deadline, refuses what has waited too long behind them or for the end of
    /// a recovery, and ends reservations.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<NodeEffect>) {
        if !self.guarded {
            return self.refuse_late_stash(now, out);
        }
        let due = self
            .prepared
            .take_asks(now, now.after(self.options.ask_again));
        let asker = Asker::Node(self.node(), self.incarnation);
        let asks: Vec<_> = due
            .into_iter()
            .map(|(txn, deadline)| Ask {
                txn,
                deadline,
                asker,
            })
            .collect();
        if !asks.is_empty() {
            out.push(NodeEffect::Journal(JournalMessage::Asks(asks)));
        }
        if self.parked.expire(now) {
            self.try_parked_again(now, out);
        }
    }

    pub(super) fn prepare(&mut self, now: Time, prepares: Vec<Prepare>, out: &mut Vec<NodeEffect>) {
        let (node, incarnation) = (self.node(), self.incarnation);
        let votes = prepares.into_iter().map(|prepare| Vote {
            txn: prepare.txn,
            node,
            ballot: match self.try_prepare(now, prepare) {
                Ok(epoch) => Ballot::Yes { incarnation, epoch },
                Err(error) => Ballot::No(error),
            },
        });
        let votes = votes.collect();
        out.push(NodeEffect::Votes(votes));
    }

    /// Prepares, unless it has already. Returns the ownership epoch under which the transaction was validated.
    fn try_prepare(&mut self, now: Time, prepare: Prepare) -> Result<Epoch> {
        let node = self.node();
        match &self.phase {
            Phase::Serving => {}
            Phase::Recovering { .. } => return Err(Error::NodeRestarted { node }),
            Phase::ReadOnly(error) => {
                return Err(error.as_read_only());
            }
            Phase::Down => return Err(self.table.why_down()),
        }
        if prepare.deadline <= now {
            return Err(Error::DeadlineExceeded);
        }
        if self.prepared.is_settled(prepare.txn) {
            let reason = "a node knew already that it had ended";
            return Err(Error::Aborted { reason });
        }
        if let Some(epoch) = self.prepared.epoch_of(prepare.txn) {
            return Ok(epoch);
        }
        if self.ownership.suspects(prepare.epoch) && self.is_prepare_moved(&prepare) {
            return Err(Error::Moved { node });
        }
        let options = &self.options;
        if self.prepared.len() >= options.prepared
            || self.prepared.bytes() >= options.prepared_bytes
            || self.prepared.ranges() >= options.prepared_ranges
        {
            return Err(Error::Overloaded {
                what: "the table of prepared transactions",
            });
        }
        let Prepare {
            txn,
            deadline,
            reads,
            writes,
            epoch: _,
        } = prepare;
        if let Some((key, with)) = self.conflict(&reads, &writes, true) {
            return Err(self.turn_away(now, &reads, &writes, key, with));
        }
        if let Some(key) = self.parked.wanted_in(&reads) {
            // Readers go together: without this, ever new ones would keep a writer out for ever.
            let with = Rival::Write;
            return Err(Error::Conflict { key, with });
        }
        self.unreserve(&reads, &writes);
        let owned_since = self.ownership.since;
        let mut entry = Entry::new(deadline, owned_since, reads, writes);
        // It may stand now where a reservation stood, in the way of whoever is parked there.
        entry.is_in_the_way = self.parked.requests().next().is_some();
        self.prepared.insert(txn, entry);
        self.guarded = true;
        Ok(owned_since)
    }

    /// Reserves what a transaction has touched that meets single-node commits in flight: their chain never ends on a hot
    /// key, and the next attempt shall find it quiet.
    pub(super) fn turn_away(
        &mut self,
        now: Time,
        reads: &ReadSet,
        writes: &[Write],
        key: Bytes,
        with: Rival,
    ) -> Error {
        let is_in_flight = match with {
            Rival::Write => true,
            // It has its LSN, but nobody could have read it yet.
            Rival::Version(lsn) => lsn > self.visible,
            Rival::Transaction(_) | Rival::Floor(_) => false,
        };
        if is_in_flight {
            let (until, limit) = (now.after(self.options.reservation), self.options.reserved);
            for key in touched(reads, writes).chain([&key]) {
                self.parked.reserve(key, until, limit);
            }
            self.guarded = true;
        }
        Error::Conflict { key, with }
    }

    /// The transaction is staged, which is better than reserved. Whether anything was.
    pub(super) fn unreserve(&mut self, reads: &ReadSet, writes: &[Write]) -> bool {
        let mut any = false;
        for key in touched(reads, writes) {
            any |= self.parked.unreserve(key);
        }
        any
    }

    /// What stands against a transaction that has read `reads` and writes `writes`: the key, and whose write or read it is.
    /// A transaction of this node alone (`is_shared` is false) gets its LSN in line with what is staged, so what staged
    /// commits have read does not concern it.
    pub(super) fn conflict(
        &mut self,
        reads: &ReadSet,
        writes: &[Write],
        is_shared: bool,
    ) -> Option<(Bytes, Rival)> {
        if self.staged_commits > self.installed_commits {
            self.index_staged();
        }
        let (staged, prepared) = (self.staged.as_ref(), &self.prepared);
        let view = self.table.view();
        let snapshot = reads.snapshot;
        for key in &reads.keys {
            let rival = if staged.is_some_and(|staged| staged.is_written(key)) {
                Some(Rival::Write)
            } else if let Some(txn) = prepared.writer_of(key) {
                Some(Rival::Transaction(txn))
            } else {
                self.table.key_changed(&self.cache, key, snapshot)
            };
            if let Some(rival) = rival {
                return Some((key.clone(), rival));
            }
        }
        for range in &reads.ranges {
            if let Some(key) = staged.and_then(|staged| staged.written_in(range)) {
                return Some((key.clone(), Rival::Write));
            }
            if let Some((key, txn)) = prepared.writer_in(range) {
                return Some((key.clone(), Rival::Transaction(txn)));
            }
            if let Some(changed) = view.range_changed(range, snapshot) {
                return Some(changed);
            }
        }
        for key in writes.iter().map(|write| &write.key) {
            if let Some(txn) = prepared.reader_of(key) {
                return Some((key.clone(), Rival::Transaction(txn)));
            }
            if is_shared && staged.is_some_and(|staged| staged.is_read(key)) {
                return Some((key.clone(), Rival::Write));
            }
        }
        None
    }

    pub(super) fn abort(&mut self, now: Time, aborts: &[Abort], out: &mut Vec<NodeEffect>) {
        let mut is_free = false;
        for abort in aborts {
            self.prepared.remember(now, abort.txn, abort.deadline);
            if let Some(entry) = self.prepared.remove(abort.txn) {
                is_free |= entry.is_in_the_way;
            }
        }
        self.released(now, is_free, out);
    }

    pub(super) fn settle(&mut self, now: Time, settles: &[Settle], out: &mut Vec<NodeEffect>) {
        let mut is_free = false;
        let mut installed = false;
        for settle in settles {
            // What an earlier life had prepared, the present one has read from the journal.
            if settle.incarnation != self.incarnation {
                continue;
            }
            let Some(entry) = self.prepared.remove(settle.txn) else {
                continue;
            };
            self.prepared.remember(now, settle.txn, entry.deadline);
            is_free |= entry.is_in_the_way;
            if let Some(lsn) = settle.lsn
                && !entry.writes.is_empty()
            {
                assert!(
                    lsn > self.last_lsn,
                    "transaction {} at LSN {lsn} came to node {} behind LSN {}",
                    settle.txn,
                    self.table.node(),
                    self.last_lsn
                );
                for write in entry.writes.iter() {
                    self.table.install(&self.cache, lsn, write);
                }
                self.last_lsn = lsn;
                installed = true;
            }
        }
        if installed {
            out.push(NodeEffect::Journal(JournalMessage::Installed {
                node: self.node(),
                incarnation: self.incarnation,
                through: self.last_lsn,
            }));
        }
        self.released(now, is_free, out);
    }

    fn released(&mut self, now: Time, is_free: bool, out: &mut Vec<NodeEffect>) {
        if is_free {
            self.try_parked_again(now, out);
        } else {
            self.guarded = !(self.prepared.is_empty() && self.parked.is_empty());
        }
    }

    /// Whether the operation meets what a transaction has read or staged, a reservation, or what is parked already.
    pub(super) fn has_to_wait(&mut self, operation: &Operation) -> bool {
        let chains = match operation {
            Operation::Write(_) => false,
            Operation::Add { .. } | Operation::CompareAndSet { .. } => true,
            // It is turned away instead, like any transaction.
            Operation::Transact { .. } => return false,
        };
        keys_of(operation).any(|key| {
            let reader = self.prepared.reader_of(key);
            let in_the_way: Option<TxnId> = reader.or_else(|| {
                let writer = self.prepared.writer_of(key);
                writer.filter(|_| chains)
            });
            if let Some(txn) = in_the_way {
                self.prepared.stand_in_the_way(txn);
            }
            in_the_way.is_some() || self.parked.is_taken(key)
        })
    }

    pub(super) fn park(&mut self, request: Request, out: &mut Vec<NodeEffect>) {
        if self.parked.len() < self.options.parked {
            self.parked.park(request);
        } else {
            let id = request.id;
            let error = Error::Overloaded {
                what: "the queue behind transactions",
            };
            out.push(NodeEffect::Answer(id, Err(error)));
        }
    }

    pub(super) fn try_parked_again(&mut self, now: Time, out: &mut Vec<NodeEffect>) {
        for request in self.parked.take_all() {
            self.request(now, request, out);
        }
        self.guarded = !(self.prepared.is_empty() && self.parked.is_empty());
    }

    /// Gives up everything prepared and reserved, without a word: who has voted Yes did so under a life that ends.
    /// Returns what was parked.
    pub(super) fn give_up_transactions(&mut self) -> VecDeque<Request> {
        self.prepared.clear();
        self.parked.end_reservations();
        self.guarded = false;
        self.parked.take_all()
    }
}

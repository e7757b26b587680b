//! Deciding transactions of several nodes: one record with the next LSN, in the open group of everybody; where nodes live in
//! several directories, in that of each directory that has a part of it.
//!
//! ```text
//!  coordinator ── Decides ──▶ refused: tombstone ─────────────────────────────── Decided(Refused) ──▶ coordinator
//!                             else LSN, record in the open group ── Settle(LSN) ──▶ every participant
//!                                  … forced, installed, visible ─────────────── Decided(Committed) ──▶ coordinator
//!  anybody in doubt ── Asks ─▶ committed: as above. Else tombstone: aborted for ever
//! ```
//!
//! The record in the journal is the commit point; the LSN is given when every participant holds its reads and has staged
//! its writes, and that is the transaction's place among all commits. From then on the reads may be released, and
//! participants are told at once, also where nothing is written: what they do next comes behind.
//!
//! A decision is refused past its deadline, after somebody was told that there is none, if a participant's life is over
//! (then what it had staged and held is gone), if a participant has lost or gained arcs since it voted (then what it has
//! read or writes may be somebody else's), or if the engine is read-only. A refusal is for ever, so a tombstone is laid
//! before it is answered; see [`crate::outcomes`] for how long. The same holds for the life of the lock manager that has
//! voted on fences, see `locks.rs`. A decision that finds no room waits for it in line with
//! the batches, until its deadline.
//!
//! # Invariants
//!
//! - A transaction has one outcome: `by txn` and the tombstones exclude each other, and both are looked at first.
//! - A coordinator is told of a commit when it is visible, so that its client reads its own writes.
//! - Participants are told in the order of LSNs, in line with their own batches.

use super::{Change, JournalEffect, JournalMessage, Sequencer, Waiting};
use crate::{
    directories::DirectorySet,
    error::{Error, Result},
    ids::{DirectoryNo, Lsn, NodeId, RequestId, Time, TxnId},
    journal::record::{self, TxnTag},
    transaction::{Ask, Asker, Decide, Decided, Settle, TxnOutcome, Verdict},
};
use bytes::Bytes;

/// Who waits for a commit to be visible.
#[derive(Debug)]
pub(super) enum Waiter {
    /// The coordinator; the commit is its own transaction's.
    Coordinator(TxnId),
    /// The coordinator; the commit is that of another transaction with the same idempotency key.
    Repeater(TxnId),
    Handle(RequestId),
}

/// At least as many bytes as the record will take.
pub(super) fn record_bytes(decide: &Decide) -> usize {
    let writes = decide.parts.iter().map(|part| &part.writes[..]);
    record::transaction_bytes_bound(decide.idempotency.as_deref(), writes)
}

/// Answers a coordinator; what is said at once goes as one message.
pub(super) fn answer(txn: TxnId, verdict: Verdict, out: &mut Vec<JournalEffect>) {
    let decided = Decided { txn, verdict };
    match out.last_mut() {
        Some(JournalEffect::Decided(batch)) => batch.push(decided),
        _ => out.push(JournalEffect::Decided(vec![decided])),
    }
}

/// Tells a participant; what is told without anything between goes as one message.
fn settle(node: NodeId, settle: Settle, out: &mut Vec<JournalEffect>) {
    for effect in out.iter_mut().rev() {
        match effect {
            JournalEffect::Settle(to, batch) if *to == node => return batch.push(settle),
            // These go to others, or elsewhere: they may be overtaken.
            JournalEffect::Settle(..) | JournalEffect::Decided(_) => {}
            _ => break,
        }
    }
    out.push(JournalEffect::Settle(node, vec![settle]));
}

impl Sequencer {
    pub(super) fn decide(&mut self, now: Time, decides: Vec<Decide>, out: &mut Vec<JournalEffect>) {
        self.outcomes.expire(now, self.visible);
        for decide in decides {
            // A repetition of what waits for room is answered with it.
            if !self.is_waiting(decide.txn) {
                self.admit_in_line(now, Waiting::Decide(decide), out);
            }
        }
    }

    fn is_waiting(&self, txn: TxnId) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|waiting| matches!(waiting, Waiting::Decide(decide) if decide.txn == txn))
    }

    /// Decides, or gives the decision back if it has to wait for room.
    pub(super) fn try_decide(
        &mut self,
        now: Time,
        decide: Decide,
        out: &mut Vec<JournalEffect>,
    ) -> Option<Decide> {
        let txn = decide.txn;
        if let Some(lsn) = self.outcomes.committed(txn) {
            // If it is not visible yet, the first one is still to be answered, and that is the answer.
            if lsn <= self.visible {
                answer(txn, Verdict::Committed(lsn), out);
            } else if let Some(error) = self.unknown() {
                answer(txn, Verdict::Unknown(error), out);
            }
            return None;
        }
        if let Err(error) = self.check(now, &decide) {
            self.refuse_decide(now, &decide, error, out);
            return None;
        }
        let key = decide.idempotency.as_ref();
        if let Some(lsn) = key.and_then(|key| self.outcomes.committed_under(key)) {
            self.outcomes.entomb(txn, decide.deadline);
            if lsn <= self.visible {
                answer(txn, Verdict::Repeated(lsn), out);
            } else {
                self.wait_for(lsn, Waiter::Repeater(txn));
            }
            return None;
        }
        let directories = self.directories_of_parts(&decide);
        match self.make_room(directories, record_bytes(&decide), out) {
            Ok(true) => {
                self.commit(decide, directories, out);
                None
            }
            Ok(false) => Some(decide),
            Err(error) => {
                self.refuse_decide(now, &decide, error, out);
                None
            }
        }
    }

    /// Where its record will be. One that writes nothing is at home.
    pub(super) fn directories_of_parts(&self, decide: &Decide) -> DirectorySet {
        if self.lines.is_one() {
            return DirectorySet::of(DirectoryNo::HOME);
        }
        let written = decide.parts.iter().filter(|part| !part.writes.is_empty());
        let directories = written.map(|part| self.directory_of(part.node));
        directories
            .reduce(DirectorySet::and)
            .unwrap_or(DirectorySet::of(DirectoryNo::HOME))
    }

    /// Whether the decision can be accepted, room apart.
    fn check(&self, now: Time, decide: &Decide) -> Result<()> {
        if self.outcomes.is_entombed(decide.txn) {
            let reason = "somebody in doubt asked for the outcome before it was decided";
            return Err(Error::Aborted { reason });
        }
        if !self.outcomes.is_of_this_opening(decide.txn) {
            let reason = "it began before the engine was opened";
            return Err(Error::Aborted { reason });
        }
        if let Some(error) = self.read_only() {
            return Err(error);
        }
        if decide.deadline <= now {
            return Err(Error::DeadlineExceeded);
        }
        for part in &decide.parts {
            let node = &self.nodes[usize::from(part.node.0)];
            if node.down.is_some() {
                return Err(Error::NodeDown { node: part.node });
            }
            if node.incarnation != part.incarnation {
                return Err(Error::NodeRestarted { node: part.node });
            }
            if node.retired || self.ring.state.owned_since(part.node) != part.epoch {
                return Err(Error::Moved { node: part.node });
            }
        }
        self.locks.check(decide.lock_life)?;
        if !self.outcomes.has_room() {
            let what = "the table of outcomes";
            return Err(Error::Overloaded { what });
        }
        Ok(())
    }

    fn commit(&mut self, decide: Decide, directories: DirectorySet, out: &mut Vec<JournalEffect>) {
        let lsn = self.last_lsn.next();
        self.append(directories, |payload, directory, placement| {
            let parts = decide.parts.iter();
            let here = parts.filter(|part| placement.of(part.node) == directory);
            let here = here.map(|part| (part.node, part.incarnation, &part.writes[..]));
            let key = decide.idempotency.as_deref();
            record::encode_transaction(payload, lsn, decide.txn, key, here);
        });
        if self.watched {
            let writes = decide.parts.iter().flat_map(|part| part.writes.iter());
            self.changes.push_back(Change {
                lsn,
                writes: writes.cloned().collect(),
            });
        }
        if decide.lock_life.is_some() {
            self.locks.note_commit(lsn);
        }
        let tag = TxnTag {
            id: decide.txn,
            idempotency: decide.idempotency,
        };
        self.outcomes.commit(lsn, tag, decide.deadline);
        self.wait_for(lsn, Waiter::Coordinator(decide.txn));
        for part in &decide.parts {
            if !part.writes.is_empty() {
                self.nodes[usize::from(part.node.0)].assigned = lsn;
            }
            let told = Settle {
                txn: decide.txn,
                incarnation: part.incarnation,
                lsn: Some(lsn),
            };
            settle(part.node, told, out);
        }
    }

    /// Refuses for ever: the tombstone comes before the answer.
    pub(super) fn refuse_decide(
        &mut self,
        now: Time,
        decide: &Decide,
        error: Error,
        out: &mut Vec<JournalEffect>,
    ) {
        if decide.deadline > now && self.outcomes.is_of_this_opening(decide.txn) {
            self.outcomes.entomb(decide.txn, decide.deadline);
        }
        answer(decide.txn, Verdict::Refused(error), out);
    }

    /// Tells who is in doubt.
    pub(super) fn ask(&mut self, now: Time, asks: &[Ask], out: &mut Vec<JournalEffect>) {
        self.outcomes.expire(now, self.visible);
        for ask in asks {
            self.ask_one(now, ask, out);
        }
        // What was taken out of the line may have stood before something that fits.
        self.admit_waiting(now, out);
    }

    fn ask_one(&mut self, now: Time, ask: &Ask, out: &mut Vec<JournalEffect>) {
        let txn = ask.txn;
        if let Some(lsn) = self.outcomes.committed(txn) {
            return self.tell_of_commit(ask, lsn, out);
        }
        let waiting = self
            .waiting
            .iter()
            .position(|waiting| matches!(waiting, Waiting::Decide(decide) if decide.txn == txn));
        let can_come =
            ask.deadline > now && self.outcomes.is_of_this_opening(txn) && self.failure.is_none();
        if can_come && !self.outcomes.is_entombed(txn) {
            if !self.outcomes.has_room() {
                if let Asker::Handle(request) = ask.asker {
                    let what = "the table of outcomes";
                    let answer = Err(Error::Overloaded { what });
                    out.push(JournalEffect::Outcome(request, answer));
                }
                return;
            }
            self.outcomes.entomb(txn, ask.deadline);
        }
        let reason = "somebody in doubt asked for the outcome before it was decided";
        let refused = || Verdict::Refused(Error::Aborted { reason });
        if let Some(position) = waiting {
            self.waiting.remove(position);
            if ask.asker != Asker::Coordinator {
                answer(txn, refused(), out);
            }
        }
        match ask.asker {
            Asker::Coordinator => answer(txn, refused(), out),
            Asker::Node(node, incarnation) => {
                let told = Settle {
                    txn,
                    incarnation,
                    lsn: None,
                };
                settle(node, told, out);
            }
            Asker::Locks => out.push(JournalEffect::ResolveFence(txn)),
            Asker::Handle(request) => {
                // What was committed and forgotten is never in doubt any more for who took part in it.
                let outcome = if self.outcomes.may_be_forgotten(txn) {
                    TxnOutcome::Forgotten
                } else {
                    TxnOutcome::Aborted
                };
                out.push(JournalEffect::Outcome(request, Ok(outcome)));
            }
        }
    }

    fn tell_of_commit(&mut self, ask: &Ask, lsn: Lsn, out: &mut Vec<JournalEffect>) {
        let is_visible = lsn <= self.visible;
        match ask.asker {
            Asker::Node(node, incarnation) => {
                let told = Settle {
                    txn: ask.txn,
                    incarnation,
                    lsn: Some(lsn),
                };
                settle(node, told, out);
            }
            // Before it is visible the lock manager keeps the locks, and asks again.
            Asker::Locks if is_visible => out.push(JournalEffect::ResolveFence(ask.txn)),
            Asker::Locks => {}
            Asker::Coordinator if is_visible => answer(ask.txn, Verdict::Committed(lsn), out),
            Asker::Handle(request) if is_visible => {
                let committed = Ok(TxnOutcome::Committed(lsn));
                out.push(JournalEffect::Outcome(request, committed));
            }
            Asker::Coordinator => {
                // Else it will be told when the commit is visible, as it would have been without asking.
                if let Some(error) = self.unknown() {
                    answer(ask.txn, Verdict::Unknown(error), out);
                }
            }
            Asker::Handle(request) => match self.unknown() {
                Some(error) => out.push(JournalEffect::Outcome(request, Err(error))),
                None => self.wait_for(lsn, Waiter::Handle(request)),
            },
        }
    }

    pub(super) fn find_key(
        &mut self,
        request: RequestId,
        key: &Bytes,
        out: &mut Vec<JournalEffect>,
    ) {
        let answer = match self.outcomes.committed_under(key) {
            None => Ok(TxnOutcome::Aborted),
            Some(lsn) if lsn <= self.visible => Ok(TxnOutcome::Committed(lsn)),
            Some(lsn) => match self.unknown() {
                Some(error) => Err(error),
                None => return self.wait_for(lsn, Waiter::Handle(request)),
            },
        };
        out.push(JournalEffect::Outcome(request, answer));
    }

    /// Why what is not visible yet never will be, in this opening.
    fn unknown(&self) -> Option<Error> {
        self.failure.as_ref().map(|error| Error::Unknown {
            reason: error.to_string(),
        })
    }

    fn wait_for(&mut self, lsn: Lsn, waiter: Waiter) {
        // Nearly always the newest; who asks for an older one goes behind those who wait for it.
        let at = match self.waiters.back() {
            Some((newest, _)) if *newest > lsn => {
                self.waiters.partition_point(|(other, _)| *other <= lsn)
            }
            _ => self.waiters.len(),
        };
        self.waiters.insert(at, (lsn, waiter));
    }

    /// Tells everybody who waited for what is visible now.
    pub(super) fn tell_waiters(&mut self, out: &mut Vec<JournalEffect>) {
        let visible = self.visible;
        let told = self.waiters.partition_point(|(lsn, _)| *lsn <= visible);
        for (lsn, waiter) in self.waiters.drain(..told) {
            match waiter {
                Waiter::Coordinator(txn) => answer(txn, Verdict::Committed(lsn), out),
                Waiter::Repeater(txn) => answer(txn, Verdict::Repeated(lsn), out),
                Waiter::Handle(request) => {
                    let committed = Ok(TxnOutcome::Committed(lsn));
                    out.push(JournalEffect::Outcome(request, committed));
                }
            }
        }
    }

    /// The engine is read-only: who waits will have to ask after it was opened again.
    pub(super) fn tell_waiters_unknown(&mut self, error: &Error, out: &mut Vec<JournalEffect>) {
        let unknown = || Error::Unknown {
            reason: error.to_string(),
        };
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            match waiter {
                Waiter::Coordinator(txn) | Waiter::Repeater(txn) => {
                    answer(txn, Verdict::Unknown(unknown()), out);
                }
                Waiter::Handle(request) => {
                    out.push(JournalEffect::Outcome(request, Err(unknown())));
                }
            }
        }
    }
}

impl JournalMessage {
    /// Whether the shell has to send [`JournalMessage::Cut`] behind what is queued: something may be in the open group.
    #[must_use]
    pub fn needs_cut(&self) -> bool {
        matches!(self, Self::Append(_) | Self::Decides(_))
    }
}

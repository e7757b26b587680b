//! What must hold after every step (design, section 9), whatever has gone wrong.
//!
//! | invariant | checked where |
//! |---|---|
//! | all parts of a transaction at one LSN, or none | `model/transactions`, and every read |
//! | one decision a transaction, stable across a crash | `model` (applied once, never after a refusal), [`World::check_outcomes`] |
//! | acknowledged is durable, and present after recovery | `checker/acknowledged`, after every opening |
//! | nothing is read or answered that is not durable | [`World::check`], `model` (answers) |
//! | incarnations were current when the LSN was given | `model/transactions`: what a dead life has promised shows as a false read |
//! | visible ≤ forced | [`World::check`] |
//! | replaying twice is replaying once | every opening compares every record |
//! | strictly serializable | `model/transactions`; from outside `checker/list_append` |
//! | nothing prepared, locked or waiting outlives its deadline | `liveness` |
//! | queues and tables stay bounded | [`World::check`] |
//! | the same seed gives the same trace | the tests of this package |

use crate::{keys::shown, world::World};
use bytes::Bytes;
use mailring_engine::{
    ids::{Lsn, NodeId, RequestId, Time},
    sequencer::{JournalEffect, JournalMessage},
    store::Store,
    transaction::{Ask, Asker, TxnOutcome},
    value::Value,
};
use std::sync::Arc;

impl World {
    /// After every step.
    pub(crate) fn check(&mut self) {
        let process = &self.process;
        let visible = process.visible.load();
        if let Some(journal) = process.journal.as_ref().filter(|_| self.scale.forces) {
            let forced = journal.forced_lsn();
            assert!(
                visible <= forced,
                "LSN {visible} is visible, forced is {forced}"
            );
        }
        self.trace.note(visible.0);
        let bounds = self.scale.participant();
        for node in &process.nodes {
            let machine = &node.machine;
            assert!(
                machine.prepared() <= bounds.prepared && machine.parked() <= bounds.parked,
                "node {} holds {} and parks {}",
                machine.node(),
                machine.prepared(),
                machine.parked()
            );
        }
        let running = process.coordinator.machine.running();
        assert!(
            running <= self.scale.coordinator().running,
            "the coordinator runs {running}"
        );
        let keys = Arc::clone(&self.keys);
        let key = &keys.all()[self.schedule.below(keys.all().len())];
        self.check_read(key.node, &key.bytes);
        if self.schedule.chance(8) {
            for (node, key) in self.keys_of_spaces() {
                self.check_read(node, &key);
            }
        }
    }

    fn check_read(&self, node: NodeId, key: &Bytes) {
        let process = &self.process;
        let (visible, table) = (process.visible.load(), &process.tables[usize::from(node.0)]);
        assert!(
            table.view().complete <= visible,
            "node {node}'s tree is ahead"
        );
        if table.is_down() {
            return;
        }
        let now_ms = self.now_ms();
        let found = table.get(&process.visible, &process.cache, key);
        let found = found.expect("memory reads");
        let found = found.filter(|value| !value.is_expired(now_ms));
        let wanted = self.model.value(key, visible, now_ms);
        assert_eq!(
            found.as_ref(),
            wanted,
            "node {node}, {} at LSN {visible}",
            shown(key)
        );
    }

    pub(crate) fn check_all_reads(&self) {
        for key in self.keys.all() {
            self.check_read(key.node, &key.bytes);
        }
        for (node, key) in self.keys_of_spaces() {
            self.check_read(node, &key);
        }
    }

    /// A run must hold nothing that a crash could take back.
    pub(crate) fn check_run_is_visible(&self, through: Lsn) {
        let visible = self.process.visible.load();
        assert!(
            through <= visible,
            "a run goes to LSN {through}, visible is {visible}"
        );
    }

    pub(crate) fn check_manifest_is_behind_trees(&self, complete: &[Lsn]) {
        for (complete, written) in complete.iter().zip(&self.written) {
            assert!(
                complete <= written,
                "the manifest is ahead: {complete} > {written}"
            );
        }
    }

    /// A tree that was written up to `through` holds exactly the state at `through`.
    pub(crate) fn check_tree(&self, node: NodeId, through: Lsn) {
        let view = self.directory.stores[usize::from(node.0)].view();
        let now_ms = self.now_ms();
        self.check_hidden();
        let keys = self.keys.all().iter();
        let keys = keys.map(|key| (key.node, key.bytes.clone()));
        for (_, key) in keys
            .chain(self.keys_of_spaces())
            .filter(|key| key.0 == node)
        {
            // Of what was dropped or created since the run says little.
            if !self.exists(&key) {
                continue;
            }
            let stored = view.get(&key).expect("memory reads");
            let value = stored.map(|bytes| Value::decode(bytes).expect("is a value"));
            let value = value.filter(|value| !value.is_expired(now_ms));
            assert_eq!(
                value.as_ref(),
                self.model.value(&key, through, now_ms),
                "node {node}'s tree, {} at LSN {through}",
                shown(&key)
            );
        }
    }

    /// After an opening each transaction has the outcome that the journal has recorded.
    pub(crate) fn check_outcomes(&mut self) {
        let txns: Vec<_> = self.model.txns.values().map(|txn| txn.id).collect();
        for txn in txns.into_iter().rev().take(12) {
            let ask = Ask {
                txn,
                deadline: Time(0),
                asker: Asker::Handle(RequestId(0)),
            };
            let mut out = Vec::new();
            let message = JournalMessage::Asks(vec![ask]);
            self.process.sequencer.handle(self.now, message, &mut out);
            let applied = self.model.applied.get(&txn.number()).copied();
            let wanted = applied.map_or(TxnOutcome::Aborted, TxnOutcome::Committed);
            let told = |outcome| [JournalEffect::Outcome(RequestId(0), Ok(outcome))];
            let is_forgotten = self.scale.forgets && out == told(TxnOutcome::Forgotten);
            assert!(
                is_forgotten || out == told(wanted),
                "transaction {txn} after a restart: {out:?}, not {wanted:?}"
            );
        }
    }

    /// Nobody holds, waits or is owed anything.
    pub(crate) fn check_nothing_is_left(&self) {
        let process = &self.process;
        let waiting = &self.model.waiting;
        assert!(waiting.is_empty(), "never answered: {waiting:?}");
        assert!(self.clients.are_idle(), "a client waits for ever");
        let owed = process.coordinator.owes();
        assert!(owed.is_empty(), "the coordinator still owes {owed:?}");
        for (what, left) in [
            ("keyspaces", process.keyspace_requests.len()),
            ("checkpoints", process.checkpoint_requests.len()),
            ("outcomes", process.outcome_requests.len()),
        ] {
            assert_eq!(left, 0, "requests for {what} were never answered");
        }
        for node in &process.nodes {
            let machine = &node.machine;
            let left = (machine.prepared(), machine.parked());
            assert_eq!(left, (0, 0), "node {} holds or parks", machine.node());
            let is_back = !machine.is_recovering() || process.read_only;
            assert!(is_back, "node {} is not back", machine.node());
        }
        let running = match process.coordinator.is_dead {
            true => 0,
            false => process.coordinator.machine.running(),
        };
        assert_eq!(running, 0, "the coordinator has not ended everything");
        let is_idle = process.locks.is_down || process.locks.is_idle();
        // In an engine that is read-only nobody tells a new life of the lock manager that it is known.
        assert!(
            is_idle || process.read_only,
            "a lock is held, waited for, or kept for a transaction"
        );
        if process.read_only {
            // Nothing becomes visible any more.
            return;
        }
        let (visible, last) = (process.visible.load(), process.sequencer.last_lsn());
        assert_eq!(visible, last, "the visible LSN is stuck");
    }
}

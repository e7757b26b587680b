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
//! | every (arc, LSN) has one owner, and commits are at its owner | `model/ownership`, `model` |
//! | nothing is copied to arcs that a node owns | [`World::check_moved_run`] |
//! | a node that is not said to be mixed shows nothing that it does not own | [`World::check_leftovers`] |
//! | a node lives where the last addition that began has asked for, and its store is there | [`World::check_where_nodes_join`], [`World::check_who_is_open`] |
//! | no node is open but those that a record names, and those that the change under way adds | [`World::check_who_is_open`] |
//! | the same seed gives the same trace | the tests of this package |

use crate::{keys::shown, world::World};
use bytes::Bytes;
use mailring_engine::{
    ids::{Lsn, NodeId, RequestId, Time},
    motion::{Heal, Step},
    ring_state::RingState,
    routes::Routed,
    scan::Merge,
    sequencer::{JournalEffect, JournalMessage},
    store::{RunEntry, Store, runs::Direction},
    transaction::{Ask, Asker, TxnOutcome},
    value::Value,
};
use std::{ops::Bound, sync::Arc};

impl World {
    /// After every step.
    pub(crate) fn check(&mut self) {
        let process = &self.process;
        let visible = process.visible.load();
        if self.scale.forces {
            let forced = process.forced(&self.model);
            assert!(
                visible <= forced,
                "LSN {visible} is visible, forced is {forced}"
            );
        }
        self.trace.note(visible.0);
        self.check_who_is_open();
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
        self.check_read(&key.bytes);
        if self.schedule.chance(8) {
            for key in self.keys_of_spaces() {
                self.check_read(&key);
            }
            self.check_leftovers();
        }
    }

    fn check_read(&self, key: &Bytes) {
        let process = &self.process;
        let (visible, table) = self.shown_by(key);
        let node = table.node();
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
            self.check_read(&key.bytes);
        }
        for key in self.keys_of_spaces() {
            self.check_read(&key);
        }
    }

    /// Where scans believe everything that a node shows, it shows nothing that it does not own.
    pub(crate) fn check_leftovers(&self) {
        let visible = self.process.visible.load();
        let routes = &self.process.routes;
        for (place, member) in routes.nodes().iter().enumerate() {
            if routes.is_mixed(place) || member.table.is_down() {
                continue;
            }
            let view = member.table.view();
            let everything = Bound::Unbounded;
            let sources = view.sources(&everything, &everything, visible, Direction::Forward);
            for pair in Merge::new(sources, Direction::Forward, self.now_ms()) {
                let (key, _) = pair.expect("memory reads");
                assert!(
                    !self.exists(&key) || self.routed(&key) == member.node(),
                    "node {} shows {}, which is not its own",
                    member.node(),
                    shown(&key)
                );
            }
        }
    }

    /// Everybody who is open lives where his store is, and is no stranger.
    fn check_who_is_open(&self) {
        let (process, router) = (&self.process, &self.process.router);
        let known = router.machine.ring().slots().len();
        // What has stopped before its end leaves what it has opened, until the engine is opened again.
        let has_stopped = router.is_dead || router.step == Some(Step::Halted);
        for member in process.routes.nodes() {
            let node = member.node();
            let number = usize::from(node.0);
            assert_eq!(
                process.placement.of(node),
                self.directory.homes[number],
                "node {node} is said to live elsewhere than its store is"
            );
            assert!(
                number < known || router.machine.joining().contains(&node) || has_stopped,
                "node {node} is open, and neither a member nor about to become one"
            );
        }
    }

    /// A change begins: the node that it adds lives where it was wanted.
    pub(crate) fn check_where_nodes_join(&self) {
        let process = &self.process;
        for node in process.router.machine.joining() {
            assert_eq!(
                Some(process.placement.of(*node)),
                process.router.wanted,
                "node {node} does not live where it was wanted"
            );
        }
    }

    /// At the end trees hold nothing that is not their node's.
    pub(crate) fn check_trees_are_clean(&self) {
        for member in self.process.routes.nodes() {
            let node = member.node();
            let view = self.directory.stores[usize::from(node.0)].view();
            for pair in view.range(Bound::Unbounded, Bound::Unbounded) {
                let (key, stored) = pair.expect("memory reads");
                let value = Value::decode(stored).expect("is a value");
                if value.is_expired(self.now_ms()) {
                    // A copy leaves it out, and so does whoever reads it; compaction may not have come to it.
                    continue;
                }
                // What was dropped goes as a whole, at the latest when the directory is opened.
                let is_own = !self.exists(&key) || self.routed(&key) == node;
                assert!(is_own, "node {node}'s tree still holds {}", shown(&key));
            }
        }
    }

    /// What moves goes only where it is nobody's business yet, or any more.
    pub(crate) fn check_moved_run(&self, node: NodeId, run: &[RunEntry]) {
        let last = self.model.last();
        for (key, _) in run {
            assert_ne!(
                self.model.ownership.owner(key, last),
                node,
                "the mover writes {} into the tree of its owner",
                shown(key)
            );
        }
    }

    /// Up to where a tree is really complete: a node that has joined has nothing older.
    pub(crate) fn written(&self, node: NodeId) -> Lsn {
        let joined = self.model.ownership.joined(node);
        self.written[usize::from(node.0)].max(joined)
    }

    /// A checkpoint has ended that says so.
    pub(crate) fn check_trees_are_written(&self, lsn: Lsn) {
        let ring = self.process.sequencer.ring();
        let lowest = ring.live().map(|node| self.written(node)).min();
        let lowest = lowest.expect("there are nodes");
        assert!(lsn <= lowest, "LSN {lsn} is not in every tree");
    }

    /// A run must hold nothing that a crash could take back.
    pub(crate) fn check_run_is_visible(&self, through: Lsn) {
        let visible = self.process.visible.load();
        assert!(
            through <= visible,
            "a run goes to LSN {through}, visible is {visible}"
        );
    }

    pub(crate) fn check_manifest_is_behind_trees(&self, complete: &[Lsn], ring: &RingState) {
        for node in ring.live() {
            let complete = &complete[usize::from(node.0)];
            let written = self.written(node);
            assert!(
                *complete <= written,
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
        let keys = keys.map(|key| key.bytes.clone());
        let last = self.model.last();
        for key in keys.chain(self.keys_of_spaces()) {
            // Of what was dropped or created since the run says little, nor of what has come or gone.
            let ownership = &self.model.ownership;
            if !self.exists(&key) || !ownership.is_owned(&key, node, through, last) {
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

    /// Whether a change may wait for the next opening.
    pub(crate) fn may_go_on_moving(&self) -> bool {
        let process = &self.process;
        process.read_only
            || process.router.is_dead
            || (process.is_any_down() && self.scale.heal == Heal::Wait)
            || process.checkpointer_is_dead
    }

    /// Nobody holds, waits or is owed anything.
    pub(crate) fn check_nothing_is_left(&self) {
        let process = &self.process;
        let waiting = &self.model.waiting;
        assert!(waiting.is_empty(), "never answered: {waiting:?}");
        assert!(self.clients.are_idle(), "a client waits for ever");
        let owed = process.coordinator.owes();
        assert!(owed.is_empty(), "the coordinator still owes {owed:?}");
        let is_moving = process.router.machine.is_moving();
        assert!(
            !is_moving || self.may_go_on_moving(),
            "the ring is still changed: {:?}",
            process.router.step
        );
        let asked = &process.router.asked;
        assert!(
            is_moving || asked.is_empty(),
            "{asked:?} never heard what became of their change"
        );
        for (what, left) in [
            ("keyspaces", process.keyspace_requests.len()),
            ("checkpoints", process.checkpoint_requests.len()),
            ("outcomes", process.outcome_requests.len()),
        ] {
            assert_eq!(left, 0, "requests for {what} were never answered");
        }
        for node in process.open_nodes() {
            let machine = &process.nodes[usize::from(node)].machine;
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

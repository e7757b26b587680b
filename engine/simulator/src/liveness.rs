//! The end of a run: the faults stop, and everything must come to its end within its bounds.
//!
//! 1. Nothing goes wrong any more, and clients begin nothing new.
//! 2. By the last deadline and two retries nothing is prepared, waiting or owed, also where a part was given up or the
//!    engine is read-only. That is opened again then: nobody promises that it goes on by itself.
//!    A change of the ring has come to its end, or was undone, or waits for what only an opening brings back.
//! 3. A write on every node, and a transaction over all of them, are acknowledged: faults leave nothing behind.
//! 4. Everything that was acknowledged survives a crash that keeps only what was forced, and another one.
//! 5. The history of the lists is judged.

use crate::{
    checker::list_append,
    keys::{Key, Kind},
    power::PowerLoss,
    workload,
    world::World,
};

/// The longest patience of a client, in steps.
const LONGEST_PATIENCE: u64 = 2_000;
/// How often a participant or a coordinator asks, in steps.
const ASK_AGAIN: u64 = 40;
/// How long a vote may take, in steps.
const VOTES: u64 = 150;
/// What a checkpoint waits before it tries again, in ticks.
const CHECKPOINT_RETRY: u64 = 50;

impl World {
    /// Faults stop: everything is answered, and survives.
    pub(crate) fn finish(&mut self) {
        self.trace
            .line(format_args!("{:>6} == the faults stop", self.steps));
        self.faults.stop();
        self.close_clients();
        self.directory.disks.recover();
        self.process.network.release_all();
        if self.directory.disks.is_any_dead() {
            self.reopen(PowerLoss::TOTAL);
        }
        self.settle();
        self.check_nothing_is_left();
        self.check_all_reads();
        if self.is_lame() {
            self.reopen(PowerLoss::TOTAL);
        }
        self.probe();
        self.check_trees_are_clean();
        self.read_all_lists();
        self.reopen(PowerLoss::TOTAL);
        self.reopen(PowerLoss::TOTAL);
        self.read_all_lists();
        self.locks.check();
        self.check_lists();
    }

    /// # Panics
    ///
    /// Panics if the history of the lists is not strictly serializable.
    pub(crate) fn check_lists(&self) {
        if let Err(anomaly) = list_append::check(&self.clients.history) {
            panic!("the history of the lists is not strictly serializable: {anomaly}");
        }
    }

    /// Whether something was given up that only an opening brings back.
    fn is_lame(&mut self) -> bool {
        // Where groups are not forced at once, a force may have failed of which nobody but a checkpoint has heard.
        let is_broken = !self.scale.forces && self.force_before_manifest().is_err();
        let process = &self.process;
        process.read_only
            || process.is_any_down()
            || process.coordinator.is_dead
            || process.router.is_dead
            || process.locks.is_down
            || process.checkpointer_is_dead
            || is_broken
    }

    /// Lets time pass until nobody waits for anything, or the last bound has passed.
    fn settle(&mut self) {
        let retries = LONGEST_PATIENCE + VOTES + 3 * ASK_AGAIN;
        // Ticks come every tenth of the time between two questions.
        let tick = ASK_AGAIN / 4;
        let steps = retries + (CHECKPOINT_RETRY + 10) * tick;
        let end = self.scale.after(self.now, steps);
        while self.now < end {
            self.drain();
            if self.is_settled() {
                return;
            }
            let nanos = self.scale.steps(tick).as_nanos() as u64;
            self.pass(nanos);
            self.tick_everybody();
            self.all_clients_act();
        }
        self.drain();
    }

    fn drain(&mut self) {
        /// Messages that a run may leave behind: more means that somebody talks to himself for ever.
        const MOST: usize = 20_000;
        let mut delivered = 0;
        while self.deliver() {
            self.steps += 1;
            self.check();
            delivered += 1;
            assert!(delivered < MOST, "the messages never end");
        }
    }

    fn is_settled(&self) -> bool {
        let process = &self.process;
        let open = || process.open_nodes();
        let machines = || open().map(|node| &process.nodes[usize::from(node)].machine);
        self.clients.are_idle()
            && self.model.waiting.is_empty()
            && process.network.is_empty()
            && process.mover.is_idle()
            && (!process.router.machine.is_moving() || self.may_go_on_moving())
            && self.next_wake().is_none()
            && (process.coordinator.is_dead || process.coordinator.machine.running() == 0)
            && process.coordinator.owes().is_empty()
            && process.checkpoint_requests.is_empty()
            && (process.locks.is_down || process.locks.is_idle())
            && process.keyspace_requests.is_empty()
            && process.outcome_requests.is_empty()
            && machines().all(|m| m.prepared() == 0 && m.parked() == 0 && !m.is_recovering())
            && (process.read_only || process.visible.load() == process.sequencer.last_lsn())
    }

    /// What was broken is not broken any more: everybody takes writes.
    fn probe(&mut self) {
        let before = self.model.acknowledged.len();
        let wanted = self.begin_probes();
        let end = self.scale.after(self.now, 2 * LONGEST_PATIENCE);
        while self.now < end && !(self.clients.are_idle() && self.is_settled()) {
            self.clients_act();
            self.deliver();
            self.steps += 1;
            let nanos = self.scale.step / 2;
            self.pass(nanos);
            if self.steps.is_multiple_of(10) {
                self.tick_everybody();
            }
            self.check();
        }
        let acknowledged = self.model.acknowledged.len() - before;
        assert!(
            acknowledged >= wanted,
            "of {wanted} writes after the faults {acknowledged} were acknowledged"
        );
        self.check_nothing_is_left();
    }

    /// Everything that the lists hold, read as by a client who does nothing else. All nodes are up.
    pub(crate) fn read_all_lists(&mut self) {
        let process = &self.process;
        let read = |key: &Key| {
            let (_, table) = self.shown_by(&key.bytes);
            let value = table.get(&process.visible, &process.cache, &key.bytes);
            workload::list(value.expect("memory reads").as_ref())
        };
        let lists = Vec::from_iter(self.keys.of(Kind::List).map(read));
        let at = process.visible.load();
        self.clients.history.reads(at, (0..).zip(lists));
    }
}

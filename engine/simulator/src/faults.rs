//! What can go wrong, each kind with a switch and a rate drawn from the seed: some runs are calm, some savage.
//!
//! A rate is the chance at each opportunity, in millionths: at each message that may get lost, at each step of an actor,
//! at each step of the world. Switching a kind off ([`Faults::switch_off`]) changes nothing of what the others draw.

use crate::{
    dice::{Dice, Stream},
    report::{Counter, counters},
};

counters! {
    /// A kind of fault.
    pub enum Fault {
        /// A message between coordinator, node and journal that may get lost gets lost.
        MessageLost = "message lost",
        /// A message comes twice, where the protocol says that it may.
        MessageTwice = "message twice",
        /// Everything from one sender to one receiver is late.
        MessageLate = "messages late",
        /// A receiver gets messages of several senders in another order than that in which they were sent.
        MessageReordered = "messages reordered between senders",
        /// What a node has said to others before it died reaches them when it lives again, behind what it says then.
        OldLifeLate = "old incarnations answer late",
        /// The receiver's mailbox has no room for a client's request.
        MailboxFull = "mailbox full",
        /// The answer to a client gets lost: its future was dropped.
        ReplyLost = "reply lost",
        /// A node's handler panics.
        NodePanics = "node panics",
        /// A node panics again at the message that it is given once more.
        RestartPanics = "node panics while restarting",
        /// A node panics again as soon as it may go on, and so on.
        RestartLoops = "node panics as soon as it goes on",
        /// The coordinator's handler panics.
        CoordinatorPanics = "coordinator panics",
        /// The checkpointer's handler panics.
        CheckpointerPanics = "checkpointer panics",
        /// The lock manager's handler panics.
        LockManagerPanics = "lock manager panics",
        /// The journal's handler panics: a crash of the directory.
        JournalPanics = "journal panics",
        /// A part dies while its effects are being carried out, where that is the end of it.
        EffectPanics = "panics among effects",
        /// The supervisor panics twice at the report of a panic.
        SupervisorPanics = "supervisor panics",
        /// The thread that rebuilds a node panics.
        RebuildPanics = "rebuilding panics",
        /// The thread that writes runs and manifests panics behind its work.
        WorkerPanics = "worker panics",
        /// An actor does nothing for a long time.
        ActorStalls = "actor stalls",
        /// An actor does nothing for longer than any lease.
        LongStalls = "actor stalls longer than a lease",
        /// Time goes on by far more than usual.
        TimeJumps = "time jumps",
        /// Nobody's timer fires for a long time.
        TimersStarve = "timers starve",
        /// A write to the journal's disk fails.
        WriteFails = "write fails",
        /// A force fails, and the next one would succeed.
        ForceFails = "force fails",
        /// All forces fail until the machine starts again.
        ForcesFail = "forces fail for good",
        /// The machine dies within a step of the disk.
        DiskDies = "disk dies within a step",
        /// The disk has no room.
        DiskFull = "disk full",
        /// The disk takes its time.
        DiskSlow = "disk slow",
        /// A tree can't take a run.
        RunFails = "run fails",
        /// The process dies; the machine with it, if it forgets anything, which each of the next five may bring.
        Crash = "crash",
        /// Nothing that was not forced survives the crash.
        UnforcedLost = "crash loses what was not forced",
        /// Unforced writes to a file survive the crash up to some write.
        UnforcedPartly = "crash keeps the first of the unforced",
        /// An unforced write survives the crash, and one before it does not.
        UnforcedReordered = "crash keeps the unforced in another order",
        /// Some sectors of a write survive the crash.
        TornWrite = "crash tears a write",
        /// Entries of the directory that were not synced are lost in the crash.
        EntryLost = "crash loses unsynced directory entries",
        /// The machine dies again while it recovers.
        CrashInRecovery = "crash in recovery",
        /// And once more.
        CrashInRecoveryTwice = "crash in recovery, twice",
        /// A copy of the directory, with one bit flipped anywhere, is opened.
        BitFlips = "bit flips in the middle",
        /// A copy of the directory, with one bit flipped in the newest segment, is opened.
        TailFlips = "bit flips at the tail",
        /// A client walks away from what it has begun.
        ClientVanishes = "client vanishes",
        /// A client that has not heard what became of a request with an idempotency key does it again. No fault either.
        ClientRetries = "client tries again after an unknown outcome",
        /// Somebody adds, removes or re-weights a node. No fault, but everything else must stand it.
        RingChanges = "ring changes",
        /// Somebody cancels the change of the ring.
        ChangeCancelled = "change of the ring cancelled",
        /// The router's handler panics.
        RouterPanics = "router panics",
        /// The mover's thread panics.
        MoverPanics = "mover panics",
        /// A node's store can't be made.
        StoreFails = "store can't be made",
        /// One of several directories is an older copy of itself, in a copy of all that is opened.
        OlderCopies = "older copy of a directory",
    }
}

/// How bad a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// Few kinds of fault, and those seldom.
    Calm,
    /// Half of the kinds.
    Ordinary,
    /// Nearly everything, all the time.
    Savage,
}

/// The chance of a kind at each opportunity in an ordinary run, in millionths.
fn usual(fault: Fault) -> u32 {
    match fault {
        Fault::MessageLost => 15_000,
        Fault::MessageTwice => 20_000,
        Fault::MessageLate => 8_000,
        Fault::MessageReordered => 400_000,
        Fault::OldLifeLate => 700_000,
        Fault::MailboxFull => 10_000,
        Fault::ReplyLost => 10_000,
        Fault::NodePanics => 6_000,
        Fault::RestartPanics => 50_000,
        Fault::RestartLoops => 60_000,
        Fault::CoordinatorPanics => 6_000,
        Fault::CheckpointerPanics => 10_000,
        Fault::LockManagerPanics => 10_000,
        Fault::JournalPanics => 250,
        Fault::EffectPanics => 500,
        Fault::SupervisorPanics => 20_000,
        Fault::RebuildPanics => 20_000,
        Fault::WorkerPanics => 10_000,
        Fault::ActorStalls => 1_200,
        Fault::LongStalls => 250,
        Fault::TimeJumps => 600,
        Fault::TimersStarve => 600,
        Fault::WriteFails => 300,
        Fault::ForceFails => 500,
        Fault::ForcesFail => 150,
        Fault::DiskDies => 400,
        Fault::DiskFull => 1_000,
        Fault::DiskSlow => 1_500,
        Fault::RunFails => 50_000,
        Fault::Crash => 1_000,
        Fault::UnforcedPartly => 300_000,
        Fault::UnforcedLost | Fault::UnforcedReordered => 500_000,
        Fault::TornWrite | Fault::EntryLost => 500_000,
        Fault::CrashInRecovery => 200_000,
        Fault::CrashInRecoveryTwice => 300_000,
        Fault::BitFlips | Fault::TailFlips => 120_000,
        Fault::ClientVanishes => 6_000,
        Fault::ClientRetries => 700_000,
        Fault::RingChanges => 4_000,
        Fault::ChangeCancelled => 600,
        Fault::RouterPanics => 6_000,
        Fault::MoverPanics => 10_000,
        Fault::StoreFails => 30_000,
        Fault::OlderCopies => 300_000,
    }
}

/// The faults of one run.
#[derive(Debug)]
pub struct Faults {
    dice: Dice,
    temper: Temper,
    rates: [u32; Fault::COUNT],
    /// Off once the run is to end well.
    are_on: bool,
}

impl Faults {
    /// Draws the switches and rates of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, Stream::Faults);
        let temper = match dice.below(10) {
            0..3 => Temper::Calm,
            3..8 => Temper::Ordinary,
            _ => Temper::Savage,
        };
        let mut rates = [0; Fault::COUNT];
        let mut of_several = Dice::new(seed, Stream::DirectoryFaults);
        for fault in Fault::ALL {
            let dice = match fault {
                // What runs of one directory never meet leaves them as they are without it.
                Fault::OlderCopies => &mut of_several,
                _ => &mut dice,
            };
            // Drawn for each kind, so that all streams stay in step.
            let (is_on, factor) = (dice.below(100), dice.within(20..500));
            let (share, scale) = match temper {
                Temper::Calm => (25, 50),
                Temper::Ordinary => (60, 100),
                Temper::Savage => (90, 250),
            };
            if is_on < share {
                let rate = u64::from(usual(*fault)) * factor * scale / 20_000;
                rates[fault.index()] = rate.min(700_000) as u32;
            }
        }
        // A run in which nothing at all restarts or crashes shows little.
        let crash = &mut rates[Fault::Crash.index()];
        *crash = (*crash).max(700);
        Self {
            dice,
            temper,
            rates,
            are_on: true,
        }
    }

    /// How bad the run is.
    #[must_use]
    pub fn temper(&self) -> Temper {
        self.temper
    }

    /// Leaves a kind out.
    pub fn switch_off(&mut self, fault: Fault) {
        self.rates[fault.index()] = 0;
    }

    /// Makes a kind `factor` times as frequent as it usually is, for a scenario that needs it.
    pub fn favour(&mut self, fault: Fault, factor: u32) {
        self.rates[fault.index()] = usual(fault).saturating_mul(factor).min(500_000);
    }

    /// From here on nothing goes wrong any more.
    pub fn stop(&mut self) {
        self.are_on = false;
    }

    /// Whether a kind may strike at all in this run.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.rates[fault.index()] > 0
    }

    /// Whether faults still happen.
    #[must_use]
    pub fn are_on(&self) -> bool {
        self.are_on
    }

    /// Whether the fault strikes at this opportunity.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let rate = self.rates[fault.index()];
        self.are_on && rate > 0 && self.dice.within(0..1_000_000) < u64::from(rate)
    }

    /// The chance behind the faults.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_on_in_some_runs_and_off_in_others() {
        let runs: Vec<_> = (0..200).map(Faults::new).collect();
        for fault in Fault::ALL {
            let on = runs.iter().filter(|run| run.rates[fault.index()] > 0);
            let on = on.count();
            let always = *fault == Fault::Crash;
            assert!(on > 60 && (always || on < 190), "{}: {on}", fault.name());
        }
    }

    #[test]
    fn stopped_faults_strike_no_more() {
        let mut faults = Faults::new(3);
        faults.favour(Fault::Crash, 1_000_000);
        let strikes =
            |faults: &mut Faults| (0..100).filter(|_| faults.strikes(Fault::Crash)).count();
        assert!(strikes(&mut faults) > 20);
        faults.stop();
        assert_eq!(strikes(&mut faults), 0);
    }
}

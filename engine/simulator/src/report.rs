//! What a run has gone through, and what many runs have together: faults by kind, states that were seen, medians.

use crate::faults::Fault;
use std::fmt;

/// Things that are counted, each with a name for people.
pub trait Counter: Copy {
    /// Its place in a table.
    fn index(self) -> usize;
    /// Its name.
    fn name(self) -> &'static str;
}

/// Declares an enum of things that are counted.
macro_rules! counters {
    ($(#[$doc:meta])* pub enum $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
        }

        impl $crate::report::Counter for $name {
            fn index(self) -> usize {
                self as usize
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}
pub(crate) use counters;

counters! {
    /// Something that a run has seen.
    pub enum Seen {
        /// A message was delivered.
        Message = "messages delivered",
        /// A commit got its LSN.
        Commit = "commits",
        /// A write was acknowledged.
        Acknowledged = "writes acknowledged",
        /// A transaction of several nodes was decided.
        Decided = "transactions of several nodes",
        /// A transaction of one node was committed.
        Alone = "transactions of one node",
        /// A request was refused, with nothing written.
        Refused = "requests refused",
        /// A request was refused because the deadline had passed.
        Late = "deadlines passed",
        /// A request was refused because the disk was full.
        FullDisk = "refused for lack of space",
        /// The outcome of a request was unknown.
        Unknown = "outcomes unknown",
        /// A transaction was refused because of somebody else's.
        Conflict = "conflicts",
        /// A transaction was rolled back for another reason.
        RolledBack = "roll-backs",
        /// A node began a new life.
        Restart = "node restarts",
        /// A node was given up.
        Down = "nodes down",
        /// The coordinator went on after a panic.
        CoordinatorRestart = "coordinator restarts",
        /// The directory was opened again after a crash.
        Reopened = "reopenings",
        /// The directory was closed in order and opened again.
        ClosedWell = "closed in order",
        /// The engine turned read-only.
        ReadOnly = "times read-only",
        /// A run was written to a tree.
        Run = "runs written",
        /// A node had restarted since the mark.
        RunLeftOut = "runs left out",
        /// A manifest was saved.
        Saved = "checkpoints saved",
        /// A snapshot over all nodes was read.
        Snapshot = "snapshots read",
        /// Several groups were forced together.
        ForcedTogether = "groups forced together",
        /// A participant asked the journal for an outcome.
        AskedInDoubt = "questions in doubt",
        /// A handle was told "committed".
        ToldCommitted = "outcomes told: committed",
        /// A handle was told "aborted".
        ToldAborted = "outcomes told: aborted",
        /// A handle was told that the outcome is not kept any more.
        Forgotten = "outcomes told: forgotten",
        /// A crash took commits that were never said to be durable.
        LostUnforced = "crashes that took unforced commits",
        /// A transaction got the outcome of an earlier one with its key.
        Repeated = "repeated idempotency keys",
        /// A request waited behind a transaction.
        Parked = "requests parked",
        /// A directory with a flipped bit was refused.
        DamageFound = "flipped bits refused",
        /// A flipped bit at the end was taken for a torn tail.
        DamageCut = "flipped bits cut with the tail",
        /// A flipped bit hit nothing that is read.
        DamageHarmless = "flipped bits that hit nothing",
        /// A value had expired when it was read.
        Expired = "values expired",
        /// A transfer was carried out.
        Transfer = "transfers",
        /// A transaction of lists was carried out.
        ListTransaction = "list transactions",
        /// A range was read.
        Scan = "scans",
        /// A lock was granted.
        Granted = "locks granted",
        /// A lease has run out.
        LeaseLost = "leases lost",
        /// A deadlock was broken.
        Deadlock = "deadlocks broken",
        /// A handle has found what was committed under its idempotency key.
        KeyFound = "idempotency keys found",
        /// A transaction has locked a key ahead.
        KeyLocked = "keys locked ahead",
        /// A deadlock was broken at the expense of a request for a key.
        KeyDeadlock = "deadlocks broken at a key",
        /// A deadlock went over keys and named locks.
        MixedDeadlock = "deadlocks over keys and locks",
        /// A transaction under locks of keys was committed.
        Turn = "turns taken",
        /// A transaction read on at a newer snapshot behind a grant.
        MovedOn = "snapshots moved on",
        /// Something was written in a keyspace that may be dropped.
        SpaceCommit = "commits in keyspaces that come and go",
        /// A drop was visible.
        Dropped = "keyspaces dropped",
        /// An operation was refused because its keyspace was dropped.
        KeyspaceGone = "refused for their keyspace",
        /// The lock manager went on after a panic.
        LockManagerRestart = "lock manager restarts",
        /// A transaction under a fence got its LSN.
        Fenced = "commits under fences",
        /// A token was refused.
        StaleFence = "stale tokens refused",
        /// The lock manager asked what became of a transaction.
        LocksInDoubt = "questions of the lock manager",
        /// A watcher has heard of a commit.
        Watched = "commits watched",
        /// A change of the ring has begun.
        RingBegan = "changes of the ring begun",
        /// Arcs of a source belong to others.
        RingCut = "cut-overs",
        /// A change of the ring came to its end.
        RingDone = "changes of the ring completed",
        /// A change of the ring was undone.
        RingUndone = "changes of the ring undone",
        /// A change was turned round behind a Cut.
        RingTurned = "changes of the ring turned round",
        /// A change of the ring was refused.
        RingRefused = "changes of the ring refused",
        /// An opening found a change of the ring.
        RingResumed = "changes of the ring gone on with",
        /// A piece of work of the mover failed.
        MoverFailed = "failures of the mover",
        /// A run was copied, followed or swept.
        MoverRun = "runs of the mover",
        /// A hand-over was broken off.
        HandOverVoid = "hand-overs broken off",
        /// Something was routed by an older ring.
        Moved = "requests told to go elsewhere",
        /// A reader began anew for other routes.
        Rerouted = "snapshots taken anew for other routes",
        /// A reader was routed by the ring before the last.
        RoutedBefore = "readers below a cut",
        /// A scan has left out what was not its node's.
        MixedScan = "scans of mixed nodes",
        /// A crash while a change was beginning.
        CrashBeginning = "crashes while a change begins",
        /// A crash while targets were swept.
        CrashSweeping = "crashes while targets are swept",
        /// A crash while a source was copied.
        CrashCopying = "crashes while arcs are copied",
        /// A crash while a source was followed.
        CrashFollowing = "crashes while arcs are followed",
        /// A crash while a source handed over.
        CrashHandingOver = "crashes while arcs are handed over",
        /// A crash while a Cut was on its way.
        CrashCutting = "crashes while arcs are cut over",
        /// A crash while sources were cleaned.
        CrashCleaning = "crashes while sources are cleaned",
        /// A crash while the end was on its way.
        CrashEnding = "crashes while a change ends",
        /// A crash while the mover waited.
        CrashWaiting = "crashes while a change waits",
        /// The engine has several directories, or will have.
        Several = "runs with several directories",
        /// A commit was written in several directories.
        Spread = "commits over several directories",
        /// A crash has left something of a directory that is behind what another one has lost.
        Hole = "crashes that left a hole between directories",
        /// A directory was added.
        DirectoryAdded = "directories added",
        /// A node that is to come was given a directory.
        Placed = "nodes placed in a directory",
        /// A node was closed whose change did not begin.
        Stranger = "nodes closed that never began",
        /// An older copy of a directory was refused.
        OldCopyFound = "older copies of a directory refused",
        /// An older copy of a directory lacked what nothing else tells of.
        OldCopyUnproven = "older copies of which nothing tells",
        /// A copy of a directory was not older.
        OldCopyHarmless = "copies of a directory that had everything",
    }
}

/// What one run has gone through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Faults that struck, by kind.
    pub faults: [u64; Fault::COUNT],
    /// What was seen, by kind.
    pub seen: [u64; Seen::COUNT],
    /// The number of the trace.
    pub trace: u64,
    /// Simulated nanoseconds.
    pub nanos: u64,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            faults: [0; Fault::COUNT],
            seen: [0; Seen::COUNT],
            trace: 0,
            nanos: 0,
        }
    }
}

impl Summary {
    /// How often it was seen.
    #[must_use]
    pub fn of(&self, seen: Seen) -> u64 {
        self.seen[seen.index()]
    }

    /// How often it struck.
    #[must_use]
    pub fn of_fault(&self, fault: Fault) -> u64 {
        self.faults[fault.index()]
    }

    /// Counts something.
    pub(crate) fn count(&mut self, seen: Seen, times: u64) {
        self.seen[seen.index()] += times;
    }

    /// Restarts of parts and of the whole.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.of(Seen::Restart)
            + self.of(Seen::CoordinatorRestart)
            + self.of(Seen::LockManagerRestart)
            + self.of(Seen::Reopened)
    }
}

/// What many runs have gone through.
#[derive(Debug, Clone, Default)]
pub struct Report {
    total: Summary,
    messages: Vec<u32>,
    commits: Vec<u32>,
    restarts: Vec<u32>,
}

impl Report {
    /// Takes in one run.
    pub fn add(&mut self, run: &Summary) {
        let sum = |totals: &mut [u64], parts: &[u64]| {
            for (total, part) in totals.iter_mut().zip(parts) {
                *total += part;
            }
        };
        sum(&mut self.total.faults, &run.faults);
        sum(&mut self.total.seen, &run.seen);
        self.total.nanos += run.nanos;
        let narrow = |figure: u64| u32::try_from(figure).unwrap_or(u32::MAX);
        self.messages.push(narrow(run.of(Seen::Message)));
        self.commits.push(narrow(run.of(Seen::Commit)));
        self.restarts.push(narrow(run.restarts()));
    }

    /// Takes in what another thread has gathered.
    pub fn merge(&mut self, mut other: Self) {
        for (total, part) in self.total.faults.iter_mut().zip(other.total.faults) {
            *total += part;
        }
        for (total, part) in self.total.seen.iter_mut().zip(other.total.seen) {
            *total += part;
        }
        self.total.nanos += other.total.nanos;
        self.messages.append(&mut other.messages);
        self.commits.append(&mut other.commits);
        self.restarts.append(&mut other.restarts);
    }

    /// How many runs there were.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.messages.len()
    }

    /// The sums.
    #[must_use]
    pub fn total(&self) -> &Summary {
        &self.total
    }

    /// The medians of a run: messages, commits, restarts and crashes.
    #[must_use]
    pub fn medians(&self) -> [u32; 3] {
        [&self.messages, &self.commits, &self.restarts].map(|figures| {
            let mut sorted = figures.clone();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).copied().unwrap_or(0)
        })
    }

    /// Kinds of faults and states that no run has met.
    #[must_use]
    pub fn never_met(&self) -> Vec<&'static str> {
        let faults = Fault::ALL
            .iter()
            .filter(|kind| self.total.of_fault(**kind) == 0);
        let seen = Seen::ALL.iter().filter(|kind| self.total.of(**kind) == 0);
        faults
            .map(|kind| kind.name())
            .chain(seen.map(|kind| kind.name()))
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.total.nanos as f64 / 3.6e12;
        writeln!(f, "{} seeds, {hours:.2} simulated hours", self.runs())?;
        let [messages, commits, restarts] = self.medians();
        writeln!(
            f,
            "median of a seed: {messages} messages, {commits} commits, {restarts} restarts and crashes"
        )?;
        writeln!(f, "faults:")?;
        for kind in Fault::ALL {
            writeln!(f, "{:>12}  {}", self.total.of_fault(*kind), kind.name())?;
        }
        writeln!(f, "seen:")?;
        for kind in Seen::ALL {
            writeln!(f, "{:>12}  {}", self.total.of(*kind), kind.name())?;
        }
        Ok(())
    }
}

//! What a run is spoilt by on purpose, and what it has gone through. Each mutation is found within 400 seeds, most
//! of them within 70.

/// What is done wrong between a machine and its surroundings, to see that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The visible LSN is published when a group is written, not when it is forced.
    VisibleEarly,
    /// A node is told that what it has just installed is visible.
    AnswerEarly,
    /// A fence is answered before it is durable.
    FenceEarly,
    /// Groups are not forced.
    NoForce,
    /// The message in whose handling a node died is lost.
    LoseToldMessage,
    /// The worker writes a node's run though the node has restarted since the mark.
    IgnoreBorder,
    /// The mark counts as reached at once.
    MarkEarly,
    /// The manifest says that every node is complete up to the mark.
    SaveAhead,
    /// The journal releases everything.
    ReleaseAll,
    /// A report of installed commits gets lost now and then.
    LoseInstalled,
    /// A batch is handed to the journal twice.
    RepeatAppend,
    /// A tree is told to be complete that was not written.
    SkipIngest,
    /// A node releases what a transaction has read when it votes, not when the LSN is given.
    ReleaseReadsAtVote,
    /// The same, only where the transaction writes nothing: the usual "read-only participants leave at the vote".
    ReleaseReadersAtVote,
    /// The journal does not look at the lives that voted.
    SkipIncarnationCheck,
    /// Ranges that were read are neither validated nor held.
    SkipRangeValidation,
    /// A transaction may prepare a write to what another one has read and holds.
    WriteIntoHeldRead,
    /// Who asks what became of a transaction is told "aborted", and the journal does not remember that it said so.
    ForgetTombstone,
    /// The lock manager votes Yes on a token that is not, or not any more, the holder's.
    AcceptStaleToken,
    /// The lock manager hands a lock on when it has voted.
    HandOnAtVote,
    /// The lock manager is told that a transaction has ended when its LSN is given, not when that is visible.
    HandOnAtLsn,
    /// The journal does not look at the life of the lock manager that voted.
    IgnoreLockLife,
    /// The lock manager goes on after a panic without waiting for the journal.
    GrantUnannounced,
}

impl Mutation {
    pub(crate) const ALL: [Self; 23] = [
        Self::VisibleEarly,
        Self::AnswerEarly,
        Self::FenceEarly,
        Self::NoForce,
        Self::LoseToldMessage,
        Self::IgnoreBorder,
        Self::MarkEarly,
        Self::SaveAhead,
        Self::ReleaseAll,
        Self::LoseInstalled,
        Self::RepeatAppend,
        Self::SkipIngest,
        Self::ReleaseReadsAtVote,
        Self::ReleaseReadersAtVote,
        Self::SkipIncarnationCheck,
        Self::SkipRangeValidation,
        Self::WriteIntoHeldRead,
        Self::ForgetTombstone,
        Self::AcceptStaleToken,
        Self::HandOnAtVote,
        Self::HandOnAtLsn,
        Self::IgnoreLockLife,
        Self::GrantUnannounced,
    ];
}

/// What a run has gone through.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Coverage {
    pub(crate) messages: u64,
    pub(crate) commits: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) panics: u64,
    pub(crate) down: u64,
    pub(crate) crashes: u64,
    pub(crate) read_only: u64,
    pub(crate) disk_full: u64,
    pub(crate) runs: u64,
    pub(crate) runs_left_out: u64,
    pub(crate) snapshots: u64,
    pub(crate) forced_together: u64,
    pub(crate) transactions: u64,
    pub(crate) conflicts: u64,
    pub(crate) rolled_back: u64,
    pub(crate) asked_in_doubt: u64,
    pub(crate) told_committed: u64,
    pub(crate) told_aborted: u64,
    pub(crate) repeated_keys: u64,
    pub(crate) coordinator_panics: u64,
    pub(crate) parked: u64,
    pub(crate) grants: u64,
    pub(crate) fenced_commits: u64,
    pub(crate) stale_fences: u64,
    pub(crate) locks_in_doubt: u64,
    pub(crate) lock_panics: u64,
}

impl Coverage {
    fn figures(&self) -> [u64; 28] {
        [
            self.messages,
            self.commits,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.panics,
            self.down,
            self.crashes,
            self.read_only,
            self.disk_full,
            self.runs,
            self.runs_left_out,
            self.snapshots,
            self.forced_together,
            self.transactions,
            self.conflicts,
            self.rolled_back,
            self.asked_in_doubt,
            self.told_committed,
            self.told_aborted,
            self.repeated_keys,
            self.coordinator_panics,
            self.parked,
            self.grants,
            self.fenced_commits,
            self.stale_fences,
            self.locks_in_doubt,
            self.lock_panics,
        ]
    }

    pub(crate) fn covers_everything(&self) -> bool {
        self.figures().iter().all(|figure| *figure > 0)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.commits += other.commits;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.panics += other.panics;
        self.down += other.down;
        self.crashes += other.crashes;
        self.read_only += other.read_only;
        self.disk_full += other.disk_full;
        self.runs += other.runs;
        self.runs_left_out += other.runs_left_out;
        self.snapshots += other.snapshots;
        self.forced_together += other.forced_together;
        self.transactions += other.transactions;
        self.conflicts += other.conflicts;
        self.rolled_back += other.rolled_back;
        self.asked_in_doubt += other.asked_in_doubt;
        self.told_committed += other.told_committed;
        self.told_aborted += other.told_aborted;
        self.repeated_keys += other.repeated_keys;
        self.coordinator_panics += other.coordinator_panics;
        self.parked += other.parked;
        self.grants += other.grants;
        self.fenced_commits += other.fenced_commits;
        self.stale_fences += other.stale_fences;
        self.locks_in_doubt += other.locks_in_doubt;
        self.lock_panics += other.lock_panics;
    }
}

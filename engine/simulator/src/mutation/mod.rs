//! The checker is checked: each of these spoils the protocol in one place, and must be found.
//!
//! A mutation sits in the simulator's shells and disks, never in the engine: a machine is told other things than it was
//! sent, or its effects are carried out otherwise. `tests/mutations.rs` says within how many seeds each is found.

mod directories;
pub(crate) mod sloppy;
mod tamper;

use crate::faults::Fault;
pub(crate) use tamper::Tampered;

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is done wrong on purpose.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[$doc])* $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

mutations! {
    /// The visible LSN is published when a group is written, not when it is forced.
    VisibleEarly,
    /// A node is told that what it has just installed is visible: it answers before the force.
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
    /// A node is not asked for its vote, and counts as a Yes.
    SkipVote,
    /// A No counts as a Yes.
    TakeNoForYes,
    /// What a transaction of several nodes has read is not validated.
    SkipReadValidation,
    /// What a transaction of one node has read is not validated.
    SkipValidationAlone,
    /// The directory is not forced when files are created, renamed or removed.
    SkipDirectorySync,
    /// A run is not synced when its tree is said to be complete.
    SkipTreeSync,
    /// What recovery has read it does not force again.
    RecoveryDoesNotForce,
    /// The manifest of a checkpoint lacks the outcomes of transactions.
    ForgetOutcomes,
    /// Readers see what is installed, forced or not.
    ReadInstalled,
    /// A reader does not notice that a tree has passed its snapshot.
    IgnoreTreeAhead,
    /// A transaction of lists leaves out the ranges that it has scanned.
    ForgetScans,
    /// The checkpointer is not told that a node was given up.
    HideNodeDown,
    /// The manifest of a checkpoint lacks the idempotency keys of transactions.
    ForgetKeys,
    /// The journal counts as installed what it has just resolved.
    InstalledEarly,
    /// A restarted node's generation is not rebuilt from the journal.
    SkipRebuild,
    /// Participants never ask what became of a transaction.
    NeverAsk,
    /// A force that has failed is tried again and believed, though the page cache lies.
    BelieveSecondForce,
    /// A run goes to its tree before the journal is forced up to there, where groups are not forced at once.
    RunBeforeForce,
    /// The manifest of a checkpoint is saved though the journal could not be forced.
    ManifestBeforeForce,
    /// The lock manager votes Yes on a token that is not, or not any more, the holder's.
    AcceptStaleToken,
    /// The lock manager hands a lock on when it has voted.
    HandOnAtVote,
    /// The lock manager is told that a transaction has ended when its LSN is given, not when that is visible.
    HandOnAtLsn,
    /// The journal does not look at the life of the lock manager that voted.
    IgnoreLockLife,
    /// The lock manager goes on after a panic without waiting for the journal, nor for leases.
    GrantUnannounced,
    /// The lock manager grants again after a panic though earlier leases may run.
    IgnoreOldLeases,
    /// What lies behind a damaged place in the journal is gone when recovery looks for proofs there.
    LoseProofs,
    /// Keys that transactions lock ahead are locked in a mode that does not exclude.
    ShareKeys,
    /// A transaction lets go of its keys when it sends its commit.
    ReleaseKeysEarly,
    /// A transaction that was granted a key goes on reading at its old snapshot.
    ReadBeforeGrant,
    /// A client that walks away while it waits for a key leaves its request behind.
    LeaveKeys,
    /// In a deadlock the oldest is refused.
    RefuseOldest,
    /// Who is refused a key for a deadlock does not hear of it.
    ForgetVictim,
    /// Handles of a keyspace do not hear that it was dropped.
    ForgetDrop,
    /// The manifest of a checkpoint forgets which numbers of keyspaces were given.
    ReuseNumbers,
    /// Trees do not hide the keys of a dropped keyspace.
    KeepDropped,
    /// A watcher is told of what was written, visible or not.
    WatchUnforced,
    /// What is forced in one directory is visible, whatever of it and before it is not forced in others.
    ForceOneDirectory,
    /// Recovery takes what there is, behind holes too.
    IgnoreHoles,
    /// Recovery takes what is not behind the end of the first journal, and asks no other.
    FollowHome,
    /// Recovery does not look whether a record is in the other directories that it names.
    IgnoreMissingParts,
    /// Recovery does not look at what directories tell of each other.
    IgnoreStamps,
    /// The manifest is not told what is void.
    ForgetVoids,
    /// Who reads a journal while the engine runs is shown what is void.
    ShowVoids,
    /// The first LSN that was lost is given again.
    ReuseVoidLsns,
    /// Who reads a node's commits reads them in the first directory.
    ReadAtHome,
    /// Each journal is released up to where the trees in its own directory are complete.
    ReleaseByDirectory,
    /// Before a tree or the manifest is written only the first journal is forced.
    ForceHomeBeforeTrees,
    /// The manifest says of groups that they are forced which are only on their way.
    StampAhead,
    /// Where a node shall live that is to come is not saved.
    ForgetPlacement,
    /// A node stays open that was opened for a change which did not begin.
    KeepStrangers,
    /// A node that is added lives in its turn, wherever it is wanted.
    PlaceInTurn,
    /// Handles are routed by a new ring as soon as its Cut has an LSN: before it is forced, and before the target knows.
    PublishEarly,
    /// A source gives its word at once, whatever it has staged or prepared: who owns a key is decided by what arrives first.
    HandOverUndrained,
    /// A source gives its word while transactions are prepared, and the journal takes votes of a stale ring epoch.
    ForgetPrepared,
    /// What was committed behind the copy is not followed.
    CopyUnfollowed,
    /// What was committed between the last round and the hand-over is not followed.
    SkipLastFollow,
    /// A copy says that it is as new as the last LSN given.
    CopyAhead,
    /// Removals are not followed.
    ForgetRemovals,
    /// What moves does not expire any more.
    ForgetExpiry,
    /// The manifest of a checkpoint lacks the idempotency keys of transactions while arcs move.
    ForgetKeysInMotion,
    /// A source is swept without a checkpoint past its Cut, below which its generations still hold what has moved.
    SweepUnpersisted,
    /// A source is not swept.
    SkipSweep,
    /// A source is taken to show its swept tree at once.
    CleanUnforgotten,
    /// A copy that is made again goes over what the one before has left.
    CopyOnLeftovers,
    /// A target does not hear which arcs it gains.
    HideGained,
    /// A change that is cancelled while its Cut is on its way lets the source go on, as if nothing were cut.
    ThawBehindCut,
    /// Nodes take what was routed by a ring of before.
    IgnoreEpoch,
    /// Scans believe all that nodes show while arcs move.
    BelieveMixed,
    /// A reader below a Cut is routed by the ring behind it.
    ReadAheadOfCut,
    /// A reader does not notice that other routes were published while he pinned his views.
    KeepOldRoutes,
}

impl Mutation {
    /// The mutation of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|mutation| format!("{mutation:?}") == name)
    }

    /// Faults without which it can't show, and how many times as frequent as usual they are made: a scenario that is
    /// biased towards what needs one schedule in thousands.
    pub(crate) fn scenario(self) -> &'static [(Fault, u32)] {
        match self {
            // A node that is told twice would prepare under two numbers: see `tamper`.
            mutation if mutation.is_of_promises() => &[(Fault::MessageTwice, 0)],
            Self::HideNodeDown => &[(Fault::NodePanics, 4), (Fault::RestartPanics, 10)],
            Self::SkipIncarnationCheck => &[(Fault::NodePanics, 3)],
            Self::IgnoreLockLife | Self::GrantUnannounced => &[
                (Fault::LockManagerPanics, 8),
                (Fault::MessageLate, 8),
                (Fault::Crash, 0),
            ],
            Self::LoseProofs => &[(Fault::TailFlips, 5), (Fault::Crash, 3)],
            Self::ShowVoids | Self::ReadAtHome => &[(Fault::NodePanics, 4), (Fault::Crash, 3)],
            Self::IgnoreHoles | Self::FollowHome | Self::IgnoreMissingParts => {
                // They look at no stamps either, which is another mutation.
                &[
                    (Fault::BitFlips, 0),
                    (Fault::TailFlips, 0),
                    (Fault::OlderCopies, 0),
                    (Fault::Crash, 3),
                ]
            }
            Self::StampAhead => &[(Fault::Crash, 3)],
            Self::ForgetPlacement | Self::PlaceInTurn => &[(Fault::RingChanges, 8)],
            Self::KeepStrangers => &[(Fault::RingChanges, 8), (Fault::ChangeCancelled, 8)],
            Self::IgnoreStamps => &[
                (Fault::TailFlips, 5),
                (Fault::OlderCopies, 5),
                (Fault::Crash, 3),
            ],
            Self::LeaveKeys => &[(Fault::ClientVanishes, 10)],
            Self::ForgetVictim => &[(Fault::Crash, 0)],
            Self::HandOnAtVote | Self::HandOnAtLsn => &[(Fault::MessageLate, 3)],
            Self::IgnoreOldLeases => &[(Fault::LockManagerPanics, 4)],
            Self::BelieveSecondForce | Self::ManifestBeforeForce => &[(Fault::ForceFails, 10)],
            // A node is told late of a checkpoint that ended before the copy.
            Self::KeepOldRoutes => &[
                (Fault::RingChanges, 8),
                (Fault::MessageLate, 8),
                (Fault::MessageReordered, 1),
                (Fault::Crash, 0),
            ],
            mutation if mutation.is_of_motion() => &[(Fault::RingChanges, 8), (Fault::Crash, 0)],
            Self::NeverAsk => &[(Fault::CoordinatorPanics, 3), (Fault::MessageLost, 2)],
            _ => &[],
        }
    }

    /// Whether it shows where many transactions meet.
    pub(crate) fn wants_contention(self) -> bool {
        self.is_of_promises()
            || matches!(
                self,
                Self::HandOnAtVote
                    | Self::HandOnAtLsn
                    | Self::IgnoreLockLife
                    | Self::GrantUnannounced
            )
    }

    /// Whether it is about keys that are locked ahead.
    pub(crate) fn is_of_keys(self) -> bool {
        matches!(
            self,
            Self::ShareKeys
                | Self::ReleaseKeysEarly
                | Self::ReadBeforeGrant
                | Self::LeaveKeys
                | Self::RefuseOldest
                | Self::ForgetVictim
        )
    }

    /// Whether it is about several directories.
    pub(crate) fn is_of_directories(self) -> bool {
        (Self::ForceOneDirectory as usize..Self::PublishEarly as usize).contains(&(self as usize))
    }

    /// Whether it shows only where groups are not forced at once.
    pub(crate) fn wants_unforced(self) -> bool {
        self == Self::ForceHomeBeforeTrees
    }

    /// Whether it is in how several journals are read together.
    pub(crate) fn is_of_recovery(self) -> bool {
        matches!(
            self,
            Self::IgnoreHoles | Self::FollowHome | Self::IgnoreMissingParts | Self::IgnoreStamps
        )
    }

    /// Whether it is about arcs that move.
    pub(crate) fn is_of_motion(self) -> bool {
        self as usize >= Self::PublishEarly as usize
    }

    /// Whether it changes what nodes promise.
    pub(crate) fn is_of_promises(self) -> bool {
        matches!(
            self,
            Self::ReleaseReadsAtVote | Self::ReleaseReadersAtVote | Self::WriteIntoHeldRead
        )
    }
}

//! Mailboxes without actors: who has sent what to whom, and what is delivered next.
//!
//! Messages of one sender to one receiver arrive in order. Who receives next is drawn; it gets what has waited longest, as from
//! a mailbox, or, where messages are reordered between senders, that of a sender who is drawn. That is more than actix
//! allows, where a mailbox keeps causes before effects, so whatever depends on such an order by chance is found.
//! Three orders are relied upon and kept: what the checkpointer and a rebuilding thread send to a node shares one lane (the
//! journal is released only behind what a node was told), so does everything that goes to the thread that writes, and a
//! `Freeze` stays behind what the checkpointer had sent before (a node told of a finished run takes the tree as it is by
//! then, which must not hold the next one).
//!
//! A lane may be held until some time: its messages are late, and those of others overtake them.

use crate::dice::Dice;
use mailring_engine::{
    Error, Result,
    checkpoint::{Catalogue, CheckpointMessage},
    coordinator::CoordinatorMessage,
    ids::{DirectoryNo, Incarnation, KeyspaceId, Lsn, NodeId, RequestId, Time},
    journal::Spare,
    keyspaces::Keyspaces,
    locks::LockMessage,
    motion::{Intent, Job as MoverJob, MotionMessage},
    participant::NodeMessage,
    ring_state::RingState,
    sequencer::{GroupWrite, JournalMessage},
    store::RunEntry,
    transaction::Asker,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    Client(u8),
    Node(u16),
    Journal,
    Coordinator,
    Checkpointer,
    Locks,
    Supervisor,
    /// The thread that writes and forces in a directory.
    Io(DirectoryNo),
    /// The thread that prepares segments there.
    Segments(DirectoryNo),
    /// The thread that writes runs and manifests.
    Worker,
    /// The thread that compacts.
    Compactor,
    /// The thread that rebuilds a node.
    Rebuilder(u16),
    Router,
    /// The thread that moves arcs.
    Mover,
    /// The clock.
    Clock,
}

/// From whom to whom; messages of a lane arrive in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) from: Party,
    pub(crate) to: Party,
}

impl Lane {
    pub(crate) fn new(from: Party, to: Party) -> Self {
        let from = match (from, to) {
            (Party::Rebuilder(_), Party::Node(_)) => Party::Checkpointer,
            (_, Party::Io(_)) => Party::Journal,
            _ => from,
        };
        Self { from, to }
    }

    pub(crate) fn number(self) -> u64 {
        let number = |party| match party {
            Party::Journal => 1,
            Party::Coordinator => 2,
            Party::Checkpointer => 3,
            Party::Supervisor => 4,
            Party::Io(DirectoryNo::HOME) => 5,
            Party::Segments(DirectoryNo::HOME) => 6,
            Party::Io(directory) => 20 + u64::from(directory.0),
            Party::Segments(directory) => 40 + u64::from(directory.0),
            Party::Worker => 7,
            Party::Compactor => 8,
            Party::Clock => 9,
            Party::Locks => 10,
            Party::Router => 11,
            Party::Mover => 12,
            Party::Client(number) => 100 + u64::from(number),
            Party::Node(number) => 1_000 + u64::from(number),
            Party::Rebuilder(number) => 2_000 + u64::from(number),
        };
        number(self.from) * 10_000 + number(self.to)
    }
}

/// What is under way.
#[derive(Debug)]
pub(crate) enum Message {
    Node(NodeMessage),
    Resume,
    Rebuild(Incarnation, Lsn, Lsn),
    Journal(JournalMessage),
    Write(GroupWrite),
    ForceNow,
    AddSpare(Result<Spare2>),
    ReportSpare,
    Release(Lsn),
    Segment(u64),
    Checkpoint(CheckpointMessage),
    ReadOnly(Error),
    Job(Job),
    Compact,
    /// By the mover, who does not wait for it.
    CompactUnasked,
    /// A handle has the rows of a dropped keyspace taken away.
    Hide(KeyspaceId),
    Coordinator(CoordinatorMessage),
    Locks(LockMessage),
    Panicked(NodeId),
    Broken(NodeId),
    /// A handle wants the ring changed, and perhaps a node that is added to live in a directory of its choice.
    ChangeRing(Intent, Option<DirectoryNo>),
    /// A handle wants the change undone.
    CancelChange,
    Motion(MotionMessage),
    /// Handles are to be routed by this; it was made by the record at this LSN.
    Publish(Lsn, Arc<RingState>),
    /// The stores of nodes that join are there, with what is visible by then.
    Opened(RequestId, Result<Vec<(NodeId, Lsn)>>),
    /// The router lets the journal keep what is above this.
    Hold(RequestId, Option<Lsn>),
    /// The router wants a checkpoint, and to know how far these nodes show their trees to be complete.
    CheckpointFor(RequestId, Vec<NodeId>),
    OpenNodes(RequestId, Vec<NodeId>, Option<DirectoryNo>),
    Move(RequestId, MoverJob),
    /// The mover goes on with its work.
    MoveOn(RequestId),
    /// What became of the mover's run.
    Ingested(Result<()>),
    /// Whether it is noted where a node lives that joins.
    Placed(Result<()>),
}

/// A spare segment, which has no readable form.
pub(crate) struct Spare2(pub(crate) Spare);

impl std::fmt::Debug for Spare2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spare")
    }
}

/// What the checkpointer's thread is asked to do.
#[derive(Debug)]
pub(crate) enum Job {
    Write {
        through: Lsn,
        nodes: Vec<NodeId>,
        keyspaces: Keyspaces,
    },
    Save {
        complete: Vec<Lsn>,
        through: Lsn,
        catalogue: Catalogue,
    },
    /// From the mover: a run of what moves.
    Ingest { node: NodeId, run: Vec<RunEntry> },
    /// From the mover: a node that joins shall live there.
    Place {
        node: NodeId,
        directory: DirectoryNo,
    },
}

/// All mailboxes.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Each with its place among all that were sent.
    lanes: BTreeMap<Lane, VecDeque<(u64, Message)>>,
    sent: u64,
    held: BTreeMap<Lane, Time>,
    stalled: BTreeMap<Party, Time>,
    ready: Vec<Lane>,
    /// A lane that is seldom drawn in this run.
    slow: Option<Lane>,
    /// What the router and the mover send and get is delivered before most else.
    hurries_motion: bool,
    /// What nodes had said before they died, and nobody has heard yet.
    of_old_lives: BTreeMap<Party, Vec<(Lane, Message)>>,
}

/// What is delivered.
pub(crate) struct Delivery {
    pub(crate) lane: Lane,
    pub(crate) message: Message,
    /// Whether the receiver had an older message, of another sender.
    pub(crate) overtakes: bool,
}

impl Network {
    pub(crate) fn slow_down(&mut self, lane: Lane) {
        self.slow = Some(lane);
    }

    pub(crate) fn send(&mut self, lane: Lane, message: Message) {
        let lane = match lane.from {
            Party::Checkpointer if self.has_moved(lane.to) => Lane::new(Party::Journal, lane.to),
            _ => lane,
        };
        if let Message::Node(NodeMessage::Freeze(_)) = message {
            let before = self.lanes.remove(&Lane::new(Party::Checkpointer, lane.to));
            let queue = self.lanes.entry(lane).or_default();
            queue.extend(before.into_iter().flatten());
        }
        self.sent += 1;
        let queue = self.lanes.entry(lane).or_default();
        queue.push_back((self.sent, message));
    }

    /// Takes away what a sender has said to others and may come late, until [`Network::bring_back`]; whether there is any.
    pub(crate) fn put_aside(&mut self, from: Party) -> bool {
        let mut late = Vec::new();
        for (lane, queue) in self.lanes.iter_mut().filter(|(lane, _)| lane.from == from) {
            let may_be_late = |message: &Message| {
                let tolerance = message.tolerance();
                tolerance.is_some_and(|it| it.may_get_lost && it.may_come_twice)
            };
            for (place, message) in std::mem::take(queue) {
                match may_be_late(&message) {
                    true => late.push((*lane, message)),
                    false => queue.push_back((place, message)),
                }
            }
        }
        self.lanes.retain(|_, queue| !queue.is_empty());
        let is_any = !late.is_empty();
        self.of_old_lives.entry(from).or_default().extend(late);
        is_any
    }

    /// What was put aside is on its way again, behind what was said since.
    pub(crate) fn bring_back(&mut self, from: Party) {
        for (lane, message) in self.of_old_lives.remove(&from).unwrap_or_default() {
            self.send(lane, message);
        }
    }

    /// Changes of the ring go on fast.
    pub(crate) fn hurry_motion(&mut self) {
        self.hurries_motion = true;
    }

    /// Whether the journal's lane to a node has what the checkpointer had sent before a `Freeze`: what follows must stay
    /// behind that.
    fn has_moved(&self, node: Party) -> bool {
        let lane = self.lanes.get(&Lane::new(Party::Journal, node));
        let moved = |message: &Message| {
            matches!(
                message,
                Message::Node(NodeMessage::Flushed { .. } | NodeMessage::Rebuilt { .. })
            )
        };
        lane.is_some_and(|queue| queue.iter().any(|(_, message)| moved(message)))
    }

    /// What is in the lane does not arrive before `until`.
    pub(crate) fn hold(&mut self, lane: Lane, until: Time) {
        self.held.insert(lane, until);
    }

    /// The party receives nothing before `until`.
    pub(crate) fn stall(&mut self, party: Party, until: Time) {
        self.stalled.insert(party, until);
    }

    /// Nothing is late any more.
    pub(crate) fn release_all(&mut self) {
        self.held.clear();
        self.stalled.clear();
        self.slow = None;
    }

    pub(crate) fn is_stalled(&self, party: Party, now: Time) -> bool {
        self.stalled.get(&party).is_some_and(|until| *until > now)
    }

    /// Takes the next message, if any may arrive now; it may overtake those of other senders.
    pub(crate) fn next(&mut self, now: Time, dice: &mut Dice, reorders: bool) -> Option<Delivery> {
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        self.held.retain(|_, until| *until > now);
        self.stalled.retain(|_, until| *until > now);
        let is_free = self.held.is_empty() && self.stalled.is_empty();
        ready.extend(self.lanes.keys().filter(|lane| {
            is_free || !(self.held.contains_key(lane) || self.stalled.contains_key(&lane.to))
        }));
        if self.hurries_motion && dice.chance(3) {
            let is_of_motion = |party| matches!(party, Party::Router | Party::Mover);
            let hurried = |lane: &Lane| is_of_motion(lane.from) || is_of_motion(lane.to);
            if ready.iter().any(hurried) {
                ready.retain(hurried);
            }
        }
        let drawn = (!ready.is_empty()).then(|| {
            let lane = dice.pick(&ready);
            match Some(lane) == self.slow && !dice.chance(8) {
                true => dice.pick(&ready),
                false => lane,
            }
        });
        let drawn = drawn.map(|lane| {
            let to_it = ready.iter().filter(|other| other.to == lane.to);
            let oldest = to_it.min_by_key(|other| self.lanes[*other].front().map(|first| first.0));
            (lane, *oldest.expect("this one is ready"))
        });
        self.ready = ready;
        let (drawn, oldest) = drawn?;
        let lane = if reorders { drawn } else { oldest };
        Some(Delivery {
            lane,
            message: self.pop(lane).expect("no lane is empty"),
            overtakes: lane != oldest,
        })
    }

    fn pop(&mut self, lane: Lane) -> Option<Message> {
        let queue = self.lanes.get_mut(&lane)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.lanes.remove(&lane);
        }
        first.map(|(_, message)| message)
    }

    /// Takes the first message of a lane if `wanted` says so.
    pub(crate) fn pop_if(
        &mut self,
        lane: Lane,
        wanted: impl FnOnce(&Message) -> bool,
    ) -> Option<Message> {
        let (_, first) = self.lanes.get(&lane)?.front()?;
        wanted(first).then(|| self.pop(lane)).flatten()
    }

    /// Throws away what is in a lane.
    pub(crate) fn clear(&mut self, lane: Lane) {
        self.lanes.remove(&lane);
    }

    /// Messages on their way to a party.
    pub(crate) fn waiting_for(&self, to: Party) -> usize {
        let lanes = self.lanes.iter().filter(|(lane, _)| lane.to == to);
        lanes.map(|(_, queue)| queue.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

/// What may happen to a message without harm, because whoever waits for it asks again or rolls back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) may_get_lost: bool,
    pub(crate) may_come_twice: bool,
}

impl Message {
    /// Whether the message may get lost, and then whether it may also come twice. The actors of one process lose no
    /// message to each other; but a coordinator or a node that dies loses what it was about to say, and everybody must
    /// be able to live with that.
    pub(crate) fn tolerance(&self) -> Option<Tolerance> {
        let any = Some(Tolerance {
            may_get_lost: true,
            may_come_twice: true,
        });
        match self {
            Self::Node(NodeMessage::Prepares(_) | NodeMessage::Aborts(_))
            | Self::Coordinator(CoordinatorMessage::Votes(_) | CoordinatorMessage::FenceVotes(_))
            | Self::Locks(
                LockMessage::PrepareFence { .. }
                | LockMessage::ResolveFence { .. }
                | LockMessage::LifeKnown { .. },
            )
            | Self::Journal(JournalMessage::LockLife { .. })
            | Self::Journal(JournalMessage::Decides(_)) => any,
            // The journal tells once, and forgets an outcome some time behind the deadline.
            Self::Coordinator(CoordinatorMessage::Decided(_)) => Some(Tolerance {
                may_get_lost: false,
                may_come_twice: true,
            }),
            // Only what says "aborted" may get lost: a commit is told in the order of LSNs.
            Self::Node(NodeMessage::Settles(settles)) => settles
                .iter()
                .all(|settle| settle.lsn.is_none())
                .then_some(Tolerance {
                    may_get_lost: true,
                    may_come_twice: true,
                }),
            Self::Journal(JournalMessage::Asks(asks)) => asks
                .iter()
                .all(|ask| !matches!(ask.asker, Asker::Handle(_)))
                .then_some(Tolerance {
                    may_get_lost: true,
                    may_come_twice: true,
                }),
            _ => None,
        }
    }

    /// The same message once more.
    pub(crate) fn copy(&self) -> Option<Self> {
        match self {
            Self::Node(message) => Some(Self::Node(message.clone())),
            Self::Coordinator(message) => Some(Self::Coordinator(message.clone())),
            Self::Journal(message) => Some(Self::Journal(message.clone())),
            Self::Locks(message) => Some(Self::Locks(message.clone())),
            _ => None,
        }
    }
}

//! The shell of the lock manager, clients who lock, and what a fence must keep out.
//!
//! Every grant is exclusive, so the whole check is: whoever is granted a lock sees everything that was committed under
//! its earlier tokens, and nothing is committed under them any more (Kleppmann's paused holder).

use crate::{
    actors::{Channel, Message},
    coverage::Mutation,
    model::Model,
    world::World,
};
use mailring_engine::{
    Error,
    coordinator::CoordinatorMessage,
    ids::{Incarnation, Lsn, RequestId, Time, TxnId},
    locks::{
        Acquire, FIRST_LOCK_LIFE, FencingToken, LockEffect, LockLimits, LockMessage, LockTable,
        Mode, Resource, Session, SessionId, Wait,
    },
    sequencer::JournalMessage,
    transaction::{Ask, Asker, Ballot, Fence, FenceVote},
};
use rand::Rng;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const LOCKS: [&str; 2] = ["a", "b"];
const SESSIONS: u64 = 4;
const MAX_LEASE: u64 = 400;

pub(crate) struct LockShell {
    pub(crate) table: LockTable,
    /// The life that the journal has been told of.
    pub(crate) known_life: Incarnation,
    /// Which lock a request is for.
    requests: BTreeMap<RequestId, Arc<str>>,
    last_lease: Time,
}

impl LockShell {
    pub(crate) fn new(opening: u64) -> Self {
        Self {
            table: LockTable::new(limits(), opening, Time(0)),
            known_life: FIRST_LOCK_LIFE,
            requests: BTreeMap::new(),
            last_lease: Time(0),
        }
    }
}

fn limits() -> LockLimits {
    LockLimits {
        max_lease: Duration::from_nanos(MAX_LEASE),
        ask_again: Duration::from_nanos(30),
        ..LockLimits::default()
    }
}

/// A grant, and what could be read when it was given.
pub(crate) struct Granted {
    fence: Fence,
    visible: Lsn,
}

impl World {
    pub(crate) fn lock_client(&mut self) {
        let locks = &self.process.locks;
        let some = self.random.random_range(0..locks.requests.len() + 1);
        let message = match locks.requests.keys().nth(some).copied() {
            Some(id) if self.chance(3) => LockMessage::Release { id },
            Some(id) if self.chance(4) => LockMessage::Renew { id },
            _ => self.acquire(),
        };
        self.send(Channel::ClientToLocks, Message::Locks(message));
    }

    fn acquire(&mut self) -> LockMessage {
        let name: Arc<str> = LOCKS[self.random.random_range(0..LOCKS.len())].into();
        self.next_op += 1;
        let id = RequestId(self.next_op);
        let number = self.random.random_range(0..SESSIONS);
        self.process.locks.requests.insert(id, Arc::clone(&name));
        LockMessage::Acquire(Acquire {
            id,
            session: Session {
                begun: Time(number),
                id: SessionId::Application(number),
            },
            resource: Resource::Lock(name),
            mode: Mode::Exclusive,
            wait: Wait::Until(Time(self.now.0 + 200)),
            lease: Some(Duration::from_nanos(
                self.random.random_range(50..MAX_LEASE),
            )),
        })
    }

    /// What a transaction carries: now and then the token of a holder, or of one who was.
    pub(crate) fn fences(&mut self) -> Vec<Fence> {
        let recent = self.model.grants.iter().rev().take(4);
        let recent: Vec<Fence> = recent.map(|granted| granted.fence.clone()).collect();
        let count = match self.random.random_range(0..12) {
            0..5 => 1,
            5 => 2,
            _ => 0,
        };
        let mut fences = Vec::new();
        while fences.len() < count.min(recent.len()) {
            // The newest ones are what has a chance.
            let at = match self.chance(4) {
                true => self.random.random_range(0..recent.len()),
                false => fences.len(),
            };
            fences.push(recent[at].clone());
        }
        fences
    }

    pub(crate) fn lock_step(&mut self, message: LockMessage) {
        let dies = self.faults && self.chance(40);
        let now = self.now;
        let mut out = Vec::new();
        if dies && self.chance(2) {
            return self.locks_die(&message);
        }
        let prepared = match &message {
            LockMessage::PrepareFence { txn, .. } => Some(*txn),
            _ => None,
        };
        let table = &mut self.process.locks.table;
        table.handle(now, message.clone(), &mut out);
        if let Some(txn) = prepared
            && self.mutation == Some(Mutation::HandOnAtVote)
        {
            table.handle(now, LockMessage::ResolveFence { txn }, &mut out);
        }
        match dies {
            true => self.locks_die(&message),
            false => self.carry_out_locks(out),
        }
    }

    pub(crate) fn tick_locks(&mut self) {
        let mut out = Vec::new();
        self.process.locks.table.handle_timeout(self.now, &mut out);
        self.carry_out_locks(out);
    }

    /// A handler has panicked: the table is given up.
    fn locks_die(&mut self, message: &LockMessage) {
        self.coverage.lock_panics += 1;
        // A fence must not depend on leases: they may be waited for or not.
        let waits = self.chance(2);
        let shell = &mut self.process.locks;
        let grants_from = if waits { shell.last_lease } else { Time(0) };
        shell.table = shell.table.next_life(grants_from);
        if let LockMessage::PrepareFence { txn, .. } = message {
            let ballot = Ballot::No(Error::LockLost);
            self.vote_on_fences(*txn, ballot);
        }
        self.tick_locks();
    }

    fn vote_on_fences(&mut self, txn: TxnId, ballot: Ballot) {
        let votes = CoordinatorMessage::FenceVotes(vec![FenceVote { txn, ballot }]);
        self.send(Channel::LocksToCoordinator, Message::Coordinator(votes));
    }

    fn carry_out_locks(&mut self, effects: Vec<LockEffect>) {
        for effect in effects {
            match effect {
                LockEffect::Held { id, token, expires } => self.granted(id, token, expires),
                LockEffect::Refused { id, .. } | LockEffect::Lost { id } => {
                    self.process.locks.requests.remove(&id);
                }
                LockEffect::Converted { .. } | LockEffect::RenewalDue { .. } => {}
                LockEffect::Vote(FenceVote { txn, mut ballot }) => {
                    if let Ballot::No(Error::StaleFence { .. }) = ballot {
                        self.coverage.stale_fences += 1;
                        if self.mutated(Mutation::AcceptStaleToken) {
                            let incarnation = self.process.locks.table.life();
                            ballot = Ballot::Yes { incarnation };
                        }
                    }
                    self.vote_on_fences(txn, ballot);
                }
                LockEffect::Ask { txn, deadline } => {
                    self.coverage.locks_in_doubt += 1;
                    let asker = Asker::Locks;
                    let ask = Ask {
                        txn,
                        deadline,
                        asker,
                    };
                    let message = Message::Journal(JournalMessage::Asks(vec![ask]));
                    self.send(Channel::LocksToJournal, message);
                }
                LockEffect::Announce { life } => {
                    let message = Message::Journal(JournalMessage::LockLife { life });
                    self.send(Channel::LocksToJournal, message);
                    if self.mutated(Mutation::GrantUnannounced) {
                        self.tell_locks(LockMessage::LifeKnown { life });
                    }
                }
            }
        }
    }

    pub(crate) fn tell_locks(&mut self, message: LockMessage) {
        self.send(Channel::JournalToLocks, Message::Locks(message));
    }

    fn granted(&mut self, id: RequestId, token: FencingToken, expires: Time) {
        let shell = &mut self.process.locks;
        shell.last_lease = shell.last_lease.max(expires);
        let lock = Arc::clone(&shell.requests[&id]);
        let fence = Fence { lock, token };
        let known = self.model.grants.iter().rev();
        let earlier = known
            .map(|granted| &granted.fence)
            .find(|other| other.lock == fence.lock);
        if earlier == Some(&fence) {
            return;
        }
        assert!(
            earlier.is_none_or(|earlier| earlier.token < token),
            "{earlier:?}, and then {fence:?}"
        );
        let visible = self.process.visible.load();
        self.note(token.0);
        self.model.grants.push(Granted { fence, visible });
        self.model.check_all_fences();
    }

    pub(crate) fn check_locks_are_free(&self) {
        let table = &self.process.locks.table;
        assert_eq!(table.fenced(), 0, "a lock is kept for a transaction");
        assert_eq!(table.sizes(), [0; 3], "a lock is held or waited for");
    }
}

impl Model {
    /// Checks a commit against the grants.
    pub(crate) fn check_fences(&self, number: u64, fences: &[Fence], lsn: Lsn) {
        for fence in fences {
            let of_lock = |other: &&Granted| other.fence.lock == fence.lock;
            for later in self.grants.iter().filter(of_lock) {
                assert!(
                    later.fence.token <= fence.token || lsn <= later.visible,
                    "txn {number} is at LSN {lsn} under {fence:?}, but {:?} was granted at LSN {}",
                    later.fence,
                    later.visible
                );
            }
        }
    }

    fn check_all_fences(&self) {
        for (number, lsn) in &self.applied {
            if let Some(txn) = self.txns.get(number) {
                self.check_fences(*number, &txn.fences, *lsn);
            }
        }
    }
}

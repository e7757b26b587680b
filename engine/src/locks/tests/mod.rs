//! The lock table, message by message: each step asserts everything that the table wants done.

mod bounds;
mod conversion;
mod deadlock;
mod fence;
mod lease;
mod queue;

use super::*;
use crate::{
    error::Error,
    ids::{Epoch, RequestId, Time, TxnId},
    transaction::{Ballot, Fence, FenceVote},
};
use LockEffect::{Announce, Ask, Converted, Lost, Refused, RenewalDue, Vote};
use Mode::{Exclusive, IntentExclusive, IntentShared, Shared, SharedIntentExclusive};
use bytes::Bytes;
use std::time::Duration;

const OPENING: u64 = 3;
/// Nanoseconds; a third is 10.
const LEASE: u64 = 30;
const FOR_EVER: Wait = Wait::Until(Time::MAX);

struct Bench {
    table: LockTable,
    now: Time,
}

fn limits() -> LockLimits {
    LockLimits {
        locks: 4,
        sessions: 6,
        requests: 8,
        waiters_per_lock: 3,
        max_lease: Duration::from_nanos(100),
        ask_again: Duration::from_nanos(5),
    }
}

fn bench() -> Bench {
    Bench {
        table: LockTable::new(limits(), OPENING, Time(0)),
        now: Time(0),
    }
}

/// Session `number`, which began at that time.
fn session(number: u64) -> Session {
    Session {
        begun: Time(number),
        id: SessionId::Application(number),
    }
}

fn named(name: &str) -> Resource {
    Resource::Lock(name.into())
}

fn request(id: u64, of: u64, name: &str, mode: Mode) -> Acquire {
    Acquire {
        id: RequestId(id),
        session: session(of),
        resource: named(name),
        mode,
        wait: FOR_EVER,
        lease: Some(Duration::from_nanos(LEASE)),
    }
}

fn token(count: u64) -> FencingToken {
    FencingToken(FencingToken::before(OPENING).0 + count)
}

fn held(id: u64, count: u64, expires: u64) -> LockEffect {
    LockEffect::Held {
        id: RequestId(id),
        token: token(count),
        expires: Time(expires),
    }
}

fn refused(id: u64, error: Error) -> LockEffect {
    Refused {
        id: RequestId(id),
        error,
    }
}

fn busy(name: &str) -> Error {
    Error::LockBusy {
        resource: named(name),
    }
}

fn timeout(name: &str) -> Error {
    Error::LockTimeout {
        resource: named(name),
    }
}

fn waits(of: u64, name: &str, mode: Mode) -> WaitsFor {
    WaitsFor {
        session: session(of).id,
        resource: named(name),
        mode,
    }
}

fn txn(number: u64) -> TxnId {
    TxnId::new(OPENING, number).expect("not 0")
}

fn fence(name: &str, count: u64) -> Fence {
    Fence {
        lock: name.into(),
        token: token(count),
    }
}

fn vote(number: u64, ballot: Ballot) -> LockEffect {
    let txn = txn(number);
    Vote(FenceVote { txn, ballot })
}

fn yes(number: u64) -> LockEffect {
    let incarnation = FIRST_LOCK_LIFE;
    let epoch = Epoch(0);
    vote(number, Ballot::Yes { incarnation, epoch })
}

fn stale(number: u64, name: &str, count: u64) -> LockEffect {
    let error = Error::StaleFence {
        lock: name.into(),
        token: token(count),
    };
    vote(number, Ballot::No(error))
}

fn ask(number: u64, deadline: u64) -> LockEffect {
    Ask {
        txn: txn(number),
        deadline: Time(deadline),
    }
}

impl Bench {
    fn tell(&mut self, message: LockMessage) -> Vec<LockEffect> {
        let mut out = Vec::new();
        self.table.handle(self.now, message, &mut out);
        out
    }

    fn acquire(&mut self, acquire: Acquire) -> Vec<LockEffect> {
        self.tell(LockMessage::Acquire(acquire))
    }

    fn lock(&mut self, id: u64, of: u64, name: &str, mode: Mode) -> Vec<LockEffect> {
        self.acquire(request(id, of, name, mode))
    }

    fn try_lock(&mut self, id: u64, of: u64, name: &str, mode: Mode) -> Vec<LockEffect> {
        let wait = Wait::Never;
        self.acquire(Acquire {
            wait,
            ..request(id, of, name, mode)
        })
    }

    fn lock_until(&mut self, id: u64, of: u64, name: &str, deadline: u64) -> Vec<LockEffect> {
        let wait = Wait::Until(Time(deadline));
        self.acquire(Acquire {
            wait,
            ..request(id, of, name, Exclusive)
        })
    }

    fn convert(&mut self, id: u64, grant: u64, mode: Mode, wait: Wait) -> Vec<LockEffect> {
        self.tell(LockMessage::Convert {
            id: RequestId(id),
            grant: RequestId(grant),
            mode,
            wait,
        })
    }

    fn release(&mut self, id: u64) -> Vec<LockEffect> {
        self.tell(LockMessage::Release { id: RequestId(id) })
    }

    fn renew(&mut self, id: u64) -> Vec<LockEffect> {
        self.tell(LockMessage::Renew { id: RequestId(id) })
    }

    fn end_session(&mut self, of: u64) -> Vec<LockEffect> {
        let session = session(of).id;
        self.tell(LockMessage::ReleaseSession { session })
    }

    fn prepare(&mut self, number: u64, name: &str, count: u64, deadline: u64) -> Vec<LockEffect> {
        self.prepare_all(number, &[(name, count)], deadline)
    }

    fn prepare_all(
        &mut self,
        number: u64,
        fences: &[(&str, u64)],
        deadline: u64,
    ) -> Vec<LockEffect> {
        let fences = fences.iter().map(|(name, count)| fence(name, *count));
        self.tell(LockMessage::PrepareFence {
            txn: txn(number),
            fences: fences.collect(),
            deadline: Time(deadline),
        })
    }

    fn resolve(&mut self, number: u64) -> Vec<LockEffect> {
        let txn = txn(number);
        self.tell(LockMessage::ResolveFence { txn })
    }

    /// Time passes, and the table is woken at the end of it.
    fn at(&mut self, now: u64) -> Vec<LockEffect> {
        self.now = Time(now);
        let mut out = Vec::new();
        self.table.handle_timeout(self.now, &mut out);
        out
    }

    fn deadlock(&mut self, out: Vec<LockEffect>, id: u64, cycle: &[WaitsFor]) {
        let cycle = cycle.into();
        assert_eq!(out, [refused(id, Error::Deadlock { cycle })]);
    }
}

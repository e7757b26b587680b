//! The lock table under random messages, stalls and restarts, beside a naive model that checks each of its effects and,
//! after each message, that nothing was forgotten: see `model`.
//!
//! `MAILRING_SEED=17 cargo test -p mailring-engine --test locks` replays one seed.

mod model;

use mailring_engine::{
    ids::{Incarnation, RequestId, Time, TxnId},
    locks::{
        Acquire, FencingToken, LockEffect, LockLimits, LockMessage, LockTable, Mode, Resource,
        Session, SessionId, Wait,
    },
    transaction::Fence,
};
use model::{Coverage, MAX_LEASE, Model};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

const SEEDS: u64 = 300;
const STEPS: usize = 400;
const LOCKS: [&str; 3] = ["a", "b", "c"];

struct World {
    random: StdRng,
    table: LockTable,
    model: Model,
    now: u64,
    opening: u64,
    sessions: u64,
    next: u64,
    /// Messages that are sent before others are made up.
    script: VecDeque<LockMessage>,
    trace: DefaultHasher,
}

fn txn(number: u64) -> TxnId {
    TxnId::new(1, number).expect("not 0")
}

fn limits() -> LockLimits {
    LockLimits {
        locks: 4,
        waiters_per_lock: 6,
        max_lease: Duration::from_nanos(MAX_LEASE),
        ask_again: Duration::from_nanos(7),
        ..LockLimits::default()
    }
}

/// Sessions of the application and transactions by turns; ages are not in the order of numbers, and some are equal.
fn session_of(number: u64) -> Session {
    Session {
        begun: Time(number * 7 % 5),
        id: match number % 3 {
            0 => SessionId::Transaction(txn(number)),
            _ => SessionId::Application(number),
        },
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self {
            table: LockTable::new(limits(), 1, Time(0)),
            model: Model::default(),
            now: 0,
            opening: 1,
            sessions: random.random_range(2..8),
            next: 0,
            script: VecDeque::new(),
            trace: DefaultHasher::new(),
            random,
        }
    }

    fn session(&mut self) -> Session {
        session_of(self.random.random_range(0..self.sessions))
    }

    fn resource(&mut self) -> Resource {
        match self.random.random_range(0..LOCKS.len() + 2) {
            at if at < LOCKS.len() => Resource::Lock(LOCKS[at].into()),
            key => Resource::Key(vec![key as u8].into()),
        }
    }

    fn mode(&mut self) -> Mode {
        match self.random.random_bool(0.4) {
            true => Mode::Exclusive,
            false => *Mode::ALL.choose(&mut self.random).expect("there are modes"),
        }
    }

    fn wait(&mut self) -> Wait {
        match self.random.random_range(0..6) {
            0 => Wait::Never,
            1 => Wait::Until(Time(self.now + self.random.random_range(0..60))),
            _ => Wait::Until(Time::MAX),
        }
    }

    fn id(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    fn acquire(&mut self) -> Acquire {
        Acquire {
            id: self.id(),
            session: self.session(),
            resource: self.resource(),
            mode: self.mode(),
            wait: self.wait(),
            lease: match self.random.random_bool(0.8) {
                true => Some(Duration::from_nanos(
                    self.random.random_range(1..=MAX_LEASE),
                )),
                false => None,
            },
        }
    }

    fn fence(&mut self) -> Fence {
        let grants: Vec<_> = self.model.tokens();
        let (lock, token) = match grants.choose(&mut self.random) {
            Some((lock, token)) if self.random.random_bool(0.8) => (lock.clone(), token.0),
            _ => (LOCKS[0].into(), self.random.random_range(0..1 << 44)),
        };
        let stale = u64::from(self.random.random_bool(0.1));
        Fence {
            lock,
            token: FencingToken(token.wrapping_sub(stale)),
        }
    }

    fn prepare(&mut self) -> LockMessage {
        let fences = self.random.random_range(1..3);
        LockMessage::PrepareFence {
            txn: txn(self.random.random_range(0..6)),
            fences: (0..fences).map(|_| self.fence()).collect(),
            deadline: Time(self.now + self.random.random_range(0..60)),
        }
    }

    fn grant(&mut self) -> RequestId {
        let grants = self.model.grants();
        let unknown = RequestId(self.random.random_range(0..=self.next));
        *grants.choose(&mut self.random).unwrap_or(&unknown)
    }

    /// The rarest of deadlocks, which closes by a grant: a session that waits elsewhere gets more of what it holds already,
    /// and so comes into the way of the one that it waits for. Whoever else is there may be in the way of the script.
    ///
    /// | | holds | waits for |
    /// |---|---|---|
    /// | bystander | the second lock, shared | |
    /// | older | the first lock | the second, to intend to write |
    /// | session | the second lock, intending to read | the first |
    /// | and then | the second lock, shared | |
    fn weave(&mut self) {
        let mut sessions: Vec<u64> = (0..self.sessions).collect();
        sessions.shuffle(&mut self.random);
        let mut locks = LOCKS;
        locks.shuffle(&mut self.random);
        let ([bystander, older, session, ..], [first, second, ..]) = (&sessions[..], &locks) else {
            return;
        };
        let released = [bystander, older, session].map(|number| LockMessage::ReleaseSession {
            session: session_of(*number).id,
        });
        self.script.extend(released);
        let mut acquire = |number: &u64, name: &str, mode| {
            self.next += 1;
            LockMessage::Acquire(Acquire {
                id: RequestId(self.next),
                session: session_of(*number),
                resource: Resource::Lock(name.into()),
                mode,
                wait: Wait::Until(Time::MAX),
                lease: None,
            })
        };
        let acquired = [
            acquire(bystander, second, Mode::Shared),
            acquire(session, second, Mode::IntentShared),
            acquire(older, first, Mode::Exclusive),
            acquire(older, second, Mode::IntentExclusive),
            acquire(session, first, Mode::Exclusive),
            acquire(session, second, Mode::Shared),
        ];
        self.script.extend(acquired);
    }

    fn message(&mut self) -> LockMessage {
        if self.script.is_empty() && self.random.random_bool(0.01) {
            self.weave();
        }
        if let Some(message) = self.script.pop_front() {
            return message;
        }
        match self.random.random_range(0..100) {
            0..45 => LockMessage::Acquire(self.acquire()),
            45..58 => LockMessage::Convert {
                id: self.id(),
                grant: self.grant(),
                mode: self.mode(),
                wait: self.wait(),
            },
            58..75 => LockMessage::Release { id: self.grant() },
            75..80 => LockMessage::Release {
                id: RequestId(self.random.random_range(0..=self.next)),
            },
            80..87 => LockMessage::Renew { id: self.grant() },
            87..89 => LockMessage::ReleaseSession {
                session: self.session().id,
            },
            89..95 => self.prepare(),
            95..98 => LockMessage::ResolveFence {
                txn: txn(self.random.random_range(0..6)),
            },
            _ => LockMessage::LifeKnown {
                life: Incarnation(self.random.random_range(1..=self.table.life().0)),
            },
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..60) {
            0 => self.now += self.random.random_range(0..3 * MAX_LEASE),
            1..20 => self.now += self.random.random_range(0..6),
            _ => {}
        }
        if self.random.random_range(0..300) == 0 {
            return self.restart();
        }
        let message = self.message();
        // What is due is handled before the message either way; here its effects are told apart, except for requests
        // of strangers, whose place in line does not depend on it.
        let mut now = self.now;
        if !self.model.is_stranger(&message) || self.random.random_bool(0.5) {
            let mut out = Vec::new();
            self.table.handle_timeout(Time(now), &mut out);
            self.check(out);
            if self.random.random_bool(0.1) {
                // A clock that goes back changes nothing.
                now = self.random.random_range(0..=now);
            }
        }
        self.model.expect(self.now, &message);
        let mut out = Vec::new();
        self.table.handle(Time(now), message, &mut out);
        self.check(out);
    }

    fn check(&mut self, out: Vec<LockEffect>) {
        format!("{out:?}").hash(&mut self.trace);
        self.model.take(self.now, out);
        self.model.check(self.now, &self.table);
    }

    fn restart(&mut self) {
        let grants_from = self.now + MAX_LEASE;
        let is_panic = self.random.random_bool(0.5);
        if is_panic {
            self.table = self.table.next_life(Time(grants_from));
        } else {
            self.opening += 1;
            self.table = LockTable::new(limits(), self.opening, Time(grants_from));
        }
        self.model.restart(grants_from, &self.table, !is_panic);
        self.script.clear();
        // The table's clock starts with its first message.
        self.check(Vec::new());
    }
}

fn run(seed: u64) -> (u64, Coverage) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    // Every lease runs out, and every wait ends or is granted.
    for txn in (0..6).map(txn) {
        world
            .model
            .expect(world.now, &LockMessage::ResolveFence { txn });
        let mut out = Vec::new();
        world
            .table
            .handle(Time(world.now), LockMessage::ResolveFence { txn }, &mut out);
        world.check(out);
    }
    (world.trace.finish(), world.model.coverage)
}

fn failure(seed: u64) -> Result<Coverage, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| run(seed).1));
    outcome.map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast_ref::<&str>()
            .map_or_else(String::new, ToString::to_string),
    })
}

#[test]
fn every_schedule_keeps_the_invariants() {
    if let Ok(seed) = std::env::var("MAILRING_SEED") {
        run(seed.parse().expect("MAILRING_SEED is a number"));
        return;
    }
    let mut total = Coverage::default();
    for seed in 0..SEEDS {
        match failure(seed) {
            Ok(coverage) => total.add(&coverage),
            Err(reason) => panic!(
                "seed {seed}: {reason}\nreplay: MAILRING_SEED={seed} cargo test -p mailring-engine --test locks every"
            ),
        }
    }
    println!("{SEEDS} seeds: {total:?}");
    assert!(total.covers_everything(), "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert_eq!(run(seed).0, run(seed).0, "seed {seed}");
    }
}

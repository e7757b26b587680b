//! What the lock table promises, written down as plainly as possible: lists that are walked from end to end, and a
//! wait-for graph that is built anew and searched by brute force after each message.

use mailring_engine::{
    Error,
    ids::{Epoch, Incarnation, RequestId, Time, TxnId},
    locks::{
        FIRST_LOCK_LIFE, FencingToken, LockEffect, LockMessage, LockTable, Mode, Resource, Session,
        SessionId, Wait, WaitsFor,
    },
    transaction::{Ballot, Fence, FenceVote},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(crate) const MAX_LEASE: u64 = 60;

#[derive(Debug, Default)]
pub(crate) struct Coverage {
    granted: usize,
    shared: usize,
    reentered: usize,
    upgraded: usize,
    converted: usize,
    busy: usize,
    timeouts: usize,
    deadlocks: usize,
    long_cycles: usize,
    lost: usize,
    conversions_lost: usize,
    overloaded: usize,
    renewals: usize,
    yes: usize,
    no: usize,
    asked: usize,
    kept_for_a_fence: usize,
    kept_for_two: usize,
    restarts: usize,
    announced: usize,
    waited_for_old_leases: usize,
}

impl Coverage {
    fn all(&mut self) -> [&mut usize; 21] {
        let Self {
            granted,
            shared,
            reentered,
            upgraded,
            converted,
            busy,
            timeouts,
            deadlocks,
            long_cycles,
            lost,
            conversions_lost,
            overloaded,
            renewals,
            yes,
            no,
            asked,
            kept_for_a_fence,
            kept_for_two,
            restarts,
            announced,
            waited_for_old_leases,
        } = self;
        [
            granted,
            shared,
            reentered,
            upgraded,
            converted,
            busy,
            timeouts,
            deadlocks,
            long_cycles,
            lost,
            conversions_lost,
            overloaded,
            renewals,
            yes,
            no,
            asked,
            kept_for_a_fence,
            kept_for_two,
            restarts,
            announced,
            waited_for_old_leases,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = Self { ..*other };
        for (sum, more) in self.all().into_iter().zip(other.all()) {
            *sum += *more;
        }
    }

    pub(crate) fn covers_everything(&mut self) -> bool {
        self.all().into_iter().all(|count| *count > 100)
    }
}

#[derive(Debug, Clone)]
struct Grant {
    id: RequestId,
    mode: Mode,
}

/// What a session holds of a lock, or what a transaction keeps of it.
#[derive(Debug, Clone)]
struct Hold {
    session: Session,
    token: FencingToken,
    expires: Time,
    /// Whether it never expires.
    is_endless: bool,
    grants: Vec<Grant>,
    fences: BTreeMap<TxnId, Time>,
    floor: Option<Mode>,
}

impl Hold {
    fn mode(&self) -> Mode {
        let modes = self.grants.iter().map(|grant| grant.mode).chain(self.floor);
        modes
            .reduce(Mode::join)
            .expect("a hold has a grant or a fence")
    }

    fn is_live(&self) -> bool {
        !self.grants.is_empty()
    }
}

#[derive(Debug, Clone)]
struct Waiter {
    id: RequestId,
    session: Session,
    mode: Mode,
    converts: Option<RequestId>,
    wait: Wait,
    lease: Option<u64>,
    /// Whether it has only just come: an immediate refusal is possible.
    is_new: bool,
}

#[derive(Debug, Default)]
struct Lock {
    holds: Vec<Hold>,
    conversions: Vec<Waiter>,
    queue: Vec<Waiter>,
    last_token: Option<FencingToken>,
}

impl Lock {
    fn live(&self, session: SessionId) -> Option<&Hold> {
        let mut holds = self.holds.iter();
        holds.find(|hold| hold.session.id == session && hold.is_live())
    }

    fn holds(&self, id: RequestId) -> bool {
        let mut grants = self.holds.iter().flat_map(|hold| &hold.grants);
        grants.any(|grant| grant.id == id)
    }

    fn hold_of(&mut self, id: RequestId) -> Option<&mut Hold> {
        let mut holds = self.holds.iter_mut();
        holds.find(|hold| hold.grants.iter().any(|grant| grant.id == id))
    }

    /// The mode in which the session would hold the lock.
    fn target(&self, waiter: &Waiter) -> Mode {
        let Some(hold) = self.live(waiter.session.id) else {
            return waiter.mode;
        };
        let others = hold.grants.iter();
        let others = others.filter(|grant| Some(grant.id) != waiter.converts);
        let modes = others.map(|grant| grant.mode).chain(hold.floor);
        modes.fold(waiter.mode, Mode::join)
    }

    /// The holds that keep it out.
    fn against<'a>(&'a self, waiter: &'a Waiter) -> impl Iterator<Item = &'a Hold> {
        let target = self.target(waiter);
        let own = waiter.session.id;
        // One's own hold is no hindrance, unless it is only kept for a transaction.
        self.holds
            .iter()
            .filter(move |hold| match hold.session.id == own {
                true => !hold.is_live(),
                false => !hold.mode().is_compatible(target),
            })
    }

    fn admits(&self, waiter: &Waiter) -> bool {
        let weaker = |hold: &Hold| hold.mode().covers(self.target(waiter));
        self.live(waiter.session.id).is_some_and(weaker) || self.against(waiter).next().is_none()
    }

    /// The waiter that may be granted now, if there is one.
    fn ready(&self) -> Option<&Waiter> {
        let mut conversions = self.conversions.iter();
        let queue = self.queue.first().filter(|_| self.conversions.is_empty());
        conversions
            .find(|waiter| self.admits(waiter))
            .or(queue.filter(|front| self.admits(front)))
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.conversions.iter().chain(&self.queue)
    }

    fn remove_waiter(&mut self, id: RequestId) -> Waiter {
        for line in [&mut self.conversions, &mut self.queue] {
            if let Some(at) = line.iter().position(|waiter| waiter.id == id) {
                return line.remove(at);
            }
        }
        panic!("request {id} waits for nothing")
    }

    fn clean(&mut self) {
        self.holds
            .retain(|hold| hold.is_live() || !hold.fences.is_empty());
    }

    /// Everybody who must give way before the waiter is granted.
    fn blockers(&self, waiter: &Waiter) -> BTreeSet<Session> {
        let holds = self.against(waiter).filter(|hold| hold.is_live());
        let mut blockers: BTreeSet<Session> = holds.map(|hold| hold.session).collect();
        if let Some(at) = self.queue.iter().position(|other| other.id == waiter.id) {
            let before = self.conversions.iter().chain(&self.queue[..at]);
            blockers.extend(before.map(|other| other.session));
        }
        blockers.retain(|session| session.id != waiter.session.id);
        blockers
    }
}

#[derive(Debug)]
pub(crate) struct Model {
    locks: BTreeMap<Resource, Lock>,
    grants_from: u64,
    life: Incarnation,
    is_known: bool,
    last_token: Option<FencingToken>,
    expected_vote: Option<FenceVote>,
    pub(crate) coverage: Coverage,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            locks: BTreeMap::new(),
            grants_from: 0,
            life: FIRST_LOCK_LIFE,
            is_known: true,
            last_token: None,
            expected_vote: None,
            coverage: Coverage::default(),
        }
    }
}

impl Model {
    pub(crate) fn grants(&self) -> Vec<RequestId> {
        let holds = self.locks.values().flat_map(|lock| &lock.holds);
        holds
            .flat_map(|hold| &hold.grants)
            .map(|grant| grant.id)
            .collect()
    }

    pub(crate) fn tokens(&self) -> Vec<(Arc<str>, FencingToken)> {
        let mut tokens = Vec::new();
        for (resource, lock) in &self.locks {
            if let Resource::Lock(name) = resource {
                tokens.extend(lock.holds.iter().map(|hold| (Arc::clone(name), hold.token)));
            }
        }
        tokens
    }

    pub(crate) fn is_stranger(&self, message: &LockMessage) -> bool {
        let LockMessage::Acquire(acquire) = message else {
            return false;
        };
        let Some(lock) = self.locks.get(&acquire.resource) else {
            return true;
        };
        let own = acquire.session.id;
        let mut sessions = lock
            .holds
            .iter()
            .map(|hold| hold.session.id)
            .chain(lock.waiters().map(|waiter| waiter.session.id));
        acquire.wait != Wait::Never && sessions.all(|session| session != own)
    }

    fn find(&mut self, id: RequestId) -> Option<(&mut Lock, bool)> {
        self.locks.values_mut().find_map(|lock| {
            let waits = lock.waiters().any(|waiter| waiter.id == id);
            (waits || lock.holds(id)).then_some((lock, waits))
        })
    }

    /// A message is about to be handled.
    pub(crate) fn expect(&mut self, now: u64, message: &LockMessage) {
        match message.clone() {
            LockMessage::Acquire(acquire) => {
                let lock = self.locks.entry(acquire.resource).or_default();
                let waiter = Waiter {
                    id: acquire.id,
                    session: acquire.session,
                    mode: acquire.mode,
                    converts: None,
                    wait: acquire.wait,
                    lease: acquire.lease.map(|lease| lease.as_nanos() as u64),
                    is_new: true,
                };
                let own = acquire.session.id;
                if lock.live(own).is_some() {
                    lock.conversions.push(waiter);
                } else {
                    let behind = lock.queue.iter().rposition(|other| other.session.id == own);
                    let at = behind.map_or(lock.queue.len(), |at| at + 1);
                    lock.queue.insert(at, waiter);
                }
            }
            LockMessage::Convert {
                id,
                grant,
                mode,
                wait,
            } => {
                let lock = self.locks.values_mut().find(|lock| lock.holds(grant));
                let lock = match lock {
                    Some(lock) => lock,
                    // It is refused as lost; any lock will do.
                    None => self.locks.entry(Resource::Lock("".into())).or_default(),
                };
                let session = lock.hold_of(grant).map(|hold| hold.session);
                lock.conversions.push(Waiter {
                    id,
                    session: session.unwrap_or(Session {
                        begun: Time(0),
                        id: SessionId::Application(u64::MAX),
                    }),
                    mode,
                    converts: Some(grant),
                    wait,
                    lease: None,
                    is_new: true,
                });
            }
            LockMessage::Release { id } => {
                if let Some((lock, waits)) = self.find(id) {
                    if waits {
                        lock.remove_waiter(id);
                    } else {
                        let hold = lock.hold_of(id).expect("it does not wait");
                        hold.grants.retain(|grant| grant.id != id);
                        lock.clean();
                    }
                }
            }
            LockMessage::Renew { .. } => {}
            LockMessage::ReleaseSession { session } => {
                for lock in self.locks.values_mut() {
                    let holds = lock.holds.iter_mut();
                    for hold in holds.filter(|hold| hold.session.id == session) {
                        hold.grants.clear();
                    }
                    lock.clean();
                    // Its waits are refused as lost.
                    let lines = lock.conversions.iter_mut().chain(&mut lock.queue);
                    for waiter in lines.filter(|waiter| waiter.session.id == session) {
                        waiter.converts = Some(RequestId(u64::MAX));
                    }
                }
            }
            LockMessage::PrepareFence {
                txn,
                fences,
                deadline,
            } => self.prepare(now, txn, &fences, deadline),
            LockMessage::LifeKnown { life } => self.is_known |= life == self.life,
            LockMessage::ResolveFence { txn } => {
                for lock in self.locks.values_mut() {
                    for hold in &mut lock.holds {
                        if hold.fences.remove(&txn).is_some() && hold.fences.is_empty() {
                            hold.floor = None;
                        }
                    }
                    lock.clean();
                }
            }
        }
    }

    fn prepare(&mut self, now: u64, txn: TxnId, fences: &[Fence], end: Time) {
        let mut all = self.locks.values().flat_map(|lock| &lock.holds);
        let fits = |locks: &BTreeMap<Resource, Lock>, fence: &Fence| {
            let lock = locks.get(&Resource::Lock(Arc::clone(&fence.lock)));
            let mut holds = lock.into_iter().flat_map(|lock| &lock.holds);
            holds.any(|hold| hold.token == fence.token && hold.is_live())
        };
        let (incarnation, epoch) = (self.life, Epoch(0));
        let ballot = if end <= Time(now) {
            Ballot::No(Error::DeadlineExceeded)
        } else if all.any(|hold| hold.fences.contains_key(&txn)) {
            Ballot::Yes { incarnation, epoch }
        } else if let Some(stale) = fences.iter().find(|fence| !fits(&self.locks, fence)) {
            Ballot::No(Error::StaleFence {
                lock: stale.lock.to_string(),
                token: stale.token,
            })
        } else {
            let locks = self.locks.values_mut();
            let mut kept = 0;
            for hold in locks.flat_map(|lock| &mut lock.holds) {
                if fences.iter().any(|fence| fence.token == hold.token) {
                    hold.floor = Some(hold.mode());
                    hold.fences.insert(txn, end);
                    kept += 1;
                }
            }
            self.coverage.kept_for_two += usize::from(kept > 1);
            Ballot::Yes { incarnation, epoch }
        };
        self.expected_vote = Some(FenceVote { txn, ballot });
    }

    /// Checks each effect, and takes it in.
    pub(crate) fn take(&mut self, now: u64, out: Vec<LockEffect>) {
        for effect in out {
            match effect {
                LockEffect::Held { id, token, expires } => self.held(now, id, token, expires),
                LockEffect::Converted { id } => self.converted(id),
                LockEffect::Refused { id, error } => self.refused(now, id, error),
                LockEffect::RenewalDue { id } => {
                    self.coverage.renewals += 1;
                    let (lock, _) = self.find(id).expect("it is held");
                    let hold = lock.hold_of(id).expect("it is held");
                    assert!(hold.expires > Time(now) && !hold.is_endless);
                }
                LockEffect::Lost { id } => {
                    self.coverage.lost += 1;
                    let (lock, _) = self.find(id).expect("it was held");
                    let hold = lock.hold_of(id).expect("it was held");
                    assert!(hold.expires <= Time(now), "{id} was lost too early");
                    hold.grants.retain(|grant| grant.id != id);
                    let kept = !hold.is_live() && !hold.fences.is_empty();
                    lock.clean();
                    self.coverage.kept_for_a_fence += usize::from(kept);
                }
                LockEffect::Vote(vote) => {
                    let is_yes = matches!(vote.ballot, Ballot::Yes { .. });
                    assert_eq!(Some(vote), self.expected_vote.take());
                    self.coverage.yes += usize::from(is_yes);
                    self.coverage.no += usize::from(!is_yes);
                }
                LockEffect::Ask { txn, deadline } => {
                    self.coverage.asked += 1;
                    let holds = self.locks.values().flat_map(|lock| &lock.holds);
                    let mut deadlines = holds.filter_map(|hold| hold.fences.get(&txn));
                    assert!(deadline <= Time(now) && deadlines.any(|other| *other == deadline));
                }
                LockEffect::Announce { life } => {
                    self.coverage.announced += 1;
                    assert!(life == self.life && !self.is_known);
                }
            }
        }
        assert_eq!(self.expected_vote, None, "a vote was not given");
    }

    fn held(&mut self, now: u64, id: RequestId, token: FencingToken, expires: Time) {
        let highest = self.last_token;
        let (lock, waits) = self.find(id).expect("it is known");
        if !waits {
            let hold = lock.hold_of(id).expect("it does not wait");
            assert!(
                token == hold.token || Some(token) >= highest,
                "the token fell"
            );
            assert!(expires >= hold.expires, "the lease became shorter");
            hold.expires = expires;
            hold.token = token;
            lock.last_token = lock.last_token.max(Some(token));
            self.last_token = highest.max(Some(token));
            return;
        }
        let ready = lock.conversions.iter().chain(lock.queue.first());
        assert!(
            ready.clone().any(|waiter| waiter.id == id),
            "{id} has overtaken"
        );
        let waiter = lock.remove_waiter(id);
        assert!(
            lock.admits(&waiter),
            "{id} does not go with the other holders"
        );
        assert_eq!(waiter.converts, None, "a conversion is told otherwise");
        let lease_end = waiter.lease.map_or(Time::MAX, |lease| Time(now + lease));
        let grant = Grant {
            id,
            mode: waiter.mode,
        };
        let target = lock.target(&waiter);
        let others = lock.holds.iter().any(|hold| hold.session != waiter.session);
        let own = |hold: &&mut Hold| hold.session == waiter.session && hold.is_live();
        let [mut shared, mut reentered, mut upgraded] = [0; 3];
        if let Some(hold) = lock.holds.iter_mut().find(own) {
            if hold.mode().covers(target) {
                assert_eq!(hold.token, token, "a token is shared");
                reentered += 1;
            } else {
                assert!(Some(token) >= highest && token >= hold.token);
                upgraded += 1;
            }
            assert_eq!(expires, hold.expires.max(lease_end));
            hold.is_endless |= waiter.lease.is_none();
            hold.grants.push(grant);
            hold.expires = expires;
            hold.token = token;
        } else {
            assert!(Some(token) > highest, "tokens rise");
            assert!(Some(token) > lock.last_token, "tokens of a lock rise");
            assert_eq!(expires, lease_end);
            shared += usize::from(others);
            lock.holds.push(Hold {
                session: waiter.session,
                token,
                expires,
                is_endless: waiter.lease.is_none(),
                grants: vec![grant],
                fences: BTreeMap::new(),
                floor: None,
            });
        }
        lock.last_token = lock.last_token.max(Some(token));
        self.last_token = highest.max(Some(token));
        assert!(now >= self.grants_from, "granted while old leases may run");
        assert!(self.is_known, "granted before the journal knows this life");
        self.coverage.waited_for_old_leases += usize::from(now == self.grants_from && now > 0);
        self.coverage.granted += 1;
        self.coverage.shared += shared;
        self.coverage.reentered += reentered;
        self.coverage.upgraded += upgraded;
    }

    fn converted(&mut self, id: RequestId) {
        self.coverage.converted += 1;
        let (lock, _) = self.find(id).expect("it waits");
        let waiter = lock.remove_waiter(id);
        assert!(
            lock.admits(&waiter),
            "{id} does not go with the other holders"
        );
        let grant = waiter.converts.expect("it is a conversion");
        let hold = lock.hold_of(grant).expect("the grant is held");
        let mut grants = hold.grants.iter_mut();
        grants
            .find(|other| other.id == grant)
            .expect("it is there")
            .mode = waiter.mode;
    }

    fn refused(&mut self, now: u64, id: RequestId, error: Error) {
        if let Error::Deadlock { cycle } = &error {
            self.check_cycle(cycle);
            self.coverage.deadlocks += 1;
            self.coverage.long_cycles += usize::from(cycle.len() > 2);
        }
        let is_open = now >= self.grants_from && self.is_known;
        let all_locks = self
            .locks
            .values()
            .filter(|lock| !lock.holds.is_empty() || lock.waiters().next().is_some());
        let locks = all_locks.count();
        let (lock, _) = self.find(id).expect("it was asked for");
        // Somebody behind could be ready only because this one goes; this one must not be.
        let ready = lock.ready().is_some_and(|waiter| waiter.id == id);
        let waiter = lock.remove_waiter(id);
        match error {
            Error::LockBusy { .. } => {
                assert_eq!(waiter.wait, Wait::Never);
                assert!(!ready || !is_open, "{id} was not busy");
                self.coverage.busy += 1;
            }
            Error::LockTimeout { .. } => {
                assert!(matches!(waiter.wait, Wait::Until(deadline) if deadline <= Time(now)));
                self.coverage.timeouts += 1;
            }
            Error::LockLost => {
                let grant = waiter
                    .converts
                    .expect("only a conversion or an ended session");
                assert!(!lock.holds(grant), "its grant is held");
                self.coverage.conversions_lost += 1;
            }
            Error::Overloaded { .. } => {
                assert!(waiter.is_new && (lock.waiters().count() >= 6 || locks > 4));
                self.coverage.overloaded += 1;
            }
            Error::Deadlock { cycle } => assert_eq!(cycle[0].session, waiter.session.id),
            error => panic!("an error of something else: {error}"),
        }
    }

    /// Each session of a cycle waits for the next, and the first is the youngest.
    fn check_cycle(&self, cycle: &[WaitsFor]) {
        let mut sessions = Vec::new();
        for (step, next) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
            let lock = &self.locks[&step.resource];
            let mut waiters = lock.waiters();
            let waits = |waiter: &&Waiter| {
                let blockers = lock.blockers(waiter);
                waiter.session.id == step.session
                    && waiter.mode == step.mode
                    && blockers.iter().any(|session| session.id == next.session)
            };
            let waiter = waiters.find(waits);
            let waiter = waiter.unwrap_or_else(|| panic!("{step}, not for {}", next.session));
            assert!(!sessions.contains(&waiter.session), "it goes round twice");
            sessions.push(waiter.session);
        }
        assert_eq!(
            sessions.iter().max(),
            sessions.first(),
            "the youngest loses"
        );
    }

    /// Checks what must hold between two messages.
    pub(crate) fn check(&mut self, now: u64, table: &LockTable) {
        let mut edges: BTreeMap<SessionId, BTreeSet<SessionId>> = BTreeMap::new();
        self.locks.retain(|_, lock| {
            // A name's tokens are remembered here, though the table forgets the name.
            lock.last_token.is_some() || !lock.holds.is_empty() || lock.waiters().next().is_some()
        });
        for lock in self.locks.values_mut() {
            for waiter in lock.conversions.iter_mut().chain(&mut lock.queue) {
                assert_ne!(waiter.wait, Wait::Never, "{} was not answered", waiter.id);
                waiter.is_new = false;
            }
            for (at, hold) in lock.holds.iter().enumerate() {
                assert!(
                    !hold.is_live() || hold.expires > Time(now),
                    "a lease is overdue"
                );
                for other in &lock.holds[..at] {
                    assert!(hold.mode().is_compatible(other.mode()), "two holders");
                    assert_ne!(hold.session, other.session);
                }
            }
            if now >= self.grants_from && self.is_known {
                let ready = lock.ready();
                assert!(ready.is_none(), "forgotten: {ready:?}");
            }
            for waiter in lock.waiters() {
                assert!(!matches!(waiter.wait, Wait::Until(end) if end <= Time(now)));
                let blockers = lock.blockers(waiter).into_iter().map(|session| session.id);
                edges.entry(waiter.session.id).or_default().extend(blockers);
            }
        }
        // Brute force: who waits for nobody who waits is taken out, until nobody is left, or a cycle.
        while let Some(free) = edges.iter().find_map(|(session, blockers)| {
            let waits = blockers.iter().any(|blocker| edges.contains_key(blocker));
            (!waits).then_some(*session)
        }) {
            edges.remove(&free);
        }
        assert!(edges.is_empty(), "a deadlock was overlooked: {edges:?}");
        self.check_table(now, table);
    }

    fn check_table(&mut self, now: u64, table: &LockTable) {
        let mut sessions = BTreeSet::new();
        let [mut locks, mut requests] = [0; 2];
        let mut listed = Vec::new();
        for (resource, lock) in &self.locks {
            let live = lock.holds.iter().filter(|hold| hold.is_live());
            requests += live.clone().map(|hold| hold.grants.len()).sum::<usize>();
            requests += lock.waiters().count();
            sessions.extend(live.map(|hold| hold.session));
            sessions.extend(lock.waiters().map(|waiter| waiter.session));
            if !lock.holds.is_empty() || lock.waiters().next().is_some() {
                locks += 1;
                let mut holds: Vec<_> = lock
                    .holds
                    .iter()
                    .map(|hold| (hold.session.id, hold.mode(), hold.token, hold.expires))
                    .collect();
                holds.sort();
                let waiters: Vec<_> = lock.waiters().map(|waiter| waiter.session.id).collect();
                listed.push((resource.clone(), holds, waiters));
            }
        }
        assert_eq!(table.sizes(), [locks, sessions.len(), requests]);
        let list = table.list(usize::MAX).into_iter().map(|lock| {
            let holders = lock.holders.iter();
            let mut holders: Vec<_> = holders
                .map(|hold| (hold.session, hold.mode, hold.token, hold.expires))
                .collect();
            holders.sort();
            let waiters: Vec<_> = lock.waiters.iter().map(|waiter| waiter.session).collect();
            (lock.resource, holders, waiters)
        });
        assert_eq!(list.collect::<Vec<_>>(), listed);
        let is_new = self.grants_from > now;
        assert!(is_new || table.next_timeout().is_none_or(|time| time > Time(now)) || locks == 0);
    }

    /// The table was made anew: it knows of nothing, and its tokens must rise all the same.
    pub(crate) fn restart(&mut self, grants_from: u64, table: &LockTable, is_known: bool) {
        self.coverage.restarts += 1;
        assert!(is_known || table.life() > self.life, "a panic ends a life");
        self.life = table.life();
        self.is_known = is_known;
        for lock in self.locks.values_mut() {
            lock.holds.clear();
            lock.conversions.clear();
            lock.queue.clear();
        }
        self.grants_from = grants_from;
    }
}

//! Limits, the listing, and the end of the tokens.

use super::*;

#[test]
fn every_limit_has_its_error() {
    let mut b = bench();
    let overloaded = |what| Error::Overloaded { what };
    for id in 1..=4 {
        b.lock(id, 1, &format!("lock {id}"), Exclusive);
    }
    let error = overloaded("the lock table");
    assert_eq!(b.lock(5, 1, "lock 5", Exclusive), [refused(5, error)]);
    for id in 6..=8 {
        assert_eq!(b.lock(id, id, "lock 1", Exclusive), []);
    }
    let error = overloaded("the queue of the lock");
    assert_eq!(b.lock(9, 9, "lock 1", Exclusive), [refused(9, error)]);
    b.lock(10, 1, "lock 2", Exclusive);
    let error = overloaded("the lock table's requests");
    assert_eq!(
        b.lock(11, 1, "lock 2", Exclusive),
        [refused(11, error.clone())]
    );
    assert_eq!(b.convert(12, 1, Shared, FOR_EVER), [refused(12, error)]);

    let mut b = bench();
    for id in 1..=6 {
        b.lock(id, id, "a", Shared);
    }
    let error = overloaded("the lock table's sessions");
    assert_eq!(b.lock(7, 7, "a", Shared), [refused(7, error)]);
    assert_eq!(
        b.lock(8, 1, "a", Shared).len(),
        2,
        "a session that is there may go on"
    );

    let mut b = bench();
    let name = |name: &str, reason| Error::InvalidLockName {
        name: name.into(),
        reason,
    };
    let error = name("", "it is empty");
    assert_eq!(b.lock(1, 1, "", Exclusive), [refused(1, error)]);
    let long = "x".repeat(MAX_LOCK_NAME_BYTES + 1);
    let error = name(&long, "names have up to 255 bytes");
    assert_eq!(b.lock(2, 1, &long, Exclusive), [refused(2, error)]);
    assert_eq!(b.lock(3, 1, &long[1..], Exclusive), [held(3, 1, LEASE)]);
    for (id, lease) in [(4, 0), (5, 101)] {
        let lease = Duration::from_nanos(lease);
        let error = Error::InvalidOption {
            option: "lease",
            value: format!("{lease:?}"),
            reason: "a lease is longer than nothing and at most `max_lease`",
        };
        let lease = Some(lease);
        let out = b.acquire(Acquire {
            lease,
            ..request(id, 1, "a", Exclusive)
        });
        assert_eq!(out, [refused(id, error)]);
    }
    assert_eq!(b.table.sizes(), [1, 1, 1]);
}

#[test]
fn the_listing_shows_holders_waiters_ages_and_edges() {
    let mut b = bench();
    b.lock(1, 1, "b", Shared);
    b.now = Time(2);
    b.lock(2, 2, "b", Shared);
    b.lock(3, 3, "a", Exclusive);
    b.now = Time(4);
    b.convert(4, 1, Exclusive, FOR_EVER);
    b.lock_until(5, 4, "b", 9);
    b.lock(6, 5, "b", IntentShared);
    b.prepare(7, "b", 2, 50);
    let id = |number| session(number).id;
    let holder = |of, count, mode, since, fences| Holder {
        session: id(of),
        mode,
        token: token(count),
        since: Time(since),
        expires: Time(since + LEASE),
        grants: 1,
        fences,
    };
    let waiter = |of, mode, deadline, waits_for: &[u64]| WaitingRequest {
        session: id(of),
        mode,
        since: Time(4),
        deadline,
        waits_for: waits_for.iter().copied().map(id).collect(),
    };
    let expected = [
        LockListing {
            resource: named("a"),
            holders: vec![holder(3, 3, Exclusive, 2, 0)],
            waiters: vec![],
        },
        LockListing {
            resource: named("b"),
            holders: vec![holder(1, 1, Shared, 0, 0), holder(2, 2, Shared, 2, 1)],
            waiters: vec![
                waiter(1, Exclusive, Time::MAX, &[2]),
                waiter(4, Exclusive, Time(9), &[1, 2]),
                waiter(5, IntentShared, Time::MAX, &[4]),
            ],
        },
    ];
    assert_eq!(b.table.list(2), expected);
    assert_eq!(b.table.list(1), expected[..1]);
}

#[test]
#[should_panic(expected = "exhausted")]
fn tokens_do_not_run_over_into_the_next_opening() {
    let _ = FencingToken(FencingToken::before(5).0 - 1).next();
}

#[test]
#[should_panic(expected = "no fencing tokens left")]
fn an_opening_without_tokens_can_t_begin() {
    let _ = FencingToken::before(FencingToken::LAST_OPENING + 1);
}

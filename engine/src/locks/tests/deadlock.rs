//! Cycles, and who loses.

use super::*;

#[test]
fn two_sessions_that_want_each_other_s_lock_are_a_deadlock_and_the_younger_is_refused() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "b", Exclusive);
    assert_eq!(b.lock(3, 2, "a", Exclusive), []);
    let out = b.lock(4, 1, "b", Exclusive);
    b.deadlock(
        out,
        3,
        &[waits(2, "a", Exclusive), waits(1, "b", Exclusive)],
    );
    assert_eq!(
        b.release(2),
        [held(4, 3, LEASE)],
        "the victim gives up what it holds"
    );
}

#[test]
fn a_cycle_of_three_names_everybody_from_the_victim_on() {
    let mut b = bench();
    for (of, name) in [(1, "a"), (2, "b"), (3, "c")] {
        b.lock(of, of, name, Exclusive);
    }
    assert_eq!(b.lock(4, 3, "a", Exclusive), []);
    assert_eq!(b.lock(5, 1, "b", Exclusive), []);
    let out = b.lock(6, 2, "c", Shared);
    let cycle = [
        waits(3, "a", Exclusive),
        waits(1, "b", Exclusive),
        waits(2, "c", Shared),
    ];
    b.deadlock(out, 4, &cycle);
    let error = Error::Deadlock {
        cycle: cycle.into(),
    };
    assert_eq!(
        error.to_string(),
        "a deadlock: session 3 waits for lock \"a\" (exclusive), which session 1 waits for lock \"b\" (exclusive), \
         which session 2 waits for lock \"c\" (shared); release what is held, then retry with back-off"
    );
}

#[test]
fn two_upgraders_of_one_shared_lock_are_a_deadlock() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.lock(2, 2, "a", Shared);
    assert_eq!(b.convert(3, 1, Exclusive, FOR_EVER), []);
    let out = b.convert(4, 2, Exclusive, FOR_EVER);
    b.deadlock(
        out,
        4,
        &[waits(2, "a", Exclusive), waits(1, "a", Exclusive)],
    );
    assert_eq!(
        b.release(2),
        [held(1, 3, LEASE), Converted { id: RequestId(3) }]
    );
}

#[test]
fn standing_in_line_behind_somebody_is_waiting_for_him() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.lock(2, 2, "b", Exclusive);
    b.lock(3, 3, "a", Exclusive);
    // 2 could share "a" with 1, but not overtake 3.
    assert_eq!(b.lock(4, 2, "a", Shared), []);
    let out = b.lock(5, 1, "b", Exclusive);
    // The shortest cycle leads over 3, who waits for 1.
    let cycle = [
        waits(3, "a", Exclusive),
        waits(1, "b", Exclusive),
        waits(2, "a", Shared),
    ];
    let victim = refused(
        3,
        Error::Deadlock {
            cycle: cycle.into(),
        },
    );
    assert_eq!(out, [victim, held(4, 3, LEASE)]);
}

#[test]
fn one_block_that_closes_two_cycles_costs_a_victim_of_each() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "b", Shared);
    b.lock(3, 3, "b", Shared);
    assert_eq!(b.lock(4, 2, "a", Shared), []);
    assert_eq!(b.lock(5, 3, "a", Shared), []);
    let victim = |of| Error::Deadlock {
        cycle: vec![waits(of, "a", Shared), waits(1, "b", Exclusive)],
    };
    assert_eq!(
        b.lock(6, 1, "b", Exclusive),
        [refused(4, victim(2)), refused(5, victim(3))]
    );
}

#[test]
fn a_key_lock_and_a_named_lock_can_close_a_cycle_together() {
    let mut b = bench();
    let key = Resource::Key(Bytes::from_static(b"\0\0\0\x01k\xff"));
    let txn = Session {
        begun: Time(9),
        id: SessionId::Transaction(txn(1)),
    };
    let of_txn = |id, resource: &Resource| Acquire {
        session: txn,
        resource: resource.clone(),
        lease: None,
        ..request(id, 0, "", Exclusive)
    };
    assert_eq!(b.acquire(of_txn(1, &key)), [held(1, 1, u64::MAX)]);
    b.lock(2, 1, "a", Exclusive);
    let resource = key.clone();
    assert_eq!(
        b.acquire(Acquire {
            resource,
            ..request(3, 1, "", Exclusive)
        }),
        []
    );
    let step = |session, resource| WaitsFor {
        session,
        resource,
        mode: Exclusive,
    };
    let cycle = [step(txn.id, named("a")), step(session(1).id, key)];
    let out = b.acquire(of_txn(4, &named("a")));
    b.deadlock(out, 4, &cycle);
    assert_eq!(
        cycle[1].to_string(),
        r#"session 1 waits for key "\x00\x00\x00\x01k\xff" (exclusive)"#
    );
    let session = txn.id;
    assert_eq!(
        b.tell(LockMessage::ReleaseSession { session }),
        [held(3, 3, 30)]
    );
}

#[test]
fn a_grant_to_a_session_that_waits_elsewhere_is_searched_too() {
    let mut b = bench();
    // 1 waits for "b" and, beside that, may upgrade "a" at once; with that it stands in 2's way.
    b.lock(1, 1, "a", IntentShared);
    b.lock(2, 2, "b", Exclusive);
    b.lock(3, 2, "a", IntentShared);
    b.lock(4, 3, "a", IntentShared);
    assert_eq!(b.lock(5, 1, "b", Exclusive), []);
    b.lock(6, 3, "a", IntentExclusive);
    assert_eq!(b.convert(7, 3, Shared, FOR_EVER), []);
    let cycle = [waits(2, "a", Shared), waits(1, "b", Exclusive)];
    let out = b.convert(8, 1, IntentExclusive, FOR_EVER);
    let victim = refused(
        7,
        Error::Deadlock {
            cycle: cycle.into(),
        },
    );
    assert_eq!(
        out,
        [held(1, 6, LEASE), Converted { id: RequestId(8) }, victim]
    );
}

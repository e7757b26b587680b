//! Leases, renewal, stalls, and what a new life of the manager does.

use super::*;

#[test]
fn a_lease_is_due_for_renewal_after_each_third_and_lost_after_the_last() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Exclusive);
    assert_eq!(b.at(10), [RenewalDue { id: RequestId(1) }]);
    assert_eq!(b.renew(1), [held(1, 1, 40)]);
    assert_eq!(b.at(20), [RenewalDue { id: RequestId(1) }]);
    assert_eq!(b.at(30), [RenewalDue { id: RequestId(1) }]);
    assert_eq!(b.table.next_timeout(), Some(Time(40)));
    assert_eq!(b.at(39), []);
    assert_eq!(b.at(40), [Lost { id: RequestId(1) }, held(2, 2, 70)]);
    assert_eq!(b.renew(1), [], "what is lost can't be renewed");
    assert_eq!(b.release(1), [], "nor released");
}

#[test]
fn after_a_stall_longer_than_the_lease_it_is_lost_before_any_message_is_handled() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Exclusive);
    b.now = Time(1_000);
    assert_eq!(b.renew(1), [Lost { id: RequestId(1) }, held(2, 2, 1_030)]);
}

#[test]
fn a_clock_that_goes_back_brings_no_lease_back() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    assert_eq!(b.at(30), [Lost { id: RequestId(1) }]);
    b.now = Time(5);
    assert_eq!(b.lock(2, 2, "a", Exclusive), [held(2, 2, 60)]);
}

#[test]
fn all_grants_of_a_session_on_a_lock_are_lost_together() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 1, "a", Exclusive);
    assert_eq!(
        b.at(30),
        [Lost { id: RequestId(1) }, Lost { id: RequestId(2) }]
    );
    assert_eq!(b.table.sizes(), [0; 3]);
}

#[test]
fn a_new_opening_grants_nothing_before_the_old_leases_are_over_and_its_tokens_rise() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "b", Exclusive);
    b.table = LockTable::new(limits(), OPENING + 1, Time(100));
    assert_eq!(b.prepare(7, "a", 1, 500), [stale(7, "a", 1)]);
    assert_eq!(b.lock(3, 3, "a", Shared), []);
    assert_eq!(b.lock(4, 4, "a", Shared), []);
    assert_eq!(b.try_lock(5, 5, "b", Shared), [refused(5, busy("b"))]);
    assert_eq!(b.lock_until(6, 6, "b", 50), []);
    assert_eq!(b.at(99), [refused(6, timeout("b"))]);
    let out = b.at(100);
    let next = FencingToken::before(OPENING + 1).0;
    let granted = |id, token| LockEffect::Held {
        id: RequestId(id),
        token: FencingToken(token),
        expires: Time(130),
    };
    assert_eq!(out, [granted(3, next + 1), granted(4, next + 2)]);
    assert!(FencingToken(next + 1) > token(u64::MAX >> 24));
}

/// The simulator's seed 46: a panic right behind an opening, whose next life knew only of leases of its own opening.
#[test]
fn a_panic_behind_an_opening_does_not_forget_the_leases_of_the_opening_before() {
    let mut b = bench();
    b.table = LockTable::new(limits(), OPENING + 1, Time(100));
    b.table = b.table.next_life(Time(12));
    let life = b.table.life();
    b.tell(LockMessage::LifeKnown { life });
    assert_eq!(b.lock(1, 1, "a", Exclusive), []);
    assert_eq!(b.at(99), []);
    let out = b.at(100);
    assert!(matches!(out[..], [LockEffect::Held { .. }]), "{out:?}");
}

//! Votes on transactions under a token.

use super::*;

/// Kleppmann, "How to do distributed locking", 2016: the first holder pauses past its lease, the second writes, and then
/// the first writes.
#[test]
fn kleppmann_s_paused_holder_cannot_write_after_the_next_one() {
    let mut b = bench();
    assert_eq!(b.lock(1, 1, "file", Exclusive), [held(1, 1, 30)]);
    b.lock(2, 2, "file", Exclusive);
    assert_eq!(b.at(31), [Lost { id: RequestId(1) }, held(2, 2, 61)]);
    assert_eq!(b.prepare(70, "file", 2, 50), [yes(70)]);
    assert_eq!(b.resolve(70), []);
    assert_eq!(b.prepare(71, "file", 1, 50), [stale(71, "file", 1)]);
    b.release(2);
    assert_eq!(
        b.prepare(72, "file", 1, 50),
        [stale(72, "file", 1)],
        "nobody's token"
    );
}

#[test]
fn a_lock_is_not_handed_on_before_the_transaction_under_its_token_is_decided() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Exclusive);
    assert_eq!(b.prepare(7, "a", 1, 100), [yes(7)]);
    assert_eq!(b.prepare(7, "a", 1, 100), [yes(7)], "it may come twice");
    assert_eq!(b.prepare(8, "a", 1, 100), [yes(8)]);
    assert_eq!(b.at(30), [Lost { id: RequestId(1) }]);
    assert_eq!(
        b.prepare(9, "a", 1, 100),
        [stale(9, "a", 1)],
        "the lease is over"
    );
    assert_eq!(b.prepare(8, "a", 1, 100), [yes(8)], "its vote stands");
    assert_eq!(b.resolve(7), []);
    assert_eq!(b.resolve(7), [], "it may come twice");
    assert_eq!(b.resolve(8), [held(2, 2, 60)]);
    assert_eq!(b.table.sizes(), [1, 1, 1]);
}

#[test]
fn a_released_lock_stays_with_the_transaction_and_its_session_waits_like_others() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.prepare(7, "a", 1, 100);
    assert_eq!(b.release(1), []);
    assert_eq!(b.lock(2, 1, "a", Shared), []);
    assert_eq!(b.try_lock(3, 2, "a", Exclusive), [refused(3, busy("a"))]);
    assert_eq!(b.resolve(7), [held(2, 2, LEASE)]);
}

#[test]
fn a_downgrade_lets_nobody_in_before_the_decision() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Shared);
    b.prepare(7, "a", 1, 100);
    let done = Converted { id: RequestId(3) };
    assert_eq!(b.convert(3, 1, Shared, FOR_EVER), [held(1, 1, LEASE), done]);
    assert_eq!(b.resolve(7), [held(2, 2, LEASE)]);
}

#[test]
fn the_journal_is_asked_again_and_again_for_a_transaction_past_its_deadline() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.prepare(7, "a", 1, 8);
    assert_eq!(b.at(8), [ask(7, 8)]);
    assert_eq!(b.at(13), [RenewalDue { id: RequestId(1) }, ask(7, 8)]);
    assert_eq!(b.resolve(7), []);
    assert_eq!(
        b.table.next_timeout(),
        Some(Time(23)),
        "only the lease is left"
    );
}

#[test]
fn a_fence_that_comes_too_late_or_for_an_unknown_lock_is_refused() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.now = Time(5);
    let late = Ballot::No(Error::DeadlineExceeded);
    assert_eq!(b.prepare(7, "a", 1, 5), [vote(7, late)]);
    assert_eq!(b.prepare(8, "b", 1, 50), [stale(8, "b", 1)]);
    assert_eq!(b.prepare(9, "a", 2, 50), [stale(9, "a", 2)]);
    assert_eq!(b.release(1), []);
    assert_eq!(b.table.sizes(), [0; 3]);
}

#[test]
fn a_transaction_under_two_tokens_is_voted_on_once_and_keeps_both_locks_or_none() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 1, "b", Exclusive);
    b.lock(3, 2, "a", Exclusive);
    assert_eq!(
        b.prepare_all(7, &[("a", 1), ("b", 9)], 50),
        [stale(7, "b", 9)]
    );
    assert_eq!(b.table.fenced(), 0, "a No keeps nothing");
    assert_eq!(b.prepare_all(8, &[("a", 1), ("b", 2)], 50), [yes(8)]);
    assert_eq!(b.release(1), []);
    b.release(2);
    assert_eq!(b.table.sizes()[0], 2, "both are kept");
    assert_eq!(b.resolve(8), [held(3, 3, LEASE)]);
    assert_eq!((b.table.sizes(), b.table.fenced()), ([1, 1, 1], 0));
}

#[test]
fn after_a_panic_nothing_is_granted_before_the_journal_knows_the_new_life() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.prepare(7, "a", 1, 50);
    b.table = b.table.next_life(Time(12));
    let life = FIRST_LOCK_LIFE.next();
    let announced = Announce { life };
    assert_eq!(b.lock(2, 2, "a", Exclusive), [announced], "it waits");
    assert_eq!(b.at(5), [Announce { life }], "until it is answered");
    let known = |life| LockMessage::LifeKnown { life };
    assert_eq!(b.tell(known(FIRST_LOCK_LIFE)), [], "of an earlier life");
    assert_eq!(b.tell(known(life)), [], "leases of the old life may go on");
    assert_eq!(b.at(12), [held(2, 2, 42)], "and the tokens have gone on");
    assert_eq!(b.prepare(8, "a", 1, 50), [stale(8, "a", 1)]);
    let (incarnation, epoch) = (life, Epoch(0));
    assert_eq!(
        b.prepare(9, "a", 2, 50),
        [vote(9, Ballot::Yes { incarnation, epoch })]
    );
    assert_eq!(b.tell(known(life)), [], "it may come twice");
    assert_eq!(b.resolve(7), [], "the old life's votes are forgotten");
}

#[test]
fn a_life_that_the_journal_does_not_know_refuses_who_does_not_wait() {
    let mut b = bench();
    b.table = b.table.next_life(Time(0));
    let life = FIRST_LOCK_LIFE.next();
    let out = b.try_lock(1, 1, "a", Exclusive);
    assert_eq!(out, [Announce { life }, refused(1, busy("a"))]);
    b.lock(2, 1, "a", Exclusive);
    let out = b.tell(LockMessage::LifeKnown { life });
    assert_eq!(out, [held(2, 1, LEASE)], "at once");
    assert_eq!(b.table.next_timeout(), Some(Time(10)), "only the lease");
}

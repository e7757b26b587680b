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
    assert_eq!(b.prepare(70, "file", 2, 50), [vote(70, "file", YES)]);
    assert_eq!(b.resolve(70), []);
    assert_eq!(b.prepare(71, "file", 1, 50), [vote(71, "file", STALE)]);
    b.release(2);
    assert_eq!(
        b.prepare(72, "file", 1, 50),
        [vote(72, "file", STALE)],
        "nobody's token"
    );
}

#[test]
fn a_lock_is_not_handed_on_before_the_transaction_under_its_token_is_decided() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Exclusive);
    assert_eq!(b.prepare(7, "a", 1, 100), [vote(7, "a", YES)]);
    assert_eq!(
        b.prepare(7, "a", 1, 100),
        [vote(7, "a", YES)],
        "it may come twice"
    );
    assert_eq!(b.prepare(8, "a", 1, 100), [vote(8, "a", YES)]);
    assert_eq!(b.at(30), [Lost { id: RequestId(1) }]);
    assert_eq!(
        b.prepare(9, "a", 1, 100),
        [vote(9, "a", STALE)],
        "the lease is over"
    );
    assert_eq!(
        b.prepare(8, "a", 1, 100),
        [vote(8, "a", YES)],
        "its vote stands"
    );
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
    assert_eq!(b.at(8), [Ask { txn: 7 }]);
    assert_eq!(b.at(13), [RenewalDue { id: RequestId(1) }, Ask { txn: 7 }]);
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
    let late = FenceVote::No(FenceRefusal::DeadlinePassed);
    assert_eq!(b.prepare(7, "a", 1, 5), [vote(7, "a", late)]);
    assert_eq!(b.prepare(8, "b", 1, 50), [vote(8, "b", STALE)]);
    assert_eq!(b.prepare(9, "a", 2, 50), [vote(9, "a", STALE)]);
    assert_eq!(b.release(1), []);
    assert_eq!(b.table.sizes(), [0; 3]);
}

//! Who gets a lock, and in which order.

use super::*;

#[test]
fn an_uncontended_lock_comes_and_goes_and_leaves_nothing() {
    let mut b = bench();
    for round in 1..=3 {
        assert_eq!(
            b.lock(round, 1, "a", Exclusive),
            [held(round, round, LEASE)]
        );
        assert_eq!(b.table.sizes(), [1, 1, 1]);
        assert_eq!(b.table.next_timeout(), Some(Time(LEASE / 3)));
        assert_eq!(b.release(round), []);
        assert_eq!(b.table.sizes(), [0; 3]);
        assert_eq!(b.table.next_timeout(), None);
    }
}

#[test]
fn the_exclusive_lock_goes_from_one_to_the_next_in_the_order_of_arrival() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    assert_eq!(b.lock(2, 2, "a", Exclusive), []);
    assert_eq!(b.lock(3, 3, "a", Exclusive), []);
    assert_eq!(b.lock(4, 4, "b", Exclusive), [held(4, 2, LEASE)]);
    assert_eq!(b.release(1), [held(2, 3, LEASE)]);
    assert_eq!(b.release(2), [held(3, 4, LEASE)]);
}

#[test]
fn readers_enter_together_but_none_overtakes_a_writer() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    assert_eq!(b.lock(2, 2, "a", Shared), [held(2, 2, LEASE)]);
    assert_eq!(b.lock(3, 3, "a", Exclusive), []);
    assert_eq!(b.lock(4, 4, "a", Shared), []);
    assert_eq!(b.lock(5, 5, "a", Shared), []);
    assert_eq!(b.try_lock(6, 6, "a", Shared), [refused(6, busy("a"))]);
    assert_eq!(b.release(1), []);
    assert_eq!(b.release(2), [held(3, 3, LEASE)]);
    assert_eq!(b.release(3), [held(4, 4, LEASE), held(5, 5, LEASE)]);
}

#[test]
fn intent_holders_share_the_whole_and_keep_out_who_wants_all_of_it() {
    let mut b = bench();
    b.lock(1, 1, "a", IntentExclusive);
    assert_eq!(b.lock(2, 2, "a", IntentExclusive), [held(2, 2, LEASE)]);
    assert_eq!(b.lock(3, 3, "a", IntentShared), [held(3, 3, LEASE)]);
    assert_eq!(b.try_lock(4, 4, "a", Shared), [refused(4, busy("a"))]);
    assert_eq!(b.release(1), []);
    assert_eq!(b.release(2), []);
    assert_eq!(b.try_lock(5, 4, "a", Shared), [held(5, 4, LEASE)]);
}

#[test]
fn a_try_on_a_free_lock_gets_it_and_a_refused_one_leaves_no_trace() {
    let mut b = bench();
    assert_eq!(b.try_lock(1, 1, "a", Exclusive), [held(1, 1, LEASE)]);
    assert_eq!(b.try_lock(2, 2, "a", Exclusive), [refused(2, busy("a"))]);
    assert_eq!(b.table.sizes(), [1, 1, 1]);
}

#[test]
fn a_wait_ends_at_its_deadline_and_lets_those_behind_through() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    assert_eq!(b.lock_until(2, 2, "a", 7), []);
    assert_eq!(b.lock(3, 3, "a", Shared), []);
    assert_eq!(b.table.next_timeout(), Some(Time(7)));
    assert_eq!(b.at(6), []);
    assert_eq!(b.at(7), [refused(2, timeout("a")), held(3, 2, 7 + LEASE)]);
    assert_eq!(b.table.sizes(), [1, 2, 2]);
}

#[test]
fn a_request_that_comes_too_late_is_refused_though_the_lock_is_free() {
    let mut b = bench();
    b.now = Time(9);
    assert_eq!(b.lock_until(1, 1, "a", 9), [refused(1, timeout("a"))]);
    assert_eq!(b.table.sizes(), [0; 3]);
}

#[test]
fn a_dropped_future_leaves_the_queue_wherever_it_stands() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.lock_until(2, 2, "a", 50);
    b.lock(3, 3, "a", Shared);
    assert_eq!(
        b.release(2),
        [held(3, 2, LEASE)],
        "nobody stands before it any more"
    );
    assert_eq!(b.release(2), [], "it may come twice");
    assert_eq!(
        b.table.next_timeout(),
        Some(Time(10)),
        "the deadline went with it"
    );
}

#[test]
fn a_grant_that_crosses_a_cancellation_is_released_at_once() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Exclusive);
    b.lock(3, 3, "a", Exclusive);
    assert_eq!(b.release(1), [held(2, 2, LEASE)]);
    // The future of 2 was dropped before it saw the grant.
    assert_eq!(b.release(2), [held(3, 3, LEASE)]);
}

#[test]
fn a_session_enters_its_own_lock_again_under_the_same_token_and_past_the_queue() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Exclusive);
    b.now = Time(4);
    assert_eq!(b.lock(3, 1, "a", Shared), [held(1, 1, 34), held(3, 1, 34)]);
    assert_eq!(b.table.next_timeout(), Some(Time(10)));
    assert_eq!(
        b.release(1),
        [],
        "the other grant was shared, but 2 wants all of it"
    );
    assert_eq!(b.release(3), [held(2, 2, 34)]);
}

#[test]
fn what_is_left_of_a_session_s_grants_is_what_keeps_others_out() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 1, "a", Shared);
    assert_eq!(b.lock(3, 2, "a", Shared), []);
    assert_eq!(
        b.release(1),
        [held(3, 2, LEASE)],
        "only the shared grant is left"
    );
}

#[test]
fn a_second_grant_adds_its_mode_to_the_first() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    assert_eq!(
        b.lock(2, 1, "a", IntentExclusive),
        [held(1, 2, LEASE), held(2, 2, LEASE)]
    );
    let listing = b.table.list(9);
    assert_eq!(listing[0].holders[0].mode, SharedIntentExclusive);
    assert_eq!(b.lock(3, 2, "a", IntentShared), [held(3, 3, LEASE)]);
    assert_eq!(
        b.try_lock(4, 3, "a", IntentExclusive),
        [refused(4, busy("a"))]
    );
}

#[test]
fn a_session_stands_in_a_queue_in_one_place_and_is_no_deadlock_with_itself() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Shared);
    b.lock(3, 3, "a", Exclusive);
    assert_eq!(b.lock(4, 2, "a", Exclusive), []);
    assert_eq!(
        b.release(1),
        [held(2, 2, LEASE), held(2, 3, LEASE), held(4, 3, LEASE)]
    );
    assert_eq!(b.end_session(2), [held(3, 4, LEASE)]);
}

#[test]
fn the_end_of_a_session_releases_what_it_holds_and_refuses_what_it_waits_for() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "b", Exclusive);
    b.lock(3, 1, "b", Exclusive);
    b.lock(4, 1, "b", Exclusive);
    b.lock(5, 3, "a", Exclusive);
    assert_eq!(
        b.end_session(1),
        [
            refused(3, Error::LockLost),
            refused(4, Error::LockLost),
            held(5, 3, LEASE)
        ]
    );
    assert_eq!(b.end_session(1), [], "it may come twice");
    assert_eq!(b.table.sizes(), [2, 2, 2]);
}

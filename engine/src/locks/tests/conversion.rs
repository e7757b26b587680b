//! Upgrades and downgrades.

use super::*;

#[test]
fn an_upgrade_goes_before_the_queue_and_takes_a_new_token() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.lock(2, 2, "a", Shared);
    b.lock(3, 3, "a", Shared);
    b.lock(4, 4, "a", Exclusive);
    assert_eq!(b.convert(5, 1, Exclusive, FOR_EVER), []);
    assert_eq!(b.release(2), []);
    let done = Converted { id: RequestId(5) };
    assert_eq!(b.release(3), [held(1, 4, LEASE), done]);
    assert_eq!(b.release(1), [held(4, 5, LEASE)]);
}

#[test]
fn nobody_enters_while_an_upgrade_waits_so_it_is_not_starved() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.lock(2, 2, "a", Shared);
    b.convert(3, 1, Exclusive, FOR_EVER);
    assert_eq!(b.lock(4, 3, "a", Shared), []);
    let done = Converted { id: RequestId(3) };
    assert_eq!(b.release(2), [held(1, 3, LEASE), done]);
    assert_eq!(b.release(1), [held(4, 4, LEASE)]);
}

#[test]
fn a_refused_upgrade_leaves_the_grant_as_it_was() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.lock(2, 2, "a", Shared);
    assert_eq!(
        b.convert(3, 1, Exclusive, Wait::Never),
        [refused(3, busy("a"))]
    );
    assert_eq!(b.convert(4, 1, Exclusive, Wait::Until(Time(5))), []);
    assert_eq!(b.at(5), [refused(4, timeout("a"))]);
    assert_eq!(b.lock(5, 3, "a", Shared), [held(5, 3, 35)]);
    assert_eq!(b.renew(1), [held(1, 1, 35)]);
}

#[test]
fn a_downgrade_keeps_the_token_and_lets_others_in() {
    let mut b = bench();
    b.lock(1, 1, "a", Exclusive);
    b.lock(2, 2, "a", Shared);
    b.lock(3, 3, "a", Shared);
    let done = Converted { id: RequestId(4) };
    assert_eq!(
        b.convert(4, 1, Shared, FOR_EVER),
        [
            held(1, 1, LEASE),
            done,
            held(2, 2, LEASE),
            held(3, 3, LEASE)
        ]
    );
}

#[test]
fn a_conversion_sideways_needs_what_it_adds_and_gives_up_what_it_had() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.lock(2, 2, "a", IntentShared);
    assert_eq!(b.lock(3, 3, "a", IntentExclusive), []);
    let done = Converted { id: RequestId(4) };
    assert_eq!(
        b.convert(4, 1, IntentExclusive, FOR_EVER),
        [held(1, 3, LEASE), done, held(3, 4, LEASE)]
    );
}

#[test]
fn a_conversion_ends_with_its_grant() {
    let mut b = bench();
    b.lock(1, 1, "a", Shared);
    b.lock(2, 2, "a", Shared);
    b.convert(3, 1, Exclusive, FOR_EVER);
    assert_eq!(b.release(1), [refused(3, Error::LockLost)]);
    b.convert(4, 2, Shared, FOR_EVER);
    b.lock(5, 3, "a", Shared);
    b.convert(6, 2, Exclusive, FOR_EVER);
    b.renew(5);
    b.now = Time(20);
    b.renew(5);
    assert_eq!(
        b.at(30)[..2],
        [Lost { id: RequestId(2) }, refused(6, Error::LockLost)]
    );
    assert_eq!(
        b.convert(7, 2, Exclusive, FOR_EVER),
        [refused(7, Error::LockLost)]
    );
}

//! The claims.

use crate::{
    budget::{Budget, OpenBytes},
    clock::Clock,
    queue::Queue,
    sync::{AtomicUsize, Ordering::SeqCst, block_on},
    ticket::Ticket,
};
use loom::{model::Builder, thread};
use mailring_engine::{
    Error,
    ids::{RequestId, Time},
    locks::{FencingToken, Resource},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    TellsBeforeItFrees,
    FreesAndTellsNobody,
    GrantsBeforeTheTerms,
    RenewsAndTellsNobody,
    TakesNoPlace,
}

/// Tries every order of steps.
fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(check);
}

/// It holds in every order, and with each of these faults there is one in which it does not.
fn holds_unless(faults: &[Fault], scenario: fn(Fault)) {
    model(move || scenario(Fault::None));
    for &fault in faults {
        let found = catch_unwind(AssertUnwindSafe(|| model(move || scenario(fault))));
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

const NOW: Time = Time(10);

/// Of generations of so many bytes, which may be 100 at most; requests may be 50, open transactions 30.
fn budget(generations: usize) -> Arc<Budget> {
    let gauge = Arc::new(AtomicUsize::new(generations));
    Arc::new(Budget::new(Clock(NOW), gauge, 100, 50, 30, 20))
}

#[test]
fn whoever_waits_for_memory_goes_on_when_some_is_freed() {
    let faults = [Fault::TellsBeforeItFrees, Fault::FreesAndTellsNobody];
    holds_unless(&faults, |fault| {
        let budget = budget(1_000);
        let waits = thread::spawn({
            let budget = Arc::clone(&budget);
            move || block_on(budget.admit(10, Time::MAX)).map(drop)
        });
        if fault == Fault::TellsBeforeItFrees {
            budget.drained(0, 0.0);
        }
        budget.generations.store(0, SeqCst);
        if fault == Fault::None {
            budget.drained(0, 0.0);
        }
        waits.join().unwrap().expect("it is admitted");
        assert_eq!(budget.in_flight_bytes(), 0);
    });
}

#[test]
fn whoever_waits_for_memory_is_told_that_the_engine_has_stopped() {
    holds_unless(&[], |_| {
        let budget = budget(1_000);
        let waits = thread::spawn({
            let budget = Arc::clone(&budget);
            move || block_on(budget.admit(10, Time::MAX)).map(drop)
        });
        budget.close();
        assert_eq!(waits.join().unwrap(), Err(Error::Closed));
    });
}

#[test]
fn requests_at_one_time_are_admitted_up_to_their_bound() {
    holds_unless(&[Fault::TakesNoPlace], |fault| {
        let budget = budget(0);
        let held = Arc::new(AtomicUsize::new(0));
        let enter = move |budget: &Arc<Budget>, held: &AtomicUsize| {
            let permit = block_on(budget.admit(30, NOW));
            if permit.is_ok() {
                let kept = (fault != Fault::TakesNoPlace).then_some(permit);
                assert_eq!(held.fetch_add(30, SeqCst), 0, "30 and 30 are more than 50");
                held.fetch_sub(30, SeqCst);
                drop(kept);
            }
        };
        let other = thread::spawn({
            let (budget, held) = (Arc::clone(&budget), Arc::clone(&held));
            move || enter(&budget, &held)
        });
        enter(&budget, &held);
        other.join().unwrap();
        assert_eq!(budget.in_flight_bytes(), 0, "all is given back");
    });
}

#[test]
fn open_transactions_share_their_bound_and_one_of_two_goes_on() {
    holds_unless(&[], |_| {
        let budget = budget(0);
        let open = |budget: &Arc<Budget>| {
            let mut bytes = OpenBytes::new(budget);
            let is_open = bytes.resize(20).is_ok();
            (bytes, is_open)
        };
        let other = thread::spawn({
            let budget = Arc::clone(&budget);
            move || open(&budget)
        });
        let one = open(&budget);
        let other = other.join().unwrap();
        assert_ne!(one.1, other.1, "20 and 20 are more than 30");
        assert_eq!(budget.open_bytes(), 20, "a refusal changes nothing");
        drop((one, other));
        assert_eq!(budget.open_bytes(), 0);
    });
}

#[test]
fn a_queue_has_no_more_places_than_it_says_and_loses_none() {
    holds_unless(&[Fault::TakesNoPlace], |fault| {
        let queue = Arc::new(Queue::new(1));
        let held = Arc::new(AtomicUsize::new(0));
        let enter = move |queue: &Arc<Queue>, held: &AtomicUsize| {
            let Some(place) = Queue::enter(queue) else {
                return false;
            };
            let kept = (fault != Fault::TakesNoPlace).then_some(place);
            assert_eq!(held.fetch_add(1, SeqCst), 0, "there is one place");
            held.fetch_sub(1, SeqCst);
            drop(kept);
            true
        };
        let other = thread::spawn({
            let (queue, held) = (Arc::clone(&queue), Arc::clone(&held));
            move || enter(&queue, &held)
        });
        let one = enter(&queue, &held);
        let other = other.join().unwrap();
        assert!(one || other, "whoever comes first gets it");
        assert_eq!(queue.depth(), 0);
    });
}

fn ticket() -> Arc<Ticket> {
    Arc::new(Ticket::new(
        RequestId(1),
        Resource::Lock("lock".into()),
        true,
    ))
}

#[test]
fn whoever_hears_of_a_grant_sees_its_terms() {
    holds_unless(&[Fault::GrantsBeforeTheTerms], |fault| {
        let ticket = ticket();
        let owner = thread::spawn({
            let ticket = Arc::clone(&ticket);
            move || {
                block_on(ticket.answered()).expect("it is granted");
                assert_eq!(ticket.token(), FencingToken(7));
                assert!(ticket.is_held(Clock(NOW)), "until 20");
            }
        });
        if fault == Fault::GrantsBeforeTheTerms {
            ticket.grant();
        }
        ticket.hold(FencingToken(7), Time(20));
        owner.join().unwrap();
    });
}

#[test]
fn whoever_waits_for_a_renewal_sees_it() {
    holds_unless(&[Fault::RenewsAndTellsNobody], |fault| {
        let ticket = ticket();
        ticket.hold(FencingToken(7), Time(5));
        let owner = thread::spawn({
            let ticket = Arc::clone(&ticket);
            move || {
                block_on(ticket.told_after(1)).expect("it is renewed");
                assert!(ticket.is_held(Clock(NOW)), "until 20");
            }
        });
        if fault == Fault::RenewsAndTellsNobody {
            ticket.grant();
        } else {
            ticket.hold(FencingToken(7), Time(20));
        }
        owner.join().unwrap();
    });
}

#[test]
fn the_end_of_a_grant_reaches_its_owner_whenever_it_begins_to_wait() {
    holds_unless(&[], |_| {
        let ticket = ticket();
        let owner = thread::spawn({
            let ticket = Arc::clone(&ticket);
            move || {
                let answered = block_on(ticket.answered());
                block_on(ticket.lost());
                assert!(!ticket.is_held(Clock(NOW)));
                answered
            }
        });
        ticket.hold(FencingToken(7), Time(20));
        ticket.end(Error::Closed);
        // Who looks late finds the end only.
        let answered = owner.join().unwrap();
        assert!(
            matches!(answered, Ok(()) | Err(Error::LockLost)),
            "{answered:?}"
        );
    });
}

//! How arcs leave a node and come to it, message by message.

use super::{
    transactions::{abort, no, part, prepare, scan_of, settle, transact, txn, vote},
    *,
};
use crate::{
    cache::Lookup,
    error::Rival,
    ring::{ArcSet, arc_at, position},
    scan::Merge,
    store::runs::Direction,
    transaction::{Ask, Asker, Ballot, Prepare},
};
use std::ops::Bound;

const ARC_BITS: u32 = 10;
/// The ring's epoch after the cut.
const AFTER: Epoch = Epoch(9);

/// The arcs of the keys `m1`, `m2` and `m3`.
pub(super) fn moving() -> Arc<ArcSet> {
    let arcs = ["m1", "m2", "m3"].map(|name| arc_at(position(name.as_bytes()), ARC_BITS));
    let set = ArcSet::of(ARC_BITS, arcs);
    for name in ["s1", "s2", "s3", "a"] {
        assert!(!set.contains_key(name.as_bytes()), "{name} stays");
    }
    Arc::new(set)
}

fn none() -> Arc<ArcSet> {
    Arc::new(ArcSet::new(ARC_BITS))
}

pub(super) fn hand_over(attempt: u64) -> NodeMessage {
    NodeMessage::HandOver {
        change: 2,
        attempt,
        arcs: moving(),
    }
}

fn handed_over(attempt: u64, incarnation: Incarnation, through: u64) -> NodeEffect {
    NodeEffect::HandedOver {
        node: NODE,
        change: 2,
        attempt,
        incarnation,
        through: Lsn(through),
    }
}

fn lost(incarnation: Incarnation, lsn: u64) -> NodeMessage {
    NodeMessage::Owners(Owners {
        epoch: AFTER,
        lsn: Lsn(lsn),
        lost: moving(),
        lost_all: false,
        gained: none(),
        is_taken_over: false,
        incarnation,
    })
}

/// These were its last.
fn lost_all(incarnation: Incarnation, lsn: u64) -> NodeMessage {
    let NodeMessage::Owners(owners) = lost(incarnation, lsn) else {
        unreachable!("it is one");
    };
    let lost_all = true;
    NodeMessage::Owners(Owners { lost_all, ..owners })
}

fn fenced_at_9(incarnation: Incarnation) -> NodeMessage {
    let through = Lsn(9);
    NodeMessage::Fenced {
        incarnation,
        through,
    }
}

fn gained(incarnation: Incarnation, lsn: u64) -> NodeMessage {
    NodeMessage::Owners(Owners {
        epoch: AFTER,
        lsn: Lsn(lsn),
        lost: none(),
        lost_all: false,
        gained: moving(),
        is_taken_over: false,
        incarnation,
    })
}

fn moved(id: u64) -> NodeEffect {
    refused(id, Error::Moved { node: NODE })
}

fn not_here(number: u64) -> NodeEffect {
    vote(number, Ballot::No(Error::Moved { node: NODE }))
}

fn yes_at(number: u64, epoch: Epoch) -> NodeEffect {
    let incarnation = LIFE;
    vote(number, Ballot::Yes { incarnation, epoch })
}

fn yes(number: u64) -> NodeEffect {
    yes_at(number, OWNED_SINCE)
}

/// The same request, routed by another ring.
fn routed(message: NodeMessage, by: Epoch) -> NodeMessage {
    match message {
        NodeMessage::Request {
            id,
            deadline,
            operation,
            ..
        } => NodeMessage::Request {
            id,
            deadline,
            epoch: by,
            operation,
        },
        NodeMessage::Prepares(prepares) => {
            let by = |prepare| Prepare {
                epoch: by,
                ..prepare
            };
            NodeMessage::Prepares(prepares.into_iter().map(by).collect())
        }
        other => other,
    }
}

impl Bench {
    fn is_leaving(&self, name: &str) -> bool {
        self.table.view().is_leaving(&key(name))
    }

    /// What a worker does beside the node.
    fn ingest(&self, pairs: &[(&str, &str)]) {
        let entry = |(name, value): &(&str, &str)| {
            let value = put_of(name, value).value.expect("a put has a value");
            (key(name), Some(value.encode()))
        };
        let run: std::collections::BTreeMap<_, _> = pairs.iter().map(entry).collect();
        let taken = self.store.ingest(&mut run.into_iter());
        taken.expect("memory takes it");
    }

    /// What a sweep does to the tree.
    fn sweep(&self, names: &[&str]) {
        let mut run = names.iter().map(|name| (key(name), None));
        self.store.ingest(&mut run).expect("memory takes it");
    }

    fn scan(&self, at: u64) -> Vec<(Bytes, Bytes)> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let view = self.table.view();
        let sources = view.sources(&all.0, &all.1, Lsn(at), Direction::Forward);
        let merged = Merge::new(sources, Direction::Forward, 0);
        merged
            .map(|pair| pair.expect("memory reads"))
            .map(|(key, value)| (key, value.bytes))
            .collect()
    }
}

#[test]
fn what_touches_the_arcs_is_moved_and_all_else_goes_on() {
    let mut node = bench();
    assert_eq!(node.tell(hand_over(1)), [handed_over(1, LIFE, 0)]);
    assert!(node.is_leaving("m1") && !node.is_leaving("s1"));
    assert_eq!(node.tell(put(1, "m1", "x")), [moved(1)]);
    assert_eq!(node.tell(add_to(2, "m2", 1)), [moved(2)]);
    assert_eq!(node.tell(compare(3, "m3", None)), [moved(3)]);
    let both = Operation::Write([put_of("s1", "x"), put_of("m1", "x")].into());
    assert_eq!(node.tell(request(4, both)), [moved(4)]);
    let reading = part(0, &["s1", "m1"], &["s2"]);
    assert_eq!(node.tell(transact(5, reading.clone())), [moved(5)]);
    assert_eq!(node.tell(transact(6, scan_of(0, "x", "y"))), [moved(6)]);
    assert_eq!(node.tell(prepare(7, reading)), [not_here(7)]);
    assert_eq!(node.tell(prepare(8, part(0, &[], &["m1"]))), [not_here(8)]);
    assert_eq!(node.tell(prepare(9, scan_of(0, "x", "y"))), [not_here(9)]);
    assert_eq!(node.tell(put(10, "s1", "x")), [ScheduleFlush]);
    assert_eq!(node.tell(prepare(11, part(0, &["s2"], &["s3"]))), [yes(11)]);
    let late = routed(put(12, "m1", "x"), OWNED_SINCE.next());
    assert_eq!(node.tell(late), [moved(12)], "whatever its ring");
}

#[test]
fn handed_over_is_what_was_staged_when_it_is_installed_however_much_comes_behind() {
    let mut node = bench();
    node.tell(put(1, "m1", "x"));
    node.tell(NodeMessage::Flush);
    node.tell(put(2, "m2", "x"));
    assert_eq!(node.tell(hand_over(1)), []);
    assert_eq!(
        node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1)))),
        [installed(LIFE, 1)]
    );
    node.tell(NodeMessage::Flush);
    node.tell(put(3, "s1", "x"));
    assert_eq!(
        node.tell(resolved(LIFE, 0, 1, Ok(Lsn(2)))),
        [installed(LIFE, 2), handed_over(1, LIFE, 2)]
    );
    node.tell(NodeMessage::Flush);
    assert_eq!(
        node.tell(resolved(LIFE, 0, 1, Ok(Lsn(3)))),
        [installed(LIFE, 3)],
        "it is said once"
    );
    assert_eq!(
        node.tell(hand_over(2)),
        [handed_over(2, LIFE, 3)],
        "but to whoever asks again"
    );
}

#[test]
fn what_the_journal_refuses_is_not_waited_for() {
    let mut node = bench();
    node.tell(put(1, "m1", "x"));
    node.tell(NodeMessage::Flush);
    node.tell(hand_over(1));
    let late = || Error::DeadlineExceeded;
    assert_eq!(
        node.tell(resolved(LIFE, 0, 1, Err(late()))),
        [refused(1, late()), handed_over(1, LIFE, 0)]
    );
}

#[test]
fn handed_over_waits_for_prepared_transactions_that_hold_a_key_of_the_arcs_or_a_range() {
    let mut node = bench();
    node.tell(prepare(1, part(0, &["m1"], &[])));
    node.tell(prepare(2, part(0, &["s1"], &["s2"])));
    node.tell(prepare(3, scan_of(0, "x", "y")));
    node.tell(prepare(4, part(0, &[], &["m2"])));
    assert_eq!(node.tell(hand_over(1)), []);
    assert_eq!(node.tell(settle(1, Some(4))), []);
    assert_eq!(node.tell(settle(4, Some(5))), [installed(LIFE, 5)]);
    // The coordinator of the last one is gone.
    let ask = Ask {
        txn: txn(3),
        deadline: Time(50),
        asker: Asker::Node(NODE, LIFE),
    };
    let out = node.timeout(50);
    assert!(out.contains(&Journal(JournalMessage::Asks(vec![
        Ask { txn: txn(2), ..ask },
        ask
    ]))));
    assert_eq!(node.tell(settle(3, None)), [handed_over(1, LIFE, 5)]);
    assert_eq!(node.machine.prepared(), 1, "which touches other keys");
}

#[test]
fn what_was_parked_is_looked_at_again() {
    let mut node = bench();
    node.tell(prepare(1, part(0, &["m1"], &[])));
    node.tell(prepare(2, part(0, &["s1"], &[])));
    assert_eq!(node.tell(put(1, "m1", "x")), []);
    assert_eq!(node.tell(put(2, "s1", "x")), []);
    assert_eq!(node.tell(hand_over(1)), [moved(1)]);
    assert_eq!(node.machine.parked(), 1);
    assert_eq!(node.tell(abort(1)), [handed_over(1, LIFE, 0)]);
    assert_eq!(node.tell(abort(2)), [ScheduleFlush], "the other goes on");
}

#[test]
fn a_new_life_refuses_from_the_start_and_gives_its_own_word() {
    let mut node = bench();
    assert_eq!(node.tell(hand_over(1)), [handed_over(1, LIFE, 0)]);
    node.restart();
    assert_eq!(node.tell(put(1, "m1", "x")), [], "it waits in line");
    assert_eq!(node.tell(put(2, "s1", "x")), []);
    node.tell(fenced(3));
    assert_eq!(
        node.rebuilt(3),
        [
            installed(NEXT, 3),
            handed_over(1, NEXT, 3),
            moved(1),
            ScheduleFlush
        ]
    );
    assert!(node.is_leaving("m1"));
    // Nor is a recovering node asked in vain.
    let mut node = bench();
    node.restart();
    assert_eq!(node.tell(hand_over(1)), []);
    node.tell(fenced(3));
    assert_eq!(node.tell(hand_over(2)), []);
    assert_eq!(
        node.rebuilt(3),
        [installed(NEXT, 3), handed_over(2, NEXT, 3)]
    );
}

#[test]
fn arcs_that_stay_are_written_again() {
    let mut node = bench();
    node.tell(put(1, "m1", "x"));
    node.tell(NodeMessage::Flush);
    node.tell(hand_over(1));
    let keep = |change| NodeMessage::KeepArcs { change };
    assert_eq!(node.tell(keep(1)), [], "another change");
    assert_eq!(node.tell(put(2, "m1", "y")), [moved(2)]);
    assert_eq!(node.tell(keep(2)), []);
    assert!(!node.is_leaving("m1"));
    assert_eq!(node.tell(put(3, "m1", "y")), [ScheduleFlush]);
    let out = node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
    assert_eq!(out, [installed(LIFE, 1)], "nobody waits for it any more");
    assert_eq!(node.tell(keep(2)), [], "told twice");
}

#[test]
fn a_source_refuses_by_the_ring_and_forgets_the_arcs_when_its_tree_has_passed_the_cut() {
    let mut node = bench();
    node.tell(hand_over(1));
    node.tell(prepare(1, part(0, &["s3"], &[])));
    assert_eq!(node.tell(lost(LIFE, 5)), [installed(LIFE, 5)]);
    assert_eq!(node.tell(lost(LIFE, 5)), [installed(LIFE, 5)], "told twice");
    let keep = NodeMessage::KeepArcs { change: 2 };
    assert_eq!(node.tell(keep), [], "too late");
    assert_eq!(node.tell(hand_over(2)), [], "they are handed over");
    assert_eq!(
        node.tell(prepare(1, part(0, &["s3"], &[]))),
        [yes(1)],
        "the epoch is the one under which it was validated"
    );
    assert_eq!(node.tell(put(1, "m1", "x")), [moved(1)]);
    assert_eq!(node.tell(put(2, "s1", "x")), [ScheduleFlush]);
    assert_eq!(node.tell(prepare(2, scan_of(5, "x", "y"))), [not_here(2)]);
    let scan = prepare(3, scan_of(5, "x", "y"));
    assert_eq!(node.tell(routed(scan, AFTER)), [yes_at(3, AFTER)]);
    assert!(node.is_leaving("m1"));
    node.tell(NodeMessage::Flushed { through: Lsn(4) });
    let other = NodeMessage::Forget { change: 1 };
    let told = node.tell(other);
    assert_eq!(told, [forgotten(1)], "nothing was lost in that one");
    assert_eq!(node.tell(NodeMessage::Forget { change: 2 }), []);
    assert!(node.is_leaving("m1"), "a reader of before may still come");
    assert_eq!(node.tell(put(3, "s2", "x")), []);
    let flushed = NodeMessage::Flushed { through: Lsn(5) };
    assert_eq!(node.tell(flushed), [forgotten(2)]);
    assert!(!node.is_leaving("m1"));
    assert_eq!(node.tell(put(4, "s2", "x")), [moved(4)], "it can't be told");
    assert_eq!(node.tell(routed(put(5, "s2", "x"), AFTER)), []);
}

fn forgotten(change: u64) -> NodeEffect {
    let node = NodeId(4);
    NodeEffect::Forgotten { node, change }
}

#[test]
fn a_swept_tree_is_shown_when_no_checkpoint_can_have_written_ahead_of_the_view() {
    let mut node = bench();
    node.ingest(&[("m1", "copy")]);
    node.tell(NodeMessage::Flushed { through: Lsn(1) });
    assert_eq!(node.scan(1).len(), 1);
    node.sweep(&["m1"]);
    assert_eq!(node.scan(1).len(), 1, "not yet");
    let forget = NodeMessage::Forget { change: 1 };
    assert_eq!(node.tell(forget.clone()), [forgotten(1)]);
    assert_eq!(node.scan(1).len(), 0);
    assert_eq!(node.tell(forget.clone()), [forgotten(1)], "asked twice");
    node.tell(NodeMessage::Freeze(Lsn(2)));
    assert_eq!(node.tell(forget), [], "a run may be in the tree");
    let flushed = NodeMessage::Flushed { through: Lsn(2) };
    assert_eq!(node.tell(flushed), [forgotten(1)]);
}

/// The simulator's seed 1001881 of its day: the generation of a life that was rebuilt goes back behind the Cut, and a
/// checkpoint brought it into the swept tree.
#[test]
fn what_was_lost_does_not_come_back_with_a_rebuilt_generation() {
    for flushed_before in [false, true] {
        let mut node = bench();
        node.tell(hand_over(1));
        node.tell(lost(LIFE, 5));
        node.restart();
        node.tell(fenced(6));
        let flushed = NodeMessage::Flushed { through: Lsn(5) };
        let forget = NodeMessage::Forget { change: 2 };
        if flushed_before {
            node.tell(flushed.clone());
            assert_eq!(node.tell(forget.clone()), [], "what comes may be of before");
            assert!(node.is_leaving("m1"));
        }
        let generation = Generation::new();
        generation.insert(Lsn(4), &put_of("m1", "gone"));
        generation.insert(Lsn(6), &put_of("s1", "own"));
        node.tell(NodeMessage::Rebuilt {
            incarnation: NEXT,
            through: Lsn(6),
            generation: Ok(Arc::new(generation)),
        });
        if !flushed_before {
            assert_eq!(node.scan(4).len(), 1, "who reads below the Cut finds it");
            node.tell(flushed);
        }
        assert_eq!(node.scan(6).len(), 1);
        node.tell(forget);
        assert!(!node.is_leaving("m1"));
    }
}

#[test]
fn what_was_lost_is_remembered_by_the_next_life() {
    for dies_before in [false, true] {
        let mut node = bench();
        node.tell(hand_over(1));
        if !dies_before {
            node.tell(lost(LIFE, 5));
        }
        node.restart();
        if dies_before {
            assert_eq!(node.tell(lost(LIFE, 5)), [], "the fence answers for it");
        }
        node.tell(put(1, "m1", "x"));
        node.tell(put(2, "s1", "x"));
        node.tell(fenced(6));
        let out = node.rebuilt(6);
        assert_eq!(out, [installed(NEXT, 6), moved(1), ScheduleFlush]);
        assert!(node.is_leaving("m1"));
        let late = routed(prepare(1, part(6, &["s2"], &[])), AFTER);
        let (incarnation, epoch) = (NEXT, AFTER);
        let yes = Ballot::Yes { incarnation, epoch };
        assert_eq!(node.tell(late), [vote(1, yes)]);
    }
}

#[test]
#[should_panic(expected = "node 4 lost arcs that it has kept")]
fn arcs_that_were_not_handed_over_are_not_lost() {
    let mut node = bench();
    node.tell(hand_over(1));
    node.tell(NodeMessage::KeepArcs { change: 2 });
    node.tell(lost(LIFE, 5));
}

#[test]
fn a_target_shows_the_copies_and_validates_nothing_below_the_cut() {
    let mut node = bench();
    node.commit("s1", 1);
    let copies = [("m1", "copy"), ("m2", "copy")];
    node.ingest(&copies);
    assert_eq!(node.table.newest(&key("m1")), Ok(None), "not told yet");
    assert_eq!(node.tell(gained(LIFE, 5)), [installed(LIFE, 5)]);
    assert_eq!(node.get("m1", 5), Some("copy".into()));
    let floor = |number, name| no(number, name, Rival::Floor(Lsn(5)));
    assert_eq!(
        node.tell(prepare(1, part(4, &["m2"], &[]))),
        [floor(1, "m2")]
    );
    assert_eq!(
        node.tell(prepare(2, part(4, &["s2"], &[]))),
        [floor(2, "s2")]
    );
    assert_eq!(
        node.tell(prepare(3, part(4, &["s1"], &[]))),
        [yes_at(3, AFTER)]
    );
    assert_eq!(node.tell(prepare(4, scan_of(4, "x", "y"))), [floor(4, "x")]);
    assert_eq!(
        node.tell(prepare(5, part(5, &["m1", "m2"], &["m1"]))),
        [yes_at(5, AFTER)]
    );
    // What is computed here is computed from the copy.
    assert_eq!(node.tell(compare(6, "m2", Some("copy"))), [], "it was read");
    assert_eq!(
        node.tell(settle(5, Some(6))),
        [installed(LIFE, 6), ScheduleFlush]
    );
    assert_eq!(
        node.tell(gained(LIFE, 5)),
        [installed(LIFE, 6)],
        "told twice"
    );
    assert_eq!(node.get("m1", 6), Some("t".into()));
}

#[test]
fn a_run_that_the_node_has_not_heard_of_does_not_shine_through_with_the_copies() {
    let mut node = bench();
    let keyspaces = {
        let mut keyspaces = Keyspaces::new();
        let created = keyspaces.install_create(crate::ids::KeyspaceId(1), "k");
        created.expect("fits");
        keyspaces
    };
    let write_run = |node: &Bench, through| {
        let view = node.table.view();
        let mut run = frozen_run(&view, through, &keyspaces).expect("frozen there");
        node.store.ingest(&mut run).expect("memory takes it");
    };
    node.commit("s1", 1);
    node.tell(NodeMessage::Freeze(Lsn(1)));
    write_run(&node, Lsn(1));
    node.tell(NodeMessage::Flushed { through: Lsn(1) });
    node.tell(put(2, "s1", "new"));
    node.tell(NodeMessage::Flush);
    node.tell(resolved(LIFE, 0, 1, Ok(Lsn(3))));
    node.tell(NodeMessage::Freeze(Lsn(3)));
    write_run(&node, Lsn(3));
    node.ingest(&[("m1", "copy")]);
    assert_eq!(node.tell(gained(LIFE, 5)), [installed(LIFE, 5)]);
    let pair = |name, value: &'static str| (key(name), Bytes::from(value));
    let before = [pair("m1", "copy"), pair("s1", "old")];
    assert_eq!(node.scan(2), before, "the tree is newer than LSN 2");
    assert_eq!(node.get("s1", 2), Some("old".into()));
    let after = [pair("m1", "copy"), pair("s1", "new")];
    assert_eq!(node.scan(5), after);
    assert_eq!(node.get("m1", 5), Some("copy".into()));
    assert_eq!(node.get("m2", 5), None);
    node.tell(NodeMessage::Flushed { through: Lsn(3) });
    let view = node.table.view();
    assert_eq!((view.complete, view.floor), (Lsn(3), Lsn(5)));
    assert_eq!(node.scan(5), after);
}

#[test]
fn a_node_that_recovers_shows_what_it_has_gained_when_it_is_rebuilt() {
    // It showed the floor at once. A row that was found in the tree was taken to be that new, and hid the version that
    // the old life had not come to install.
    for life in [LIFE, NEXT] {
        let mut node = bench();
        node.ingest(&[("a", "before")]);
        node.tell(NodeMessage::Flushed { through: Lsn(1) });
        node.tell(put(1, "a", "x"));
        node.tell(NodeMessage::Flush);
        node.restart();
        node.tell(resolved(LIFE, 0, 1, Ok(Lsn(2))));
        if life == NEXT {
            node.tell(fenced(3));
        }
        node.ingest(&[("m1", "copy")]);
        assert_eq!(node.tell(gained(life, 5)), []);
        assert_eq!(node.get("a", 1), Some("before".into()));
        assert_eq!(node.table.view().floor, Lsn(0));
        if life == LIFE {
            node.tell(fenced(6));
        }
        let through = if life == LIFE { 6 } else { 3 };
        let generation = Generation::new();
        generation.insert(Lsn(2), &put_of("a", "x"));
        let out = node.tell(NodeMessage::Rebuilt {
            incarnation: NEXT,
            through: Lsn(through),
            generation: Ok(Arc::new(generation)),
        });
        assert_eq!(out, [installed(NEXT, through.max(5))]);
        assert_eq!(node.table.view().floor, Lsn(5));
        assert_eq!(node.get("a", 6), Some("x".into()));
        assert_eq!(node.get("m1", 6), Some("copy".into()));
    }
}

#[test]
fn a_node_that_is_down_or_read_only_hands_nothing_over() {
    let mut down = bench();
    down.tell(NodeMessage::GoDown);
    assert_eq!(down.tell(hand_over(1)), []);
    assert_eq!(down.tell(gained(LIFE, 5)), []);
    let mut read_only = bench();
    read_only.tell(prepare(1, part(0, &["m1"], &[])));
    read_only.tell(hand_over(1));
    read_only.tell(NodeMessage::ReadOnly(broken()));
    assert_eq!(read_only.tell(settle(1, None)), []);
    assert_eq!(read_only.tell(hand_over(2)), []);
    assert_eq!(read_only.tell(lost(LIFE, 5)), []);
}

/// The source died between the journal's word and its own cache: `m1` is 2 there, and the cache was never told.
#[test]
fn a_target_that_takes_over_drops_what_the_cache_has_of_the_arcs() {
    let mut node = bench();
    let row = |name: &str| node.cache.get(&key(name), Lsn(9));
    for name in ["m1", "s1"] {
        let old = Value::new("1".into());
        node.cache.insert(&key(name), Lsn(1), Some(&old));
    }
    assert!(matches!(row("m1"), Lookup::Hit(Lsn(1), _)));
    let NodeMessage::Owners(owners) = gained(LIFE, 5) else {
        unreachable!("it is one");
    };
    node.ingest(&[("m1", "2")]);
    let taken_over = NodeMessage::Owners(Owners {
        is_taken_over: true,
        ..owners
    });
    assert_eq!(node.tell(taken_over), [installed(LIFE, 5)]);
    assert_eq!(node.cache.get(&key("m1"), Lsn(9)), Lookup::Miss);
    assert_eq!(node.get("m1", 5), Some("2".into()));
    let other = node.cache.get(&key("s1"), Lsn(9));
    assert!(
        matches!(other, Lookup::Hit(Lsn(1), _)),
        "others keep theirs"
    );
}

#[test]
fn whoever_has_read_of_a_node_that_went_down_meanwhile_leaves_nothing_in_the_cache() {
    let mut node = bench();
    node.commit("m1", 1);
    let view = node.table.view();
    node.table.set_down();
    let (key, at) = (key("m1"), Lsn(1));
    let read = node.table.get_in(&view, &node.cache, &key, at);
    assert!(
        read.expect("memory reads").is_some(),
        "who holds the view reads on"
    );
    assert_eq!(node.cache.get(&key, at), Lookup::Miss);
}

/// The simulator's seed 13165 of its day, with the scenario of `IgnoreLockLife`: a checkpoint had let go of what is older than the
/// change by which a node joined, and the node, which was opened before, asked for that when it died, and was given up.
#[test]
fn a_node_that_has_joined_is_not_rebuilt_from_before_its_first_arcs() {
    let mut node = Bench::joining();
    let fenced = |incarnation, through| NodeMessage::Fenced {
        incarnation,
        through: Lsn(through),
    };
    node.restart();
    assert_eq!(node.tell(fenced(NEXT, 30)), [rebuild(30, 30)]);
    node.rebuilt(30);
    let told = node.tell(gained(NEXT, 33));
    let installed = JournalMessage::Installed {
        node: NODE,
        incarnation: NEXT,
        through: Lsn(33),
    };
    assert_eq!(told, [Journal(installed)]);
    node.restart();
    let third = NEXT.next();
    let rebuild = |after| Rebuild {
        incarnation: third,
        after: Lsn(after),
        through: Lsn(40),
    };
    assert_eq!(node.tell(fenced(third, 40)), [rebuild(33)]);
    // From when its tree has passed that, it is as all others are.
    node.tell(NodeMessage::Flushed { through: Lsn(36) });
    assert_eq!(node.tell(fenced(third, 40)), [rebuild(36)]);
}

/// The simulator's seed 207629824670455: a node that leaves died behind a checkpoint that had left it out, asked the journal
/// for what that had let go of, and was given up for a journal that is corrupt.
#[test]
fn a_node_that_has_lost_its_last_arcs_is_never_rebuilt_again() {
    let mut node = bench();
    node.commit("m1", 1);
    node.tell(hand_over(1));
    node.tell(lost_all(LIFE, 2));
    node.restart();
    assert_eq!(node.tell(fenced_at_9(NEXT)), [installed(NEXT, 9)]);
    assert_eq!(node.get("m1", 1), Some("old".into()), "readers of before");
    let third = NEXT.next();
    node.restart();
    assert_eq!(node.tell(fenced_at_9(third)), [installed(third, 9)]);
    // The change is turned round, and arcs come back.
    node.tell(gained(third, 11));
    node.restart();
    let fourth = third.next();
    let rebuild = Rebuild {
        incarnation: fourth,
        after: Lsn(0),
        through: Lsn(9),
    };
    assert_eq!(node.tell(fenced_at_9(fourth)), [rebuild]);
}

#[test]
fn a_node_that_hears_of_its_last_arcs_while_it_recovers_is_rebuilt_once_more() {
    let mut node = bench();
    node.commit("m1", 1);
    node.tell(hand_over(1));
    node.restart();
    node.tell(lost_all(LIFE, 2));
    let rebuild = |incarnation| Rebuild {
        incarnation,
        after: Lsn(0),
        through: Lsn(9),
    };
    assert_eq!(node.tell(fenced_at_9(NEXT)), [rebuild(NEXT)]);
    node.restart();
    let third = NEXT.next();
    assert_eq!(node.tell(fenced_at_9(third)), [rebuild(third)]);
}

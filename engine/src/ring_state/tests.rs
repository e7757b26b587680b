//! The ring's state: record by record, and against what the plan says, through checkpoints and crashes.

use super::*;
use crate::wire::Reader;
use proptest::prelude::*;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);

fn began(change: Change) -> RingRecord {
    RingRecord::Began(change.into())
}

fn cut(change: u64, from: NodeId) -> RingRecord {
    RingRecord::Cut { change, from }
}

fn cleaned(change: u64, from: NodeId) -> RingRecord {
    RingRecord::Cleaned { change, from }
}

fn ended(change: u64, members: &[(NodeId, u32)]) -> RingRecord {
    let members = members.to_vec();
    RingRecord::Ended { change, members }
}

fn two_nodes() -> RingState {
    RingState::new(Ring::new(8, &[(A, 1), (B, 1)]).expect("it works"))
}

/// The change that brings a third node.
fn adding(state: &RingState) -> Change {
    let (ring, moves) = state.ring().with_node_added(C, 1).expect("it works");
    Change {
        number: state.next_change(),
        members: ring.nodes().to_vec(),
        moves,
    }
}

/// Applies records from LSN 10 on.
fn after(records: impl IntoIterator<Item = RingRecord>) -> RingState {
    let mut state = two_nodes();
    for (lsn, record) in (10..).zip(records) {
        state.apply(Lsn(lsn), &record).expect("it fits");
    }
    state
}

fn refused(state: &RingState, record: &RingRecord) -> &'static str {
    let mut same = state.clone();
    let Err(Error::RingChangeRefused { reason }) = same.apply(Lsn(99), record) else {
        panic!("{record:?} is not refused")
    };
    assert_eq!(same, *state, "a refused record changes nothing");
    assert_eq!(state.check(record), refuse(reason));
    reason
}

#[test]
fn a_node_joins_and_gets_its_arcs_source_by_source() {
    let state = two_nodes();
    assert!(state.is_original());
    let change = adding(&state);
    let (from_a, all) = (change.arcs_from(8, A), change.moves.len());
    assert_eq!(change.arcs_between(8, A, C), from_a);
    assert_eq!(from_a.len() + change.arcs_from(8, B).len(), all);

    let state = after([began(change.clone())]);
    assert_eq!(state.ring().owners(), two_nodes().ring().owners());
    assert_eq!(state.live().collect::<Vec<_>>(), [A, B, C]);
    assert_eq!(state.slots()[2].since, Lsn(10));
    assert_eq!((state.epoch(), state.since()), (Epoch(2), Lsn(0)));
    assert_eq!([A, B, C].map(|node| state.owned_since(node).0), [1, 1, 2]);
    assert_eq!(state.lost_by(A), Some((from_a.clone(), None)));
    assert!(!state.is_original());

    let state = after([began(change.clone()), cut(1, A)]);
    assert_eq!((state.epoch(), state.since()), (Epoch(3), Lsn(11)));
    assert_eq!([A, B, C].map(|node| state.owned_since(node).0), [3, 1, 3]);
    assert_eq!(state.lost_by(A), Some((from_a.clone(), Some(Lsn(11)))));
    let arcs_of_c = ArcSet::of(8, state.ring().arcs_of_node(C));
    assert_eq!(arcs_of_c, from_a);

    let both = [cut(1, A), cleaned(1, A), cut(1, B), cleaned(1, B)];
    let records = [began(change.clone())].into_iter().chain(both);
    let state = after(records.clone());
    assert!(state.running().is_some_and(Running::is_done));
    let state = after(records.chain([ended(1, &change.members)]));
    let (planned, _) = two_nodes().ring().with_node_added(C, 1).expect("it works");
    assert_eq!(state.ring().owners(), planned.owners());
    assert_eq!(state.ring().nodes(), planned.nodes());
    assert_eq!((state.running(), state.epoch()), (None, Epoch(7)));
    assert_eq!(state.since(), Lsn(13), "the last cut");
}

#[test]
fn a_node_that_was_removed_never_comes_back_and_its_number_is_not_given_again() {
    let (ring, moves) = two_nodes().ring().with_node_removed(B).expect("it works");
    let members = ring.nodes().to_vec();
    let (number, weights) = (1, members.clone());
    let change = Change {
        number,
        members,
        moves,
    };
    let steps = [began(change), cut(1, B), cleaned(1, B), ended(1, &weights)];
    let state = after(steps);
    assert_eq!(state.live().collect::<Vec<_>>(), [A]);
    assert_eq!(state.slots()[1].role, Role::Retired);
    let with = |node| {
        let (ring, moves) = state.ring().with_node_added(node, 1).expect("it works");
        let members = ring.nodes().to_vec();
        let number = state.next_change();
        began(Change {
            number,
            members,
            moves,
        })
    };
    let reason = "a node that was removed can't come back; add a new one";
    assert_eq!(refused(&state, &with(B)), reason);
    assert_eq!(
        refused(&state, &with(NodeId(3))),
        "nodes are numbered in order"
    );
    assert_eq!(state.check(&with(C)), Ok(()));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let state = two_nodes();
    let change = adding(&state);
    let but = |spoil: &dyn Fn(&mut Change)| {
        let mut spoiled = change.clone();
        spoil(&mut spoiled);
        began(spoiled)
    };
    let came_first = "another change came first";
    let not_its_own = "an arc moves from a node that does not own it";
    let no_member = "an arc would be owned by a node that is no member";
    let spoiled = [
        (but(&|change| change.number = 2), came_first),
        (but(&|change| change.number = 0), came_first),
        (
            but(&|change| change.members.swap(0, 1)),
            "the members are not in order",
        ),
        (
            but(&|change| change.members[2].0 = NodeId(3)),
            "nodes are numbered in order",
        ),
        (but(&|change| change.moves[0].from = C), not_its_own),
        (
            but(&|change| change.moves[0].to = change.moves[0].from),
            not_its_own,
        ),
        (but(&|change| change.moves[0].to = NodeId(7)), no_member),
        (but(&|change| change.members.truncate(1)), no_member),
        (but(&|change| change.members.clear()), no_member),
        (
            but(&|change| change.moves.swap(0, 1)),
            "the arcs that move are not in order",
        ),
        (
            but(&|change| change.moves[0].arc = 256),
            "an arc moves that the ring does not have",
        ),
        (
            but(&|change| change.members[0].1 = 0),
            "a weight is at least 1; remove a node that shall own nothing",
        ),
        (cut(0, A), "the change is not under way (any more)"),
        (
            ended(1, &[(A, 1), (B, 1)]),
            "the change is not under way (any more)",
        ),
    ];
    for (record, reason) in &spoiled {
        assert_eq!(refused(&state, record), *reason, "{record:?}");
    }

    let state = after([began(change.clone())]);
    let nothing_to_hand_over = "the node has no arcs to hand over in this change";
    assert_eq!(refused(&state, &cut(1, C)), nothing_to_hand_over);
    assert_eq!(refused(&state, &cut(1, NodeId(9))), nothing_to_hand_over);
    let over = "the change is not under way (any more)";
    assert_eq!(refused(&state, &cut(2, A)), over);
    let handed_nothing_over = "the node has handed over no arcs in this change";
    assert_eq!(refused(&state, &cleaned(1, A)), handed_nothing_over);

    let state = after([began(change.clone()), cut(1, A)]);
    assert_eq!(refused(&state, &cut(1, A)), nothing_to_hand_over);
    let left_over = "something of arcs that have moved may be left where they were";
    assert_eq!(refused(&state, &ended(1, &change.members)), left_over);
    let back = state.running().expect("it runs").turned_round();
    let not_now = "a change is under way that can't be turned round at this moment";
    assert_eq!(refused(&state, &began(back)), not_now);

    let state = after([began(change.clone()), cut(1, A), cleaned(1, A)]);
    assert_eq!(refused(&state, &cleaned(1, A)), handed_nothing_over);
    let no_member = "an arc is owned by a node that is not a member";
    assert_eq!(refused(&state, &ended(1, &[(A, 1), (B, 1)])), no_member);
    let mut more = change.members;
    more.push((NodeId(3), 1));
    let no_joining = "a node can't join at the end of a change";
    assert_eq!(refused(&state, &ended(1, &more)), no_joining);
}

#[test]
fn a_change_that_is_turned_round_leads_back_and_retires_who_had_come() {
    let change = adding(&two_nodes());
    let steps = [began(change), cut(1, A), cleaned(1, A)];
    let half = after(steps.clone());
    let back = half.running().expect("it runs").turned_round();
    let members = back.members.clone();
    let turned = [began(back), cut(2, C), cleaned(2, C)];
    let turned = steps.into_iter().chain(turned);
    let state = after(turned.clone());
    assert!(state.running().is_some_and(Running::is_turned_round));
    assert!(
        half.running()
            .is_some_and(|running| !running.is_turned_round())
    );
    let state = after(turned.chain([ended(2, &members)]));
    assert_eq!(state.ring().owners(), two_nodes().ring().owners());
    assert_eq!(state.ring().nodes(), two_nodes().ring().nodes());
    assert_eq!(state.live().collect::<Vec<_>>(), [A, B]);
    assert_eq!(state.slots().len(), 3, "its number is not given again");
}

#[test]
fn a_ring_with_gaps_is_one_from_which_nodes_were_removed() {
    let state = RingState::new(Ring::new(8, &[(A, 1), (C, 1)]).expect("it works"));
    assert!(!state.is_original());
    let roles: Vec<_> = state.slots().iter().map(|slot| slot.role).collect();
    assert_eq!(roles, [Role::Member, Role::Retired, Role::Member]);
}

/// Written down and read back.
fn through_a_checkpoint(state: &RingState) -> RingState {
    let mut bytes = Vec::new();
    put_history(&mut bytes, state.history());
    let mut reader = Reader::new(&bytes);
    let history = take_history(&mut reader).expect("it was written so");
    assert!(reader.is_empty());
    let owners = state.ring().owners().to_vec();
    let ring = Ring::from_table(owners, state.ring().nodes(), state.epoch()).expect("a ring");
    RingState::restored(ring, history).expect("it was so")
}

/// A record that may come next: what a mover does that the dice tell to.
pub(crate) fn next_record(state: &RingState, dice: u32) -> Option<RingRecord> {
    let pick = |nodes: Vec<NodeId>| nodes.get((dice / 8) as usize % nodes.len().max(1)).copied();
    let Some(running) = state.running() else {
        let ring = state.ring();
        let weight = 1 + dice / 512 % 3;
        let member = pick(ring.nodes().iter().map(|(node, _)| *node).collect())?;
        let joins = NodeId(u16::try_from(state.slots().len()).expect("few nodes"));
        let planned = match dice % 3 {
            0 => ring.with_node_added(joins, weight),
            1 => ring.with_node_removed(member),
            _ => ring.with_node_reweighted(member, weight),
        };
        let (ring, moves) = planned.ok()?;
        return Some(began(Change {
            number: state.next_change(),
            members: ring.nodes().to_vec(),
            moves,
        }));
    };
    let change = running.change.number;
    let sources = |is: &dyn Fn(SourceState) -> bool| {
        let sources = running.sources.iter().filter(|(_, state)| is(**state));
        sources.map(|(node, _)| *node).collect::<Vec<_>>()
    };
    let waiting = sources(&|state| state == SourceState::Waiting);
    let unclean = sources(&|state| matches!(state, SourceState::Cut(_)));
    match dice % 8 {
        0 if unclean.is_empty() && !running.is_turned_round() => {
            if waiting.len() == running.sources.len() {
                return Some(ended(change, &running.before));
            }
            Some(began(running.turned_round()))
        }
        1..=4 if !unclean.is_empty() => Some(cleaned(change, pick(unclean)?)),
        _ if !waiting.is_empty() => Some(cut(change, pick(waiting)?)),
        _ if !unclean.is_empty() => Some(cleaned(change, pick(unclean)?)),
        _ => Some(ended(change, &running.change.members)),
    }
}

/// How many arcs have to move at least from one ring to another: what each node has more in the end.
fn optimum(before: &Ring, after: &Ring) -> usize {
    let nodes = before.nodes().iter().chain(after.nodes());
    let nodes: BTreeSet<_> = nodes.map(|(node, _)| *node).collect();
    let more = |node| {
        let count = |ring: &Ring| ring.arcs_of_node(node).count();
        count(after).saturating_sub(count(before))
    };
    nodes.into_iter().map(more).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn recovery_comes_to_what_the_sequencer_has_and_changes_end_where_they_were_planned_to(
        dice in prop::collection::vec(any::<u32>(), 1..120),
        checkpoint_every in 1_usize..20,
    ) {
        let first = Ring::new(9, &[(A, 1), (B, 2)]).expect("it works");
        let mut state = RingState::new(first);
        let mut saved = through_a_checkpoint(&state);
        let mut log: Vec<(Lsn, RingRecord)> = Vec::new();
        // Where the change began that is under way.
        let mut before = state.clone();
        for (number, dice) in dice.into_iter().enumerate() {
            let lsn = Lsn(number as u64 + 1);
            let Some(record) = next_record(&state, dice) else {
                continue;
            };
            if state.running().is_none() {
                before = state.clone();
            }
            let running = state.running().cloned();
            let (epoch, old) = (state.epoch(), state.clone());
            prop_assert_eq!(state.check(&record), Ok(()));
            state.apply(lsn, &record).expect("it fits");
            prop_assert_eq!(state.epoch(), epoch.next());
            prop_assert!(state.slots().len() >= old.slots().len());
            let came_back = (0_u16..).map(NodeId).zip(old.slots()).any(|(node, slot)| {
                slot.role == Role::Retired && state.is_live(node)
            });
            prop_assert!(!came_back);
            // Who owns what changes by a cut alone, and of that node's arcs alone.
            let moved = state.ring().owners().iter().zip(old.ring().owners());
            let moved: Vec<_> = (0_u32..).zip(moved).filter(|(_, (new, old))| new != old).collect();
            if let RingRecord::Cut { from, .. } = &record {
                let (lost, cut) = state.lost_by(*from).expect("a source");
                prop_assert_eq!(cut, Some(lsn));
                prop_assert!(lost.iter().eq(moved.iter().map(|(arc, _)| *arc)));
                for node in state.live() {
                    let concerned = moved.iter().any(|(_, (new, old))| [**new, **old].contains(&node));
                    let expected = if concerned { state.epoch() } else { old.owned_since(node) };
                    prop_assert_eq!(state.owned_since(node), expected);
                }
            } else {
                prop_assert!(moved.is_empty());
            }
            if let (RingRecord::Ended { members, .. }, Some(running)) = (&record, running) {
                prop_assert_eq!(state.ring().nodes(), &members[..]);
                if *members == running.before {
                    prop_assert_eq!(state.ring().owners(), before.ring().owners());
                } else {
                    let owners = state.ring().owners().iter().zip(before.ring().owners());
                    let moved = owners.filter(|(new, old)| new != old).count();
                    prop_assert_eq!(moved, optimum(before.ring(), state.ring()));
                }
            }
            log.push((lsn, record));
            if number % checkpoint_every == 0 {
                saved = through_a_checkpoint(&state);
                prop_assert_eq!(&saved, &state);
                log.clear();
            }
            // A crash here.
            let mut recovered = saved.clone();
            for (lsn, record) in &log {
                recovered.apply(*lsn, record).expect("it was written");
            }
            prop_assert_eq!(&recovered, &state);
        }
    }

    #[test]
    fn no_record_whatever_panics_and_none_that_is_refused_changes_anything(
        records in prop::collection::vec(any_record(), 1..6),
        dice in prop::collection::vec(any::<u32>(), 0..12),
    ) {
        let mut state = two_nodes();
        for (lsn, dice) in (1..).zip(dice) {
            if let Some(record) = next_record(&state, dice) {
                state.apply(Lsn(lsn), &record).expect("it fits");
            }
        }
        for record in records {
            let before = state.clone();
            if state.apply(Lsn(1_000), &record).is_err() {
                prop_assert_eq!(&state, &before);
            }
        }
    }

    #[test]
    fn a_history_with_any_byte_changed_is_refused_or_fits_its_ring(
        dice in prop::collection::vec(any::<u32>(), 1..30),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut state = two_nodes();
        for (lsn, dice) in (1..).zip(dice) {
            if let Some(record) = next_record(&state, dice) {
                state.apply(Lsn(lsn), &record).expect("it fits");
            }
        }
        let mut bytes = Vec::new();
        put_history(&mut bytes, state.history());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Some(history) = take_history(&mut Reader::new(&bytes))
            && let Ok(mut read) = RingState::restored(Ring::clone(state.ring()), history)
        {
            // Whatever it says now, it can be gone on with.
            for dice in 0..20 {
                if let Some(record) = next_record(&read, dice) {
                    let _ = read.apply(Lsn(2_000), &record);
                }
            }
        }
        prop_assert!(take_history(&mut Reader::new(&bytes[..at])).is_none());
    }
}

#[test]
fn a_history_has_these_bytes() {
    let slot = |role, since, owned_since| Slot {
        role,
        since: Lsn(since),
        owned_since: Epoch(owned_since),
    };
    let moves = [(2, A, B), (200, B, A)];
    let moves = moves.map(|(arc, from, to)| ArcMove { arc, from, to });
    let running = Running {
        change: Arc::new(Change {
            number: 7,
            members: vec![(A, 1), (B, 300)],
            moves: moves.into(),
        }),
        before: vec![(A, 1), (B, 1)],
        sources: [
            (A, SourceState::Waiting),
            (B, SourceState::Cut(Lsn(300))),
            (C, SourceState::Cleaned(Lsn(299))),
        ]
        .into(),
    };
    let history = RingHistory {
        since: Lsn(300),
        slots: vec![
            slot(Role::Member, 0, 1),
            slot(Role::Member, 5, 300),
            slot(Role::Retired, 6, 2),
        ],
        last_change: 7,
        running: Some(running),
    };
    let mut out = Vec::new();
    put_history(&mut out, &history);
    let expected = [
        // The last Cut, the last change, and each node's role, since, epoch.
        &[0xac, 2, 7, 3][..],
        &[0, 0, 1, 0, 5, 0xac, 2, 1, 6, 2],
        // The change: number, members, moves.
        &[1, 7, 2, 0, 1, 1, 0xac, 2, 2, 2, 0, 1, 0xc5, 1, 1, 0],
        // The members before, and how far each source is.
        &[2, 0, 1, 1, 1],
        &[3, 0, 0, 1, 1, 0xac, 2, 2, 2, 0xab, 2],
    ];
    assert_eq!(out, expected.concat());
    assert_eq!(take_history(&mut Reader::new(&out)), Some(history));
}

//! Changes of the ring, message by message.

use super::{
    transactions::{decide_of, decided, txn},
    *,
};
use crate::{
    error::Error,
    ids::Epoch,
    participant::Owners,
    ring::ArcSet,
    ring_state::{Change as RingChange, FIRST_LIFE, RingRecord, Running},
    transaction::Verdict,
};
use JournalEffect::{PublishRing, RingAnswer};

const C: NodeId = NodeId(2);

/// The change that brings a third node.
fn adding() -> RingChange {
    let state = ring();
    let (ring, moves) = state.ring().with_node_added(C, 1).expect("it works");
    RingChange {
        number: 1,
        members: ring.nodes().to_vec(),
        moves,
    }
}

fn began() -> RingRecord {
    RingRecord::Began(adding().into())
}

fn cut_of(from: NodeId) -> RingRecord {
    RingRecord::Cut { change: 1, from }
}

fn cleaned(from: NodeId) -> RingRecord {
    RingRecord::Cleaned { change: 1, from }
}

fn ended(members: &[(NodeId, u32)]) -> RingRecord {
    let members = members.to_vec();
    RingRecord::Ended { change: 1, members }
}

/// The state after these records, from LSN 1 on.
fn after(records: &[RingRecord]) -> Arc<RingState> {
    let mut state = ring();
    for (lsn, record) in (1..).zip(records) {
        state.apply(Lsn(lsn), record).expect("it fits");
    }
    state.into()
}

fn ask(request: u64, record: RingRecord, lives: &[(NodeId, Incarnation)]) -> JournalMessage {
    JournalMessage::Ring(RingRequest {
        request: RequestId(request),
        record,
        lives: lives.to_vec(),
    })
}

fn cut(request: u64, from: NodeId) -> JournalMessage {
    ask(request, cut_of(from), &[(from, LIFE)])
}

fn publish(lsn: u64, records: &[RingRecord]) -> JournalEffect {
    PublishRing {
        lsn: Lsn(lsn),
        state: after(records),
    }
}

fn published(epoch: u64) -> JournalMessage {
    let epoch = Epoch(epoch);
    JournalMessage::RingPublished { epoch }
}

fn answer(request: u64, lsn: u64) -> JournalEffect {
    RingAnswer(RequestId(request), Ok(Lsn(lsn)))
}

fn refusal(request: u64, error: Error) -> JournalEffect {
    RingAnswer(RequestId(request), Err(error))
}

/// What a node is told of a Cut.
fn owners(node: NodeId, epoch: u64, lsn: u64, lost: ArcSet, gained: ArcSet) -> JournalEffect {
    let owners = Owners {
        epoch: Epoch(epoch),
        lsn: Lsn(lsn),
        lost: lost.into(),
        lost_all: false,
        gained: gained.into(),
        is_taken_over: false,
        incarnation: if node == C { FIRST_LIFE } else { LIFE },
    };
    JournalEffect::Owners(node, owners)
}

/// What the nodes are told when `from` loses its arcs to C.
fn moved(from: NodeId, epoch: u64, lsn: u64) -> [JournalEffect; 2] {
    let (arcs, none) = (adding().arcs_from(8, from), ArcSet::new(8));
    [
        owners(from, epoch, lsn, arcs.clone(), none.clone()),
        owners(C, epoch, lsn, none, arcs),
    ]
}

/// A journal with a change under way, at LSN 1.
fn begun() -> Sequencer {
    let mut journal = sequencer();
    tell(&mut journal, ask(1, began(), &[]));
    let out = tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    assert_eq!(
        out,
        [
            Visible(Lsn(1), vec![]),
            publish(1, &[began()]),
            answer(1, 1)
        ]
    );
    journal
}

/// What is written but for the groups.
fn but_writes(out: Vec<JournalEffect>) -> Vec<JournalEffect> {
    let is_write = |effect: &JournalEffect| matches!(effect, JournalEffect::Write(_));
    assert_eq!(out.iter().filter(|effect| is_write(effect)).count(), 1);
    out.into_iter().filter(|effect| !is_write(effect)).collect()
}

/// The simulator's seed 3643 of its day: the journal panicked at a node of which it had not heard.
#[test]
fn a_node_may_die_before_the_change_begins_for_which_it_was_opened() {
    let mut journal = sequencer();
    let (node, incarnation) = (C, FIRST_LIFE.next());
    let fence = JournalMessage::Fence { node, incarnation };
    let fenced = Fenced(node, incarnation, Lsn(0));
    assert_eq!(tell(&mut journal, fence), [fenced]);
    let through = Lsn(0);
    let installed = JournalMessage::Installed {
        node,
        incarnation,
        through,
    };
    assert_eq!(tell(&mut journal, installed), []);
    tell(&mut journal, ask(1, began(), &[]));
    let lives = journal.catalogue().incarnations;
    assert_eq!(lives[usize::from(C.0)], incarnation);

    let mut journal = sequencer();
    assert_eq!(tell(&mut journal, JournalMessage::Down { node }), []);
    tell(&mut journal, ask(1, began(), &[]));
    tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let out = tell(&mut journal, cut(2, A));
    assert_eq!(out, [refusal(2, Error::NodeDown { node })]);
}

#[test]
fn a_change_begins_with_a_record_and_is_published_when_that_is_visible() {
    let mut journal = sequencer();
    let out = tell(&mut journal, ask(1, began(), &[]));
    let [JournalEffect::Write(write)] = &out[..] else {
        panic!("{out:?}")
    };
    let records: Vec<_> = record::decode_all(&write.payload.clone().into()).collect();
    let expected = Record {
        lsn: Lsn(1),
        body: RecordBody::Ring(began()),
    };
    assert_eq!(records, [Ok(expected)]);
    assert_eq!(*journal.ring(), *after(&[began()]), "from its LSN on");
    assert_eq!(journal.catalogue().ring, *journal.ring());
    let out = tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let (seen, told) = (Visible(Lsn(1), vec![]), publish(1, &[began()]));
    assert_eq!(out, [seen, told, answer(1, 1)]);
    assert_eq!(tell(&mut journal, published(2)), []);
}

#[test]
fn a_node_that_joins_writes_is_fenced_and_freezes_like_the_others() {
    let mut journal = begun();
    let freezes = [A, B, C].map(|node| Freeze(node, Lsn(1)));
    let out = tell(&mut journal, JournalMessage::Mark);
    assert_eq!(out[..3], freezes);
    assert!(matches!(&out[3], MarkReached(Lsn(1), at) if at.incarnations.len() == 3));
    tell(&mut journal, append_of(C, 0, &[1]));
    tell(&mut journal, JournalMessage::Cut);
    let out = tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    assert_eq!(out, [], "it has not installed what it wrote");
    assert_eq!(
        tell(&mut journal, installed(C, 2)),
        [Visible(Lsn(2), vec![C])]
    );
    tell(&mut journal, fence(C, 2));
    let out = tell(&mut journal, persisted(3, ROOM, Some(SEGMENT)));
    assert_eq!(out, [Fenced(C, Incarnation(2), Lsn(3))]);
}

#[test]
fn a_cut_is_visible_when_everybody_concerned_knows_and_handles_are_routed_by_it() {
    let mut journal = begun();
    let out = tell(&mut journal, cut(2, A));
    assert_eq!(but_writes(out), moved(A, 3, 2));
    tell(&mut journal, append_of(B, 0, &[1]));
    tell(&mut journal, JournalMessage::Cut);
    assert_eq!(tell(&mut journal, persisted(2, ROOM, Some(SEGMENT))), []);
    assert_eq!(tell(&mut journal, installed(B, 3)), []);
    assert_eq!(
        tell(&mut journal, installed(A, 2)),
        [],
        "the target does not know"
    );
    let records = [began(), cut_of(A)];
    assert_eq!(tell(&mut journal, installed(C, 2)), [publish(2, &records)]);
    let out = tell(&mut journal, persisted(3, ROOM, Some(SEGMENT)));
    assert_eq!(
        out,
        [],
        "nothing behind it is visible either, and the router is asked once"
    );
    assert_eq!(tell(&mut journal, published(2)), [], "of another record");
    assert_eq!(journal.visible(), Lsn(1));
    let out = tell(&mut journal, published(3));
    assert_eq!(out, [Visible(Lsn(3), vec![A, B, C]), answer(2, 2)]);
    assert_eq!(tell(&mut journal, published(3)), [], "told twice");
}

#[test]
fn what_comes_before_a_cut_is_visible_without_it() {
    let mut journal = begun();
    tell(&mut journal, append_of(B, 0, &[1]));
    let out = tell(&mut journal, cut(2, A));
    assert_eq!(but_writes(out), moved(A, 3, 3));
    tell(&mut journal, installed(B, 2));
    tell(&mut journal, installed(A, 3));
    tell(&mut journal, installed(C, 3));
    let out = tell(&mut journal, persisted(3, ROOM, Some(SEGMENT)));
    let state = {
        let mut state = RingState::clone(&after(&[began()]));
        state.apply(Lsn(3), &cut_of(A)).expect("it fits");
        Arc::new(state)
    };
    let told = PublishRing { lsn: Lsn(3), state };
    assert_eq!(out, [told, Visible(Lsn(2), vec![A, B, C])]);
    assert_eq!(
        tell(&mut journal, published(3)),
        [Visible(Lsn(3), vec![A, C]), answer(2, 3)]
    );
}

#[test]
fn two_cuts_at_once_are_published_one_after_the_other() {
    let mut journal = begun();
    let out = tell(&mut journal, cut(2, A));
    assert_eq!(but_writes(out), moved(A, 3, 2));
    let out = tell(&mut journal, cut(3, B));
    assert_eq!(but_writes(out), moved(B, 4, 3));
    tell(&mut journal, installed(A, 2));
    tell(&mut journal, installed(B, 3));
    tell(&mut journal, installed(C, 3));
    let first = publish(2, &[began(), cut_of(A)]);
    assert_eq!(
        tell(&mut journal, persisted(3, ROOM, Some(SEGMENT))),
        [first]
    );
    let second = publish(3, &[began(), cut_of(A), cut_of(B)]);
    assert_eq!(
        tell(&mut journal, published(3)),
        [second, Visible(Lsn(2), vec![A, B, C]), answer(2, 2)]
    );
    assert_eq!(
        tell(&mut journal, published(4)),
        [Visible(Lsn(3), vec![B, C]), answer(3, 3)]
    );
}

#[test]
fn a_cut_is_refused_if_a_life_on_which_it_relies_is_over_or_not_named() {
    let mut journal = begun();
    let reason = "it does not say which life has handed its arcs over";
    let unnamed = Error::RingChangeRefused { reason };
    let out = tell(&mut journal, ask(2, cut_of(A), &[(C, FIRST_LIFE)]));
    assert_eq!(out, [refusal(2, unnamed)]);
    tell(&mut journal, fence(A, 2));
    let restarted = |node| Error::NodeRestarted { node };
    assert_eq!(tell(&mut journal, cut(3, A)), [refusal(3, restarted(A))]);
    let lives = [(A, Incarnation(2)), (C, Incarnation(9))];
    let out = tell(&mut journal, ask(4, cut_of(A), &lives));
    assert_eq!(out, [refusal(4, restarted(C))]);
    let reason = "it relies on a node that there never was";
    let unknown = Error::RingChangeRefused { reason };
    let out = tell(&mut journal, ask(5, cut_of(A), &[(NodeId(9), LIFE)]));
    assert_eq!(out, [refusal(5, unknown)]);
    let sources = |journal: &Sequencer| journal.ring().running().map(Running::is_done);
    assert_eq!(sources(&journal), Some(false));
    assert_eq!(*journal.ring(), *after(&[began()]), "nothing has changed");
    tell(&mut journal, JournalMessage::Down { node: C });
    let out = tell(&mut journal, ask(6, cut_of(A), &[(A, Incarnation(2))]));
    assert_eq!(out, [refusal(6, Error::NodeDown { node: C })]);
}

#[test]
fn a_target_that_goes_down_after_a_cut_holds_nothing_back() {
    let mut journal = begun();
    tell(&mut journal, cut(2, A));
    tell(&mut journal, installed(A, 2));
    tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    let out = tell(&mut journal, JournalMessage::Down { node: C });
    assert_eq!(out, [publish(2, &[began(), cut_of(A)])]);
    let out = tell(&mut journal, published(3));
    assert_eq!(out, [Visible(Lsn(2), vec![A, C]), answer(2, 2)]);
}

#[test]
fn a_decision_on_votes_of_an_earlier_ownership_is_refused() {
    let mut journal = begun();
    tell(&mut journal, cut(2, A));
    let moved = Verdict::Refused(Error::Moved { node: A });
    let out = tell(&mut journal, JournalMessage::Decides(vec![decide_of(1, 1)]));
    assert_eq!(out, [decided(1, moved)]);
    let mut anew = decide_of(2, 1);
    anew.parts[0].epoch = Epoch(3);
    let out = tell(&mut journal, JournalMessage::Decides(vec![anew.clone()]));
    let settles = |node| {
        let settle = crate::transaction::Settle {
            txn: txn(2),
            incarnation: LIFE,
            lsn: Some(Lsn(3)),
        };
        JournalEffect::Settle(node, vec![settle])
    };
    assert_eq!(out, [settles(A), settles(B)], "B has lost nothing yet");
    tell(&mut journal, cut(3, B));
    anew.txn = txn(3);
    let moved = Verdict::Refused(Error::Moved { node: B });
    let out = tell(&mut journal, JournalMessage::Decides(vec![anew]));
    assert_eq!(out, [decided(3, moved)]);
}

#[test]
fn a_decision_that_waits_for_room_while_arcs_are_cut_is_refused() {
    let mut journal = begun();
    // More than the segment and its spare have.
    let large = decide_of(1, 90_000);
    assert_eq!(
        tell(&mut journal, JournalMessage::Decides(vec![large])),
        [spare_wanted(90_000)]
    );
    let out = tell(&mut journal, cut(2, A));
    assert_eq!(out, [], "in line");
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(200_000)),
    );
    let [
        JournalEffect::Settle(..),
        JournalEffect::Settle(..),
        rest @ ..,
    ] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(rest[..2], moved(A, 3, 3), "and behind it");
    let out = tell(&mut journal, JournalMessage::Decides(vec![decide_of(2, 1)]));
    let moved = Verdict::Refused(Error::Moved { node: A });
    assert_eq!(out, [decided(2, moved)]);
}

/// A spare segment for a record of a decision that writes so many bytes.
fn spare_wanted(bytes: usize) -> JournalEffect {
    let at_least = decide::record_bytes(&decide_of(1, bytes)) as u64;
    PrepareSpare {
        directory: DirectoryNo::HOME,
        at_least: at_least + 32 * 1024,
    }
}

#[test]
fn a_node_that_was_removed_holds_nothing_back_freezes_nothing_and_writes_nothing() {
    let mut journal = begun();
    // It was only about to come.
    tell(&mut journal, fence(C, 2));
    tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    assert_eq!(journal.visible(), Lsn(1), "C has to be rebuilt");
    let members = [(A, 1), (B, 1)];
    tell(&mut journal, ask(2, ended(&members), &[]));
    let out = tell(&mut journal, persisted(3, ROOM, Some(SEGMENT)));
    let state = {
        let mut state = RingState::clone(&after(&[began()]));
        state.apply(Lsn(3), &ended(&members)).expect("it fits");
        Arc::new(state)
    };
    let told = PublishRing { lsn: Lsn(3), state };
    assert_eq!(out, [Visible(Lsn(3), vec![]), told, answer(2, 3)]);
    let out = tell(&mut journal, JournalMessage::Mark);
    assert_eq!(out[..2], [A, B].map(|node| Freeze(node, Lsn(3))));
    assert!(matches!(out[2..], [MarkReached(Lsn(3), _)]));
    let mut late = Append {
        node: C,
        incarnation: Incarnation(2),
        chain: 0,
        commits: vec![commit(1)],
    };
    let out = tell(&mut journal, JournalMessage::Append(late.clone()));
    let refused = Resolve {
        incarnation: Incarnation(2),
        chain: 0,
        commits: 1,
        outcome: Err(Error::Moved { node: C }),
    };
    assert_eq!(out, [JournalEffect::Resolve(C, refused)]);
    late.node = A;
    late.incarnation = LIFE;
    let out = tell(&mut journal, JournalMessage::Append(late));
    assert_eq!(out, [resolve(A, 1, Ok(Lsn(4)))]);
}

#[test]
fn a_node_is_told_that_its_last_arcs_have_gone() {
    let mut journal = sequencer();
    let state = ring();
    let (ring, moves) = state.ring().with_node_removed(A).expect("it works");
    let removing = RingRecord::Began(Arc::new(RingChange {
        number: 1,
        members: ring.nodes().to_vec(),
        moves,
    }));
    tell(&mut journal, ask(1, removing, &[]));
    tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let out = tell(&mut journal, cut(2, A));
    let told: Vec<_> = out
        .iter()
        .filter_map(|effect| match effect {
            JournalEffect::Owners(node, owners) => Some((*node, owners.lost_all)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(A, true), (B, false)]);
}

#[test]
fn steps_that_move_nothing_hold_nothing_back() {
    let mut journal = begun();
    tell(&mut journal, cut(2, A));
    for node in [A, C] {
        tell(&mut journal, installed(node, 2));
    }
    tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    tell(&mut journal, published(3));
    tell(&mut journal, ask(3, cleaned(A), &[]));
    let out = tell(&mut journal, persisted(3, ROOM, Some(SEGMENT)));
    let records = [began(), cut_of(A), cleaned(A)];
    assert_eq!(
        out,
        [Visible(Lsn(3), vec![]), publish(3, &records), answer(3, 3)]
    );
}

#[test]
fn what_does_not_fit_the_ring_is_refused_and_nothing_is_written() {
    let mut journal = begun();
    let reason = "another change came first";
    let refused = Error::RingChangeRefused { reason };
    let out = tell(&mut journal, ask(2, began(), &[]));
    assert_eq!(out, [refusal(2, refused)]);
    assert_eq!(journal.last_lsn(), Lsn(1));
}

#[test]
fn a_change_that_finds_no_room_waits_in_line_and_a_full_disk_refuses_it() {
    let mut journal = with_room(10_000);
    let out = tell(&mut journal, ask(1, began(), &[]));
    assert_eq!(out, [spare_request()]);
    assert_eq!(tell(&mut journal, append_of(A, 0, &[1])), [], "behind it");
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(SEGMENT)),
    );
    assert_eq!(out[0], resolve(A, 1, Ok(Lsn(2))));
    assert_eq!(group(&out[1]), (1, 1, 2, 2, false));

    let mut journal = with_room(10_000);
    tell(&mut journal, ask(1, began(), &[]));
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Err(full())),
    );
    assert_eq!(out, [refusal(1, full())]);
    assert_eq!(*journal.ring(), ring());
}

#[test]
fn a_change_whose_record_may_be_lost_is_unknown_and_one_that_waits_is_refused() {
    let mut journal = begun();
    tell(&mut journal, cut(2, A));
    let large = ask(3, RingRecord::Began(large_change().into()), &[]);
    let out = tell(&mut journal, large);
    assert!(
        matches!(out[..], [RingAnswer(RequestId(3), Err(_))]),
        "one at a time"
    );
    let out = tell(&mut journal, JournalMessage::Failed(broken()));
    assert_eq!(out, [refusal(2, unknown()), ReadOnly(broken())]);
    let out = tell(&mut journal, cut(4, B));
    assert_eq!(out, [refusal(4, read_only())]);

    let mut journal = with_room(10_000);
    tell(&mut journal, ask(1, began(), &[]));
    let out = tell(&mut journal, JournalMessage::Failed(broken()));
    assert_eq!(out, [refusal(1, read_only()), ReadOnly(broken())]);
}

/// The second change, begun while arcs of the first are not cleaned.
fn large_change() -> RingChange {
    RingChange {
        number: 2,
        ..adding()
    }
}

/// What C is told when it takes over from A, and nobody else is told anything.
fn taken_over(epoch: u64, lsn: u64) -> JournalEffect {
    let (arcs, none) = (adding().arcs_from(8, A), ArcSet::new(8));
    let JournalEffect::Owners(node, owners) = owners(C, epoch, lsn, none, arcs) else {
        unreachable!("it is one");
    };
    let is_taken_over = true;
    JournalEffect::Owners(
        node,
        Owners {
            is_taken_over,
            ..owners
        },
    )
}

fn down(node: NodeId) -> JournalMessage {
    JournalMessage::Down { node }
}

#[test]
fn a_source_that_was_down_before_the_change_began_is_cut_without_its_word_and_told_nothing() {
    let mut journal = sequencer();
    tell(&mut journal, append_of(A, 0, &[1]));
    tell(&mut journal, down(A));
    tell(&mut journal, ask(1, began(), &[]));
    tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    let out = tell(&mut journal, ask(2, cut_of(A), &[]));
    assert_eq!(but_writes(out), [taken_over(3, 3)]);
    tell(&mut journal, installed(C, 3));
    let out = tell(&mut journal, persisted(3, ROOM, Some(SEGMENT)));
    let state = {
        let mut state = ring();
        state.apply(Lsn(2), &began()).expect("it fits");
        state.apply(Lsn(3), &cut_of(A)).expect("it fits");
        Arc::new(state)
    };
    let told = PublishRing { lsn: Lsn(3), state };
    assert_eq!(out, [told], "A has not installed anything, and never will");
    let out = tell(&mut journal, published(3));
    assert_eq!(out, [Visible(Lsn(3), vec![C]), answer(2, 3)]);
}

#[test]
fn a_source_that_went_down_behind_the_beginning_of_the_change_is_not_cut() {
    let refused = |request, node| [refusal(request, Error::NodeDown { node })];
    let mut journal = begun();
    tell(&mut journal, down(A));
    let out = tell(&mut journal, ask(2, cut_of(A), &[]));
    assert_eq!(
        out,
        refused(2, A),
        "its commits may be behind the beginning"
    );
    assert_eq!(
        tell(&mut journal, cut(3, A)),
        refused(3, A),
        "its word is void"
    );
    tell(&mut journal, down(A));
    let out = tell(&mut journal, ask(4, cut_of(A), &[]));
    assert_eq!(out, refused(4, A), "said twice, it went down when it did");
    // The change that begins anew is behind the loss.
    let anew = RingChange {
        number: 2,
        ..adding()
    };
    tell(&mut journal, ask(5, RingRecord::Began(anew.into()), &[]));
    let cut = RingRecord::Cut { change: 2, from: A };
    let out = tell(&mut journal, ask(6, cut, &[]));
    assert_eq!(but_writes(out), [taken_over(4, 3)]);
}

#[test]
fn a_change_of_an_earlier_opening_tells_nothing_of_when_it_began() {
    let mut journal = Sequencer::new(
        SequencerOptions {
            force: true,
            max_group_bytes: 1 << 20,
            segment_bytes: SEGMENT,
        },
        SequencerState {
            last_lsn: Lsn(1),
            journals: vec![JournalState {
                last_group: GroupNo(0),
                room: ROOM,
            }],
            placement: Placement::default(),
            incarnations: vec![LIFE; 3],
            keyspaces: Keyspaces::new(),
            outcomes: Outcomes::default(),
            ring: RingState::clone(&after(&[began()])),
        },
    );
    tell(&mut journal, down(A));
    let out = tell(&mut journal, ask(2, cut_of(A), &[]));
    assert_eq!(out, [refusal(2, Error::NodeDown { node: A })]);
}

#[test]
fn a_node_that_is_up_is_not_cut_without_its_word_whoever_else_is_down() {
    let mut journal = sequencer();
    tell(&mut journal, down(A));
    tell(&mut journal, ask(1, began(), &[]));
    let reason = "it does not say which life has handed its arcs over";
    let refused = Error::RingChangeRefused { reason };
    let out = tell(&mut journal, ask(2, cut_of(B), &[]));
    assert_eq!(out, [refusal(2, refused)]);
}

#[test]
fn nothing_of_a_node_that_was_given_up_gets_an_lsn_any_more() {
    let mut journal = with_room(10_000);
    // These wait for room, one behind the other.
    let out = tell(&mut journal, append_of(A, 0, &[20_000]));
    assert_eq!(out, [spare_request()]);
    assert_eq!(tell(&mut journal, append_of(B, 0, &[1])), []);
    assert_eq!(
        tell(&mut journal, JournalMessage::Decides(vec![decide_of(1, 1)])),
        []
    );
    tell(&mut journal, down(A));
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(SEGMENT)),
    );
    let down = Verdict::Refused(Error::NodeDown { node: A });
    assert_eq!(out[0], resolve(B, 1, Ok(Lsn(1))), "what stood behind");
    assert_eq!(out[1], decided(1, down));
    assert_eq!(group(&out[2]), (1, 1, 1, 1, true));
    assert_eq!(tell(&mut journal, append_of(A, 0, &[1])), [], "void");
    assert_eq!(journal.last_lsn(), Lsn(1));
}

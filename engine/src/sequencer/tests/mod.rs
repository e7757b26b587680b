//! The journal's machine, message by message: each test asserts everything that it wants done.

mod ring;
mod transactions;

use super::*;
use crate::{
    ids::{KeyspaceId, RequestId},
    ring::Ring,
    value::{Value, Write},
};
use JournalEffect::{
    Answer, Dropped, Fenced, Freeze, MarkReached, PrepareSpare, ReadOnly, Visible,
};
use bytes::Bytes;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LIFE: Incarnation = Incarnation(1);
const ROOM: u64 = 100_000;
const SEGMENT: u64 = 70_000;
const SOON: Time = Time(100);

fn sequencer() -> Sequencer {
    with_room(ROOM)
}

fn ring() -> RingState {
    RingState::new(Ring::new(8, &[(A, 1), (B, 1)]).expect("it works"))
}

fn with_room(room: u64) -> Sequencer {
    Sequencer::new(
        SequencerOptions {
            force: true,
            max_group_bytes: 1 << 20,
            segment_bytes: SEGMENT,
        },
        SequencerState {
            last_lsn: Lsn(0),
            journals: vec![JournalState {
                last_group: GroupNo(0),
                room,
            }],
            placement: Placement::default(),
            incarnations: vec![LIFE; 2],
            keyspaces: Keyspaces::new(),
            outcomes: Outcomes::default(),
            ring: ring(),
        },
    )
}

fn tell(sequencer: &mut Sequencer, message: JournalMessage) -> Vec<JournalEffect> {
    let mut out = Vec::new();
    sequencer.handle(Time(1), message, &mut out);
    out
}

fn commit(bytes: usize) -> StagedCommit {
    let write = Write {
        key: Bytes::from_static(b"\0\0\0\x01k"),
        value: Some(Value::new(vec![7; bytes].into())),
    };
    StagedCommit {
        deadline: SOON,
        writes: [write].into(),
        txn: None,
    }
}

fn append_of(node: NodeId, chain: u64, sizes: &[usize]) -> JournalMessage {
    JournalMessage::Append(Append {
        node,
        incarnation: LIFE,
        chain,
        commits: sizes.iter().map(|bytes| commit(*bytes)).collect(),
    })
}

fn resolve(node: NodeId, commits: usize, outcome: Result<Lsn>) -> JournalEffect {
    let resolve = Resolve {
        incarnation: LIFE,
        chain: 0,
        commits,
        outcome,
    };
    JournalEffect::Resolve(node, resolve)
}

/// The group that `effect` writes: its number, LSNs, records, and whether it is alone.
fn group(effect: &JournalEffect) -> (u64, u64, u64, usize, bool) {
    let JournalEffect::Write(group) = effect else {
        panic!("{effect:?} writes no group")
    };
    assert!(group.force, "every group is forced");
    let decoded = record::decode_all(&Bytes::from(group.payload.clone()));
    assert_eq!(decoded.count(), group.records);
    let (first, last) = (group.first.0, group.last.0);
    (group.number.0, first, last, group.records, group.lone)
}

fn persisted(last: u64, room: u64, spare: Option<u64>) -> JournalMessage {
    JournalMessage::Persisted {
        directory: DirectoryNo::HOME,
        last: Lsn(last),
        room,
        spare,
    }
}

fn installed(node: NodeId, through: u64) -> JournalMessage {
    JournalMessage::Installed {
        node,
        incarnation: LIFE,
        through: Lsn(through),
    }
}

fn fence(node: NodeId, incarnation: u32) -> JournalMessage {
    JournalMessage::Fence {
        node,
        incarnation: Incarnation(incarnation),
    }
}

fn create(request: u64, name: &str) -> JournalMessage {
    JournalMessage::CreateKeyspace {
        request: RequestId(request),
        name: name.into(),
    }
}

fn spare_request() -> JournalEffect {
    PrepareSpare {
        directory: DirectoryNo::HOME,
        at_least: SEGMENT,
    }
}

fn full() -> Error {
    Error::DiskFull {
        context: "a segment".into(),
    }
}

fn broken() -> Error {
    Error::Io {
        context: "forcing".into(),
        kind: std::io::ErrorKind::Other,
        message: "lost".into(),
    }
}

fn read_only() -> Error {
    Error::ReadOnly {
        reason: broken().to_string(),
    }
}

fn unknown() -> Error {
    Error::Unknown {
        reason: broken().to_string(),
    }
}

#[test]
fn lsns_are_given_at_once_and_groups_queue_for_the_disk() {
    let mut journal = sequencer();
    let out = tell(&mut journal, append_of(A, 0, &[1, 1]));
    assert_eq!(out, [resolve(A, 2, Ok(Lsn(1)))]);
    let out = tell(&mut journal, JournalMessage::Cut);
    assert_eq!((out.len(), group(&out[0])), (1, (1, 1, 2, 2, false)));
    let out = tell(&mut journal, append_of(B, 0, &[1]));
    assert_eq!(out, [resolve(B, 1, Ok(Lsn(3)))]);
    let out = tell(&mut journal, JournalMessage::Cut);
    assert_eq!((out.len(), group(&out[0])), (1, (2, 3, 3, 1, false)));
    assert_eq!(tell(&mut journal, JournalMessage::Cut), []);
    tell(&mut journal, installed(A, 2));
    tell(&mut journal, installed(B, 3));
    let out = tell(&mut journal, persisted(2, ROOM, None));
    assert_eq!(out, [spare_request(), Visible(Lsn(2), vec![A, B])]);
    let out = tell(&mut journal, persisted(3, ROOM, None));
    assert_eq!(out, [Visible(Lsn(3), vec![B])]);
}

#[test]
fn groups_that_one_force_made_durable_are_answered_for_once() {
    let mut journal = sequencer();
    for number in 1..=3 {
        tell(&mut journal, append_of(A, 0, &[1]));
        let out = tell(&mut journal, JournalMessage::Cut);
        let alone = number == 1;
        assert_eq!(group(&out[0]), (number, number, number, 1, alone));
    }
    tell(&mut journal, installed(A, 3));
    let out = tell(&mut journal, persisted(3, ROOM, Some(SEGMENT)));
    assert_eq!(out, [Visible(Lsn(3), vec![A])]);
}

#[test]
fn space_that_groups_on_their_way_will_take_is_not_given_again() {
    let mut journal = with_room(40_000);
    tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(60_000)),
    );
    for size in [1, 20_000, 30_000] {
        tell(&mut journal, append_of(A, 0, &[size]));
        let out = tell(&mut journal, JournalMessage::Cut);
        assert!(matches!(out[0], JournalEffect::Write(_)));
    }
    // The first is written: the second fits behind it, the third will take the spare.
    let out = tell(&mut journal, persisted(1, 39_900, Some(60_000)));
    assert_eq!(out, [spare_request()]);
    assert_eq!(
        tell(&mut journal, append_of(B, 0, &[20_000])),
        [],
        "the spare has room for the third and no more"
    );
    let out = tell(&mut journal, persisted(3, 29_000, None));
    assert_eq!(out, []);
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(60_000)),
    );
    assert_eq!(out[0], resolve(B, 1, Ok(Lsn(4))));
    assert_eq!(group(&out[1]), (4, 4, 4, 1, true));
}

#[test]
fn a_commit_is_visible_when_it_is_both_forced_and_installed() {
    let mut journal = sequencer();
    tell(&mut journal, append_of(A, 0, &[1]));
    tell(&mut journal, append_of(B, 0, &[1]));
    tell(&mut journal, JournalMessage::Cut);
    assert_eq!(tell(&mut journal, installed(A, 1)), []);
    let out = tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    assert_eq!(
        out,
        [],
        "B has not installed LSN 2, and reports no LSN below it"
    );
    let out = tell(&mut journal, installed(B, 2));
    assert_eq!(out, [Visible(Lsn(2), vec![A, B])]);
    let late = JournalMessage::Installed {
        node: B,
        incarnation: Incarnation(0),
        through: Lsn(9),
    };
    assert_eq!(tell(&mut journal, late), [], "an earlier life's report");
}

#[test]
fn a_node_that_is_down_holds_nothing_back() {
    let mut journal = sequencer();
    tell(&mut journal, append_of(A, 0, &[1]));
    tell(&mut journal, append_of(B, 0, &[1]));
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, installed(A, 1));
    tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    let out = tell(&mut journal, JournalMessage::Down { node: B });
    assert_eq!(out, [Visible(Lsn(2), vec![A, B])]);
}

#[test]
fn a_fence_is_answered_when_it_is_durable_and_drops_what_waits_of_the_old_life() {
    let mut journal = with_room(20_000);
    assert_eq!(
        tell(&mut journal, append_of(A, 0, &[30_000])),
        [spare_request()]
    );
    assert_eq!(
        tell(&mut journal, append_of(B, 0, &[1])),
        [],
        "it waits in line"
    );
    let out = tell(&mut journal, fence(A, 2));
    assert_eq!((out.len(), group(&out[0])), (1, (1, 1, 1, 1, true)));
    assert_eq!(
        tell(&mut journal, append_of(A, 0, &[1])),
        [],
        "an earlier life"
    );
    let out = tell(&mut journal, persisted(1, 19_000, None));
    assert_eq!(out[0], resolve(B, 1, Ok(Lsn(2))));
    assert_eq!(group(&out[1]), (2, 2, 2, 1, true));
    assert_eq!(out[2..], [Fenced(A, Incarnation(2), Lsn(1))]);
    assert_eq!(tell(&mut journal, fence(A, 2)), [], "a repeated fence");
}

#[test]
fn a_second_fence_supersedes_the_first_at_any_point() {
    let mut journal = sequencer();
    tell(&mut journal, fence(A, 2));
    let out = tell(&mut journal, fence(A, 3));
    assert_eq!((out.len(), group(&out[0])), (1, (2, 2, 2, 1, false)));
    let out = tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    assert_eq!(out, [Fenced(A, Incarnation(2), Lsn(1))]);
    let out = tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    assert_eq!(out, [Fenced(A, Incarnation(3), Lsn(2))]);
    assert_eq!(tell(&mut journal, installed(A, 2)), [], "life 1 is over");
    let rebuilt = JournalMessage::Installed {
        node: A,
        incarnation: Incarnation(3),
        through: Lsn(2),
    };
    assert_eq!(tell(&mut journal, rebuilt), [Visible(Lsn(2), vec![A])]);
}

#[test]
fn a_batch_past_its_deadline_is_refused_with_its_whole_chain_until_the_node_knows() {
    let mut journal = sequencer();
    let mut out = Vec::new();
    journal.handle(SOON, append_of(A, 0, &[1]), &mut out);
    assert_eq!(out, [resolve(A, 1, Err(Error::DeadlineExceeded))]);
    assert_eq!(
        tell(&mut journal, append_of(A, 0, &[1])),
        [],
        "the same chain"
    );
    let out = tell(&mut journal, append_of(A, 1, &[1]));
    assert!(matches!(
        &out[..],
        [JournalEffect::Resolve(
            A,
            Resolve {
                chain: 1,
                outcome: Ok(Lsn(1)),
                ..
            }
        )]
    ));
}

#[test]
fn a_chain_is_refused_once() {
    // A node that had heard of the first refusal, staged a new chain and restarted took the second one for the new
    // chain: it answered "nothing was written" for what the journal accepted next.
    for failure in [false, true] {
        let mut journal = with_room(20_000);
        assert_eq!(
            tell(&mut journal, append_of(A, 0, &[30_000])),
            [spare_request()]
        );
        assert_eq!(tell(&mut journal, append_of(A, 0, &[30_000])), []);
        let mut out = Vec::new();
        let error = if failure {
            journal.handle(SOON, JournalMessage::Failed(broken()), &mut out);
            read_only()
        } else {
            journal.handle_timeout(SOON, &mut out);
            Error::DeadlineExceeded
        };
        let told = out
            .iter()
            .filter(|effect| matches!(effect, JournalEffect::Resolve(..)));
        assert_eq!(told.collect::<Vec<_>>(), [&resolve(A, 1, Err(error))]);
    }
}

#[test]
fn a_batch_too_large_for_the_spare_asks_for_a_larger_one() {
    // While nothing was on its way nobody asked: it waited for its deadline, and everybody behind it too.
    let mut journal = with_room(20_000);
    assert_eq!(
        tell(&mut journal, append_of(A, 0, &[30_000])),
        [spare_request()]
    );
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(60_000)),
    );
    assert_eq!(out[0], resolve(A, 1, Ok(Lsn(1))));
    let out = tell(&mut journal, persisted(1, 20_000, Some(60_000)));
    assert_eq!(out, []);
    let bytes = commit_bytes(200_000);
    let larger = PrepareSpare {
        directory: DirectoryNo::HOME,
        at_least: bytes + 32 * 1024,
    };
    assert_eq!(tell(&mut journal, append_of(B, 0, &[200_000])), [larger]);
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(bytes + 32 * 1024)),
    );
    assert_eq!(out[0], resolve(B, 1, Ok(Lsn(2))));
    assert_eq!((out.len(), group(&out[1])), (2, (2, 2, 2, 1, true)));
}

fn commit_bytes(bytes: usize) -> u64 {
    record::commit_bytes_bound(&commit(bytes).writes) as u64
}

#[test]
fn a_spare_is_counted_once() {
    // A lone group is written beside the I/O thread: it reported a spare whose `Spare` was still queued. Both counted,
    // and a group was admitted to a segment that had been used already.
    let mut journal = with_room(40_000);
    let out = tell(&mut journal, fence(A, 2));
    assert_eq!(group(&out[0]), (1, 1, 1, 1, true));
    let out = tell(&mut journal, persisted(1, 39_000, None));
    assert_eq!(out, [spare_request(), Fenced(A, Incarnation(2), Lsn(1))]);
    tell(&mut journal, fence(A, 3));
    tell(&mut journal, persisted(2, 38_000, Some(60_000)));
    assert_eq!(
        tell(&mut journal, append_of(B, 0, &[30_000])),
        [],
        "not yet counted"
    );
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(60_000)),
    );
    assert_eq!(out[0], resolve(B, 1, Ok(Lsn(3))));
    assert_eq!(group(&out[1]), (3, 3, 3, 1, true));
}

#[test]
fn what_fits_goes_on_when_what_stood_before_it_is_refused() {
    // Nobody looked at the queue after a deadline had passed, and later deadlines were looked at in line only.
    let mut journal = with_room(20_000);
    tell(&mut journal, append_of(A, 0, &[30_000]));
    let patient = StagedCommit {
        deadline: Time::MAX,
        ..commit(1)
    };
    let append = Append {
        node: B,
        incarnation: LIFE,
        chain: 0,
        commits: vec![patient],
    };
    assert_eq!(tell(&mut journal, JournalMessage::Append(append)), []);
    let mut out = Vec::new();
    journal.handle_timeout(SOON, &mut out);
    let late = Error::DeadlineExceeded;
    assert_eq!(
        out[..2],
        [resolve(A, 1, Err(late)), resolve(B, 1, Ok(Lsn(1)))]
    );
    assert_eq!((out.len(), group(&out[2])), (3, (1, 1, 1, 1, true)));
}

#[test]
fn fences_wait_for_a_segment_when_a_full_disk_leaves_no_room() {
    // The journal panicked, and the engine was read-only until it was reopened.
    let mut journal = with_room(4);
    assert_eq!(
        tell(&mut journal, fence(A, 2)),
        [PrepareSpare {
            directory: DirectoryNo::HOME,
            at_least: SEGMENT
        }]
    );
    assert_eq!(
        tell(
            &mut journal,
            JournalMessage::Spare(DirectoryNo::HOME, Err(full()))
        ),
        []
    );
    let mut out = Vec::new();
    journal.handle_timeout(Time(2), &mut out);
    assert_eq!(out, [spare_request()]);
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Ok(60_000)),
    );
    assert_eq!((out.len(), group(&out[0])), (1, (1, 1, 1, 1, true)));
}

#[test]
fn a_creation_that_did_not_last_is_not_found_after_a_failure() {
    // Whoever asked again was told its number, and after a crash there was no such keyspace.
    let mut journal = sequencer();
    tell(&mut journal, create(1, "k"));
    let out = tell(&mut journal, JournalMessage::Failed(broken()));
    assert_eq!(
        out,
        [Answer(RequestId(1), Err(unknown())), ReadOnly(broken())]
    );
    let out = tell(&mut journal, create(2, "k"));
    assert_eq!(out, [Answer(RequestId(2), Err(read_only()))]);
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_clears_by_itself() {
    let mut journal = with_room(20_000);
    assert_eq!(
        tell(&mut journal, append_of(A, 0, &[30_000])),
        [spare_request()]
    );
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Err(full())),
    );
    assert_eq!(out, [resolve(A, 1, Err(full()))]);
    let out = tell(&mut journal, append_of(B, 0, &[1]));
    assert_eq!(out, [resolve(B, 1, Ok(Lsn(1)))], "a small one still fits");
    let out = tell(&mut journal, JournalMessage::Cut);
    assert_eq!(group(&out[0]), (1, 1, 1, 1, true));
    assert_eq!(tell(&mut journal, persisted(1, 18_000, None)), []);
    let out = tell(&mut journal, append_of(B, 0, &[5_000]));
    assert_eq!(out, [resolve(B, 1, Err(full()))], "at once");
    let mut out = Vec::new();
    journal.handle_timeout(Time(2), &mut out);
    assert_eq!(out, [spare_request()]);
    assert_eq!(
        tell(
            &mut journal,
            JournalMessage::Spare(DirectoryNo::HOME, Ok(60_000))
        ),
        []
    );
    let out = tell(&mut journal, append_of(A, 1, &[30_000]));
    assert!(matches!(
        &out[..],
        [JournalEffect::Resolve(
            A,
            Resolve {
                outcome: Ok(Lsn(2)),
                ..
            }
        )]
    ));
}

#[test]
fn after_a_failure_everything_is_refused_and_nothing_becomes_visible() {
    let mut journal = sequencer();
    tell(&mut journal, append_of(A, 0, &[1]));
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, fence(B, 2));
    let out = tell(&mut journal, JournalMessage::Failed(broken()));
    assert_eq!(out, [Fenced(B, Incarnation(2), Lsn(0)), ReadOnly(broken())]);
    assert_eq!(tell(&mut journal, JournalMessage::Failed(broken())), []);
    assert_eq!(tell(&mut journal, installed(A, 1)), []);
    let out = tell(&mut journal, append_of(A, 0, &[1]));
    assert_eq!(out, [resolve(A, 1, Err(read_only()))]);
    assert_eq!(tell(&mut journal, JournalMessage::Cut), []);
    assert_eq!(
        tell(&mut journal, fence(B, 3)),
        [Fenced(B, Incarnation(3), Lsn(0))]
    );
    let drop = JournalMessage::DropKeyspace {
        request: RequestId(1),
        name: "k".into(),
    };
    assert_eq!(
        tell(&mut journal, drop),
        [Answer(RequestId(1), Err(read_only()))]
    );
    let mut out = Vec::new();
    journal.handle_timeout(SOON, &mut out);
    assert_eq!(out, []);
}

#[test]
fn a_keyspace_is_created_once_and_answered_when_it_is_durable() {
    let mut journal = sequencer();
    let out = tell(&mut journal, create(1, "k"));
    assert_eq!((out.len(), group(&out[0])), (1, (1, 1, 1, 1, true)));
    assert_eq!(
        tell(&mut journal, create(2, "k")),
        [],
        "it waits for the first"
    );
    let out = tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let id = KeyspaceId(1);
    let answers = [Answer(RequestId(1), Ok(id)), Answer(RequestId(2), Ok(id))];
    assert_eq!(out[0], Visible(Lsn(1), vec![]));
    assert_eq!(out[1..], answers);
    let out = tell(&mut journal, create(3, "k"));
    assert_eq!(out, [Answer(RequestId(3), Ok(id))], "it is there");
    let out = tell(&mut journal, create(4, ""));
    assert!(matches!(
        &out[..],
        [Answer(RequestId(4), Err(Error::InvalidKeyspaceName { .. }))]
    ));
    let drop = |request| JournalMessage::DropKeyspace {
        request: RequestId(request),
        name: "k".into(),
    };
    assert_eq!(tell(&mut journal, drop(5)).len(), 1);
    let gone = Error::KeyspaceNotFound { name: "k".into() };
    assert_eq!(
        tell(&mut journal, drop(6)),
        [Answer(RequestId(6), Err(gone))]
    );
    let out = tell(&mut journal, create(7, "k"));
    assert_eq!((out.len(), group(&out[0])), (1, (3, 3, 3, 1, false)));
    let out = tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    assert_eq!(out[0], Visible(Lsn(2), vec![]));
    let dropped = [Dropped(id), Answer(RequestId(5), Ok(id))];
    assert_eq!(out[1..], dropped);
    let out = tell(&mut journal, persisted(3, ROOM, Some(SEGMENT)));
    assert_eq!(out[1..], [Answer(RequestId(7), Ok(KeyspaceId(2)))]);
}

#[test]
fn a_mark_freezes_every_node_in_line_and_is_reached_when_visible() {
    let mut journal = sequencer();
    tell(&mut journal, append_of(A, 0, &[1]));
    let catalogue = journal.catalogue();
    let out = tell(&mut journal, JournalMessage::Mark);
    assert_eq!(out, [Freeze(A, Lsn(1)), Freeze(B, Lsn(1))]);
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, create(1, "after the mark"));
    tell(&mut journal, installed(A, 1));
    let out = tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let reached = MarkReached(Lsn(1), catalogue);
    assert_eq!(out, [Visible(Lsn(1), vec![A]), reached]);
}

#[test]
fn watchers_get_changes_when_they_are_visible() {
    let mut journal = sequencer();
    tell(&mut journal, append_of(A, 0, &[1]));
    tell(&mut journal, JournalMessage::Watch(true));
    tell(&mut journal, append_of(A, 0, &[2]));
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    let change = Change {
        lsn: Lsn(2),
        writes: commit(2).writes,
    };
    let out = tell(&mut journal, installed(A, 2));
    assert_eq!(
        out,
        [
            Visible(Lsn(2), vec![A]),
            JournalEffect::Changes(vec![change])
        ]
    );
}

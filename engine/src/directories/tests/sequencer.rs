//! The lines of the sequencer: what goes where, what waits for whom, and what is visible.

use super::*;
use crate::{
    directories::{DirectorySet, Stamp},
    error::Error,
    journal::record::{Spread, decode_all},
};

const HOME: DirectoryNo = DirectoryNo(0);
const OTHER: DirectoryNo = DirectoryNo(1);

fn tell(machine: &mut Sequencer, message: JournalMessage) -> Vec<JournalEffect> {
    let mut out = Vec::new();
    machine.handle(Time(1), message, &mut out);
    out
}

fn append(node: u16, bytes: usize) -> JournalMessage {
    JournalMessage::Append(Append {
        node: NodeId(node),
        incarnation: LIFE,
        chain: 0,
        commits: vec![StagedCommit {
            deadline: SOON,
            writes: [write(vec![7; bytes].into())].into(),
            txn: None,
        }],
    })
}

fn decide(machine: &Sequencer, number: u64, nodes: &[(u16, usize)]) -> JournalMessage {
    let parts = nodes.iter().map(|(node, writes)| DecidePart {
        node: NodeId(*node),
        incarnation: LIFE,
        epoch: machine.ring().owned_since(NodeId(*node)),
        writes: vec![write(Bytes::from_static(b"v")); *writes].into(),
    });
    JournalMessage::Decides(vec![Decide {
        txn: TxnId::new(1, number).expect("not 0"),
        deadline: SOON,
        idempotency: None,
        parts: parts.collect(),
        lock_life: None,
    }])
}

fn installed(machine: &mut Sequencer, nodes: &[u16]) {
    let (incarnation, through) = (LIFE, machine.last_lsn());
    for node in nodes {
        let node = NodeId(*node);
        tell(
            machine,
            JournalMessage::Installed {
                node,
                incarnation,
                through,
            },
        );
    }
}

fn persisted(directory: DirectoryNo, last: u64) -> JournalMessage {
    JournalMessage::Persisted {
        directory,
        last: Lsn(last),
        room: ROOM,
        spare: Some(ROOM),
    }
}

/// Of a group: its directory, number, whether it is alone, and of each record LSN, nodes, and what is said around it.
type Seen = (u8, u64, bool, Vec<(u64, Vec<u16>, Option<Spread>)>);

fn groups(out: Vec<JournalEffect>) -> Vec<Seen> {
    let seen = |group: GroupWrite| {
        let records = decode_all(&Bytes::from(group.payload.clone()));
        let records: Vec<_> = records.map(|record| record.expect("is right")).collect();
        let lsns = (records[0].lsn, records[records.len() - 1].lsn);
        assert_eq!((group.first, group.last), lsns);
        assert_eq!(group.records, records.len());
        let inside = |record: Record| {
            let (spread, body) = match record.body {
                RecordBody::Spread { spread, body } => (Some(spread), *body),
                body => (None, body),
            };
            let lsn = record.lsn;
            let nodes = parts_of(Record { lsn, body }).into_keys();
            (lsn.0, nodes.map(|node| node.0).collect(), spread)
        };
        let records = records.into_iter().map(inside).collect();
        (group.directory.0, group.number.0, group.lone, records)
    };
    let groups = out.into_iter().filter_map(|effect| match effect {
        JournalEffect::Write(group) => Some(seen(group)),
        _ => None,
    });
    groups.collect()
}

fn spread(bits: u64, stamp: Option<(u64, [u64; 2])>) -> Option<Spread> {
    Some(Spread {
        directories: DirectorySet::from_bits(bits).expect("not empty"),
        stamp: stamp.map(|(durable, forced)| Stamp {
            durable: Lsn(durable),
            forced: forced.map(GroupNo).into(),
        }),
    })
}

fn visible(out: &[JournalEffect]) -> Option<Lsn> {
    out.iter().find_map(|effect| match effect {
        JournalEffect::Visible(lsn, _) => Some(*lsn),
        _ => None,
    })
}

#[test]
fn a_record_goes_where_its_parts_live_and_the_first_of_a_group_tells_what_is_forced() {
    let mut machine = sequencer(Lsn(0), &[GroupNo(3), GroupNo(8)], 1, true);
    tell(&mut machine, append(0, 1));
    let both = decide(&machine, 1, &[(0, 1), (1, 1)]);
    tell(&mut machine, both);
    tell(&mut machine, append(1, 1));
    let written = groups(tell(&mut machine, JournalMessage::Cut));
    let none = || Some((0, [3, 8]));
    assert_eq!(
        written,
        [
            (
                0,
                4,
                false,
                vec![
                    (1, vec![0], spread(1, none())),
                    (2, vec![0], spread(3, None))
                ]
            ),
            (
                1,
                9,
                false,
                vec![(2, vec![1], spread(3, none())), (3, vec![1], None)]
            ),
        ]
    );
    installed(&mut machine, &[0, 1]);
    let out = tell(&mut machine, persisted(OTHER, 3));
    assert_eq!(visible(&out), None, "the first LSN is on its way");
    tell(&mut machine, append(1, 1));
    // It is alone in its directory, but somebody else is writing.
    assert_eq!(
        groups(tell(&mut machine, JournalMessage::Cut)),
        [(
            1,
            10,
            false,
            vec![(4, vec![1], spread(2, Some((0, [3, 9]))))]
        )]
    );
    let out = tell(&mut machine, persisted(HOME, 2));
    assert_eq!(visible(&out), Some(Lsn(3)), "up to what is on its way");
    installed(&mut machine, &[1]);
    let out = tell(&mut machine, persisted(OTHER, 4));
    assert_eq!(visible(&out), Some(Lsn(4)));
    // The last group there had company.
    tell(&mut machine, append(0, 1));
    assert_eq!(
        groups(tell(&mut machine, JournalMessage::Cut)),
        [(
            0,
            5,
            false,
            vec![(5, vec![0], spread(1, Some((4, [4, 10]))))]
        )]
    );
}

#[test]
fn a_part_that_only_reads_is_written_nowhere_and_a_commit_without_writes_at_home() {
    let mut machine = sequencer(Lsn(0), &[GroupNo(0), GroupNo(0)], 1, true);
    let reads_at_home = decide(&machine, 1, &[(0, 0), (1, 1)]);
    tell(&mut machine, reads_at_home);
    let reads = decide(&machine, 2, &[(0, 0), (1, 0)]);
    tell(&mut machine, reads);
    assert_eq!(
        groups(tell(&mut machine, JournalMessage::Cut)),
        [
            (0, 1, false, vec![(2, vec![], spread(1, Some((0, [0, 0]))))]),
            (
                1,
                1,
                false,
                vec![(1, vec![1], spread(2, Some((0, [0, 0]))))]
            ),
        ]
    );
}

#[test]
fn a_directory_that_has_nothing_on_its_way_holds_nobody_up() {
    let mut machine = sequencer(Lsn(7), &[GroupNo(0), GroupNo(0)], 1, true);
    for lsn in 8..12 {
        tell(&mut machine, append(0, 1));
        let written = groups(tell(&mut machine, JournalMessage::Cut));
        assert!(matches!(written[..], [(0, _, false, _)]), "by its thread");
        installed(&mut machine, &[0]);
        let out = tell(&mut machine, persisted(HOME, lsn));
        assert_eq!(visible(&out), Some(Lsn(lsn)));
    }
}

#[test]
fn what_finds_no_room_holds_up_only_what_concerns_its_directory() {
    let mut machine = sequencer(Lsn(0), &[GroupNo(0), GroupNo(0)], 1, true);
    tell(&mut machine, JournalMessage::Spare(HOME, Ok(ROOM)));
    let large = usize::try_from(ROOM).expect("small");
    let out = tell(&mut machine, append(1, large));
    let [
        JournalEffect::PrepareSpare {
            directory: OTHER,
            at_least,
        },
    ] = out[..]
    else {
        panic!("{out:?}")
    };
    assert!(at_least > ROOM);
    let waits = |out: Vec<JournalEffect>| out.is_empty();
    let both = decide(&machine, 1, &[(0, 1), (1, 1)]);
    assert!(waits(tell(&mut machine, both)), "behind it");
    assert!(waits(tell(&mut machine, append(0, 1))), "behind both");
    let mut free = sequencer(Lsn(0), &[GroupNo(0), GroupNo(0)], 1, true);
    tell(&mut free, append(1, large));
    let out = tell(&mut free, append(0, 1));
    assert!(
        matches!(out[..], [JournalEffect::Resolve(NodeId(0), _)]),
        "{out:?}"
    );
    let out = tell(&mut machine, JournalMessage::Spare(OTHER, Ok(at_least)));
    assert_eq!(
        machine.last_lsn(),
        Lsn(3),
        "all that waited, in order: {out:?}"
    );
    let lsns = |seen: &Seen| seen.3.iter().map(|(lsn, ..)| *lsn).collect::<Vec<_>>();
    let written = groups(out);
    let written: Vec<_> = written.iter().map(|seen| (seen.0, lsns(seen))).collect();
    assert_eq!(written, [(0, vec![2, 3]), (1, vec![1, 2])]);
}

#[test]
fn a_full_disk_refuses_what_concerns_it_and_the_other_goes_on() {
    let full = || Error::DiskFull {
        context: "a segment".into(),
    };
    let mut machine = sequencer(Lsn(0), &[GroupNo(0), GroupNo(0)], 1, true);
    let large = usize::try_from(ROOM).expect("small");
    tell(&mut machine, append(1, large));
    let both = decide(&machine, 1, &[(0, 1), (1, 1)]);
    tell(&mut machine, both);
    let out = tell(&mut machine, JournalMessage::Spare(OTHER, Err(full())));
    let refused = out.iter().any(|effect| {
        matches!(effect, JournalEffect::Resolve(NodeId(1), resolve) if resolve.outcome == Err(full()))
    });
    assert!(refused, "{out:?}");
    assert_eq!(machine.last_lsn(), Lsn(1), "the transaction, which fits");
    tell(&mut machine, append(0, 1));
    assert_eq!(machine.last_lsn(), Lsn(2));
}

#[test]
fn a_failure_of_one_disk_makes_all_read_only() {
    let mut machine = sequencer(Lsn(0), &[GroupNo(0), GroupNo(0)], 1, true);
    tell(&mut machine, append(0, 1));
    tell(&mut machine, append(1, 1));
    tell(&mut machine, JournalMessage::Cut);
    installed(&mut machine, &[0, 1]);
    let lost = Error::Closed;
    tell(&mut machine, JournalMessage::Failed(lost.clone()));
    let out = tell(&mut machine, persisted(HOME, 1));
    assert_eq!(visible(&out), None, "nothing becomes visible any more");
    let out = tell(&mut machine, append(0, 1));
    let [JournalEffect::Resolve(_, resolve)] = &out[..] else {
        panic!("{out:?}")
    };
    let reason = lost.to_string();
    assert_eq!(resolve.outcome, Err(Error::ReadOnly { reason }));
}

/// Who forces in place keeps the sequencer, and so all directories, waiting for one of them.
#[test]
fn a_lone_record_of_one_directory_is_not_forced_in_place() {
    for (count, lone) in [(1, true), (2, false)] {
        let mut run = Run::new(count);
        run.append(u16::try_from(count - 1).expect("few"));
        let mut out = Vec::new();
        run.sequencer.handle(Time(1), JournalMessage::Cut, &mut out);
        let written = out.iter().filter_map(|effect| match effect {
            JournalEffect::Write(group) => Some((usize::from(group.directory.0), group.lone)),
            _ => None,
        });
        assert_eq!(written.collect::<Vec<_>>(), [(count - 1, lone)]);
    }
}

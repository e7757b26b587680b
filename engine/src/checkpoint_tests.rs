//! The checkpointer's machine, message by message.

use super::*;
use crate::ring::Ring;
use CheckpointEffect::{Answer, Failed, Flushed, Maintain, Mark, Release, Save};
use CheckpointMessage::{
    Frozen, Hold, Maintained, MarkReached, NodeDown, Request, Saved, Tick, Written,
};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const MARK: Lsn = Lsn(9);

fn checkpoint() -> Checkpoint {
    Checkpoint::new(100, vec![Lsn(3), Lsn(4)])
}

fn tell(checkpoint: &mut Checkpoint, message: CheckpointMessage) -> Vec<CheckpointEffect> {
    let mut out = Vec::new();
    checkpoint.handle(message, &mut out);
    out
}

fn catalogue() -> Catalogue {
    Catalogue {
        keyspaces: Keyspaces::new(),
        incarnations: vec![Incarnation(1); 2],
        outcomes: Default::default(),
        ring: RingState::new(Ring::new(8, &[(A, 1), (B, 1)]).expect("it works")),
    }
}

fn frozen(node: NodeId, ready: bool) -> CheckpointMessage {
    Frozen {
        node,
        through: MARK,
        ready,
    }
}

fn write(nodes: &[NodeId]) -> CheckpointEffect {
    CheckpointEffect::Write {
        through: MARK,
        nodes: nodes.into(),
        keyspaces: Keyspaces::new(),
    }
}

fn save(complete: [Lsn; 2]) -> CheckpointEffect {
    Save {
        complete: complete.into(),
        through: MARK,
        catalogue: catalogue(),
    }
}

fn error() -> Error {
    Error::DiskFull {
        context: "a run".into(),
    }
}

/// Goes on until the worker has the runs of these nodes.
fn until_written(checkpoint: &mut Checkpoint, ready: [bool; 2]) {
    tell(checkpoint, frozen(A, ready[0]));
    tell(checkpoint, frozen(B, ready[1]));
    let out = tell(checkpoint, MarkReached(MARK, catalogue()));
    assert!(matches!(&out[..], [CheckpointEffect::Write { .. }]));
}

/// The simulator's seed 4028: a node died of `Freeze`, died of it again, and the checkpoint waited for it for ever.
#[test]
fn a_node_that_is_given_up_sits_a_checkpoint_out() {
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    assert_eq!(tell(&mut machine, frozen(A, true)), []);
    assert_eq!(tell(&mut machine, MarkReached(MARK, catalogue())), []);
    assert_eq!(tell(&mut machine, NodeDown(B)), [write(&[A])]);
    // What it had frozen before it was given up is written all the same.
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    assert_eq!(tell(&mut machine, frozen(A, true)), []);
    assert_eq!(tell(&mut machine, NodeDown(A)), []);
    assert_eq!(tell(&mut machine, frozen(B, true)), []);
    let out = tell(&mut machine, MarkReached(MARK, catalogue()));
    assert_eq!(out, [write(&[A, B])]);
}

#[test]
fn a_threshold_makes_a_checkpoint_and_nobody_waits_for_its_compaction() {
    let mut machine = checkpoint();
    assert_eq!(tell(&mut machine, Tick { active_bytes: 99 }), []);
    assert_eq!(tell(&mut machine, Tick { active_bytes: 100 }), [Mark]);
    assert_eq!(tell(&mut machine, Tick { active_bytes: 0 }), []);
    assert_eq!(tell(&mut machine, frozen(A, true)), []);
    assert_eq!(tell(&mut machine, MarkReached(MARK, catalogue())), []);
    assert_eq!(tell(&mut machine, frozen(B, true)), [write(&[A, B])]);
    let out = tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    assert_eq!(
        out,
        [Flushed(A, MARK), Flushed(B, MARK), save([MARK, MARK])]
    );
    assert_eq!(tell(&mut machine, Saved(Ok(()))), [Release(MARK), Maintain]);
    assert_eq!(tell(&mut machine, Tick { active_bytes: 100 }), [Mark]);
    assert_eq!(tell(&mut machine, Maintained(Ok(()))), []);
}

#[test]
fn a_request_is_answered_once_after_compaction_and_later_ones_share_the_next() {
    let mut machine = checkpoint();
    assert_eq!(tell(&mut machine, Request(RequestId(1))), [Mark]);
    assert_eq!(tell(&mut machine, Request(RequestId(2))), []);
    assert_eq!(tell(&mut machine, Request(RequestId(3))), []);
    until_written(&mut machine, [true, true]);
    tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    assert_eq!(tell(&mut machine, Saved(Ok(()))), [Release(MARK), Maintain]);
    let out = tell(&mut machine, Maintained(Ok(())));
    assert_eq!(out, [Answer(RequestId(1), Ok(MARK)), Mark]);
    until_written(&mut machine, [true, true]);
    tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    tell(&mut machine, Saved(Ok(())));
    let out = tell(&mut machine, Maintained(Err(error())));
    let answers = [2, 3].map(|request| Answer(RequestId(request), Err(error())));
    assert_eq!(out, answers);
}

#[test]
fn a_run_that_fails_is_reported_and_keeps_the_journal() {
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    until_written(&mut machine, [true, true]);
    let out = tell(&mut machine, Written(vec![(A, Err(error())), (B, Ok(()))]));
    assert_eq!(
        out,
        [
            Failed(A, error()),
            Flushed(B, MARK),
            Answer(RequestId(1), Err(error())),
            save([Lsn(3), MARK]),
        ]
    );
    assert_eq!(
        tell(&mut machine, Saved(Ok(()))),
        [Release(Lsn(3)), Maintain]
    );
}

#[test]
fn without_a_manifest_nothing_is_released() {
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    until_written(&mut machine, [true, true]);
    tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    assert_eq!(tell(&mut machine, Saved(Err(error()))), [Maintain]);
    let out = tell(&mut machine, Maintained(Ok(())));
    assert_eq!(out, [Answer(RequestId(1), Err(error()))]);
}

#[test]
fn a_read_only_engine_answers_whoever_waits_for_a_mark() {
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    tell(&mut machine, Request(RequestId(2)));
    let mut out = Vec::new();
    machine.fail(&error(), &mut out);
    let refused = || Err(error().as_read_only());
    let answers = [2, 1].map(|request| Answer(RequestId(request), refused()));
    assert_eq!(out, answers);
    assert_eq!(tell(&mut machine, frozen(A, true)), []);
    let out = tell(&mut machine, Request(RequestId(3)));
    assert_eq!(out, [Answer(RequestId(3), refused())]);
    assert_eq!(tell(&mut machine, Tick { active_bytes: 500 }), []);
}

#[test]
fn a_read_only_engine_finishes_the_runs_that_it_has_begun() {
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    until_written(&mut machine, [true, true]);
    let mut out = Vec::new();
    machine.fail(&error(), &mut out);
    assert_eq!(out, []);
    tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    tell(&mut machine, Saved(Ok(())));
    let out = tell(&mut machine, Maintained(Ok(())));
    assert_eq!(out, [Answer(RequestId(1), Ok(MARK))]);
}

#[test]
fn a_node_that_sits_out_keeps_its_journal_and_the_answer_says_so() {
    // A request was told that the mark is in the trees, though one tree ended before it.
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    tell(&mut machine, frozen(A, false));
    tell(&mut machine, frozen(B, true));
    let out = tell(&mut machine, MarkReached(MARK, catalogue()));
    assert_eq!(out, [write(&[B])]);
    let out = tell(&mut machine, Written(vec![(B, Ok(()))]));
    assert_eq!(out, [Flushed(B, MARK), save([Lsn(3), MARK])]);
    assert_eq!(
        tell(&mut machine, Saved(Ok(()))),
        [Release(Lsn(3)), Maintain]
    );
    let out = tell(&mut machine, Maintained(Ok(())));
    assert_eq!(out, [Answer(RequestId(1), Ok(Lsn(3)))]);
}

#[test]
fn a_node_that_restarted_since_the_mark_is_left_out_by_the_worker() {
    let mut machine = checkpoint();
    tell(&mut machine, Tick { active_bytes: 100 });
    until_written(&mut machine, [true, true]);
    let out = tell(&mut machine, Written(vec![(A, Ok(()))]));
    assert_eq!(out, [Flushed(A, MARK), save([MARK, Lsn(4)])]);
    assert_eq!(
        tell(&mut machine, Saved(Ok(()))),
        [Release(Lsn(4)), Maintain]
    );
}

#[test]
fn a_run_that_could_not_be_written_is_due_again_after_a_while_though_nothing_is_active() {
    // What had failed was not active any more, so that it was not due until somebody wrote; but the memory that it held
    // let nobody write.
    let mut machine = checkpoint();
    tell(&mut machine, Tick { active_bytes: 100 });
    until_written(&mut machine, [true, true]);
    tell(&mut machine, Written(vec![(A, Ok(())), (B, Err(error()))]));
    tell(&mut machine, Saved(Ok(())));
    for _ in 1..RETRY_TICKS {
        // Nor is it tried all the time, however much has come since.
        assert_eq!(tell(&mut machine, Tick { active_bytes: 500 }), []);
    }
    assert_eq!(tell(&mut machine, Tick { active_bytes: 0 }), [Mark]);
    until_written(&mut machine, [true, true]);
    tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    tell(&mut machine, Saved(Ok(())));
    for _ in 0..2 * RETRY_TICKS {
        assert_eq!(
            tell(&mut machine, Tick { active_bytes: 0 }),
            [],
            "all is well"
        );
    }
}

#[test]
fn a_manifest_that_could_not_be_saved_is_saved_by_the_next_attempt() {
    let mut machine = checkpoint();
    tell(&mut machine, Tick { active_bytes: 100 });
    until_written(&mut machine, [true, true]);
    tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    tell(&mut machine, Saved(Err(error())));
    for _ in 1..RETRY_TICKS {
        assert_eq!(tell(&mut machine, Tick { active_bytes: 0 }), []);
    }
    assert_eq!(tell(&mut machine, Tick { active_bytes: 0 }), [Mark]);
}

const C: NodeId = NodeId(2);

/// The ring state after a change that brings these members, at these LSNs.
fn ring_with(members: &[(NodeId, u32)], began: u64, ended: Option<u64>) -> RingState {
    use crate::ring_state::{Change, RingRecord};
    let mut state = catalogue().ring;
    let keeps = |node: &NodeId| members.iter().any(|member| member.0 == *node);
    let moves = (0u32..)
        .zip(state.ring().owners())
        .filter(|(_, owner)| !keeps(owner))
        .map(|(arc, owner)| crate::ring::ArcMove {
            arc,
            from: *owner,
            to: members[0].0,
        })
        .collect();
    let change = Change {
        number: 1,
        members: members.to_vec(),
        moves,
    };
    let mut records = Vec::new();
    if let Some(ended) = ended {
        for from in change.sources() {
            records.push((ended, RingRecord::Cut { change: 1, from }));
            records.push((ended, RingRecord::Cleaned { change: 1, from }));
        }
        let members = members.to_vec();
        records.push((ended, RingRecord::Ended { change: 1, members }));
    }
    records.insert(0, (began, RingRecord::Began(change.into())));
    for (lsn, record) in records {
        state.apply(Lsn(lsn), &record).expect("it fits");
    }
    state
}

fn reached(ring: RingState) -> CheckpointMessage {
    MarkReached(
        MARK,
        Catalogue {
            ring,
            ..catalogue()
        },
    )
}

fn saved_complete(out: &[CheckpointEffect]) -> &[Lsn] {
    match out {
        [.., Save { complete, .. }] => complete,
        other => panic!("nothing is saved: {other:?}"),
    }
}

#[test]
fn a_node_that_has_joined_belongs_to_the_marks_since_and_is_complete_up_to_there() {
    let joined = || ring_with(&[(A, 1), (B, 1), (C, 1)], 6, None);
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    tell(&mut machine, frozen(C, true));
    tell(&mut machine, frozen(A, true));
    assert_eq!(tell(&mut machine, reached(joined())), []);
    assert_eq!(tell(&mut machine, frozen(B, true)), [write(&[A, B, C])]);
    // It was written, and has restarted since.
    let out = tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    assert_eq!(saved_complete(&out), [MARK, MARK, Lsn(6)]);
    let out = tell(&mut machine, Saved(Ok(())));
    assert_eq!(out, [Release(Lsn(6)), Maintain], "it needs the journal");
    let out = tell(&mut machine, Maintained(Ok(())));
    assert_eq!(out, [Answer(RequestId(1), Ok(Lsn(6)))]);
    // A mark of before it came does not wait for it.
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    tell(&mut machine, frozen(A, true));
    tell(&mut machine, frozen(B, true));
    assert_eq!(
        tell(&mut machine, reached(catalogue().ring)),
        [write(&[A, B])]
    );
}

#[test]
fn a_node_that_is_retired_is_not_waited_for_and_keeps_no_journal() {
    let left = || ring_with(&[(A, 1)], 5, Some(7));
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    assert_eq!(tell(&mut machine, frozen(A, true)), []);
    assert_eq!(tell(&mut machine, reached(left())), [write(&[A])]);
    let out = tell(&mut machine, Written(vec![(A, Ok(()))]));
    assert_eq!(saved_complete(&out), [MARK, Lsn(4)]);
    assert_eq!(tell(&mut machine, Saved(Ok(()))), [Release(MARK), Maintain]);
    let out = tell(&mut machine, Maintained(Ok(())));
    assert_eq!(out, [Answer(RequestId(1), Ok(MARK))]);
    // It was still there at the mark, and its actor has gone since.
    let mut machine = checkpoint();
    tell(&mut machine, Request(RequestId(1)));
    tell(&mut machine, frozen(A, true));
    assert_eq!(tell(&mut machine, reached(catalogue().ring)), []);
    assert_eq!(tell(&mut machine, NodeDown(B)), [write(&[A])]);
}

/// Runs a checkpoint through, and says what it released.
fn released(machine: &mut Checkpoint, saved: Result<()>) -> Vec<CheckpointEffect> {
    tell(machine, Tick { active_bytes: 100 });
    until_written(machine, [true, true]);
    tell(machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    let mut out = tell(machine, Saved(saved));
    assert_eq!(out.pop(), Some(Maintain));
    out
}

#[test]
fn a_hold_bounds_what_is_released_until_it_is_let_go() {
    let mut machine = checkpoint();
    assert_eq!(
        tell(&mut machine, Hold(Some(Lsn(5)))),
        [],
        "nothing is saved"
    );
    assert_eq!(released(&mut machine, Ok(())), [Release(Lsn(5))]);
    assert_eq!(tell(&mut machine, Hold(Some(Lsn(5)))), []);
    assert_eq!(
        tell(&mut machine, Hold(Some(Lsn(7)))),
        [Release(Lsn(7))],
        "also while no checkpoint runs"
    );
    assert_eq!(released(&mut machine, Err(error())), []);
    assert_eq!(tell(&mut machine, Hold(Some(Lsn(6)))), [], "too late");
    for _ in 1..RETRY_TICKS {
        tell(&mut machine, Tick { active_bytes: 0 });
    }
    assert_eq!(
        released(&mut machine, Ok(())),
        [],
        "nothing more than before"
    );
    assert_eq!(tell(&mut machine, Hold(None)), [Release(MARK)]);
    assert_eq!(tell(&mut machine, Hold(None)), []);
    // What no manifest says is not released, whoever lets go.
    let mut machine = checkpoint();
    tell(&mut machine, Hold(Some(Lsn(5))));
    assert_eq!(released(&mut machine, Err(error())), []);
    assert_eq!(tell(&mut machine, Hold(None)), []);
    // And a read-only engine holds on.
    let mut machine = checkpoint();
    tell(&mut machine, Hold(Some(Lsn(5))));
    tell(&mut machine, Tick { active_bytes: 100 });
    until_written(&mut machine, [true, true]);
    tell(&mut machine, Written(vec![(A, Ok(())), (B, Ok(()))]));
    let mut out = Vec::new();
    machine.fail(&error(), &mut out);
    assert_eq!(out, []);
    assert_eq!(
        tell(&mut machine, Saved(Ok(()))),
        [Release(Lsn(5)), Maintain]
    );
}

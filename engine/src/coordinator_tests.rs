//! A coordinator's machine, message by message: each test asserts everything that it wants done.

use super::*;
use crate::{
    locks::FencingToken,
    transaction::{Fence, ReadSet, Writes},
    value::{Value, Write},
};
use CoordinatorEffect::{Aborts, Answer, AnswerRepeated, Journal, Locks, Prepares, ScheduleFlush};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LIFE: Incarnation = Incarnation(3);
const ROUTED_BY: Epoch = Epoch(5);
const OWNED_SINCE: Epoch = Epoch(4);
const LATE: Time = Time(500);

fn coordinator() -> Coordinator {
    Coordinator::new(CoordinatorOptions {
        running: 3,
        bytes: MAX_TRANSACTION_BYTES,
        vote_timeout: Duration::from_nanos(100),
        ask_again: Duration::from_nanos(50),
    })
}

fn txn(number: u64) -> TxnId {
    TxnId::new(1, number).expect("not 0")
}

fn writes(bytes: usize) -> Writes {
    let write = Write {
        key: Bytes::from_static(b"\0\0\0\x01k"),
        value: Some(Value::new(vec![7; bytes].into())),
    };
    [write].into()
}

fn reads() -> Arc<ReadSet> {
    Arc::new(ReadSet {
        snapshot: Lsn(9),
        keys: vec![Bytes::from_static(b"\0\0\0\x01r")],
        ranges: Vec::new(),
    })
}

/// Writes on A, reads on B.
fn parts() -> Vec<TxnPart> {
    vec![
        TxnPart {
            node: A,
            reads: Arc::default(),
            writes: writes(1),
        },
        TxnPart {
            node: B,
            reads: reads(),
            writes: [].into(),
        },
    ]
}

fn voted(incarnation: Incarnation) -> Ballot {
    let epoch = OWNED_SINCE;
    Ballot::Yes { incarnation, epoch }
}

fn commit_of(number: u64) -> Commit {
    Commit {
        txn: txn(number),
        request: RequestId(number),
        deadline: LATE,
        parts: parts().into(),
        fences: Vec::new(),
        idempotency: None,
        epoch: ROUTED_BY,
    }
}

fn reads_of(commit: &mut Commit) -> &mut ReadSet {
    Arc::make_mut(&mut Arc::make_mut(&mut commit.parts)[1].reads)
}

fn commit(number: u64) -> CoordinatorMessage {
    CoordinatorMessage::Commit(commit_of(number))
}

fn fences() -> Vec<Fence> {
    vec![Fence {
        lock: "file".into(),
        token: FencingToken(33),
    }]
}

/// A commit under a token.
fn fenced(number: u64) -> CoordinatorMessage {
    CoordinatorMessage::Commit(Commit {
        fences: fences(),
        ..commit_of(number)
    })
}

fn prepare_fence(number: u64) -> LockMessage {
    LockMessage::PrepareFence {
        txn: txn(number),
        fences: fences(),
        deadline: LATE,
    }
}

fn resolve_fence(number: u64) -> LockMessage {
    let txn = txn(number);
    LockMessage::ResolveFence { txn }
}

fn fence_vote(number: u64, ballot: Ballot) -> CoordinatorMessage {
    let txn = txn(number);
    CoordinatorMessage::FenceVotes(vec![FenceVote { txn, ballot }])
}

fn tell_at(
    coordinator: &mut Coordinator,
    now: u64,
    message: CoordinatorMessage,
) -> Vec<CoordinatorEffect> {
    let mut out = Vec::new();
    coordinator.handle(Time(now), message, &mut out);
    out
}

fn tell(coordinator: &mut Coordinator, message: CoordinatorMessage) -> Vec<CoordinatorEffect> {
    tell_at(coordinator, 1, message)
}

fn flush(coordinator: &mut Coordinator) -> Vec<CoordinatorEffect> {
    tell(coordinator, CoordinatorMessage::Flush)
}

fn timeout(coordinator: &mut Coordinator, now: u64) -> Vec<CoordinatorEffect> {
    let mut out = Vec::new();
    coordinator.handle_timeout(Time(now), &mut out);
    out
}

fn prepare_of(number: u64, part: &TxnPart) -> Prepare {
    Prepare {
        txn: txn(number),
        deadline: LATE,
        reads: part.reads.clone(),
        writes: part.writes.clone(),
        epoch: ROUTED_BY,
    }
}

fn prepares(numbers: &[u64]) -> [CoordinatorEffect; 2] {
    let of = |part: TxnPart| {
        let prepares = numbers.iter().map(|number| prepare_of(*number, &part));
        Prepares(part.node, prepares.collect())
    };
    let [a, b] = parts().try_into().expect("two parts");
    [of(a), of(b)]
}

fn vote(number: u64, node: NodeId, ballot: Ballot) -> CoordinatorMessage {
    CoordinatorMessage::Votes(vec![Vote {
        txn: txn(number),
        node,
        ballot,
    }])
}

fn yes(number: u64, node: NodeId) -> CoordinatorMessage {
    vote(number, node, voted(LIFE))
}

fn decided(number: u64, verdict: Verdict) -> CoordinatorMessage {
    CoordinatorMessage::Decided(vec![Decided {
        txn: txn(number),
        verdict,
    }])
}

fn decide_of(number: u64) -> Decide {
    let parts = parts().into_iter().map(|part| DecidePart {
        node: part.node,
        incarnation: LIFE,
        epoch: OWNED_SINCE,
        writes: part.writes,
    });
    Decide {
        txn: txn(number),
        deadline: LATE,
        idempotency: None,
        parts: parts.collect(),
        lock_life: None,
    }
}

fn decides(numbers: &[u64]) -> CoordinatorEffect {
    let decides = numbers.iter().copied().map(decide_of);
    Journal(JournalMessage::Decides(decides.collect()))
}

fn asks(numbers: &[u64]) -> CoordinatorEffect {
    let asks = numbers.iter().map(|number| Ask {
        txn: txn(*number),
        deadline: LATE,
        asker: Asker::Coordinator,
    });
    Journal(JournalMessage::Asks(asks.collect()))
}

fn aborts(node: NodeId, number: u64) -> CoordinatorEffect {
    let abort = Abort {
        txn: txn(number),
        deadline: LATE,
    };
    Aborts(node, vec![abort])
}

fn refused(number: u64, error: Error) -> CoordinatorEffect {
    Answer(RequestId(number), Err(error))
}

fn conflict() -> Error {
    Error::Conflict {
        key: Bytes::from_static(b"\0\0\0\x01k"),
        with: crate::error::Rival::Write,
    }
}

/// A coordinator with transaction 1 decided and sent to the journal.
fn deciding() -> Coordinator {
    let mut coordinator = coordinator();
    tell(&mut coordinator, commit(1));
    flush(&mut coordinator);
    tell(&mut coordinator, yes(1, A));
    tell(&mut coordinator, yes(1, B));
    flush(&mut coordinator);
    coordinator
}

#[test]
fn all_are_asked_at_once_and_all_yes_is_decided_by_the_journal() {
    let mut coordinator = coordinator();
    assert_eq!(tell(&mut coordinator, commit(1)), [ScheduleFlush]);
    assert!(coordinator.owes(RequestId(1)));
    assert_eq!(flush(&mut coordinator), prepares(&[1]));
    assert_eq!(tell(&mut coordinator, yes(1, B)), []);
    assert_eq!(tell(&mut coordinator, yes(1, B)), [], "told twice");
    assert_eq!(tell(&mut coordinator, yes(1, A)), [ScheduleFlush]);
    assert_eq!(flush(&mut coordinator), [decides(&[1])]);
    let out = tell(&mut coordinator, decided(1, Verdict::Committed(Lsn(7))));
    assert_eq!(out, [Answer(RequestId(1), Ok(Lsn(7)))]);
    assert_eq!(
        (coordinator.running(), coordinator.next_timeout()),
        (0, None)
    );
}

#[test]
fn what_a_round_wants_sent_goes_as_one_message_to_each() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, commit(1));
    assert_eq!(tell(&mut coordinator, commit(2)), [], "scheduled already");
    assert_eq!(flush(&mut coordinator), prepares(&[1, 2]));
    assert_eq!(flush(&mut coordinator), []);
    let votes = [(1, A), (1, B), (2, A), (2, B)].map(|(number, node)| Vote {
        txn: txn(number),
        node,
        ballot: voted(LIFE),
    });
    let out = tell(&mut coordinator, CoordinatorMessage::Votes(votes.into()));
    assert_eq!(out, [ScheduleFlush]);
    assert_eq!(flush(&mut coordinator), [decides(&[1, 2])]);
}

#[test]
fn a_no_rolls_back_and_its_reason_is_the_answer() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, commit(1));
    flush(&mut coordinator);
    let out = tell(&mut coordinator, vote(1, A, Ballot::No(conflict())));
    assert_eq!(out, [refused(1, conflict()), ScheduleFlush]);
    assert_eq!(
        flush(&mut coordinator),
        [aborts(B, 1)],
        "who voted No holds nothing"
    );
    assert_eq!(tell(&mut coordinator, yes(1, B)), [], "a late vote");
}

#[test]
fn silence_after_prepare_rolls_back() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, commit(1));
    flush(&mut coordinator);
    tell(&mut coordinator, yes(1, A));
    assert_eq!(coordinator.next_timeout(), Some(Time(101)));
    assert_eq!(timeout(&mut coordinator, 100), []);
    let reason = "a node did not vote in time";
    let error = Error::Aborted { reason };
    assert_eq!(
        timeout(&mut coordinator, 101),
        [refused(1, error), ScheduleFlush]
    );
    assert_eq!(flush(&mut coordinator), [aborts(A, 1), aborts(B, 1)]);
    tell_at(&mut coordinator, 450, commit(2));
    flush(&mut coordinator);
    assert_eq!(
        coordinator.next_timeout(),
        Some(LATE),
        "not past its deadline"
    );
    assert_eq!(
        timeout(&mut coordinator, 500),
        [refused(2, Error::DeadlineExceeded), ScheduleFlush]
    );
}

#[test]
fn an_abort_goes_behind_its_prepare_also_within_one_round() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, commit(1));
    let error = Error::NodeDown { node: B };
    assert_eq!(
        tell(&mut coordinator, CoordinatorMessage::NodeDown(B)),
        [refused(1, error)]
    );
    let [to_a, to_b] = prepares(&[1]);
    assert_eq!(flush(&mut coordinator), [to_a, to_b, aborts(A, 1)]);
}

#[test]
fn a_node_that_is_lost_after_its_vote_is_the_journals_matter() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, commit(1));
    flush(&mut coordinator);
    tell(&mut coordinator, yes(1, B));
    assert_eq!(tell(&mut coordinator, CoordinatorMessage::NodeDown(B)), []);
    tell(&mut coordinator, yes(1, A));
    assert_eq!(tell(&mut coordinator, CoordinatorMessage::NodeDown(A)), []);
    assert_eq!(flush(&mut coordinator), [decides(&[1])]);
    let down = Error::NodeDown { node: B };
    let out = tell(&mut coordinator, decided(1, Verdict::Refused(down.clone())));
    assert_eq!(out, [refused(1, down), ScheduleFlush]);
    assert_eq!(flush(&mut coordinator), [aborts(A, 1), aborts(B, 1)]);
}

#[test]
fn once_it_is_sent_a_decision_is_asked_for_and_never_rolled_back() {
    let mut coordinator = deciding();
    assert_eq!(coordinator.next_timeout(), Some(Time(550)));
    assert_eq!(timeout(&mut coordinator, 549), []);
    assert_eq!(timeout(&mut coordinator, 550), [ScheduleFlush]);
    assert_eq!(flush(&mut coordinator), [asks(&[1])]);
    assert_eq!(timeout(&mut coordinator, 600), [ScheduleFlush], "again");
    assert!(coordinator.owes(RequestId(1)));
}

#[test]
fn a_repeated_key_answers_the_first_commit_and_releases_the_second() {
    let mut coordinator = deciding();
    let out = tell(&mut coordinator, decided(1, Verdict::Repeated(Lsn(4))));
    assert_eq!(out, [AnswerRepeated(RequestId(1), Lsn(4)), ScheduleFlush]);
    assert_eq!(flush(&mut coordinator), [aborts(A, 1), aborts(B, 1)]);
}

#[test]
fn after_a_panic_the_journal_is_asked_for_everything() {
    let mut coordinator = deciding();
    tell(&mut coordinator, commit(2));
    let mut out = Vec::new();
    coordinator.restart(Time(20), &mut out);
    assert_eq!(out, [ScheduleFlush]);
    assert_eq!(
        flush(&mut coordinator),
        [asks(&[1, 2])],
        "nobody was asked to prepare 2, and nobody will be"
    );
    assert_eq!(tell(&mut coordinator, yes(2, A)), []);
    let out = tell(&mut coordinator, decided(1, Verdict::Committed(Lsn(7))));
    assert_eq!(out, [Answer(RequestId(1), Ok(Lsn(7)))]);
    let reason = "asked";
    let error = Error::Aborted { reason };
    let out = tell(
        &mut coordinator,
        decided(2, Verdict::Refused(error.clone())),
    );
    assert_eq!(out, [refused(2, error), ScheduleFlush]);
    assert_eq!(flush(&mut coordinator), [aborts(A, 2), aborts(B, 2)]);
}

#[test]
fn a_read_only_engine_rolls_back_what_is_not_decided_and_does_not_know_the_rest() {
    let mut coordinator = deciding();
    tell(&mut coordinator, commit(2));
    flush(&mut coordinator);
    let error = Error::Closed;
    let reason = error.to_string();
    let out = tell(&mut coordinator, CoordinatorMessage::ReadOnly(error));
    let unknown = Error::Unknown {
        reason: reason.clone(),
    };
    let read_only = Error::ReadOnly { reason };
    assert_eq!(
        out,
        [
            refused(1, unknown),
            refused(2, read_only.clone()),
            ScheduleFlush
        ]
    );
    assert_eq!(flush(&mut coordinator), [aborts(A, 2), aborts(B, 2)]);
    assert_eq!(tell(&mut coordinator, commit(3)), [refused(3, read_only)]);
}

#[test]
fn what_can_not_run_is_refused_at_once() {
    let mut coordinator = coordinator();
    assert_eq!(
        tell_at(&mut coordinator, 500, commit(1)),
        [refused(1, Error::DeadlineExceeded)]
    );
    for number in 2..5 {
        tell(&mut coordinator, commit(number));
    }
    let what = "the coordinator";
    assert_eq!(
        tell(&mut coordinator, commit(5)),
        [refused(5, Error::Overloaded { what })]
    );
    let mut read_only = commit_of(6);
    read_only.parts = read_only.parts[1..].into();
    let out = tell(&mut coordinator, CoordinatorMessage::Commit(read_only));
    assert_eq!(
        out,
        [Answer(RequestId(6), Ok(Lsn(9)))],
        "nothing to commit: it was true at its snapshot"
    );
}

#[test]
fn a_transaction_beyond_the_limits_is_refused_with_its_size() {
    let mut coordinator = coordinator();
    let mut refusal = |number, change: &dyn Fn(&mut Commit)| {
        let mut commit = commit_of(number);
        change(&mut commit);
        let out = tell(&mut coordinator, CoordinatorMessage::Commit(commit));
        match &out[..] {
            [Answer(_, Err(Error::TransactionTooLarge { len, limit, unit }))] => {
                (*len, *limit, *unit)
            }
            other => panic!("{other:?}"),
        }
    };
    let key = Bytes::from_static(b"\0\0\0\x01r");
    let keys = refusal(1, &|commit| {
        reads_of(commit).keys = vec![key.clone(); MAX_TRANSACTION_KEYS];
    });
    assert_eq!(
        keys,
        (MAX_TRANSACTION_KEYS + 1, MAX_TRANSACTION_KEYS, "keys")
    );
    let bytes = refusal(2, &|commit| {
        Arc::make_mut(&mut commit.parts)[0].writes = writes(MAX_TRANSACTION_BYTES);
    });
    let len = MAX_TRANSACTION_BYTES + 5 + 5;
    assert_eq!(bytes, (len, MAX_TRANSACTION_BYTES, "bytes"));
    let range = crate::transaction::KeyRange {
        low: std::ops::Bound::Unbounded,
        high: std::ops::Bound::Unbounded,
    };
    let ranges = refusal(3, &|commit| {
        reads_of(commit).ranges = vec![range.clone(); MAX_TRANSACTION_RANGES + 1];
    });
    let len = MAX_TRANSACTION_RANGES + 1;
    assert_eq!(ranges, (len, MAX_TRANSACTION_RANGES, "ranges"));
    let len = MAX_TRANSACTION_FENCES + 1;
    let fences = refusal(4, &|commit| {
        commit.fences = vec![fences()[0].clone(); len];
    });
    assert_eq!(fences, (len, MAX_TRANSACTION_FENCES, "fences"));
    assert_eq!(coordinator.running(), 0);
}

#[test]
fn a_large_transaction_is_waited_for_longer() {
    let mut coordinator = coordinator();
    let key = Bytes::from_static(b"\0\0\0\x01r");
    let mut large = commit_of(1);
    large.deadline = Time(1_000);
    reads_of(&mut large).keys = vec![key; 20_000];
    let large = CoordinatorMessage::Commit(large);
    coordinator.handle(Time(0), large, &mut Vec::new());
    assert_eq!(coordinator.next_timeout(), Some(Time(300)));
    coordinator.handle(Time(0), commit(2), &mut Vec::new());
    assert_eq!(coordinator.next_timeout(), Some(Time(100)));
}

const LOCK_LIFE: Incarnation = Incarnation(5);

fn fence_yes(number: u64) -> CoordinatorMessage {
    let incarnation = LOCK_LIFE;
    fence_vote(number, voted(incarnation))
}

#[test]
fn the_lock_manager_votes_like_a_node_and_is_told_when_the_commit_is_visible() {
    let mut coordinator = coordinator();
    assert_eq!(tell(&mut coordinator, fenced(1)), [ScheduleFlush]);
    let [to_a, to_b] = prepares(&[1]);
    let to_locks = Locks(vec![prepare_fence(1)]);
    assert_eq!(flush(&mut coordinator), [to_a, to_b, to_locks]);
    tell(&mut coordinator, yes(1, A));
    assert_eq!(tell(&mut coordinator, yes(1, B)), [], "one vote is missing");
    assert_eq!(tell(&mut coordinator, fence_yes(1)), [ScheduleFlush]);
    let decide = Decide {
        lock_life: Some(LOCK_LIFE),
        ..decide_of(1)
    };
    let decides = Journal(JournalMessage::Decides(vec![decide]));
    assert_eq!(flush(&mut coordinator), [decides]);
    let out = tell(&mut coordinator, decided(1, Verdict::Committed(Lsn(7))));
    assert_eq!(out, [Answer(RequestId(1), Ok(Lsn(7))), ScheduleFlush]);
    let resolve = Locks(vec![resolve_fence(1)]);
    assert_eq!(flush(&mut coordinator), [resolve]);
}

#[test]
fn a_vote_of_the_lock_manager_on_a_transaction_without_a_fence_counts_for_nothing() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, commit(1));
    flush(&mut coordinator);
    tell(&mut coordinator, fence_yes(1));
    tell(&mut coordinator, yes(1, A));
    tell(&mut coordinator, yes(1, B));
    assert_eq!(flush(&mut coordinator), [decides(&[1])]);
}

#[test]
fn a_stale_token_rolls_back_and_a_conflict_lets_the_lock_go_on() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, fenced(1));
    tell(&mut coordinator, fenced(2));
    flush(&mut coordinator);
    let stale = Error::StaleFence {
        lock: "file".into(),
        token: FencingToken(33),
    };
    let out = tell(&mut coordinator, fence_vote(1, Ballot::No(stale.clone())));
    assert_eq!(out, [refused(1, stale), ScheduleFlush]);
    assert_eq!(
        flush(&mut coordinator),
        [aborts(A, 1), aborts(B, 1)],
        "the lock manager keeps nothing"
    );
    let out = tell(&mut coordinator, vote(2, A, Ballot::No(conflict())));
    assert_eq!(out, [refused(2, conflict()), ScheduleFlush]);
    let resolve = Locks(vec![resolve_fence(2)]);
    assert_eq!(flush(&mut coordinator), [aborts(B, 2), resolve]);
}

#[test]
fn of_one_that_only_reads_the_lock_manager_alone_is_asked() {
    let mut coordinator = coordinator();
    let reading = |number| {
        let mut commit = commit_of(number);
        commit.fences = fences();
        for part in Arc::make_mut(&mut commit.parts) {
            part.writes = Arc::default();
        }
        CoordinatorMessage::Commit(commit)
    };
    assert_eq!(tell(&mut coordinator, reading(1)), [ScheduleFlush]);
    let asked = Locks(vec![prepare_fence(1)]);
    assert_eq!(flush(&mut coordinator), [asked]);
    let out = tell(&mut coordinator, fence_yes(1));
    assert_eq!(out, [Answer(RequestId(1), Ok(Lsn(9))), ScheduleFlush]);
    let resolve = Locks(vec![resolve_fence(1)]);
    assert_eq!(flush(&mut coordinator), [resolve], "nothing is decided");
    assert_eq!(
        (coordinator.running(), coordinator.next_timeout()),
        (0, None)
    );

    tell(&mut coordinator, reading(2));
    flush(&mut coordinator);
    let stale = Error::StaleFence {
        lock: "file".into(),
        token: FencingToken(33),
    };
    let out = tell(&mut coordinator, fence_vote(2, Ballot::No(stale.clone())));
    assert_eq!(out, [refused(2, stale)]);
}

#[test]
fn a_lock_manager_that_is_silent_rolls_back() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, fenced(1));
    flush(&mut coordinator);
    tell(&mut coordinator, yes(1, A));
    tell(&mut coordinator, yes(1, B));
    let reason = "the lock manager did not vote in time";
    let error = Error::Aborted { reason };
    let out = timeout(&mut coordinator, 101);
    assert_eq!(out, [refused(1, error), ScheduleFlush]);
    let resolve = Locks(vec![resolve_fence(1)]);
    let told = [aborts(A, 1), aborts(B, 1), resolve];
    assert_eq!(flush(&mut coordinator), told);
}

#[test]
fn a_lock_whose_commit_is_unknown_is_not_handed_on() {
    let mut coordinator = coordinator();
    tell(&mut coordinator, fenced(1));
    tell(&mut coordinator, fenced(2));
    flush(&mut coordinator);
    for node in [A, B] {
        tell(&mut coordinator, yes(1, node));
    }
    tell(&mut coordinator, fence_yes(1));
    flush(&mut coordinator);
    tell(
        &mut coordinator,
        CoordinatorMessage::ReadOnly(Error::Closed),
    );
    let resolve = Locks(vec![resolve_fence(2)]);
    let told = [aborts(A, 2), aborts(B, 2), resolve];
    assert_eq!(flush(&mut coordinator), told, "1 may be there");
}

//! Decisions, message by message.

use super::*;
use crate::{
    ids::{Epoch, TxnId},
    outcomes::OutcomeLimits,
    transaction::{Ask, Asker, Decide, DecidePart, Decided, Settle, TxnOutcome, Verdict},
};
use JournalEffect::Outcome;

const LATE: Time = Time(50);
const IN_DOUBT: &str = "somebody in doubt asked for the outcome before it was decided";

pub(super) fn txn(number: u64) -> TxnId {
    TxnId::new(1, number).expect("not 0")
}

fn decide_part(node: NodeId, bytes: Option<usize>) -> DecidePart {
    DecidePart {
        node,
        incarnation: LIFE,
        epoch: Epoch(1),
        writes: bytes.map_or([].into(), |bytes| commit(bytes).writes),
    }
}

/// A transaction that has written on A and read on B.
pub(super) fn decide_of(number: u64, bytes: usize) -> Decide {
    Decide {
        txn: txn(number),
        deadline: LATE,
        idempotency: None,
        parts: vec![decide_part(A, Some(bytes)), decide_part(B, None)],
        lock_life: None,
    }
}

fn decide(number: u64) -> JournalMessage {
    JournalMessage::Decides(vec![decide_of(number, 1)])
}

fn with_key(number: u64, key: &'static str) -> JournalMessage {
    JournalMessage::Decides(vec![Decide {
        idempotency: Some(Bytes::from_static(key.as_bytes())),
        ..decide_of(number, 1)
    }])
}

fn ask(number: u64, asker: Asker) -> JournalMessage {
    JournalMessage::Asks(vec![Ask {
        txn: txn(number),
        deadline: LATE,
        asker,
    }])
}

fn told(node: NodeId, number: u64, lsn: Option<u64>) -> JournalEffect {
    let settle = Settle {
        txn: txn(number),
        incarnation: LIFE,
        lsn: lsn.map(Lsn),
    };
    JournalEffect::Settle(node, vec![settle])
}

pub(super) fn decided(number: u64, verdict: Verdict) -> JournalEffect {
    JournalEffect::Decided(vec![Decided {
        txn: txn(number),
        verdict,
    }])
}

fn refused(number: u64, error: Error) -> JournalEffect {
    decided(number, Verdict::Refused(error))
}

fn in_doubt() -> Error {
    Error::Aborted { reason: IN_DOUBT }
}

fn outcome(request: u64, outcome: TxnOutcome) -> JournalEffect {
    Outcome(RequestId(request), Ok(outcome))
}

fn handle(request: u64) -> Asker {
    Asker::Handle(RequestId(request))
}

/// Decides transaction 1 at LSN 1 and makes it visible.
fn with_commit(journal: &mut Sequencer) {
    tell(journal, decide(1));
    tell(journal, JournalMessage::Cut);
    tell(journal, installed(A, 1));
    tell(journal, persisted(1, ROOM, Some(SEGMENT)));
}

#[test]
fn a_decision_is_one_record_everybody_is_told_at_once_and_the_coordinator_when_it_is_visible() {
    let mut journal = sequencer();
    tell(&mut journal, append_of(B, 0, &[1]));
    let out = tell(&mut journal, decide(1));
    assert_eq!(
        out,
        [told(A, 1, Some(2)), told(B, 1, Some(2))],
        "also where it only read"
    );
    let out = tell(&mut journal, JournalMessage::Cut);
    let [JournalEffect::Write(write)] = &out[..] else {
        panic!("{out:?}")
    };
    let records: Vec<_> = record::decode_all(&write.payload.clone().into()).collect();
    let body = RecordBody::Commit {
        txn: Some(TxnTag {
            id: txn(1),
            idempotency: None,
        }),
        parts: vec![record::CommitPart {
            node: A,
            incarnation: LIFE,
            writes: commit(1).writes.to_vec(),
        }],
    };
    assert_eq!(records[1], Ok(Record { lsn: Lsn(2), body }));
    assert_eq!(tell(&mut journal, installed(B, 1)), []);
    let spare = Some(SEGMENT);
    let out = tell(&mut journal, persisted(2, ROOM, spare));
    assert_eq!(out, [], "A has not installed it");
    let out = tell(&mut journal, installed(A, 2));
    assert_eq!(
        out,
        [
            Visible(Lsn(2), vec![A, B]),
            decided(1, Verdict::Committed(Lsn(2)))
        ]
    );
}

#[test]
fn decisions_of_one_round_are_one_message_to_each_node_and_one_to_the_coordinator() {
    let mut journal = sequencer();
    let decides = vec![decide_of(1, 1), decide_of(2, 1)];
    let out = tell(&mut journal, JournalMessage::Decides(decides));
    let both = |node| {
        let settle = |number| Settle {
            txn: txn(number),
            incarnation: LIFE,
            lsn: Some(Lsn(number)),
        };
        JournalEffect::Settle(node, vec![settle(1), settle(2)])
    };
    assert_eq!(out, [both(A), both(B)]);
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, installed(A, 2));
    let out = tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    let committed = |number| Decided {
        txn: txn(number),
        verdict: Verdict::Committed(Lsn(number)),
    };
    assert_eq!(
        out,
        [
            Visible(Lsn(2), vec![A]),
            JournalEffect::Decided(vec![committed(1), committed(2)])
        ]
    );
}

#[test]
fn a_repeated_decision_gets_the_first_outcome() {
    let mut journal = sequencer();
    tell(&mut journal, decide(1));
    assert_eq!(
        tell(&mut journal, decide(1)),
        [],
        "the first is still to be answered"
    );
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, installed(A, 1));
    tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let committed = decided(1, Verdict::Committed(Lsn(1)));
    assert_eq!(tell(&mut journal, decide(1)), [committed]);
    assert_eq!(journal.last_lsn(), Lsn(1));
}

#[test]
fn a_decision_past_its_deadline_of_a_life_that_is_over_or_of_an_earlier_opening_is_refused() {
    let mut journal = sequencer();
    let mut out = Vec::new();
    journal.handle(LATE, decide(1), &mut out);
    assert_eq!(out, [refused(1, Error::DeadlineExceeded)]);
    tell(&mut journal, fence(B, 2));
    let restarted = Error::NodeRestarted { node: B };
    assert_eq!(
        tell(&mut journal, decide(2)),
        [refused(2, restarted)],
        "B only read, and holds it no more"
    );
    tell(&mut journal, JournalMessage::Down { node: A });
    let down = Error::NodeDown { node: A };
    assert_eq!(tell(&mut journal, decide(3)), [refused(3, down)]);
    let old = Decide {
        txn: TxnId::new(7, 1).expect("not 0"),
        ..decide_of(1, 1)
    };
    let reason = "it began before the engine was opened";
    let out = tell(&mut journal, JournalMessage::Decides(vec![old.clone()]));
    let verdict = Verdict::Refused(Error::Aborted { reason });
    let txn = old.txn;
    assert_eq!(
        out,
        [JournalEffect::Decided(vec![Decided { txn, verdict }])]
    );
}

#[test]
fn a_refusal_is_for_ever() {
    let mut journal = sequencer();
    tell(&mut journal, fence(B, 2));
    tell(&mut journal, decide(1));
    let mut again = decide_of(1, 1);
    again.parts[1].incarnation = Incarnation(2);
    let out = tell(&mut journal, JournalMessage::Decides(vec![again]));
    assert_eq!(out, [refused(1, in_doubt())]);
}

#[test]
fn who_asks_before_the_decision_has_aborted_it() {
    let mut journal = sequencer();
    let out = tell(&mut journal, ask(1, handle(5)));
    assert_eq!(out, [outcome(5, TxnOutcome::Aborted)]);
    assert_eq!(tell(&mut journal, decide(1)), [refused(1, in_doubt())]);
    let out = tell(&mut journal, ask(2, Asker::Node(B, LIFE)));
    assert_eq!(out, [told(B, 2, None)]);
    let out = tell(&mut journal, ask(3, Asker::Coordinator));
    assert_eq!(out, [refused(3, in_doubt())]);
}

#[test]
fn who_asks_after_the_decision_is_told_when_it_is_visible() {
    let mut journal = sequencer();
    tell(&mut journal, decide(1));
    assert_eq!(tell(&mut journal, ask(1, handle(5))), [], "not forced yet");
    assert_eq!(tell(&mut journal, ask(1, Asker::Coordinator)), []);
    let out = tell(&mut journal, ask(1, Asker::Node(B, LIFE)));
    assert_eq!(out, [told(B, 1, Some(1))], "as it was told already");
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, installed(A, 1));
    let out = tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let committed = TxnOutcome::Committed(Lsn(1));
    assert_eq!(
        out,
        [
            Visible(Lsn(1), vec![A]),
            decided(1, Verdict::Committed(Lsn(1))),
            outcome(5, committed)
        ]
    );
    assert_eq!(
        tell(&mut journal, ask(1, handle(6))),
        [outcome(6, committed)]
    );
}

#[test]
fn a_key_gives_the_outcome_of_the_first_transaction_that_had_it() {
    let mut journal = sequencer();
    tell(&mut journal, with_key(1, "k"));
    assert_eq!(
        tell(&mut journal, with_key(2, "k")),
        [],
        "it waits for the first"
    );
    let find = |request| JournalMessage::FindKey {
        request: RequestId(request),
        key: Bytes::from_static(b"k"),
    };
    assert_eq!(tell(&mut journal, find(8)), []);
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, installed(A, 1));
    let out = tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let both = [
        (1, Verdict::Committed(Lsn(1))),
        (2, Verdict::Repeated(Lsn(1))),
    ];
    let both = both.map(|(number, verdict)| Decided {
        txn: txn(number),
        verdict,
    });
    let committed = TxnOutcome::Committed(Lsn(1));
    assert_eq!(out[1], JournalEffect::Decided(both.into()));
    assert_eq!(out[2..], [outcome(8, committed)]);
    let out = tell(&mut journal, with_key(3, "k"));
    assert_eq!(out, [decided(3, Verdict::Repeated(Lsn(1)))]);
    let out = tell(&mut journal, ask(3, handle(9)));
    assert_eq!(out, [outcome(9, TxnOutcome::Aborted)], "it is not itself");
    assert_eq!(tell(&mut journal, find(10)), [outcome(10, committed)]);
}

#[test]
fn a_decision_without_room_waits_in_line_until_its_deadline() {
    let mut journal = with_room(20_000);
    let large = JournalMessage::Decides(vec![decide_of(1, 30_000)]);
    assert_eq!(tell(&mut journal, large.clone()), [spare_request()]);
    assert_eq!(tell(&mut journal, large), [], "a repetition of what waits");
    assert_eq!(tell(&mut journal, append_of(B, 0, &[1])), []);
    let mut out = Vec::new();
    journal.handle_timeout(LATE, &mut out);
    assert_eq!(
        out[..2],
        [
            refused(1, Error::DeadlineExceeded),
            resolve(B, 1, Ok(Lsn(1)))
        ]
    );
}

#[test]
fn a_decision_that_waits_is_taken_out_by_who_asks_and_by_a_full_disk() {
    let mut journal = with_room(20_000);
    let large = |number| JournalMessage::Decides(vec![decide_of(number, 30_000)]);
    tell(&mut journal, large(1));
    tell(&mut journal, append_of(B, 0, &[1]));
    let out = tell(&mut journal, ask(1, handle(5)));
    assert_eq!(
        out,
        [
            refused(1, in_doubt()),
            outcome(5, TxnOutcome::Aborted),
            resolve(B, 1, Ok(Lsn(1)))
        ]
    );
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, persisted(1, 18_000, None));
    tell(&mut journal, large(2));
    let out = tell(
        &mut journal,
        JournalMessage::Spare(DirectoryNo::HOME, Err(full())),
    );
    assert_eq!(out, [refused(2, full())]);
    assert_eq!(
        tell(&mut journal, decide(2)),
        [refused(2, in_doubt())],
        "smaller, but refused for ever"
    );
}

#[test]
fn a_decision_that_was_not_forced_is_unknown_and_found_after_opening_again() {
    let mut journal = sequencer();
    tell(&mut journal, decide(1));
    tell(&mut journal, ask(1, handle(5)));
    tell(&mut journal, JournalMessage::Cut);
    let out = tell(&mut journal, JournalMessage::Failed(broken()));
    assert_eq!(
        out,
        [
            decided(1, Verdict::Unknown(unknown())),
            Outcome(RequestId(5), Err(unknown())),
            ReadOnly(broken())
        ]
    );
    let still = decided(1, Verdict::Unknown(unknown()));
    assert_eq!(tell(&mut journal, ask(1, Asker::Coordinator)), [still]);
    assert_eq!(tell(&mut journal, decide(2)), [refused(2, read_only())]);
    assert_eq!(
        tell(&mut journal, ask(3, handle(6))),
        [outcome(6, TxnOutcome::Aborted)],
        "nothing is decided any more"
    );
    let saved = journal.catalogue().outcomes;
    let mut reopened = with_outcomes(Outcomes::restored(2, Default::default(), &saved));
    let committed = outcome(7, TxnOutcome::Committed(Lsn(1)));
    assert_eq!(tell(&mut reopened, ask(1, handle(7))), [committed]);
    assert_eq!(
        tell(&mut reopened, ask(2, handle(8))),
        [outcome(8, TxnOutcome::Aborted)]
    );
}

fn with_outcomes(outcomes: Outcomes) -> Sequencer {
    let mut journal = sequencer();
    journal.outcomes = outcomes;
    journal.visible = Lsn(1);
    journal
}

#[test]
fn a_transaction_of_one_node_has_an_outcome_too() {
    let mut journal = sequencer();
    let batch = |number, chain| {
        let commits = vec![
            StagedCommit {
                txn: Some(txn(number)),
                ..commit(1)
            },
            commit(1),
        ];
        JournalMessage::Append(Append {
            node: A,
            incarnation: LIFE,
            chain,
            commits,
        })
    };
    assert_eq!(tell(&mut journal, batch(1, 0)), [resolve(A, 2, Ok(Lsn(1)))]);
    tell(&mut journal, ask(2, handle(5)));
    let out = tell(&mut journal, batch(2, 0));
    assert_eq!(
        out,
        [resolve(A, 2, Err(in_doubt()))],
        "somebody was told that it is aborted"
    );
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, installed(A, 2));
    tell(&mut journal, persisted(2, ROOM, Some(SEGMENT)));
    let committed = outcome(6, TxnOutcome::Committed(Lsn(1)));
    assert_eq!(tell(&mut journal, ask(1, handle(6))), [committed]);
}

#[test]
fn transactions_of_one_node_are_refused_too_when_the_table_of_outcomes_is_full() {
    let limits = OutcomeLimits {
        outcomes: 1,
        undecided: 1,
        ..OutcomeLimits::default()
    };
    let mut journal = sequencer();
    journal.outcomes = Outcomes::new(1, limits);
    let batch = |numbers: &[Option<u64>], chain| {
        let commits = numbers.iter().map(|number| StagedCommit {
            txn: number.map(txn),
            ..commit(1)
        });
        JournalMessage::Append(Append {
            node: A,
            incarnation: LIFE,
            chain,
            commits: commits.collect(),
        })
    };
    let accepted = |lsn| [resolve(A, 1, Ok(Lsn(lsn)))];
    assert_eq!(tell(&mut journal, batch(&[Some(1)], 0)), accepted(1));
    assert_eq!(tell(&mut journal, batch(&[Some(2)], 0)), accepted(2));
    assert_eq!(tell(&mut journal, batch(&[None], 0)), accepted(3));
    let what = "the table of outcomes";
    assert_eq!(
        tell(&mut journal, batch(&[Some(3)], 0)),
        [resolve(A, 1, Err(Error::Overloaded { what }))]
    );
    assert_eq!(journal.outcomes.committed(txn(3)), None);
}

#[test]
fn watchers_get_a_transaction_as_one_change() {
    let mut journal = sequencer();
    tell(&mut journal, JournalMessage::Watch(true));
    let mut decide = decide_of(1, 1);
    decide.parts[1] = decide_part(B, Some(2));
    tell(&mut journal, JournalMessage::Decides(vec![decide]));
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, installed(A, 1));
    tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let out = tell(&mut journal, installed(B, 1));
    let writes = [commit(1).writes[0].clone(), commit(2).writes[0].clone()];
    let change = Change {
        lsn: Lsn(1),
        writes: writes.into(),
    };
    assert_eq!(
        out,
        [
            Visible(Lsn(1), vec![A, B]),
            JournalEffect::Changes(vec![change]),
            decided(1, Verdict::Committed(Lsn(1)))
        ]
    );
}

#[test]
fn a_mark_carries_the_outcomes_up_to_it() {
    let mut journal = sequencer();
    with_commit(&mut journal);
    let out = tell(&mut journal, JournalMessage::Mark);
    let Some(MarkReached(Lsn(1), catalogue)) = out.last() else {
        panic!("{out:?}")
    };
    let tag = TxnTag {
        id: txn(1),
        idempotency: None,
    };
    assert_eq!(*catalogue.outcomes.committed, [(Lsn(1), tag)]);
}

const LOCK_LIFE: Incarnation = crate::locks::FIRST_LOCK_LIFE;

/// A decision under a vote of the lock manager.
fn fenced(number: u64, life: Incarnation) -> JournalMessage {
    JournalMessage::Decides(vec![Decide {
        lock_life: Some(life),
        ..decide_of(number, 1)
    }])
}

fn new_life(life: Incarnation) -> JournalMessage {
    JournalMessage::LockLife { life }
}

#[test]
fn a_decision_voted_under_an_earlier_life_of_the_lock_manager_is_refused_for_ever() {
    let mut journal = sequencer();
    let next = LOCK_LIFE.next();
    let known = JournalEffect::LockLifeKnown(next);
    assert_eq!(tell(&mut journal, new_life(next)), [known]);
    let out = tell(&mut journal, fenced(1, LOCK_LIFE));
    assert_eq!(out, [refused(1, Error::LockLost)]);
    let again = tell(&mut journal, fenced(1, next));
    assert_eq!(again, [refused(1, in_doubt())], "a tombstone was laid");
    let settled = [told(A, 2, Some(1)), told(B, 2, Some(1))];
    assert_eq!(tell(&mut journal, fenced(2, next)), settled);
    assert_eq!(
        tell(&mut journal, new_life(LOCK_LIFE)),
        [],
        "an old message"
    );
}

#[test]
fn a_new_life_of_the_lock_manager_is_known_when_the_commits_of_the_old_one_are_visible() {
    let mut journal = sequencer();
    tell(&mut journal, fenced(1, LOCK_LIFE));
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, decide(2));
    tell(&mut journal, JournalMessage::Cut);
    let next = LOCK_LIFE.next();
    assert_eq!(tell(&mut journal, new_life(next)), []);
    assert_eq!(tell(&mut journal, new_life(next)), [], "it asks again");
    tell(&mut journal, installed(A, 2));
    let out = tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let known = JournalEffect::LockLifeKnown(next);
    let visible = Visible(Lsn(1), vec![A]);
    let committed = decided(1, Verdict::Committed(Lsn(1)));
    assert_eq!(out, [visible, committed, known], "2 carries no fence");
}

#[test]
fn a_lock_manager_in_doubt_is_told_when_the_commit_is_visible_or_never_will_be() {
    let mut journal = sequencer();
    tell(&mut journal, fenced(1, LOCK_LIFE));
    tell(&mut journal, JournalMessage::Cut);
    assert_eq!(tell(&mut journal, ask(1, Asker::Locks)), [], "not visible");
    tell(&mut journal, installed(A, 1));
    tell(&mut journal, persisted(1, ROOM, Some(SEGMENT)));
    let resolved = |number| [JournalEffect::ResolveFence(txn(number))];
    assert_eq!(tell(&mut journal, ask(1, Asker::Locks)), resolved(1));
    assert_eq!(tell(&mut journal, ask(2, Asker::Locks)), resolved(2));
    let out = tell(&mut journal, fenced(2, LOCK_LIFE));
    assert_eq!(out, [refused(2, in_doubt())], "it was told so");
}

#[test]
fn after_a_failed_force_a_lock_is_handed_on_only_if_its_commit_is_not_in_doubt() {
    let mut journal = sequencer();
    tell(&mut journal, fenced(1, LOCK_LIFE));
    tell(&mut journal, JournalMessage::Cut);
    tell(&mut journal, JournalMessage::Failed(Error::Closed));
    assert_eq!(tell(&mut journal, ask(1, Asker::Locks)), []);
    assert_eq!(tell(&mut journal, new_life(LOCK_LIFE.next())), []);
    let resolved = [JournalEffect::ResolveFence(txn(2))];
    assert_eq!(tell(&mut journal, ask(2, Asker::Locks)), resolved);
}

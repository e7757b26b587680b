//! A node's part in transactions, message by message.

use super::*;
use crate::{
    error::Rival,
    ids::TxnId,
    transaction::{Abort, Ask, Asker, Ballot, KeyRange, Prepare, ReadSet, Settle, TxnPart, Vote},
};
use NodeEffect::Votes;
use std::{ops::Bound, time::Duration};

const LATE: Time = Time(50);

pub(super) fn txn(number: u64) -> TxnId {
    TxnId::new(1, number).expect("not 0")
}

/// What a transaction did on the node: keys read at a snapshot, and keys written.
pub(super) fn part(snapshot: u64, reads: &[&str], writes: &[&str]) -> TxnPart {
    TxnPart {
        node: NODE,
        reads: Arc::new(ReadSet {
            snapshot: Lsn(snapshot),
            keys: reads.iter().map(|name| key(name)).collect(),
            ranges: Vec::new(),
        }),
        writes: writes.iter().map(|name| put_of(name, "t")).collect(),
    }
}

pub(super) fn scan_of(snapshot: u64, low: &str, high: &str) -> TxnPart {
    let mut part = part(snapshot, &[], &[]);
    let reads = Arc::get_mut(&mut part.reads).expect("nobody else has it");
    reads.ranges.push(KeyRange {
        low: Bound::Included(key(low)),
        high: Bound::Excluded(key(high)),
    });
    part
}

fn prepare_of(number: u64, part: TxnPart) -> Prepare {
    Prepare {
        txn: txn(number),
        deadline: LATE,
        reads: part.reads,
        writes: part.writes,
        epoch: OWNED_SINCE,
    }
}

pub(super) fn prepare(number: u64, part: TxnPart) -> NodeMessage {
    NodeMessage::Prepares(vec![prepare_of(number, part)])
}

pub(super) fn vote(number: u64, ballot: Ballot) -> NodeEffect {
    Votes(vec![Vote {
        txn: txn(number),
        node: NODE,
        ballot,
    }])
}

fn voted() -> Ballot {
    Ballot::Yes {
        incarnation: LIFE,
        epoch: OWNED_SINCE,
    }
}

fn yes(number: u64) -> NodeEffect {
    vote(number, voted())
}

pub(super) fn no(number: u64, name: &str, with: Rival) -> NodeEffect {
    vote(number, Ballot::No(conflict(name, with)))
}

fn conflict(name: &str, with: Rival) -> Error {
    Error::Conflict {
        key: key(name),
        with,
    }
}

fn settle_of(number: u64, lsn: Option<u64>) -> Settle {
    Settle {
        txn: txn(number),
        incarnation: LIFE,
        lsn: lsn.map(Lsn),
    }
}

pub(super) fn settle(number: u64, lsn: Option<u64>) -> NodeMessage {
    NodeMessage::Settles(vec![settle_of(number, lsn)])
}

pub(super) fn abort(number: u64) -> NodeMessage {
    NodeMessage::Aborts(vec![Abort {
        txn: txn(number),
        deadline: LATE,
    }])
}

pub(super) fn transact(id: u64, part: TxnPart) -> NodeMessage {
    let transact = Operation::Transact {
        txn: txn(id),
        reads: part.reads,
        writes: part.writes,
    };
    request(id, transact)
}

impl Bench {
    pub(super) fn timeout(&mut self, now: u64) -> Vec<NodeEffect> {
        let mut out = Vec::new();
        self.machine.handle_timeout(Time(now), &mut out);
        out
    }

    /// A put that is on its way, at the LSN that it gets, and visible.
    pub(super) fn commit(&mut self, name: &str, lsn: u64) {
        self.tell(put(lsn, name, "old"));
        self.tell(NodeMessage::Flush);
        self.tell(resolved(LIFE, 0, 1, Ok(Lsn(lsn))));
        self.tell(visible(lsn));
    }
}

#[test]
fn a_prepared_transaction_is_installed_at_its_lsn_in_line_with_the_others() {
    let mut node = bench();
    assert_eq!(
        node.tell(prepare(7, part(0, &["a"], &["a", "b"]))),
        [yes(7)]
    );
    assert_eq!(node.tell(put(1, "c", "x")), [ScheduleFlush]);
    node.tell(NodeMessage::Flush);
    assert_eq!(node.get("a", 9), None, "only staged");
    assert_eq!(node.tell(settle(7, Some(1))), [installed(LIFE, 1)]);
    assert_eq!(
        node.tell(resolved(LIFE, 0, 1, Ok(Lsn(2)))),
        [installed(LIFE, 2)]
    );
    assert_eq!(node.get("a", 0), None, "not before its LSN");
    assert_eq!(node.get("b", 1), Some("t".into()));
    assert_eq!(node.tell(visible(2)), [written(1, 2)]);
    assert_eq!(node.tell(settle(7, Some(1))), [], "told twice");
    assert_eq!(node.machine.prepared(), 0);
}

#[test]
fn votes_and_settlements_of_one_round_are_one_message() {
    let mut node = bench();
    let prepares = [(1, "a"), (2, "b")].map(|(number, name)| {
        let part = part(0, &[name], &[name]);
        prepare_of(number, part)
    });
    let yes = |number| Vote {
        txn: txn(number),
        node: NODE,
        ballot: voted(),
    };
    let out = node.tell(NodeMessage::Prepares(prepares.into()));
    assert_eq!(out, [Votes(vec![yes(1), yes(2)])]);
    let settles = vec![settle_of(1, Some(3)), settle_of(2, Some(4))];
    assert_eq!(
        node.tell(NodeMessage::Settles(settles)),
        [installed(LIFE, 4)]
    );
}

#[test]
fn a_read_conflicts_with_a_newer_version_a_staged_write_and_a_prepared_write() {
    let mut node = bench();
    node.commit("a", 5);
    assert_eq!(
        node.tell(prepare(1, part(4, &["a"], &["z"]))),
        [no(1, "a", Rival::Version(Lsn(5)))]
    );
    assert_eq!(node.tell(prepare(2, part(5, &["a"], &["p"]))), [yes(2)]);
    assert_eq!(
        node.tell(prepare(3, part(5, &["p"], &[]))),
        [no(3, "p", Rival::Transaction(txn(2)))]
    );
    node.tell(put(1, "s", "x"));
    assert_eq!(
        node.tell(prepare(4, part(5, &["s"], &[]))),
        [no(4, "s", Rival::Write)]
    );
}

#[test]
fn a_range_conflicts_like_the_keys_in_it_also_with_keys_that_were_not_there() {
    let mut node = bench();
    node.commit("c", 5);
    assert_eq!(
        node.tell(prepare(1, scan_of(4, "a", "d"))),
        [no(1, "c", Rival::Version(Lsn(5)))]
    );
    assert_eq!(
        node.tell(prepare(2, scan_of(4, "a", "c"))),
        [yes(2)],
        "the end is not in the range"
    );
    assert_eq!(node.tell(prepare(3, part(5, &[], &["x1"]))), [yes(3)]);
    assert_eq!(
        node.tell(prepare(4, scan_of(5, "x", "y"))),
        [no(4, "x1", Rival::Transaction(txn(3)))]
    );
    node.tell(put(1, "k1", "x"));
    assert_eq!(
        node.tell(prepare(5, scan_of(5, "k", "l"))),
        [no(5, "k1", Rival::Write)]
    );
    assert_eq!(
        node.tell(prepare(6, part(5, &[], &["a5"]))),
        [no(6, "a5", Rival::Transaction(txn(2)))],
        "a phantom"
    );
}

#[test]
fn a_write_conflicts_with_what_another_has_read_until_that_is_settled() {
    let mut node = bench();
    assert_eq!(node.tell(prepare(1, part(0, &["a"], &[]))), [yes(1)]);
    assert_eq!(
        node.tell(prepare(2, part(0, &["a"], &[]))),
        [yes(2)],
        "reads go together"
    );
    let turned_away = |number, with| no(number, "a", Rival::Transaction(txn(with)));
    assert_eq!(
        node.tell(prepare(3, part(0, &[], &["a"]))),
        [turned_away(3, 1)]
    );
    assert_eq!(
        node.tell(settle(1, Some(4))),
        [],
        "nothing to install, but held until told"
    );
    assert_eq!(
        node.tell(prepare(4, part(0, &[], &["a"]))),
        [turned_away(4, 2)]
    );
    assert_eq!(node.tell(abort(2)), []);
    assert_eq!(node.tell(prepare(5, part(0, &[], &["a"]))), [yes(5)]);
}

#[test]
fn a_write_conflicts_with_what_a_staged_read_modify_write_has_read() {
    let mut node = bench();
    node.tell(add_to(1, "c", 5));
    assert_eq!(
        node.tell(prepare(1, part(0, &[], &["c"]))),
        [no(1, "c", Rival::Write)]
    );
    node.tell(NodeMessage::Flush);
    node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
    assert_eq!(
        node.tell(prepare(2, part(0, &[], &["c"]))),
        [yes(2)],
        "its LSN is known, and below"
    );
}

#[test]
fn blind_writes_pass_each_other() {
    let mut node = bench();
    node.tell(put(1, "a", "x"));
    assert_eq!(node.tell(prepare(1, part(0, &[], &["a"]))), [yes(1)]);
    assert_eq!(node.tell(prepare(2, part(0, &[], &["a"]))), [yes(2)]);
    assert_eq!(node.tell(put(2, "a", "y")), [], "in the batch already open");
    let both = [put_of("a", "x"), put_of("a", "y")];
    assert_eq!(node.tell(NodeMessage::Flush), [appended(LIFE, 0, &both)]);
}

#[test]
fn a_snapshot_below_the_trees_complete_lsn_can_not_be_validated() {
    let mut node = bench();
    node.commit("a", 5);
    node.tell(NodeMessage::Freeze(Lsn(5)));
    node.tell(NodeMessage::Flushed { through: Lsn(5) });
    let floor = |number, name| no(number, name, Rival::Floor(Lsn(5)));
    assert_eq!(node.tell(prepare(1, part(4, &["q"], &[]))), [floor(1, "q")]);
    assert_eq!(node.tell(prepare(2, scan_of(4, "x", "y"))), [floor(2, "x")]);
    assert_eq!(node.tell(prepare(3, part(5, &["q"], &[]))), [yes(3)]);
}

#[test]
fn what_meets_a_transaction_waits_and_keeps_its_order() {
    let mut node = bench();
    assert_eq!(node.tell(prepare(1, part(0, &["r"], &["w"]))), [yes(1)]);
    assert_eq!(node.tell(put(1, "r", "1")), [], "into a held read");
    assert_eq!(node.tell(add_to(2, "w", 1)), [], "on a staged write");
    assert_eq!(
        node.tell(put(3, "w", "3")),
        [],
        "behind what waits for the same key"
    );
    assert_eq!(
        node.tell(put(4, "x", "4")),
        [ScheduleFlush],
        "meets nothing"
    );
    assert_eq!(node.machine.parked(), 3);
    assert!(node.machine.owes(RequestId(2)));
    let not_a_counter = Error::NotACounter { len: 1 };
    assert_eq!(node.tell(settle(1, Some(1))), [installed(LIFE, 1)]);
    let staged = [put_of("x", "4"), put_of("r", "1"), put_of("w", "3")];
    assert_eq!(node.tell(NodeMessage::Flush), [appended(LIFE, 0, &staged)]);
    node.tell(resolved(LIFE, 0, 3, Ok(Lsn(2))));
    assert_eq!(
        node.tell(visible(4)),
        [
            written(4, 2),
            written(1, 3),
            refused(2, not_a_counter),
            written(3, 4),
        ],
        "the add has met what the transaction wrote"
    );
}

#[test]
fn what_waits_goes_on_when_the_transaction_is_rolled_back() {
    let mut node = bench();
    node.tell(prepare(1, part(0, &["a"], &["a"])));
    assert_eq!(node.tell(add_to(1, "a", 5)), []);
    assert_eq!(node.tell(abort(1)), [ScheduleFlush]);
    assert_eq!(
        node.tell(NodeMessage::Flush),
        [appended(LIFE, 0, &[counter("a", 5)])]
    );
    assert_eq!(node.machine.next_timeout(), None, "nothing is left");
}

#[test]
fn what_waits_too_long_or_in_too_long_a_line_is_refused() {
    let mut node = bench();
    node.machine.options.parked = 1;
    let patient = Prepare {
        deadline: Time(500),
        ..prepare_of(1, part(0, &["a"], &[]))
    };
    node.tell(NodeMessage::Prepares(vec![patient]));
    assert_eq!(node.tell(put(1, "a", "x")), []);
    let what = "the queue behind transactions";
    assert_eq!(
        node.tell(put(2, "a", "y")),
        [refused(2, Error::Overloaded { what })]
    );
    assert_eq!(node.machine.next_timeout(), Some(SOON));
    assert_eq!(node.timeout(99), []);
    assert_eq!(node.timeout(100), [refused(1, Error::DeadlineExceeded)]);
}

#[test]
fn a_transaction_that_chains_have_turned_away_finds_the_key_quiet() {
    let mut node = bench();
    node.machine.options.reservation = Duration::from_nanos(30);
    node.tell(add_to(1, "c", 5));
    assert_eq!(
        node.tell(prepare(1, part(0, &["c"], &["c"]))),
        [no(1, "c", Rival::Write)]
    );
    assert_eq!(node.tell(add_to(2, "c", 1)), [], "the chain ends here");
    node.tell(NodeMessage::Flush);
    node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
    assert_eq!(node.tell(prepare(2, part(1, &["c"], &["c"]))), [yes(2)]);
    assert_eq!(node.timeout(40), [], "held now, not reserved");
    assert_eq!(
        node.tell(abort(2)),
        [ScheduleFlush],
        "and the chain goes on"
    );
}

#[test]
fn a_reservation_ends_by_itself_and_is_not_renewed_while_it_lasts() {
    let mut node = bench();
    node.machine.options.reservation = Duration::from_nanos(30);
    node.tell(add_to(1, "c", 5));
    node.tell(prepare(1, part(0, &["c"], &[])));
    assert_eq!(node.machine.next_timeout(), Some(Time(31)));
    let again = prepare(2, part(0, &["c"], &[]));
    node.machine.handle(Time(20), again, &mut Vec::new());
    assert_eq!(node.tell(add_to(2, "c", 1)), []);
    assert_eq!(node.timeout(30), []);
    assert_eq!(node.timeout(31), [], "the batch is open already");
    let both = [counter("c", 5), counter("c", 6)];
    assert_eq!(node.tell(NodeMessage::Flush), [appended(LIFE, 0, &both)]);
    assert_eq!(node.machine.next_timeout(), None);
}

#[test]
fn a_late_prepare_is_refused_and_a_repeated_one_is_not_counted_twice() {
    let mut node = bench();
    let ended = || {
        Ballot::No(Error::Aborted {
            reason: "a node knew already that it had ended",
        })
    };
    assert_eq!(node.tell(abort(1)), [], "before it came");
    assert_eq!(
        node.tell(prepare(1, part(0, &["a"], &["a"]))),
        [vote(1, ended())]
    );
    assert_eq!(node.tell(prepare(2, part(0, &["a"], &["a"]))), [yes(2)]);
    assert_eq!(node.tell(prepare(2, part(0, &["a"], &["a"]))), [yes(2)]);
    node.tell(settle(2, Some(1)));
    assert_eq!(
        node.tell(prepare(2, part(1, &["a"], &["a"]))),
        [vote(2, ended())]
    );
    let mut out = Vec::new();
    let late = prepare(3, part(1, &["a"], &[]));
    node.machine.handle(LATE, late, &mut out);
    assert_eq!(out, [vote(3, Ballot::No(Error::DeadlineExceeded))]);
}

#[test]
fn who_is_in_doubt_past_the_deadline_asks_until_he_is_told() {
    let mut node = bench();
    node.machine.options.ask_again = Duration::from_nanos(10);
    node.tell(prepare(1, part(0, &["a"], &["a"])));
    let asked = || {
        let ask = Ask {
            txn: txn(1),
            deadline: LATE,
            asker: Asker::Node(NODE, LIFE),
        };
        Journal(JournalMessage::Asks(vec![ask]))
    };
    assert_eq!(node.machine.next_timeout(), Some(LATE));
    assert_eq!(node.timeout(49), []);
    assert_eq!(node.timeout(50), [asked()]);
    assert_eq!(node.timeout(59), []);
    assert_eq!(node.timeout(60), [asked()]);
    assert_eq!(node.tell(settle(1, None)), []);
    assert_eq!((node.timeout(70), node.machine.prepared()), (vec![], 0));
}

#[test]
fn a_new_life_holds_nothing_and_what_waited_waits_in_line() {
    let mut node = bench();
    node.tell(prepare(1, part(0, &["a"], &["b"])));
    node.tell(put(1, "a", "x"));
    assert_eq!(node.restart(), [fence(NEXT)]);
    assert!(node.machine.owes(RequestId(1)));
    let recovering = Ballot::No(Error::NodeRestarted { node: NODE });
    assert_eq!(
        node.tell(prepare(2, part(0, &["a"], &[]))),
        [vote(2, recovering)],
        "a vote never waits"
    );
    assert_eq!(
        node.tell(settle(1, Some(1))),
        [],
        "the journal's record comes with the rebuilt generation"
    );
    assert_eq!(node.tell(fenced(1)), [rebuild(0, 1)]);
    assert_eq!(node.rebuilt(1), [installed(NEXT, 1), ScheduleFlush]);
    assert_eq!(
        node.tell(NodeMessage::Flush),
        [appended(NEXT, 0, &[put_of("a", "x")])]
    );
    assert_eq!((node.machine.prepared(), node.timeout(90)), (0, vec![]));
}

#[test]
fn a_node_that_turns_read_only_or_goes_down_gives_up_what_it_promised() {
    let reason = broken().to_string();
    let read_only = Error::ReadOnly { reason };
    let cases = [
        (NodeMessage::ReadOnly(broken()), read_only),
        (NodeMessage::GoDown, Error::NodeDown { node: NODE }),
    ];
    for (end, error) in cases {
        let mut node = bench();
        node.tell(prepare(1, part(0, &["a"], &["b"])));
        node.tell(put(1, "a", "x"));
        let out = node.tell(end);
        assert_eq!(out[0], refused(1, error.clone()));
        assert_eq!(node.machine.prepared(), 0);
        assert_eq!(
            node.tell(prepare(2, part(0, &["a"], &[]))),
            [vote(2, Ballot::No(error))]
        );
        assert_eq!(node.tell(settle(1, Some(1))), []);
        assert_eq!(node.timeout(90), []);
    }
}

#[test]
fn the_table_of_prepared_transactions_is_bounded() {
    let mut node = bench();
    node.machine.options.prepared = 1;
    assert_eq!(node.tell(prepare(1, part(0, &[], &["a"]))), [yes(1)]);
    let what = "the table of prepared transactions";
    let full = || Ballot::No(Error::Overloaded { what });
    assert_eq!(
        node.tell(prepare(2, part(0, &[], &["b"]))),
        [vote(2, full())]
    );
    node.machine.options.prepared = 9;
    node.machine.options.prepared_bytes = 1;
    assert_eq!(
        node.tell(prepare(3, part(0, &[], &["b"]))),
        [vote(3, full())]
    );
}

#[test]
fn a_transaction_of_one_node_is_validated_when_it_is_staged_and_holds_until_its_lsn() {
    let mut node = bench();
    node.commit("a", 5);
    assert_eq!(
        node.tell(transact(1, part(4, &["a"], &["b"]))),
        [refused(1, conflict("a", Rival::Version(Lsn(5))))]
    );
    assert_eq!(
        node.tell(transact(2, part(5, &["a"], &["b"]))),
        [ScheduleFlush]
    );
    assert_eq!(
        node.tell(transact(3, part(5, &["b"], &["c"]))),
        [refused(3, conflict("b", Rival::Write))],
        "it has not seen what is staged"
    );
    assert_eq!(node.tell(put(4, "a", "x")), [], "in line, so behind it");
    assert_eq!(
        node.tell(prepare(9, part(5, &[], &["a"]))),
        [no(9, "a", Rival::Write)],
        "the read is held: the LSN of neither is known"
    );
    let Some(Journal(JournalMessage::Append(append))) = node.tell(NodeMessage::Flush).pop() else {
        panic!("two commits are staged")
    };
    let txns: Vec<_> = append.commits.iter().map(|commit| commit.txn).collect();
    assert_eq!(txns, [Some(txn(2)), None]);
    node.tell(resolved(LIFE, 0, 2, Ok(Lsn(6))));
    assert_eq!(node.tell(visible(7)), [written(2, 6), written(4, 7)]);
    assert_eq!(
        node.tell(prepare(10, part(7, &[], &["a"]))),
        [yes(10)],
        "released with the LSN"
    );
}

#[test]
fn a_transaction_of_one_node_conflicts_with_what_is_prepared() {
    let mut node = bench();
    node.tell(prepare(9, part(0, &["r"], &["w"])));
    let with = Rival::Transaction(txn(9));
    assert_eq!(
        node.tell(transact(1, part(0, &["w"], &["x"]))),
        [refused(1, conflict("w", with))]
    );
    assert_eq!(
        node.tell(transact(2, part(0, &[], &["r"]))),
        [refused(2, conflict("r", with))]
    );
    assert_eq!(
        node.tell(transact(3, part(0, &["r"], &["w"]))),
        [ScheduleFlush],
        "a blind write over a staged one"
    );
}

#[test]
fn a_transaction_of_one_node_that_chains_have_turned_away_finds_the_key_quiet() {
    let mut node = bench();
    node.machine.options.reservation = Duration::from_nanos(30);
    node.tell(add_to(1, "c", 5));
    let refused = Reply(RequestId(7), Err(conflict("c", Rival::Write)));
    assert_eq!(node.tell(transact(7, part(0, &["c"], &["c"]))), [refused]);
    assert_eq!(node.tell(add_to(2, "d", 1)), [], "another key");
    assert_eq!(node.tell(put(3, "c", "x")), [], "the chain ends here");
    let chain = [counter("c", 5), counter("d", 1)];
    assert_eq!(node.tell(NodeMessage::Flush), [appended(LIFE, 0, &chain)]);
    node.tell(resolved(LIFE, 0, 2, Ok(Lsn(1))));
    assert_eq!(
        node.tell(transact(8, part(2, &["c"], &["c"]))),
        [ScheduleFlush]
    );
    assert_eq!(
        node.machine.parked(),
        0,
        "and what waited goes on behind it"
    );
    let out = node.tell(NodeMessage::Flush);
    let [Journal(JournalMessage::Append(append))] = &out[..] else {
        panic!("{out:?}");
    };
    let staged: Vec<_> = append.commits.iter().map(|commit| commit.txn).collect();
    assert_eq!(staged, [Some(txn(8)), None]);
    assert!(!node.machine.is_guarded());
}

/// A commit that has its LSN and is not visible yet can't have been read: who retries at once meets the next one.
#[test]
fn what_is_installed_and_not_visible_is_a_chain_too_and_what_is_visible_is_none() {
    let mut node = bench();
    node.tell(add_to(1, "c", 5));
    node.tell(NodeMessage::Flush);
    node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
    assert_eq!(
        node.tell(prepare(1, part(0, &["c"], &[]))),
        [no(1, "c", Rival::Version(Lsn(1)))]
    );
    assert_eq!(node.tell(add_to(2, "c", 1)), [], "the chain ends here");
    let mut node = bench();
    node.commit("c", 1);
    assert_eq!(
        node.tell(prepare(1, part(0, &["c"], &[]))),
        [no(1, "c", Rival::Version(Lsn(1)))]
    );
    assert_eq!(node.tell(put(2, "c", "x")), [ScheduleFlush]);
}

#[test]
fn ever_new_readers_do_not_keep_a_parked_write_out() {
    let mut node = bench();
    assert_eq!(node.tell(prepare(1, part(0, &["a"], &[]))), [yes(1)]);
    assert_eq!(node.tell(put(1, "a", "x")), []);
    assert_eq!(
        node.tell(prepare(2, part(0, &["a"], &["z"]))),
        [no(2, "a", Rival::Write)]
    );
    assert_eq!(
        node.tell(prepare(3, scan_of(0, "A", "b"))),
        [no(3, "a", Rival::Write)]
    );
    assert_eq!(
        node.tell(prepare(4, part(0, &["b"], &["a"]))),
        [no(4, "a", Rival::Transaction(txn(1)))]
    );
    assert_eq!(node.tell(prepare(5, part(0, &["b"], &["z"]))), [yes(5)]);
    assert_eq!(node.tell(settle(1, Some(1))), [ScheduleFlush]);
    assert_eq!(node.machine.parked(), 0);
}

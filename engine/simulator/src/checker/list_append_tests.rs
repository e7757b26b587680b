//! Each anomaly planted by hand, and histories that are fine.

use super::{
    history::{History, Op, Outcome},
    list_append::{Anomaly, CycleKind, Dependency, check},
};
use mailring_engine::ids::Lsn;

/// A history from lines like `[ r1:12 a1:3 ] C`: begin and end are places in the text, `(n` begins transaction n, `n)`
/// ends it, and what it does stands beside its outcome in `what`.
fn history(order: &str, what: &[(&str, Outcome)]) -> History {
    let mut history = History::default();
    let mut numbers = vec![usize::MAX; what.len()];
    for event in order.split_whitespace() {
        if let Some(number) = event.strip_prefix('(') {
            let number: usize = number.parse().unwrap();
            numbers[number] = history.begin();
            history.does(
                numbers[number],
                0,
                Lsn(0),
                what[number].0.split_whitespace().map(op).collect(),
            );
        } else {
            let number: usize = event.strip_suffix(')').unwrap().parse().unwrap();
            history.end(numbers[number], what[number].1);
        }
    }
    history
}

/// `ax5` appends 5 to x, `rx56` reads 5 and 6 of x.
fn op(text: &str) -> Op {
    let mut letters = text.chars();
    let verb = letters.next().unwrap();
    let key = u32::from(letters.next().unwrap());
    let mut values = letters.map(|digit| u64::from(digit.to_digit(10).unwrap()));
    match verb {
        'a' => Op::Append(key, values.next().unwrap()),
        'r' => Op::Read(key, values.collect()),
        _ => panic!("{text}"),
    }
}

const C: Outcome = Outcome::Committed;
const A: Outcome = Outcome::Aborted;
const U: Outcome = Outcome::Unknown;
const X: u32 = 'x' as u32;

/// Everybody at the same time.
fn at_once(what: &[(&str, Outcome)]) -> History {
    let numbers = 0..what.len();
    let begin: String = numbers.clone().map(|n| format!("({n} ")).collect();
    let end: String = numbers.map(|n| format!("{n}) ")).collect();
    history(&(begin + &end), what)
}

fn kind(history: &History) -> CycleKind {
    match check(history) {
        Err(Anomaly::Cycle { kind, .. }) => kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_serial_history_is_fine() {
    let what = [
        ("rx ax1", C),
        ("rx1 ax2 ay1", C),
        ("rx12 ry1", C),
        ("rx12 ax3", A),
        ("ay2", U),
        ("rx12 ry12", C),
    ];
    let order = "(0 0) (1 1) (2 2) (3 3) (4 4) (5 5)";
    assert_eq!(check(&history(order, &what)), Ok(()));
}

#[test]
fn overlapping_transactions_may_take_any_order() {
    // The later one to begin comes first in the order.
    let what = [("rx1 ax2", C), ("ax1", C), ("rx12", C)];
    assert_eq!(check(&history("(0 (1 1) 0) (2 2)", &what)), Ok(()));
    // Two readers who disagree on what is there already, at once with the writer.
    let what = [("ax1", C), ("rx", C), ("rx1", C)];
    assert_eq!(check(&history("(0 (1 1) (2 2) 0)", &what)), Ok(()));
}

#[test]
fn what_is_unknown_and_unseen_accuses_nobody() {
    let what = [("ax1", U), ("rx", C), ("rx", C)];
    assert_eq!(check(&history("(0 0) (1 1) (2 2)", &what)), Ok(()));
    let what = [("ax1", U), ("rx", C), ("rx1", C)];
    assert_eq!(check(&history("(0 0) (1 1) (2 2)", &what)), Ok(()));
}

#[test]
fn g0_a_dirty_write_is_found() {
    let what = [("ax1 ay1", C), ("ax2 ay2", C), ("rx12 ry21", C)];
    assert_eq!(kind(&at_once(&what)), CycleKind::G0);
}

#[test]
fn g1a_an_aborted_read_is_found() {
    let what = [("ax1", A), ("rx1", C)];
    let wanted = Anomaly::AbortedRead {
        reader: 1,
        writer: 0,
    };
    assert_eq!(check(&at_once(&what)), Err(wanted));
}

#[test]
fn g1b_an_intermediate_read_is_found() {
    let what = [("ax1 ax2", C), ("rx1", C), ("rx12", C)];
    let wanted = Anomaly::IntermediateRead {
        reader: 1,
        writer: 0,
    };
    assert_eq!(check(&at_once(&what)), Err(wanted));
}

#[test]
fn g1c_circular_information_flow_is_found() {
    let what = [("ax1 ry1", C), ("ay1 rx1", C)];
    assert_eq!(kind(&at_once(&what)), CycleKind::G1c);
}

#[test]
fn g_single_a_read_skew_is_found() {
    let what = [("ax1 ay1", C), ("rx ry1", C), ("rx1 ry1", C)];
    let found = check(&at_once(&what));
    let steps = vec![(1, Dependency::ReadWrite), (0, Dependency::WriteRead)];
    let kind = CycleKind::GSingle;
    assert_eq!(found, Err(Anomaly::Cycle { kind, steps }));
}

#[test]
fn g_single_a_lost_update_is_found() {
    // Both read the empty list; the second one's append can't be behind the first one's.
    let what = [("rx ax1", C), ("rx ax2", C), ("rx12", C)];
    assert_eq!(kind(&at_once(&what)), CycleKind::GSingle);
}

#[test]
fn g2_a_write_skew_is_found() {
    let what = [("rx ay1", C), ("ry ax1", C), ("rx1 ry1", C)];
    assert_eq!(kind(&at_once(&what)), CycleKind::G2);
}

#[test]
fn g2_a_long_fork_is_found() {
    let what = [
        ("ax1", C),
        ("ay1", C),
        ("rx1 ry", C),
        ("rx ry1", C),
        ("rx1 ry1", C),
    ];
    assert_eq!(kind(&at_once(&what)), CycleKind::G2);
}

#[test]
fn a_stale_read_is_found_by_real_time_only() {
    let what = [("ax1", C), ("rx", C), ("rx1", C)];
    assert_eq!(check(&at_once(&what)), Ok(()));
    let late = history("(0 0) (1 1) (2 2)", &what);
    assert_eq!(kind(&late), CycleKind::RealTime);
}

#[test]
fn a_write_that_comes_before_one_acknowledged_earlier_is_found() {
    let what = [("ax1", C), ("ax2", C), ("rx21", C)];
    assert_eq!(check(&at_once(&what)), Ok(()));
    let late = history("(0 0) (1 1) (2 2)", &what);
    assert_eq!(kind(&late), CycleKind::RealTime);
}

#[test]
fn a_lost_acknowledged_append_is_found() {
    let what = [("ax1", C), ("rx1", C), ("rx", C)];
    let late = history("(0 0) (1 1) (2 2)", &what);
    assert_eq!(kind(&late), CycleKind::RealTime);
}

#[test]
fn two_histories_of_a_key_are_found() {
    let what = [("ax1", C), ("ax2", C), ("rx1", C), ("rx2", C)];
    let wanted = Anomaly::Forked {
        readers: [2, 3],
        key: X,
    };
    assert_eq!(check(&at_once(&what)), Err(wanted));
}

#[test]
fn lists_that_nobody_can_have_written_are_found() {
    let impossible = |reader| Err(Anomaly::Impossible { reader, key: X });
    assert_eq!(check(&at_once(&[("rx7", C)])), impossible(0));
    assert_eq!(check(&at_once(&[("ax1", C), ("rx11", C)])), impossible(1));
    // One's own append is there, and nothing behind it.
    assert_eq!(check(&at_once(&[("ax1 rx", C)])), impossible(0));
    assert_eq!(
        check(&at_once(&[("ax1 rx12", C), ("ax2", C)])),
        impossible(0)
    );
    // And is not there before.
    assert_eq!(check(&at_once(&[("rx1 ax1", C)])), impossible(0));
}

#[test]
fn what_is_unknown_counts_once_it_was_seen() {
    let what = [("rx ay1", U), ("ry ax1", C), ("rx1 ry", C)];
    assert_eq!(check(&at_once(&what)), Ok(()));
    let what = [("rx ay1", U), ("ry ax1", C), ("rx1 ry1", C)];
    assert_eq!(kind(&at_once(&what)), CycleKind::G2);
    let what = [("ax1 ay1", U), ("ax2 ay2", U), ("rx12 ry21", C)];
    assert_eq!(kind(&at_once(&what)), CycleKind::G0);
}

/// A transaction that begins and ends at once; its number in the engine is its place.
fn lives(history: &mut History, snapshot: u64, what: &str) {
    let number = history.begin();
    let ops = what.split_whitespace().map(op).collect();
    history.does(number, number as u64, Lsn(snapshot), ops);
    history.end(number, C);
}

/// Two appends at LSN 5 and 6, and somebody who has read both.
fn before_the_crash() -> History {
    let mut history = History::default();
    lives(&mut history, 4, "rx ax1");
    lives(&mut history, 5, "rx1 ax2");
    lives(&mut history, 6, "rx12");
    history
}

fn lsn_of(txn: u64) -> Option<Lsn> {
    (txn < 2).then(|| Lsn(5 + txn))
}

#[test]
fn what_a_crash_has_taken_may_have_been_read_before_it() {
    let mut history = before_the_crash();
    assert_eq!(check(&history), Ok(()));
    history.cut(Lsn(5), lsn_of);
    lives(&mut history, 5, "rx1 ax3");
    lives(&mut history, 6, "rx13");
    assert_eq!(check(&history), Ok(()));
}

#[test]
fn what_a_crash_has_taken_is_read_by_nobody_behind_it() {
    let mut history = before_the_crash();
    history.cut(Lsn(5), lsn_of);
    lives(&mut history, 5, "rx12");
    let anomaly = Anomaly::AbortedRead {
        reader: 3,
        writer: 1,
    };
    assert_eq!(check(&history), Err(anomaly));
}

#[test]
fn a_crash_that_takes_what_is_below_the_cut_is_found() {
    let mut history = before_the_crash();
    history.cut(Lsn(6), lsn_of);
    lives(&mut history, 6, "rx1");
    assert_eq!(kind(&history), CycleKind::RealTime);
}

#[test]
fn a_crash_that_takes_from_the_middle_is_found() {
    let mut history = before_the_crash();
    // The first is gone, who has read it is not.
    history.cut(Lsn(5), |txn| (txn == 0).then_some(Lsn(9)));
    let anomaly = Anomaly::AbortedRead {
        reader: 1,
        writer: 0,
    };
    assert_eq!(check(&history), Err(anomaly));
}

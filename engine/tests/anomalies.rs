//! The anomalies by name: each is a script over two nodes, a coordinator and a journal, and shows that the histories which
//! the anomaly needs are refused, or look as they must.
//!
//! Isolation is strict serializability: none of these can happen. Each script says which check stands in its way, and
//! `each_anomaly_is_seen_where_its_check_is_taken_out` runs it without that check: there it fails, and for that reason. The
//! simulator (`mailring-simulator`) takes the checks out too, and finds the anomalies in runs at random.

#[path = "anomalies/bank.rs"]
mod bank;
#[path = "anomalies/process.rs"]
mod process;
#[path = "anomalies/spoilt.rs"]
mod spoilt;

use bank::{Bank, Script, a, b, is_install, is_prepare_to, is_resolve_to};
use mailring_engine::{Error, Rival, ids::Lsn, participant::Answer, transaction::TxnOutcome};
use spoilt::Spoilt;
use std::panic::catch_unwind;

/// Two transactions write the same two keys in opposite orders; a mixture must not remain. Kept by: one LSN for all
/// parts, and installation in the order of LSNs.
fn dirty_write(mut bank: Bank) {
    bank.hold(|mail| is_prepare_to(mail, 1, 1) || is_prepare_to(mail, 0, 2));
    bank.commit(1, Script::at(0).write(a("x"), "one").write(b("y"), "one"));
    bank.commit(2, Script::at(0).write(a("x"), "two").write(b("y"), "two"));
    bank.run();
    bank.release();
    assert!(bank.outcome(1).is_ok() && bank.outcome(2).is_ok(), "blind");
    let last = bank.visible();
    let [x, y] = [bank.read(a("x"), last), bank.read(b("y"), last)];
    assert!(x.is_some(), "both have written");
    assert_eq!(x, y, "dirty write: each has won on one node");
}

/// What is prepared, or committed and not durable, must not be read; nor be a base for others. Kept by: reads at the
/// visible LSN, and staged writes that conflict.
fn dirty_read(mut bank: Bank) {
    bank.put(a("x"), "old");
    let before = bank.visible();
    bank.hold(|mail| is_prepare_to(mail, 1, 1));
    bank.commit(1, Script::at(1).write(a("x"), "new").write(b("y"), "new"));
    bank.run();
    assert_eq!(bank.read(a("x"), bank.visible()), Some("old".into()));
    bank.commit(2, Script::at(1).read(a("x")).write(b("z"), "seen"));
    bank.run();
    assert!(
        matches!(
            bank.outcome(2),
            Err(Error::Conflict {
                with: Rival::Transaction(_),
                ..
            })
        ),
        "dirty read: a base that is being overwritten"
    );
    bank.hold(|mail| is_install(mail, 1));
    bank.release_but_held();
    assert_eq!(bank.visible(), before, "not installed everywhere");
    assert_eq!(
        bank.read(a("x"), bank.visible()),
        Some("old".into()),
        "dirty read: of what is not visible"
    );
    bank.release();
    assert_eq!(bank.read(a("x"), bank.visible()), Some("new".into()));
}

/// Two transactions read a counter and write it back raised; one of the two must be refused. Kept by: a staged write
/// conflicts with a read.
fn lost_update(mut bank: Bank) {
    let raise = |text| {
        Script::at(0)
            .read(a("x"))
            .write(a("x"), text)
            .write(b("y"), text)
    };
    bank.commit(1, raise("one"));
    bank.commit(2, raise("two"));
    bank.run();
    assert!(bank.outcome(1).is_ok());
    assert!(
        matches!(bank.outcome(2), Err(Error::Conflict { .. })),
        "lost update: nobody has seen the first one"
    );
    // An add meets a transaction that is about to commit, and chains on what it writes.
    bank.hold(|mail| is_prepare_to(mail, 1, 3));
    let snapshot = bank.visible().0;
    let counter = 5_i64.to_le_bytes();
    let third = Script::at(snapshot)
        .read(a("c"))
        .write_bytes(a("c"), &counter);
    bank.commit(3, third.write(b("z"), "three"));
    bank.run();
    bank.add(40, a("c"), 2);
    bank.run();
    assert_eq!(bank.answer(40), None, "it waits");
    bank.release();
    assert!(matches!(bank.answer(40), Some(Ok(Answer::Counter(_, 7)))));
}

/// A transaction sees one key before and one after another's commit. Kept by: one snapshot for all reads, and the
/// validation of what it based its writes on.
fn read_skew(mut bank: Bank) {
    bank.put(a("x"), "old");
    bank.put(b("y"), "old");
    let snapshot = bank.visible();
    let seen_before = bank.read(a("x"), snapshot);
    bank.commit(1, Script::at(2).write(a("x"), "new").write(b("y"), "new"));
    bank.run();
    assert_eq!(
        seen_before,
        bank.read(b("y"), snapshot),
        "read skew: half before and half after"
    );
    let now = bank.visible();
    assert_eq!(bank.read(a("x"), now), bank.read(b("y"), now));
    bank.commit(
        2,
        Script::at(snapshot.0).read(a("x")).write(b("z"), "stale"),
    );
    bank.run();
    let version = Rival::Version(Lsn(3));
    assert!(
        matches!(bank.outcome(2), Err(Error::Conflict { with, .. }) if *with == version),
        "read skew: written on the ground of what had changed"
    );
}

/// Each of two transactions reads what the other one writes. Kept by: a read is validated, and a write conflicts with a
/// held read.
fn write_skew(mut bank: Bank) {
    let both = |bank: &Bank| Script::at(bank.visible().0).read(a("x")).read(b("y"));
    let refused = |bank: &Bank, of: [u64; 2]| {
        let refused = of.map(|number| bank.outcome(number).is_err());
        refused.into_iter().filter(|refused| *refused).count()
    };
    bank.commit(1, both(&bank).write(a("x"), "off duty"));
    bank.commit(2, both(&bank).write(b("y"), "off duty"));
    bank.run();
    assert_eq!(refused(&bank, [1, 2]), 1, "write skew: one after the other");
    // The first has read both when the second comes, and writes only then.
    bank.hold(|mail| is_prepare_to(mail, 0, 3));
    bank.commit(3, both(&bank).write(a("x"), "off duty"));
    bank.run();
    bank.commit(4, both(&bank).write(b("y"), "off duty"));
    bank.run();
    bank.release();
    assert_eq!(refused(&bank, [3, 4]), 1, "write skew: crosswise");
}

/// A key appears in a range that was read. Kept by: ranges are validated and held like keys.
fn phantom(mut bank: Bank) {
    bank.hold(|mail| is_prepare_to(mail, 1, 1));
    bank.commit(1, Script::at(0).scan(a("m"), a("n")).write(b("sum"), "0"));
    bank.run();
    bank.commit(2, Script::at(0).read(b("sum")).write(a("m1"), "new"));
    bank.put_later(30, a("m2"), "new");
    bank.run();
    assert_eq!(bank.answer(30), None, "phantom: a put into the range waits");
    bank.release();
    let committed = [bank.outcome(1), bank.outcome(2)].map(|outcome| outcome.is_ok());
    assert_eq!(committed, [true, false]);
    let Some(Ok(Answer::Written(lsn))) = bank.answer(30) else {
        panic!("the put goes on")
    };
    assert!(lsn > bank.outcome(1).as_ref().expect("committed"));
    // And the other way round: the key is there before the range is validated.
    bank.commit(3, Script::at(0).scan(a("m"), a("n")).write(b("sum"), "1"));
    bank.run();
    assert!(matches!(bank.outcome(3), Err(Error::Conflict { .. })));
}

/// Two readers see two independent commits in different orders. Kept by: what is visible is a prefix of the LSNs, and
/// installed.
fn long_fork(mut bank: Bank) {
    bank.hold(|mail| is_resolve_to(mail, 0));
    bank.put_later(10, a("x"), "first");
    bank.run();
    bank.put_later(11, b("y"), "second");
    bank.run();
    let [first, second] = [Some("first".into()), Some("second".into())];
    let seen = |bank: &Bank, at| [bank.read(a("x"), at), bank.read(b("y"), at)];
    // Whoever reads at the first one's LSN, once that is there, sees it without the second.
    let one = seen(&bank, bank.visible());
    assert_ne!(one, [None, second.clone()], "long fork: the second alone");
    assert_eq!(bank.visible(), Lsn(0), "the first is not installed");
    bank.release();
    assert_eq!(bank.visible(), Lsn(2));
    assert_eq!(seen(&bank, Lsn(1)), [first.clone(), None]);
    assert_eq!(seen(&bank, Lsn(2)), [first, second]);
}

/// Who has heard of a commit begins a transaction that does not see it. Kept by: the answer comes when the LSN is
/// visible, and a snapshot is the visible LSN.
fn stale_read(mut bank: Bank) {
    bank.hold(|mail| is_install(mail, 0));
    bank.commit(1, Script::at(0).write(a("x"), "new").write(b("y"), "new"));
    bank.run();
    assert!(
        !bank.is_answered(1),
        "stale read: committed, but not visible"
    );
    assert_eq!(bank.visible(), Lsn(0));
    bank.release();
    let lsn = *bank.outcome(1).as_ref().expect("committed");
    assert!(
        bank.visible() >= lsn,
        "stale read: what was told is not there"
    );
    assert_eq!(bank.read(a("x"), bank.visible()), Some("new".into()));
}

/// The usual "read-only participants leave at the vote" is unsound. T1 validates k on B; T2 writes k on B, reads x on A
/// and commits; T1's late prepare writes x on A: each would have missed the other's write. Kept by: a node where a
/// transaction only read holds it like any other.
fn reader_that_leaves(mut bank: Bank) {
    bank.hold(|mail| is_prepare_to(mail, 0, 1));
    bank.commit(1, Script::at(0).read(b("k")).write(a("x"), "one"));
    bank.run();
    bank.commit(2, Script::at(0).read(a("x")).write(b("k"), "two"));
    bank.run();
    let Err(Error::Conflict { key, with }) = bank.outcome(2) else {
        panic!("B has let go of k: {:?}", bank.outcome(2))
    };
    assert_eq!((key, *with), (&b("k").1, Rival::Transaction(bank::txn(1))));
    bank.release();
    assert_eq!(bank.outcome(1), &Ok(Lsn(1)));
    bank.check_nothing_is_left();
}

#[test]
fn anomaly_dirty_write() {
    dirty_write(Bank::new());
}

#[test]
fn anomaly_dirty_read() {
    dirty_read(Bank::new());
}

#[test]
fn anomaly_lost_update() {
    lost_update(Bank::new());
}

#[test]
fn anomaly_read_skew() {
    read_skew(Bank::new());
}

#[test]
fn anomaly_write_skew() {
    write_skew(Bank::new());
}

#[test]
fn anomaly_phantom() {
    phantom(Bank::new());
}

#[test]
fn anomaly_long_fork() {
    long_fork(Bank::new());
}

#[test]
fn anomaly_stale_read() {
    stale_read(Bank::new());
}

#[test]
fn a_node_where_a_transaction_only_read_holds_until_the_lsn_is_assigned() {
    reader_that_leaves(Bank::new());
}

/// Each script, what is taken out, and the first words of how it then fails.
#[test]
fn each_anomaly_is_seen_where_its_check_is_taken_out() {
    type Case = (fn(Bank), Spoilt, &'static str);
    let cases: [Case; 14] = [
        (dirty_write, Spoilt::OneLsn, "dirty write: each has won"),
        (dirty_read, Spoilt::Validation, "dirty read: a base"),
        (dirty_read, Spoilt::Snapshot, "dirty read: of what is not"),
        (lost_update, Spoilt::Validation, "lost update"),
        (read_skew, Spoilt::Snapshot, "read skew: half"),
        (read_skew, Spoilt::Validation, "read skew: written"),
        (write_skew, Spoilt::Validation, "write skew: one after"),
        (write_skew, Spoilt::Holds, "write skew: crosswise"),
        (phantom, Spoilt::Ranges, "phantom"),
        (long_fork, Spoilt::Prefix, "long fork"),
        (stale_read, Spoilt::AnswerWhenVisible, "stale read: comm"),
        (stale_read, Spoilt::Newest, "stale read: what was told"),
        (reader_that_leaves, Spoilt::Holds, "B has let go of k"),
        (alone, Spoilt::ValidationAlone, "write skew on one node"),
    ];
    for (script, spoilt, anomaly) in cases {
        let failed = catch_unwind(|| script(Bank::without(spoilt)));
        let failed = failed.expect_err(&format!("nobody misses {spoilt:?}"));
        let reason = failed.downcast_ref::<String>().map(String::as_str);
        let reason = reason.or_else(|| failed.downcast_ref::<&str>().copied());
        let reason = reason.expect("a panic has words");
        assert!(
            reason.contains(anomaly),
            "without {spoilt:?} it fails for another reason: {reason}"
        );
    }
}

/// Transactions of one node alone are validated by the same rules.
fn alone(mut bank: Bank) {
    bank.transact(1, Script::at(0).read(a("x")).write(a("y"), "one"));
    bank.transact(2, Script::at(0).read(a("y")).write(a("x"), "two"));
    bank.transact(3, Script::at(0).scan(a("x"), a("z")).write(a("q"), "three"));
    bank.run();
    assert!(matches!(bank.answer(1), Some(Ok(Answer::Written(Lsn(1))))));
    for skewed in [2, 3] {
        assert!(
            matches!(bank.answer(skewed), Some(Err(Error::Conflict { .. }))),
            "write skew on one node"
        );
    }
    // One of several nodes may not write what one of this node has read and is not in the journal with.
    bank.hold(bank::is_append);
    bank.transact(4, Script::at(1).read(a("x")).write(a("w"), "four"));
    bank.run();
    bank.commit(
        5,
        Script::at(1)
            .read(a("w"))
            .write(a("x"), "five")
            .write(b("z"), "five"),
    );
    bank.run();
    assert!(matches!(bank.outcome(5), Err(Error::Conflict { .. })));
    bank.release();
    assert!(matches!(bank.answer(4), Some(Ok(Answer::Written(_)))));
    bank.check_nothing_is_left();
}

#[test]
fn transactions_of_one_node_are_as_isolated_as_those_of_several() {
    alone(Bank::new());
}

/// The coordinator dies at each step: one outcome, and nothing stays prepared.
#[test]
fn a_coordinator_that_dies_at_any_message_leaves_one_outcome_and_nothing_prepared() {
    let mut outcomes = [0, 0];
    for step in 0.. {
        let mut bank = Bank::new();
        let script = Script::at(0).read(b("k")).write(a("x"), "one");
        bank.commit(1, script.write(b("y"), "one"));
        if !bank.run_until_coordinator_has_handled(step) {
            break;
        }
        bank.kill_coordinator();
        bank.run();
        let visible = bank.visible();
        let there = bank.read(a("x"), visible).is_some();
        assert_eq!(there, bank.read(b("y"), visible).is_some(), "step {step}");
        match bank.outcome(1) {
            Ok(lsn) => assert!(there && *lsn == visible, "step {step}"),
            Err(error) => {
                assert!(matches!(error, Error::Aborted { .. }), "{error:?}");
                assert!(!there, "step {step}");
            }
        }
        outcomes[usize::from(there)] += 1;
        bank.check_nothing_is_left();
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

/// A node dies at each step: one outcome, the same on both nodes, and nothing stays prepared.
#[test]
fn a_node_that_dies_at_any_message_leaves_one_outcome_and_nothing_prepared() {
    let mut outcomes = [0, 0];
    for step in 0.. {
        let mut bank = Bank::new();
        let script = Script::at(0).read(b("k")).write(a("x"), "one");
        bank.commit(1, script.write(b("y"), "one"));
        if !bank.run_until_node_has_handled(1, step) {
            break;
        }
        bank.kill_node(1);
        bank.run();
        bank.timeouts();
        let visible = bank.visible();
        let there = bank.read(a("x"), visible).is_some();
        assert_eq!(there, bank.read(b("y"), visible).is_some(), "step {step}");
        assert_eq!(there, bank.outcome(1).is_ok(), "step {step}");
        outcomes[usize::from(there)] += 1;
        bank.check_nothing_is_left();
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

/// The process dies at each step, and of the group that is being written any first bytes are there: one outcome, which is
/// what the caller was told and what is told at every later opening; nothing is held, and nothing comes of it any more.
#[test]
fn a_process_that_dies_at_any_message_leaves_one_outcome_and_nothing_prepared() {
    let (mut aborted, mut committed, mut on_its_way) = (0, 0, 0);
    for step in 0.. {
        let mut bank = Bank::new();
        bank.put(a("x"), "old");
        bank.put(b("k"), "old");
        let snapshot = bank.visible();
        let script = Script::at(snapshot.0).read(b("k")).write(a("x"), "one");
        bank.commit(1, script.write(b("y"), "one"));
        if !bank.run_for(step) {
            break;
        }
        let answered = bank.answered(1).cloned();
        let found = bank.killed();
        on_its_way += usize::from(found.len() > 1);
        let mut outcomes = Vec::new();
        for mut bank in found {
            let visible = bank.visible();
            let there = bank.read(b("y"), visible).is_some();
            let x = if there { "one" } else { "old" };
            assert_eq!(bank.read(a("x"), visible), Some(x.into()), "step {step}");
            assert_eq!(bank.read(b("k"), visible), Some("old".into()));
            let outcome = bank.ask(1);
            match outcome {
                TxnOutcome::Committed(lsn) => assert!(there && lsn == visible, "step {step}"),
                TxnOutcome::Aborted => assert!(!there && visible == snapshot, "step {step}"),
                TxnOutcome::Forgotten => panic!("step {step}: it is young"),
            }
            if let Some(answer) = &answered {
                assert_eq!(answer, &Ok(visible), "step {step}: it was told");
                assert!(there, "step {step}");
            }
            // Whoever comes next finds nothing in his way, and the outcome stays what it is.
            let next = Script::at(visible.0).read(b("k")).read(a("x"));
            bank.commit(2, next.write(a("x"), "two").write(b("y"), "two"));
            bank.run();
            assert_eq!(bank.outcome(2), &Ok(visible.next()), "step {step}");
            bank.check_nothing_is_left();
            assert_eq!(bank.ask(1), outcome, "step {step}");
            for mut again in bank.killed() {
                assert_eq!(again.ask(1), outcome, "step {step}");
                let two = again.read(b("y"), again.visible());
                assert_eq!(two, Some("two".into()), "step {step}");
            }
            outcomes.push(there);
        }
        // More bytes never turn a commit into an abort.
        assert!(outcomes.is_sorted(), "step {step}: {outcomes:?}");
        aborted += outcomes.iter().filter(|there| !**there).count();
        committed += outcomes.iter().filter(|there| **there).count();
    }
    assert!(aborted > 100, "at every step and byte: {aborted}");
    assert!(committed > 5, "at every step behind the force: {committed}");
    assert!(on_its_way > 0, "its record was being written");
}

//! The anomalies by name: each is a script over two nodes, a coordinator and a journal, and shows that the histories which
//! the anomaly needs are refused, or look as they must.
//!
//! Isolation is strict serializability: none of these can happen. Each script says which check stands in its way; the
//! simulator (`mailring-simulator`) takes those checks out one by one and finds the anomalies.

#[path = "anomalies/bank.rs"]
mod bank;

use bank::{Bank, Script, a, b, is_install, is_prepare_to};
use mailring_engine::{Error, Rival, ids::Lsn, participant::Answer};

/// Two transactions write the same two keys in opposite orders; a mixture must not remain. Kept by: one LSN for all
/// parts, and installation in the order of LSNs.
#[test]
fn anomaly_dirty_write() {
    let mut bank = Bank::new();
    bank.hold(|mail| is_prepare_to(mail, 1, 1) || is_prepare_to(mail, 0, 2));
    bank.commit(1, Script::at(0).write(a("x"), "one").write(b("y"), "one"));
    bank.commit(2, Script::at(0).write(a("x"), "two").write(b("y"), "two"));
    bank.run();
    bank.release();
    assert!(bank.outcome(1).is_ok() && bank.outcome(2).is_ok(), "blind");
    let last = bank.visible();
    assert_eq!(bank.read(a("x"), last), bank.read(b("y"), last));
}

/// What is prepared, or committed and not durable, must not be read; nor be a base for others. Kept by: reads at the
/// visible LSN, and staged writes that conflict.
#[test]
fn anomaly_dirty_read() {
    let mut bank = Bank::new();
    bank.put(a("x"), "old");
    let before = bank.visible();
    bank.hold(|mail| is_prepare_to(mail, 1, 1));
    bank.commit(1, Script::at(1).write(a("x"), "new").write(b("y"), "new"));
    bank.run();
    assert_eq!(bank.read(a("x"), bank.visible()), Some("old".into()));
    bank.commit(2, Script::at(1).read(a("x")).write(b("z"), "seen"));
    bank.run();
    assert!(matches!(
        bank.outcome(2),
        Err(Error::Conflict {
            with: Rival::Transaction(_),
            ..
        })
    ));
    bank.hold(|mail| is_install(mail, 1));
    bank.release_but_held();
    assert_eq!(bank.visible(), before, "not installed everywhere");
    assert_eq!(bank.read(a("x"), bank.visible()), Some("old".into()));
    bank.release();
    assert_eq!(bank.read(a("x"), bank.visible()), Some("new".into()));
}

/// Two transactions read a counter and write it back raised; one of the two must be refused. Kept by: a staged write
/// conflicts with a read.
#[test]
fn anomaly_lost_update() {
    let mut bank = Bank::new();
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
    assert!(matches!(bank.outcome(2), Err(Error::Conflict { .. })));
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
#[test]
fn anomaly_read_skew() {
    let mut bank = Bank::new();
    bank.put(a("x"), "old");
    bank.put(b("y"), "old");
    let snapshot = bank.visible();
    bank.commit(1, Script::at(2).write(a("x"), "new").write(b("y"), "new"));
    bank.run();
    assert_eq!(bank.read(a("x"), snapshot), bank.read(b("y"), snapshot));
    let now = bank.visible();
    assert_eq!(bank.read(a("x"), now), bank.read(b("y"), now));
    bank.commit(
        2,
        Script::at(snapshot.0).read(a("x")).write(b("z"), "stale"),
    );
    bank.run();
    let version = Rival::Version(Lsn(3));
    assert!(matches!(bank.outcome(2), Err(Error::Conflict { with, .. }) if *with == version));
}

/// Each of two transactions reads what the other one writes. Kept by: a write conflicts with a held read.
#[test]
fn anomaly_write_skew() {
    let mut bank = Bank::new();
    let both = || Script::at(0).read(a("x")).read(b("y"));
    bank.commit(1, both().write(a("x"), "off duty"));
    bank.commit(2, both().write(b("y"), "off duty"));
    bank.run();
    let refused = [bank.outcome(1), bank.outcome(2)];
    let refused = refused.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(refused, 1, "exactly one");
}

/// A key appears in a range that was read. Kept by: ranges are validated and held like keys.
#[test]
fn anomaly_phantom() {
    let mut bank = Bank::new();
    bank.hold(|mail| is_prepare_to(mail, 1, 1));
    bank.commit(1, Script::at(0).scan(a("m"), a("n")).write(b("sum"), "0"));
    bank.run();
    bank.commit(2, Script::at(0).read(b("sum")).write(a("m1"), "new"));
    bank.put_later(30, a("m2"), "new");
    bank.run();
    assert_eq!(bank.answer(30), None, "a put into the range waits");
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

/// Two readers see two independent commits in different orders. Kept by: what is visible is a prefix of the LSNs.
#[test]
fn anomaly_long_fork() {
    let mut bank = Bank::new();
    bank.hold(|mail| is_install(mail, 0));
    bank.put_later(10, a("x"), "first");
    bank.run();
    bank.put_later(11, b("y"), "second");
    bank.run();
    assert_eq!(bank.visible(), Lsn(0), "the first is not installed");
    assert_eq!(bank.read(b("y"), bank.visible()), None);
    bank.release();
    assert_eq!(bank.visible(), Lsn(2));
    let seen = |at| [bank.read(a("x"), Lsn(at)), bank.read(b("y"), Lsn(at))];
    let [first, second] = [Some("first".into()), Some("second".into())];
    assert_eq!(seen(1), [first.clone(), None]);
    assert_eq!(seen(2), [first, second]);
}

/// Who has heard of a commit begins a transaction that does not see it. Kept by: the answer comes when the LSN is
/// visible, and a snapshot is the visible LSN.
#[test]
fn anomaly_stale_read() {
    let mut bank = Bank::new();
    bank.hold(|mail| is_install(mail, 0));
    bank.commit(1, Script::at(0).write(a("x"), "new").write(b("y"), "new"));
    bank.run();
    assert!(!bank.is_answered(1), "committed, but not visible");
    assert_eq!(bank.visible(), Lsn(0));
    bank.release();
    let lsn = *bank.outcome(1).as_ref().expect("committed");
    assert!(bank.visible() >= lsn);
    assert_eq!(bank.read(a("x"), bank.visible()), Some("new".into()));
}

/// The usual "read-only participants leave at the vote" is unsound. T1 validates k on B; T2 writes k on B, reads x on A
/// and commits; T1's late prepare writes x on A: each would have missed the other's write.
#[test]
fn a_node_where_a_transaction_only_read_holds_until_the_lsn_is_assigned() {
    let mut bank = Bank::new();
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

/// Transactions of one node alone are validated by the same rules.
#[test]
fn transactions_of_one_node_are_as_isolated_as_those_of_several() {
    let mut bank = Bank::new();
    bank.transact(1, Script::at(0).read(a("x")).write(a("y"), "one"));
    bank.transact(2, Script::at(0).read(a("y")).write(a("x"), "two"));
    bank.transact(3, Script::at(0).scan(a("x"), a("z")).write(a("q"), "three"));
    bank.run();
    assert!(matches!(bank.answer(1), Some(Ok(Answer::Written(Lsn(1))))));
    for skewed in [2, 3] {
        assert!(matches!(
            bank.answer(skewed),
            Some(Err(Error::Conflict { .. }))
        ));
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

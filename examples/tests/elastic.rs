//! The ring in motion, as CI and a curious reader run it: every step for a second.

use std::process::Command;

#[test]
fn money_stays_while_nodes_come_grow_go_and_panic() {
    let mut elastic = Command::new(env!("CARGO_BIN_EXE_elastic"));
    let output = elastic.args(["--seconds", "1", "--accounts", "2000", "--clients", "16"]);
    let output = output.output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{table}{progress}");
    for step in [
        "four nodes",
        "a node is added",
        "another one is added",
        "node 0 weighs double",
        "node 1 is removed",
        "node 2 panics",
        "node 3 dies for good",
    ] {
        assert!(table.lines().any(|line| line.starts_with(step)), "{table}");
    }
    assert!(
        table.ends_with("all the money of 2000 accounts is there\n"),
        "{table}"
    );
    assert!(progress.contains(" transfers/s, p99 "), "{progress}");
    assert!(!progress.contains("panicked at"), "{progress}");
}

#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    let mut elastic = Command::new(env!("CARGO_BIN_EXE_elastic"));
    let output = elastic.args(["--accounts", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

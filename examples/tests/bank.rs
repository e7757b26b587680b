//! The bank under fire, as CI and a curious reader run it: a few seconds, two kills, four panics.

use std::process::{Command, Output};

fn bank(arguments: &[&str]) -> Output {
    let mut bank = Command::new(env!("CARGO_BIN_EXE_bank"));
    bank.args(arguments).output().unwrap()
}

/// The figure of a row of the table.
fn figure<'a>(table: &'a str, name: &str) -> &'a str {
    let row = table
        .lines()
        .map(str::trim)
        .find(|row| row.starts_with(name));
    row.unwrap_or_else(|| panic!("no row {name:?} in\n{table}"))[name.len()..].trim()
}

#[test]
fn money_is_neither_made_nor_lost_by_two_kills_and_four_panics() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bank");
    let path = path.to_str().unwrap();
    let plan = ["--directory", path, "--accounts", "500", "--clients", "16"];
    let drill = ["--seconds", "3", "--kills", "2", "--panics", "4"];
    let output = bank(&[&plan[..], &drill[..]].concat());
    let table = String::from_utf8(output.stdout).unwrap();
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{table}{progress}");
    assert!(table.starts_with("500 accounts, 16 clients, "), "{table}");
    for name in ["orders settled", "a second, kills included", "audits"] {
        assert!(figure(&table, name).parse::<u64>().unwrap() > 0, "{table}");
    }
    for name in ["p50", "p99"] {
        let milliseconds = figure(&table, name).strip_suffix(" ms").unwrap();
        assert!(milliseconds.parse::<f64>().unwrap() > 0.0, "{table}");
    }
    for name in ["aborts", "retries", "given up after retries"] {
        figure(&table, name).parse::<u64>().unwrap();
    }
    assert_eq!(figure(&table, "node restarts survived"), "4", "{table}");
    assert_eq!(figure(&table, "process kills survived"), "2", "{table}");
    assert!(table.contains("\ntotal: 500 accounts hold 500000 of 500000; no "));
    assert!(progress.contains(" orders/s  "), "{progress}");
    assert!(!progress.contains("panicked at"), "{progress}");
}

#[tokio::test]
async fn a_bank_with_one_coin_too_many_fails_its_check() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bank");
    let plan = [
        "--accounts",
        "100",
        "--seconds",
        "1",
        "--kills",
        "0",
        "--panics",
        "0",
    ];
    let place = ["--directory", path.to_str().unwrap()];
    let honest = bank(&[&plan[..], &place[..]].concat());
    assert!(honest.status.success(), "{honest:?}");

    let db = mailring::Mailring::builder(&path).open().await.unwrap();
    let accounts = db.keyspace("accounts").await.unwrap();
    accounts.add("account-000042", 1).await.unwrap();
    db.shutdown().await.unwrap();

    let forged = bank(&[&plan[..], &place[..]].concat());
    assert_eq!(forged.status.code(), Some(1), "{forged:?}");
    let fault = "100 accounts hold 100001, and 0 are overdrawn; 100 must hold 100000";
    let words = [forged.stdout, forged.stderr].concat();
    assert!(String::from_utf8(words).unwrap().contains(fault));
}

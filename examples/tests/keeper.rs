//! The commands of the runbook, in the order in which somebody may need them.

use mailring::{Mailring, Result};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const KEYS: u32 = 2_000;

fn keeper(arguments: &[&str]) -> Output {
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_keeper"));
    keeper.args(arguments).output().unwrap()
}

/// What a command that must succeed has said.
fn said(arguments: &[&str]) -> String {
    let output = keeper(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn fill(directory: &Path) -> Result<()> {
    let db = Mailring::builder(directory).nodes(3).open().await?;
    let words = db.keyspace("words").await?;
    let pairs = (0..KEYS).map(|number| (number.to_be_bytes(), number.to_le_bytes()));
    words.put_many(pairs).await?;
    db.shutdown().await
}

async fn count(directory: &Path) -> Result<u64> {
    let db = Mailring::builder(directory).create(false).open().await?;
    let found = db.keyspace("words").await?.scan(..).count().await?;
    db.shutdown().await?;
    Ok(found)
}

#[tokio::test]
async fn nodes_come_grow_are_replaced_and_go_and_every_key_stays() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let (directory, copy) = (parent.path().join("db"), parent.path().join("copy"));
    fill(&directory).await?;
    let (db, copied) = (directory.to_str().unwrap(), copy.to_str().unwrap());
    assert!(said(&["add", db]).contains("node 3: weight 1"));
    assert!(said(&["weigh", db, "0", "2"]).contains("node 0: weight 2"));
    let replaced = said(&["replace", db, "0"]);
    assert!(replaced.contains("node 4: weight 2"), "{replaced}");
    assert!(!replaced.contains("node 0: "), "{replaced}");
    let left = said(&["remove", db, "1"]);
    assert_eq!(left.matches("weight").count(), 3, "{left}");
    assert!(said(&["verify", db]).starts_with(&format!("{KEYS} keys")));
    assert!(said(&["backup", db, copied]).starts_with(&format!("{KEYS} keys")));
    assert!(said(&["list", copied]).contains("node 4: weight 2"));
    assert_eq!(count(&directory).await?, u64::from(KEYS));
    assert_eq!(count(&copy).await?, u64::from(KEYS));
    Ok(())
}

/// A file of the largest tree.
fn damage(tables: &Path) {
    let files = fs::read_dir(tables)
        .unwrap()
        .map(|file| file.unwrap().path());
    let largest = files.max_by_key(|file| file.metadata().unwrap().len());
    let largest = largest.expect("the tree has a table");
    fs::write(&largest, b"no table").unwrap();
}

#[tokio::test]
async fn a_node_whose_tree_is_damaged_is_restored_alone() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let (directory, copy) = (parent.path().join("db"), parent.path().join("copy"));
    fill(&directory).await?;
    let (db, copied) = (directory.to_str().unwrap(), copy.to_str().unwrap());
    said(&["backup", db, copied]);
    damage(&directory.join("node-001/tables"));
    assert!(said(&["list", db]).contains("Isolated"));
    assert!(said(&["restore-node", db, "1", copied]).contains("keys are back"));
    assert!(!said(&["list", db]).contains("Isolated"));
    assert_eq!(count(&directory).await?, u64::from(KEYS));
    Ok(())
}

#[tokio::test]
async fn a_second_disk_takes_nodes_and_may_move() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let [directory, other, moved] = ["db", "other", "moved"].map(|name| parent.path().join(name));
    fill(&directory).await?;
    let db = directory.to_str().unwrap();
    let attached = said(&["attach", db, other.to_str().unwrap()]);
    assert_eq!(attached.matches("in directory 0").count(), 3, "{attached}");
    let added = said(&["add", db, "--directory-number", "1"]);
    assert!(added.contains("in directory 1"), "{added}");
    fs::rename(&other, &moved).unwrap();
    let missing = keeper(&["list", db]);
    let words = String::from_utf8(missing.stderr).unwrap();
    assert!(words.contains(other.to_str().unwrap()), "{words}");
    said(&["attach", db, moved.to_str().unwrap()]);
    assert!(said(&["list", db]).contains("in directory 1"));
    assert_eq!(count(&directory).await?, u64::from(KEYS));
    Ok(())
}

/// It panicked, in the middle of a change.
#[tokio::test]
async fn a_listener_who_leaves_stops_nothing() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("db");
    fill(&directory).await?;
    let db = directory.to_str().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_keeper"));
    let output = keeper.args(["add", db]).stdout(writer).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(said(&["list", db]).contains("node 3: weight 1"));
    Ok(())
}

/// The engine knows where its directories are, and is told for one call only.
#[tokio::test]
async fn a_node_of_a_copy_is_restored_where_the_copy_has_it() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let [directory, other, backup, copy, copied] =
        ["db", "other", "backup", "copy", "copied"].map(|name| parent.path().join(name));
    fill(&directory).await?;
    let db = directory.to_str().unwrap();
    said(&["attach", db, other.to_str().unwrap()]);
    said(&["add", db, "--directory-number", "1"]);
    said(&["backup", db, backup.to_str().unwrap()]);
    for (from, to) in [(&directory, &copy), (&other, &copied)] {
        let mut cp = Command::new("cp");
        assert!(cp.arg("-a").args([from, to]).status().unwrap().success());
    }
    damage(&copied.join("node-003/tables"));
    let [copy, copied, backup] = [&copy, &copied, &backup].map(|path| path.to_str().unwrap());
    let restore = ["restore-node", copy, "3", backup];
    let unnamed = keeper(&restore);
    let words = String::from_utf8(unnamed.stderr).unwrap();
    assert!(words.contains("name where directory 1 is"), "{words}");
    let named = ["--directory", copied];
    let restored = said(&[&restore[..], &named].concat());
    assert!(restored.contains(copied), "{restored}");
    said(&[&["verify", copy], &named[..]].concat());
    said(&["verify", db]);
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_done_is_said_and_changes_nothing() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("db");
    fill(&directory).await?;
    let db = directory.to_str().unwrap();
    for (arguments, reason) in [
        (["remove", db, "7"], "node"),
        (["replace", db, "7"], "there is no such node"),
    ] {
        let output = keeper(&arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(words.contains(reason), "{words}");
    }
    let missing = parent.path().join("mistyped");
    let output = keeper(&["list", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!missing.exists(), "nothing was made");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    assert_eq!(count(&directory).await?, u64::from(KEYS));
    Ok(())
}

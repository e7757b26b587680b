//! The commands of `docs/RUNBOOK.md`, taken from there and run in a shell, each where somebody would need it; and no command
//! stands there that is not run.
//!
//! The paths in it are relative to a folder of the test; `/mnt` and `/backup` are folders in there.

use mailring::{Builder, ChangeStep, Mailring, Result};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

const KEYS: u32 = 1_000;

/// Sections with commands, and how many blocks of them the tests below run.
const RUN: [(&str, usize); 12] = [
    ("Runbook", 1),
    ("Adding a node", 1),
    ("Removing a node", 1),
    ("Re-weighting a node", 1),
    ("Replacing a node", 1),
    ("A change that was under way", 1),
    ("Backups", 1),
    ("Restoring", 1),
    ("Adding a disk", 1),
    ("One of several disks", 3),
    ("A disk that is about to go", 1),
    ("A corrupt tree", 3),
];

/// The blocks of commands, each with the section that it is in.
fn blocks() -> Vec<(String, String)> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(examples.join("../docs/RUNBOOK.md")).expect("it is there");
    let (mut section, mut blocks, mut inside) = (String::new(), Vec::new(), None);
    for line in text.lines().map(str::trim) {
        match inside.take() {
            Some(block) if line == "```" => blocks.push((section.clone(), block)),
            Some(block) => inside = Some(format!("{block}{line}\n")),
            None if line == "```sh" => inside = Some(String::new()),
            None if line.starts_with('#') => {
                section = line.trim_start_matches('#').trim().to_owned();
            }
            None => {}
        }
    }
    blocks
}

/// A folder in which somebody follows the runbook.
struct Desk {
    folder: TempDir,
}

impl Desk {
    /// With an engine of four nodes in `db`.
    async fn new() -> Result<Self> {
        let desk = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let programs = desk.at("target/release");
        fs::create_dir_all(&programs).unwrap();
        symlink(env!("CARGO_BIN_EXE_keeper"), programs.join("keeper")).unwrap();
        for folder in ["mnt/b", "mnt/c", "mnt/new", "backup"] {
            fs::create_dir_all(desk.at(folder)).unwrap();
        }
        desk.write(0..KEYS).await?;
        Ok(desk)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn builder(&self) -> Builder {
        Mailring::builder(self.at("db")).segment_bytes(1 << 20)
    }

    async fn write(&self, numbers: std::ops::Range<u32>) -> Result<()> {
        let db = self.builder().open().await?;
        let words = db.keyspace("words").await?;
        let pairs = numbers.map(|number| (number.to_be_bytes(), number.to_le_bytes()));
        words.put_many(pairs).await?;
        db.shutdown().await
    }

    async fn count(&self, directory: &str) -> Result<u32> {
        let directory = self.at(directory);
        let db = Mailring::builder(directory).create(false).open().await?;
        let found = db.keyspace("words").await?.scan(..).count().await?;
        db.shutdown().await?;
        Ok(u32::try_from(found).expect("there are not so many"))
    }

    fn shell(&self, commands: &str) -> Output {
        // How the program is built is another test's affair.
        let lines = commands.lines().filter(|line| !line.starts_with("cargo "));
        let lines: Vec<_> = lines.collect();
        let script = lines.join("\n");
        let script = script.replace(" /mnt/", " mnt/");
        let script = script.replace(" /backup/", " backup/");
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &script]).current_dir(&self.folder);
        shell.output().expect("there is a shell")
    }

    /// Runs a block of commands, by its place in its section.
    fn run(&self, section: &str, number: usize) -> Output {
        let mut of_section = blocks().into_iter().filter(|(of, _)| of == section);
        let (_, block) = of_section.nth(number).expect("the runbook has the block");
        self.shell(&block)
    }

    /// Runs a block that must succeed, and answers what it has said.
    fn said(&self, section: &str, number: usize) -> String {
        let output = self.run(section, number);
        assert!(output.status.success(), "{section}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must succeed.
    fn prepare(&self, command: &str) {
        let output = self.shell(command);
        assert!(output.status.success(), "{command}: {output:?}");
    }

    /// Runs a command that must fail, and answers what it has complained of.
    fn complaint(&self, command: &str) -> String {
        let output = self.shell(command);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn every_command_of_the_runbook_is_run_here() {
    let blocks = blocks();
    for (section, block) in &blocks {
        let is_run = RUN.iter().any(|(of, _)| of == section);
        assert!(is_run, "nobody runs this one of {section}:\n{block}");
    }
    for (section, count) in RUN {
        let found = blocks.iter().filter(|(of, _)| of == section).count();
        assert_eq!(found, count, "blocks in {section}");
    }
}

#[tokio::test]
async fn nodes_come_grow_are_replaced_and_go() -> Result<()> {
    let desk = Desk::new().await?;
    let listed = desk.said("Runbook", 0);
    assert!(listed.contains("node 3: weight 1"), "{listed}");
    assert!(listed.contains("1000 keys in the trees"), "{listed}");
    assert!(desk.said("Adding a node", 0).contains("node 4: weight 1"));
    let left = desk.said("Removing a node", 0);
    assert!(!left.contains("node 1: "), "{left}");
    let weighed = desk.said("Re-weighting a node", 0);
    assert!(weighed.contains("node 0: weight 2"), "{weighed}");
    let replaced = desk.said("Replacing a node", 0);
    assert!(replaced.contains("node 5: weight 1"), "{replaced}");
    assert!(!replaced.contains("node 2: "), "{replaced}");
    assert_eq!(desk.count("db").await?, KEYS);
    Ok(())
}

/// Begins to add a node, and stops on the way.
async fn begin_to_add(desk: &Desk) -> Result<()> {
    // So slow that it does not end before the engine does.
    let db = desk.builder().move_rate(1).open().await?;
    let mut change = db.nodes().add(1).await?;
    while change.progress().step != ChangeStep::Copying {
        change.next_progress().await.expect("it goes on");
    }
    Ok(())
}

#[tokio::test]
async fn a_change_that_was_under_way_is_gone_on_with_or_undone() -> Result<()> {
    let desk = Desk::new().await?;
    begin_to_add(&desk).await?;
    let ended = desk.said("A change that was under way", 0);
    assert!(ended.contains("node 4: weight 1"), "{ended}");
    assert!(!ended.contains("a change is under way"), "{ended}");
    let mut nodes = 5;
    loop {
        begin_to_add(&desk).await?;
        let output = desk.shell("target/release/keeper cancel db");
        if output.status.success() {
            let undone = String::from_utf8(output.stdout).unwrap();
            assert!(undone.contains("the change was undone"), "{undone}");
            assert_eq!(undone.matches(": weight").count(), nodes, "{undone}");
            break;
        }
        // It had ended before it could be cancelled.
        let late = String::from_utf8(output.stderr).unwrap();
        assert!(late.contains("no change is under way"), "{late}");
        nodes += 1;
    }
    assert_eq!(desk.count("db").await?, KEYS);
    Ok(())
}

#[tokio::test]
async fn a_backup_takes_the_place_of_a_damaged_directory() -> Result<()> {
    let desk = Desk::new().await?;
    let copied = desk.said("Backups", 0);
    assert!(
        copied.contains("1000 keys are in copies/monday"),
        "{copied}"
    );
    desk.write(KEYS..KEYS + 10).await?;
    fs::write(desk.at("db/MANIFEST"), "rubbish").unwrap();
    let corrupt = desk.complaint("target/release/keeper list db");
    assert!(corrupt.contains("MANIFEST is corrupt"), "{corrupt}");
    let verified = desk.said("Restoring", 0);
    assert!(verified.starts_with("1000 keys"), "{verified}");
    assert_eq!(desk.count("db").await?, KEYS, "as it was then");
    // The backup is still what it was, and can be used again.
    desk.write(KEYS..KEYS + 10).await?;
    assert_eq!(desk.count("db").await?, KEYS + 10);
    assert_eq!(desk.count("copies/monday").await?, KEYS);
    Ok(())
}

#[tokio::test]
async fn disks_come_move_are_copied_and_go() -> Result<()> {
    let desk = Desk::new().await?;
    let grown = desk.said("Adding a disk", 0);
    assert!(grown.contains("/mnt/b/db"), "{grown}");
    let where_it_lives = |line: &str| {
        let is_it = line.starts_with("node 4: ");
        is_it.then(|| line.contains("in directory 1"))
    };
    assert_eq!(grown.lines().rev().find_map(where_it_lives), Some(true));
    // It moves.
    fs::rename(desk.at("mnt/b/db"), desk.at("mnt/new/db")).unwrap();
    let missing = desk.complaint("target/release/keeper list db");
    assert!(missing.contains("/mnt/b/db: there is no such"), "{missing}");
    let named = desk.said("One of several disks", 0);
    assert!(named.contains("/mnt/new/db"), "{named}");
    // It is copied, and the copy is no other than the original.
    desk.prepare("cp -a db /backup/db && cp -a /mnt/new/db /backup/second");
    let unnamed = desk.complaint("target/release/keeper verify /backup/db");
    assert!(unnamed.contains("name where directory 1 is"), "{unnamed}");
    let copied = desk.said("One of several disks", 1);
    assert!(copied.starts_with("1000 keys"), "{copied}");
    assert!(copied.contains("/backup/second"), "{copied}");
    assert_eq!(desk.count("backup/db").await?, KEYS);
    // It goes.
    fs::rename(desk.at("mnt/new/db"), desk.at("mnt/b/db")).unwrap();
    desk.prepare("target/release/keeper attach db /mnt/b/db");
    let emptied = desk.said("A disk that is about to go", 0);
    let last = emptied.rsplit("directory 0: ").next().unwrap();
    assert!(last.contains("/mnt/c/db"), "{emptied}");
    assert!(!last.contains("in directory 1"), "{emptied}");
    fs::remove_dir_all(desk.at("mnt/b/db")).unwrap();
    assert_eq!(desk.count("db").await?, KEYS);
    Ok(())
}

#[tokio::test]
async fn an_engine_whose_disk_is_lost_begins_again_from_its_backup() -> Result<()> {
    let desk = Desk::new().await?;
    desk.said("Adding a disk", 0);
    desk.said("Backups", 0);
    desk.write(KEYS..KEYS + 10).await?;
    fs::remove_dir_all(desk.at("mnt/b/db")).unwrap();
    let lost = desk.complaint("target/release/keeper list db");
    assert!(lost.contains("directory 1"), "{lost}");
    let again = desk.said("One of several disks", 2);
    assert!(again.contains("/mnt/new/db"), "{again}");
    assert!(again.contains("in directory 1"), "{again}");
    assert_eq!(desk.count("db").await?, KEYS);
    Ok(())
}

/// Spoils the largest file of node 1.
fn damage(desk: &Desk) {
    let files = fs::read_dir(desk.at("db/node-001/tables")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let largest = files.max_by_key(|file| file.metadata().unwrap().len());
    fs::write(largest.expect("the tree has a table"), b"no table").unwrap();
}

#[tokio::test]
async fn a_corrupt_tree_is_found_and_restored_alone() -> Result<()> {
    let desk = Desk::new().await?;
    desk.said("Backups", 0);
    desk.write(KEYS..KEYS + 10).await?;
    damage(&desk);
    let found = desk.run("A corrupt tree", 0);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let found = String::from_utf8(found.stderr).unwrap();
    assert!(found.contains("node-001/tables"), "{found}");
    for change in ["add db", "replace db 1", "remove db 1", "weigh db 0 2"] {
        let refused = desk.complaint(&format!("target/release/keeper {change}"));
        assert!(refused.contains("tree of node 1 is corrupt"), "{refused}");
    }
    let restored = desk.said("A corrupt tree", 1);
    assert!(restored.contains("node-001.damaged-1"), "{restored}");
    assert_eq!(desk.count("db").await?, KEYS + 10, "nothing is lost");
    Ok(())
}

#[tokio::test]
async fn a_backup_that_is_too_old_for_a_node_is_taken_if_the_loss_is_accepted() -> Result<()> {
    let desk = Desk::new().await?;
    desk.said("Backups", 0);
    desk.write(KEYS..KEYS + 100).await?;
    // Until the journal has let go of what came behind the backup.
    let db = desk.builder().open().await?;
    let large = db.keyspace("large").await?;
    for number in 0..12_u32 {
        large.put(number.to_be_bytes(), vec![0; 900 << 10]).await?;
        db.checkpoint().await?;
    }
    db.shutdown().await?;
    damage(&desk);
    let refused = desk.run("A corrupt tree", 1);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let refused = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused.contains("the journal does not reach back"),
        "{refused}"
    );
    let restored = desk.said("A corrupt tree", 2);
    assert!(restored.contains("keys are back"), "{restored}");
    let left = desk.count("db").await?;
    assert!((KEYS..KEYS + 100).contains(&left), "{left} of all");
    desk.prepare("target/release/keeper verify db");
    Ok(())
}

//! Loss of power under load, with real processes and real files: what was not forced is gone.
//!
//! As in `crash.rs` the test runs itself again as a child, here with a preloaded shim (`common/shim.c`) that keeps apart
//! what the child has forced, files and directory entries each by their own force. The child is killed after a random
//! number of acknowledgements, or at a random change of its files; then the folder is built again from what was forced
//! or, in half of the rounds, from that and any part of the rest. The next child goes on with that, while the parent opens a
//! copy and compares it with what was acknowledged or seen. So the next child may die while it recovers.
//!
//! The engine makes its own directory, so that also the name of that one must have been forced.

mod common;

use common::{
    copy_directory,
    doomed::{Acknowledged, Loss, child, live_if_child, live_in_if_child, open, open_striped},
    shim::{Medium, Shim},
};
use mailring::{Mailring, Result};
use rand::{Rng, rngs::StdRng};
use std::{os::unix::process::ExitStatusExt, path::Path, process::Command};

const ROUNDS: u64 = 40;
const STRIPED_ROUNDS: u64 = 60;
/// A disk that lies loses something within so many rounds.
const LYING_ROUNDS: u64 = 10;
/// The engine's directory in the folder. Its parent is missing, too.
const ENGINE: &str = "new/engine";
/// Where a child shall write a backup.
const BACKUP: &str = "MAILRING_BACKUP";

/// When a child is killed.
enum Death {
    /// Before its n-th change of the folder, whatever that is.
    AtChange(u32),
    /// When the parent has heard of so many writes.
    AfterWrites(u32),
}

impl Death {
    /// Small numbers are as likely as large ones: a recovery has few changes.
    fn random(random: &mut StdRng) -> Self {
        let below = 1 << random.random_range(2..11);
        let number = random.random_range(0..below);
        match random.random() {
            true => Self::AtChange(number + 1),
            false => Self::AfterWrites(number),
        }
    }
}

/// The life and death of one child.
fn run(child: &mut Command, medium: &Medium, death: &Death, acknowledged: &mut Acknowledged) {
    child.envs(medium.environment());
    let writes = match death {
        Death::AtChange(change) => {
            child.env("MAILRING_SHIM_DIE_AT", change.to_string());
            None
        }
        Death::AfterWrites(writes) => Some(*writes),
    };
    let status = acknowledged.run(child, writes);
    assert_eq!(status.signal(), Some(9), "the child ended by itself");
}

/// Compares a copy of the directory with what was acknowledged, and leaves it alone.
fn check(
    engine: &Path,
    open: fn(&Path) -> Result<Mailring>,
    acknowledged: &Acknowledged,
) -> std::result::Result<(), Loss> {
    let copy = tempfile::tempdir().unwrap();
    if engine.exists() {
        copy_directory(engine, copy.path());
    }
    let db = open(copy.path())?;
    let blocking = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    blocking.block_on(async {
        acknowledged.check(&db.keyspace("ks").await?).await?;
        db.verify().await?;
        Ok(())
    })
}

#[test]
fn what_was_acknowledged_before_a_loss_of_power_is_there_and_nothing_is_half_there() {
    rounds(
        "what_was_acknowledged_before_a_loss_of_power_is_there_and_nothing_is_half_there",
        open,
        ROUNDS,
    );
}

/// What is left of each directory's files is drawn for itself, so one journal may lack what another one has.
#[test]
fn a_loss_of_power_leaves_two_directories_at_one_point() {
    rounds(
        "a_loss_of_power_leaves_two_directories_at_one_point",
        open_striped,
        STRIPED_ROUNDS,
    );
}

/// Rounds of `test`, each of which kills a child, takes its power and looks at what is left.
fn rounds(test: &str, open: fn(&Path) -> Result<Mailring>, rounds: u64) {
    if live_in_if_child(open) {
        return;
    }
    let Some(shim) = Shim::build() else { return };
    let mut random = common::seeded();
    let place = tempfile::tempdir().unwrap();
    let mut medium = Medium::new(&shim, place.path());
    let mut acknowledged = Acknowledged::default();
    for round in 1.. {
        if round > rounds && acknowledged.is_of_every_kind() {
            break;
        }
        assert!(round <= 10 * rounds, "the children hardly write");
        let mut child = child(test, &medium.root().join(ENGINE), round);
        let death = Death::random(&mut random);
        run(&mut child, &medium, &death, &mut acknowledged);
        let luck = random.random_bool(0.5).then_some(&mut random);
        medium.lose_power(luck);
        let engine = medium.root().join(ENGINE);
        if let Err(loss) = check(&engine, open, &acknowledged) {
            panic!("round {round}: {loss}");
        }
    }
}

/// The checker is checked: each of these disks says that something is forced which is not, and is found out.
#[test]
fn a_disk_that_lies_is_found_out() {
    const TEST: &str = "a_disk_that_lies_is_found_out";
    if live_if_child() {
        return;
    }
    let Some(shim) = Shim::build() else { return };
    let mut random = common::seeded();
    for lie in [
        "fdatasync /journal-",
        "dirsync /engine",
        "fsync /tables/",
        "fsync /.tmp",
        "fsync /MANIFEST",
    ] {
        let place = tempfile::tempdir().unwrap();
        let mut medium = Medium::new(&shim, place.path());
        let mut acknowledged = Acknowledged::default();
        let is_found_out = (1..=LYING_ROUNDS).any(|round| {
            let mut child = child(TEST, &medium.root().join(ENGINE), round);
            child.env("MAILRING_SHIM_LIE", lie);
            // Enough for checkpoints.
            let death = Death::AfterWrites(random.random_range(500..1500));
            run(&mut child, &medium, &death, &mut acknowledged);
            medium.lose_power(None);
            let engine = medium.root().join(ENGINE);
            match check(&engine, open, &acknowledged) {
                Err(loss) => {
                    println!("{lie}: round {round}: {loss}");
                    true
                }
                Ok(()) => false,
            }
        });
        assert!(is_found_out, "nobody has noticed: {lie}");
    }
}

#[tokio::test]
async fn a_backup_that_is_done_is_there_after_a_loss_of_power() -> Result<()> {
    const TEST: &str = "a_backup_that_is_done_is_there_after_a_loss_of_power";
    if let Some(directory) = std::env::var_os(BACKUP) {
        let db = Mailring::memory().open().await?;
        let ks = db.keyspace("ks").await?;
        ks.put("key", "value").await?;
        db.backup(Path::new(&directory)).await?;
        std::process::exit(0);
    }
    let Some(shim) = Shim::build() else {
        return Ok(());
    };
    let place = tempfile::tempdir().unwrap();
    let mut medium = Medium::new(&shim, place.path());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env(BACKUP, medium.root().join(ENGINE))
        .envs(medium.environment())
        .output();
    assert!(child.unwrap().status.success());
    medium.lose_power(None);
    let copy = Mailring::builder(medium.root().join(ENGINE)).create(false);
    let ks = copy.open().await?.keyspace("ks").await?;
    assert_eq!(ks.get("key").await?.as_deref(), Some(&b"value"[..]));
    Ok(())
}

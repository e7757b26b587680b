//! SIGKILL at random moments under load, with real processes and a real directory.
//!
//! The test runs itself again as a child, which writes from several tasks, with checkpoints going on, and prints each
//! write once it is acknowledged. The parent kills it after a random number of acknowledgements, opens the directory,
//! and compares. The same directory goes through all rounds.
//!
//! SIGKILL leaves the page cache alone, so this does not test the force: `faults.rs` and `power_loss.rs` do.

mod common;

use common::doomed::{Acknowledged, Loss, child, live_in_if_child, open, open_striped};
use mailring::Mailring;
use rand::Rng;
use std::{os::unix::process::ExitStatusExt, path::Path};

const ROUNDS: u64 = 100;
const STRIPED_ROUNDS: u64 = 60;

/// Rounds of `test`, each of which kills a child and opens what it has left.
fn rounds(
    test: &str,
    rounds: u64,
    home: &str,
    open: fn(&Path) -> mailring::Result<Mailring>,
) -> Result<(), Loss> {
    if live_in_if_child(open) {
        return Ok(());
    }
    let mut random = common::seeded();
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 1.. {
        if round > rounds && acknowledged.is_of_every_kind() {
            break;
        }
        assert!(round <= 10 * rounds, "the children hardly write");
        let mut child = child(test, directory.path(), round);
        let status = acknowledged.run(&mut child, Some(random.random_range(0..300)));
        assert_eq!(
            status.signal(),
            Some(9),
            "round {round}: the child ended by itself"
        );

        if round % 10 == 0 {
            Mailring::verify_directory(directory.path().join(home))?;
        }
        let db = open(directory.path())?;
        let blocking = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        blocking.block_on(async {
            let ks = db.keyspace("ks").await?;
            acknowledged.check(&ks).await?;
            db.verify().await?;
            if random.random_bool(0.2) {
                db.shutdown().await?;
            }
            Ok::<_, Loss>(())
        })?;
    }
    Ok(())
}

#[test]
fn what_was_acknowledged_before_a_sigkill_is_there_and_nothing_is_half_there() -> Result<(), Loss> {
    let test = "what_was_acknowledged_before_a_sigkill_is_there_and_nothing_is_half_there";
    rounds(test, ROUNDS, "", open)
}

/// The page cache survives, so what a kill leaves differs between the journals by what was written and not by what was
/// forced; `power_loss.rs` has both.
#[test]
fn a_sigkill_leaves_two_directories_at_one_point() -> Result<(), Loss> {
    let test = "a_sigkill_leaves_two_directories_at_one_point";
    rounds(test, STRIPED_ROUNDS, "home", open_striped)
}

//! A bank that is shot at: money moves between accounts on all nodes, and none is ever made or lost.
//!
//! ```text
//! bank                                             # 12 seconds, 2 kills, 6 panics, in a temporary directory
//! bank --seconds 60 --kills 10 --panics 50 --clients 256 --accounts 100000 --directory DIR
//! ```
//!
//! # What happens
//!
//! ```text
//! drill (this process)              life 1             life 2             life 3
//!   starts a life ----------------> opens, works
//!   <- report, 10 times a second -- ...
//!   "panic" ----------------------> a node panics, is restarted
//!   SIGKILL ----------------------> +
//!   starts the next ----------------------------------> recovers, works
//!   SIGKILL ------------------------------------------> +
//!   starts the last -------------------------------------------------------> recovers, works
//!   closes its stdin ------------------------------------------------------> ends its transfers, shuts down
//!   opens the directory itself, reads it, compares
//! ```
//!
//! A life is a process with the engine in it: clients that transfer random sums between random accounts, each transfer
//! one transaction over up to three nodes, and an auditor who adds up all accounts in one snapshot after the other.
//!
//! # What is checked
//!
//! - Every audit, in the middle of all this, finds all the money, and no account overdrawn.
//! - Each order of a client, to transfer a sum, is one transaction, and counts up the client's receipts as well. An
//!   order that a client was told of is among the receipts in the next life: nothing acknowledged is lost. In the life
//!   that was not killed there is not one receipt more either: nothing is done twice, also when the outcome could not be
//!   told and the client gave the order again, with the same idempotency key.
//! - Every panic that was ordered is one restart, and in the end all of the directory reads back whole.
//!
//! # Exit codes
//!
//! 0: all checks hold. 1: one does not, or something failed. 2: wrong use.

mod accounts;
mod clients;
mod drill;
mod faults;
mod life;
mod progress;
mod report;
mod verdict;

use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

/// Moves money between accounts while nodes panic and the process is killed, and checks that none is made or lost.
#[derive(Debug, Clone, Parser)]
#[command(version)]
struct Plan {
    /// Accounts, spread over all nodes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=999_999))]
    accounts: u32,
    /// Clients that transfer at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// How long they work, in seconds.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// How often the process is killed on the way.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    kills: u32,
    /// How often a node is made to panic on the way.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    panics: u32,
    /// Where the bank is kept; one that is there is gone on with. By default a temporary directory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// This process is a life that the drill has started.
    #[arg(long, hide = true, requires = "directory")]
    life: bool,
}

fn main() -> ExitCode {
    let plan = Plan::parse();
    let outcome = if plan.life {
        life::run(&plan).map(|()| true)
    } else {
        drill::run(&plan)
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("bank: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Why the program ended without a verdict.
type Failure = Box<dyn std::error::Error + Send + Sync>;

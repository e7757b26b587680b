//! A ring in motion: nodes come, grow, go and die under a load of transfers, and no money is made or lost.
//!
//! ```text
//! elastic                                       # about 15 seconds in a temporary directory
//! elastic --seconds 10 --accounts 200000 --clients 256 --directory DIR
//! ```
//!
//! # What happens
//!
//! Clients transfer random sums between random accounts, each transfer one transaction. Meanwhile, one after the other:
//!
//! ```text
//! 4 nodes ── add one ── add one ── double the weight of node 0 ── remove node 1 ── node 2 panics ── node 3 dies for good ── check
//! ```
//!
//! A node that panics once is back in no time. One that panics at whatever it is asked is given up in the end, and the others
//! take over what it had; until then whoever needs it is told `NodeDown`.
//!
//! A terminal shows the ring live: each node with its share of the arcs and its load, the throughput and the latency of the
//! transfers, and the progress of the change. Elsewhere it is a line each second.
//!
//! # What is checked
//!
//! All accounts are added up in a snapshot after each step, while the clients go on, and once more when they have ended: all
//! the money is there. Each change has moved as many arcs as its plan said, and the ring is shared out by weight.
//!
//! # Exit codes
//!
//! 0: all checks hold. 1: one does not, or something failed. 2: wrong use. 130: it was interrupted (ctrl-c), and has tidied up.

mod bank;
mod clients;
mod fault;
mod script;
mod view;

use clap::Parser;
use script::Ending;
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// Adds, re-weights, removes and kills nodes under a load of transfers, shows it, and checks that no money is lost.
#[derive(Debug, Clone, Parser)]
#[command(version)]
struct Plan {
    /// Accounts, spread over all nodes.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(2..=9_999_999))]
    accounts: u32,
    /// Clients that transfer at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Seconds of load before the first step and after each.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Where the bank is kept: a new or empty directory. By default a temporary one.
    #[arg(long)]
    directory: Option<PathBuf>,
}

impl Plan {
    fn pause(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// What a shell says of a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let plan = Plan::parse();
    match script::run(&plan).await {
        Ok(Ending::Checked(rows)) => {
            script::print(&plan, &rows);
            ExitCode::SUCCESS
        }
        Ok(Ending::Interrupted) => {
            eprintln!("elastic: interrupted before everything was checked");
            ExitCode::from(INTERRUPTED)
        }
        Err(failure) => {
            eprintln!("elastic: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Why the program ended, or which check failed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

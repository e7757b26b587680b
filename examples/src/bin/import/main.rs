//! Streams NDJSON or TSV into a keyspace, and answers from it.
//!
//! ```text
//! import load   --dir DIR --key 1 words.tsv        # or: ... | import load --dir DIR --format ndjson --key id
//! import get    --dir DIR some-key
//! import prefix --dir DIR some --limit 20
//! import count  --dir DIR
//! import stats  --dir DIR
//! ```
//!
//! # Why it can be killed at any moment
//!
//! Records are put in the order of the source, one batch at a time, and the position after a batch (offset, lines, and
//! a fingerprint of all bytes before the offset) is put once that batch is durable. So the stored position is never
//! ahead of the data, and at most one batch ahead of the position has been written, in whole or in part. A second run
//! begins at the position and writes that batch again: a put of the same value under the same key is idempotent, and
//! since nothing after that batch has been written, the last line of each key still wins. What is in the keyspace at
//! the end is exactly what an uninterrupted run leaves. No transaction over data and position is needed for that.
//!
//! The second run reads the source up to the position again and compares the fingerprint, so it also works on stdin,
//! and another source (or an edited one) is refused. A source that has only grown goes on where it ended.
//!
//! # Exit codes
//!
//! 0: done. 1: failed, with the reason on stderr. 2: wrong use. 3: done, but lines were left out (`load`), or the key
//! is not there (`get`).

mod ask;
mod failure;
mod lines;
mod load;
mod position;
mod progress;
mod record;
mod sample;

use clap::{Args, Parser, Subcommand};
use failure::Failure;
use mailring::{Keyspace, MAX_BATCH_KEYS, Mailring};
use record::Format;
use std::{ffi::OsString, path::PathBuf, process::ExitCode};

/// Imports NDJSON or TSV into a mailring directory, and answers from it.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Import a file or stdin; run it again after an interruption and it goes on.
    Load {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        plan: Plan,
    },
    /// Print the value of a key; exit code 3 if it is not there.
    Get {
        #[command(flatten)]
        place: Place,
        /// The key.
        key: OsString,
    },
    /// Print `key TAB value` of all keys that begin with a prefix, in key order.
    Prefix {
        #[command(flatten)]
        place: Place,
        /// The prefix; "" is everything.
        prefix: OsString,
        /// At most this many.
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Print the number of keys.
    Count {
        #[command(flatten)]
        place: Place,
    },
    /// Print figures of the nodes, and how far each import has come.
    Stats {
        #[command(flatten)]
        place: Place,
    },
}

/// Which directory and keyspace.
#[derive(Debug, Args)]
struct Place {
    /// The directory of the engine.
    #[arg(long)]
    dir: PathBuf,
    /// The keyspace.
    #[arg(long, default_value = "records")]
    keyspace: String,
}

/// How to import.
#[derive(Debug, Args)]
struct Plan {
    /// The file; without it, or with "-", stdin.
    source: Option<PathBuf>,
    /// Form of the lines; by default the file's ending decides (.tsv, .ndjson, .jsonl).
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What the key is: a field's name (NDJSON), or a column's number from 1 (TSV, default 1).
    #[arg(long)]
    key: Option<String>,
    /// What the value is, as for --key; by default the whole line (NDJSON), or the other columns (TSV).
    #[arg(long)]
    value: Option<String>,
    /// Records a batch; the position is stored after each.
    #[arg(long, default_value_t = 2_000, value_parser = batch_size)]
    batch: usize,
    /// Bad lines to leave out before giving up.
    #[arg(long, default_value_t = 100)]
    max_bad: u64,
    /// Longest line, in bytes; a longer one is a bad line.
    #[arg(long, default_value_t = 16 << 20, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    max_line: u32,
    /// Without a terminal, report progress each time this many lines are durable.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    report_every: u64,
    /// Forget how far the import of this source has come, and begin again.
    #[arg(long)]
    restart: bool,
}

fn batch_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (1..=MAX_BATCH_KEYS).contains(&size) => Ok(size),
        _ => Err(format!("a batch has 1 to {MAX_BATCH_KEYS} records")),
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Load { place, plan } => load::load(&place, plan),
        Command::Get { place, key } => ask::get(&place, key.as_encoded_bytes()),
        Command::Prefix {
            place,
            prefix,
            limit,
        } => ask::prefix(&place, prefix.as_encoded_bytes(), limit),
        Command::Count { place } => ask::count(&place),
        Command::Stats { place } => ask::stats(&place),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("import: {}", failure.message);
            failure.code
        }
    }
}

/// Done, but lines were left out or the key is not there.
const IN_PART: u8 = 3;

impl Place {
    /// Opens what an import has made. Asking must not create a directory or a keyspace because of a misspelt name.
    fn open_existing(&self) -> Result<(Mailring, Keyspace), Failure> {
        let dir = self.dir.display();
        if !self.dir.join("MANIFEST").exists() {
            return Err(Failure::new(format!(
                "the directory {dir} holds no mailring; import something first"
            )));
        }
        let db = Mailring::builder(&self.dir).open_blocking()?;
        let names = db.blocking().keyspaces()?;
        if !names.contains(&self.keyspace) {
            return Err(Failure::new(format!(
                "{dir} has no keyspace {:?}, it has {names:?}",
                self.keyspace
            )));
        }
        let keyspace = db.blocking().keyspace(&self.keyspace)?.keyspace().clone();
        Ok((db, keyspace))
    }
}

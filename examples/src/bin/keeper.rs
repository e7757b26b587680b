//! The steps of `docs/RUNBOOK.md` for a directory that no service has open.
//!
//! ```text
//! keeper list DIR                    keeper add DIR --weight 1         keeper verify DIR
//! keeper remove DIR 1                keeper weigh DIR 0 2              keeper backup DIR COPY
//! keeper replace DIR 1               keeper attach DIR OTHER           keeper restore-node DIR 1 COPY
//! ```
//!
//! A directory is opened by one process at a time: a service that runs does the same by the calls that the runbook shows. A
//! command that is killed has lost nothing; the next one that opens the directory goes on with the change, and so does a
//! service.
//!
//! # Exit codes
//!
//! 0: done. 1: something failed, and the last line says what. 2: wrong use.

use clap::{Parser, Subcommand};
use mailring::{
    Builder, Change, ChangeEnd, DirectoryNo, Error, Mailring, NodeId, RestoreLoss, Result,
};
use std::{path::PathBuf, process::ExitCode};

/// Looks after the nodes of a directory that no service has open.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the nodes.
    List { directory: PathBuf },
    /// Adds a node.
    Add {
        directory: PathBuf,
        /// Its weight; its share is that of its weight among all.
        #[arg(long, default_value_t = 1)]
        weight: u32,
        /// The number of the directory in which it shall live, if there are several; in turn by default.
        #[arg(long)]
        directory_number: Option<u8>,
    },
    /// Removes a node.
    Remove { directory: PathBuf, node: u16 },
    /// Gives a node another weight.
    Weigh {
        directory: PathBuf,
        node: u16,
        weight: u32,
    },
    /// Adds a node of the same weight, then removes this one.
    Replace { directory: PathBuf, node: u16 },
    /// Reads and checks everything, and changes nothing.
    Verify { directory: PathBuf },
    /// Writes a copy, which can be opened like any directory.
    Backup { directory: PathBuf, copy: PathBuf },
    /// Names one more directory of the engine, on another disk, say, or one that has moved.
    Attach { directory: PathBuf, other: PathBuf },
    /// Puts the tree of one node from a backup in the place of one that can't be read.
    RestoreNode {
        directory: PathBuf,
        node: u16,
        backup: PathBuf,
        /// Accept that the node lacks what it has committed since the backup, where the journal does not reach back so far.
        #[arg(long)]
        accept_loss: bool,
    },
}

/// Opens what is there; a path that is mistyped makes no new engine.
async fn open(directory: &PathBuf) -> Result<Mailring> {
    open_with(Mailring::builder(directory)).await
}

async fn open_with(builder: Builder) -> Result<Mailring> {
    let db = builder.create(false).open().await?;
    if let Some(change) = db.nodes().change() {
        println!("a change that was under way goes on");
        follow(change).await?;
    }
    Ok(db)
}

/// Shows a change until it has ended.
async fn follow(mut change: Change) -> Result<()> {
    let mut last = None;
    while let Some(progress) = change.next_progress().await {
        if last != Some(progress.step) || progress.failure.is_some() {
            let (arcs, of, bytes) = (progress.arcs_done, progress.arcs_total, progress.bytes);
            print!("{:?}: {arcs} of {of} arcs, {bytes} bytes", progress.step);
            match &progress.failure {
                Some(failure) => println!("; it waits, and tries again: {failure}"),
                None => println!(),
            }
        }
        last = Some(progress.step);
    }
    match change.wait().await? {
        ChangeEnd::Completed => Ok(()),
        ChangeEnd::Cancelled => Err(Error::RingChangeRefused {
            reason: "the change was undone",
        }),
    }
}

fn list(db: &Mailring) {
    for node in db.nodes().list() {
        let (arcs, keys, bytes) = (node.arcs, node.approximate_keys, node.bytes);
        println!(
            "node {}: weight {}, {arcs} arcs, about {keys} keys, {bytes} bytes, in directory {}, {:?}",
            node.node, node.weight, node.directory, node.state
        );
    }
}

async fn run(command: Command) -> Result<()> {
    let db = match command {
        Command::Verify { directory } => {
            let found = Mailring::verify_directory(directory)?;
            let (keys, records) = (found.keys, found.journal_records);
            println!("{keys} keys and {records} records of the journal are as they were written");
            return Ok(());
        }
        Command::RestoreNode {
            directory,
            node,
            backup,
            accept_loss,
        } => {
            let loss = match accept_loss {
                true => RestoreLoss::Accept,
                false => RestoreLoss::Refuse,
            };
            let restored = Mailring::restore_node(directory, NodeId(node), backup, loss)?;
            let (keys, damaged) = (restored.keys, restored.damaged.display());
            println!("{keys} keys are back; the tree that was there is in {damaged}");
            return Ok(());
        }
        Command::List { directory } => open(&directory).await?,
        Command::Attach { directory, other } => {
            open_with(Mailring::builder(directory).directory(other)).await?
        }
        Command::Add {
            directory,
            weight,
            directory_number,
        } => {
            let db = open(&directory).await?;
            println!("{} bytes will move", db.nodes().plan_add(weight)?.bytes);
            let change = match directory_number {
                Some(number) => db.nodes().add_in(DirectoryNo(number), weight).await?,
                None => db.nodes().add(weight).await?,
            };
            follow(change).await?;
            db
        }
        Command::Remove { directory, node } => {
            let db = open(&directory).await?;
            follow(db.nodes().remove(NodeId(node)).await?).await?;
            db
        }
        Command::Weigh {
            directory,
            node,
            weight,
        } => {
            let db = open(&directory).await?;
            follow(db.nodes().set_weight(NodeId(node), weight).await?).await?;
            db
        }
        Command::Replace { directory, node } => {
            let db = open(&directory).await?;
            let old = NodeId(node);
            let nodes = db.nodes().list();
            let weight = nodes.iter().find(|info| info.node == old);
            let weight = weight.ok_or(Error::RingChangeRefused {
                reason: "there is no such node",
            })?;
            follow(db.nodes().add(weight.weight).await?).await?;
            follow(db.nodes().remove(old).await?).await?;
            db
        }
        Command::Backup { directory, copy } => {
            let db = open(&directory).await?;
            let made = db.backup(copy).await?;
            println!("{} keys are in {}", made.keys, made.directory.display());
            db
        }
    };
    list(&db);
    db.shutdown().await
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

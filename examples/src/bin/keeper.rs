//! The steps of `docs/RUNBOOK.md` for a directory that no service has open.
//!
//! ```text
//! keeper list DIR             keeper verify DIR            keeper backup DIR COPY       keeper restore-node DIR 1 COPY
//! keeper add DIR --weight 1   keeper remove DIR 1          keeper weigh DIR 0 2         keeper replace DIR 1
//! keeper resume DIR           keeper cancel DIR            keeper attach DIR OTHER
//! ```
//!
//! A directory is opened by one process at a time: a service that runs does the same by the calls that the runbook shows. A
//! command that is killed has lost nothing; the next one that opens the directory goes on with the change, and so does a
//! service.
//!
//! # Several directories
//!
//! An engine knows where its directories are, so the first is enough. For those that have moved, and for those of a copy,
//! `attach` says where they are, and from then on the engine knows; `verify` and `restore-node` take them by `--directory`, and
//! leave what is known as it is.
//!
//! # Exit codes
//!
//! 0: done. 1: something failed, and the last line says what. 2: wrong use.

use clap::{Args, Parser, Subcommand};
use mailring::{
    Builder, Change, ChangeEnd, DirectoryNo, Error, Mailring, NodeId, RestoreLoss, Result,
};
use std::{
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

/// Looks after the nodes of a directory that no service has open.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the nodes, the directories if there are several, and the change that is under way.
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
    Replace {
        directory: PathBuf,
        node: u16,
        /// The number of the directory in which the new one shall live; by default that of the old one.
        #[arg(long)]
        directory_number: Option<u8>,
    },
    /// Goes on with a change that was under way, to its end.
    Resume { directory: PathBuf },
    /// Undoes a change that was under way.
    Cancel { directory: PathBuf },
    /// Reads and checks everything, and changes nothing.
    Verify {
        #[command(flatten)]
        place: Place,
    },
    /// Writes a copy, which can be opened like any directory.
    Backup { directory: PathBuf, copy: PathBuf },
    /// Names more directories of the engine: new ones, on other disks, say, and those that have moved.
    Attach {
        directory: PathBuf,
        #[arg(required = true)]
        others: Vec<PathBuf>,
    },
    /// Puts the tree of one node from a backup in the place of one that can't be read.
    RestoreNode {
        #[command(flatten)]
        place: Place,
        node: u16,
        backup: PathBuf,
        /// Accept that the node lacks what it has committed since the backup, where the journal does not reach back so far.
        #[arg(long)]
        accept_loss: bool,
    },
}

/// An engine, for commands that don't open it.
#[derive(Debug, Args)]
struct Place {
    /// Its only directory, or the first one.
    directory: PathBuf,
    /// Another one of its directories, if it is not where the engine knows it; can be repeated.
    #[arg(long = "directory", value_name = "OTHER")]
    others: Vec<PathBuf>,
}

impl Place {
    fn builder(self) -> Builder {
        named(Mailring::builder(self.directory), self.others)
    }
}

fn named(builder: Builder, others: Vec<PathBuf>) -> Builder {
    others.into_iter().fold(builder, Builder::directory)
}

/// Says something to whoever listens: that nobody does is no reason to stop on the way.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Opens what is there; a path that is mistyped makes no new engine.
async fn open(directory: PathBuf) -> Result<Mailring> {
    open_with(Mailring::builder(directory)).await
}

async fn open_with(builder: Builder) -> Result<Mailring> {
    // Nobody is served meanwhile who would suffer from the copying.
    builder.create(false).move_rate(None).open().await
}

/// Opens what is there, and goes on with a change that was under way, to its end: another one could not begin.
async fn open_settled(directory: PathBuf) -> Result<Mailring> {
    let db = open(directory).await?;
    if let Some(change) = db.nodes().change() {
        say("a change that was under way goes on");
        follow(change).await?;
    }
    Ok(db)
}

/// Shows a change until it has ended.
async fn show(mut change: Change) {
    let mut last = None;
    while let Some(progress) = change.next_progress().await {
        if last != Some(progress.step) || progress.failure.is_some() {
            let (arcs, of, bytes) = (progress.arcs_done, progress.arcs_total, progress.bytes);
            let step = progress.step;
            let waits = match &progress.failure {
                Some(failure) => format!("; it waits, and tries again: {failure}"),
                None => String::new(),
            };
            say(format!(
                "{step:?}: {arcs} of {of} arcs, {bytes} bytes{waits}"
            ));
        }
        last = Some(progress.step);
    }
}

/// Shows a change until it has ended, as it should.
async fn follow(change: Change) -> Result<()> {
    show(change.clone()).await;
    match change.wait().await? {
        ChangeEnd::Completed => Ok(()),
        ChangeEnd::Cancelled => Err(Error::RingChangeRefused {
            reason: "the change was undone",
        }),
    }
}

fn list(db: &Mailring) {
    let directories = db.nodes().directories();
    if directories.len() > 1 {
        for (number, path) in directories.iter().enumerate() {
            say(format!("directory {number}: {}", path.display()));
        }
    }
    for node in db.nodes().list() {
        let (arcs, keys, bytes) = (node.arcs, node.approximate_keys, node.bytes);
        say(format!(
            "node {}: weight {}, {arcs} arcs, about {keys} keys, {bytes} bytes, in directory {}, {:?}",
            node.node, node.weight, node.directory, node.state
        ));
    }
    if db.nodes().change().is_some() {
        say("a change is under way: `resume` goes on with it to its end, `cancel` undoes it");
    }
}

/// For a directory that is not opened.
fn look_at(place: Place) -> Result<()> {
    let found = place.builder().verify()?;
    let (keys, records) = (found.keys, found.journal_records);
    say(format!(
        "{keys} keys in the trees and {records} records of the journal are as they were written"
    ));
    Ok(())
}

fn restore_node(place: Place, node: u16, backup: PathBuf, accept_loss: bool) -> Result<()> {
    let loss = match accept_loss {
        true => RestoreLoss::Accept,
        false => RestoreLoss::Refuse,
    };
    let restored = place.builder().restore_node(NodeId(node), backup, loss)?;
    let (keys, damaged) = (restored.keys, restored.damaged.display());
    say(format!(
        "{keys} keys are back; the tree that was there is in {damaged}"
    ));
    Ok(())
}

async fn add(db: &Mailring, directory: Option<DirectoryNo>, weight: u32) -> Result<()> {
    let nodes = db.nodes();
    follow(match directory {
        Some(directory) => nodes.add_in(directory, weight).await?,
        None => nodes.add(weight).await?,
    })
    .await
}

async fn run(command: Command) -> Result<()> {
    let db = match command {
        Command::Verify { place } => return look_at(place),
        Command::RestoreNode {
            place,
            node,
            backup,
            accept_loss,
        } => return restore_node(place, node, backup, accept_loss),
        Command::List { directory } => open(directory).await?,
        Command::Attach { directory, others } => {
            open_with(named(Mailring::builder(directory), others)).await?
        }
        Command::Add {
            directory,
            weight,
            directory_number,
        } => {
            let db = open_settled(directory).await?;
            let bytes = db.nodes().plan_add(weight)?.bytes;
            say(format!("{bytes} bytes will move"));
            add(&db, directory_number.map(DirectoryNo), weight).await?;
            db
        }
        Command::Remove { directory, node } => {
            let db = open_settled(directory).await?;
            follow(db.nodes().remove(NodeId(node)).await?).await?;
            db
        }
        Command::Weigh {
            directory,
            node,
            weight,
        } => {
            let db = open_settled(directory).await?;
            follow(db.nodes().set_weight(NodeId(node), weight).await?).await?;
            db
        }
        Command::Replace {
            directory,
            node,
            directory_number,
        } => {
            let db = open_settled(directory).await?;
            let mut nodes = db.nodes().list().into_iter();
            let old = nodes.find(|info| info.node == NodeId(node));
            let old = old.ok_or(Error::RingChangeRefused {
                reason: "there is no such node",
            })?;
            let directory = directory_number.map_or(old.directory, DirectoryNo);
            add(&db, Some(directory), old.weight).await?;
            follow(db.nodes().remove(old.node).await?).await?;
            db
        }
        Command::Resume { directory } => {
            let db = open_settled(directory).await?;
            say("no change is under way");
            db
        }
        Command::Cancel { directory } => {
            let db = open(directory).await?;
            let change = db.nodes().change().ok_or(Error::RingChangeRefused {
                reason: "no change is under way; it may have come to its end",
            })?;
            let (ended, ()) = tokio::join!(change.cancel(), show(change.clone()));
            match ended? {
                ChangeEnd::Cancelled => say("the change was undone"),
                ChangeEnd::Completed => say("the change had come to its end"),
            }
            db
        }
        Command::Backup { directory, copy } => {
            let db = open(directory).await?;
            let made = db.backup(copy).await?;
            let (keys, copy) = (made.keys, made.directory.display());
            say(format!("{keys} keys are in {copy}"));
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

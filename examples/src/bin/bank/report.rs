//! What a life tells the drill, one line of JSON on its stdout each.
//!
//! Everything counts from the last report on, so that a life that is killed takes at most a tenth of a second of figures
//! along. Whatever was reported had been acknowledged before.

use crate::accounts::Books;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The directory is open, and this is in it. Nothing is being transferred yet.
    Opened { recovery_ms: u64, books: Books },
    /// What was done since the last report.
    Report(Report),
    /// All clients have ended and the engine is shut down.
    Ended,
    /// Something that must not happen has happened.
    Failed(String),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Orders settled and acknowledged, by client.
    pub(crate) settled: Vec<u64>,
    /// How long these took: microseconds, and how many took so long.
    pub(crate) latencies: BTreeMap<u64, u64>,
    /// Those of them that moved nothing, since the payer had too little.
    pub(crate) refused: u64,
    /// Orders that were given up and rolled back, since what was in their way had not ended by the deadline.
    pub(crate) given_up: u64,
    /// Orders that were given again, since their outcome could not be told.
    pub(crate) repeated: u64,
    /// Audits that found all the money.
    pub(crate) audits: u64,
    /// What the engine has counted since it was opened.
    pub(crate) engine: Engine,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Engine {
    /// Commits that were refused, whatever for.
    pub(crate) aborts: u64,
    /// Transactions run again by themselves.
    pub(crate) retries: u64,
    /// Restarts of nodes.
    pub(crate) restarts: u64,
}

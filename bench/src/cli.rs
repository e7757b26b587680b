//! The flags, and the work that they describe.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::contest::Lab;
use crate::distribution::Distribution;
use crate::driver::{Schedule, Stop};
use crate::figures::Figure;
use crate::locks::LockJob;
use crate::operations::Job;
use crate::subject::{Durability, Kind};
use crate::transactions::{BankJob, Economy, Mix, Placement};
use crate::workload::{Preset, SHORTEST_KEY_BYTES, Shape, Workload};
use crate::{Fault, Result};

/// What `--workload` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Operations on records.
    Records(Preset),
    /// Transactions on accounts.
    Bank(Mix),
    /// Pairs of lock and unlock.
    Lock,
    /// Puts and gets while nodes and records grow.
    Grow,
    /// Gets, puts and transfers while the ring changes.
    Resize,
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<Choice>> = LazyLock::new(|| {
            let records = Preset::value_variants().iter().copied();
            let banks = Mix::value_variants().iter().copied();
            let choices = records.map(Choice::Records).chain(banks.map(Choice::Bank));
            let others = [Choice::Lock, Choice::Grow, Choice::Resize];
            choices.chain(others).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Records(preset) => preset.to_possible_value(),
            Self::Bank(mix) => mix.to_possible_value(),
            Self::Lock => {
                Some(PossibleValue::new("lock").help("Takes named locks and gives them back"))
            }
            Self::Grow => Some(
                PossibleValue::new("grow")
                    .help("Puts and gets by number of nodes, and by number of records"),
            ),
            Self::Resize => Some(PossibleValue::new("resize").help(
                "Gets, puts and transfers while a node joins, one is re-weighted, one leaves",
            )),
        }
    }
}

impl Choice {
    /// The name.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The work.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkArgs {
    /// The workload.
    #[arg(long, default_value = "a")]
    pub(crate) workload: Choice,
    /// Records loaded first.
    #[arg(long)]
    pub(crate) records: Option<u64>,
    /// Ends after so many operations; else after `--seconds`.
    #[arg(long, conflicts_with = "seconds")]
    pub(crate) operations: Option<u64>,
    /// Ends after so much time.
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Seconds at the start that are not measured.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warmup: f64,
    /// Concurrent clients: tasks where the subject is async, else threads.
    #[arg(long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// Operations a second in an open loop, latency counted from when each is due; a closed loop if absent.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    pub(crate) value_bytes: usize,
    /// Bytes of a key, at least 8.
    #[arg(long, default_value_t = 16)]
    pub(crate) key_bytes: usize,
    /// The choice of records, in place of the workload's own.
    #[arg(long)]
    pub(crate) distribution: Option<Distribution>,
    /// Skew of zipfian and latest, between 0 and 1.
    #[arg(long, default_value_t = 0.99)]
    pub(crate) theta: f64,
    /// Records of a scan.
    #[arg(long, default_value_t = 100)]
    pub(crate) scan_length: u64,
    /// When a write is answered.
    #[arg(long, default_value = "always")]
    pub(crate) durability: Durability,
    /// Memory for cached reads, the same for every subject.
    #[arg(long, default_value_t = 256)]
    pub(crate) cache_mib: u64,
    /// Accounts of the workloads with transactions.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) accounts: u64,
    /// Percent of the transfers whose accounts lie on different nodes; as they are drawn if absent.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub(crate) cross_node: Option<u64>,
    /// Locks that all clients share; each client has its own if absent.
    #[arg(long)]
    pub(crate) names: Option<u64>,
    /// Prints each second, too.
    #[arg(long)]
    pub(crate) by_second: bool,
}

/// Where it runs.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Worker threads of the runtime that async subjects and their clients share.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Storage nodes of mailring.
    #[arg(long, default_value_t = 4)]
    pub(crate) nodes: u32,
    /// The seed of all choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where directories are made; a temporary directory if absent. They are removed at the end.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Writes the report as JSON, too: with what was measured, and every round of it.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// The flags of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Whom to measure.
    #[arg(long, default_value_t = Kind::under_test())]
    pub(crate) subject: Kind,
    /// Draws the charts of the workloads `grow` and `resize` into this file.
    #[arg(long)]
    pub(crate) svg: Option<PathBuf>,
    /// Rounds of the workloads `grow` and `resize`.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) rounds: u64,
    /// MiB a second that the workload `resize` moves at most; it is also measured without a limit.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) move_rate: u64,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

impl RunArgs {
    /// # Errors
    ///
    /// What is wrong with the flags.
    pub(crate) fn check(&self) -> Result<()> {
        let workload = self.work.workload;
        if self.svg.is_some() && !matches!(workload, Choice::Grow | Choice::Resize) {
            return Err(Fault::from("--svg is for the workloads grow and resize"));
        }
        if workload == Choice::Resize && self.subject != Kind::Mailring {
            return Err(Fault::from(
                "resize is for mailring: no other subject has a ring",
            ));
        }
        self.work.check()
    }
}

/// The flags of `compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Measures these figures, with commas between them; `--workload` is ignored then.
    #[arg(long, value_delimiter = ',')]
    pub(crate) figure: Vec<Figure>,
    /// Whom to judge.
    #[arg(long, default_value_t = Kind::under_test())]
    pub(crate) subject: Kind,
    /// Peers, in place of the usual ones.
    #[arg(long, value_delimiter = ',')]
    pub(crate) peers: Option<Vec<Kind>>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Writes the tables as Markdown, too.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

impl WorkArgs {
    /// The records of a workload that has so many usually.
    pub(crate) fn shape(&self, usual_records: u64) -> Shape {
        let records = self.records.unwrap_or(usual_records);
        Shape {
            records,
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
        }
    }

    /// # Errors
    ///
    /// What is wrong with the flags.
    pub(crate) fn check(&self) -> Result<()> {
        let complaint = match self {
            Self { theta, .. } if !(*theta > 0.0 && *theta < 1.0) => {
                "--theta must lie between 0 and 1"
            }
            Self { clients: 0, .. } => "--clients must not be 0",
            Self {
                records: Some(0), ..
            } => "--records must not be 0",
            Self { scan_length: 0, .. } => "--scan-length must not be 0",
            Self { key_bytes, .. } if *key_bytes < SHORTEST_KEY_BYTES => {
                "--key-bytes must be at least 8"
            }
            Self {
                rate: Some(rate), ..
            } if !(*rate > 0.0 && *rate <= 1e9) => "--rate must be above 0",
            Self {
                seconds: Some(time),
                ..
            } if !(*time > 0.0 && *time < 1e6) => "--seconds must be above 0",
            Self { warmup, .. } if !(0.0..1e6).contains(warmup) => "--warmup must not be negative",
            Self {
                workload: Choice::Records(_) | Choice::Lock | Choice::Grow | Choice::Resize,
                cross_node: Some(_),
                ..
            } => "--cross-node is for workloads with transactions",
            Self { names: Some(0), .. } => "--names must not be 0",
            Self {
                names: Some(_),
                workload: Choice::Records(_) | Choice::Bank(_) | Choice::Grow | Choice::Resize,
                ..
            } => "--names is for the workload lock",
            _ => return Ok(()),
        };
        Err(Fault::from(complaint))
    }

    /// The work on records of this shape.
    pub(crate) fn job(&self, preset: Preset, shape: Shape, seed: u64) -> Job {
        let schedule = self.schedule();
        Job {
            workload: Workload::new(
                preset,
                shape,
                self.distribution,
                self.theta,
                self.scan_length,
            ),
            clients: schedule.clients,
            stop: schedule.stop,
            warmup: schedule.warmup,
            rate: schedule.rate,
            seed,
            sample_every: schedule.sample_every,
            tape: 0,
            by_second: schedule.by_second,
        }
    }

    fn schedule(&self) -> Schedule {
        let time = Duration::from_secs_f64(self.seconds.unwrap_or(5.0));
        Schedule {
            clients: self.clients,
            stop: self.operations.map_or(Stop::After(time), Stop::Operations),
            warmup: Duration::from_secs_f64(self.warmup),
            rate: self.rate,
            sample_every: 1,
            by_second: self.by_second,
        }
    }

    /// The transactions of this mix.
    ///
    /// # Errors
    ///
    /// If there are no such accounts.
    pub(crate) fn bank_job(&self, mix: Mix, lab: &Lab) -> Result<BankJob> {
        let mut economy = Economy::new(
            mix,
            self.accounts,
            self.distribution,
            self.theta,
            self.value_bytes,
        )?;
        if let Some(percent) = self.cross_node {
            let placement = Placement::of(self.accounts, lab.nodes, &lab.runtime)?;
            economy = economy.crossing(percent, placement);
        }
        Ok(BankJob {
            economy: Arc::new(economy),
            schedule: self.schedule(),
            seed: lab.seed,
            on_threads: false,
        })
    }

    /// The pairs of lock and unlock.
    pub(crate) fn lock_job(&self, lab: &Lab) -> LockJob {
        LockJob {
            names: self.names,
            schedule: self.schedule(),
            seed: lab.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        work: WorkArgs,
    }

    fn check(flags: &[&str]) -> Result<()> {
        let line = ["mailring-bench"].iter().chain(flags);
        Flags::try_parse_from(line)?.work.check()
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        assert!(check(&[]).is_ok());
        for flags in [
            ["--theta", "1"],
            ["--clients", "0"],
            ["--key-bytes", "7"],
            ["--rate", "-5"],
            ["--cross-node", "50"],
            ["--names", "3"],
        ] {
            assert!(check(&[flags.join("=").as_str()]).is_err(), "{flags:?}");
        }
        assert!(check(&["--workload=transfer", "--cross-node=100"]).is_ok());
        assert!(check(&["--workload=transfer", "--cross-node=101"]).is_err());
        assert!(check(&["--workload=lock", "--names=1"]).is_ok());
        assert!(check(&["--workload=lock", "--names=0"]).is_err());
    }

    #[test]
    fn every_workload_has_its_own_name() {
        let mut names: Vec<String> = Choice::value_variants()
            .iter()
            .map(|choice| choice.name())
            .collect();
        for name in [
            "a",
            "put",
            "transfer",
            "smallbank",
            "ycsb-t",
            "counter",
            "lock",
            "grow",
            "resize",
        ] {
            assert!(names.iter().any(|known| known == name), "{name} is missing");
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}

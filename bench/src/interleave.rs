//! Comparisons of what is not a store of records: transactions and locks.
//!
//! The same rounds as those of a [`Contest`](crate::contest::Contest): interleaved, each with a raw force first, a
//! ratio within each round. A bank keeps its rows over the rounds, and is audited behind each one: a total that is not
//! explained by what was acknowledged ends the comparison with an error.

use std::sync::Arc;

use crate::Result;
use crate::calibration::raw_force;
use crate::contest::{CALIBRATION, Lab, watched};
use crate::driver::{Progress, Schedule};
use crate::locks::{self, LockJob};
use crate::report::Summary;
use crate::standing::{Round, Run, Standing};
use crate::subject::{Kind, Settings, blame};
use crate::transactions::{BankJob, Driven, OpenedBank, peers};

/// What locks overwrite and force in the calibration: they write nothing themselves.
const LOCK_BYTES: usize = 116;

/// One comparison of transactions.
pub(crate) struct BankTrial {
    /// What it is called.
    pub(crate) title: String,
    /// The work; its seed is that of the first round.
    pub(crate) job: BankJob,
    /// Whom it is given to; ratios are those of the first to each other.
    pub(crate) peers: Vec<Kind>,
    /// How they are opened; the directory is set for each.
    pub(crate) settings: Settings,
}

/// One comparison of locks.
pub(crate) struct LockTrial {
    /// What it is called.
    pub(crate) title: String,
    /// The work; its seed is that of the first round.
    pub(crate) job: LockJob,
    /// Whom it is given to.
    pub(crate) peers: Vec<Kind>,
    /// How they are opened; the directory is set for each.
    pub(crate) settings: Settings,
}

impl Lab {
    /// Drives each subject in turn, round by round.
    fn interleave<A: ?Sized>(
        &self,
        title: &str,
        schedule: Schedule,
        settings: &Settings,
        record_bytes: usize,
        subjects: &[(Kind, Box<A>)],
        drive: impl Fn(&A, u64, &Arc<Progress>) -> Result<Driven>,
    ) -> Result<Standing> {
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let raw_force = raw_force(&self.dir, record_bytes, CALIBRATION)?;
            let mut runs = Vec::new();
            for (kind, subject) in subjects {
                let label = format!("{title} {}/{} {kind}", round + 1, self.rounds);
                let seed = self.seed + round as u64;
                let driven = watched(schedule, &label, |progress| drive(subject, seed, progress));
                let driven = driven.map_err(blame(*kind))?;
                runs.push(Run {
                    subject: *kind,
                    inside: None,
                    commits_per_force: driven.per_force,
                    summary: Summary::of_contended(&driven.outcome),
                });
            }
            rounds.push(Round { raw_force, runs });
        }
        let title = title.to_owned();
        Ok(Standing {
            title,
            settings: settings.words(),
            rounds,
        })
    }

    /// Opens a bank in a new directory, with its rows.
    pub(crate) fn open_bank(
        &self,
        kind: Kind,
        settings: &Settings,
        job: &BankJob,
    ) -> Result<Box<dyn OpenedBank>> {
        self.remove(kind, "bank")?;
        let dir = self.path(kind, "bank");
        let settings = Settings {
            dir,
            ..settings.clone()
        };
        let bank = peers::open(kind, &settings, &job.economy, &self.runtime)?;
        bank.open_rows()?;
        Ok(bank)
    }

    /// Compares transactions.
    ///
    /// # Errors
    ///
    /// What the first failing subject says; a broken invariant.
    pub(crate) fn hold_banks(&self, trial: &BankTrial) -> Result<Standing> {
        let mut banks = Vec::new();
        for kind in &trial.peers {
            let bank = self.open_bank(*kind, &trial.settings, &trial.job);
            banks.push((*kind, bank.map_err(blame(*kind))?));
        }
        let standing = self.interleave(
            &trial.title,
            trial.job.schedule,
            &trial.settings,
            trial.job.economy.bytes_written(),
            &banks,
            |bank, seed, progress| {
                let job = BankJob {
                    seed,
                    ..trial.job.clone()
                };
                let driven = bank.drive(&job, progress)?;
                bank.audit()?;
                Ok(driven)
            },
        )?;
        for (kind, bank) in banks {
            bank.close().map_err(blame(kind))?;
            self.remove(kind, "bank")?;
        }
        Ok(standing)
    }

    /// Compares locks.
    ///
    /// # Errors
    ///
    /// What the first failing subject says; a broken invariant.
    pub(crate) fn hold_locks(&self, trial: &LockTrial) -> Result<Standing> {
        let mut services = Vec::new();
        for kind in &trial.peers {
            self.remove(*kind, "locks")?;
            let dir = self.path(*kind, "locks");
            let settings = Settings {
                dir,
                ..trial.settings.clone()
            };
            let service = locks::open(*kind, &settings, &self.runtime);
            services.push((*kind, service.map_err(blame(*kind))?));
        }
        let standing = self.interleave(
            &trial.title,
            trial.job.schedule,
            &trial.settings,
            LOCK_BYTES,
            &services,
            |service, seed, progress| {
                let job = LockJob { seed, ..trial.job };
                service.drive(&job, progress)
            },
        )?;
        for (kind, service) in services {
            service.close().map_err(blame(kind))?;
            self.remove(kind, "locks")?;
        }
        Ok(standing)
    }
}

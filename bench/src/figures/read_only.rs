//! What a read-only transaction of ten keys pays for writers beside it.
//!
//! One reader, on a thread of its own, reads in a closed loop; in every second half of a round 64 clients make durable
//! transfers of the same accounts as fast as they can. The ratio is taken within each round.

use std::sync::Arc;
use std::time::Duration;

use super::transfers::{accounts, schedule};
use super::{Bench, Figure, Verdict};
use crate::calibration::raw_force;
use crate::distribution::Distribution;
use crate::report::{Spread, Summary, count, micros, times};
use crate::standing::{Round, Run, Standing};
use crate::subject::Durability;
use crate::transactions::{BankJob, Driven, Mix};
use crate::{Fault, Result};

/// Clients that write.
const WRITERS: usize = 64;

/// The p99 beside writers may be so many times the p99 without.
const LIMIT: f64 = 1.5;

/// The figure.
pub(crate) fn beside_writers(bench: &mut Bench) -> Result<Verdict> {
    let (kind, lab) = (bench.subject, &bench.lab);
    let economy = Arc::new(accounts(bench, Distribution::Uniform)?);
    let writes = BankJob {
        economy: economy.clone(),
        schedule: schedule(bench, WRITERS, 1.0),
        seed: lab.seed,
        on_threads: false,
    };
    let reads = BankJob {
        economy: Arc::new((*economy).clone().with_mix(Mix::Read)),
        schedule: schedule(bench, 1, 1.0),
        seed: lab.seed,
        on_threads: true,
    };
    let settings = lab.settings(Durability::Always, 64 << 20);
    let bank = lab.open_bank(kind, &settings, &writes)?;
    let mut standings = [
        "read-only transaction, nobody writes",
        "read-only transaction, 64 clients write",
        "durable transfer beside the reader",
    ]
    .map(|title| Standing {
        title: title.to_owned(),
        settings: settings.words(),
        rounds: Vec::new(),
    });
    let mut ratios = Vec::new();
    for round in 0..lab.rounds {
        let raw_force = raw_force(
            &lab.dir,
            economy.bytes_written(),
            Duration::from_millis(100),
        )?;
        let seeded = |job: &BankJob| BankJob {
            seed: lab.seed + round as u64,
            ..job.clone()
        };
        let alone = bank.drive(&seeded(&reads), &Arc::default())?;
        let (beside, written) = std::thread::scope(|scope| {
            let writers = scope.spawn(|| bank.drive(&seeded(&writes), &Arc::default()));
            let beside = bank.drive(&seeded(&reads), &Arc::default());
            let written = writers.join();
            (
                beside,
                written.map_err(|_| Fault::from("a writer panicked")),
            )
        });
        let driven = [alone, beside?, written??];
        bank.audit()?;
        let p99 = |driven: &Driven| driven.outcome.latency.value_at_quantile(0.99) as f64;
        ratios.push(p99(&driven[1]) / p99(&driven[0]));
        for (standing, driven) in standings.iter_mut().zip(driven) {
            standing.rounds.push(Round {
                raw_force,
                runs: vec![Run {
                    subject: kind,
                    inside: None,
                    commits_per_force: None,
                    summary: Summary::of_contended(&driven.outcome),
                }],
            });
        }
    }
    bank.close()?;
    lab.remove(kind, "bank")?;
    let ratio = Spread::of(ratios);
    let median = |standing: &Standing, figure| {
        let spread = standing.spread(kind, figure);
        spread.map_or(f64::NAN, |spread| spread.median)
    };
    let p99 = |standing| micros(median(standing, |run| run.p99_us));
    let measured = format!(
        "p99 {} alone, {} beside {}/s transfers: {}",
        p99(&standings[0]),
        p99(&standings[1]),
        count(median(&standings[2], |run| run.per_second)),
        ratio.text(times),
    );
    Ok(Verdict {
        figure: Figure::ReadOnly,
        work: "read-only transaction of 10 keys beside full write load, p99".to_owned(),
        reference: "the same without writes".to_owned(),
        goal: format!("{LIMIT} × at most"),
        measured,
        reached: Some(ratio.median <= LIMIT),
        standings: standings.into(),
        reopenings: Vec::new(),
    })
}

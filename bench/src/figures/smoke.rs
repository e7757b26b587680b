//! A little of everything in a few seconds: it shows that each subject of this build runs, not how fast.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use super::{Bench, Figure, Verdict};
use crate::contest::Contest;
use crate::driver::{Schedule, Stop};
use crate::interleave::{BankTrial, LockTrial};
use crate::locks::LockJob;
use crate::operations::Job;
use crate::standing::Standing;
use crate::subject::{Durability, Kind};
use crate::transactions::{BankJob, Economy, Mix, Placement};
use crate::workload::{Preset, Shape, Workload};
use crate::{Fault, Result};

/// The figure.
pub(crate) fn smoke(bench: &mut Bench) -> Result<Verdict> {
    let shape = Shape {
        records: 2_000,
        key_bytes: 16,
        value_bytes: 100,
    };
    bench.lab.rounds = 1;
    let mut standings = Vec::new();
    for preset in [
        Preset::Put,
        Preset::A,
        Preset::D,
        Preset::E,
        Preset::Get,
        Preset::Scan,
    ] {
        let workload = Workload::new(preset, shape, None, 0.99, 100);
        let puts_only = preset == Preset::Put;
        let able = |kind: &Kind| {
            (kind.keeps_records() || (puts_only && kind.takes_puts()))
                && (!workload.scans() || kind.scans())
        };
        let everyone = || Kind::value_variants().to_vec();
        let peers = bench
            .peers
            .clone()
            .unwrap_or_else(everyone)
            .into_iter()
            .filter(able)
            .collect();
        let job = Job {
            workload: workload.clone(),
            clients: 4,
            stop: Stop::After(Duration::from_millis(50)),
            warmup: Duration::from_millis(10),
            rate: None,
            seed: bench.lab.seed,
            sample_every: 1,
            tape: 0,
            by_second: true,
        };
        let settings = bench.lab.settings(Durability::Always, 8 << 20);
        let title = format!("smoke {preset:?}");
        let contest = Contest {
            title,
            job,
            peers,
            settings,
            fresh: false,
            touch_all: false,
        };
        let standing = bench.lab.hold(&contest)?;
        if standing.missed() > 0 {
            return Err(Fault::from(format!(
                "smoke {preset:?}: a record is missing"
            )));
        }
        standings.push(standing);
    }
    for mix in [Mix::Transfer, Mix::Smallbank, Mix::Counter] {
        standings.extend(transactions(bench, mix)?);
    }
    standings.push(locks(bench)?);
    Ok(Verdict {
        figure: Figure::Smoke,
        work: "a little of everything".to_owned(),
        reference: "none".to_owned(),
        goal: "runs".to_owned(),
        measured: "ran".to_owned(),
        reached: Some(true),
        standings,
        reopenings: Vec::new(),
    })
}

fn schedule() -> Schedule {
    Schedule {
        clients: 4,
        stop: Stop::After(Duration::from_millis(50)),
        warmup: Duration::from_millis(10),
        rate: None,
        sample_every: 1,
        by_second: false,
    }
}

/// A little of the transactions of those who have any, audited.
fn transactions(bench: &Bench, mix: Mix) -> Result<Option<Standing>> {
    let mut economy = Economy::new(mix, 100, None, 0.9, 100)?;
    if bench.lab.nodes > 1 {
        let placement = Placement::of(100, bench.lab.nodes, &bench.lab.runtime)?;
        economy = economy.crossing(50, placement);
    }
    let mut peers = bench.peers.clone().unwrap_or_else(Kind::usual_banks);
    peers.retain(|kind| kind.has_transactions());
    if peers.is_empty() {
        return Ok(None);
    }
    let standing = bench.lab.hold_banks(&BankTrial {
        title: format!("smoke {mix:?}"),
        job: BankJob {
            economy: Arc::new(economy),
            schedule: schedule(),
            seed: bench.lab.seed,
            on_threads: false,
        },
        peers,
        settings: bench.lab.settings(Durability::Always, 8 << 20),
    })?;
    Ok(Some(standing))
}

/// A little of mailring's locks; Redis is not on every machine.
fn locks(bench: &Bench) -> Result<Standing> {
    bench.lab.hold_locks(&LockTrial {
        title: "smoke locks".to_owned(),
        job: LockJob {
            names: Some(2),
            schedule: schedule(),
            seed: bench.lab.seed,
        },
        peers: vec![Kind::Mailring],
        settings: bench.lab.settings(Durability::Always, 8 << 20),
    })
}

//! A little of everything in a few seconds: it shows that each subject of this build runs, not how fast.

use std::time::Duration;

use clap::ValueEnum;

use super::{Bench, Figure, Verdict};
use crate::contest::Contest;
use crate::driver::{Job, Stop};
use crate::subject::{Durability, Kind};
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
            (puts_only || !matches!(kind, Kind::Log | Kind::Raw))
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
    Ok(Verdict {
        figure: Figure::Smoke,
        work: "a little of everything".to_owned(),
        reference: "none".to_owned(),
        goal: "runs".to_owned(),
        measured: "ran".to_owned(),
        reached: Some(true),
        standings,
    })
}

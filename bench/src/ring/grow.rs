//! How throughput and latency grow with the nodes and with the records.
//!
//! Two axes, each measured with the other held still: nodes from 1 to 64 in powers of two, records from 1,000 in
//! powers of ten. At each point durable puts of all clients, then gets, each in a directory that has just been made. More
//! nodes than cores can't be faster on one machine; the question is what they cost.
//!
//! Each point takes `--seconds` and `--warmup` twice, and two loads. With the usual 5 seconds and a million records that is
//! about 3 minutes; `--records 10000000` takes about 10, most of it loading.

use serde::Serialize;

use crate::Result;
use crate::cli::WorkArgs;
use crate::contest::{Contest, Lab};
use crate::report::{Summary, count, micros, table};
use crate::subject::Kind;
use crate::workload::{Preset, Shape};

/// Numbers of nodes.
const NODES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Records while the nodes grow.
const STILL_RECORDS: u64 = 100_000;
/// The least records.
const FEWEST_RECORDS: u64 = 1_000;
/// The most records, unless `--records` says otherwise.
const MOST_RECORDS: u64 = 1_000_000;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Axis {
    /// Storage nodes.
    Nodes,
    /// Records in the store.
    Records,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    /// What grew.
    pub(crate) axis: Axis,
    /// How far.
    pub(crate) size: u64,
    /// What was done there: `put` or `get`.
    pub(crate) work: String,
    /// The figures.
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

/// All measurements.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Growth {
    /// In the order in which they were made.
    pub(crate) points: Vec<Point>,
}

impl Growth {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let row = |point: &Point| {
            let size = count(point.size as f64).replace(".0", "");
            let name = match point.axis {
                Axis::Nodes => format!("{}, {size} nodes", point.work),
                Axis::Records => format!("{}, {size} records", point.work),
            };
            let summary = &point.summary;
            let times = [summary.p50_us, summary.p99_us, summary.p999_us].map(micros);
            let row = [name, count(summary.per_second)];
            row.into_iter().chain(times).collect()
        };
        let header = ["work", "ops/s", "p50", "p99", "p99.9"];
        table(&header, &self.points.iter().map(row).collect::<Vec<_>>())
    }

    /// The points of one line of a chart, by size.
    pub(crate) fn line(&self, axis: Axis, work: &str) -> impl Iterator<Item = &Point> {
        let points = self.points.iter();
        points.filter(move |point| point.axis == axis && point.work == work)
    }
}

/// Powers of ten up to `most`, and `most` itself.
fn sizes(most: u64) -> Vec<u64> {
    let powers = std::iter::successors(Some(FEWEST_RECORDS), |size| size.checked_mul(10));
    let mut sizes: Vec<u64> = powers.take_while(|size| *size < most).collect();
    sizes.push(most);
    sizes
}

/// Measures along both axes.
///
/// # Errors
///
/// What the subject says.
pub(crate) fn grow(args: &WorkArgs, lab: &mut Lab, subject: Kind) -> Result<Growth> {
    let most = args.shape(MOST_RECORDS).records;
    let still = lab.nodes;
    let along_nodes = NODES
        .iter()
        .map(|nodes| (Axis::Nodes, *nodes, STILL_RECORDS.min(most)));
    let along_records = sizes(most)
        .into_iter()
        .map(|records| (Axis::Records, still, records));
    let mut points = Vec::new();
    let places: Vec<_> = along_nodes.chain(along_records).collect();
    for (place, (axis, nodes, records)) in (1..).zip(&places) {
        let (axis, nodes, records) = (*axis, *nodes, *records);
        let size = count(records as f64).replace(".0", "");
        eprintln!("{place}/{}: {nodes} nodes, {size} records", places.len());
        lab.nodes = nodes;
        for preset in [Preset::Put, Preset::Get] {
            let shape = Shape {
                records,
                ..args.shape(records)
            };
            let job = args.job(preset, shape, lab.seed);
            let work = match preset {
                Preset::Put => "put",
                _ => "get",
            };
            let size = match axis {
                Axis::Nodes => u64::from(nodes),
                Axis::Records => records,
            };
            let standing = lab.hold(&Contest {
                title: format!("{work}, {nodes} nodes, {records} records"),
                job,
                peers: vec![subject],
                settings: lab.settings(args.durability, args.cache_mib << 20),
                fresh: false,
                touch_all: preset == Preset::Get,
            })?;
            points.push(Point {
                axis,
                size,
                work: work.to_owned(),
                summary: standing.rounds[0].runs[0].summary.clone(),
            });
            lab.forget_dataset(subject, shape)?;
        }
    }
    lab.nodes = still;
    Ok(Growth { points })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_ten_and_the_end() {
        assert_eq!(sizes(10_000), [1_000, 10_000]);
        assert_eq!(sizes(25_000), [1_000, 10_000, 25_000]);
        assert_eq!(sizes(500), [500]);
    }
}

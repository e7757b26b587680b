//! How throughput and latency grow with the nodes and with the records.
//!
//! Two axes, each measured with the other held still: nodes from 1 to 64 in powers of two, records from 1,000 in
//! powers of ten. At each point a new directory is loaded with the records and read once; then come `--rounds` of gets
//! of all clients, and as many of durable puts over records that are there. More nodes than cores can't be faster on one
//! machine; the question is what they cost.
//!
//! Each point takes `--seconds` (1, if absent) and `--warmup` twice a round, and a load. How long that is, is printed before
//! and estimated anew at each point from the loads so far. Memory is bounded by what the subject is given, which is printed,
//! however many records there are: keys and values are made as they are needed. Disk is the largest point's: each directory is
//! removed before the next is made.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cli::WorkArgs;
use crate::contest::Lab;
use crate::driver::Stop;
use crate::report::{Spread, Summary, count, micros, table};
use crate::subject::Kind;
use crate::workload::{Preset, Shape};
use crate::{Fault, Result};

/// Numbers of nodes.
const NODES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Records while the nodes grow.
const STILL_RECORDS: u64 = 100_000;
/// The least records.
const FEWEST_RECORDS: u64 = 1_000;
/// The most records, unless `--records` says otherwise.
const MOST_RECORDS: u64 = 1_000_000;

/// Seconds of a round, unless told otherwise.
const SECONDS: f64 = 1.0;
/// Records that are loaded and read once in a second, until it has been seen.
const GUESSED_A_SECOND: f64 = 80_000.0;

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
    /// The figures of each round.
    pub(crate) runs: Vec<Summary>,
}

impl Point {
    /// A figure over the rounds.
    pub(crate) fn spread(&self, figure: impl Fn(&Summary) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(figure))
    }
}

/// All measurements.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Growth {
    /// In the order in which they were made.
    pub(crate) points: Vec<Point>,
    /// How the subject was opened, in words.
    pub(crate) settings: String,
}

impl Growth {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let row = |point: &Point| {
            let size = whole(point.size);
            let name = match point.axis {
                Axis::Nodes => format!("{}, {size} nodes", point.work),
                Axis::Records => format!("{}, {size} records", point.work),
            };
            let median = |figure: fn(&Summary) -> f64| micros(point.spread(figure).median);
            vec![
                name,
                point.spread(|run| run.per_second).text(count),
                median(|run| run.p50_us),
                median(|run| run.p99_us),
                median(|run| run.p999_us),
            ]
        };
        let header = ["work", "ops/s (min–max)", "p50", "p99", "p99.9"];
        let rows = table(&header, &self.points.iter().map(row).collect::<Vec<_>>());
        let rounds = self.points.first().map_or(0, |point| point.runs.len());
        format!("{rows}\nmedians of {rounds} rounds; {}\n", self.settings)
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

/// A point that is to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    axis: Axis,
    nodes: u32,
    records: u64,
}

/// All of them, in order.
fn places(most: u64, still_nodes: u32) -> Vec<Place> {
    let along_nodes = NODES.iter().map(|nodes| Place {
        axis: Axis::Nodes,
        nodes: *nodes,
        records: STILL_RECORDS.min(most),
    });
    let along_records = sizes(most).into_iter().map(|records| Place {
        axis: Axis::Records,
        nodes: still_nodes,
        records,
    });
    along_nodes.chain(along_records).collect()
}

/// How long it will take: what is measured is known, what is loaded and read once goes at the rate seen so far.
struct Estimate {
    /// Seconds that are measured at each point.
    measured: f64,
    loaded: u64,
    loading: Duration,
}

impl Estimate {
    fn per_second(&self) -> f64 {
        match self.loading.is_zero() {
            true => GUESSED_A_SECOND,
            false => self.loaded as f64 / self.loading.as_secs_f64(),
        }
    }

    fn has_loaded(&mut self, records: u64, time: Duration) {
        // A thousand records are no rate.
        if records >= STILL_RECORDS.min(10_000) {
            self.loaded += records;
            self.loading += time;
        }
    }

    fn minutes(&self, left: &[Place]) -> f64 {
        let records: u64 = left.iter().map(|place| place.records).sum();
        (left.len() as f64 * self.measured + records as f64 / self.per_second()) / 60.0
    }
}

/// Measures along both axes.
///
/// # Errors
///
/// What the subject says.
pub(crate) fn grow(args: &WorkArgs, lab: &mut Lab, subject: Kind) -> Result<Growth> {
    let most = args.shape(MOST_RECORDS).records;
    let still = lab.nodes;
    let places = places(most, still);
    let settings = lab.settings(args.durability, args.cache_mib << 20);
    let seconds = args.seconds.unwrap_or(SECONDS) + args.warmup;
    let mut estimate = Estimate {
        measured: 2.0 * lab.rounds as f64 * seconds,
        loaded: 0,
        loading: Duration::ZERO,
    };
    let most_mib = args.shape(most).raw_bytes() as f64 / f64::from(1 << 20);
    eprintln!(
        "{} points of {} rounds, about {:.0} min; up to {:.0} MiB on disk at once, journal and compactions included; in memory no more than:\n{}",
        places.len(),
        lab.rounds,
        estimate.minutes(&places).ceil(),
        3.0 * most_mib + 512.0,
        settings.words(),
    );
    let mut points = Vec::new();
    for (number, place) in places.iter().enumerate() {
        eprintln!(
            "{}/{}: {} nodes, {} records; about {:.1} min left",
            number + 1,
            places.len(),
            place.nodes,
            whole(place.records),
            estimate.minutes(&places[number..]),
        );
        lab.nodes = place.nodes;
        let measured = measure(args, lab, subject, *place, &mut estimate);
        lab.nodes = still;
        points.extend(measured?);
    }
    Ok(Growth {
        points,
        settings: settings.words(),
    })
}

/// Puts and gets at one point: loaded once, read once so that the cache is full; all gets, then all puts.
fn measure(
    args: &WorkArgs,
    lab: &mut Lab,
    subject: Kind,
    place: Place,
    estimate: &mut Estimate,
) -> Result<[Point; 2]> {
    let shape = Shape {
        records: place.records,
        ..args.shape(place.records)
    };
    let settings = lab.settings(args.durability, args.cache_mib << 20);
    let began = Instant::now();
    let name = lab.dataset(subject, shape)?;
    let opened = lab.open(subject, &settings, &name)?;
    if !subject.stores() {
        lab.fill(subject, &*opened, shape, lab.seed)?;
    }
    opened.touch_all(shape)?;
    estimate.has_loaded(place.records, began.elapsed());
    let drive = |preset, work: &str| {
        let mut runs = Vec::new();
        for round in 0..lab.rounds {
            let mut job = args.job(preset, shape, lab.seed + round as u64);
            if args.seconds.is_none() && args.operations.is_none() {
                job.stop = Stop::After(Duration::from_secs_f64(SECONDS));
            }
            let (nodes, records) = (place.nodes, place.records);
            let label = format!(
                "{work}, {nodes} nodes, {records} records, {}/{}",
                round + 1,
                lab.rounds
            );
            let run = lab.drive(&*opened, &job, &label)?;
            if run.missed > 0 {
                return Err(Fault::from(format!(
                    "{label}: {} records are missing",
                    run.missed
                )));
            }
            runs.push(run);
        }
        Ok(Point {
            axis: place.axis,
            size: match place.axis {
                Axis::Nodes => u64::from(place.nodes),
                Axis::Records => place.records,
            },
            work: work.to_owned(),
            runs,
        })
    };
    let gets = drive(Preset::Get, "get");
    let puts = drive(Preset::Put, "put");
    opened.close()?;
    lab.forget_dataset(subject, shape)?;
    Ok([puts?, gets?])
}

/// A count of things that there are no halves of.
fn whole(value: u64) -> String {
    count(value as f64).replace(".0", "")
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

    #[test]
    fn ten_million_records_are_the_last_of_five_sizes_behind_the_nodes() {
        let places = places(10_000_000, 4);
        assert_eq!(places.len(), NODES.len() + 5);
        let last = places[places.len() - 1];
        assert_eq!((last.nodes, last.records), (4, 10_000_000));
        assert!(places[..7].iter().all(|place| place.records == 100_000));
    }

    #[test]
    fn an_estimate_learns_from_the_loads() {
        let mut estimate = Estimate {
            measured: 30.0,
            loaded: 0,
            loading: Duration::ZERO,
        };
        let left = [Place {
            axis: Axis::Records,
            nodes: 4,
            records: 3_000_000,
        }; 2];
        let guessed = 1.0 + 6_000_000.0 / GUESSED_A_SECOND / 60.0;
        assert!((estimate.minutes(&left) - guessed).abs() < 1e-9);
        estimate.has_loaded(1_000, Duration::from_secs(9));
        estimate.has_loaded(100_000, Duration::from_secs(10));
        assert!((estimate.minutes(&left) - 11.0).abs() < 1e-9);
    }
}

//! What came out of changing the ring: two tables, the judgement, and a course by time for the chart.

use serde::Serialize;

use super::Step;
use super::foreground::{Kind, Sample};
use crate::report::{Spread, count, micros, table, times};

/// Microseconds of a point of the chart.
const SLICE_US: u32 = 200_000;

/// What the issue allows of movement: with equal weights, and with mixed ones.
const MOVEMENT_GOALS: [f64; 2] = [1.00, 1.05];

/// What it allows of p99 during a change, over that before.
const P99_GOAL: f64 = 2.0;

/// A change of the ring, as whoever asked for it has seen it. Times are microseconds of the run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Course {
    pub(super) step: Step,
    /// Since when nothing had changed.
    pub(super) rested_us: u32,
    pub(crate) begun_us: u32,
    /// When the last arc had its new owner.
    pub(super) moved_us: u32,
    pub(crate) ended_us: u32,
    /// Until when nothing changed.
    pub(super) rested_until_us: u32,
    /// From the beginning until the first key was put on the new node.
    pub(super) first_key_us: Option<u32>,
    pub(super) arcs: usize,
    pub(super) arcs_moved: usize,
    /// Arcs that had to move, by the weights; not a whole number.
    pub(super) arcs_optimum: f64,
    pub(super) bytes: u64,
    pub(super) moments: Vec<Moment>,
}

/// When a change was first seen at a step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Moment {
    pub(crate) at_us: u32,
    pub(crate) step: String,
}

/// Some operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Measured {
    fn of(mut took: Vec<f32>, time_us: u32) -> Self {
        if took.is_empty() {
            return Self::default();
        }
        took.sort_unstable_by(f32::total_cmp);
        let quantile = |share: f64| f64::from(took[((took.len() - 1) as f64 * share) as usize]);
        Self {
            operations: took.len() as u64,
            per_second: took.len() as f64 * 1e6 / f64::from(time_us.max(1)),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            max_us: quantile(1.0),
        }
    }
}

/// One kind of operation around a change.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Around {
    pub(super) kind: Kind,
    pub(super) before: Measured,
    pub(super) during: Measured,
    pub(super) after: Measured,
}

/// A change, and what the clients had of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Changed {
    #[serde(flatten)]
    pub(crate) course: Course,
    pub(super) around: Vec<Around>,
    /// The slowest put or transfer that was under way in the change.
    pub(super) longest_write_us: f64,
    /// The longest time in it in which no write was answered.
    pub(super) longest_silence_us: f64,
}

/// A slice of time: what ended in it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Slice {
    pub(crate) at_us: u32,
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

/// One round with or without a limit on the rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) round: usize,
    /// MiB a second that are moved at most.
    pub(crate) limit_mib: Option<u64>,
    pub(crate) changes: Vec<Changed>,
    pub(crate) slices: Vec<Slice>,
}

/// All rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Resizing {
    pub(crate) runs: Vec<Run>,
}

/// What was under way in a span, of one kind.
fn under_way(samples: &[Sample], kind: Kind, from_us: u32, to_us: u32) -> Measured {
    let within = samples.iter().filter(|sample| {
        let ended = f64::from(sample.ended_us);
        let began = ended - f64::from(sample.took_us);
        sample.kind == kind && ended > f64::from(from_us) && began < f64::from(to_us)
    });
    Measured::of(
        within.map(|sample| sample.took_us).collect(),
        to_us - from_us,
    )
}

/// What ran within a span from beginning to end.
fn inside(samples: &[Sample], kind: Kind, from_us: u32, to_us: u32) -> Measured {
    let within = samples.iter().filter(|sample| {
        let began = f64::from(sample.ended_us) - f64::from(sample.took_us);
        sample.kind == kind && began >= f64::from(from_us) && sample.ended_us <= to_us
    });
    Measured::of(
        within.map(|sample| sample.took_us).collect(),
        to_us - from_us,
    )
}

impl Changed {
    fn of(course: Course, samples: &[Sample]) -> Self {
        let (from, to) = (course.begun_us, course.ended_us);
        let around = Kind::ALL.map(|kind| Around {
            kind,
            before: inside(samples, kind, course.rested_us, from),
            during: under_way(samples, kind, from, to),
            after: inside(samples, kind, to, course.rested_until_us),
        });
        let writes = around.iter().filter(|around| around.kind != Kind::Get);
        let longest_write_us = writes
            .map(|around| around.during.max_us)
            .fold(0.0, f64::max);
        let is_write = |sample: &&Sample| sample.kind != Kind::Get;
        let ended = samples
            .iter()
            .filter(is_write)
            .map(|sample| sample.ended_us);
        let mut ended: Vec<u32> = ended.filter(|at| (from..to).contains(at)).collect();
        ended.extend([from, to]);
        ended.sort_unstable();
        let silences = ended.windows(2).map(|pair| pair[1] - pair[0]);
        Self {
            course,
            around: around.to_vec(),
            longest_write_us,
            longest_silence_us: f64::from(silences.max().unwrap_or(0)),
        }
    }

    /// Arcs that moved, over those that had to.
    fn movement(&self) -> f64 {
        self.course.arcs_moved as f64 / self.course.arcs_optimum
    }

    fn seconds(&self) -> f64 {
        f64::from(self.course.ended_us - self.course.begun_us) / 1e6
    }

    fn bytes_per_second(&self) -> f64 {
        let micros = self.course.moved_us - self.course.begun_us;
        self.course.bytes as f64 * 1e6 / f64::from(micros.max(1))
    }

    fn around(&self, kind: Kind) -> &Around {
        let around = self.around.iter().find(|around| around.kind == kind);
        around.expect("every kind was counted")
    }

    /// The p99 of a kind during the change, over that before.
    fn p99_ratio(&self, kind: Kind) -> f64 {
        let around = self.around(kind);
        around.during.p99_us / around.before.p99_us
    }
}

impl Run {
    pub(super) fn of(
        round: usize,
        limit_mib: Option<u64>,
        courses: Vec<Course>,
        samples: Vec<Sample>,
    ) -> Self {
        let changed = courses
            .into_iter()
            .map(|course| Changed::of(course, &samples));
        let changes = changed.collect();
        let last = samples
            .iter()
            .map(|sample| sample.ended_us)
            .max()
            .unwrap_or(0);
        let mut slices = vec![Vec::new(); (last / SLICE_US) as usize + 1];
        for sample in &samples {
            slices[(sample.ended_us / SLICE_US) as usize].push(sample.took_us);
        }
        // The last one is cut short.
        slices.pop();
        let slices = slices.into_iter().zip(0..);
        let slices = slices.map(|(took, number): (Vec<f32>, u32)| Slice {
            at_us: number * SLICE_US,
            measured: Measured::of(took, SLICE_US),
        });
        Self {
            round,
            limit_mib,
            changes,
            slices: slices.collect(),
        }
    }
}

impl Resizing {
    fn limits(&self) -> Vec<Option<u64>> {
        let mut limits: Vec<Option<u64>> = self.runs.iter().map(|run| run.limit_mib).collect();
        limits.sort_unstable_by_key(Option::is_none);
        limits.dedup();
        limits
    }

    /// The same change of all rounds.
    fn changes(&self, step: Step, limit: Option<u64>) -> impl Iterator<Item = &Changed> {
        let runs = self.runs.iter().filter(move |run| run.limit_mib == limit);
        let changes = runs.flat_map(|run| &run.changes);
        changes.filter(move |change| change.course.step == step)
    }

    fn spread(&self, step: Step, limit: Option<u64>, figure: impl Fn(&Changed) -> f64) -> Spread {
        Spread::of(self.changes(step, limit).map(figure))
    }

    /// The tables, and what is to be said of the goals.
    pub(crate) fn text(&self) -> String {
        [self.movement(), self.latency(), self.judgement()].join("\n")
    }

    fn cases(&self) -> impl Iterator<Item = (Step, Option<u64>, String)> {
        let limits = self.limits();
        Step::ALL.into_iter().flat_map(move |step| {
            let limits = limits.clone().into_iter();
            limits.map(move |limit| {
                let words = limit.map_or("no limit".to_owned(), |limit| format!("{limit} MiB/s"));
                (step, limit, format!("{}, {words}", step.name()))
            })
        })
    }

    fn movement(&self) -> String {
        let rows = self.cases().map(|(step, limit, name)| {
            let median = |figure: fn(&Changed) -> f64| self.spread(step, limit, figure).median;
            let first = self
                .changes(step, limit)
                .filter_map(|change| change.course.first_key_us);
            let first: Vec<f64> = first.map(f64::from).collect();
            let first = match first.is_empty() {
                true => String::new(),
                false => micros(Spread::of(first).median),
            };
            let spread =
                |figure: fn(&Changed) -> f64| self.spread(step, limit, figure).text(micros);
            vec![
                name,
                count(median(|change| change.course.arcs_moved as f64)),
                times(median(Changed::movement)),
                mib(median(|change| change.course.bytes as f64)),
                mib(median(Changed::bytes_per_second)),
                format!("{:.2} s", median(Changed::seconds)),
                first,
                spread(|change| change.longest_write_us),
                spread(|change| change.longest_silence_us),
            ]
        });
        let header = [
            "change",
            "arcs",
            "of the optimum",
            "MiB",
            "MiB/s",
            "took",
            "first key",
            "longest write",
            "longest without a write",
        ];
        table(&header, &rows.collect::<Vec<_>>())
    }

    fn latency(&self) -> String {
        let mut rows = Vec::new();
        for (step, limit, name) in self.cases() {
            for kind in Kind::ALL {
                let median = |figure: fn(&Around) -> f64| {
                    self.spread(step, limit, |change| figure(change.around(kind)))
                        .median
                };
                let ratio = self.spread(step, limit, |change| change.p99_ratio(kind));
                rows.push(vec![
                    format!("{}, {name}", kind.name()),
                    count(median(|around| around.before.per_second)),
                    count(median(|around| around.during.per_second)),
                    micros(median(|around| around.before.p50_us)),
                    micros(median(|around| around.during.p50_us)),
                    micros(median(|around| around.after.p50_us)),
                    micros(median(|around| around.before.p99_us)),
                    micros(median(|around| around.during.p99_us)),
                    micros(median(|around| around.after.p99_us)),
                    ratio.text(times),
                ]);
            }
        }
        let header = [
            "clients",
            "ops/s before",
            "during",
            "p50 before",
            "during",
            "after",
            "p99 before",
            "during",
            "after",
            "during/before",
        ];
        table(&header, &rows)
    }

    fn judgement(&self) -> String {
        let yes = |reached: bool| if reached { "yes" } else { "no" };
        let mut lines = String::new();
        for (step, limit, name) in self.cases() {
            let [equal, mixed] = MOVEMENT_GOALS;
            let goal = if step == Step::Add { equal } else { mixed };
            let movement = self.spread(step, limit, Changed::movement).max;
            // Arcs are whole; what is printed is what is judged.
            let movement = (movement * 100.0).round() / 100.0;
            let ratios = Kind::ALL.map(|kind| {
                let ratio = self.spread(step, limit, |change| change.p99_ratio(kind));
                (ratio, kind)
            });
            let worst = ratios
                .into_iter()
                .max_by(|left, right| left.0.median.total_cmp(&right.0.median));
            let (ratio, kind) = worst.expect("there are kinds");
            lines += &format!(
                "{name}: movement {} of {goal:.2}: {}; p99 of a {} {} of {P99_GOAL}: {}\n",
                times(movement),
                yes(movement <= goal),
                kind.name(),
                ratio.text(times),
                yes(ratio.median <= P99_GOAL),
            );
        }
        lines
    }
}

fn mib(bytes: f64) -> String {
    format!("{:.1}", bytes / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: Kind, ended_us: u32, took_us: f32) -> Sample {
        Sample {
            kind,
            ended_us,
            took_us,
        }
    }

    fn course() -> Course {
        Course {
            step: Step::Add,
            rested_us: 0,
            begun_us: 1_000_000,
            moved_us: 1_500_000,
            ended_us: 2_000_000,
            rested_until_us: 3_000_000,
            first_key_us: Some(400_000),
            arcs: 1_000,
            arcs_moved: 200,
            arcs_optimum: 200.0,
            bytes: 1 << 20,
            moments: Vec::new(),
        }
    }

    #[test]
    fn what_was_under_way_in_a_change_counts_to_it_alone() {
        let samples = [
            sample(Kind::Put, 500_000, 100.0),
            // Began in the rest, and waited into the change.
            sample(Kind::Put, 1_200_000, 300_000.0),
            // Ended behind the change that held it up.
            sample(Kind::Transfer, 2_100_000, 700_000.0),
            sample(Kind::Put, 2_500_000, 200.0),
            sample(Kind::Get, 1_500_000, 5.0),
        ];
        let changed = Changed::of(course(), &samples);
        let put = changed.around(Kind::Put);
        assert_eq!(put.before.operations, 1);
        assert_eq!(put.during.operations, 1);
        assert_eq!(put.after.operations, 1);
        assert_eq!(changed.around(Kind::Transfer).after.operations, 0);
        assert_eq!(changed.longest_write_us, 700_000.0);
        assert_eq!(changed.longest_silence_us, 800_000.0);
        assert_eq!(changed.p99_ratio(Kind::Put), 3_000.0);
    }

    #[test]
    fn quantiles_are_those_of_the_samples() {
        let measured = Measured::of((0..=100).map(|micros| micros as f32).collect(), 1_000_000);
        assert_eq!(measured.operations, 101);
        assert_eq!(measured.per_second, 101.0);
        assert_eq!((measured.p50_us, measured.p99_us), (50.0, 99.0));
        assert_eq!(measured.max_us, 100.0);
    }

    impl Resizing {
        /// A round in which nothing disturbs anybody.
        pub(crate) fn example() -> Self {
            let ends = (0..30).map(|tenth| tenth * 100_000 + 50_000);
            let samples = ends.flat_map(|end| Kind::ALL.map(|kind| sample(kind, end, 100.0)));
            let samples: Vec<Sample> = samples.collect();
            let of = |limit| {
                let courses = Step::ALL.map(|step| Course { step, ..course() });
                Run::of(0, limit, courses.to_vec(), samples.clone())
            };
            let runs = vec![of(Some(32)), of(None)];
            Self { runs }
        }
    }

    #[test]
    fn the_text_judges_each_change_with_and_without_a_limit() {
        let text = Resizing::example().text();
        for line in [
            "add a node, 32 MiB/s: movement 1.00 × of 1.00: yes; p99 of a transfer 1.00 × (1.00 ×–1.00 ×) of 2: yes",
            "remove a node, no limit: movement 1.00 × of 1.05: yes",
            "| put, double a weight, no limit ",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}

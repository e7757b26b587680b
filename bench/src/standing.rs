//! What came out of a comparison: rounds of runs, their medians and ratios, and the tables.
//!
//! Where clients can be in each other's way, a table shows how much beside the throughput: the share of the attempts
//! that were refused, and the most retries that one operation needed.
//!
//! A ratio is always taken within a round, between neighbours in time, and then its median over the rounds.

use serde::Serialize;

use crate::calibration::Calibration;
use crate::report::{Spread, Summary, count, micros, percent, table, times};
use crate::subject::{Inside, Kind};

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Standing {
    /// What was measured, as the table is headed.
    pub(crate) title: String,
    /// How the subjects were opened, in words.
    pub(crate) settings: String,
    /// The rounds in order.
    pub(crate) rounds: Vec<Round>,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    /// The disk at its beginning.
    pub(crate) raw_force: Calibration,
    /// Each subject in turn.
    pub(crate) runs: Vec<Run>,
}

/// One subject in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// Who.
    pub(crate) subject: Kind,
    /// What it said of its inside at the end; the checkpoints are those within the run, warm-up included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inside: Option<Inside>,
    /// Commits for each of its forces, where it counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commits_per_force: Option<f64>,
    /// Its figures.
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

impl Standing {
    /// The runs of one subject; none if it did not take part.
    pub(crate) fn runs(&self, kind: Kind) -> impl Iterator<Item = &Run> {
        self.rounds
            .iter()
            .flat_map(|round| &round.runs)
            .filter(move |run| run.subject == kind)
    }

    /// A figure of a subject over the rounds.
    pub(crate) fn spread(&self, kind: Kind, figure: fn(&Summary) -> f64) -> Option<Spread> {
        let values: Vec<f64> = self.runs(kind).map(|run| figure(&run.summary)).collect();
        (!values.is_empty()).then(|| Spread::of(values))
    }

    /// The throughput of one subject over that of another, within each round.
    pub(crate) fn ratio(&self, subject: Kind, peer: Kind) -> Option<Spread> {
        let ratios: Vec<f64> = self
            .runs(subject)
            .zip(self.runs(peer))
            .map(|(subject, peer)| subject.summary.per_second / peer.summary.per_second)
            .collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }

    /// The same in words: the median of the rounds' ratios with their range, and the quotient of the two medians, which
    /// pairs rounds that the machine may have run at different speeds.
    pub(crate) fn ratio_words(&self, subject: Kind, peer: Kind) -> Option<String> {
        let ratio = self.ratio(subject, peer)?;
        let median = |kind| Some(self.spread(kind, |run| run.per_second)?.median);
        let (own, theirs) = (median(subject)?, median(peer)?);
        Some(format!(
            "{} {peer} ({}/s; by the medians {})",
            ratio.text(times),
            count(theirs),
            times(own / theirs),
        ))
    }

    /// Commits for each force of a subject over the rounds, if it counts them.
    pub(crate) fn commits_per_force(&self, kind: Kind) -> Option<Spread> {
        let counted: Vec<f64> = self
            .runs(kind)
            .filter_map(|run| run.commits_per_force)
            .collect();
        (!counted.is_empty()).then(|| Spread::of(counted))
    }

    /// The raw force over the rounds.
    pub(crate) fn raw_force_us(&self) -> Spread {
        Spread::of(self.rounds.iter().map(|round| round.raw_force.p50_us))
    }

    /// Reads that found nothing, which a loaded store must not have.
    pub(crate) fn missed(&self) -> u64 {
        self.rounds
            .iter()
            .flat_map(|round| &round.runs)
            .map(|run| run.summary.missed)
            .sum()
    }

    /// The table, with the ratio of the first subject to each.
    pub(crate) fn table(&self) -> String {
        let kinds: Vec<Kind> = self.rounds[0].runs.iter().map(|run| run.subject).collect();
        let base = kinds[0];
        let first = format!("{} is", base.name());
        let runs = || self.rounds.iter().flat_map(|round| &round.runs);
        let has_contention = runs().any(|run| run.summary.contention.is_some());
        let counts_forces = runs().any(|run| run.commits_per_force.is_some());
        let columns = ["ops/s (min–max)", "p50", "p99", "p99.9", "max"];
        let mut header = vec![self.title.as_str()];
        header.extend(columns);
        if has_contention {
            header.extend(["aborts", "most retries"]);
        }
        if counts_forces {
            header.push("commits/force");
        }
        header.push(&first);
        let row = |kind: &Kind| {
            let median = |figure| {
                self.spread(*kind, figure)
                    .map_or(f64::NAN, |spread| spread.median)
            };
            let most = |figure| {
                self.spread(*kind, figure)
                    .map_or(f64::NAN, |spread| spread.max)
            };
            let mut row = vec![
                kind.name(),
                self.spread(*kind, |run| run.per_second)
                    .map_or_else(String::new, |all| all.text(count)),
                micros(median(|run| run.p50_us)),
                micros(median(|run| run.p99_us)),
                micros(median(|run| run.p999_us)),
                micros(most(|run| run.max_us)),
            ];
            if has_contention {
                row.push(percent(median(Summary::abort_share)));
                row.push(format!("{:.0}", most(Summary::most_retries)));
            }
            if counts_forces {
                let per_force = self.commits_per_force(*kind);
                row.push(per_force.map_or_else(String::new, |all| count(all.median)));
            }
            let ratio = self.ratio(base, *kind);
            row.push(ratio.map_or_else(String::new, |ratio| ratio.text(times)));
            row
        };
        let rows: Vec<Vec<String>> = kinds.iter().map(row).collect();
        let calibration = self.raw_force_us().text(micros);
        let rounds = self.rounds.len();
        format!(
            "{}raw fdatasync, p50: {calibration}; {rounds} rounds; {}\n",
            table(&header, &rows),
            self.settings
        )
    }
}

/// A table with a line for each second and two columns for each run.
pub(crate) fn by_second(runs: &[Run]) -> String {
    let mut header = vec!["second".to_owned()];
    for run in runs {
        header.extend([format!("{} ops/s", run.subject.name()), "p99.9".to_owned()]);
    }
    let seconds = runs
        .iter()
        .map(|run| run.summary.by_second.len())
        .min()
        .unwrap_or(0);
    let row = |second: usize| {
        let mut row = vec![(second + 1).to_string()];
        for run in runs {
            let second = run.summary.by_second[second];
            row.extend([count(second.operations as f64), micros(second.p999_us)]);
        }
        row
    };
    table(&header, &(0..seconds).map(row).collect::<Vec<_>>())
}

//! Numbers for people (aligned tables that are Markdown as well) and for programs (JSON).

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::Result;
use crate::tally::{Contention, Outcome};

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// Measured operations.
    pub(crate) operations: u64,
    /// How long they took together.
    pub(crate) seconds: f64,
    /// Operations a second.
    pub(crate) per_second: f64,
    /// Latency in microseconds.
    pub(crate) p50_us: f64,
    /// 95 % are faster.
    pub(crate) p95_us: f64,
    /// 99 % are faster.
    pub(crate) p99_us: f64,
    /// 99.9 % are faster.
    pub(crate) p999_us: f64,
    /// The slowest.
    pub(crate) max_us: f64,
    /// Records read, scanned or written.
    pub(crate) found: u64,
    /// Reads of a record that was not there.
    pub(crate) missed: u64,
    /// Operations due in an open loop and not sent by its end.
    pub(crate) unserved: u64,
    /// How much the clients were in each other's way, where they can be.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) contention: Option<Contention>,
    /// Each second, if it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) by_second: Vec<SecondSummary>,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SecondSummary {
    /// Operations that ended in it.
    pub(crate) operations: u64,
    /// 99.9 % of them were faster, in microseconds.
    pub(crate) p999_us: f64,
}

impl Summary {
    /// The figures of an outcome. The last second of a run is cut short, so it is left out.
    pub(crate) fn of(outcome: &Outcome) -> Self {
        let micros = |share: f64| outcome.latency.value_at_quantile(share) as f64 / 1e3;
        let whole = outcome.seconds as usize;
        Self {
            operations: outcome.operations,
            seconds: outcome.seconds,
            per_second: outcome.throughput(),
            p50_us: micros(0.5),
            p95_us: micros(0.95),
            p99_us: micros(0.99),
            p999_us: micros(0.999),
            max_us: outcome.latency.max() as f64 / 1e3,
            found: outcome.done.found,
            missed: outcome.done.missed,
            unserved: outcome.unserved,
            contention: None,
            by_second: outcome
                .by_second
                .iter()
                .take(whole)
                .map(|second| SecondSummary {
                    operations: second.operations,
                    p999_us: second.latency.value_at_quantile(0.999) as f64 / 1e3,
                })
                .collect(),
        }
    }

    /// The figures of a load: only its throughput means anything.
    pub(crate) fn of_load(records: u64, time: Duration) -> Self {
        let micros = time.as_nanos() as f64 / 1e3;
        Self {
            operations: records,
            seconds: time.as_secs_f64(),
            per_second: records as f64 / time.as_secs_f64(),
            p50_us: micros / records as f64,
            p95_us: micros,
            p99_us: micros,
            p999_us: micros,
            max_us: micros,
            found: records,
            missed: 0,
            unserved: 0,
            contention: None,
            by_second: Vec::new(),
        }
    }

    /// The figures of an outcome whose clients could be in each other's way.
    pub(crate) fn of_contended(outcome: &Outcome) -> Self {
        Self {
            contention: Some(outcome.done.contention),
            ..Self::of(outcome)
        }
    }

    /// The share of the attempts that were refused.
    pub(crate) fn abort_share(&self) -> f64 {
        let aborts = self.contention.map_or(0, |all| all.aborts) as f64;
        let attempts = aborts + self.operations as f64;
        if attempts > 0.0 {
            aborts / attempts
        } else {
            0.0
        }
    }

    /// The most retries of one operation.
    pub(crate) fn most_retries(&self) -> f64 {
        self.contention.map_or(0, |all| all.most_retries) as f64
    }

    /// What there is to say of contention, in a line.
    pub(crate) fn contention_line(&self) -> Option<String> {
        let contention = self.contention?;
        Some(format!(
            "aborts: {} ({} of the attempts); retries: {}, at most {} for one operation; declined: {}",
            count(contention.aborts as f64),
            percent(self.abort_share()),
            count(contention.retries as f64),
            contention.most_retries,
            count(contention.declined as f64),
        ))
    }

    /// The header of [`Summary::row`].
    pub(crate) const HEADER: [&'static str; 7] =
        ["work", "ops/s", "p50", "p95", "p99", "p99.9", "max"];

    /// A line of a table.
    pub(crate) fn row(&self, label: &str) -> Vec<String> {
        let mut row = vec![label.to_owned(), count(self.per_second)];
        row.extend(
            [
                self.p50_us,
                self.p95_us,
                self.p99_us,
                self.p999_us,
                self.max_us,
            ]
            .map(micros),
        );
        row
    }
}

/// A median and its range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The middle value.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The most.
    pub(crate) max: f64,
}

impl Spread {
    /// The spread of these values, if there are any.
    pub(crate) fn over(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values = values.into_iter().peekable();
        values.peek().is_some().then(|| Self::of(values))
    }

    /// The spread of at least one value.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(!values.is_empty(), "a spread needs a value");
        values.sort_by(f64::total_cmp);
        let (upper, lower) = (values[values.len() / 2], values[(values.len() - 1) / 2]);
        Self {
            median: (upper + lower) / 2.0,
            min: values[0],
            max: values[values.len() - 1],
        }
    }

    /// `median (min–max)`, each written by `write`.
    pub(crate) fn text(&self, write: fn(f64) -> String) -> String {
        format!(
            "{} ({}–{})",
            write(self.median),
            write(self.min),
            write(self.max)
        )
    }
}

/// A count with thousands apart; small ones with a digit behind the point.
pub(crate) fn count(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds, in the unit that reads best.
pub(crate) fn micros(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} s", value / 1e6),
        value if value >= 1e4 => format!("{:.1} ms", value / 1e3),
        value if value >= 1e3 => format!("{:.2} ms", value / 1e3),
        value if value >= 100.0 => format!("{value:.0} µs"),
        value => format!("{value:.2} µs"),
    }
}

/// A share in percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A factor.
pub(crate) fn times(value: f64) -> String {
    format!("{value:.2} ×")
}

/// A table in Markdown with aligned columns, the first to the left, the others to the right.
pub(crate) fn table<H: AsRef<str>>(header: &[H], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|cell| cell.as_ref().to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&header)
            .chain(rows)
            .filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(2)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells =
            row.iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths
        .iter()
        .enumerate()
        .map(|(column, width)| match column {
            0 => "-".repeat(width + 2),
            _ => format!("{}:", "-".repeat(width + 1)),
        });
    let rule = format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
    let body: String = rows.iter().map(line).collect();
    format!("{}{rule}{body}", line(&header))
}

/// Writes a report as JSON.
///
/// # Errors
///
/// If the file can't be written.
pub(crate) fn write_json(path: &Path, report: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    Ok(std::fs::write(path, text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Done, Tally};

    fn summary() -> Summary {
        let mut tally = Tally::new(true, 3);
        for operation in 0..2_000u64 {
            tally.record(operation * 1_000, operation * 1_000_000, 1, Done::default());
        }
        tally.finished_at = 2_000_000_000;
        Summary::of(&Outcome::collect(vec![Ok(tally)], 0).unwrap())
    }

    #[test]
    fn a_summary_has_the_quantiles_of_what_was_recorded() {
        let summary = summary();
        assert_eq!(summary.operations, 2_000);
        assert!((summary.per_second - 1_000.0).abs() < 1e-9);
        assert!((summary.p50_us - 1_000.0).abs() < 2.0);
        assert!((summary.p999_us - 1_998.0).abs() < 4.0);
        assert_eq!(summary.by_second.len(), 2);
        assert!(
            summary
                .by_second
                .iter()
                .all(|second| second.operations == 1_000)
        );
    }

    #[test]
    fn json_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        write_json(&path, &summary()).unwrap();
        let value: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(value["operations"], 2_000);
        assert!(value["p99_us"].as_f64().unwrap() > 1_900.0);
        assert_eq!(value["by_second"][1]["operations"], 1_000);
    }

    #[test]
    fn a_spread_has_the_middle_of_odd_and_even_counts() {
        assert_eq!(
            Spread::of([3.0, 1.0, 2.0]),
            Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            }
        );
        assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1_234_567.4), "1,234,567");
        assert_eq!(count(999.6), "1,000");
        assert_eq!(count(12.34), "12.3");
        assert_eq!(micros(1.234), "1.23 µs");
        assert_eq!(micros(12_345.0), "12.3 ms");
        assert_eq!(micros(2_500_000.0), "2.50 s");
    }

    #[test]
    fn a_table_is_aligned_markdown() {
        let rows = vec![
            vec!["fjall".to_owned(), "1".to_owned()],
            vec!["redb".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(&["peer", "ops/s"], &rows),
            "| peer  | ops/s |\n|-------|------:|\n| fjall |     1 |\n| redb  |    22 |\n"
        );
    }
}

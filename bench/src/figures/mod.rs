//! The figures that mailring promises, each as one command that measures it beside its reference.
//!
//! A figure knows its work, its peers and its goal, and ends in a [`Verdict`]: one line of the table in README.md.
//! A peer that is not compiled in (RocksDB, LMDB) leaves its goal unjudged, and the line says so.
//!
//! **One rule judges all.** What is compared is a ratio within a round, of two runs that are neighbours in time; the median
//! of the rounds' ratios is held against the goal, and their least and most stand beside it in brackets. The quotient
//! of the two medians is printed, and not judged: it compares rounds that the machine may have run at different
//! speeds. What has no peer (a share, a count, a slowest second) is judged by the median of the rounds, too.

use clap::ValueEnum;
use serde::Serialize;

use crate::Result;
use crate::contest::Lab;
use crate::report::table;
use crate::standing::Standing;
use crate::subject::Kind;
use crate::workload::Shape;

mod bulk;
mod locks;
mod puts;
mod read_only;
mod reads;
pub(crate) mod record;
pub(crate) mod reopen;
mod smoke;
mod transfers;

/// Records of the figures that need data, unless told otherwise.
pub(crate) const RECORDS: u64 = 1_000_000;

/// The name of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// Durable puts of 64 clients.
    #[value(name = "durable-put-64")]
    DurablePut64,
    /// Durable puts of 1,024 clients, in a burst that fits into memory.
    #[value(name = "durable-put-1024")]
    DurablePut1024,
    /// Durable puts of 1,024 clients over many checkpoints, by second.
    Sustained,
    /// Durable puts of one client, against the disk.
    #[value(name = "durable-put-1")]
    DurablePut1,
    /// Point reads with a cache that holds all.
    GetCached,
    /// Point reads with a cache of a tenth of the data.
    GetTenth,
    /// Zipfian point reads by two threads, against a hash map.
    #[value(name = "get-zipf-2-threads")]
    GetZipf2Threads,
    /// Scans of 100 records.
    #[value(name = "scan-100")]
    Scan100,
    /// Loading a million records in batches.
    #[value(name = "load-1m")]
    Load1m,
    /// Opening a loaded directory, closed cleanly and after SIGKILL.
    Reopen,
    /// Bytes on disk after a load.
    Space,
    /// Durable transfers of 64 clients between nodes, uniform.
    Transfer,
    /// The same, zipfian.
    TransferZipf,
    /// Durable transfers of one client, against the disk.
    TransferOne,
    /// Transfers of 64 clients without forcing.
    TransferUnforced,
    /// Adding to one counter, durable, 64 clients.
    HotCounter,
    /// Uncontended lock and unlock, against Redis.
    Lock,
    /// Read-only transactions beside writers.
    ReadOnly,
    /// A little of everything, to see that it runs.
    Smoke,
    /// All of them but the smoke.
    All,
}

/// What the figures share.
pub(crate) struct Bench {
    /// Where it is measured.
    pub(crate) lab: Lab,
    /// The subject that is judged.
    pub(crate) subject: Kind,
    /// Peers, in place of those that a figure names.
    pub(crate) peers: Option<Vec<Kind>>,
    /// Records of the figures that need data.
    pub(crate) records: u64,
    /// Seconds of each run, in place of what a figure says.
    pub(crate) seconds: Option<f64>,
}

/// A line of the table of figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    /// Which figure.
    pub(crate) figure: Figure,
    /// The work, in words.
    pub(crate) work: String,
    /// What was measured beside it.
    pub(crate) reference: String,
    /// What is to be reached.
    pub(crate) goal: String,
    /// What was.
    pub(crate) measured: String,
    /// Whether that is enough; none if a reference was not compiled in.
    pub(crate) reached: Option<bool>,
    /// The comparisons behind it.
    pub(crate) standings: Vec<Standing>,
    /// The openings behind it, where it is about such.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) reopenings: Vec<reopen::Reopenings>,
}

/// To be at least so many times as fast as a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// The name of the peer.
    pub(crate) peer: &'static str,
    /// How many times.
    pub(crate) factor: f64,
}

impl Bench {
    /// The subject and its peers: those that the figure names and this build has, or those that the user named and that
    /// can do it.
    pub(crate) fn line_up(&self, peers: &[&str], can: fn(Kind) -> bool) -> Vec<Kind> {
        let named = || {
            peers
                .iter()
                .filter_map(|name| Kind::from_str(name, true).ok())
                .collect()
        };
        let peers = self.peers.clone().unwrap_or_else(named);
        let others = peers
            .into_iter()
            .filter(|peer| *peer != self.subject && can(*peer));
        std::iter::once(self.subject).chain(others).collect()
    }

    /// The records of the figures: keys of 16 bytes, values of 100.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            records: self.records,
            key_bytes: 16,
            value_bytes: 100,
        }
    }

    /// Measures a figure.
    ///
    /// # Errors
    ///
    /// What the first failing subject says.
    ///
    /// # Panics
    ///
    /// If it is [`Figure::All`], which [`each`] takes apart.
    pub(crate) fn measure(&mut self, figure: Figure) -> Result<Verdict> {
        match figure {
            Figure::DurablePut64 => puts::of_64_clients(self),
            Figure::DurablePut1024 => puts::of_1024_clients(self),
            Figure::Sustained => puts::sustained(self),
            Figure::DurablePut1 => puts::of_one_client(self),
            Figure::GetCached => reads::cached(self),
            Figure::GetTenth => reads::tenth_cached(self),
            Figure::GetZipf2Threads => reads::zipfian(self),
            Figure::Scan100 => reads::scans(self),
            Figure::Load1m => bulk::load(self),
            Figure::Reopen => reopen::reopen(self),
            Figure::Space => bulk::space(self),
            Figure::Transfer => transfers::uniform(self),
            Figure::TransferZipf => transfers::zipfian(self),
            Figure::TransferOne => transfers::of_one_client(self),
            Figure::TransferUnforced => transfers::unforced(self),
            Figure::HotCounter => transfers::hot_counter(self),
            Figure::Lock => locks::pairs(self),
            Figure::ReadOnly => read_only::beside_writers(self),
            Figure::Smoke => smoke::smoke(self),
            Figure::All => panic!("all figures are measured one by one"),
        }
    }
}

/// The figures that these names mean, one by one.
pub(crate) fn each(named: &[Figure]) -> Vec<Figure> {
    let mut each: Vec<Figure> = Vec::new();
    for figure in named {
        match figure {
            Figure::All => {
                let all = Figure::value_variants().iter();
                each.extend(all.filter(|figure| !matches!(figure, Figure::All | Figure::Smoke)));
            }
            one => each.push(*one),
        }
    }
    each
}

/// Judges the throughput of the first subject of a standing by goals: the words, and whether all are reached.
pub(crate) fn judge(standing: &Standing, subject: Kind, goals: &[Goal]) -> (String, Option<bool>) {
    let mut reached = Some(true);
    let throughput = standing.spread(subject, |run| run.per_second);
    let own = throughput.map_or_else(String::new, |all| all.text(crate::report::count));
    let mut words = vec![format!("{own}/s")];
    for goal in goals {
        let peer = Kind::from_str(goal.peer, true).ok();
        let ratio = peer.and_then(|peer| standing.ratio(subject, peer));
        let compared = peer.and_then(|peer| standing.ratio_words(subject, peer));
        let (Some(compared), Some(ratio)) = (compared, ratio) else {
            words.push(format!("{} was not measured", goal.peer));
            reached = None;
            continue;
        };
        words.push(compared);
        reached = reached.map(|so_far| so_far && ratio.median >= goal.factor);
    }
    (words.join("; "), reached)
}

/// Of these peers the one that is hardest to beat; the first if none of them took part.
pub(crate) fn hardest(standing: &Standing, subject: Kind, peers: &[&'static str]) -> &'static str {
    let ratio = |name: &&str| {
        let peer = Kind::from_str(name, true).ok()?;
        Some(standing.ratio(subject, peer)?.median)
    };
    let measured = peers.iter().copied().filter(|name| ratio(name).is_some());
    let hardest = measured.min_by(|left, right| {
        let (left, right) = (ratio(left).unwrap_or(0.0), ratio(right).unwrap_or(0.0));
        left.total_cmp(&right)
    });
    hardest.unwrap_or(peers[0])
}

/// The table of figures, as it goes into README.md.
pub(crate) fn markdown(verdicts: &[Verdict]) -> String {
    let rows: Vec<Vec<String>> = verdicts
        .iter()
        .map(|verdict| {
            let reached = match verdict.reached {
                Some(true) => "yes",
                Some(false) => "no",
                None => "open",
            };
            let words = [
                &verdict.work,
                &verdict.reference,
                &verdict.goal,
                &verdict.measured,
            ];
            words
                .into_iter()
                .cloned()
                .chain([reached.to_owned()])
                .collect()
        })
        .collect();
    let header = ["work", "reference", "goal", "measured", "reached"];
    // Long words in aligned columns are hard to read, and Markdown doesn't need the alignment.
    rows.iter().fold(table(&header, &[]), |text, row| {
        text + &format!("| {} |\n", row.join(" | "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_its_own_name() {
        let names: Vec<String> = Figure::value_variants()
            .iter()
            .filter_map(|figure| figure.to_possible_value())
            .map(|value| value.get_name().to_owned())
            .collect();
        for name in [
            "durable-put-64",
            "durable-put-1024",
            "get-zipf-2-threads",
            "scan-100",
            "load-1m",
            "transfer",
            "transfer-zipf",
            "transfer-one",
            "transfer-unforced",
            "hot-counter",
            "lock",
            "read-only",
            "all",
        ] {
            assert!(
                names.iter().any(|known| known == name),
                "{name} is missing in {names:?}"
            );
        }
    }

    #[test]
    fn all_figures_are_those_that_can_be_measured_and_no_smoke() {
        let all = each(&[Figure::All]);
        assert_eq!(all.len(), Figure::value_variants().len() - 2);
        assert!(!all.contains(&Figure::Smoke) && !all.contains(&Figure::All));
        let two = [Figure::Lock, Figure::Space];
        assert_eq!(each(&two), two);
    }

    #[test]
    fn the_table_of_figures_has_a_line_for_each() {
        let verdict = Verdict {
            figure: Figure::Space,
            work: "bytes".to_owned(),
            reference: "raw".to_owned(),
            goal: "1.15".to_owned(),
            measured: "1.10".to_owned(),
            reached: Some(true),
            standings: Vec::new(),
            reopenings: Vec::new(),
        };
        let text = markdown(&[
            verdict.clone(),
            Verdict {
                reached: None,
                ..verdict
            },
        ]);
        assert_eq!(text.lines().count(), 4);
        assert!(text.ends_with("| bytes | raw | 1.15 | 1.10 | open |\n"));
    }
}

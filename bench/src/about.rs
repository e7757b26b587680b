//! What a report was measured with: without it a figure can't be repeated, nor told from another build's.

use serde::Serialize;

use crate::contest::Lab;

/// The build, the machine and the flags behind a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct About {
    /// Of this crate, and so of mailring.
    version: &'static str,
    /// The allocator of the whole process, so of every store in it.
    allocator: &'static str,
    /// Whether the compiler optimized; figures of a debug build mean nothing.
    optimized: bool,
    /// The peers that are compiled in besides the plain ones.
    features: Vec<&'static str>,
    /// Cores that this process may use.
    cores: usize,
    /// Worker threads of the runtime that async subjects and their clients share.
    worker_threads: usize,
    /// Interleaved rounds.
    rounds: usize,
    /// Storage nodes of mailring.
    nodes: u32,
    /// The seed of all choices.
    seed: u64,
}

/// A report, and what it was measured with.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a, T> {
    /// With what.
    pub(crate) about: &'a About,
    /// What.
    #[serde(flatten)]
    pub(crate) result: &'a T,
}

impl About {
    /// What is measured in this lab.
    pub(crate) fn of(lab: &Lab) -> Self {
        let features = [
            ("fjall", cfg!(feature = "fjall")),
            ("redb", cfg!(feature = "redb")),
            ("rocksdb", cfg!(feature = "rocksdb")),
            ("lmdb", cfg!(feature = "lmdb")),
            ("surrealkv", cfg!(feature = "surrealkv")),
            ("sled", cfg!(feature = "sled")),
            ("redis", cfg!(feature = "redis")),
        ];
        let built = features.into_iter().filter(|(_, is_built)| *is_built);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            allocator: match cfg!(feature = "mimalloc") {
                true => "mimalloc",
                false => "the system's",
            },
            optimized: !cfg!(debug_assertions),
            features: built.map(|(name, _)| name).collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            worker_threads: lab.runtime.metrics().num_workers(),
            rounds: lab.rounds,
            nodes: lab.nodes,
            seed: lab.seed,
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let build = if self.optimized {
            ""
        } else {
            ", NOT OPTIMIZED"
        };
        let of = |number: usize, word: &str| match number {
            1 => format!("1 {word}"),
            more => format!("{more} {word}s"),
        };
        format!(
            "mailring-bench {}{build}; allocator: {}; peers: {}; {}, {}; {}; {} of mailring; seed {}",
            self.version,
            self.allocator,
            self.features.join(", "),
            of(self.cores, "core"),
            of(self.worker_threads, "worker thread"),
            of(self.rounds, "round"),
            of(self.nodes as usize, "node"),
            self.seed,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_line_names_allocator_threads_and_rounds() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = Arc::new(builder.worker_threads(3).build().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let about = About::of(&Lab::new(dir.path(), runtime, 5, 7, 1));
        let line = about.line();
        let allocator = match cfg!(feature = "mimalloc") {
            true => "allocator: mimalloc",
            false => "allocator: the system's",
        };
        for words in [
            allocator,
            "3 worker threads; 5 rounds; 1 node of mailring; seed 7",
        ] {
            assert!(line.contains(words), "{words} is missing in {line}");
        }
        let report = Report {
            about: &about,
            result: &std::collections::BTreeMap::from([("title", "puts")]),
        };
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(
            (&json["about"]["rounds"], &json["title"]),
            (&5.into(), &"puts".into())
        );
    }
}

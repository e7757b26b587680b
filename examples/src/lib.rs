//! Complete small programs over mailring, in `src/bin`. Each ends by checking itself, and each is run in CI.
//!
//! - `quickstart`: the calls that most services need, in about 30 lines.
//! - `import`: streams NDJSON or TSV into a directory, survives being killed, and answers from the command line.
//! - `bank`: transfers between accounts on all nodes while nodes panic and the process is killed, and all the money stays.
//! - `elastic`: nodes are added, re-weighted, removed and made to panic under a load of transfers, and the money stays.
//! - `booking`: a web service that books seats over REST, with the engine inside, and sells none twice.
//!
//! The programs in README.md are compiled and run as documentation tests of this crate.

#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
struct Readme;

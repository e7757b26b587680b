//! Complete small programs over mailring, in `src/bin`. Each ends by checking itself, and each is run in CI.
//!
//! - `quickstart`: the calls that most services need, in about 30 lines.
//! - `import`: streams NDJSON or TSV into a directory, survives being killed, and answers from the command line.
//! - `bank`: transfers between accounts on all nodes while nodes panic and the process is killed, and all the money stays.
//! - `elastic`: nodes are added, re-weighted, removed and made to panic under a load of transfers, and the money stays.
//! - `keeper`: looks after the nodes and directories of an engine, makes and checks backups: the commands of `docs/RUNBOOK.md`.
//! - `booking`: a web service that books seats over REST, with the engine inside, and sells none twice.
//!
//! The programs in README.md and `docs/RUNBOOK.md` are documentation tests of this crate: those that are whole are run, and
//! functions compiled.

#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
struct Readme;

#[doc = include_str!("../../docs/RUNBOOK.md")]
#[cfg(doctest)]
struct Runbook;

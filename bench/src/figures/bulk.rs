//! Loading a million records in batches, durable at the end, and what they take on disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{Bench, Figure, Goal, Verdict, judge};
use crate::Result;
use crate::calibration::raw_force;
use crate::report::{Summary, count};
use crate::standing::{Round, Run, Standing};
use crate::subject::{Durability, Kind};

/// Loads all records in batches; the clock runs until they are durable.
pub(crate) fn load(bench: &mut Bench) -> Result<Verdict> {
    let peers = bench.line_up(&["fjall", "rocksdb", "lmdb"], Kind::keeps_records);
    let (shape, lab) = (bench.shape(), &bench.lab);
    let mut rounds = Vec::new();
    for round in 0..lab.rounds {
        let raw_force = raw_force(&lab.dir, 116, Duration::from_millis(100))?;
        let mut runs = Vec::new();
        for kind in &peers {
            lab.remove(*kind, "load")?;
            let settings = lab.settings(kind.load_durability(), 64 << 20);
            let subject = lab.open(*kind, &settings, "load")?;
            let time = lab.fill(*kind, &*subject, shape, lab.seed + round as u64)?;
            subject.close()?;
            lab.remove(*kind, "load")?;
            runs.push(Run {
                subject: *kind,
                inside: None,
                commits_per_force: None,
                summary: Summary::of_load(shape.records, time),
            });
        }
        rounds.push(Round { raw_force, runs });
    }
    let standing = Standing {
        title: "load in batches of 1,000".to_owned(),
        settings: format!(
            "{}; of the peers: at the end",
            lab.settings(Durability::Always, 64 << 20).words()
        ),
        rounds,
    };
    let (measured, reached) = judge(
        &standing,
        bench.subject,
        &[Goal {
            peer: "fjall",
            factor: 1.3,
        }],
    );
    Ok(Verdict {
        figure: Figure::Load1m,
        work: format!(
            "load of {} by batches, durable at the end",
            count(bench.records as f64)
        ),
        reference: "fjall".to_owned(),
        goal: "1.3 × fjall".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// Bytes on disk after the load and a checkpoint, over the bytes of the keys and values.
pub(crate) fn space(bench: &mut Bench) -> Result<Verdict> {
    let peers = bench.line_up(&["rocksdb", "fjall", "redb", "lmdb"], Kind::stores);
    let shape = bench.shape();
    let raw = shape.raw_bytes() as f64;
    let mut words = Vec::new();
    let mut own = f64::NAN;
    for kind in peers.into_iter().filter(|kind| kind.stores()) {
        let name = bench.lab.dataset(kind, shape)?;
        let ratio = allocated_bytes(kind, &bench.lab.path(kind, &name))? as f64 / raw;
        if kind == bench.subject {
            own = ratio;
        }
        words.push(format!("{} {ratio:.2}", kind.name()));
    }
    Ok(Verdict {
        figure: Figure::Space,
        work: "bytes on disk after that load and a checkpoint, without journals".to_owned(),
        reference: "the raw keys and values".to_owned(),
        goal: "1.15 at most".to_owned(),
        measured: words.join("; "),
        reached: (!own.is_nan()).then_some(own <= 1.15),
        standings: Vec::new(),
        reopenings: Vec::new(),
    })
}

/// The bytes that the files below a directory occupy: blocks, not lengths, since some files have holes.
fn allocated_bytes(kind: Kind, dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            bytes += allocated_bytes(kind, &entry.path())?;
        } else if !kind.is_journal(&entry.path()) {
            bytes += metadata.blocks() * 512;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_folders_count_by_what_they_occupy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("inner")).unwrap();
        std::fs::write(dir.path().join("inner/full"), vec![1; 100_000]).unwrap();
        let hole = std::fs::File::create(dir.path().join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        std::fs::File::open(dir.path().join("inner/full"))
            .unwrap()
            .sync_all()
            .unwrap();
        let bytes = allocated_bytes(Kind::Dashmap, dir.path()).unwrap();
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
    }
}

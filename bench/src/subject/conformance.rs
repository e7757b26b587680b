//! Every subject of this build does what the trait says. A peer that quietly loses or misorders would make a
//! comparison worthless.

use std::path::Path;

use clap::ValueEnum;

use super::group_commit::Grouped;
use super::*;
use crate::driver::Stop;
use crate::operations::Job;
use crate::workload::{Preset, Workload};

const SHAPE: Shape = Shape {
    records: 2_500,
    key_bytes: 16,
    value_bytes: 50,
};

fn runtime() -> Arc<Runtime> {
    Arc::new(
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap(),
    )
}

fn settings(dir: &Path, durability: Durability) -> Settings {
    let (cache_bytes, write_buffer_bytes) = (8 << 20, 8 << 20);
    Settings {
        dir: dir.to_owned(),
        durability,
        cache_bytes,
        write_buffer_bytes,
        nodes: 2,
    }
}

fn job(preset: Preset) -> Job {
    Job {
        workload: Workload::new(preset, SHAPE, None, 0.99, 100),
        clients: 4,
        stop: Stop::Operations(400),
        warmup: Duration::ZERO,
        rate: None,
        seed: 1,
        sample_every: 1,
        tape: 0,
        by_second: false,
    }
}

#[test]
fn every_store_keeps_what_it_was_given_over_a_reopening() {
    for kind in Kind::value_variants()
        .iter()
        .copied()
        .filter(|kind| kind.stores())
    {
        for durability in [Durability::Always, Durability::Interval, Durability::None] {
            let dir = tempfile::tempdir().unwrap();
            let runtime = runtime();
            let settings = settings(dir.path(), durability);
            let subject = open(kind, &settings, &runtime).unwrap();
            subject
                .load(SHAPE, 1, kind.loaders(), &Arc::default())
                .unwrap();
            subject.checkpoint().unwrap();
            let written = subject.drive(&job(Preset::Put), &Arc::default()).unwrap();
            assert_eq!(written.operations, 400, "{kind}");
            subject.touch_all(SHAPE).unwrap();
            subject.close().unwrap();
            let subject = open(kind, &settings, &runtime).unwrap();
            subject.touch_all(SHAPE).unwrap();
            let mut beyond = Records::new(SHAPE, 1, 0);
            assert!(
                !subject.contains(beyond.key(SHAPE.records)).unwrap(),
                "{kind} made up a record"
            );
            subject.close().unwrap();
        }
    }
}

#[test]
fn every_subject_runs_every_workload_that_it_can() {
    for kind in Kind::value_variants()
        .iter()
        .copied()
        .filter(|kind| kind.keeps_records())
    {
        let dir = tempfile::tempdir().unwrap();
        let subject = open(kind, &settings(dir.path(), Durability::None), &runtime()).unwrap();
        subject.load(SHAPE, 1, 1, &Arc::default()).unwrap();
        for preset in [
            Preset::A,
            Preset::B,
            Preset::C,
            Preset::D,
            Preset::E,
            Preset::F,
        ] {
            let job = job(preset);
            if job.workload.scans() && !kind.scans() {
                continue;
            }
            let outcome = subject.drive(&job, &Arc::default()).unwrap();
            assert_eq!(
                (outcome.operations, outcome.done.missed),
                (400, 0),
                "{kind} {preset:?}"
            );
        }
        subject.close().unwrap();
    }
}

#[test]
fn a_scan_gives_the_records_that_follow_in_key_order() {
    let mut records = Records::new(SHAPE, 1, 0);
    let mut keys: Vec<Vec<u8>> = (0..SHAPE.records)
        .map(|record| records.key(record).to_vec())
        .collect();
    keys.sort();
    let rank = keys.iter().position(|key| key == records.key(0)).unwrap();
    for kind in Kind::value_variants()
        .iter()
        .copied()
        .filter(|kind| kind.stores())
    {
        let dir = tempfile::tempdir().unwrap();
        let subject = open(kind, &settings(dir.path(), Durability::None), &runtime()).unwrap();
        subject.load(SHAPE, 1, 1, &Arc::default()).unwrap();
        assert_eq!(
            subject.scan(&keys[rank], 100).unwrap(),
            100.min(keys.len() - rank),
            "{kind}"
        );
        assert_eq!(
            subject.scan(&keys[keys.len() - 7], 100).unwrap(),
            7,
            "{kind}"
        );
        subject.close().unwrap();
    }
}

#[test]
fn a_group_is_answered_with_the_error_of_its_batch() {
    struct Refusing;
    impl Store for Refusing {
        fn get(&self, _key: &[u8]) -> Result<Option<usize>> {
            Ok(None)
        }
        fn put(&self, _key: &[u8], _value: &[u8]) -> Result<()> {
            Err(Fault::from("only groups come here"))
        }
        fn put_many(&self, entries: &[Entry]) -> Result<()> {
            Err(Fault::from(format!("{} refused", entries.len())))
        }
        fn scan(&self, _from: &[u8], _limit: usize) -> Result<usize> {
            Ok(0)
        }
        fn sync(&self) -> Result<()> {
            Ok(())
        }
    }
    let grouped = Grouped::new(Arc::new(Refusing));
    let error = runtime()
        .block_on(grouped.put(b"key", b"value"))
        .unwrap_err();
    assert_eq!(error.to_string(), "1 refused");
}

//! What a loss of power takes from a running engine, by durability: a suffix in the order of the commits, and nothing
//! else. With `Always` the suffix has nothing in it that was acknowledged, with `Interval` nothing that `stats()` said to
//! be forced, with `None` the same, only that little is forced.

mod common;

use common::{patiently, tuned, until};
use mailring::{Builder, Durability, Error, FaultSite, Keyspace, Lsn, Mailring, Result};
use mailring_engine::disk::{SimulatedDisk, Survivors};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    path::Path,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

const TASKS: usize = 4;

fn on(disk: &SimulatedDisk, trees: &Path, durability: Durability) -> Builder {
    tuned(Mailring::builder(trees))
        .nodes(2)
        .durability(durability)
        .disk(Arc::new(disk.clone()))
}

/// What one task has written: the i-th write puts `i` under a key of its own and under one that it always overwrites.
#[derive(Default)]
struct Written {
    /// The LSN of each of the two writes, if it was acknowledged.
    lsns: Vec<[Option<Lsn>; 2]>,
}

fn value(number: usize) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    // A segment is full after a few dozen.
    value.resize(20_000, 7);
    value
}

async fn write_until_the_power_is_gone(ks: Keyspace, task: usize) -> Written {
    let mut written = Written::default();
    for number in 0..100_000 {
        let own = ks.put(format!("{task}-{number}"), value(number)).await;
        let newest = ks.put(format!("{task}-newest"), value(number)).await;
        let is_over = own.is_err() || newest.is_err();
        written.lsns.push([own.ok(), newest.ok()]);
        if is_over {
            return written;
        }
    }
    panic!("the power was never lost");
}

/// Checks that the content is what it was at one LSN, and gives that LSN.
async fn assert_exact_prefix(db: &Mailring, written: &[Written]) -> Result<Lsn> {
    let last = db.stats().visible_lsn;
    let ks = db.keyspace("ks").await?;
    let mut expected_keys = 0;
    for (task, written) in written.iter().enumerate() {
        // Of what was not acknowledged only the last writes can be there: each task waits for its answers.
        let (mut newest, mut newest_may_be) = (None, None);
        for (number, [own, overwritten]) in written.lsns.iter().enumerate() {
            let found = ks.get(format!("{task}-{number}")).await?;
            let is_there = found.is_some();
            assert!(found.is_none_or(|found| found == value(number)), "garbage");
            match own {
                Some(lsn) => assert_eq!(
                    is_there,
                    *lsn <= last,
                    "{task}-{number} of {lsn:?}, and the last is {last:?}"
                ),
                None => assert_eq!(number + 1, written.lsns.len()),
            }
            expected_keys += u64::from(is_there);
            match overwritten {
                Some(lsn) if *lsn <= last => newest = Some(number),
                Some(_) => {}
                None => newest_may_be = Some(number),
            }
        }
        let found = ks.get(format!("{task}-newest")).await?;
        expected_keys += u64::from(found.is_some());
        let found = found.map(|found| {
            let number = usize::from_be_bytes(found[..8].try_into().expect("a number"));
            assert_eq!(found, value(number), "garbage");
            number
        });
        assert!(
            found == newest || found == newest_may_be,
            "task {task}: {found:?} is not the newest, {newest:?}"
        );
    }
    assert_eq!(
        ks.scan(..).count().await?,
        expected_keys,
        "nothing else is there"
    );
    patiently(db.verify()).await?;
    Ok(last)
}

async fn lose_power_under_load(durability: Durability, random: &mut StdRng) -> Result<()> {
    let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let db = on(&disk, trees.path(), durability).open().await?;
    let ks = db.keyspace("ks").await?;
    // The creation of the keyspace itself shall not be lost.
    patiently(db.checkpoint()).await?;
    let running: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(write_until_the_power_is_gone(ks.clone(), task)))
        .collect();
    let begun = db.stats().visible_lsn.0;
    let enough = begun + random.random_range(1..400);
    let checkpoint_at = begun + random.random_range(1..800);
    until(|| db.stats().visible_lsn.0 >= enough.min(checkpoint_at)).await;
    if checkpoint_at < enough {
        patiently(db.checkpoint()).await?;
        until(|| db.stats().visible_lsn.0 >= enough).await;
    }
    let forced = db.stats().durable_lsn;
    disk.crash(match random.random_range(0..4) {
        0 => Survivors::Nothing,
        1 => Survivors::Everything,
        _ => Survivors::Seeded(random.random()),
    });
    let mut written = Vec::new();
    for task in running {
        written.push(patiently(task).await.expect("the task ended well"));
    }
    drop((ks, db));
    let db = on(&disk, trees.path(), durability).open().await?;
    let last = assert_exact_prefix(&db, &written).await?;
    assert!(last >= forced, "{forced:?} was forced, {last:?} is there");
    if durability == Durability::Always {
        let acknowledged = written.iter().flat_map(|task| task.lsns.iter().flatten());
        let newest = acknowledged.flatten().max();
        assert!(
            newest.is_none_or(|newest| *newest <= last),
            "{newest:?} {last:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_of_power_leaves_an_exact_prefix_with_all_that_was_forced() -> Result<()> {
    let seed = std::env::var("MAILRING_SEED").map_or_else(
        |_| rand::random(),
        |seed| seed.parse().expect("a number in MAILRING_SEED"),
    );
    println!("MAILRING_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..8 {
        for durability in [
            Durability::Always,
            Durability::Interval(Duration::from_millis(10)),
            Durability::Interval(Duration::from_millis(20)),
            Durability::None,
        ] {
            lose_power_under_load(durability, &mut random).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_interval_forces_by_itself_and_none_only_when_it_must() -> Result<()> {
    for durability in [
        Durability::Interval(Duration::from_millis(10)),
        Durability::None,
    ] {
        let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
        let db = on(&disk, trees.path(), durability).open().await?;
        let ks = db.keyspace("ks").await?;
        let before = db.stats().durable_lsn;
        let lsn = ks.put("key", "value").await?;
        if durability == Durability::None {
            assert_eq!(db.stats().durable_lsn, before, "nobody has asked for it");
            patiently(db.checkpoint()).await?;
            assert!(db.stats().durable_lsn >= lsn, "a tree is never ahead");
            ks.put("last", "value").await?;
            patiently(db.shutdown()).await?;
        } else {
            until(|| db.stats().durable_lsn >= lsn).await;
        }
        disk.crash(Survivors::Nothing);
        drop((ks, db));
        let db = on(&disk, trees.path(), durability).open().await?;
        let ks = db.keyspace("ks").await?;
        assert!(ks.contains("key").await?);
        assert_eq!(ks.contains("last").await?, durability == Durability::None);
    }
    Ok(())
}

/// Copies of arcs that move, ahead of the journal, would be found by an engine that knows nothing of their change.
#[tokio::test(flavor = "multi_thread")]
async fn no_copy_of_an_arc_is_in_a_tree_before_its_change_is_forced() -> Result<()> {
    let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let engine: Arc<OnceLock<Mailring>> = Arc::default();
    let forced: Arc<Mutex<Vec<Lsn>>> = Arc::default();
    let (asked, noted) = (Arc::clone(&engine), Arc::clone(&forced));
    let hook = Arc::new(move |site: &FaultSite<'_>| {
        if (site.actor, site.message, site.handled) == ("runs", "Ingest", true) {
            let stats = asked.get().expect("the engine is open").stats();
            noted.lock().unwrap().push(stats.durable_lsn);
        }
    });
    let builder = on(&disk, trees.path(), Durability::None);
    let db = builder.fault_hook(hook).open().await?;
    assert!(engine.set(db.clone()).is_ok());
    let ks = db.keyspace("ks").await?;
    let mut last = Lsn(0);
    for number in 0..100 {
        last = ks.put(format!("key-{number}"), "value").await?;
    }
    assert!(db.stats().durable_lsn < last, "nobody has asked for it");
    patiently(db.nodes().add(1).await?.wait()).await?;
    let forced = forced.lock().unwrap().clone();
    assert!(!forced.is_empty(), "something was copied");
    assert!(forced.iter().all(|forced| *forced > last), "{forced:?}");
    Ok(())
}

/// With `Always`, what is visible is forced.
#[tokio::test]
async fn what_is_answered_by_default_is_forced() -> Result<()> {
    let (disk, trees) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let db = on(&disk, trees.path(), Durability::Always).open().await?;
    let ks = db.keyspace("ks").await?;
    for number in 0..50 {
        let lsn = ks.put(format!("key-{number}"), "v").await?;
        assert!(db.stats().durable_lsn >= lsn);
    }
    disk.crash(Survivors::Nothing);
    assert!(matches!(
        ks.put("key", "v").await,
        Err(Error::Unknown { .. } | Error::ReadOnly { .. })
    ));
    Ok(())
}

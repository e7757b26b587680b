//! Scans over all nodes, against an ordered map.

mod common;

use common::{builder, patiently};
use mailring::{Keyspace, Result, Scan};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{collections::BTreeMap, ops::Bound};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn random_key(random: &mut StdRng) -> Vec<u8> {
    let len = random.random_range(1..4);
    (0..len)
        .map(|_| [0, b'a', b'b', 0xff][random.random_range(0..4)])
        .collect()
}

fn random_bound(random: &mut StdRng) -> Bound<Vec<u8>> {
    match random.random_range(0..4) {
        0 => Bound::Unbounded,
        1 => Bound::Excluded(random_key(random)),
        _ => Bound::Included(random_key(random)),
    }
}

fn expected(model: &Model, low: &Bound<Vec<u8>>, high: &Bound<Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let above = |key: &Vec<u8>| match low {
        Bound::Included(low) => key >= low,
        Bound::Excluded(low) => key > low,
        Bound::Unbounded => true,
    };
    let below = |key: &Vec<u8>| match high {
        Bound::Included(high) => key <= high,
        Bound::Excluded(high) => key < high,
        Bound::Unbounded => true,
    };
    let pairs = model.iter().filter(|(key, _)| above(key) && below(key));
    pairs
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

async fn check(
    mut scan: Scan,
    mut expected: Vec<(Vec<u8>, Vec<u8>)>,
    random: &mut StdRng,
) -> Result<()> {
    if random.random_bool(0.5) {
        scan = scan.reverse();
        expected.reverse();
    }
    if random.random_bool(0.3) {
        let limit = random.random_range(0..20);
        scan = scan.limit(limit);
        expected.truncate(limit);
    }
    let found: Vec<_> = scan.collect().await?;
    let found: Vec<_> = found
        .into_iter()
        .map(|(k, v)| (k.to_vec(), v.to_vec()))
        .collect();
    assert_eq!(found, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_of_all_kinds_see_what_an_ordered_map_sees() -> Result<()> {
    let seed = std::env::var("MAILRING_SEED").map_or_else(
        |_| rand::random(),
        |seed| seed.parse().expect("a number in MAILRING_SEED"),
    );
    println!("MAILRING_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(4).open().await?;
    let ks = db.keyspace("ks").await?;
    // Keyspaces on both sides must not be seen.
    let other = db.keyspace("other").await?;
    let noise = tokio::spawn(write_noise(other, 300));
    let mut model = Model::new();
    for step in 0..400u32 {
        let key = random_key(&mut random);
        match random.random_range(0..4) {
            0 => {
                ks.delete(&key).await?;
                model.remove(&key);
            }
            _ => {
                ks.put(&key, step.to_be_bytes()).await?;
                model.insert(key, step.to_be_bytes().to_vec());
            }
        }
        if step % 60 == 59 {
            patiently(db.checkpoint()).await?;
        }
        if step % 4 == 0 {
            let bounds = (random_bound(&mut random), random_bound(&mut random));
            let pairs = expected(&model, &bounds.0, &bounds.1);
            check(ks.scan(bounds), pairs, &mut random).await?;
            let prefix = random_key(&mut random);
            let all = expected(&model, &Bound::Unbounded, &Bound::Unbounded);
            let pairs = all
                .into_iter()
                .filter(|(key, _)| key.starts_with(&prefix))
                .collect();
            check(ks.prefix(&prefix), pairs, &mut random).await?;
        }
    }
    patiently(noise).await.unwrap()
}

async fn write_noise(ks: Keyspace, writes: u32) -> Result<()> {
    for number in 0..writes {
        ks.put(number.to_be_bytes(), "noise").await?;
    }
    Ok(())
}

/// A scan that is read slowly sees its first moment to the end, over writes, deletions and checkpoints.
#[tokio::test]
async fn a_long_scan_keeps_its_moment_and_the_engine_goes_on() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .checkpoint_bytes(64 << 10)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let pairs = (0..20_000u32).map(|number| (number.to_be_bytes(), "old"));
    ks.put_many(pairs).await?;
    db.checkpoint().await?;
    let mut scan = ks.scan(..);
    let mut read = 0u32;
    while let Some((key, value)) = scan.next().await? {
        assert_eq!(key[..], read.to_be_bytes());
        assert_eq!(&value[..], b"old");
        if read.is_multiple_of(1000) {
            let pairs = (read..read + 1000).map(|number| (number.to_be_bytes(), "new"));
            ks.put_many(pairs).await?;
            ks.delete((19_999 - read / 1000).to_be_bytes()).await?;
            if read.is_multiple_of(5000) {
                patiently(db.checkpoint()).await?;
            }
        }
        read += 1;
    }
    assert_eq!(read, 20_000);
    // The last thousand was written again after some of it was deleted, but for the last deletion.
    assert_eq!(ks.scan(..).count().await?, 19_999);
    Ok(())
}

//! A scan over far more than the memory budget, read slowly while others write, keeps the process small.
//!
//! One test alone in its process: it measures what the process has resident.

mod common;

use common::{builder, memory_used, patiently};
use mailring::{Durability, Keyspace, Mailring, Result};
use std::fs;

const BUDGET: usize = 32 << 20;
const VALUE_BYTES: usize = 32 << 10;
/// Six times the budget.
const KEYS: usize = 6 * BUDGET / VALUE_BYTES;

/// While a table is written by a merge, the tree's index of it holds on to the blocks that its keys came from: about a
/// table's worth, scan or no scan. The budget does not count it.
const MERGED_TABLE_BYTES: usize = 64 << 20;
/// Threads, stacks, and what an allocator does not give back at once.
const WASTE_BYTES: usize = 16 << 20;

/// Bytes of the process in memory now, or at their most since the last reset.
fn resident(line: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("the process has a status");
    let line = status.lines().find(|found| found.starts_with(line));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    kilobytes
        .expect("it says so")
        .parse::<usize>()
        .expect("a number")
        << 10
}

fn reset_the_most() {
    fs::write("/proc/self/clear_refs", "5").expect("the process may reset its own mark");
}

fn key(number: usize) -> [u8; 8] {
    (number as u64).to_be_bytes()
}

async fn write(ks: &Keyspace, numbers: impl Iterator<Item = usize>, round: u8) -> Result<()> {
    for number in numbers {
        patiently(ks.put(key(number), vec![round; VALUE_BYTES])).await?;
    }
    Ok(())
}

/// Reads a pair, overwrites another, and so on to the end. What it sees is as of its beginning.
async fn scan_slowly(db: &Mailring, ks: &Keyspace, reverse: bool, round: u8) -> Result<usize> {
    reset_the_most();
    let mut scan = if reverse {
        ks.scan(..).reverse()
    } else {
        ks.scan(..)
    };
    let mut seen = 0;
    while let Some((found, value)) = scan.next().await? {
        let number = if reverse { KEYS - 1 - seen } else { seen };
        assert_eq!(found[..], key(number));
        assert_eq!(value[..], [round; VALUE_BYTES]);
        // Some far ahead, which the scan will still show as they were, and some behind.
        write(ks, [(number * 7) % KEYS].into_iter(), round + 1).await?;
        seen += 1;
    }
    assert_eq!(seen, KEYS);
    let stats = db.stats();
    let used = memory_used(&stats);
    assert!(used <= BUDGET, "{stats:?}");
    Ok(resident("VmHWM"))
}

#[tokio::test]
async fn a_long_slow_scan_beside_writers_keeps_memory_bounded_in_both_directions() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let before = resident("VmRSS");
    let db = builder(directory.path())
        .memory_budget(BUDGET)
        .durability(Durability::None)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let mut most = Vec::new();
    for (round, reverse) in [(1, false), (3, true)] {
        write(&ks, 0..KEYS, round).await?;
        patiently(db.checkpoint()).await?;
        let loaded = resident("VmRSS");
        reset_the_most();
        let scan = if reverse {
            ks.scan(..).reverse()
        } else {
            ks.scan(..)
        };
        assert_eq!(scan.count().await?, KEYS as u64);
        let alone = resident("VmHWM").saturating_sub(loaded);
        assert!(alone < BUDGET / 2, "a scan alone has taken {alone} bytes");
        let most_now = scan_slowly(&db, &ks, reverse, round).await?;
        most.push(most_now.saturating_sub(before));
    }
    println!("{most:?} bytes at most, {} are scanned", KEYS * VALUE_BYTES);
    for most in most {
        let limit = BUDGET + MERGED_TABLE_BYTES + WASTE_BYTES;
        assert!(most < limit, "{most} bytes more than before the engine");
    }
    Ok(())
}

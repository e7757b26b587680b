//! Every decoder of bytes from a disk against bytes that nobody wrote: a short and deterministic version of the
//! targets in `fuzz/`, which run the same [`checks`].
//!
//! Valid encodings are cut, flipped and spliced, and their lengths are blown up. Nothing panics; nothing takes more
//! memory than the input could hold; what decodes is written again as it was read; what does not is an error that names
//! its file and place.

mod checks;
mod mutate;
mod samples;

use allocation_counter::measure;
use checks::Outcome;
use mutate::mutate;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Memory that a check may take besides what is in proportion to its input: windows of readers, segments it makes.
const FIXED_BYTES: u64 = 2 << 20;
/// In memory a record or an entry of the manifest takes up to some fifty times its least bytes, and lists double.
const BYTES_PER_BYTE: u64 = 128;

/// Shows the input that failed, in hex, as a file for the fuzz target of this name.
struct Failing<'a> {
    target: &'a str,
    number: u64,
    input: &'a [u8],
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self
                .input
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let Self { target, number, .. } = self;
            println!(
                "input {number}: xxd -r -p <<< {hex} > input; cargo +nightly fuzz run {target} input"
            );
        }
    }
}

/// Checks mutations of the samples: at least `least_taken` must be taken, and enough refused, else this tests nothing.
fn check_mutations(
    target: &str,
    samples: &[Vec<u8>],
    count: u64,
    least_taken: u64,
    check: impl Fn(&[u8]) -> Outcome,
) {
    for (number, sample) in samples.iter().enumerate() {
        assert_eq!(check(sample), Outcome::Taken, "sample {number} of {target}");
    }
    let taken = check_inputs(target, count, |rng| mutate(rng, samples), check);
    assert!(taken >= least_taken, "{target}: {taken} of {count} taken");
}

/// Checks so many inputs; how many of them were taken.
fn check_inputs(
    target: &str,
    count: u64,
    draw: impl Fn(&mut StdRng) -> Vec<u8>,
    check: impl Fn(&[u8]) -> Outcome,
) -> u64 {
    let mut taken = 0;
    for number in 0..count {
        let input = draw(&mut StdRng::seed_from_u64(number));
        let failing = Failing {
            target,
            number,
            input: &input,
        };
        let mut outcome = None;
        let memory = measure(|| outcome = Some(check(&input)));
        taken += u64::from(outcome == Some(Outcome::Taken));
        let most = FIXED_BYTES + BYTES_PER_BYTE * input.len() as u64;
        assert!(
            memory.bytes_max <= most,
            "{target} took {} bytes for an input of {}",
            memory.bytes_max,
            input.len()
        );
        drop(failing);
    }
    let refused = count - taken;
    println!("{target}: {taken} taken, {refused} refused");
    assert!(
        refused >= count / 50,
        "{target}: {refused} of {count} refused"
    );
    taken
}

#[test]
fn records_of_arbitrary_bytes_are_read_back_or_refused() {
    let samples = samples::records();
    check_mutations("records", &samples, 100_000, 2_000, checks::records);
}

#[test]
fn values_of_arbitrary_bytes_are_read_back_or_refused() {
    let samples = samples::values();
    check_mutations("values", &samples, 100_000, 2_000, checks::values);
}

#[test]
fn a_manifest_of_arbitrary_bytes_is_refused_with_its_file() {
    let samples = samples::manifests();
    // A changed byte is not taken; a mutation that changes nothing is.
    check_mutations("manifest", &samples, 50_000, 1, checks::manifest);
}

#[test]
fn what_says_which_directory_this_is_is_read_back_or_refused_with_its_file() {
    let samples = samples::identities();
    check_mutations("identity", &samples, 50_000, 1, checks::identity);
}

#[test]
fn sections_of_a_manifest_under_a_right_checksum_are_read_back_or_refused() {
    let samples = samples::sections();
    check_mutations("sections", &samples, 100_000, 2_000, checks::sections);
}

#[test]
fn a_segment_of_arbitrary_bytes_is_recovered_or_refused_with_file_and_offset() {
    let samples = samples::segments();
    check_mutations("segment", &samples, 30_000, 600, checks::segment);
}

#[test]
fn groups_under_right_checksums_that_do_not_fit_each_other_are_refused_with_file_and_offset() {
    let samples = samples::journals();
    check_mutations("journal", &samples, 10_000, 200, checks::journal);
    check_inputs("journal", 30_000, mutate::random, checks::journal);
}

#[test]
fn tables_of_a_tree_with_arbitrary_bytes_are_read_right_or_refused() {
    for tree in &samples::trees() {
        assert_eq!(checks::tree(tree, &[]), Outcome::Taken);
        let damage = |rng: &mut StdRng| {
            let changes = rng.random_range(1..=3);
            (0..changes * checks::tree::CHANGE_BYTES)
                .map(|_| rng.random())
                .collect()
        };
        check_inputs("tree", 700, damage, |damage| checks::tree(tree, damage));
    }
}

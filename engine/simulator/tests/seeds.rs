//! The simulator itself: the same seed gives the same run, byte for byte; a few hundred seeds are fine, and together they
//! meet nearly everything. (Ten thousand run in CI: see `simulate`.)

use mailring_simulator::{Options, Report, faults::Fault, report::Counter, run, run_traced};

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    let options = Options {
        trace: true,
        ..Options::default()
    };
    for seed in [1, 2, 3, 5, 8, 13, 21, 34] {
        let (one, one_text) = run_traced(seed, &options);
        let (other, other_text) = run_traced(seed, &options);
        let (one, other) = (
            one.expect("the run is fine"),
            other.expect("the run is fine"),
        );
        assert_eq!(one, other, "seed {seed}");
        assert!(one_text == other_text, "seed {seed}: the messages differ");
        assert!(one_text.lines().count() > 200, "{one_text}");
    }
}

#[test]
fn the_readable_trace_changes_nothing() {
    let traced = Options {
        trace: true,
        ..Options::default()
    };
    for seed in 0..4 {
        assert_eq!(run(seed, &traced), run(seed, &Options::default()));
    }
}

#[test]
fn other_seeds_give_other_traces() {
    let trace = |seed| {
        run(seed, &Options::default())
            .expect("the run is fine")
            .trace
    };
    assert_ne!(trace(1), trace(2));
}

#[test]
fn a_fault_that_is_switched_off_strikes_in_no_seed() {
    let struck = |without: &[Fault]| {
        let options = Options {
            without: without.to_vec(),
            ..Options::default()
        };
        let mut report = Report::default();
        for seed in 0..4 {
            report.add(&run(seed, &options).expect("the run is fine"));
        }
        report
    };
    let all = struck(&[]);
    let is_met = |fault: &&Fault| all.total().of_fault(**fault) > 0;
    let met: Vec<_> = Fault::ALL.iter().filter(is_met).collect();
    assert!(met.len() * 2 > Fault::COUNT, "{}", met.len());
    for fault in met {
        let without = struck(&[*fault]);
        assert_eq!(without.total().of_fault(*fault), 0, "{}", fault.name());
    }
    assert_eq!(struck(Fault::ALL).total().faults, [0; Fault::COUNT]);
}

#[test]
fn every_invariant_holds_in_the_first_seeds() {
    let mut report = Report::default();
    for seed in 0..250 {
        match run(seed, &Options::default()) {
            Ok(summary) => report.add(&summary),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{report}");
    let [messages, commits, restarts] = report.medians();
    assert!(messages >= 500 && commits >= 20 && restarts >= 1);
}

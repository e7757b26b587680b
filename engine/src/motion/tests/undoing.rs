//! Cancelling at each step.

use super::*;

#[test]
fn before_anything_is_written_cancelling_leaves_no_trace() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    // The nodes are being made: they go when they are there.
    assert!(bench.cancel().is_empty());
    assert_eq!(
        bench.ready(),
        [
            "retire [2]",
            "show Cancelled back",
            "answer 900: Cancelled",
            "answer 901: Cancelled"
        ]
    );
    assert!(!bench.motion.is_moving());
}

#[test]
fn a_copy_is_stopped_and_waited_for() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    assert_eq!(bench.cancel(), ["stop"]);
    // Not twice.
    assert!(bench.cancel().is_empty());
    // The node that joined leaves again: what was copied goes with it.
    assert_eq!(
        bench.worked(Err(Error::Closed)),
        ["hold none", "show Ending back", "ended 1, [(0, 1), (1, 1)]"]
    );
    assert_eq!(
        bench.recorded(12),
        [
            "retire [2]",
            "show Cancelled back",
            "answer 900: Cancelled",
            "answer 901: Cancelled",
            "answer 901: Cancelled"
        ]
    );
}

#[test]
fn what_was_copied_to_members_is_swept_and_no_longer_shown() {
    let mut bench = bench(3);
    bench.start(Intent::Remove { node: B });
    bench.recorded(10);
    bench.held();
    bench.copied(20);
    assert_eq!(bench.cancel(), ["stop"]);
    assert_eq!(
        bench.followed(25, 0),
        [
            "hold 25",
            "hold none",
            "show Sweeping back",
            "sweep 170 arcs at 0"
        ]
    );
    assert_eq!(bench.swept(), ["show Sweeping back", "sweep 171 arcs at 2"]);
    assert_eq!(bench.swept(), ["forget 0"]);
    assert_eq!(bench.forgotten(A), ["forget 2"]);
    assert_eq!(
        bench.forgotten(C),
        ["show Ending back", "ended 1, [(0, 1), (1, 1), (2, 1)]"]
    );
    assert_eq!(
        bench.recorded(30),
        [
            "show Cancelled back",
            "answer 900: Cancelled",
            "answer 901: Cancelled"
        ]
    );
}

#[test]
fn a_source_that_is_handing_over_is_thawed() {
    let mut bench = bench(2);
    bench.hand_over_is_asked();
    assert_eq!(
        bench.cancel(),
        [
            "keep arcs 0",
            "hold none",
            "show Ending back",
            "ended 1, [(0, 1), (1, 1)]"
        ]
    );
}

#[test]
fn what_was_cut_moves_back_by_the_same_steps() {
    let mut bench = bench(2);
    bench.the_first_is_cut();
    assert_eq!(
        bench.cancel(),
        ["hold none", "show Cleaning back", "checkpoint [0]"]
    );
    // Node 0 was recovering at the checkpoint.
    assert_eq!(bench.checkpointed(&[(A, 31)]), ["show Waiting back"]);
    assert_eq!(bench.wait(), ["show Cleaning back", "checkpoint [0]"]);
    assert_eq!(
        bench.checkpointed(&[(A, 32)]),
        ["show Cleaning back of 0", "sweep 170 arcs at 0"]
    );
    assert_eq!(bench.swept(), ["forget 0"]);
    assert_eq!(
        bench.forgotten(A),
        ["show Cleaning back", "cleaned 1 from 0"]
    );
    assert_eq!(
        bench.recorded(40),
        [
            "show Beginning back",
            "began 2, [(0, 1), (1, 1)], 170 arcs from [2]"
        ]
    );
    // What was swept before is clean: the copy needs no sweep.
    assert_eq!(bench.recorded(41), ["hold 0"]);
    assert_eq!(bench.held(), ["show Copying back of 2", "copy 2 to [0]"]);
    bench.copied(50);
    bench.followed(50, 0);
    bench.handed_over(C, 50);
    assert_eq!(
        bench.recorded(51),
        ["hold none", "show Cleaning back", "cleaned 2 from 2"]
    );
    bench.recorded(52);
    assert_eq!(
        bench.recorded(53),
        [
            "retire [2]",
            "show Cancelled back",
            "answer 900: Cancelled",
            "answer 901: Cancelled"
        ]
    );
    let members = bench.motion.ring().ring().nodes().to_vec();
    assert_eq!(members, [(A, 1), (B, 1)]);
    assert_eq!(bench.motion.ring().ring().owners(), ring(2).ring().owners());
}

#[test]
fn a_cut_that_is_on_its_way_is_waited_for() {
    let mut bench = bench(2);
    bench.hand_over_is_asked();
    bench.handed_over(A, 30);
    assert!(bench.cancel().is_empty());
    assert_eq!(
        bench.recorded(32),
        ["hold none", "show Cleaning back", "checkpoint [0]"]
    );
}

#[test]
fn after_the_last_cut_all_moves_back() {
    let mut bench = bench(2);
    bench.both_are_cut();
    assert!(bench.cancel().is_empty());
    bench.checkpointed(&[(A, 60), (B, 60)]);
    bench.swept();
    bench.forgotten(A);
    bench.recorded(61);
    bench.swept();
    bench.forgotten(B);
    assert_eq!(
        bench.recorded(62),
        [
            "show Beginning back",
            "began 2, [(0, 1), (1, 1)], 341 arcs from [2]"
        ]
    );
}

#[test]
fn when_the_end_is_on_its_way_cancelling_is_too_late_and_says_so() {
    let mut bench = bench(2);
    bench.both_are_cut();
    bench.checkpointed(&[(A, 60), (B, 60)]);
    bench.swept();
    bench.forgotten(A);
    bench.recorded(61);
    bench.swept();
    bench.forgotten(B);
    bench.recorded(62);
    assert!(bench.cancel().is_empty());
    assert_eq!(
        bench.recorded(63),
        [
            "show Done",
            "answer 900: Completed",
            "answer 901: Completed"
        ]
    );
}

#[test]
fn a_change_that_has_turned_round_does_not_turn_again() {
    let mut bench = bench(2);
    bench.the_first_is_cut();
    bench.cancel();
    bench.checkpointed(&[(A, 32)]);
    bench.swept();
    bench.forgotten(A);
    bench.recorded(40);
    assert_eq!(bench.recorded(41), ["hold 0"]);
    assert!(bench.cancel().is_empty());
}

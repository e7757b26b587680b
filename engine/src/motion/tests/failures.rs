//! What fails is tried again; what dies is gone on from.

use super::*;

fn disk_full() -> Error {
    Error::DiskFull {
        context: "a test".into(),
    }
}

#[test]
fn a_failed_copy_is_swept_away_before_the_next_one() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    assert_eq!(bench.worked(Err(disk_full())), ["show Waiting of 0"]);
    assert_eq!(bench.motion.next_timeout(), Some(Time(100 * MS)));
    assert_eq!(bench.wait(), ["show Sweeping of 0", "sweep 170 arcs at 2"]);
    // The sweep fails too, and the wait doubles.
    assert_eq!(bench.worked(Err(disk_full())), ["show Waiting of 0"]);
    assert_eq!(bench.motion.next_timeout(), Some(Time(300 * MS)));
    bench.wait();
    assert_eq!(bench.swept(), ["show Copying of 0", "copy 0 to [2]"]);
    // A sweep alone is no success: a full disk would be copied to again and again.
    bench.worked(Err(disk_full()));
    assert_eq!(bench.motion.next_timeout(), Some(Time(700 * MS)));
}

#[test]
fn waits_grow_up_to_a_limit() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    bench.worked(Err(disk_full()));
    for _ in 0..25 {
        bench.wait();
        bench.worked(Err(disk_full()));
    }
    let wait = bench.motion.next_timeout().unwrap().0 - bench.now.0;
    assert_eq!(wait, 30_000 * MS);
}

#[test]
fn a_failed_follow_goes_on_from_where_it_was() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    bench.copied(20);
    bench.worked(Err(disk_full()));
    assert_eq!(bench.wait(), ["show Following of 0", "follow 0 after 20"]);
}

#[test]
fn a_follow_that_the_journal_can_not_serve_begins_with_another_copy() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    bench.copied(20);
    let gone = Error::CorruptJournal {
        file: "journal".into(),
        offset: 0,
        reason: "the journal begins at LSN 22, but all after 20 is needed".into(),
    };
    bench.worked(Err(gone));
    assert_eq!(bench.wait(), ["show Sweeping of 0", "sweep 170 arcs at 2"]);
    assert_eq!(bench.swept(), ["show Copying of 0", "copy 0 to [2]"]);
}

#[test]
fn a_failure_while_writers_wait_lets_them_go_on() {
    let mut bench = bench(2);
    bench.hand_over_is_asked();
    bench.handed_over(A, 33);
    assert_eq!(
        bench.worked(Err(disk_full())),
        ["keep arcs 0", "show Waiting of 0"]
    );
    assert_eq!(bench.wait(), ["show Following of 0", "follow 0 after 30"]);
    assert_eq!(
        bench.followed(36, 0),
        ["hold 36", "show HandingOver of 0", "hand over 0"]
    );
}

#[test]
fn a_source_that_does_not_hand_over_in_time_is_thawed_and_asked_again_later() {
    let mut bench = bench(2);
    bench.hand_over_is_asked();
    assert_eq!(bench.motion.next_timeout(), Some(Time(2_000 * MS)));
    assert_eq!(bench.wait(), ["keep arcs 0", "show Waiting of 0"]);
    // An answer to the attempt that was given up means nothing: writes were admitted since.
    let first = bench.task;
    assert!(bench.handed_over(A, 30).is_empty());
    bench.wait();
    let asked = bench.followed(41, 0);
    assert_eq!(asked.last().unwrap(), "hand over 0");
    let second = std::mem::replace(&mut bench.task, first);
    assert!(bench.handed_over(A, 30).is_empty());
    bench.task = second;
    assert_eq!(
        bench.handed_over(A, 41),
        ["show Cutting of 0", "cut 1 from 0 on [(0, 7)]"]
    );
}

#[test]
fn who_is_given_up_lets_the_source_go_on_unless_its_cut_may_be_written() {
    let give_up = |bench: &mut Bench| {
        let mut out = Vec::new();
        bench.motion.give_up(&mut out);
        bench.lines(&out)
    };
    let mut copying = bench(2);
    copying.start(Intent::Add { weight: 1 });
    copying.ready();
    copying.recorded(10);
    copying.held();
    assert_eq!(give_up(&mut copying), ["stop", "hold none"]);

    let mut asked = bench(2);
    asked.hand_over_is_asked();
    assert_eq!(give_up(&mut asked), ["keep arcs 0", "hold none"]);

    let mut followed = bench(2);
    followed.hand_over_is_asked();
    followed.handed_over(A, 33);
    assert_eq!(give_up(&mut followed), ["keep arcs 0", "stop", "hold none"]);

    let mut cutting = bench(2);
    cutting.hand_over_is_asked();
    cutting.handed_over(A, 30);
    assert_eq!(give_up(&mut cutting), ["hold none"]);

    let mut cut = bench(2);
    cut.the_first_is_cut();
    assert_eq!(give_up(&mut cut), ["hold none"]);
    assert_eq!(give_up(&mut bench(2)), [""; 0]);
}

#[test]
fn a_refused_cut_is_handed_over_for_again() {
    let mut bench = bench(2);
    bench.hand_over_is_asked();
    bench.handed_over(A, 30);
    assert_eq!(
        bench.refused(Error::NodeRestarted { node: A }),
        ["keep arcs 0", "show Waiting of 0"]
    );
    assert_eq!(bench.wait(), ["show Following of 0", "follow 0 after 30"]);
}

#[test]
fn a_source_that_restarts_hands_over_again_and_what_was_copied_stays() {
    let mut bench = bench(2);
    bench.hand_over_is_asked();
    // Before it has promised.
    assert_eq!(bench.restarted(A), ["show HandingOver of 0", "hand over 0"]);
    assert_eq!(
        bench.handed_over(A, 33),
        [
            "show HandingOver of 0",
            "follow 0 after 30 through 33, urgent"
        ]
    );
    // After it has.
    assert!(bench.restarted(A).is_empty());
    assert_eq!(
        bench.followed(33, 0),
        ["hold 33", "show HandingOver of 0", "hand over 0"]
    );
    bench.handed_over(A, 33);
    // The Cut is on its way: the journal knows best.
    assert!(bench.restarted(A).is_empty());
    assert_eq!(bench.recorded(34), ["hold none", "hold 0"]);
}

/// The simulator's seed 2004774 of its day: the new life refuses writers still, and nobody had told it to stop that.
#[test]
fn a_source_that_has_restarted_is_thawed_when_the_change_is_cancelled() {
    let mut bench = bench(2);
    bench.hand_over_is_asked();
    bench.handed_over(A, 33);
    assert!(bench.restarted(A).is_empty());
    bench.cancel();
    let out = bench.worked(Err(Error::Closed));
    assert_eq!(out[..2], ["keep arcs 0", "hold none"]);
}

#[test]
fn the_restart_of_a_target_changes_nothing() {
    let mut bench = bench(2);
    bench.hand_over_is_asked();
    assert!(bench.restarted(C).is_empty());
    assert!(bench.restarted(B).is_empty());
}

#[test]
fn a_node_that_restarts_before_it_has_forgotten_is_told_again() {
    let mut bench = bench(2);
    bench.both_are_cut();
    bench.checkpointed(&[(A, 60), (B, 60)]);
    assert_eq!(bench.swept(), ["forget 0"]);
    assert_eq!(bench.restarted(A), ["forget 0"]);
    // The view of the new life has a generation that only a checkpoint takes away.
    assert_eq!(bench.wait(), ["show Cleaning", "checkpoint [0]"]);
    assert_eq!(bench.checkpointed(&[(A, 70)]), ["forget 0"]);
    assert_eq!(bench.forgotten(A), ["show Cleaning", "cleaned 1 from 0"]);
}

#[test]
fn a_hold_that_is_not_answered_is_asked_for_again() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    let first = bench.task;
    assert_eq!(bench.wait(), ["hold 0"]);
    // The first answer is late, and as good as none.
    let second = std::mem::replace(&mut bench.task, first);
    assert!(bench.held().is_empty());
    bench.task = second;
    assert_eq!(bench.held(), ["show Copying of 0", "copy 0 to [2]"]);
}

#[test]
fn a_change_that_can_not_begin_is_refused_and_its_nodes_go() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    let answer = format!("answer 900: {}", disk_full());
    assert_eq!(
        bench.refused(disk_full()),
        ["retire [2]", "show Cancelled", &answer]
    );
    assert!(!bench.motion.is_moving());

    let mut bench = self::bench(2);
    bench.start(Intent::Add { weight: 1 });
    let not_made = MotionMessage::NodesReady {
        task: bench.task,
        result: Err(disk_full()),
    };
    assert_eq!(
        bench.tell(not_made),
        ["retire [2]", "show Cancelled", &answer]
    );
}

/// Its number was down for ever, and with it every node that was to be added.
#[test]
fn a_node_that_went_down_before_its_change_began_is_not_the_next_of_its_number() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    assert!(bench.down(C).is_empty());
    bench.cancel();
    let ended = ["retire [2]", "show Cancelled back"];
    assert_eq!(bench.ready()[..2], ended);
    // The supervisor may say it later still.
    assert!(bench.down(C).is_empty());
    let added = bench.start(Intent::Add { weight: 1 });
    assert_eq!(added, ["show Opening", "open [2]"]);
    assert_eq!(bench.motion.joining(), [C]);
}

#[test]
fn what_can_not_be_written_at_the_end_is_written_later() {
    let mut bench = bench(2);
    bench.both_are_cut();
    bench.checkpointed(&[(A, 60), (B, 60)]);
    bench.swept();
    bench.forgotten(A);
    assert_eq!(bench.refused(disk_full()), ["show Waiting"]);
    assert_eq!(bench.wait(), ["show Cleaning", "cleaned 1 from 0"]);
    bench.recorded(61);
    bench.swept();
    bench.forgotten(B);
    bench.recorded(62);
    assert_eq!(bench.refused(disk_full()), ["show Waiting"]);
    assert_eq!(
        bench.wait(),
        ["show Ending", "ended 1, [(0, 1), (1, 1), (2, 1)]"]
    );
}

#[test]
fn a_checkpoint_that_fails_is_asked_for_again() {
    let mut bench = bench(2);
    bench.both_are_cut();
    let failed = MotionMessage::Checkpointed {
        task: bench.task,
        result: Err(disk_full()),
    };
    assert_eq!(bench.tell(failed), ["show Waiting"]);
    // One node is past its Cut, the other is not asked about again.
    bench.wait();
    bench.checkpointed(&[(A, 60), (B, 51)]);
    assert_eq!(bench.wait(), ["show Cleaning", "checkpoint [1]"]);
}

#[test]
fn a_read_only_engine_halts_the_change_and_refuses_others() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    let error = disk_full();
    let answer = format!("answer 900: {}", error.as_read_only());
    assert_eq!(
        bench.tell(MotionMessage::ReadOnly(error)),
        ["stop", "show Halted of 0", &answer]
    );
    assert!(bench.worked(Err(Error::Closed)).is_empty());
    assert_eq!(bench.start(Intent::Add { weight: 1 }), [answer]);
    assert_eq!(bench.motion.next_timeout(), None);
}

#[test]
fn an_answer_that_leaves_open_what_is_written_halts_the_change() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    let unknown = Error::Unknown {
        reason: "a test".into(),
    };
    let answer = format!("answer 900: {}", unknown.as_read_only());
    // The joining node stays: its beginning may be in the journal.
    assert_eq!(bench.refused(unknown), ["show Halted", &answer]);
}

/// A mover after a crash.
fn reopened(bench: &Bench) -> Bench {
    Bench {
        motion: Motion::new(options(), bench.motion.ring().clone(), Time(0)),
        now: Time(0),
        task: RequestId(0),
    }
}

#[test]
fn after_a_crash_sources_that_are_not_cut_are_swept_and_copied_again() {
    let mut bench = bench(2);
    bench.the_first_is_cut();
    let mut bench = reopened(&bench);
    assert!(bench.start(Intent::Add { weight: 1 })[0].contains("a change is under way"));
    // The first is cut: only the second is left to be moved.
    assert_eq!(
        bench.tell(MotionMessage::Resume),
        ["keep arcs 1", "hold none", "hold 0"]
    );
    assert_eq!(bench.held(), ["show Sweeping of 1", "sweep 171 arcs at 2"]);
    assert_eq!(bench.swept(), ["show Copying of 1", "copy 1 to [2]"]);
}

#[test]
fn after_a_crash_what_is_cut_is_cleaned() {
    let mut bench = bench(2);
    bench.both_are_cut();
    let mut bench = reopened(&bench);
    assert_eq!(
        bench.tell(MotionMessage::Resume),
        ["hold none", "show Cleaning", "checkpoint [0, 1]"]
    );
}

#[test]
fn after_a_crash_on_the_way_back_it_goes_on_back() {
    let mut bench = bench(2);
    bench.the_first_is_cut();
    bench.cancel();
    bench.checkpointed(&[(A, 60)]);
    bench.swept();
    bench.forgotten(A);
    bench.recorded(61);
    bench.recorded(62);
    let mut bench = reopened(&bench);
    assert_eq!(
        bench.tell(MotionMessage::Resume),
        ["keep arcs 2", "hold none", "hold 0"]
    );
    assert!(bench.cancel().is_empty());
    assert_eq!(
        bench.held(),
        ["show Sweeping back of 2", "sweep 170 arcs at 0"]
    );
}

#[test]
fn without_a_change_there_is_nothing_to_go_on_with() {
    assert!(bench(2).tell(MotionMessage::Resume).is_empty());
}

#[test]
fn with_heal_wait_a_change_waits_for_a_node_that_is_down_and_can_be_cancelled() {
    let mut bench = bench(2);
    bench.motion.ground.options.heal = Heal::Wait;
    bench.hand_over_is_asked();
    // The target.
    assert_eq!(bench.down(C), ["keep arcs 0", "show Waiting of 0"]);
    assert_eq!(bench.motion.next_timeout(), None);
    assert_eq!(
        bench.cancel(),
        ["hold none", "show Ending back", "ended 1, [(0, 1), (1, 1)]"]
    );

    let mut bench = self::bench(2);
    bench.motion.ground.options.heal = Heal::Wait;
    bench.hand_over_is_asked();
    // The source.
    assert_eq!(bench.down(A), ["show Waiting of 0"]);
}

/// What a source that is down holds in memory comes back when the engine is opened again, and only the change tells what of it
/// was cut.
#[test]
fn with_heal_wait_a_source_that_goes_down_behind_its_cut_is_waited_for() {
    let mut bench = bench(2);
    bench.motion.ground.options.heal = Heal::Wait;
    bench.both_are_cut();
    bench.down(A);
    let next = bench.checkpointed(&[(B, 60)]);
    assert_eq!(next, ["show Cleaning of 1", "sweep 171 arcs at 1"]);
    bench.swept();
    bench.forgotten(B);
    assert_eq!(bench.recorded(61), ["show Waiting"]);
    assert_eq!(bench.motion.next_timeout(), None);
}

#[test]
fn a_change_that_needs_a_node_that_is_down_is_refused() {
    let mut bench = bench(3);
    bench.motion.ground.options.heal = Heal::Wait;
    bench.down(B);
    let down = format!("answer 900: {}", Error::NodeDown { node: B });
    assert_eq!(bench.start(Intent::Add { weight: 1 }), [down.as_str()]);
    assert_eq!(bench.start(Intent::Remove { node: A }), [down.as_str()]);
}

/// It began, and waited for the tree; and a node cannot be restored alone once the others have changed.
#[test]
fn a_change_that_needs_a_node_that_can_not_be_read_is_refused() {
    for heal in [Heal::TakeOver, Heal::Wait] {
        let mut bench = bench(3);
        bench.motion.ground.options.heal = heal;
        bench.motion = bench.motion.with_unreadable([B]);
        let down = format!("answer 900: {}", Error::NodeDown { node: B });
        assert_eq!(bench.start(Intent::Add { weight: 1 }), [down.as_str()]);
        assert_eq!(bench.start(Intent::Remove { node: B }), [down.as_str()]);
        assert_eq!(bench.start(Intent::Remove { node: A }), [down.as_str()]);
    }
}

#[test]
fn the_others_take_over_from_a_node_that_is_down() {
    let mut bench = bench(3);
    assert_eq!(
        bench.down(B),
        [
            "show Beginning",
            "began 1, [(0, 1), (2, 1)], 341 arcs from [1]"
        ]
    );
    // Nobody else is there to try it again.
    assert_eq!(bench.refused(disk_full()), ["show Waiting"]);
    assert_eq!(
        bench.wait(),
        [
            "show Beginning",
            "began 1, [(0, 1), (2, 1)], 341 arcs from [1]"
        ]
    );
    assert_eq!(bench.recorded(10), ["hold 0"]);
    assert_eq!(
        bench.held(),
        ["show Copying of 1", "copy 1, down, to [0, 2]"]
    );
    bench.copied(5);
    // All that it has ever committed is below the beginning.
    assert_eq!(
        bench.followed(9, 0),
        [
            "hold 9",
            "show HandingOver of 1",
            "follow 1 after 9 through 10, urgent"
        ]
    );
    assert_eq!(
        bench.followed(10, 0),
        ["hold 10", "show Cutting of 1", "cut 1 from 1 on []"]
    );
    assert_eq!(
        bench.recorded(12),
        ["hold none", "show Cleaning", "cleaned 1 from 1"]
    );
    bench.recorded(13);
    assert_eq!(bench.recorded(14), ["retire [1]", "show Done"]);
}

#[test]
fn a_take_over_can_be_cancelled_and_begins_again_only_after_another_loss() {
    let mut bench = bench(4);
    bench.down(B);
    bench.recorded(10);
    bench.cancel();
    let ended = bench.recorded(11);
    assert_eq!(ended, ["show Cancelled back", "answer 901: Cancelled"]);
    assert!(bench.down(B).is_empty());
    assert_eq!(
        bench.down(C),
        [
            "show Beginning",
            "began 2, [(0, 1), (3, 1)], 512 arcs from [1, 2]"
        ]
    );
}

#[test]
fn a_change_whose_source_goes_down_begins_anew_with_what_is_left() {
    let mut bench = bench(2);
    bench.the_first_is_cut();
    bench.held();
    bench.copied(40);
    bench.down(B);
    // What is under way ends first.
    assert_eq!(
        bench.followed(42, 0),
        ["hold 42", "show Cleaning of 1", "checkpoint [0]"]
    );
    bench.checkpointed(&[(A, 50)]);
    bench.swept();
    bench.forgotten(A);
    assert_eq!(
        bench.recorded(60),
        [
            "show Beginning of 1",
            "began 2, [(0, 1), (1, 1), (2, 1)], 171 arcs from [1]"
        ]
    );
    // What was copied stays good, and its end is known now.
    assert_eq!(
        bench.recorded(61),
        ["show Following of 1", "follow 1 after 42"]
    );
    bench.followed(62, 0);
    assert_eq!(
        bench.recorded(63),
        ["hold none", "show Cleaning of 1", "sweep 171 arcs at 1"]
    );
    // Nobody is there to forget.
    assert_eq!(bench.swept(), ["show Cleaning", "cleaned 2 from 1"]);
    bench.recorded(64);
    // The change is done, and the others take over what is left to the lost node.
    assert_eq!(
        bench.recorded(65),
        [
            "show Done",
            "answer 900: Completed",
            "show Beginning",
            "began 3, [(0, 1), (2, 1)], 341 arcs from [1]"
        ]
    );
}

/// A change that adds C, which has got its arcs of A when B goes down, and begins anew with those of B.
fn begun_anew() -> Bench {
    let mut bench = bench(2);
    bench.the_first_is_cut();
    bench.held();
    bench.copied(40);
    bench.down(B);
    bench.followed(42, 0);
    bench.checkpointed(&[(A, 50)]);
    bench.swept();
    bench.forgotten(A);
    bench.recorded(60);
    bench.recorded(61);
    bench
}

/// The end was refused for ever: C was to go with what it owned.
#[test]
fn what_was_cut_before_a_change_began_anew_stays_where_it_is_when_that_is_undone() {
    let mut bench = begun_anew();
    assert_eq!(bench.cancel(), ["stop"]);
    assert_eq!(
        bench.worked(Err(Error::Closed)),
        ["hold none", "show Sweeping back", "sweep 171 arcs at 2"]
    );
    assert_eq!(bench.swept(), ["forget 2"]);
    assert_eq!(
        bench.forgotten(C),
        ["show Ending back", "ended 2, [(0, 1), (1, 1), (2, 1)]"]
    );
    let ended = bench.recorded(70);
    assert_eq!(
        ended[..3],
        [
            "show Cancelled back",
            "answer 900: Cancelled",
            "answer 901: Cancelled"
        ]
    );
    // The source is still down.
    assert_eq!(
        ended[3..],
        [
            "show Beginning",
            "began 3, [(0, 1), (2, 1)], 512 arcs from [1]"
        ]
    );
}

#[test]
fn a_change_that_began_anew_and_loses_its_target_too_ends_and_both_are_taken_over() {
    let mut bench = begun_anew();
    bench.down(C);
    bench.worked(Err(Error::Closed));
    assert_eq!(
        bench.swept(),
        ["show Ending back", "ended 2, [(0, 1), (1, 1), (2, 1)]"]
    );
    let ended = bench.recorded(70);
    assert_eq!(
        ended.last().map(String::as_str),
        Some("began 3, [(0, 1)], 682 arcs from [1, 2]")
    );
}

#[test]
fn a_change_whose_target_goes_down_is_undone() {
    let mut bench = bench(2);
    bench.the_first_is_cut();
    assert_eq!(
        bench.down(C),
        ["hold none", "show Cleaning back", "checkpoint [0]"]
    );
    bench.checkpointed(&[(A, 40)]);
    bench.swept();
    bench.forgotten(A);
    assert_eq!(
        bench.recorded(50),
        [
            "show Beginning back",
            "began 2, [(0, 1), (1, 1)], 170 arcs from [2]"
        ]
    );
    bench.recorded(51);
    assert_eq!(
        bench.held(),
        ["show Copying back of 2", "copy 2, down, to [0]"]
    );
}

#[test]
fn a_way_back_that_is_lost_too_ends_where_it_is_and_is_taken_over() {
    let mut bench = bench(3);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    bench.copied(20);
    bench.followed(30, 0);
    bench.handed_over(A, 30);
    bench.recorded(32);
    bench.cancel();
    bench.checkpointed(&[(A, 40)]);
    bench.swept();
    bench.forgotten(A);
    bench.recorded(41);
    assert_eq!(bench.recorded(42), ["hold 0"]);
    let answer = Error::NodeDown { node: A };
    assert_eq!(
        bench.down(A),
        ["hold none", "show Sweeping back", "sweep 938 arcs at 3"]
    );
    // It was to leave with what the others had copied there; now it stays.
    assert_eq!(bench.swept(), ["forget 3"]);
    assert_eq!(
        bench.forgotten(NodeId(3)),
        [
            "show Ending back",
            "ended 2, [(0, 1), (1, 1), (2, 1), (3, 1)]"
        ]
    );
    assert_eq!(
        bench.recorded(43),
        [
            "show Cancelled back",
            &format!("answer 900: {answer}"),
            &format!("answer 901: {answer}"),
            "show Beginning",
            "began 3, [(1, 1), (2, 1), (3, 1)], 256 arcs from [0]"
        ]
    );
}

/// The simulator's seed 207118862302825: the take-over named the life that was over, and was refused for ever.
#[test]
fn a_source_that_goes_down_while_its_cut_is_on_its_way_is_taken_over_from_without_its_word() {
    let life = Error::NodeRestarted { node: A };
    let down = Error::NodeDown { node: A };
    for refusal in [life, down] {
        let mut bench = bench(2);
        bench.hand_over_is_asked();
        bench.handed_over(A, 30);
        assert!(bench.down(A).is_empty());
        assert_eq!(bench.refused(refusal), ["show Waiting of 0"]);
        assert_eq!(
            bench.wait(),
            [
                "show Beginning of 0",
                "began 2, [(0, 1), (1, 1), (2, 1)], 341 arcs from [0, 1]"
            ]
        );
        bench.recorded(40);
        assert_eq!(
            bench.followed(40, 0),
            ["hold 40", "show Cutting of 0", "cut 2 from 0 on []"]
        );
    }
}

#[test]
fn a_change_that_began_before_the_journal_had_heard_of_the_loss_begins_anew() {
    let mut bench = bench(3);
    bench.down(B);
    bench.recorded(10);
    bench.held();
    bench.copied(5);
    bench.followed(10, 0);
    let late = Error::NodeDown { node: B };
    assert_eq!(bench.refused(late), ["show Waiting of 1"]);
    assert_eq!(
        bench.wait(),
        [
            "show Beginning of 1",
            "began 2, [(0, 1), (2, 1)], 341 arcs from [1]"
        ]
    );
    // What was copied stays good.
    assert_eq!(
        bench.recorded(20),
        ["show Following of 1", "follow 1 after 10"]
    );
    assert_eq!(
        bench.followed(20, 0),
        ["hold 20", "show Cutting of 1", "cut 2 from 1 on []"]
    );
}

fn unreadable(node: NodeId) -> Error {
    Error::CorruptTree {
        node,
        file: "tree".into(),
        reason: "a test".into(),
    }
}

#[test]
fn a_take_over_from_a_node_that_can_not_be_read_is_undone_and_not_begun_again() {
    let mut bench = bench(3);
    bench.down(B);
    bench.recorded(10);
    bench.held();
    assert_eq!(
        bench.worked(Err(unreadable(B))),
        ["hold none", "show Sweeping back", "sweep 170 arcs at 0"]
    );
    assert_eq!(bench.swept(), ["show Sweeping back", "sweep 171 arcs at 2"]);
    assert_eq!(bench.swept(), ["forget 0"]);
    assert_eq!(bench.forgotten(A), ["forget 2"]);
    assert_eq!(
        bench.forgotten(C),
        ["show Ending back", "ended 1, [(0, 1), (1, 1), (2, 1)]"]
    );
    assert_eq!(bench.recorded(11), ["show Cancelled back"]);
    // Another loss is taken over, and the one that can't be read takes nothing.
    assert_eq!(
        bench.down(C),
        [
            "show Beginning",
            "began 2, [(0, 1), (1, 1)], 341 arcs from [2]"
        ]
    );
    bench.recorded(12);
    assert_eq!(bench.held(), ["show Copying of 2", "copy 2, down, to [0]"]);
}

#[test]
fn a_tree_that_can_not_be_read_of_a_node_that_is_up_is_tried_again() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    assert_eq!(bench.worked(Err(unreadable(A))), ["show Waiting of 0"]);
}

#[test]
fn where_all_others_are_down_nobody_takes_over() {
    let mut bench = bench(2);
    bench.down(A);
    bench.motion.ground.down.insert(B);
    assert!(bench.recorded(1).len() > 1, "it had begun");
    let mut bench = self::bench(1);
    assert!(bench.down(A).is_empty());
}

#[test]
fn no_arc_comes_to_a_node_whose_tree_is_behind_a_cut_of_before() {
    let mut bench = bench(2);
    bench.both_are_cut();
    // The last Cut was at 52. A was down then, and the change ended.
    let mut ring = bench.motion.ring().clone();
    for (lsn, from) in [(60, A), (61, B)] {
        let change = 1;
        let cleaned = RingRecord::Cleaned { change, from };
        ring.apply(Lsn(lsn), &cleaned).unwrap();
    }
    let members = ring.ring().nodes().to_vec();
    let change = 1;
    ring.apply(Lsn(62), &RingRecord::Ended { change, members })
        .unwrap();
    let complete = [(A, Lsn(40)), (B, Lsn(70)), (C, Lsn(70))];
    bench.motion = Motion::new(options(), ring, Time(0)).with_complete(complete);
    bench.start(Intent::SetWeight { node: A, weight: 2 });
    assert_eq!(bench.recorded(80), ["show Sweeping of 1", "checkpoint [0]"]);
    assert_eq!(bench.checkpointed(&[(A, 51)]), ["show Waiting of 1"]);
    assert_eq!(bench.wait(), ["show Sweeping of 1", "checkpoint [0]"]);
    assert_eq!(bench.checkpointed(&[(A, 80)]), ["hold 0"]);
    assert_eq!(bench.held(), ["show Copying of 1", "copy 1 to [0]"]);
}

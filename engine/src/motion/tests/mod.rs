//! The mover, message by message: each test asserts everything that it wants done, in order.
//!
//! An effect is rendered as a line: `copy 0 to [2]`.

mod failures;
mod random;
mod undoing;

use super::*;
use crate::{
    ids::{Incarnation, Lsn},
    ring::Ring,
    ring_state::RingRecord,
};
use std::sync::Arc;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);
const LIFE: Incarnation = Incarnation(7);
const STARTER: RequestId = RequestId(900);
const CANCELLER: RequestId = RequestId(901);
const MS: u64 = 1_000_000;

struct Bench {
    motion: Motion,
    now: Time,
    /// The last task of which the answer is waited for.
    task: RequestId,
}

fn options() -> MotionOptions {
    MotionOptions {
        caught_up_bytes: 10,
        rounds: 3,
        ..MotionOptions::default()
    }
}

/// A ring of nodes of equal weight.
fn ring(nodes: u16) -> RingState {
    let members: Vec<_> = (0..nodes).map(|node| (NodeId(node), 1)).collect();
    RingState::new(Ring::new(10, &members).unwrap())
}

fn bench(nodes: u16) -> Bench {
    Bench {
        motion: Motion::new(options(), ring(nodes), Time(0)),
        now: Time(0),
        task: RequestId(0),
    }
}

impl Bench {
    fn tell(&mut self, message: MotionMessage) -> Vec<String> {
        let mut out = Vec::new();
        self.motion.handle(self.now, message, &mut out);
        self.lines(&out)
    }

    /// Lets time pass up to when the mover asks for it.
    fn wait(&mut self) -> Vec<String> {
        self.now = self.motion.next_timeout().expect("it waits for something");
        let mut out = Vec::new();
        self.motion.handle_timeout(self.now, &mut out);
        self.lines(&out)
    }

    fn lines(&mut self, out: &[MotionEffect]) -> Vec<String> {
        for effect in out {
            match effect {
                MotionEffect::OpenNodes { task, .. }
                | MotionEffect::Checkpoint { task, .. }
                | MotionEffect::Work { task, .. }
                | MotionEffect::Hold {
                    task,
                    through: Some(Lsn(0)),
                } => self.task = *task,
                MotionEffect::Journal(asked) => self.task = asked.request,
                MotionEffect::HandOver { attempt, .. } => self.task = RequestId(*attempt),
                _ => {}
            }
        }
        out.iter().map(line).collect()
    }

    fn start(&mut self, intent: Intent) -> Vec<String> {
        self.tell(MotionMessage::Start {
            request: STARTER,
            intent,
            held: vec![(A, 1_000), (B, 500)],
        })
    }

    fn cancel(&mut self) -> Vec<String> {
        self.tell(MotionMessage::Cancel { request: CANCELLER })
    }

    fn ready(&mut self) -> Vec<String> {
        self.tell(MotionMessage::NodesReady {
            task: self.task,
            result: Ok(()),
        })
    }

    fn recorded(&mut self, lsn: u64) -> Vec<String> {
        self.tell(MotionMessage::RingAnswer(self.task, Ok(Lsn(lsn))))
    }

    fn refused(&mut self, error: Error) -> Vec<String> {
        self.tell(MotionMessage::RingAnswer(self.task, Err(error)))
    }

    fn held(&mut self) -> Vec<String> {
        self.tell(MotionMessage::Held { task: self.task })
    }

    fn worked(&mut self, result: Result<Work>) -> Vec<String> {
        let task = self.task;
        self.tell(MotionMessage::Worked { task, result })
    }

    fn swept(&mut self) -> Vec<String> {
        self.worked(Ok(Work::Swept))
    }

    fn copied(&mut self, at: u64) -> Vec<String> {
        let moved = Moved {
            keys: 10,
            bytes: 100,
        };
        self.worked(Ok(Work::Copied { at: Lsn(at), moved }))
    }

    fn followed(&mut self, through: u64, bytes: u64) -> Vec<String> {
        let moved = Moved { keys: 1, bytes };
        let through = Lsn(through);
        self.worked(Ok(Work::Followed { through, moved }))
    }

    fn handed_over(&mut self, node: NodeId, through: u64) -> Vec<String> {
        let change = self
            .motion
            .ring()
            .running()
            .expect("a change runs")
            .change
            .number;
        self.tell(MotionMessage::HandedOver {
            node,
            change,
            attempt: self.task.0,
            incarnation: LIFE,
            through: Lsn(through),
        })
    }

    fn checkpointed(&mut self, complete: &[(NodeId, u64)]) -> Vec<String> {
        let complete = complete.iter().map(|(node, lsn)| (*node, Lsn(*lsn)));
        self.tell(MotionMessage::Checkpointed {
            task: self.task,
            result: Ok(complete.collect()),
        })
    }

    fn forgotten(&mut self, node: NodeId) -> Vec<String> {
        let change = self
            .motion
            .ring()
            .running()
            .expect("a change runs")
            .change
            .number;
        self.tell(MotionMessage::Forgotten { node, change })
    }

    fn restarted(&mut self, node: NodeId) -> Vec<String> {
        self.tell(MotionMessage::NodeRestarted { node })
    }

    fn down(&mut self, node: NodeId) -> Vec<String> {
        self.tell(MotionMessage::NodeDown { node })
    }

    /// Brings a change of one more node to where the first source is asked to hand over. Its Began is at LSN 10, its copy at
    /// 20, and it has followed through 30.
    fn hand_over_is_asked(&mut self) {
        self.start(Intent::Add { weight: 1 });
        self.ready();
        self.recorded(10);
        self.held();
        self.copied(20);
        let asked = self.followed(30, 5);
        assert_eq!(asked, ["hold 30", "show HandingOver of 0", "hand over 0"]);
    }

    /// Goes on from there until the first source is cut at LSN 32, and the journal is to be held for the second.
    fn the_first_is_cut(&mut self) {
        self.hand_over_is_asked();
        self.handed_over(A, 30);
        let next = self.recorded(32);
        assert_eq!(next, ["hold none", "hold 0"]);
    }

    /// Goes on from there until the second source is cut too, at LSN 52, and a checkpoint is asked for.
    fn both_are_cut(&mut self) {
        self.the_first_is_cut();
        self.held();
        self.copied(40);
        self.followed(50, 0);
        self.handed_over(B, 50);
        let next = self.recorded(52);
        assert_eq!(next, ["hold none", "show Cleaning", "checkpoint [0, 1]"]);
    }
}

fn numbers(nodes: &[NodeId]) -> Vec<u16> {
    nodes.iter().map(|node| node.0).collect()
}

fn members(members: &[(NodeId, u32)]) -> Vec<(u16, u32)> {
    members
        .iter()
        .map(|(node, weight)| (node.0, *weight))
        .collect()
}

/// An effect as the tests read it.
fn line(effect: &MotionEffect) -> String {
    match effect {
        MotionEffect::OpenNodes { nodes, .. } => format!("open {:?}", numbers(nodes)),
        MotionEffect::RetireNodes(nodes) => format!("retire {:?}", numbers(nodes)),
        MotionEffect::Journal(asked) => match &asked.record {
            RingRecord::Began(change) => format!(
                "began {}, {:?}, {} arcs from {:?}",
                change.number,
                members(&change.members),
                change.moves.len(),
                numbers(&change.sources().into_iter().collect::<Vec<_>>()),
            ),
            RingRecord::Cut { change, from } => {
                let lives: Vec<_> = asked.lives.iter().map(|(n, l)| (n.0, l.0)).collect();
                format!("cut {change} from {from} on {lives:?}")
            }
            RingRecord::Cleaned { change, from } => format!("cleaned {change} from {from}"),
            RingRecord::Ended {
                change,
                members: to,
            } => {
                format!("ended {change}, {:?}", members(to))
            }
        },
        MotionEffect::Hold { through, .. } => match through {
            Some(through) => format!("hold {through}"),
            None => "hold none".into(),
        },
        MotionEffect::Checkpoint { nodes, .. } => {
            format!("checkpoint {:?}", numbers(nodes))
        }
        MotionEffect::HandOver { node, .. } => format!("hand over {node}"),
        MotionEffect::KeepArcs { node, .. } => format!("keep arcs {node}"),
        MotionEffect::Forget { node, .. } => format!("forget {node}"),
        MotionEffect::Work { job, .. } => match job {
            Job::Sweep { node, arcs } => format!("sweep {} arcs at {node}", arcs.len()),
            Job::Copy {
                source,
                is_down,
                targets,
            } => {
                let down = if *is_down { ", down," } else { "" };
                format!("copy {source}{down} to {:?}", numbers(targets.nodes()))
            }
            Job::Follow {
                source,
                after,
                through,
                is_urgent,
                ..
            } => {
                let through =
                    through.map_or(String::new(), |through| format!(" through {through}"));
                let urgent = if *is_urgent { ", urgent" } else { "" };
                format!("follow {source} after {after}{through}{urgent}")
            }
        },
        MotionEffect::Stop { .. } => "stop".into(),
        MotionEffect::Progress(progress) => {
            let undoing = if progress.is_undoing { " back" } else { "" };
            let source = progress
                .source
                .map_or(String::new(), |node| format!(" of {node}"));
            format!("show {:?}{undoing}{source}", progress.step)
        }
        MotionEffect::Answer(request, Ok(ending)) => format!("answer {request}: {ending:?}"),
        MotionEffect::Answer(request, Err(error)) => format!("answer {request}: {error}"),
    }
}

#[test]
fn a_node_is_added_source_by_source() {
    let mut bench = bench(2);
    assert_eq!(
        bench.start(Intent::Add { weight: 1 }),
        ["show Opening", "open [2]"]
    );
    assert_eq!(
        bench.ready(),
        [
            "show Beginning",
            "began 1, [(0, 1), (1, 1), (2, 1)], 341 arcs from [0, 1]"
        ]
    );
    // The journal is held before the copy chooses its position.
    assert_eq!(bench.recorded(10), ["hold 0"]);
    assert_eq!(bench.held(), ["show Copying of 0", "copy 0 to [2]"]);
    assert_eq!(
        bench.copied(20),
        ["hold 20", "show Following of 0", "follow 0 after 20"]
    );
    assert_eq!(
        bench.followed(25, 11),
        ["hold 25", "show Following of 0", "follow 0 after 25"]
    );
    // Little was left.
    assert_eq!(
        bench.followed(30, 10),
        ["hold 30", "show HandingOver of 0", "hand over 0"]
    );
    assert_eq!(
        bench.handed_over(A, 33),
        [
            "show HandingOver of 0",
            "follow 0 after 30 through 33, urgent"
        ]
    );
    assert_eq!(
        bench.followed(33, 100),
        ["hold 33", "show Cutting of 0", "cut 1 from 0 on [(0, 7)]"]
    );
    assert_eq!(bench.recorded(34), ["hold none", "hold 0"]);

    assert_eq!(bench.held(), ["show Copying of 1", "copy 1 to [2]"]);
    bench.copied(40);
    bench.followed(50, 0);
    // Nothing came between: there is nothing to follow.
    assert_eq!(
        bench.handed_over(B, 50),
        ["show Cutting of 1", "cut 1 from 1 on [(1, 7)]"]
    );
    assert_eq!(
        bench.recorded(52),
        ["hold none", "show Cleaning", "checkpoint [0, 1]"]
    );

    assert_eq!(
        bench.checkpointed(&[(A, 60), (B, 60)]),
        ["show Cleaning of 0", "sweep 170 arcs at 0"]
    );
    assert_eq!(bench.swept(), ["forget 0"]);
    assert_eq!(bench.forgotten(A), ["show Cleaning", "cleaned 1 from 0"]);
    assert_eq!(
        bench.recorded(61),
        ["show Cleaning of 1", "sweep 171 arcs at 1"]
    );
    assert_eq!(bench.swept(), ["forget 1"]);
    assert_eq!(bench.forgotten(B), ["show Cleaning", "cleaned 1 from 1"]);
    assert_eq!(
        bench.recorded(62),
        ["show Ending", "ended 1, [(0, 1), (1, 1), (2, 1)]"]
    );
    assert_eq!(bench.recorded(63), ["show Done", "answer 900: Completed"]);
    assert!(!bench.motion.is_moving());
    assert_eq!(bench.motion.next_timeout(), None);
}

#[test]
fn a_node_that_leaves_gives_all_to_the_others_in_one_pass_and_is_removed_not_swept() {
    let mut bench = bench(3);
    assert_eq!(
        bench.start(Intent::Remove { node: B }),
        [
            "show Beginning",
            "began 1, [(0, 1), (2, 1)], 341 arcs from [1]"
        ]
    );
    assert_eq!(bench.recorded(10), ["hold 0"]);
    assert_eq!(bench.held(), ["show Copying of 1", "copy 1 to [0, 2]"]);
    bench.copied(20);
    bench.followed(20, 0);
    bench.handed_over(B, 20);
    assert_eq!(
        bench.recorded(21),
        ["hold none", "show Cleaning", "cleaned 1 from 1"]
    );
    // It would be unclean if it came back: from here on there is no way back.
    assert!(bench.cancel().is_empty());
    assert_eq!(
        bench.recorded(22),
        ["show Ending", "ended 1, [(0, 1), (2, 1)]"]
    );
    assert_eq!(
        bench.recorded(23),
        [
            "retire [1]",
            "show Done",
            "answer 900: Completed",
            "answer 901: Completed"
        ]
    );
}

#[test]
fn a_lighter_node_gives_and_a_heavier_one_takes() {
    let mut bench = bench(3);
    assert_eq!(
        bench.start(Intent::SetWeight { node: A, weight: 2 }),
        [
            "show Beginning",
            "began 1, [(0, 2), (1, 1), (2, 1)], 170 arcs from [1, 2]"
        ]
    );
}

#[test]
fn a_source_that_writes_faster_than_is_copied_hands_over_after_some_rounds() {
    let mut bench = bench(2);
    bench.start(Intent::Add { weight: 1 });
    bench.ready();
    bench.recorded(10);
    bench.held();
    assert_eq!(bench.copied(20).last().unwrap(), "follow 0 after 20");
    assert_eq!(bench.followed(30, 500).last().unwrap(), "follow 0 after 30");
    let third = bench.followed(40, 500);
    assert_eq!(third.last().unwrap(), "follow 0 after 40, urgent");
    assert_eq!(
        bench.followed(50, 500),
        ["hold 50", "show HandingOver of 0", "hand over 0"]
    );
}

#[test]
fn progress_counts_arcs_keys_and_bytes() {
    let mut bench = bench(2);
    bench.the_first_is_cut();
    bench.held();
    let mut out = Vec::new();
    let working = MotionMessage::Working {
        task: bench.task,
        keys: 3,
        bytes: 30,
    };
    bench.motion.handle(bench.now, working, &mut out);
    let progress = Progress {
        change: 1,
        step: Step::Copying,
        is_undoing: false,
        source: Some(B),
        taken_over: Vec::new(),
        arcs_done: 170,
        arcs_total: 341,
        moved: Moved {
            keys: 10 + 1 + 3,
            bytes: 100 + 5 + 30,
        },
        // A third of what each holds.
        bytes_estimated: 332 + 166,
        failure: None,
    };
    assert_eq!(out, [MotionEffect::Progress(progress)]);
}

#[test]
fn one_change_runs_at_a_time_and_what_the_ring_refuses_never_begins() {
    let mut bench = bench(2);
    let refused = bench.start(Intent::Remove { node: C });
    assert_eq!(
        refused,
        ["answer 900: node can't be 2: it is not a member of the ring"]
    );
    assert_eq!(
        bench.cancel(),
        [
            "answer 901: the ring was not changed: no change is under way that could be cancelled; look at the nodes again, then plan anew"
        ]
    );
    bench.start(Intent::Add { weight: 1 });
    assert_eq!(
        bench.start(Intent::Add { weight: 1 }),
        [
            "answer 900: the ring was not changed: a change is under way already; wait for its end, or cancel it; look at the nodes again, then plan anew"
        ]
    );
}

#[test]
fn a_plan_says_what_moves_before_anything_does() {
    let state = ring(2);
    let held = |node: NodeId| if node == A { 1_000 } else { 500 };
    let plan = Plan::new(&state, Intent::Add { weight: 1 }, &held).unwrap();
    let flow = |from, arcs, bytes| Flow {
        from,
        to: C,
        arcs,
        bytes,
    };
    assert_eq!(plan.flows, [flow(A, 170, 332), flow(B, 171, 166)]);
    assert_eq!((&plan.joining[..], &plan.leaving[..]), (&[C][..], &[][..]));
    assert_eq!((plan.fewest, plan.bytes()), (341, 498));

    let plan = Plan::new(&ring(4), Intent::Remove { node: B }, &held).unwrap();
    assert_eq!((plan.fewest, plan.change.moves.len()), (256, 256));
    assert_eq!(plan.leaving, [B]);
    assert_eq!(plan.bytes(), 166 + 166 + 167);
}

#[test]
fn plans_move_the_fewest_arcs_for_equal_weights_and_nearly_for_others() {
    let mut state = RingState::new(Ring::new(12, &[(A, 1)]).unwrap());
    let mut lsn = 0;
    for step in 1..12_u32 {
        let weight = if step < 6 { 1 } else { step % 3 + 1 };
        let plan = Plan::new(&state, Intent::Add { weight }, &|_| 0).unwrap();
        let moved = plan.change.moves.len();
        if step < 6 {
            assert_eq!(moved, plan.fewest, "step {step}");
        }
        assert!(
            moved >= plan.fewest && moved * 100 <= plan.fewest * 105,
            "{moved} of {}",
            plan.fewest
        );
        // Carried out at once.
        let change = Arc::new(plan.change);
        let number = change.number;
        let cut = |from| RingRecord::Cut {
            change: number,
            from,
        };
        let cleaned = |from| RingRecord::Cleaned {
            change: number,
            from,
        };
        let mut records = vec![RingRecord::Began(Arc::clone(&change))];
        records.extend(
            change
                .sources()
                .into_iter()
                .flat_map(|from| [cut(from), cleaned(from)]),
        );
        records.push(RingRecord::Ended {
            change: number,
            members: change.members.clone(),
        });
        for record in records {
            lsn += 1;
            state.apply(Lsn(lsn), &record).unwrap();
        }
    }
}

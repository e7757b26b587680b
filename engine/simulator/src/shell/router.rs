//! The shell of the router: carries the machine that changes the ring, and publishes routes.
//!
//! A panic of a handler is taken back with everything that it has changed, and the message is handled once more; so is each
//! effect. If that panics again the change stops where it is until the engine is opened again. If it was the publication of a
//! ring, the engine turns read-only.

use super::panicked;
use crate::{
    faults::Fault,
    mutation::Mutation,
    network::{Message, Party},
    pin::Member,
    report::Seen,
    world::{Wake, World},
};
use mailring_engine::{
    Error, Result,
    checkpoint::CheckpointMessage,
    generation::Generation,
    ids::{DirectoryNo, Lsn, NodeId, RequestId, Time},
    motion::{Intent, Motion, MotionEffect, MotionMessage, Step},
    participant::NodeMessage,
    replay::ReplayedNode,
    ring_state::{RingRecord, RingState},
    routes::Routed,
    sequencer::JournalMessage,
    store::Store,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The shell of the router.
pub(crate) struct RouterShell {
    pub(crate) machine: Motion,
    /// Set by one panic too many.
    pub(crate) is_dead: bool,
    /// Who wants to hear how a change ends.
    pub(crate) asked: BTreeSet<RequestId>,
    /// What the last change is busy with.
    pub(crate) step: Option<Step>,
    /// Where the node shall live that the change under way adds.
    directory: Option<DirectoryNo>,
    /// What the last addition that was begun has asked for, for the checker.
    pub(crate) wanted: Option<DirectoryNo>,
    /// Checkpoints that were asked for: the task, and whose complete LSNs it wants.
    pub(super) checkpoints: BTreeMap<RequestId, (RequestId, Vec<NodeId>)>,
    /// Checkpoints that have ended, and are waited for to be shown.
    shown: Vec<Shown>,
}

/// How long nodes may take to show what a checkpoint has written, in steps.
const FLUSHED_WITHIN: u64 = 60;

struct Shown {
    task: RequestId,
    nodes: Vec<NodeId>,
    lsn: Lsn,
    give_up: Time,
}

impl RouterShell {
    pub(crate) fn new(machine: Motion) -> Self {
        Self {
            machine,
            is_dead: false,
            asked: BTreeSet::new(),
            step: None,
            directory: None,
            wanted: None,
            checkpoints: BTreeMap::new(),
            shown: Vec::new(),
        }
    }
}

impl World {
    /// Somebody wants the ring changed.
    pub(crate) fn change_the_ring(&mut self) {
        /// With more nodes a ring so small can't be shared out.
        const MOST: usize = 6;
        let nodes = self.process.routes.ring().nodes().to_vec();
        let (node, _) = nodes[self.schedule.below(nodes.len())];
        let weight = self.schedule.pick(&[1, 1, 1, 2, 2, 3]);
        let intent = match self.schedule.below(5) {
            0..2 if nodes.len() < MOST => Intent::Add { weight },
            2..4 if nodes.len() > 1 => Intent::Remove { node },
            _ => Intent::SetWeight { node, weight },
        };
        let directories = self.process.placement.directories();
        let is_placed = matches!(intent, Intent::Add { .. }) && directories > 1;
        let is_placed = is_placed && self.schedule.chance(2);
        let directory = is_placed.then(|| DirectoryNo(self.schedule.below(directories) as u8));
        let message = Message::ChangeRing(intent, directory);
        self.send(Party::Client(u8::MAX), Party::Router, message);
    }

    pub(crate) fn ring_is_to_change(&mut self, intent: Intent, directory: Option<DirectoryNo>) {
        let request = RequestId(self.next_number());
        let router = &mut self.process.router;
        if router.is_dead {
            return;
        }
        let is_first = !router.machine.is_moving() && router.machine.ring().running().is_none();
        if is_first {
            // One that is refused leaves that of the one under way as it is.
            router.directory = directory;
        }
        router.asked.insert(request);
        let held = Vec::new();
        self.motion_step(MotionMessage::Start {
            request,
            intent,
            held,
        });
        let router = &mut self.process.router;
        if let [node] = *router.machine.joining()
            && is_first
        {
            let in_turn = self.process.placement.in_turn(node);
            router.wanted = Some(directory.unwrap_or(in_turn));
        }
    }

    pub(crate) fn change_is_to_be_cancelled(&mut self) {
        let request = RequestId(self.next_number());
        if self.process.router.is_dead {
            return;
        }
        self.process.router.asked.insert(request);
        if self.mutated(Mutation::ThawBehindCut)
            && self.process.router.step == Some(Step::Cutting)
            && let Some(running) = self.process.router.machine.ring().running()
        {
            let change = running.change.number;
            for node in running.change.sources() {
                let keep = Message::Node(NodeMessage::KeepArcs { change });
                self.send(Party::Router, Party::Node(node.0), keep);
            }
        }
        self.motion_step(MotionMessage::Cancel { request });
    }

    pub(crate) fn motion_step(&mut self, message: MotionMessage) {
        let is_broken = match &message {
            MotionMessage::NodeRestarted { .. } => {
                matches!(self.process.router.step, Some(Step::HandingOver))
            }
            MotionMessage::RingAnswer(_, Err(Error::NodeRestarted { .. })) => true,
            _ => false,
        };
        self.count(Seen::HandOverVoid, is_broken.into());
        if let MotionMessage::Worked { result: Err(_), .. } = &message {
            self.count(Seen::MoverFailed, 1);
        }
        let now = self.now;
        self.with_motion(|motion, out| motion.handle(now, message.clone(), out));
    }

    pub(crate) fn tick_router(&mut self) {
        let (now, due) = (self.now, self.process.router.machine.next_timeout());
        if due.is_some_and(|due| due <= now) {
            self.with_motion(|motion, out| motion.handle_timeout(now, out));
        }
    }

    fn with_motion(&mut self, handle: impl Fn(&mut Motion, &mut Vec<MotionEffect>)) {
        if self.process.router.is_dead {
            return;
        }
        if self.strikes(Fault::RouterPanics) {
            let (mut machine, mut out) = (self.process.router.machine.clone(), Vec::new());
            handle(&mut machine, &mut out);
            if self.strikes(Fault::RestartPanics) {
                return self.router_dies();
            }
        }
        let mut out = Vec::new();
        handle(&mut self.process.router.machine, &mut out);
        for effect in out {
            if self.strikes(Fault::EffectPanics) && self.strikes(Fault::RestartPanics) {
                self.router_dies();
            } else {
                self.carry_out_motion(effect);
            }
        }
    }

    fn router_dies(&mut self) {
        self.process.router.is_dead = true;
        self.process.router.asked.clear();
    }

    fn carry_out_motion(&mut self, effect: MotionEffect) {
        let from = Party::Router;
        match effect {
            MotionEffect::OpenNodes { task, nodes } => {
                let directory = self.process.router.directory;
                let message = Message::OpenNodes(task, nodes, directory);
                self.send(from, Party::Mover, message);
            }
            MotionEffect::RetireNodes(nodes) => self.retire(&nodes),
            MotionEffect::Journal(mut request) => {
                if let RingRecord::Began(_) = &request.record {
                    let turns = self.process.router.machine.ring().running().is_some();
                    self.count(Seen::RingBegan, 1);
                    self.count(Seen::RingTurned, turns.into());
                    self.check_where_nodes_join();
                }
                if self.mutated(Mutation::ForgetPrepared) {
                    // Its own word does not bind a life that was asked for it only now.
                    let current = self.process.sequencer.catalogue().incarnations;
                    for (node, life) in &mut request.lives {
                        *life = current[usize::from(node.0)];
                    }
                }
                let message = Message::Journal(JournalMessage::Ring(request));
                self.send(from, Party::Journal, message);
            }
            MotionEffect::Hold { task, through } => {
                self.send(from, Party::Checkpointer, Message::Hold(task, through));
            }
            MotionEffect::Checkpoint { task, nodes } => self.ask_for_tree(task, nodes),
            MotionEffect::HandOver {
                node,
                change,
                attempt,
                arcs,
            } => self.hand_over(node, change, attempt, arcs),
            MotionEffect::KeepArcs { node, change } => {
                let message = Message::Node(NodeMessage::KeepArcs { change });
                self.send(from, Party::Node(node.0), message);
            }
            MotionEffect::Forget { node, change } => self.forget_arcs(node, change),
            MotionEffect::Work { task, job } => {
                self.send(from, Party::Mover, Message::Move(task, job));
            }
            MotionEffect::Stop { task } => self.process.mover.stop(task),
            MotionEffect::Progress(progress) => {
                let step = progress.step;
                self.process.router.step = Some(step);
                self.trace.note(step as u64 | 0xa0 << 32);
                let (steps, source) = (self.steps, progress.source);
                self.trace
                    .line(format_args!("{steps:>6} ring: {step:?} {source:?}"));
                match step {
                    Step::Done => self.count(Seen::RingDone, 1),
                    Step::Cancelled if progress.failure.is_some() => {
                        self.count(Seen::RingRefused, 1);
                    }
                    Step::Cancelled => self.count(Seen::RingUndone, 1),
                    _ => {}
                }
            }
            MotionEffect::Answer(request, result) => {
                self.trace.note(request.0 << 1 | u64::from(result.is_ok()));
                let is_asked = self.process.router.asked.remove(&request);
                assert!(
                    is_asked || self.process.router.is_dead,
                    "{request:?} was answered twice: {result:?}"
                );
            }
        }
    }

    /// One that no record names goes out of the routes: the next that joins has its number.
    fn retire(&mut self, nodes: &[NodeId]) {
        let known = self.process.router.machine.ring().slots().len();
        let (left, unknown): (Vec<NodeId>, Vec<NodeId>) =
            nodes.iter().partition(|node| usize::from(node.0) < known);
        for node in left {
            let left = Message::Checkpoint(CheckpointMessage::NodeDown(node));
            self.send(Party::Router, Party::Checkpointer, left);
        }
        if !unknown.is_empty() && !self.mutated(Mutation::KeepStrangers) {
            self.count(Seen::Stranger, 1);
            let routes = &self.process.routes;
            let stays = |member: &&Arc<Member>| !unknown.contains(&member.node());
            let nodes = routes.nodes().iter().filter(stays).cloned();
            self.process.routes = Arc::new(routes.with_nodes(nodes.collect()));
        }
    }

    fn ask_for_tree(&mut self, task: RequestId, nodes: Vec<NodeId>) {
        if self.mutated(Mutation::SweepUnpersisted) {
            let far = |node: &NodeId| (*node, Lsn(u64::MAX));
            let result = Ok(nodes.iter().map(far).collect());
            let message = MotionMessage::Checkpointed { task, result };
            return self.send(Party::Router, Party::Router, Message::Motion(message));
        }
        let message = Message::CheckpointFor(task, nodes);
        self.send(Party::Router, Party::Checkpointer, message);
    }

    fn hand_over(
        &mut self,
        node: NodeId,
        change: u64,
        attempt: u64,
        arcs: Arc<mailring_engine::ring::ArcSet>,
    ) {
        let at_once = match self.mutation {
            Some(Mutation::HandOverUndrained) => true,
            // Only what is staged is waited for.
            Some(Mutation::ForgetPrepared) => {
                let machine = &self.process.nodes[usize::from(node.0)].machine;
                machine.prepared() > 0 && !machine.is_recovering()
            }
            _ => false,
        };
        if at_once {
            let incarnation = self.process.sequencer.catalogue().incarnations[usize::from(node.0)];
            let message = MotionMessage::HandedOver {
                node,
                change,
                attempt,
                incarnation,
                through: self.process.visible.load(),
            };
            self.send(Party::Node(node.0), Party::Router, Message::Motion(message));
        }
        let message = NodeMessage::HandOver {
            change,
            attempt,
            arcs,
        };
        self.send(Party::Router, Party::Node(node.0), Message::Node(message));
    }

    fn forget_arcs(&mut self, node: NodeId, change: u64) {
        if self.mutated(Mutation::CleanUnforgotten) {
            let message = MotionMessage::Forgotten { node, change };
            return self.send(Party::Node(node.0), Party::Router, Message::Motion(message));
        }
        let message = Message::Node(NodeMessage::Forget { change });
        self.send(Party::Router, Party::Node(node.0), message);
        let member = self.process.routes.member(node);
        if member.is_some_and(|member| !member.table.view().frozen.is_empty()) {
            // It shows its tree anew only behind a checkpoint, of which nobody else has to hear.
            self.ask_for_checkpoint_from(Party::Router);
        }
    }

    /// The checkpointer has answered for the router.
    pub(super) fn router_checkpointed(
        &mut self,
        (task, nodes): (RequestId, Vec<NodeId>),
        result: Result<Lsn>,
    ) {
        match result {
            Ok(lsn) => {
                let give_up = self.scale.after(self.now, FLUSHED_WITHIN);
                self.process.router.shown.push(Shown {
                    task,
                    nodes,
                    lsn,
                    give_up,
                });
                self.look_what_is_shown();
            }
            Err(error) => {
                let result = Err(error);
                let message = MotionMessage::Checkpointed { task, result };
                self.send(Party::Router, Party::Router, Message::Motion(message));
            }
        }
    }

    /// Nobody answers the router's requests any more.
    pub(super) fn router_is_left_alone(&mut self) {
        for (_, asked) in std::mem::take(&mut self.process.router.checkpoints) {
            self.router_checkpointed(asked, Err(Error::Closed));
        }
    }

    /// Whether nodes show by now what a checkpoint has written.
    pub(crate) fn look_what_is_shown(&mut self) {
        let now = self.now;
        for wait in std::mem::take(&mut self.process.router.shown) {
            let routes = &self.process.routes;
            let members = wait.nodes.iter().filter_map(|node| routes.member(*node));
            let is_behind = |member: &&Arc<Member>| {
                member.table.view().complete < wait.lsn && !member.table.is_down()
            };
            let is_any_behind = members.clone().any(|member| is_behind(&member));
            if is_any_behind && now < wait.give_up {
                self.process.router.shown.push(wait);
                let soon = self.scale.after(now, 3);
                self.wake_at(soon, Wake::Shown);
                continue;
            }
            let complete = |member: &Arc<Member>| (member.node(), member.table.view().complete);
            let message = MotionMessage::Checkpointed {
                task: wait.task,
                result: Ok(members.map(complete).collect()),
            };
            self.send(Party::Router, Party::Router, Message::Motion(message));
        }
    }

    /// The journal has handles routed by another ring.
    pub(crate) fn publish(&mut self, lsn: Lsn, state: Arc<RingState>) {
        if self.strikes(Fault::RouterPanics) && self.strikes(Fault::RestartPanics) {
            let reason = "the router panicked".to_owned();
            let error = Error::ReadOnly { reason };
            let failed = Message::Journal(JournalMessage::Failed(error.clone()));
            self.send(Party::Router, Party::Journal, failed);
            return self.motion_step(MotionMessage::ReadOnly(error));
        }
        let epoch = state.epoch();
        if self.process.routes.epoch() < epoch {
            let owners = self.model.ownership.at(lsn);
            assert_eq!(
                state.ring().owners(),
                &owners[..],
                "the ring of LSN {lsn} is another"
            );
            self.process.routes = Arc::new(self.process.routes.moved_on(state));
            self.check_leftovers();
        }
        let message = JournalMessage::RingPublished { epoch };
        self.send(Party::Router, Party::Journal, Message::Journal(message));
    }

    /// The mover has made stores for nodes that join.
    pub(crate) fn nodes_opened(&mut self, task: RequestId, opened: Result<Vec<(NodeId, Lsn)>>) {
        if self.process.router.is_dead {
            // Nobody asks them to join any more.
            return;
        }
        let dies = self.strikes(Fault::RouterPanics) && self.strikes(Fault::RestartPanics);
        let result = match opened {
            Ok(_) if dies => Err(panicked()),
            Ok(opened) => {
                for (node, lsn) in opened {
                    self.add_member(node, lsn);
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.motion_step(MotionMessage::NodesReady { task, result });
    }

    fn add_member(&mut self, node: NodeId, last: Lsn) {
        let store = Arc::clone(&self.directory.stores[usize::from(node.0)]);
        let joining = ReplayedNode::joining(last, Generation::new());
        let table = Arc::new(joining.table(node, store.view(), last));
        let epoch = self.process.routes.epoch();
        self.process
            .join(Arc::clone(&table), store, epoch, last, self.scale);
        let nodes = self.process.routes.nodes().iter().cloned();
        let nodes = nodes.chain([Member::new(table)]);
        self.process.routes = Arc::new(self.process.routes.with_nodes(nodes.collect()));
    }
}

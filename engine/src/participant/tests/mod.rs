//! A node's machine, message by message: each test asserts everything that it wants done.

mod hand_over;
mod hand_over_load;
mod transactions;

use super::*;
use crate::{
    generation::Generation,
    keyspaces::Keyspaces,
    run::frozen_run,
    store::{Store, memory::MemoryStore},
    view::{NodeView, Visible},
};
use NodeEffect::{Answer as Reply, Frozen as FrozenAt, Journal, Rebuild, ScheduleFlush};

const NODE: NodeId = NodeId(4);
const LIFE: Incarnation = Incarnation(7);
const OWNED_SINCE: Epoch = Epoch(4);
const NEXT: Incarnation = Incarnation(8);
const SOON: Time = Time(100);

struct Bench {
    machine: Participant,
    table: Arc<NodeTable>,
    store: Arc<MemoryStore>,
    cache: Arc<RowCache>,
}

fn bench() -> Bench {
    bench_of(NodeTable::new)
}

fn bench_of(table: impl FnOnce(NodeId, NodeView) -> NodeTable) -> Bench {
    let store = Arc::new(MemoryStore::default());
    let view = NodeView {
        active: Arc::default(),
        frozen: Vec::new(),
        tree: store.view(),
        complete: Lsn(0),
        floor: Lsn(0),
        leaving: None,
    };
    let (table, cache) = (
        Arc::new(table(NODE, view)),
        Arc::new(RowCache::new(1 << 20, 1)),
    );
    let source = Arc::clone(&store);
    let machine = Participant::new(
        LIFE,
        OWNED_SINCE,
        Arc::clone(&table),
        Arc::clone(&cache),
        TreeSource(Box::new(move || source.view())),
        Lsn(0),
        ParticipantOptions {
            stashed: 2,
            ..ParticipantOptions::default()
        },
    );
    Bench {
        machine,
        table,
        store,
        cache,
    }
}

impl Bench {
    /// A node that has joined the running engine.
    fn joining() -> Self {
        bench_of(|node, view| NodeTable::new(node, view).joining())
    }

    fn tell(&mut self, message: NodeMessage) -> Vec<NodeEffect> {
        let mut out = Vec::new();
        self.machine.handle(Time(1), message, &mut out);
        out
    }

    fn restart(&mut self) -> Vec<NodeEffect> {
        let mut out = Vec::new();
        self.machine.restart(&mut out);
        out
    }

    fn get(&self, name: &str, at: u64) -> Option<Bytes> {
        let found = self
            .table
            .get(&Visible::new(Lsn(at)), &self.cache, &key(name));
        found.expect("memory reads").map(|value| value.bytes)
    }

    /// Recovers with a generation that holds `a` at LSN `through`.
    fn rebuilt(&mut self, through: u64) -> Vec<NodeEffect> {
        let generation = Generation::new();
        generation.insert(Lsn(through), &put_of("a", "rebuilt"));
        self.tell(NodeMessage::Rebuilt {
            incarnation: NEXT,
            through: Lsn(through),
            generation: Ok(Arc::new(generation)),
        })
    }
}

fn key(name: &str) -> Bytes {
    crate::value::qualify(crate::ids::KeyspaceId(1), name.as_bytes())
}

fn put_of(name: &str, value: &str) -> Write {
    Write {
        key: key(name),
        value: Some(Value::new(Bytes::copy_from_slice(value.as_bytes()))),
    }
}

fn counter(name: &str, value: i64) -> Write {
    Write {
        key: key(name),
        value: Some(Value::new(Bytes::copy_from_slice(&value.to_le_bytes()))),
    }
}

fn request(id: u64, operation: Operation) -> NodeMessage {
    NodeMessage::Request {
        id: RequestId(id),
        deadline: SOON,
        epoch: OWNED_SINCE,
        operation,
    }
}

fn put(id: u64, name: &str, value: &str) -> NodeMessage {
    request(id, Operation::Write([put_of(name, value)].into()))
}

fn add_to(id: u64, name: &str, delta: i64) -> NodeMessage {
    let add = Operation::Add {
        key: key(name),
        delta,
        now_ms: 0,
    };
    request(id, add)
}

fn compare(id: u64, name: &str, expected: Option<&'static str>) -> NodeMessage {
    let compare = Operation::CompareAndSet {
        key: key(name),
        expected: expected.map(|text| Bytes::from_static(text.as_bytes())),
        new: None,
        now_ms: 0,
    };
    request(id, compare)
}

fn appended(incarnation: Incarnation, chain: u64, commits: &[Write]) -> NodeEffect {
    let commits = commits.iter().map(|write| StagedCommit {
        deadline: SOON,
        writes: [write.clone()].into(),
        txn: None,
    });
    Journal(JournalMessage::Append(Append {
        node: NODE,
        incarnation,
        chain,
        commits: commits.collect(),
    }))
}

fn resolved(
    incarnation: Incarnation,
    chain: u64,
    commits: usize,
    outcome: Result<Lsn>,
) -> NodeMessage {
    NodeMessage::Resolve(Resolve {
        incarnation,
        chain,
        commits,
        outcome,
    })
}

fn installed(incarnation: Incarnation, through: u64) -> NodeEffect {
    Journal(JournalMessage::Installed {
        node: NODE,
        incarnation,
        through: Lsn(through),
    })
}

fn fence(incarnation: Incarnation) -> NodeEffect {
    Journal(JournalMessage::Fence {
        node: NODE,
        incarnation,
    })
}

fn fenced(through: u64) -> NodeMessage {
    NodeMessage::Fenced {
        incarnation: NEXT,
        through: Lsn(through),
    }
}

fn rebuild(after: u64, through: u64) -> NodeEffect {
    Rebuild {
        incarnation: NEXT,
        after: Lsn(after),
        through: Lsn(through),
    }
}

fn written(id: u64, lsn: u64) -> NodeEffect {
    Reply(RequestId(id), Ok(Answer::Written(Lsn(lsn))))
}

fn refused(id: u64, error: Error) -> NodeEffect {
    Reply(RequestId(id), Err(error))
}

fn restarted(id: u64) -> NodeEffect {
    refused(id, Error::NodeRestarted { node: NODE })
}

fn visible(lsn: u64) -> NodeMessage {
    NodeMessage::Visible(Lsn(lsn))
}

fn broken() -> Error {
    Error::Io {
        context: "forcing".into(),
        kind: std::io::ErrorKind::Other,
        message: "lost".into(),
    }
}

#[test]
fn a_put_is_staged_appended_installed_and_answered_when_visible() {
    let mut node = bench();
    assert_eq!(node.tell(put(1, "a", "x")), [ScheduleFlush]);
    assert_eq!(node.tell(put(2, "a", "y")), []);
    let both = [put_of("a", "x"), put_of("a", "y")];
    assert_eq!(node.tell(NodeMessage::Flush), [appended(LIFE, 0, &both)]);
    assert_eq!(node.tell(NodeMessage::Flush), []);
    let out = node.tell(resolved(LIFE, 0, 2, Ok(Lsn(5))));
    assert_eq!(out, [installed(LIFE, 6)]);
    assert_eq!(node.get("a", 5), Some("x".into()));
    assert_eq!(node.tell(visible(5)), [written(1, 5)]);
    assert_eq!(node.tell(visible(9)), [written(2, 6)]);
    assert_eq!(node.tell(visible(9)), []);
}

#[test]
fn adds_chain_on_what_is_staged() {
    let mut node = bench();
    node.tell(add_to(1, "c", 5));
    node.tell(add_to(2, "c", -2));
    let chained = [counter("c", 5), counter("c", 3)];
    assert_eq!(node.tell(NodeMessage::Flush), [appended(LIFE, 0, &chained)]);
    assert_eq!(node.tell(add_to(3, "c", 1)), [ScheduleFlush]);
    node.tell(resolved(LIFE, 0, 2, Ok(Lsn(1))));
    assert_eq!(
        node.tell(NodeMessage::Flush),
        [appended(LIFE, 0, &[counter("c", 4)])]
    );
    let sum = |id, lsn, value| Reply(RequestId(id), Ok(Answer::Counter(Lsn(lsn), value)));
    assert_eq!(node.tell(visible(2)), [sum(1, 1, 5), sum(2, 2, 3)]);
}

#[test]
fn a_mismatch_waits_until_what_it_has_seen_is_visible() {
    let mut node = bench();
    let seen = |id| Reply(RequestId(id), Ok(Answer::Mismatch(Some("x".into()))));
    node.tell(put(1, "a", "x"));
    assert_eq!(node.tell(compare(2, "a", None)), [], "only staged");
    node.tell(NodeMessage::Flush);
    node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
    assert_eq!(
        node.tell(compare(3, "a", None)),
        [],
        "installed, not visible"
    );
    assert_eq!(node.tell(visible(1)), [written(1, 1), seen(2), seen(3)]);
    assert_eq!(node.tell(compare(4, "a", None)), [seen(4)], "visible");
    assert_eq!(
        node.tell(compare(5, "a", Some("x"))),
        [ScheduleFlush],
        "it matches"
    );
}

#[test]
fn a_refusal_takes_all_that_was_staged_behind_it() {
    let mut node = bench();
    node.tell(put(1, "a", "x"));
    node.tell(NodeMessage::Flush);
    node.tell(put(2, "a", "y"));
    node.tell(compare(3, "a", None));
    let late = || Error::DeadlineExceeded;
    let out = node.tell(resolved(LIFE, 0, 1, Err(late())));
    assert_eq!(
        out,
        [refused(1, late()), refused(2, late()), refused(3, late())]
    );
    assert_eq!(node.tell(NodeMessage::Flush), [], "the batch is given up");
    assert_eq!(
        node.tell(resolved(LIFE, 0, 1, Err(late()))),
        [],
        "an old chain"
    );
    assert_eq!(
        node.tell(compare(4, "a", None)),
        [ScheduleFlush],
        "nothing is staged"
    );
    let removal = Write {
        key: key("a"),
        value: None,
    };
    assert_eq!(
        node.tell(NodeMessage::Flush),
        [appended(LIFE, 1, &[removal])]
    );
}

#[test]
fn a_request_past_its_deadline_is_refused() {
    let mut node = bench();
    let mut out = Vec::new();
    node.machine.handle(SOON, put(1, "a", "x"), &mut out);
    assert_eq!(out, [refused(1, Error::DeadlineExceeded)]);
}

#[test]
fn a_restarted_node_answers_by_what_the_journal_accepted_and_serves_when_rebuilt() {
    let mut node = bench();
    for (id, name) in [(1, "a"), (2, "b"), (3, "c")] {
        node.tell(put(id, name, "x"));
        if id < 3 {
            node.tell(NodeMessage::Flush);
        }
    }
    assert_eq!(node.restart(), [fence(NEXT)]);
    assert_eq!(node.tell(put(4, "d", "x")), [], "it waits in line");
    assert_eq!(node.tell(put(5, "e", "x")), []);
    let full = Error::Overloaded {
        what: "the queue of a restarting node",
    };
    assert_eq!(node.tell(put(6, "f", "x")), [refused(6, full)]);
    assert_eq!(node.tell(NodeMessage::Flush), [], "the old batch is gone");
    assert_eq!(
        node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1)))),
        [],
        "nothing is installed"
    );
    assert_eq!(
        node.tell(NodeMessage::Freeze(Lsn(1))),
        [FrozenAt {
            through: Lsn(1),
            ready: false
        }]
    );
    assert_eq!(
        node.tell(fenced(2)),
        [restarted(2), restarted(3), rebuild(0, 2)]
    );
    assert_eq!(node.rebuilt(2), [installed(NEXT, 2), ScheduleFlush]);
    assert_eq!(node.get("a", 2), Some("rebuilt".into()));
    let stashed = [put_of("d", "x"), put_of("e", "x")];
    assert_eq!(node.tell(NodeMessage::Flush), [appended(NEXT, 0, &stashed)]);
    assert_eq!(node.tell(visible(2)), [written(1, 1)]);
}

#[test]
fn a_node_that_dies_while_it_recovers_begins_again() {
    let mut node = bench();
    node.restart();
    node.tell(put(1, "a", "x"));
    node.tell(fenced(1));
    assert_eq!(node.restart(), [fence(Incarnation(9))]);
    assert_eq!(node.rebuilt(1), [], "the generation of a life that is over");
    assert_eq!(node.tell(fenced(1)), []);
    assert!(node.machine.owes(RequestId(1)), "the queue survives");
    let out = node.tell(NodeMessage::Fenced {
        incarnation: Incarnation(9),
        through: Lsn(2),
    });
    assert!(matches!(
        &out[..],
        [Rebuild {
            through: Lsn(2),
            ..
        }]
    ));
}

#[test]
fn a_read_only_node_says_what_it_knows() {
    let mut node = bench();
    node.tell(put(1, "a", "x"));
    node.tell(NodeMessage::Flush);
    node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
    node.tell(put(2, "a", "y"));
    let reason = broken().to_string();
    let read_only = |id| {
        refused(
            id,
            Error::ReadOnly {
                reason: reason.clone(),
            },
        )
    };
    let unknown = refused(
        1,
        Error::Unknown {
            reason: reason.clone(),
        },
    );
    assert_eq!(
        node.tell(NodeMessage::ReadOnly(broken())),
        [read_only(2), unknown]
    );
    assert_eq!(node.tell(put(3, "a", "z")), [read_only(3)]);
    assert_eq!(node.tell(resolved(LIFE, 0, 1, Err(broken()))), []);
    assert_eq!(node.restart(), [], "it has nothing to restart");
    let mut recovering = bench();
    recovering.restart();
    recovering.tell(put(1, "a", "x"));
    assert_eq!(
        recovering.tell(NodeMessage::ReadOnly(broken())),
        [read_only(1)]
    );
}

#[test]
fn a_broken_journal_breaks_the_node() {
    let mut node = bench();
    node.restart();
    node.tell(fenced(1));
    let out = node.tell(NodeMessage::Rebuilt {
        incarnation: NEXT,
        through: Lsn(1),
        generation: Err(broken()),
    });
    assert_eq!(out, [NodeEffect::Broken(broken())]);
}

#[test]
fn what_was_frozen_goes_when_the_tree_has_it() {
    let mut node = bench();
    node.tell(put(1, "a", "x"));
    node.tell(NodeMessage::Flush);
    node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
    let ready = FrozenAt {
        through: Lsn(1),
        ready: true,
    };
    assert_eq!(node.tell(NodeMessage::Freeze(Lsn(1))), [ready]);
    let mut keyspaces = Keyspaces::new();
    keyspaces
        .install_create(crate::ids::KeyspaceId(1), "k")
        .expect("fits");
    let view = node.table.view();
    let mut run = frozen_run(&view, Lsn(1), &keyspaces).into_iter().flatten();
    node.store.ingest(&mut run).expect("memory takes it");
    assert_eq!(node.tell(NodeMessage::Flushed { through: Lsn(1) }), []);
    let view = node.table.view();
    assert_eq!((view.frozen.len(), view.complete), (0, Lsn(1)));
    assert_eq!(node.get("a", 1), Some("x".into()));
}

#[test]
fn a_node_that_is_down_ignores_what_the_journal_still_accepts() {
    // The late resolution hit an assertion, since its requests had been answered: one more panic for each batch.
    let mut node = bench();
    node.tell(put(1, "a", "x"));
    node.tell(NodeMessage::Flush);
    node.tell(put(2, "a", "y"));
    node.restart();
    node.tell(put(3, "a", "z"));
    let down = refused(3, Error::NodeDown { node: NODE });
    let gone = || Error::Unknown {
        reason: "node 4 went down".into(),
    };
    let told = Journal(JournalMessage::Down { node: NODE });
    let out = node.tell(NodeMessage::GoDown);
    assert_eq!(out, [down, refused(1, gone()), refused(2, gone()), told]);
    assert!(node.table.is_down());
    assert_eq!(node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1)))), []);
    assert_eq!(node.tell(NodeMessage::Flush), []);
    assert_eq!(
        node.tell(put(4, "a", "x")),
        [refused(4, Error::NodeDown { node: NODE })]
    );
}

#[test]
fn an_add_that_can_not_be_done_is_answered_when_its_reason_is_visible() {
    // It was answered at once from a staged value: after a crash there had never been such a value.
    let mut node = bench();
    node.tell(put(1, "a", "xyz"));
    assert_eq!(node.tell(add_to(2, "a", 1)), []);
    node.tell(NodeMessage::Flush);
    node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
    let out = node.tell(visible(1));
    assert_eq!(
        out,
        [written(1, 1), refused(2, Error::NotACounter { len: 3 })]
    );
}

#[test]
fn a_resolution_in_which_the_node_died_is_told_again_and_counts_once() {
    // It was lost: an accepted add was answered "nothing was written, retry", and was then applied twice.
    for dies_before in [true, false] {
        let mut node = bench();
        node.tell(put(1, "a", "x"));
        node.tell(NodeMessage::Flush);
        if !dies_before {
            node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1))));
        }
        node.restart();
        assert_eq!(node.tell(resolved(LIFE, 0, 1, Ok(Lsn(1)))), []);
        assert_eq!(node.tell(fenced(2)), [rebuild(0, 2)]);
        node.rebuilt(2);
        assert_eq!(node.tell(visible(2)), [written(1, 1)]);
    }
}

#[test]
fn a_replay_that_lost_its_journal_to_a_checkpoint_begins_behind_it() {
    // The node was given up for ever, though its tree had what the journal had released.
    let mut node = bench();
    node.restart();
    assert_eq!(node.tell(fenced(5)), [rebuild(0, 5)]);
    node.tell(NodeMessage::Flushed { through: Lsn(3) });
    let out = node.tell(NodeMessage::Rebuilt {
        incarnation: NEXT,
        through: Lsn(5),
        generation: Err(broken()),
    });
    assert_eq!(out, [rebuild(3, 5)]);
    node.tell(NodeMessage::Flushed { through: Lsn(4) });
    let out = node.tell(NodeMessage::Rebuilt {
        incarnation: NEXT,
        through: Lsn(5),
        generation: Err(broken()),
    });
    assert_eq!(out, [rebuild(4, 5)], "as often as it is overtaken");
    assert_eq!(node.rebuilt(5), [installed(NEXT, 5)]);
    assert_eq!(node.get("a", 5), Some("rebuilt".into()));
}

#[test]
fn a_replay_that_fails_though_nobody_has_overtaken_it_breaks_the_node() {
    let mut node = bench();
    node.restart();
    node.tell(NodeMessage::Flushed { through: Lsn(3) });
    assert_eq!(node.tell(fenced(5)), [rebuild(3, 5)]);
    let out = node.tell(NodeMessage::Rebuilt {
        incarnation: NEXT,
        through: Lsn(5),
        generation: Err(broken()),
    });
    assert_eq!(out, [NodeEffect::Broken(broken())]);
}

#[test]
fn a_request_whose_deadline_passes_while_its_node_recovers_is_refused() {
    let mut node = bench();
    node.restart();
    node.tell(put(1, "a", "x"));
    let patient = NodeMessage::Request {
        id: RequestId(2),
        deadline: Time(200),
        epoch: OWNED_SINCE,
        operation: Operation::Write([put_of("b", "x")].into()),
    };
    node.tell(patient);
    let mut out = Vec::new();
    node.machine.handle_timeout(Time(99), &mut out);
    assert_eq!(out, []);
    node.machine.handle_timeout(SOON, &mut out);
    assert_eq!(out, [refused(1, Error::DeadlineExceeded)]);
    assert!(!node.machine.owes(RequestId(1)) && node.machine.owes(RequestId(2)));
    assert!(node.machine.is_recovering());
    node.tell(fenced(0));
    let generation = Ok(Arc::default());
    let rebuilt = NodeMessage::Rebuilt {
        incarnation: NEXT,
        through: Lsn(0),
        generation,
    };
    assert_eq!(node.tell(rebuilt), [installed(NEXT, 0), ScheduleFlush]);
    out.clear();
    node.machine.handle_timeout(Time(500), &mut out);
    assert_eq!(out, [], "what is staged is the journal's to refuse");
}

#[test]
fn a_node_that_has_restarted_since_a_mark_has_no_run_for_it() {
    // Its rebuilt generation goes beyond the mark, so the run was empty, and the manifest said that the tree was
    // complete: the next crash lost what lay between.
    let mut node = bench();
    let keyspaces = Keyspaces::new();
    assert!(frozen_run(&node.table.view(), Lsn(1), &keyspaces).is_none());
    node.tell(NodeMessage::Freeze(Lsn(1)));
    assert!(
        frozen_run(&node.table.view(), Lsn(1), &keyspaces).is_some(),
        "empty, but frozen"
    );
    node.tell(NodeMessage::Freeze(Lsn(1)));
    assert_eq!(
        node.table.view().frozen.len(),
        1,
        "empty generations do not pile up"
    );
    node.restart();
    node.tell(fenced(2));
    node.rebuilt(2);
    assert!(frozen_run(&node.table.view(), Lsn(1), &keyspaces).is_none());
    assert!(frozen_run(&node.table.view(), Lsn(2), &keyspaces).is_some());
}

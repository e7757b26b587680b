//! Sequencer and recovery together, over journals of which a crash leaves any prefixes that it can leave.
//!
//! A [`Run`] is an engine without nodes: what they do is answered at once. Histories are random, but each crash of each of
//! them is tried: after every step, every combination of groups that each journal may have on its medium, forced ones at
//! least and written ones at most.

mod crash;
mod old_copy;
mod sequencer;

use super::{
    Directories, ListedDirectory, Placement,
    recovery::{self, Opened, Place},
};
use crate::{
    disk::MemoryDisk,
    error::Result,
    ids::{DirectoryNo, GroupNo, Incarnation, Lsn, NodeId, Time, TxnId},
    journal::{
        Group, Journal, JournalOptions, Lsns,
        record::{CommitPart, Record, RecordBody},
    },
    keyspaces::Keyspaces,
    outcomes::{OutcomeLimits, Outcomes},
    ring::Ring,
    ring_state::RingState,
    sequencer::{
        Append, GroupWrite, JournalEffect, JournalMessage, JournalState, Sequencer,
        SequencerOptions, SequencerState, StagedCommit,
    },
    transaction::{Decide, DecidePart},
    value::{Value, Write},
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

const ROOM: u64 = 1 << 20;
const LIFE: Incarnation = Incarnation(1);
const SOON: Time = Time(1_000);

/// What a commit has written, by node.
type Parts = BTreeMap<NodeId, Bytes>;

/// A journal as the disks have it: groups that are forced, and groups that are written or on their way.
#[derive(Debug, Clone, Default)]
struct Written {
    groups: Vec<Arc<Group>>,
    /// So many are persisted: forced, where the engine forces.
    forced: usize,
    /// So many were there when the engine was opened, and forced then at the latest.
    opened: usize,
}

/// An engine over some directories, with a node in each.
struct Run {
    sequencer: Sequencer,
    /// The groups of each directory, since it was made.
    journals: Vec<Written>,
    /// What the manifest says.
    directories: Directories,
    /// What was given an LSN and did not turn out to be void.
    model: BTreeMap<Lsn, Parts>,
    visible: Lsn,
    /// No crash takes anything up to here.
    promised: Lsn,
    opening: u64,
    next: u64,
    /// Whether groups are forced before they are persisted. Else the disk has any prefix of what was persisted, too.
    force: bool,
}

fn options(force: bool) -> SequencerOptions {
    SequencerOptions {
        force,
        max_group_bytes: 1 << 22,
        segment_bytes: ROOM,
    }
}

/// A sequencer over these journals, a node in each directory.
fn sequencer(last_lsn: Lsn, groups: &[GroupNo], opening: u64, force: bool) -> Sequencer {
    let nodes = (0..).map(NodeId).take(groups.len());
    let members: Vec<_> = nodes.map(|node| (node, 1)).collect();
    let journal = |last_group: &GroupNo| JournalState {
        last_group: *last_group,
        room: ROOM,
    };
    Sequencer::new(
        options(force),
        SequencerState {
            last_lsn,
            journals: groups.iter().map(journal).collect(),
            placement: Placement::new(groups.len(), Vec::new()),
            incarnations: vec![LIFE; groups.len()],
            keyspaces: Keyspaces::new(),
            outcomes: Outcomes::new(opening, OutcomeLimits::default()),
            ring: RingState::new(Ring::new(8, &members).expect("it works")),
        },
    )
}

fn write(value: Bytes) -> Write {
    Write {
        key: Bytes::from_static(b"\0\0\0\x01k"),
        value: Some(Value::new(value)),
    }
}

impl Run {
    fn new(count: usize) -> Self {
        Self::with_force(count, true)
    }

    fn with_force(count: usize, force: bool) -> Self {
        let listed = ListedDirectory {
            path: String::new(),
            is_made: true,
        };
        Self {
            sequencer: sequencer(Lsn(0), &vec![GroupNo(0); count], 1, force),
            journals: vec![Written::default(); count],
            directories: Directories {
                listed: vec![listed; count],
                ..Directories::default()
            },
            model: BTreeMap::new(),
            visible: Lsn(0),
            promised: Lsn(0),
            opening: 1,
            next: 0,
            force,
        }
    }

    fn value(&mut self) -> Bytes {
        self.next += 1;
        Bytes::copy_from_slice(&self.next.to_be_bytes())
    }

    /// A node commits by itself.
    fn append(&mut self, node: u16) {
        let (node, value) = (NodeId(node), self.value());
        let commit = StagedCommit {
            deadline: SOON,
            writes: [write(value.clone())].into(),
            txn: None,
        };
        self.tell(JournalMessage::Append(Append {
            node,
            incarnation: LIFE,
            chain: 0,
            commits: vec![commit],
        }));
        let lsn = self.sequencer.last_lsn();
        self.model.insert(lsn, [(node, value)].into());
        self.installed(node, lsn);
    }

    /// These nodes commit together.
    fn decide(&mut self, nodes: &[u16]) {
        let value = self.value();
        let ring = self.sequencer.ring();
        let parts = nodes.iter().map(|node| DecidePart {
            node: NodeId(*node),
            incarnation: LIFE,
            epoch: ring.owned_since(NodeId(*node)),
            writes: [write(value.clone())].into(),
        });
        let decide = Decide {
            txn: TxnId::new(self.opening, self.next).expect("not 0"),
            deadline: SOON,
            idempotency: None,
            parts: parts.collect(),
            lock_life: None,
        };
        self.tell(JournalMessage::Decides(vec![decide]));
        let lsn = self.sequencer.last_lsn();
        let parts = nodes.iter().map(|node| (NodeId(*node), value.clone()));
        self.model.insert(lsn, parts.collect());
        for node in nodes {
            self.installed(NodeId(*node), lsn);
        }
    }

    fn installed(&mut self, node: NodeId, through: Lsn) {
        let incarnation = LIFE;
        self.tell(JournalMessage::Installed {
            node,
            incarnation,
            through,
        });
    }

    fn cut(&mut self) {
        self.tell(JournalMessage::Cut);
    }

    /// The disk of a directory has forced what was written there, up to this group of those that were not.
    fn force(&mut self, directory: usize, groups: usize) {
        let journal = &mut self.journals[directory];
        if groups == 0 || journal.forced + groups > journal.groups.len() {
            return;
        }
        journal.forced += groups;
        let last = journal.groups[journal.forced - 1].last_lsn;
        self.tell(JournalMessage::Persisted {
            directory: DirectoryNo(u8::try_from(directory).expect("few")),
            last,
            room: ROOM,
            spare: Some(ROOM),
        });
    }

    fn tell(&mut self, message: JournalMessage) {
        let mut out = Vec::new();
        self.sequencer.handle(Time(1), message, &mut out);
        for effect in out {
            match effect {
                JournalEffect::Write(group) => {
                    let directory = usize::from(group.directory.0);
                    self.journals[directory].groups.push(as_group(group).into());
                }
                JournalEffect::Visible(lsn, _) => {
                    self.visible = lsn;
                    if self.force {
                        self.promised = lsn;
                    }
                }
                _ => {}
            }
        }
    }

    /// How many groups each directory may have after a crash: all combinations.
    fn crashes(&self) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new()];
        for journal in &self.journals {
            let extended = all.iter().flat_map(|begun: &Vec<usize>| {
                let least = match self.force {
                    true => journal.forced,
                    false => journal.opened,
                };
                (least..=journal.groups.len()).map(|count| {
                    let mut begun = begun.clone();
                    begun.push(count);
                    begun
                })
            });
            all = extended.collect();
        }
        all
    }

    /// The directories with so many groups each.
    fn image(&self, groups: &[usize]) -> Vec<Place> {
        let journals = self.journals.iter().zip(groups);
        let place = |(number, (journal, groups)): (usize, (&Written, &usize))| {
            let disk = Arc::new(MemoryDisk::new());
            let mut file = Journal::create(disk.clone(), some(1), Lsn(0)).expect("creates");
            for group in &journal.groups[..*groups] {
                file.append(group).expect("appends");
                file.force().expect("forces");
            }
            Place {
                disk,
                path: format!("directory-{number}").into(),
            }
        };
        journals.enumerate().map(place).collect()
    }

    /// Goes on with what a crash has left, once it was recovered.
    fn reopen(&mut self, groups: &[usize], directories: Directories, opened: &Opened, last: Lsn) {
        for (journal, groups) in self.journals.iter_mut().zip(groups) {
            journal.groups.truncate(*groups);
            journal.forced = *groups;
            journal.opened = *groups;
        }
        self.model.retain(|lsn, _| *lsn <= last);
        self.opening += 1;
        let groups: Vec<_> = opened.journals.iter().map(Journal::last_group).collect();
        self.sequencer = sequencer(opened.last_lsn, &groups, self.opening, self.force);
        self.directories = directories;
        self.visible = opened.last_lsn;
        self.promised = opened.last_lsn;
    }
}

fn as_group(write: GroupWrite) -> Group {
    Group {
        number: write.number,
        first_lsn: write.first,
        last_lsn: write.last,
        payload: write.payload,
    }
}

fn some(salt: u64) -> JournalOptions {
    JournalOptions {
        segment_bytes: 4096,
        salt,
        lsns: Lsns::Some,
    }
}

/// What a record has written; it must be a commit without gaps between its parts.
fn parts_of(record: Record) -> Parts {
    let RecordBody::Commit { parts, .. } = record.body else {
        panic!("nobody writes {record:?}")
    };
    let part = |part: CommitPart| {
        let value = part.writes[0].value.clone().expect("nothing is removed");
        (part.node, value.bytes)
    };
    parts.into_iter().map(part).collect()
}

/// What happened, in order.
type Found = Vec<(Lsn, Parts)>;

/// Recovers; what happened, in order, and what the manifest is to say from then on.
fn recover(places: &[Place], directories: &Directories) -> Result<(Found, Directories, Opened)> {
    let mut directories = directories.clone();
    let mut found = Vec::new();
    let opened = recovery::open(
        places,
        |_| some(2),
        &mut directories,
        Lsn(0),
        Lsn(0),
        &mut |record| {
            found.push((record.lsn, parts_of(record)));
            Ok(())
        },
    )?;
    Ok((found, directories, opened))
}

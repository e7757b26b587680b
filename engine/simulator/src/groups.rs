//! Groups on their way to the disks: up to where everything is forced, and what the frames of some say of others.

use bytes::Bytes;
use mailring_engine::{
    directories::Stamp,
    ids::{DirectoryNo, GroupNo, Lsn},
    journal::record::{RecordBody, decode_all},
    sequencer::GroupWrite,
};
use std::collections::VecDeque;

/// The groups of one opening.
#[derive(Debug)]
pub(crate) struct Groups {
    /// By directory: those that may not be forced yet, oldest first.
    on_their_way: Vec<VecDeque<(GroupNo, Lsn)>>,
    proofs: Vec<Proof>,
}

/// What a group's frame says of those before it.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    directory: DirectoryNo,
    number: GroupNo,
    /// Its first LSN.
    first: Lsn,
    /// Up to this group its journal was known to be forced when it was written.
    forced: GroupNo,
    /// What its first record tells of all journals.
    stamp: Option<Stamp>,
}

impl Groups {
    pub(crate) fn new(directories: usize) -> Self {
        Self {
            on_their_way: vec![VecDeque::new(); directories],
            proofs: Vec::new(),
        }
    }

    /// A group is about to be written.
    pub(crate) fn hand_over(&mut self, group: &GroupWrite) {
        let line = &mut self.on_their_way[usize::from(group.directory.0)];
        line.push_back((group.number, group.first));
    }

    /// A group is being written, and its journal knows that all up to `forced` is forced.
    pub(crate) fn note(&mut self, group: &GroupWrite, forced: GroupNo) {
        let payload = Bytes::copy_from_slice(&group.payload);
        let first = decode_all(&payload).next();
        let first = first.expect("a group has a record").expect("it is one");
        self.proofs.push(Proof {
            directory: group.directory,
            number: group.number,
            first: group.first,
            forced,
            stamp: match first.body {
                RecordBody::Spread { spread, .. } => spread.stamp,
                _ => None,
            },
        });
    }

    /// Up to where everything is forced, when everything up to `reached` was handed over.
    pub(crate) fn forced(&self, by_directory: impl Iterator<Item = GroupNo>, reached: Lsn) -> Lsn {
        let lines = self.on_their_way.iter().zip(by_directory);
        let waiting = lines.filter_map(|(line, forced)| {
            let first = line.iter().find(|(number, _)| *number > forced);
            first.map(|(_, first)| Lsn(first.0 - 1))
        });
        waiting.min().unwrap_or(reached).min(reached)
    }

    /// Forgets what is forced.
    pub(crate) fn prune(&mut self, directory: DirectoryNo, forced: GroupNo) {
        let line = &mut self.on_their_way[usize::from(directory.0)];
        while line.pop_front_if(|(number, _)| *number <= forced).is_some() {}
    }

    /// The last group of a directory that was handed over and may not be forced.
    pub(crate) fn newest(&self, directory: DirectoryNo) -> GroupNo {
        let line = &self.on_their_way[usize::from(directory.0)];
        line.back().map_or(GroupNo(0), |(number, _)| *number)
    }

    pub(crate) fn take_proofs(&mut self) -> Vec<Proof> {
        std::mem::take(&mut self.proofs)
    }
}

/// What has become of a directory in which a group is gone, and all behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The frame of the group is damaged.
    Damaged,
    /// The journal ends before it.
    Ended,
}

/// What is there up to `through` that tells that the group was forced which is gone in `directory` and began at `lost`: a later
/// frame of its journal, or a stamp in any other.
pub(crate) fn find_proof(
    proofs: &[Proof],
    directory: DirectoryNo,
    (lost, loss): (Lsn, Loss),
    through: Lsn,
) -> Option<&Proof> {
    let is_gone = |proof: &&Proof| proof.directory == directory && proof.first == lost;
    let gone = proofs.iter().find(is_gone)?;
    let mut left = proofs.iter().filter(|proof| proof.first <= through);
    left.find(|proof| match proof.directory == directory {
        true => {
            let is_left = loss == Loss::Damaged && proof.number > gone.number;
            is_left && proof.forced >= gone.number
        }
        false => proof.stamp.as_ref().is_some_and(|stamp| {
            let told = stamp.forced.get(usize::from(directory.0));
            told.is_some_and(|told| *told >= gone.number)
        }),
    })
}

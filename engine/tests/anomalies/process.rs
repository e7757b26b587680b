//! The process dies, or the machine, and the directory is opened again: its journal byte by byte, and what recovery makes
//! of it.

use super::bank::{Bank, EPOCH};
use mailring_engine::{
    disk::{Disk, MemoryDisk},
    ids::{GroupNo, Incarnation, KeyspaceId, Lsn, NodeId},
    journal::{Group, Journal, JournalOptions, record::Record},
    manifest::{Manifest, NodeProgress, NodeSettings},
    outcomes::OutcomeLimits,
    replay::Replay,
};
use std::sync::Arc;

/// What is found in a directory of two nodes that has never seen a checkpoint.
pub(crate) struct Opened {
    pub(super) opening: u64,
    pub(super) replay: Replay,
    pub(super) groups: Vec<Group>,
    pub(super) records: Vec<Record>,
    pub(super) last_lsn: Lsn,
    pub(super) last_group: GroupNo,
}

impl Opened {
    /// A directory whose journal holds these groups.
    pub(crate) fn of(opening: u64, groups: &[Group]) -> Self {
        let disk = Arc::new(MemoryDisk::new());
        drop(written(&disk, opening, groups));
        Self::from(&disk, opening, groups)
    }

    /// Recovers what is there of these groups.
    fn from(disk: &Arc<MemoryDisk>, opening: u64, groups: &[Group]) -> Self {
        let nodes = [NodeId(0), NodeId(1)];
        let manifest = Manifest {
            arc_bits: 8,
            nodes: nodes.map(|node| NodeSettings { node, weight: 1 }).into(),
            epoch: EPOCH,
            next_keyspace: KeyspaceId(1),
            progress: nodes
                .map(|node| NodeProgress {
                    node,
                    complete: Lsn(0),
                    incarnation: Incarnation(u32::try_from(opening).expect("few")),
                })
                .into(),
            openings: opening,
            ..Manifest::default()
        };
        let limits = OutcomeLimits::default();
        let replay = Replay::new(&manifest, &**disk, limits, Arc::default());
        let (mut replay, mut records) = (replay.expect("it is whole"), Vec::new());
        let mut visit = |record: Record| {
            records.push(record.clone());
            replay.visit(record)
        };
        let disk: Arc<dyn Disk> = Arc::clone(disk) as _;
        let opened = Journal::open(disk, options(opening), Lsn(0), &mut visit);
        let (_, recovery) = opened.expect("a torn tail is no damage");
        let is_there = |group: &&Group| group.number <= recovery.last_group;
        Self {
            opening,
            replay,
            groups: groups.iter().filter(is_there).cloned().collect(),
            records,
            last_lsn: recovery.last_lsn,
            last_group: recovery.last_group,
        }
    }
}

fn options(opening: u64) -> JournalOptions {
    JournalOptions {
        segment_bytes: 1 << 16,
        salt: opening,
        ..JournalOptions::default()
    }
}

/// A disk with these groups in its journal, of which all but the last are forced: it is closed like that.
fn written(disk: &Arc<MemoryDisk>, opening: u64, groups: &[Group]) -> Journal {
    let disk: Arc<dyn Disk> = Arc::clone(disk) as _;
    let journal = Journal::create(disk, options(opening - 1), Lsn(0));
    let mut journal = journal.expect("there is room");
    for group in groups {
        journal.force().expect("memory is forced");
        journal.append(group).expect("there is room");
    }
    journal
}

fn contents(disk: &MemoryDisk) -> (String, Vec<u8>) {
    let name = disk.list().expect("it lists").pop().expect("one segment");
    let file = disk.open(&name).expect("it opens");
    let len = usize::try_from(file.len().expect("it has a length")).expect("small");
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0).expect("it reads");
    (name, bytes)
}

impl Bank {
    /// The process is killed now, and with it the machine: what may be found when it is opened again. All that was forced
    /// is there, and of the group that was on its way any number of first bytes.
    pub(crate) fn killed(&self) -> Vec<Self> {
        let opening = self.opening + 1;
        let (forced, on_its_way) = self.groups.split_at(self.forced);
        let open = |opened| Self::of(None, opened);
        let [last] = on_its_way else {
            assert_eq!(on_its_way.len(), 0, "one group is written at a time");
            return vec![open(Opened::of(opening, forced))];
        };
        let disk = || Arc::new(MemoryDisk::new());
        let (with, without) = (disk(), disk());
        drop(written(&without, opening, forced));
        drop(written(&with, opening, &self.groups));
        let ((name, before), (_, after)) = (contents(&without), contents(&with));
        let differs = |at: &usize| before[*at] != after[*at];
        let from = (0..after.len()).find(differs).expect("a frame has bytes");
        let to = (0..after.len()).rfind(differs).expect("a frame has bytes") + 1;
        assert!(to - from > last.payload.len(), "the frame was found");
        let cuts = (from..=to).map(|cut| {
            let disk = disk();
            drop(written(&disk, opening, forced));
            let file = disk.open(&name).expect("it opens");
            let written = file.write_at(&after[from..cut], from as u64);
            written.expect("memory is written");
            open(Opened::from(&disk, opening, &self.groups))
        });
        cuts.collect()
    }
}

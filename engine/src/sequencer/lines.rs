//! Lines: a journal each, one in each directory, with its open group, its groups on their way and its space.
//!
//! A record goes into the open group of each directory that has a part of it ([`crate::directories`]). Groups are cut,
//! written and forced in each line by itself, so that a slow disk makes larger groups and keeps no other from its work. What
//! is persisted is what every line has persisted: up to before the first record that is still on its way in one of them.
//!
//! Where there is one line, there is nothing to say about where records are, and nothing is said: they are written as they
//! are. Of several lines, a record that is in more than one names them all, and the first of each group tells what was
//! forced when the group was begun.

use super::{JournalState, space::Space};
use crate::{
    directories::{DirectorySet, Placement, Stamp},
    ids::{DirectoryNo, GroupNo, Lsn},
    journal::record::{self, Spread},
};
use std::collections::VecDeque;

/// Room that a group's buffer has from the beginning, if the one before was as large: it need not grow in small steps.
const LARGEST_HEAD_START: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct OpenGroup {
    pub(super) payload: Vec<u8>,
    pub(super) first: Lsn,
    last: Lsn,
    pub(super) records: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    pub(super) number: GroupNo,
    pub(super) first: Lsn,
    pub(super) last: Lsn,
    pub(super) payload: usize,
}

/// The journal of a directory.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) open: OpenGroup,
    /// Groups on their way, oldest first.
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) last_group: GroupNo,
    /// The last group that is persisted.
    persisted: GroupNo,
    pub(super) previous_records: usize,
    pub(super) space: Space,
}

impl Line {
    fn new(state: &JournalState, segment_bytes: u64) -> Self {
        Self {
            open: OpenGroup::default(),
            in_flight: VecDeque::new(),
            last_group: state.last_group,
            persisted: state.last_group,
            previous_records: 0,
            space: Space::new(state.room, segment_bytes),
        }
    }

    /// Whether no group is open or on its way, so that nothing of this line will wake who waits.
    pub(super) fn is_idle(&self) -> bool {
        self.open.records == 0 && self.in_flight.is_empty()
    }

    /// The first LSN here that is not persisted.
    fn first_on_its_way(&self) -> Option<Lsn> {
        let open = (self.open.records > 0).then_some(self.open.first);
        self.in_flight.front().map(|group| group.first).or(open)
    }

    /// Whether the open group can grow by so many payload bytes and still fit in space that exists.
    fn has_room_for(&self, bytes: usize, max_group_bytes: usize) -> bool {
        let grown = self.open.payload.len() + bytes;
        if self.open.records > 0 && grown > max_group_bytes {
            return false;
        }
        self.space.fits(grown)
    }

    /// Puts the open group on its way; its last LSN.
    pub(super) fn close(&mut self) -> (OpenGroup, Lsn) {
        let head_start = self.open.payload.len().min(LARGEST_HEAD_START);
        let open = std::mem::take(&mut self.open);
        self.open.payload = Vec::with_capacity(head_start);
        self.last_group = self.last_group.next();
        self.in_flight.push_back(InFlight {
            number: self.last_group,
            first: open.first,
            last: open.last,
            payload: open.payload.len(),
        });
        self.previous_records = open.records;
        let last = open.last;
        (open, last)
    }

    /// All groups up to the one that ends at `last` are persisted.
    pub(super) fn persisted(&mut self, last: Lsn) {
        let written = self.in_flight.iter().position(|group| group.last == last);
        let written = written.expect("the I/O thread answers for groups that are on their way");
        self.persisted = self.in_flight[written].number;
        self.in_flight.drain(..=written);
    }
}

/// All lines, and who is in which.
#[derive(Debug)]
pub(super) struct Lines {
    lines: Vec<Line>,
    pub(super) placement: Placement,
    max_group_bytes: usize,
    /// Whether what is persisted is forced.
    force: bool,
}

impl Lines {
    pub(super) fn new(
        states: &[JournalState],
        placement: Placement,
        options: super::SequencerOptions,
    ) -> Self {
        assert_eq!(
            states.len(),
            placement.directories(),
            "a journal for each directory"
        );
        let lines = states.iter();
        Self {
            lines: lines
                .map(|state| Line::new(state, options.segment_bytes))
                .collect(),
            placement,
            max_group_bytes: options.max_group_bytes,
            force: options.force,
        }
    }

    /// The numbers of all.
    pub(super) fn numbers(&self) -> impl Iterator<Item = DirectoryNo> + use<> {
        let count = u8::try_from(self.lines.len()).expect("64 at most");
        (0..count).map(DirectoryNo)
    }

    pub(super) fn of(&mut self, directory: DirectoryNo) -> &mut Line {
        &mut self.lines[usize::from(directory.0)]
    }

    pub(super) fn home(&self) -> &Line {
        &self.lines[0]
    }

    /// A bit for each.
    pub(super) fn all_bits(&self) -> u64 {
        u64::MAX >> (64 - self.lines.len())
    }

    /// Whether there is one directory.
    pub(super) fn is_one(&self) -> bool {
        self.lines.len() == 1
    }

    /// How many have an open group.
    pub(super) fn open(&self) -> usize {
        let open = self.lines.iter().filter(|line| line.open.records > 0);
        open.count()
    }

    /// Whether no group is on its way.
    pub(super) fn is_nothing_in_flight(&self) -> bool {
        self.lines.iter().all(|line| line.in_flight.is_empty())
    }

    /// Up to where everything is persisted, when `last` was the last LSN given.
    pub(super) fn persisted(&self, last: Lsn) -> Lsn {
        let first = self.lines.iter().filter_map(Line::first_on_its_way).min();
        first.map_or(last, |first| Lsn(first.0 - 1))
    }

    /// So many bytes of a record, and what may be said around it.
    fn around(&self, bytes: usize) -> usize {
        match self.lines.len() {
            1 => bytes,
            several => bytes + record::spread_bytes_bound(several),
        }
    }

    /// Whether a record of so many bytes fits into all of these.
    pub(super) fn have_room_for(&self, directories: DirectorySet, bytes: usize) -> bool {
        let (bytes, most) = (self.around(bytes), self.max_group_bytes);
        let mut lines = directories.iter();
        lines.all(|number| self.lines[usize::from(number.0)].has_room_for(bytes, most))
    }

    /// Those of `directories` into which a record of so many bytes does not fit, and its bytes there.
    pub(super) fn without_room_for(
        &self,
        directories: DirectorySet,
        bytes: usize,
    ) -> (Vec<DirectoryNo>, usize) {
        let lacking = directories
            .iter()
            .filter(|number| !self.have_room_for(DirectorySet::of(*number), bytes));
        (lacking.collect(), self.around(bytes))
    }

    /// Appends a record to the open groups of `directories`; `encode` appends the part of it that is in one of them.
    pub(super) fn append(
        &mut self,
        lsn: Lsn,
        directories: DirectorySet,
        persisted: Lsn,
        encode: impl Fn(&mut Vec<u8>, DirectoryNo, &Placement),
    ) {
        let is_striped = !self.is_one();
        for number in directories.iter() {
            let is_first = self.of(number).open.records == 0;
            let stamp = (is_striped && is_first && self.force).then(|| Stamp {
                durable: persisted,
                forced: self.lines.iter().map(|line| line.persisted).collect(),
            });
            let open = &mut self.lines[usize::from(number.0)].open;
            let start = open.payload.len();
            encode(&mut open.payload, number, &self.placement);
            if directories.is_several() || stamp.is_some() {
                record::spread_last(&mut open.payload, start, &Spread { directories, stamp });
            }
            if is_first {
                open.first = lsn;
            }
            open.last = lsn;
            open.records += 1;
        }
    }
}

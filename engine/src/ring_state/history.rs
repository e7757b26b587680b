//! What has happened to a ring, as the manifest keeps it beside the ring's table.
//!
//! As varints: the LSN of the last Cut, the number of the last change, the number of slots, then of each slot its role (a
//! byte: 0 member, 1 retired), since, and ownership epoch; then a byte, 1 if a change is under way, and if so the change
//! (as in the record), the members before it, the number of its sources, and of each the node, a byte (0 waiting, 1 cut,
//! 2 cleaned), and unless it waits the LSN of its Cut.

use super::{
    Role, Running, Slot, SourceState, is_member,
    record::{put_change, put_members, take_change, take_members},
    refuse,
};
use crate::{
    error::Result,
    ids::{Epoch, Lsn, NodeId},
    ring::Ring,
    wire::{Reader, put_varint},
};
use std::collections::BTreeMap;

/// What has happened to a ring: its nodes, retired ones included, and a change that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RingHistory {
    pub(super) since: Lsn,
    pub(super) slots: Vec<Slot>,
    pub(super) last_change: u64,
    pub(super) running: Option<Running>,
}

impl RingHistory {
    /// Whether this can be the history of `ring`.
    pub(super) fn check(&self, ring: &Ring) -> Result<()> {
        /// Counters that are near their end were not counted.
        const FAR: u64 = u64::MAX / 2;
        if ring.epoch().0 > FAR || self.last_change > FAR {
            return refuse("its ring has changed more often than can be");
        }
        if self.slots.len() > usize::from(u16::MAX) {
            return refuse("there are more nodes than numbers");
        }
        let is_live = |node: NodeId| {
            let slot = self.slots.get(usize::from(node.0));
            slot.is_some_and(|slot| slot.role == Role::Member)
        };
        if !ring.nodes().iter().all(|(node, _)| is_live(*node)) {
            return refuse("a member of the ring has no place among the nodes");
        }
        let live = self.slots.iter().filter(|slot| slot.role == Role::Member);
        if live.count() != ring.nodes().len() {
            return refuse("a node takes part that is no member of the ring");
        }
        if self
            .slots
            .iter()
            .any(|slot| slot.owned_since > ring.epoch())
        {
            return refuse("a node owns its arcs since an epoch that has not come");
        }
        match &self.running {
            Some(running) => self.check_running(ring, running),
            None => Ok(()),
        }
    }

    fn check_running(&self, ring: &Ring, running: &Running) -> Result<()> {
        let change = &running.change;
        let members = change.members.iter().chain(&running.before);
        if change.number != self.last_change || change.members.is_empty() {
            return refuse("the change that is under way is not the last one");
        }
        if !members
            .map(|(node, _)| *node)
            .all(|node| is_member(ring, node))
        {
            return refuse("a change is under way for a node that is no member");
        }
        if !change.sources().iter().eq(running.sources.keys()) {
            return refuse("the progress of a change is that of other nodes");
        }
        for one in &change.moves {
            let owner = ring.owners().get(one.arc as usize);
            let expected = match running.sources[&one.from] {
                SourceState::Waiting => one.from,
                SourceState::Cut(_) | SourceState::Cleaned(_) => one.to,
            };
            if owner != Some(&expected) {
                return refuse("an arc that moves is not where the change is");
            }
        }
        Ok(())
    }
}

const MEMBER: u8 = 0;
const RETIRED: u8 = 1;

const WAITING: u8 = 0;
const CUT: u8 = 1;
const CLEANED: u8 = 2;

pub(crate) fn put_history(out: &mut Vec<u8>, history: &RingHistory) {
    put_varint(out, history.since.0);
    put_varint(out, history.last_change);
    put_varint(out, history.slots.len() as u64);
    for slot in &history.slots {
        out.push(match slot.role {
            Role::Member => MEMBER,
            Role::Retired => RETIRED,
        });
        put_varint(out, slot.since.0);
        put_varint(out, slot.owned_since.0);
    }
    out.push(history.running.is_some().into());
    let Some(running) = &history.running else {
        return;
    };
    put_change(out, &running.change);
    put_members(out, &running.before);
    put_varint(out, running.sources.len() as u64);
    for (node, state) in &running.sources {
        put_varint(out, node.0.into());
        match state {
            SourceState::Waiting => out.push(WAITING),
            SourceState::Cut(lsn) => {
                out.push(CUT);
                put_varint(out, lsn.0);
            }
            SourceState::Cleaned(lsn) => {
                out.push(CLEANED);
                put_varint(out, lsn.0);
            }
        }
    }
}

pub(crate) fn take_history(reader: &mut Reader<'_>) -> Option<RingHistory> {
    let since = Lsn(reader.varint()?);
    let last_change = reader.varint()?;
    let count: usize = reader.small()?;
    // Each has three bytes at least: a count beyond that is refused before anything is reserved for it.
    if count > reader.remaining() / 3 {
        return None;
    }
    let slot = |_| {
        Some(Slot {
            role: match reader.byte()? {
                MEMBER => Role::Member,
                RETIRED => Role::Retired,
                _ => return None,
            },
            since: Lsn(reader.varint()?),
            owned_since: Epoch(reader.varint()?),
        })
    };
    let slots = (0..count).map(slot).collect::<Option<_>>()?;
    let running = match reader.byte()? {
        0 => None,
        1 => Some(take_running(reader)?),
        _ => return None,
    };
    Some(RingHistory {
        since,
        slots,
        last_change,
        running,
    })
}

fn take_running(reader: &mut Reader<'_>) -> Option<Running> {
    let change = take_change(reader)?.into();
    let before = take_members(reader)?;
    let count: u64 = reader.varint()?;
    let mut sources = BTreeMap::new();
    for _ in 0..count {
        let node = NodeId(reader.small()?);
        let state = match reader.byte()? {
            WAITING => SourceState::Waiting,
            CUT => SourceState::Cut(Lsn(reader.varint()?)),
            CLEANED => SourceState::Cleaned(Lsn(reader.varint()?)),
            _ => return None,
        };
        sources.insert(node, state);
    }
    Some(Running {
        change,
        before,
        sources,
    })
}

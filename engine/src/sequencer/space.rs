//! Space accounting: what is accepted fits in segments that exist, so that a full disk is found before an LSN is given.
//!
//! Room is what still fits into the active segment; behind it stands at most one spare segment. A group is one frame in
//! one segment, so it must fit into either. A spare is asked for when the last one was taken, or when it is too small for
//! what waits; one that could not be had is asked for again at the next timeout.

use crate::{
    error::{Error, Result},
    journal::frame_bytes,
};

/// Kept free for the journal's own records (fences, keyspaces), which are few and small.
const RESERVE_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// Asked for and not there yet.
    Requested,
    /// Ready, with room for a group of this payload.
    Ready(u64),
    /// Could not be had; asked for again at the next timeout.
    Failed,
}

/// A spare segment to be asked for, with room for so many payload bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SpareWanted(pub(super) u64);

/// The space that exists.
#[derive(Debug)]
pub(super) struct Space {
    room: u64,
    spare: Spare,
    error: Option<Error>,
    segment_bytes: u64,
}

impl Space {
    /// The active segment has room for `room` payload bytes; there is no spare.
    pub(super) fn new(room: u64, segment_bytes: u64) -> Self {
        Self {
            room,
            spare: Spare::Failed,
            error: None,
            segment_bytes,
        }
    }

    /// Why the last spare could not be had.
    pub(super) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Takes over what the I/O thread has seen, less what the groups still on their way, with these payloads, will use.
    pub(super) fn report(
        &mut self,
        room: u64,
        mut spare: Option<u64>,
        on_their_way: impl Iterator<Item = usize>,
    ) {
        self.room = room;
        for payload in on_their_way {
            let space = if payload as u64 <= self.room {
                self.room
            } else {
                spare.take().unwrap_or(0)
            };
            self.room = space.saturating_sub(frame_bytes(payload));
        }
        self.spare = match (spare, self.spare) {
            // Whoever was asked has not answered yet. Counting the spare now would count it twice.
            (_, Spare::Requested) => Spare::Requested,
            (Some(spare), Spare::Ready(_) | Spare::Failed) => Spare::Ready(spare),
            (None, Spare::Ready(_) | Spare::Failed) => Spare::Failed,
        };
    }

    /// A spare was made, or could not be.
    pub(super) fn arrived(&mut self, spare: Result<u64>) {
        match spare {
            Ok(payload) => {
                self.spare = Spare::Ready(payload);
                self.error = None;
            }
            Err(error) => {
                self.spare = Spare::Failed;
                self.error = Some(error);
            }
        }
    }

    /// Whether a group of this payload fits and leaves the reserve.
    pub(super) fn fits(&self, payload: usize) -> bool {
        let spare = match self.spare {
            Spare::Ready(spare) => spare,
            Spare::Requested | Spare::Failed => 0,
        };
        (payload + RESERVE_BYTES) as u64 <= self.room.max(spare)
    }

    /// Does what helps something of `bytes` that does not fit; fails if nothing will come.
    /// `is_idle` says that no group is open or on its way, so that nothing else will wake what waits.
    pub(super) fn make_room(&mut self, bytes: u64, is_idle: bool) -> Result<Option<SpareWanted>> {
        match self.spare {
            Spare::Failed => match (is_idle, &self.error) {
                (true, Some(error)) => Err(error.clone()),
                _ => Ok(Some(self.request(bytes))),
            },
            // A spare that is too small gives way to a larger one: nothing else will wake what waits.
            Spare::Ready(_) if is_idle => Ok(Some(self.request(bytes))),
            Spare::Ready(_) | Spare::Requested => Ok(None),
        }
    }

    /// Takes the space of a group that is about to be written; if there is none, what to ask for.
    pub(super) fn take(&mut self, payload: usize) -> std::result::Result<(), Option<SpareWanted>> {
        let frame = frame_bytes(payload);
        let payload = payload as u64;
        if payload <= self.room {
            self.room = self.room.saturating_sub(frame);
            return Ok(());
        }
        match self.spare {
            Spare::Ready(spare) if payload <= spare => {
                self.room = spare.saturating_sub(frame);
                self.spare = Spare::Failed;
                Ok(())
            }
            // The spare that was reported when the group was admitted was the one that the group before it was about to
            // take, or the journal's own records have used up the reserve. The group waits for the next.
            Spare::Ready(_) => Err(Some(self.request(payload))),
            Spare::Failed if self.error.is_none() => Err(Some(self.request(payload))),
            // Asked for already, or asked for again at the next timeout.
            Spare::Failed | Spare::Requested => Err(None),
        }
    }

    /// Asks for a spare if there is none, none is on its way, and the last attempt did not fail.
    pub(super) fn refill(&mut self, at_least: u64) -> Option<SpareWanted> {
        (self.spare == Spare::Failed && self.error.is_none()).then(|| self.request(at_least))
    }

    /// As [`Space::refill`], also after a failed attempt.
    pub(super) fn retry(&mut self, at_least: u64) -> Option<SpareWanted> {
        (self.spare == Spare::Failed).then(|| self.request(at_least))
    }

    fn request(&mut self, payload: u64) -> SpareWanted {
        self.spare = Spare::Requested;
        SpareWanted((payload + 32 * 1024).max(self.segment_bytes))
    }
}

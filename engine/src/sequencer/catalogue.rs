//! Keyspaces come and go by records of the journal's own, answered when these are visible.

use super::{JournalEffect, Sequencer};
use crate::{
    directories::DirectorySet,
    error::{Error, Result},
    ids::{DirectoryNo, KeyspaceId, Lsn, RequestId},
    journal::record::RecordBody,
};
use std::collections::VecDeque;

/// Who waits for a record of the catalogue to be visible.
#[derive(Debug)]
pub(super) struct KeyspaceAnswer {
    pub(super) lsn: Lsn,
    pub(super) request: RequestId,
    pub(super) id: KeyspaceId,
    pub(super) is_drop: bool,
}

impl Sequencer {
    pub(super) fn create_keyspace(
        &mut self,
        request: RequestId,
        name: &str,
        out: &mut Vec<JournalEffect>,
    ) {
        if let Ok(id) = self.keyspaces.lookup(name) {
            let pending = self
                .keyspace_answers
                .iter()
                .find(|pending| pending.id == id);
            match pending.map(|pending| pending.lsn) {
                Some(lsn) => self.answer_at(lsn, request, id, false),
                None => out.push(JournalEffect::Answer(request, Ok(id))),
            }
            return;
        }
        let planned = self
            .writable()
            .and_then(|()| self.keyspaces.plan_create(name));
        match planned {
            Ok(id) => {
                self.keyspaces
                    .install_create(id, name)
                    .expect("what was planned can be installed");
                let lsn = self.append_record(RecordBody::CreateKeyspace {
                    id,
                    name: name.to_owned(),
                });
                self.answer_at(lsn, request, id, false);
                self.cut(out);
            }
            Err(error) => out.push(JournalEffect::Answer(request, Err(error))),
        }
    }

    pub(super) fn drop_keyspace(
        &mut self,
        request: RequestId,
        name: &str,
        out: &mut Vec<JournalEffect>,
    ) {
        match self.writable().and_then(|()| self.keyspaces.lookup(name)) {
            Ok(id) => {
                self.keyspaces.install_drop(id);
                let lsn = self.append_record(RecordBody::DropKeyspace { id });
                self.answer_at(lsn, request, id, true);
                self.cut(out);
            }
            Err(error) => out.push(JournalEffect::Answer(request, Err(error))),
        }
    }

    fn answer_at(&mut self, lsn: Lsn, request: RequestId, id: KeyspaceId, is_drop: bool) {
        self.keyspace_answers.push_back(KeyspaceAnswer {
            lsn,
            request,
            id,
            is_drop,
        });
    }

    /// Answers who waited for what is visible now.
    pub(super) fn tell_of_keyspaces(&mut self, out: &mut Vec<JournalEffect>) {
        // A repeated creation waits behind the first with the same LSN, so the queue may be out of order by name only.
        let mut later = VecDeque::new();
        for answer in std::mem::take(&mut self.keyspace_answers) {
            if answer.lsn > self.visible {
                later.push_back(answer);
                continue;
            }
            if answer.is_drop {
                out.push(JournalEffect::Dropped(answer.id));
            }
            out.push(JournalEffect::Answer(answer.request, Ok(answer.id)));
        }
        self.keyspace_answers = later;
    }

    pub(super) fn writable(&self) -> Result<()> {
        /// Room kept for a record of the journal's own.
        const OWN_RECORD_BYTES: usize = 1024;
        let home = DirectorySet::of(DirectoryNo::HOME);
        match self.read_only() {
            Some(error) => Err(error),
            None if self.lines.have_room_for(home, OWN_RECORD_BYTES) => Ok(()),
            None => {
                let error = self.lines.home().space.error().cloned();
                let what = "the journal";
                Err(error.unwrap_or(Error::Overloaded { what }))
            }
        }
    }
}

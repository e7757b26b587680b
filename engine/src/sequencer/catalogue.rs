//! Keyspaces come and go by records of the journal's own, answered when these are visible.

use super::{JournalEffect, Sequencer};
use crate::{
    error::{Error, Result},
    ids::RequestId,
    journal::record::RecordBody,
};

impl Sequencer {
    pub(super) fn create_keyspace(
        &mut self,
        request: RequestId,
        name: &str,
        out: &mut Vec<JournalEffect>,
    ) {
        if let Ok(id) = self.keyspaces.lookup(name) {
            let pending = self.keyspace_answers.iter().find(|(_, _, p)| *p == id);
            match pending.map(|(lsn, ..)| *lsn) {
                Some(lsn) => self.keyspace_answers.push_back((lsn, request, id)),
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
                self.keyspace_answers.push_back((lsn, request, id));
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
                self.keyspace_answers.push_back((lsn, request, id));
                self.cut(out);
            }
            Err(error) => out.push(JournalEffect::Answer(request, Err(error))),
        }
    }

    pub(super) fn writable(&self) -> Result<()> {
        /// Room kept for a record of the journal's own.
        const OWN_RECORD_BYTES: usize = 1024;
        match self.read_only() {
            Some(error) => Err(error),
            None if self.has_room_for(OWN_RECORD_BYTES) => Ok(()),
            None => Err(self.space.error().cloned().unwrap_or(Error::Overloaded {
                what: "the journal",
            })),
        }
    }
}

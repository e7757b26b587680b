//! Locking ahead, as `get_for_update` does it: wait for the grant, move the snapshot on, check what was read before.

use super::{Draft, Pinning};
use crate::{faults::Fault, mutation::Mutation, pin::Member, report::Seen, world::World};
use mailring_engine::{
    Result,
    draft::{self, Shown},
    ids::RequestId,
    view::NodeView,
};
use std::sync::Arc;

fn shown<'a>((member, view): (&'a Arc<Member>, &'a Arc<NodeView>)) -> Shown<'a> {
    (&member.table, view)
}

impl World {
    /// A transaction looks whether it has the key; gives the transaction back if it goes on.
    pub(super) fn wait_for_key(
        &mut self,
        client: usize,
        mut draft: Draft,
        request: RequestId,
    ) -> Option<Draft> {
        if self.strikes(Fault::ClientVanishes) {
            self.withdraw(client, request);
            self.give_up(client, draft);
            return None;
        }
        let error = match self.key_answer(request) {
            None => return Some(draft),
            Some(Ok(key)) => {
                draft.asks = None;
                draft.grants.push(request);
                self.takes_turn(&draft, &key);
                match self.move_on(&mut draft) {
                    Ok(()) => {
                        draft.keys.push_front(key);
                        return Some(draft);
                    }
                    Err(error) => error,
                }
            }
            Some(Err(error)) => error,
        };
        self.check_turn(draft.number, &error);
        let attempt = draft.attempt.clone();
        self.give_up(client, draft);
        self.refused(client, None, attempt, &error);
        None
    }

    /// Reads at the visible LSN from here on, if all that was read is the same there.
    fn move_on(&mut self, draft: &mut Draft) -> Result<()> {
        let since = draft.snapshot;
        let pin = self.pin();
        let next = pin.at;
        if self.mutated(Mutation::ReadBeforeGrant) || next <= since {
            return Ok(());
        }
        let keys = draft.read_keys.iter();
        let keys = keys.map(|key| (key, shown(pin.owner(key))));
        draft::check_unchanged(since, keys, &draft.read_ranges, pin.owners().map(shown))?;
        for key in &draft.read_keys {
            let [before, now] = [since, next].map(|at| self.model.version(key, at));
            assert_eq!(before, now, "txn {} reads on", draft.number);
        }
        for range in &draft.read_ranges {
            let [before, now] = [since, next].map(|at| self.model.versions_in(range, at));
            assert_eq!(before, now, "txn {} reads on", draft.number);
        }
        self.count(Seen::MovedOn, 1);
        (draft.snapshot, draft.pin) = (next, Pinning::Pinned(pin));
        Ok(())
    }
}

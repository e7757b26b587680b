//! Keyspaces that are created, used and dropped, by handles that outlive the drop.
//!
//! Behind a visible drop nobody begins anything in the keyspace, whoever has opened it and whoever dropped it; what was in
//! it is never read again, not through a keyspace of the same name, and not after a crash.

use super::Draft;
use crate::{
    dice::Dice,
    keys::{Keys, shown},
    model::text,
    network::{Message, Party},
    report::Seen,
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Result,
    ids::{KeyspaceId, RequestId},
    open_keyspaces::OpenKeyspace,
    sequencer::JournalMessage,
    store::Store,
    transaction::KeyRange,
    value::{Value, split_qualified},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const NAMES: [&str; 3] = ["x", "y", ""];
/// Handles that clients keep; older ones are dropped.
const HANDLES: usize = 6;

/// What somebody has asked of the catalogue.
#[derive(Debug)]
pub(crate) struct SpaceRequest {
    name: &'static str,
    is_drop: bool,
    /// Its future was dropped.
    is_forgotten: bool,
}

/// What a transaction does in a keyspace.
#[derive(Debug, Clone)]
pub(crate) struct SpaceJob {
    pub(super) space: Arc<OpenKeyspace>,
    pub(super) reads: BTreeSet<Bytes>,
    pub(super) scans: bool,
    writes: BTreeSet<Bytes>,
    removes: bool,
}

impl SpaceJob {
    pub(super) fn draw(dice: &mut Dice, space: Arc<OpenKeyspace>) -> Self {
        let all: Vec<_> = Keys::of_space(space.id()).collect();
        let mut draw = |most: u64| -> BTreeSet<Bytes> {
            let count = dice.within(0..most);
            (0..count)
                .map(|_| all[dice.below(all.len())].clone())
                .collect()
        };
        let (reads, writes) = (draw(3), draw(4));
        Self {
            space,
            reads,
            writes,
            scans: dice.chance(3),
            removes: dice.chance(5),
        }
    }

    pub(super) fn range(&self) -> KeyRange {
        Keys::range_of_space(self.space.id())
    }

    pub(super) fn writes(&self, draft: &Draft) -> BTreeMap<Bytes, Option<Value>> {
        let value = (!self.removes).then(|| text(draft.number, 10));
        let writes = self.writes.iter();
        writes.map(|key| (key.clone(), value.clone())).collect()
    }
}

impl World {
    /// Somebody creates, opens or drops a keyspace, as a handle does.
    pub(crate) fn ask_for_keyspace(&mut self) {
        let name = self.schedule.pick(&NAMES);
        let is_drop = self.schedule.chance(3);
        if !is_drop && let Some(space) = self.process.open_keyspaces.known(name) {
            return self.keep_handle(space);
        }
        let request = RequestId(self.next_number());
        let asked = SpaceRequest {
            name,
            is_drop,
            is_forgotten: self.schedule.chance(6),
        };
        self.process.keyspace_requests.insert(request, asked);
        let name = name.to_owned();
        let message = match is_drop {
            true => JournalMessage::DropKeyspace { request, name },
            false => JournalMessage::CreateKeyspace { request, name },
        };
        let client = Party::Client(u8::MAX);
        self.send(client, Party::Journal, Message::Journal(message));
    }

    fn keep_handle(&mut self, space: Arc<OpenKeyspace>) {
        let handles = &mut self.process.spaces;
        handles.push(space);
        if handles.len() > HANDLES {
            handles.remove(0);
        }
    }

    /// The journal answers.
    pub(crate) fn keyspace_answered(&mut self, request: RequestId, result: Result<KeyspaceId>) {
        let asked = self.process.keyspace_requests.remove(&request);
        let asked =
            asked.unwrap_or_else(|| panic!("keyspace request {request} was answered twice"));
        let Ok(id) = result else {
            return;
        };
        let visible = self.process.visible.load();
        assert!(self.model.knew_keyspace(id, visible), "{id} is not durable");
        match asked.is_drop {
            false => {
                let space = self.process.open_keyspaces.opened(id, asked.name);
                if !asked.is_forgotten {
                    self.keep_handle(space);
                }
            }
            // The rest is up to who has asked.
            true if asked.is_forgotten => {}
            true => {
                let hide = Message::Hide(id);
                self.send(Party::Client(u8::MAX), Party::Compactor, hide);
            }
        }
    }

    /// The rows of a dropped keyspace are taken out of cache and trees.
    pub(crate) fn hide(&mut self, id: KeyspaceId) {
        let prefix = id.0.to_be_bytes();
        self.process.cache.remove_prefix(&prefix);
        for node in self.process.open_nodes() {
            let store = &self.directory.stores[usize::from(node)];
            store.drop_prefix(&prefix).expect("memory does not fail");
        }
        self.process.hidden.insert(id);
        self.check_hidden();
    }

    /// What was hidden stays hidden.
    pub(crate) fn check_hidden(&self) {
        for id in &self.process.hidden {
            let range = Keys::range_of_space(*id);
            for node in self.process.open_nodes() {
                let store = &self.directory.stores[usize::from(node)];
                let found = store.view().range(range.low(), range.high()).next();
                if let Some(pair) = found {
                    let (key, _) = pair.expect("memory reads");
                    panic!(
                        "{} of keyspace {id}, which was dropped, is back",
                        shown(&key)
                    );
                }
            }
        }
    }

    /// A handle that may still be used, by some client.
    pub(super) fn draw_space(&mut self) -> Option<Arc<OpenKeyspace>> {
        let handles = &self.process.spaces;
        if handles.is_empty() {
            return None;
        }
        let space = Arc::clone(&handles[self.clients.dice.below(handles.len())]);
        self.may_enter(&space).then_some(space)
    }

    /// What a handle looks at before anything else.
    pub(super) fn may_enter(&mut self, space: &OpenKeyspace) -> bool {
        let (id, visible) = (space.id(), self.process.visible.load());
        let is_gone = self.model.has_dropped(id, visible);
        match space.check() {
            // A journal that panicked among its effects has told nobody, and takes no write either.
            Ok(()) => assert!(
                !is_gone || self.process.journal_is_dead,
                "keyspace {id} was dropped, and is still written"
            ),
            Err(error) => {
                assert!(is_gone, "keyspace {id} is there: {error}");
                self.count(Seen::KeyspaceGone, 1);
            }
        }
        !is_gone
    }

    /// The keys of keyspaces that clients have open.
    pub(crate) fn keys_of_spaces(&self) -> impl Iterator<Item = Bytes> {
        let spaces = self.process.spaces.iter();
        let spaces = spaces.filter(|space| space.check().is_ok());
        spaces.flat_map(|space| Keys::of_space(space.id()))
    }

    /// Keys that the catalogue has now, for who looks into a tree.
    pub(crate) fn exists(&self, key: &[u8]) -> bool {
        let keyspaces = self.process.sequencer.keyspaces();
        keyspaces.contains(split_qualified(key).0)
    }
}

//! Pinned views: the state at one LSN, for whoever reads more than one key at it.

use crate::{engine::Engine, member::Member, routes::Routes};
use bytes::Bytes;
use mailring_engine::{
    Result, cache::RowCache, ids::Lsn, routes::Owned, scan::Source, store::runs::Direction,
    value::Value, view::NodeView,
};
use std::{ops::Bound, sync::Arc};

/// The views of all nodes that own something at an LSN, and the routes that hold there. Who reads from it asks these, and not
/// the current ones, whose a key is.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) at: Lsn,
    pub(crate) routes: Arc<Routes>,
    /// By place in the routes; none where a node owns nothing.
    views: Vec<Option<Arc<NodeView>>>,
}

impl Pinned {
    fn new(at: Lsn, routes: Arc<Routes>) -> Self {
        let nodes = routes.nodes().iter().enumerate();
        let views = nodes
            .map(|(place, member)| routes.owns(place).then(|| member.table.view()))
            .collect();
        Self { at, routes, views }
    }

    /// The nodes that own something here, and what they show.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (&Arc<Member>, &Arc<NodeView>)> + Clone {
        let nodes = self.routes.nodes().iter().zip(&self.views);
        nodes.filter_map(|(member, view)| Some((member, view.as_ref()?)))
    }

    /// The owner of a key (the caller's) and what it shows.
    pub(crate) fn owner(&self, key: &[u8]) -> (&Arc<Member>, &Arc<NodeView>) {
        let place = self.routes.place_of(key);
        let view = self.views[place].as_ref();
        let view = view.expect("the views of all owners are pinned");
        (&self.routes.nodes()[place], view)
    }

    /// Looks a key up at its owner. `key` is the caller's, `qualified` the same with its keyspace.
    pub(crate) fn get(
        &self,
        cache: &RowCache,
        key: &[u8],
        qualified: &[u8],
    ) -> Result<Option<Value>> {
        let (member, view) = self.owner(key);
        member.table.get_in(view, cache, qualified, self.at)
    }

    /// What a scan merges of one node that owns something here, newest first.
    pub(crate) fn sources_of(
        &self,
        member: &Member,
        view: &NodeView,
        low: &Bound<Bytes>,
        high: &Bound<Bytes>,
        direction: Direction,
    ) -> Vec<Box<dyn Source>> {
        let sources = view.sources(low, high, self.at, direction);
        let place = self.routes.place(member.node());
        if !place.is_some_and(|place| self.routes.is_mixed(place)) {
            return sources;
        }
        let owned = sources.into_iter().map(|source| {
            let ring = Arc::clone(self.routes.ring());
            Box::new(Owned::new(source, ring, member.node())) as Box<dyn Source>
        });
        owned.collect()
    }

    /// What a scan merges of all nodes, newest first for each.
    pub(crate) fn sources(
        &self,
        low: &Bound<Bytes>,
        high: &Bound<Bytes>,
        direction: Direction,
    ) -> Vec<Box<dyn Source>> {
        self.owners()
            .flat_map(|(member, view)| self.sources_of(member, view, low, high, direction))
            .collect()
    }
}

impl Engine {
    /// Pins the state at the visible LSN, where all nodes are up that own something.
    pub(crate) fn pin(&self) -> Result<Pinned> {
        for member in self.switchboard.routes.load().owners() {
            member.table.check_up()?;
        }
        let pinned = self.pin_whatever_is_up()?;
        // Who is down is so for good: whoever is up now was up when the views were loaded.
        for (member, _) in pinned.owners() {
            member.table.check_up()?;
        }
        Ok(pinned)
    }

    /// As [`Engine::pin`], but nodes may be down. Whoever reads a node's view checks that the node is up.
    ///
    /// The views are loaded after the LSN, so they have everything up to it; where a checkpoint has moved a tree past it
    /// meanwhile, a newer LSN is taken. So it is where other routes were published: the views may be mixed already, and
    /// the routes don't say so.
    pub(crate) fn pin_whatever_is_up(&self) -> Result<Pinned> {
        self.check_open()?;
        let board = &self.switchboard;
        loop {
            let at = board.visible.load();
            let current = board.routes.load_full();
            let Some(routes) = current.at(at) else {
                continue;
            };
            let pinned = Pinned::new(at, Arc::clone(routes));
            let is_complete = |(_, view): (_, &Arc<NodeView>)| view.complete <= at;
            if pinned.owners().all(is_complete) && Arc::ptr_eq(&current, &board.routes.load()) {
                return Ok(pinned);
            }
        }
    }
}

#[cfg(test)]
impl Pinned {
    /// The state of an engine of so many nodes in which nothing was written.
    pub(crate) fn of_empty_nodes(nodes: u16) -> Self {
        use mailring_engine::{
            ids::NodeId,
            ring::Ring,
            store::{Store, memory::MemoryStore},
            view::NodeTable,
        };

        let numbers = (0..nodes).map(|node| (NodeId(node), 1));
        let ring = Ring::new(10, &numbers.clone().collect::<Vec<_>>()).expect("it has enough arcs");
        let members = numbers.map(|(node, _)| {
            let store = Arc::new(MemoryStore::default());
            let view = NodeView {
                active: Arc::default(),
                frozen: Vec::new(),
                tree: store.view(),
                complete: Lsn(0),
                floor: Lsn(0),
                leaving: None,
            };
            let table = Arc::new(NodeTable::new(node, view));
            Arc::new(Member::new(table, store, 1))
        });
        let state = Arc::new(mailring_engine::ring_state::RingState::new(ring));
        let routes = Routes::new(state, members.collect());
        Self::new(Lsn(0), Arc::new(routes))
    }
}

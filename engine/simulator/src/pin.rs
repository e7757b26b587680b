//! Pinned views, as handles take them: the state at one LSN, and the routes that hold there.
//!
//! A reader loads the visible LSN first, then the routes that hold there, then the views of all owners; and begins anew if
//! a tree has passed the LSN meanwhile or other routes were published. In the simulator other things happen between.

use crate::{mutation::Mutation, report::Seen, world::World};
use mailring_engine::{
    ids::{Lsn, NodeId},
    routes::{Owned, Routed, Routes},
    scan::Source,
    store::runs::Direction,
    transaction::KeyRange,
    value::split_qualified,
    view::{NodeTable, NodeView},
};
use std::sync::Arc;

/// A node as the routes lead to it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) table: Arc<NodeTable>,
}

impl Member {
    pub(crate) fn new(table: Arc<NodeTable>) -> Arc<Self> {
        Arc::new(Self { table })
    }
}

impl Routed for Member {
    fn node(&self) -> NodeId {
        self.table.node()
    }
}

/// The state at an LSN.
#[derive(Debug, Clone)]
pub(crate) struct Pin {
    pub(crate) at: Lsn,
    pub(crate) routes: Arc<Routes<Member>>,
    /// By place in the routes; none where a node owns nothing.
    views: Vec<Option<Arc<NodeView>>>,
}

impl Pin {
    /// The nodes that own something here, and what they show.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (&Arc<Member>, &Arc<NodeView>)> + Clone {
        let nodes = self.routes.nodes().iter().zip(&self.views);
        nodes.filter_map(|(member, view)| Some((member, view.as_ref()?)))
    }

    /// The owner of a qualified key, and what it shows.
    pub(crate) fn owner(&self, key: &[u8]) -> (&Arc<Member>, &Arc<NodeView>) {
        let place = self.routes.place_of(split_qualified(key).1);
        let view = self.views[place].as_ref();
        let view = view.expect("the views of all owners are pinned");
        (&self.routes.nodes()[place], view)
    }

    /// What a scan merges of all nodes, and whether something of it may be another node's.
    pub(crate) fn sources(
        &self,
        range: &KeyRange,
        direction: Direction,
        believes_all: bool,
    ) -> (Vec<Box<dyn Source>>, bool) {
        let (mut all, mut is_any_mixed) = (Vec::new(), false);
        for (member, view) in self.owners() {
            let node = member.node();
            let sources = view.sources(&range.low, &range.high, self.at, direction);
            let place = self.routes.place(node).expect("it is one of them");
            let is_mixed = self.routes.is_mixed(place);
            is_any_mixed |= is_mixed;
            if is_mixed && !believes_all {
                let ring = self.routes.ring();
                let owned = |source| Box::new(Owned::new(source, Arc::clone(ring), node));
                all.extend(
                    sources
                        .into_iter()
                        .map(|source| owned(source) as Box<dyn Source>),
                );
            } else {
                all.extend(sources);
            }
        }
        (all, is_any_mixed)
    }
}

impl World {
    /// The routes of a reader at `at`; none if he must begin anew.
    pub(crate) fn routes_at(&mut self, at: Lsn) -> Option<Arc<Routes<Member>>> {
        let current = Arc::clone(&self.process.routes);
        if self.mutated(Mutation::ReadAheadOfCut) {
            return Some(current);
        }
        let routes = current.at(at).map(Arc::clone);
        match &routes {
            Some(routes) if Arc::ptr_eq(routes, &current) => {}
            Some(_) => self.count(Seen::RoutedBefore, 1),
            None => self.count(Seen::Rerouted, 1),
        }
        routes
    }

    /// Pins the views of a reader at `at` whose routes are `routes`, and who found `current` to be published; none if he
    /// must begin anew.
    pub(crate) fn pin_views(
        &mut self,
        at: Lsn,
        routes: Arc<Routes<Member>>,
        current: &Arc<Routes<Member>>,
    ) -> Option<Pin> {
        let nodes = routes.nodes().iter().enumerate();
        let views = nodes.map(|(place, member)| routes.owns(place).then(|| member.table.view()));
        let views: Vec<_> = views.collect();
        if !Arc::ptr_eq(current, &self.process.routes) && !self.mutated(Mutation::KeepOldRoutes) {
            self.count(Seen::Rerouted, 1);
            return None;
        }
        let is_ahead = views.iter().flatten().any(|view| view.complete > at);
        // A checkpoint has passed the snapshot: another one is taken.
        let is_right = !is_ahead || self.mutated(Mutation::IgnoreTreeAhead);
        is_right.then_some(Pin { at, routes, views })
    }

    /// Pins the visible state, all at once.
    pub(crate) fn pin(&mut self) -> Pin {
        let at = self.process.visible.load();
        let current = Arc::clone(&self.process.routes);
        let routes = current.at(at).map(Arc::clone);
        let routes = routes.expect("routes are published before their cut is visible");
        let pin = self.pin_views(at, routes, &current);
        pin.expect("no tree is ahead of what is visible")
    }

    /// The node to which a writer of this key is led.
    pub(crate) fn routed(&self, key: &[u8]) -> NodeId {
        self.process.routes.owner(split_qualified(key).1).node()
    }

    /// What the visible LSN and the routes for it say of a key's owner.
    pub(crate) fn shown_by(&self, key: &[u8]) -> (Lsn, &Arc<NodeTable>) {
        let visible = self.process.visible.load();
        let routes = self.process.routes.at(visible);
        let routes = routes.expect("routes are published before their cut is visible");
        (visible, &routes.owner(split_qualified(key).1).table)
    }
}

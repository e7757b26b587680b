//! The same calls for plain threads.

use super::{Change, NodeEvents, NodeInfo, Nodes, Plan};
use crate::BlockingMailring;
use mailring_engine::{
    Result,
    ids::{DirectoryNo, NodeId},
};
use pollster::block_on;
use std::path::PathBuf;

/// The blocking view of [`Nodes`].
#[derive(Debug, Clone)]
pub struct BlockingNodes(Nodes);

impl BlockingMailring {
    /// [`Mailring::nodes`](crate::Mailring::nodes). A [`Change`] has blocking calls beside the others.
    #[must_use]
    pub fn nodes(&self) -> BlockingNodes {
        BlockingNodes(self.mailring().nodes())
    }
}

impl BlockingNodes {
    /// [`Nodes::list`].
    #[must_use]
    pub fn list(&self) -> Vec<NodeInfo> {
        self.0.list()
    }

    /// [`Nodes::directories`].
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.0.directories()
    }

    /// [`Nodes::plan_add`].
    ///
    /// # Errors
    ///
    /// As the other call.
    pub fn plan_add(&self, weight: u32) -> Result<Plan> {
        self.0.plan_add(weight)
    }

    /// [`Nodes::plan_remove`].
    ///
    /// # Errors
    ///
    /// As the other call.
    pub fn plan_remove(&self, node: NodeId) -> Result<Plan> {
        self.0.plan_remove(node)
    }

    /// [`Nodes::plan_set_weight`].
    ///
    /// # Errors
    ///
    /// As the other call.
    pub fn plan_set_weight(&self, node: NodeId, weight: u32) -> Result<Plan> {
        self.0.plan_set_weight(node, weight)
    }

    /// [`Nodes::add`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn add(&self, weight: u32) -> Result<Change> {
        block_on(self.0.add(weight))
    }

    /// [`Nodes::add_in`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn add_in(&self, directory: DirectoryNo, weight: u32) -> Result<Change> {
        block_on(self.0.add_in(directory, weight))
    }

    /// [`Nodes::remove`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn remove(&self, node: NodeId) -> Result<Change> {
        block_on(self.0.remove(node))
    }

    /// [`Nodes::set_weight`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn set_weight(&self, node: NodeId, weight: u32) -> Result<Change> {
        block_on(self.0.set_weight(node, weight))
    }

    /// [`Nodes::events`], which have a blocking call beside the other.
    #[must_use]
    pub fn events(&self) -> NodeEvents {
        self.0.events()
    }

    /// [`Nodes::change`].
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        self.0.change()
    }
}

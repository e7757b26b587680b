//! The routes of this crate lead to members: see [`mailring_engine::routes`].

use crate::member::Member;
use mailring_engine::{
    ids::NodeId,
    routes::{Routed, Routes as RoutesTo},
};

/// Which member owns a key.
pub(crate) type Routes = RoutesTo<Member>;

impl Routed for Member {
    fn node(&self) -> NodeId {
        self.table.node()
    }
}

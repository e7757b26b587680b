//! What a request holds from its admission to its answer, also if its caller has gone: its bytes of the memory budget
//! and its place in the node's queue.

use crate::{
    budget::Permit,
    queue::{Place, Queue},
};
use mailring_engine::{Error, Result};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Admission {
    _permit: Permit,
    _place: Place,
}

impl Admission {
    /// Takes a place in the queue, whose length is bounded; `what` is the queue's name.
    pub(crate) fn new(permit: Permit, queue: &Arc<Queue>, what: &'static str) -> Result<Self> {
        let place = Queue::enter(queue).ok_or(Error::Overloaded { what })?;
        Ok(Self {
            _permit: permit,
            _place: place,
        })
    }
}

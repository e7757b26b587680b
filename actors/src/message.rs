//! The envelopes of actix around the engine's messages.

use actix::Message;

/// A message of the engine on its way to an actor. It is answered, if at all, by a message of its own: actix drops an
/// envelope whose reply nobody waits for any more.
#[derive(Debug)]
pub(crate) struct Deliver<M>(pub(crate) M);

impl<M> Message for Deliver<M> {
    type Result = ();
}

/// A request of a handle, and where the answer goes. If the caller vanishes, the request is carried out all the same.
#[derive(Debug)]
pub(crate) struct Ask<M, R> {
    pub(crate) message: M,
    pub(crate) reply: R,
}

impl<M, R> Message for Ask<M, R> {
    type Result = ();
}

/// Time has passed.
#[derive(Debug)]
pub(crate) struct Tick;

impl Message for Tick {
    type Result = ();
}

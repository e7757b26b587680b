//! The way of a write into a mailbox, and back.
//!
//! A write is routed by the newest routes and says so by their epoch. A node that does not own the key any more, or is
//! handing it over, refuses with `Moved`: nothing was written, and the write is routed again when there are newer routes,
//! until its deadline. Who has read by his routes before he writes, a transaction, is not routed again but run again.

use crate::{
    admission::Admission,
    coordinator::{CommitReply, CommitRequest, Decision},
    engine::{Engine, lost, overdue},
    member::Member,
    message::Ask,
    routes::Routes,
    storage_node::{Reply, Request},
};
use mailring_engine::{
    Error, Result,
    ids::{Epoch, Time},
    participant::{Answer, Operation},
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long a write whose key is being handed over waits before it is tried again without newer routes.
const MOMENT: Duration = Duration::from_millis(2);

impl Engine {
    /// Sends an operation on one key to its owner, whoever that is by then, and waits for the durable, visible answer.
    pub(crate) async fn write(
        &self,
        key: &[u8],
        operation: Operation,
        weight: usize,
    ) -> Result<Answer> {
        let deadline = self.switchboard.clock.in_future(self.deadline);
        loop {
            let mut routed_by = Epoch(0);
            let by_key = |routes: &Routes| {
                routed_by = routes.epoch();
                (Arc::clone(routes.owner(key)), routed_by)
            };
            let written = self.write_until(operation.clone(), weight, deadline, by_key);
            match written.await {
                Err(Error::Moved { .. }) => self.rerouted(routed_by, deadline).await?,
                answer => return answer,
            }
        }
    }

    /// Waits for routes newer than of this epoch, or for a moment, since a hand-over may be called off; not beyond the
    /// deadline, with which nothing was written.
    pub(crate) async fn rerouted(&self, routed_by: Epoch, deadline: Time) -> Result<()> {
        let board = &self.switchboard;
        let mut published = pin!(board.rerouted.notified());
        published.as_mut().enable();
        if board.routes.load().epoch() <= routed_by {
            let mut moment = pin!(board.alarms.sleep(MOMENT));
            let waited = poll_fn(|context| match published.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => moment.as_mut().poll(context).map(drop),
            });
            waited.await;
        }
        if board.clock.now() >= deadline {
            return Err(Error::DeadlineExceeded);
        }
        Ok(())
    }

    /// As [`Engine::write`], but the caller says whom to ask, once the operation is admitted, by which routes, and until
    /// when. It is not routed again.
    #[tracing::instrument(level = "debug", name = "write", skip_all, fields(node, bytes = weight), err(level = "debug"))]
    pub(crate) async fn write_until(
        &self,
        operation: Operation,
        weight: usize,
        deadline: Time,
        route: impl FnOnce(&Routes) -> (Arc<Member>, Epoch),
    ) -> Result<Answer> {
        self.check_writable()?;
        let board = &self.switchboard;
        let started = Instant::now();
        let permit = board.budget.admit(weight, deadline).await?;
        // The wait may have been long, and who has stopped by now would answer nothing.
        self.check_writable()?;
        let (reply, answer) = oneshot::channel();
        let (member, epoch) = route(&board.routes.load());
        let node = member.node();
        tracing::Span::current().record("node", node.0);
        member.table.check_up()?;
        let admission = Admission::new(permit, &member.queue, "the node's mailbox")?;
        member.address().do_send(Ask {
            message: Request {
                operation,
                epoch,
                deadline,
            },
            reply: Reply::new(reply, admission),
        });
        let answer = match self.in_time(answer, &member.queue.overdue, deadline).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(lost(&format!("node {node}"))),
            None => Err(overdue(&format!("node {node}"))),
        };
        member.figures.written(started.elapsed());
        answer
    }

    /// Commits over several nodes, by the coordinator, and waits until it is durable and visible.
    #[tracing::instrument(level = "debug", name = "commit", skip_all, fields(txn = %request.txn, nodes = request.parts.len(), bytes = weight), err(level = "debug"))]
    pub(crate) async fn commit(&self, request: CommitRequest, weight: usize) -> Result<Decision> {
        self.check_writable()?;
        let board = &self.switchboard;
        let deadline = request.deadline;
        let mut down = Ok(());
        for part in request.parts.iter() {
            let routes = board.routes.load();
            // One that has left has no arcs any more.
            let moved = Error::Moved { node: part.node };
            let table = &routes.member(part.node).ok_or(moved)?.table;
            // Others may take over from a node that is down; a tree that can't be read somebody must mend: that is told
            // first.
            if down.is_ok() || table.unreadable().is_some() {
                down = table.check_up();
            }
        }
        down?;
        let permit = board.budget.admit(weight, deadline).await?;
        // The wait may have been long, and who has stopped by now would answer nothing.
        self.check_writable()?;
        let (sender, answer) = oneshot::channel();
        let queue = &board.coordinator_queue;
        let admission = Admission::new(permit, queue, "the coordinator's mailbox")?;
        // Who has allocated the parts frees them, too: allocators are slow where another thread does.
        let _parts = Arc::clone(&request.parts);
        board.coordinator().do_send(Ask {
            message: request,
            reply: CommitReply {
                sender,
                _admission: admission,
            },
        });
        match self.in_time(answer, &queue.overdue, deadline).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(lost("the coordinator")),
            None => Err(overdue("the coordinator")),
        }
    }
}

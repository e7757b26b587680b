//! Blocking work of a handle on a thread of its own, so that no executor is blocked.

use crate::guard::{guarded, panicked};
use mailring_engine::{Error, Result};

/// Runs `work` on a thread and waits for it. Dropping the future lets it finish. A panic comes back as an error.
pub(crate) async fn offload<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let name = format!("mailring-{name}");
    let who = name.clone();
    std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            // What `work` holds is gone when the answer comes: who has it may drop the last handle, and finds the
            // directory free.
            let result = guarded(work).unwrap_or_else(|reason| Err(panicked(&who, reason)));
            let _ = reply.send(result);
        })
        .map_err(|error| Error::io("starting a thread", &error))?;
    answer.await.unwrap_or(Err(Error::Closed))
}

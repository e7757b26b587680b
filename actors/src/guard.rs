//! Catching panics where actix would let them take the mailbox along.

use mailring_engine::Error;
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};
use tokio::sync::oneshot;

/// Runs `handler`; a panic comes back as its message. Whatever the handler left behind half done must be given up: the
/// caller discards its effects and rebuilds its state.
pub(crate) fn guarded<T>(handler: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(handler)).map_err(|panic| reason(panic.as_ref()))
}

/// Answers whoever waits. It is woken by a waker of the caller's, whose panic is no business of who answers.
pub(crate) fn tell<T>(sender: oneshot::Sender<T>, answer: T) {
    // The caller may have gone: then nobody wants to know.
    if let Err(reason) = guarded(|| drop(sender.send(answer))) {
        tracing::error!(reason, "the waker of a caller panicked");
    }
}

/// Runs `handler` as a transaction on `state`: a panic takes back what it has changed, and it is run once more, so that
/// no message is lost. Only a handler that panics again has failed, with the state as it was before.
pub(crate) fn transacted<S: Clone, T>(
    state: &mut S,
    mut handler: impl FnMut(&mut S) -> T,
) -> Result<T, String> {
    let before = state.clone();
    guarded(|| handler(state)).or_else(|reason| {
        tracing::error!(reason, "a handler panicked; it is run once more");
        state.clone_from(&before);
        guarded(|| handler(state)).inspect_err(|_| *state = before)
    })
}

/// What a thread answers for its panic: its asker must not wait for ever.
pub(crate) fn panicked(who: &str, reason: String) -> Error {
    Error::Io {
        context: format!("{who} panicked"),
        kind: std::io::ErrorKind::Other,
        message: reason,
    }
}

fn reason(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_panics_once_starts_again_from_the_state_before() {
        let (mut state, mut panics) = (vec![1], 1);
        let outcome = transacted(&mut state, |state| {
            state.push(2);
            if panics > 0 {
                panics -= 1;
                panic!("the first time");
            }
            state.len()
        });
        assert_eq!((outcome, state), (Ok(2), vec![1, 2]));
    }

    #[test]
    fn a_handler_that_panics_twice_has_changed_nothing() {
        let mut state = vec![1];
        let outcome: Result<(), _> = transacted(&mut state, |state| {
            state.push(2);
            panic!("always");
        });
        assert_eq!((outcome, state), (Err("always".to_owned()), vec![1]));
    }
}

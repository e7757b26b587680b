//! The primitives of loom, and what it lacks, made of them: a `Notify`, and waiting for a future.

pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
};

use loom::sync::Condvar;
use std::{
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

/// As `tokio::sync::Notify`, of which only `notify_waiters` is used: it ends every wait that was begun before, polled or not,
/// and none that is begun behind it.
#[derive(Debug)]
pub(crate) struct Notify(Mutex<Waiters>);

#[derive(Debug, Default)]
struct Waiters {
    notified: u64,
    wakers: Vec<Waker>,
}

/// A wait, from its beginning.
#[derive(Debug)]
pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    begun_at: u64,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Waiters::default()))
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            begun_at: self.waiters().notified,
        }
    }

    pub(crate) fn notify_waiters(&self) {
        let wakers = {
            let mut waiters = self.waiters();
            waiters.notified += 1;
            mem::take(&mut waiters.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().expect("nobody panics under it")
    }
}

impl Notified<'_> {
    pub(crate) fn enable(self: Pin<&mut Self>) -> bool {
        self.notify.waiters().notified != self.begun_at
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.notify.waiters();
        if waiters.notified != self.begun_at {
            return Poll::Ready(());
        }
        waiters.wakers.push(context.waker().clone());
        Poll::Pending
    }
}

/// A thread that waits for a future.
struct Sleeper {
    is_woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock().expect("nobody panics under it") = true;
        self.changed.notify_one();
    }
}

/// Waits for a future, which is polled once more only when it was woken.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let sleeper = Arc::new(Sleeper {
        is_woken: Mutex::new(false),
        changed: Condvar::new(),
    });
    let waker = Waker::from(Arc::clone(&sleeper));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let mut is_woken = sleeper.is_woken.lock().expect("nobody panics under it");
        while !*is_woken {
            is_woken = sleeper
                .changed
                .wait(is_woken)
                .expect("nobody panics under it");
        }
        *is_woken = false;
    }
}

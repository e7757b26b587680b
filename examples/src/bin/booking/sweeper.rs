//! The background worker: frees the seats of holds that were not confirmed in time.
//!
//! Several sweepers run, and a lock lets one of them work; the others wait in its queue. The lock's lease is renewed by
//! hand, once a round and before each hold: a sweeper that hangs is replaced when its lease is over, one that panics at
//! once, since its guard is dropped. One that was only thought to be dead does no harm when it comes back: a hold is ended
//! by a transaction that finds it still held, or does nothing.
//!
//! After a crash of the process the engine grants no lock until the last lease is certainly over, so no hold expires for
//! as long. Until it has expired a hold can be confirmed.

use crate::{
    hall::{Hall, Refusal},
    reservation::now_ms,
};
use actix_web::rt::time::sleep;
use mailring::LockGuard;
use std::time::Duration;
use tokio::sync::watch;

const LOCK: &str = "booking/sweep";

/// Holds that are looked at in one round.
const BATCH: usize = 100;

/// Before a sweeper stands in the queue again that could not have the lock, or lost it.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Sweeps until `stop` says so. What is under way then is carried out as a whole, or not at all.
pub(crate) async fn run(hall: Hall, lease: Duration, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = sweep_whenever_possible(&hall, lease) => {}
        _ = stop.wait_for(|is_over| *is_over) => {}
    }
}

async fn sweep_whenever_possible(hall: &Hall, lease: Duration) {
    loop {
        if let Err(refusal) = sweep(hall, lease).await {
            eprintln!("booking: the sweeper pauses: {refusal}");
        }
        sleep(BACK_OFF).await;
    }
}

/// Waits for the lock, and works for as long as it holds it.
async fn sweep(hall: &Hall, lease: Duration) -> Result<(), Refusal> {
    let locks = hall.engine().locks();
    let guard = locks.lock(LOCK).lease(lease).renewed_by_hand().await?;
    while guard.is_held() {
        guard.renew().await?;
        let pause = sweep_once(hall, &guard).await?;
        sleep(pause.min(lease / 3).min(LONGEST_PAUSE)).await;
    }
    Ok(())
}

/// Ends the holds that are due, and says how long there is nothing to do.
async fn sweep_once(hall: &Hall, guard: &LockGuard) -> Result<Duration, Refusal> {
    let holds = hall.first_holds(BATCH).await?;
    let now_ms = now_ms();
    let mut ended = 0;
    for (due_ms, id) in holds {
        if due_ms > now_ms {
            return Ok(Duration::from_millis(due_ms - now_ms));
        }
        guard.renew().await?;
        match hall.expire(&id).await {
            // In the second case the customer was quicker.
            Ok(_) | Err(Refusal::Ended(_)) => ended += 1,
            Err(Refusal::Engine(error)) => return Err(error.into()),
            // One that is damaged keeps nobody else's seats from being freed.
            Err(refusal) => eprintln!("booking: the hold of {id} does not expire: {refusal}"),
        }
    }
    // There may be more behind a full batch.
    let pause = if ended == BATCH {
        Duration::ZERO
    } else {
        LONGEST_PAUSE
    };
    Ok(pause)
}

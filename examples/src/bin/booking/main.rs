//! A service that books seats: REST over actix-web, with the engine inside of the process.
//!
//! ```text
//! booking --dir DIR                                # 100 seats, http://127.0.0.1:8080
//! booking --dir DIR --seats 2000 --listen 0.0.0.0:80 --hold-ms 300000
//!
//! curl localhost:8080/reservations -H 'Idempotency-Key: 7f3a' -H 'Content-Type: application/json' \
//!      -d '{"customer": "ada", "seats": [12, 13]}'
//! ```
//!
//! | request | answer |
//! |---|---|
//! | `GET /seats?from=1&limit=100&state=free` | seats and their states at one moment, and where to go on |
//! | `POST /reservations` with `Idempotency-Key` | 201, the reservation: all the seats are held, or 409 and none is |
//! | `GET /reservations/{id}` | the reservation |
//! | `POST /reservations/{id}/confirm` | the reservation: its seats are sold |
//! | `POST /reservations/{id}/cancel` | the reservation: its seats are free |
//! | `GET /health` | 200, or 503 and what is wrong |
//! | `GET /metrics` | the figures of the engine and of the service, for Prometheus |
//!
//! Whatever goes wrong is answered as `{"error": code, "message": words}`. 503 with `Retry-After` says that the same
//! request may be sent again: every one of them can be, since those that write are carried out once.
//!
//! # Who does what
//!
//! ```text
//!  HTTP workers ── api ──▶ hall ──▶ engine      one transaction for each reservation, confirmation, cancellation
//!  sweepers ─────────────▶ hall ──▶ engine      holds that were not confirmed in time; one at a time, by a lock
//! ```
//!
//! # Invariants
//!
//! - A seat is in at most one reservation that is held or confirmed, at every moment and after every crash: seats and
//!   reservation change in one transaction, which has read what it changes.
//! - What was answered is on the disk.
//! - One idempotency key makes at most one reservation for as long as it is remembered, which is a day.
//!
//! # Left out
//!
//! Customers who prove who they are (whoever knows a reservation's number may confirm it), payment, TLS.
//!
//! # Exit codes
//!
//! 0: asked to stop by SIGTERM or ctrl-c, and everything is closed. 1: something failed. 2: wrong use.

mod api;
mod figures;
mod hall;
mod problem;
mod reservation;
mod server;
mod sweeper;

use clap::Parser;
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

/// Books seats over HTTP: none is ever sold twice, also when this process is killed.
#[derive(Debug, Clone, Parser)]
#[command(version)]
struct Flags {
    /// Where the bookings are kept; created if it is not there.
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen. With port 0 the system chooses one; the first line of output tells which.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Seats of a new hall, by default 100. One that is there keeps its own.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    seats: Option<u32>,
    /// How long seats are held for a customer who has not confirmed, in milliseconds.
    #[arg(long, default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    hold_ms: u64,
    /// How long a sweeper may be silent before another takes over, in milliseconds. After a crash no hold expires for as
    /// long.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    lease_ms: u64,
}

impl Flags {
    fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match actix_web::rt::System::new().block_on(server::run(&flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("booking: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Why the service could not start, or not end in peace.
type Failure = Box<dyn std::error::Error + Send + Sync>;

//! What is stored: reservations, seats that are taken, and under which keys.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `hall` | `seats` | the number of seats, a counter |
//! | `seats` | number of the seat, six digits | [`TakenSeat`]; a free seat has no row |
//! | `reservations` | number of the reservation | [`Reservation`] |
//! | `requests` | idempotency key of a request | number of the reservation it has made |
//! | `holds` | when the hold ends, and the number of its reservation | nothing: the key says it all |
//!
//! Values are JSON, so that they can be read without this program.

use rand::Rng;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// A customer's seats. Seats are his as long as it is held or confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    /// 128 random bits in hexadecimal: nobody can guess it.
    pub(crate) id: String,
    pub(crate) customer: String,
    /// In order, none twice.
    pub(crate) seats: Vec<u32>,
    pub(crate) state: State,
    /// When the hold ends unless it is confirmed, in milliseconds since the Unix epoch. The seats stay held until a
    /// sweeper has seen it, and until then it can be confirmed.
    pub(crate) expires_at_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Held,
    Confirmed,
    Cancelled,
    Expired,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// The row of a seat that is not free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakenSeat {
    pub(crate) state: SeatState,
    /// The number of the reservation that has it.
    pub(crate) reservation: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SeatState {
    Free,
    Held,
    Sold,
}

/// The key of a seat. Six digits, so that keys are in the order of numbers.
pub(crate) fn seat_key(seat: u32) -> String {
    format!("{seat:06}")
}

/// The key of a hold: the one that ends first comes first.
pub(crate) fn hold_key(expires_at_ms: u64, id: &str) -> String {
    format!("{expires_at_ms:016}/{id}")
}

/// When the hold ends, and the number of its reservation.
pub(crate) fn parse_hold_key(key: &[u8]) -> Option<(u64, &str)> {
    let (expires_at_ms, id) = str::from_utf8(key).ok()?.split_once('/')?;
    Some((expires_at_ms.parse().ok()?, id))
}

/// A number that no other reservation has.
pub(crate) fn new_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// Milliseconds since the Unix epoch: holds end by the wall clock, since they outlive the process.
pub(crate) fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_what_they_say() {
        assert!(seat_key(9) < seat_key(10));
        assert!(seat_key(99_999) < seat_key(100_000));
        assert!(hold_key(999, "b") < hold_key(1_000, "a"));
    }

    #[test]
    fn a_hold_key_says_when_and_which() {
        let id = new_id();
        let key = hold_key(1_790_000_000_123, &id);
        assert_eq!(
            parse_hold_key(key.as_bytes()),
            Some((1_790_000_000_123, &*id))
        );
        assert_eq!(parse_hold_key(b"12"), None);
        assert_eq!(parse_hold_key(b"x/y"), None);
        assert_eq!(parse_hold_key(b"\xff/y"), None);
    }
}

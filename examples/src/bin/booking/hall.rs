//! The hall: every rule about seats is here, each change one transaction.
//!
//! ```text
//!  free ──reserve──▶ held ──confirm──▶ sold
//!    ▲                 │
//!    └── cancel, expire┘
//! ```
//!
//! A transaction reads what its decision rests on: the request's key and the seats to make a reservation, the reservation
//! to change one. Two that want the same seat, or to confirm and to expire the same hold, have read what the other one
//! writes, so one of them is run again and finds the other's result. No lock is needed.
//!
//! # Once
//!
//! A reservation is stored under the request's idempotency key in the transaction that makes it, so the key is there if
//! and only if the reservation is, and a repetition finds it. The engine has idempotency keys as well, but it remembers
//! only that there was a commit, and for ten minutes; a service that owes the first answer stores it, as here. Refusals
//! are not stored: they have changed nothing, and a repetition is decided anew. The other changes are named by the state
//! that they lead to, and are done if it is reached already.
//!
//! # Bounds
//!
//! Rows of seats and of reservations that are held or confirmed are bounded by the seats. Reservations that have ended,
//! and idempotency keys, leave by themselves after a day.

use crate::{
    Failure, figures,
    reservation::{
        Reservation, SeatState, State, TakenSeat, hold_key, new_id, now_ms, parse_hold_key,
        seat_key,
    },
};
use mailring::{Error, Keyspace, Mailring, Transaction};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, future::Future, time::Duration};

/// Seats of a new hall.
const DEFAULT_SEATS: u32 = 100;

/// How long idempotency keys and reservations that have ended are kept.
const RETENTION: Duration = Duration::from_secs(86_400);

/// Cheap to clone; all clones are the same hall.
#[derive(Debug, Clone)]
pub(crate) struct Hall {
    db: Mailring,
    seats: Keyspace,
    reservations: Keyspace,
    requests: Keyspace,
    holds: Keyspace,
    size: u32,
    hold: Duration,
}

/// Why a call did nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Somebody has these of the seats.
    SeatsTaken(Vec<u32>),
    /// The idempotency key was used for another customer or other seats.
    KeyReused,
    NoSuchReservation,
    /// The reservation has come to a state from which there is no way.
    Ended(State),
    /// A row does not hold what this program writes.
    Damaged {
        keyspace: String,
        key: String,
    },
    Engine(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

/// A reservation, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reserved {
    Now(Reservation),
    /// An earlier request with the same idempotency key has made it.
    Before(Reservation),
}

impl Hall {
    /// Opens the hall in `db`, and builds one with so many seats where there is none.
    pub(crate) async fn open(
        db: &Mailring,
        seats: Option<u32>,
        hold: Duration,
    ) -> Result<Self, Failure> {
        let charter = db.keyspace("hall").await?;
        let built = charter.add("seats", 0).await?;
        let size = match (u32::try_from(built)?, seats) {
            (0, seats) => {
                let seats = seats.unwrap_or(DEFAULT_SEATS);
                charter.add("seats", seats.into()).await?;
                seats
            }
            (built, Some(seats)) if seats != built => {
                let words = format!("this hall has {built} seats; say --seats {built}, or nothing");
                return Err(words.into());
            }
            (built, _) => built,
        };
        Ok(Self {
            db: db.clone(),
            seats: db.keyspace("seats").await?,
            reservations: db.keyspace("reservations").await?,
            requests: db.keyspace("requests").await?,
            holds: db.keyspace("holds").await?,
            size,
            hold,
        })
    }

    /// The engine that it lives in.
    pub(crate) fn engine(&self) -> &Mailring {
        &self.db
    }

    /// Its seats have the numbers from 1 to this.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The states of some seats, all at one moment.
    pub(crate) async fn seats(
        &self,
        numbers: std::ops::RangeInclusive<u32>,
    ) -> Result<BTreeMap<u32, SeatState>, Refusal> {
        let keys = seat_key(*numbers.start())..=seat_key(*numbers.end());
        let mut seats: BTreeMap<_, _> = numbers.map(|seat| (seat, SeatState::Free)).collect();
        let mut taken = self.seats.scan(keys);
        while let Some((key, value)) = taken.next().await? {
            let row: TakenSeat = parse(&self.seats, &key, &value)?;
            let number = str::from_utf8(&key).ok().and_then(|key| key.parse().ok());
            let seat = number.and_then(|number: u32| seats.get_mut(&number));
            *seat.ok_or_else(|| damaged(&self.seats, &key))? = row.state;
        }
        Ok(seats)
    }

    /// Holds all of these seats for a customer, or none.
    pub(crate) async fn reserve(
        &self,
        request: &str,
        customer: &str,
        seats: &[u32],
    ) -> Result<Reserved, Refusal> {
        let keys = &seats.iter().copied().map(seat_key).collect::<Vec<_>>();
        let reservation = &Reservation {
            id: new_id(),
            customer: customer.to_owned(),
            seats: seats.to_vec(),
            state: State::Held,
            expires_at_ms: now_ms() + u64::try_from(self.hold.as_millis()).unwrap_or(u64::MAX / 2),
        };
        let outcome = self.transact(|txn| async move {
            if let Some(id) = txn.get(&self.requests, request).await? {
                let first = self.reservation_in(&txn, &id).await?;
                return match (first.customer == customer, first.seats == seats) {
                    (true, true) => Ok(Reserved::Before(first)),
                    _ => Err(Refusal::KeyReused),
                };
            }
            let rows = txn.get_many(&self.seats, keys).await?;
            let taken = seats.iter().zip(&rows).filter(|(_, row)| row.is_some());
            let taken: Vec<u32> = taken.map(|(seat, _)| *seat).collect();
            if !taken.is_empty() {
                return Err(Refusal::SeatsTaken(taken));
            }
            let Reservation { id, .. } = reservation;
            self.take_seats(&txn, reservation, SeatState::Held).await?;
            txn.put(&self.reservations, id, json(reservation)).await?;
            let hold = hold_key(reservation.expires_at_ms, id);
            txn.put(&self.holds, hold, "").await?;
            txn.put_with_ttl(&self.requests, request, id, RETENTION)
                .await?;
            Ok(Reserved::Now(reservation.clone()))
        });
        let outcome = outcome.await;
        match &outcome {
            Ok(Reserved::Now(_)) => figures::count(State::Held.name()),
            Err(Refusal::SeatsTaken(_)) => figures::count("refused"),
            Ok(Reserved::Before(_)) | Err(_) => {}
        }
        outcome
    }

    /// A reservation as it is now.
    pub(crate) async fn reservation(&self, id: &str) -> Result<Reservation, Refusal> {
        let row = self.reservations.get(id).await?;
        let row = row.ok_or(Refusal::NoSuchReservation)?;
        parse(&self.reservations, id.as_bytes(), &row)
    }

    /// Sells the seats of a hold to its customer.
    pub(crate) async fn confirm(&self, id: &str) -> Result<Reservation, Refusal> {
        self.end_hold(id, State::Confirmed).await
    }

    /// Frees the seats of a hold.
    pub(crate) async fn cancel(&self, id: &str) -> Result<Reservation, Refusal> {
        self.end_hold(id, State::Cancelled).await
    }

    /// The holds that end first, at most `limit`: when, and of which reservation.
    pub(crate) async fn first_holds(&self, limit: usize) -> Result<Vec<(u64, String)>, Refusal> {
        let mut holds = self.holds.scan(..).limit(limit);
        let mut first = Vec::new();
        while let Some((key, _)) = holds.next().await? {
            let (due_ms, id) = parse_hold_key(&key).ok_or_else(|| damaged(&self.holds, &key))?;
            first.push((due_ms, id.to_owned()));
        }
        Ok(first)
    }

    /// Frees the seats of a hold whose time is over.
    pub(crate) async fn expire(&self, id: &str) -> Result<Reservation, Refusal> {
        self.end_hold(id, State::Expired).await
    }

    /// Ends a hold one way or the other. Is done if it has ended in this way already.
    async fn end_hold(&self, id: &str, to: State) -> Result<Reservation, Refusal> {
        let outcome = self.transact(|txn| async move {
            let mut reservation = self.reservation_in(&txn, id.as_bytes()).await?;
            match reservation.state {
                State::Held => {}
                state if state == to => return Ok((reservation, false)),
                state => return Err(Refusal::Ended(state)),
            }
            reservation.state = to;
            let row = json(&reservation);
            if to == State::Confirmed {
                self.take_seats(&txn, &reservation, SeatState::Sold).await?;
                txn.put(&self.reservations, id, row).await?;
            } else {
                for seat in &reservation.seats {
                    txn.delete(&self.seats, seat_key(*seat)).await?;
                }
                txn.put_with_ttl(&self.reservations, id, row, RETENTION)
                    .await?;
            }
            let hold = hold_key(reservation.expires_at_ms, id);
            txn.delete(&self.holds, hold).await?;
            Ok((reservation, true))
        });
        let (reservation, has_ended_now) = outcome.await?;
        if has_ended_now {
            figures::count(to.name());
        }
        Ok(reservation)
    }

    async fn take_seats(
        &self,
        txn: &Transaction,
        reservation: &Reservation,
        state: SeatState,
    ) -> Result<(), Refusal> {
        let row = json(&TakenSeat {
            state,
            reservation: reservation.id.clone(),
        });
        for seat in &reservation.seats {
            txn.put(&self.seats, seat_key(*seat), &row).await?;
        }
        Ok(())
    }

    async fn reservation_in(&self, txn: &Transaction, id: &[u8]) -> Result<Reservation, Refusal> {
        let row = txn.get(&self.reservations, id).await?;
        parse(
            &self.reservations,
            id,
            &row.ok_or(Refusal::NoSuchReservation)?,
        )
    }

    /// Runs `body` as a transaction. A refusal rolls back and is final; of the engine's errors, those that another attempt
    /// can mend lead to one.
    async fn transact<T, F, Fut>(&self, body: F) -> Result<T, Refusal>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T, Refusal>>,
    {
        let body = &body;
        let attempt = |txn: Transaction| async move {
            match body(txn.clone()).await {
                Ok(value) => Ok(Ok(value)),
                Err(Refusal::Engine(error)) => Err(error),
                Err(refusal) => {
                    txn.rollback();
                    Ok(Err(refusal))
                }
            }
        };
        self.db.transact(attempt).await?
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("its maps have string keys, and nothing else can fail")
}

fn parse<T: DeserializeOwned>(keyspace: &Keyspace, key: &[u8], row: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(row).map_err(|_| damaged(keyspace, key))
}

fn damaged(keyspace: &Keyspace, key: &[u8]) -> Refusal {
    Refusal::Damaged {
        keyspace: keyspace.name().to_owned(),
        key: String::from_utf8_lossy(key).into_owned(),
    }
}

//! What a client is told when a request was not carried out: a status and a body of JSON.
//!
//! | what | status |
//! |---|---|
//! | the request is wrong in itself | 400, 405, 413, 415; 422 for an idempotency key of another request |
//! | it asks for what is not there | 404 |
//! | somebody was quicker | 409 |
//! | the engine could not do it now, or can't tell whether it did | 503 with `Retry-After` |
//! | the engine can't do it until somebody has looked after it | 503 |
//! | what must not happen | 500; the words are on stderr and not in the answer |

use crate::hall::Refusal;
use actix_web::{
    HttpResponse, ResponseError,
    error::JsonPayloadError,
    http::{StatusCode, header},
};
use mailring::Error;
use serde::Serialize;
use std::fmt;

/// Seconds after which a client may come again.
const RETRY_AFTER: &str = "1";

#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    #[serde(skip)]
    is_retryable: bool,
    /// For programs.
    error: String,
    /// For people.
    message: String,
    /// Those that are in the way, if any are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    seats: Vec<u32>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            is_retryable: false,
            error: error.to_owned(),
            message: message.into(),
            seats: Vec::new(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn unavailable(error: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, message)
    }

    fn internal(cause: &dyn fmt::Display) -> Self {
        eprintln!("booking: {cause}");
        let words = "the service could not carry this out; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", words)
    }

    fn retryable(self) -> Self {
        Self {
            is_retryable: true,
            ..self
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let words = refusal.to_string();
        match refusal {
            Refusal::SeatsTaken(seats) => Self {
                seats,
                ..Self::new(StatusCode::CONFLICT, "seats_taken", words)
            },
            Refusal::Ended(state) => {
                let code = format!("reservation_{}", state.name());
                Self::new(StatusCode::CONFLICT, &code, words)
            }
            Refusal::KeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                words,
            ),
            Refusal::NoSuchReservation => {
                Self::new(StatusCode::NOT_FOUND, "no_such_reservation", words)
            }
            Refusal::Damaged { .. } => Self::internal(&words),
            Refusal::Engine(error) => error.into(),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let words = error.to_string();
        match error {
            error if error.is_retryable() => Self::unavailable("busy", words).retryable(),
            // Every request of this service can be repeated, also when it was carried out.
            Error::Unknown { .. } => Self::unavailable("outcome_unknown", words).retryable(),
            Error::Closed => Self::unavailable("closing", "the service is closing").retryable(),
            Error::ReadOnly { .. } | Error::NodeDown { .. } => {
                eprintln!("booking: {words}");
                Self::unavailable("unavailable", words)
            }
            Error::EmptyKey
            | Error::KeyTooLarge { .. }
            | Error::ValueTooLarge { .. }
            | Error::TransactionTooLarge { .. } => Self::bad_request(words),
            _ => Self::internal(&words),
        }
    }
}

impl From<JsonPayloadError> for Problem {
    fn from(error: JsonPayloadError) -> Self {
        let words = error.to_string();
        match error {
            JsonPayloadError::OverflowKnownLength { .. } | JsonPayloadError::Overflow { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", words)
            }
            JsonPayloadError::ContentType => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not_json",
                "send JSON, with Content-Type: application/json",
            ),
            _ => Self::bad_request(words),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SeatsTaken(seats) => {
                write!(f, "taken: {seats:?}; nothing was reserved, choose others")
            }
            Self::KeyReused => f.write_str(
                "this idempotency key has made another reservation; use a new key for each",
            ),
            Self::NoSuchReservation => f.write_str("there is no such reservation"),
            Self::Ended(state) => write!(f, "the reservation is {} already", state.name()),
            Self::Damaged { keyspace, key } => {
                write!(f, "the row {key:?} of keyspace {keyspace:?} is damaged")
            }
            Self::Engine(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.is_retryable {
            response.insert_header((header::RETRY_AFTER, RETRY_AFTER));
        }
        response.json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailring::NodeId;

    fn answer(error: Error) -> (u16, bool) {
        let response = Problem::from(error).error_response();
        let retry = response.headers().contains_key(header::RETRY_AFTER);
        (response.status().as_u16(), retry)
    }

    #[test]
    fn what_can_be_sent_again_says_so() {
        for error in [
            Error::Overloaded { what: "a queue" },
            Error::DeadlineExceeded,
            Error::Aborted { reason: "silence" },
            Error::NodeRestarted { node: NodeId(0) },
            Error::DiskFull {
                context: "journal".into(),
            },
            Error::Unknown {
                reason: "the disk hangs".into(),
            },
            Error::Closed,
        ] {
            assert_eq!(answer(error), (503, true));
        }
        assert_eq!(answer(Error::NodeDown { node: NodeId(0) }), (503, false));
        let reason = "a force failed".to_owned();
        assert_eq!(answer(Error::ReadOnly { reason }), (503, false));
    }

    #[test]
    fn the_insides_of_the_disk_are_not_for_clients() {
        let error = Error::CorruptTree {
            node: NodeId(2),
            file: "/srv/secret".into(),
            reason: "checksum".into(),
        };
        let problem = Problem::from(error);
        assert_eq!(problem.status.as_u16(), 500);
        assert!(!problem.message.contains("secret"), "{}", problem.message);
    }
}

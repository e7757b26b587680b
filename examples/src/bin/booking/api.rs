//! The requests: what they may say, and what they are answered. Every limit on what a client sends is here.

use crate::{
    hall::{Hall, Reserved},
    problem::Problem,
    reservation::SeatState,
};
use actix_web::{
    FromRequest, HttpRequest, HttpResponse, Resource, Route, dev::Payload, http::StatusCode, web,
};
use mailring::NodeState;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    future::{Ready, ready},
};

const MAX_BODY_BYTES: usize = 4 * 1024;
const MAX_CUSTOMER_BYTES: usize = 100;
const MAX_SEATS_OF_A_RESERVATION: usize = 20;
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;
const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1_000;

/// Tells an answer that repeats an earlier one.
const REPLAYED: &str = "Idempotency-Replayed";

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    let json = web::JsonConfig::default()
        .limit(MAX_BODY_BYTES)
        .error_handler(|error, _| Problem::from(error).into());
    let query = web::QueryConfig::default()
        .error_handler(|error, _| Problem::bad_request(error.to_string()).into());
    config
        .app_data(json)
        .app_data(query)
        .service(at("/seats", web::get().to(seats)))
        .service(at("/reservations", web::post().to(reserve)))
        .service(at("/reservations/{id}", web::get().to(reservation)))
        .service(at("/reservations/{id}/confirm", web::post().to(confirm)))
        .service(at("/reservations/{id}/cancel", web::post().to(cancel)))
        .service(at("/health", web::get().to(health)))
        .service(at("/metrics", web::get().to(metrics)))
        .default_service(web::to(nothing_here));
}

/// A path with one method.
fn at(path: &str, route: Route) -> Resource {
    let resource = web::resource(path).route(route);
    resource.default_service(web::to(wrong_method))
}

async fn nothing_here() -> Result<HttpResponse, Problem> {
    let words = "there is nothing here";
    Err(Problem::new(StatusCode::NOT_FOUND, "not_found", words))
}

async fn wrong_method() -> Result<HttpResponse, Problem> {
    let (status, words) = (
        StatusCode::METHOD_NOT_ALLOWED,
        "this can't be done with it; try another method",
    );
    Err(Problem::new(status, "wrong_method", words))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    from: Option<u32>,
    limit: Option<u32>,
    state: Option<SeatState>,
}

#[derive(Debug, Serialize)]
struct Seats {
    seats: Vec<Seat>,
    /// `from` of the next page, unless this was the last one.
    next: Option<u32>,
    /// Of the hall.
    total: u32,
}

#[derive(Debug, Serialize)]
struct Seat {
    seat: u32,
    state: SeatState,
}

/// The limit is on the seats that are looked at, so that asking for the only free one costs no more than any other page.
async fn seats(hall: web::Data<Hall>, page: web::Query<Page>) -> Result<HttpResponse, Problem> {
    let total = hall.size();
    let from = page.from.unwrap_or(1);
    let limit = page.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=total).contains(&from) {
        let words = format!("from is {from}, and the seats are 1 to {total}");
        return Err(Problem::bad_request(words));
    }
    if !(1..=MAX_PAGE).contains(&limit) {
        let words = format!("limit is {limit}, and 1 to {MAX_PAGE} seats make a page");
        return Err(Problem::bad_request(words));
    }
    let last = total.min(from - 1 + limit);
    let states = hall.seats(from..=last).await?;
    let is_wanted = |state| page.state.is_none_or(|wanted| wanted == state);
    let seats = states.into_iter().filter(|(_, state)| is_wanted(*state));
    Ok(HttpResponse::Ok().json(Seats {
        seats: seats.map(|(seat, state)| Seat { seat, state }).collect(),
        next: (last < total).then_some(last + 1),
        total,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    customer: String,
    seats: Vec<u32>,
}

impl Wish {
    /// The seats in order, if it can be fulfilled at all.
    fn check(&self, total: u32) -> Result<Vec<u32>, Problem> {
        let refuse = |words: String| Err(Problem::bad_request(words));
        if !(1..=MAX_CUSTOMER_BYTES).contains(&self.customer.len()) {
            return refuse(format!("customer has 1 to {MAX_CUSTOMER_BYTES} bytes"));
        }
        if !(1..=MAX_SEATS_OF_A_RESERVATION).contains(&self.seats.len()) {
            let words = format!("a reservation has 1 to {MAX_SEATS_OF_A_RESERVATION} seats");
            return refuse(words);
        }
        if let Some(seat) = self.seats.iter().find(|seat| !(1..=total).contains(seat)) {
            return refuse(format!("there is no seat {seat}; they are 1 to {total}"));
        }
        let seats: BTreeSet<_> = self.seats.iter().copied().collect();
        if seats.len() < self.seats.len() {
            return refuse("a seat is named twice".to_owned());
        }
        Ok(seats.into_iter().collect())
    }
}

async fn reserve(
    hall: web::Data<Hall>,
    key: IdempotencyKey,
    wish: web::Json<Wish>,
) -> Result<HttpResponse, Problem> {
    let seats = wish.check(hall.size())?;
    let mut response = HttpResponse::Created();
    match hall.reserve(&key.0, &wish.customer, &seats).await? {
        Reserved::Now(reservation) => Ok(response.json(reservation)),
        Reserved::Before(reservation) => {
            Ok(response.insert_header((REPLAYED, "true")).json(reservation))
        }
    }
}

async fn reservation(
    hall: web::Data<Hall>,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(hall.reservation(&id).await?))
}

async fn confirm(hall: web::Data<Hall>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(hall.confirm(&id).await?))
}

async fn cancel(hall: web::Data<Hall>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(hall.cancel(&id).await?))
}

#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    problems: Vec<String>,
}

/// Whether requests that write can be served. What can be told without waiting for anybody.
async fn health(hall: web::Data<Hall>) -> HttpResponse {
    let stats = hall.engine().stats();
    let errors = [stats.read_only, stats.disk_full, stats.checkpoint_failure];
    let mut problems: BTreeSet<_> = errors
        .into_iter()
        .flatten()
        .map(|error| error.to_string())
        .collect();
    let parts = [
        ("the coordinator of transactions", stats.coordinator_down),
        ("the lock manager", stats.locks_down),
    ];
    for (part, why) in parts {
        problems.extend(why.map(|why| format!("{part} is down: {why}")));
    }
    for node in stats.nodes {
        if node.state == NodeState::Down {
            let why = node.last_failure.unwrap_or_default();
            problems.insert(format!("node {} is down: {why}", node.node));
        }
    }
    let (mut response, status) = match problems.is_empty() {
        true => (HttpResponse::Ok(), "ok"),
        false => (HttpResponse::ServiceUnavailable(), "failing"),
    };
    response.json(Health {
        status,
        problems: problems.into_iter().collect(),
    })
}

async fn metrics(figures: web::Data<PrometheusHandle>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4")
        .body(figures.render())
}

/// The header that names a request, so that its repetition is known for one.
struct IdempotencyKey(String);

impl FromRequest for IdempotencyKey {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let header = request.headers().get("Idempotency-Key");
        let key = header.map(|value| value.as_bytes()).unwrap_or_default();
        let is_possible = (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len())
            && key.iter().all(u8::is_ascii_graphic);
        let refusal = || {
            Problem::bad_request(format!(
                "send an Idempotency-Key of 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters, new for each \
                 reservation and the same when you repeat it"
            ))
        };
        let key = String::from_utf8(key.to_vec()).ok().filter(|_| is_possible);
        ready(key.map(Self).ok_or_else(refusal))
    }
}

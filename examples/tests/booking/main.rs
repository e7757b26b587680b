//! The booking service over real HTTP, as a process that is stopped, killed and started again.

#![cfg(unix)]

mod load;
mod service;

use serde_json::json;
use service::{Service, start_in_vain};
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    thread,
};

/// A directory that is not there yet, and what removes it in the end.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("booking");
    (directory, path)
}

#[test]
fn a_reservation_holds_all_its_seats_or_none() {
    let (_directory, path) = place();
    let service = Service::start(&path, &["--seats", "10"]);
    let client = service.client();
    let first = client.reserve("a", "ada", &[3, 2]);
    assert_eq!(first.status, 201);
    assert_eq!(first.body["seats"], json!([2, 3]));
    assert_eq!(first.body["state"], "held");
    let second = client.reserve("b", "charles", &[1, 2, 3, 4]);
    assert_eq!(second.error(), (409, "seats_taken"));
    assert_eq!(second.body["seats"], json!([2, 3]));
    assert_eq!(client.seats("held"), [2, 3]);
    // Refused, the key is as good as new.
    let third = client.reserve("b", "charles", &[1, 4]);
    assert_eq!((third.status, third.is_replayed), (201, false));
    assert_eq!(client.seats("held"), [1, 2, 3, 4]);
    service.stop();
}

#[test]
fn a_hold_is_confirmed_or_cancelled_once() {
    let (_directory, path) = place();
    let service = Service::start(&path, &["--seats", "10"]);
    let client = service.client();
    let [kept, dropped] =
        [("a", 1), ("b", 2)].map(|(key, seat)| client.reserved(key, key, &[seat]));
    let to = |id: &str, how| client.post(&format!("/reservations/{id}/{how}"));
    for _ in 0..2 {
        assert_eq!(to(&kept, "confirm").body["state"], "confirmed");
        assert_eq!(to(&dropped, "cancel").body["state"], "cancelled");
    }
    assert_eq!(to(&kept, "cancel").error(), (409, "reservation_confirmed"));
    assert_eq!(
        to(&dropped, "confirm").error(),
        (409, "reservation_cancelled")
    );
    let nobody = "0".repeat(32);
    assert_eq!(to(&nobody, "confirm").error(), (404, "no_such_reservation"));
    assert_eq!(client.seats("sold"), [1]);
    assert_eq!(client.seats("held"), [0; 0]);
    // The seat that was given back can be had again.
    client.reserved("c", "carl", &[2]);
    service.stop();
}

#[test]
fn a_repeated_request_gets_the_first_outcome_also_after_a_kill() {
    let (_directory, path) = place();
    let service = Service::start(&path, &["--seats", "10"]);
    let first = service.client().reserve("order-1", "ada", &[1, 2]);
    assert_eq!((first.status, first.is_replayed), (201, false));
    service.kill();

    let service = Service::start(&path, &[]);
    let client = service.client();
    let again = client.reserve("order-1", "ada", &[2, 1]);
    assert_eq!((again.status, again.is_replayed), (201, true));
    assert_eq!(again.body, first.body);
    for (customer, seats) in [("ada", &[1, 3][..]), ("bob", &[1, 2])] {
        let another = client.reserve("order-1", customer, seats);
        assert_eq!(another.error(), (422, "idempotency_key_reused"));
    }
    assert_eq!(client.seats("held"), [1, 2]);
    service.stop();
}

#[test]
fn requests_with_one_key_at_one_time_make_one_reservation() {
    let (_directory, path) = place();
    let service = Service::start(&path, &["--seats", "10"]);
    let answers = thread::scope(|scope| {
        let reserve = || service.client().reserve("order-1", "ada", &[4, 5, 6]);
        let requests: Vec<_> = (0..8).map(|_| scope.spawn(reserve)).collect();
        let answers = requests.into_iter().map(|request| request.join().unwrap());
        answers.collect::<Vec<_>>()
    });
    let made = answers.iter().filter(|answer| !answer.is_replayed).count();
    assert_eq!(made, 1);
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (201, &answers[0].body));
    }
    assert_eq!(service.client().seats("held"), [4, 5, 6]);
    service.stop();
}

#[test]
fn holds_expire_and_what_is_confirmed_stays() {
    let (_directory, path) = place();
    let service = Service::start(&path, &["--seats", "10", "--lease-ms", "200"]);
    let client = service.client();
    let (kept, held) = (
        client.reserved("a", "ada", &[1]),
        client.reserved("b", "bob", &[2]),
    );
    assert_eq!(
        client.post(&format!("/reservations/{kept}/confirm")).status,
        200
    );
    // The next life waits until the lock of this one's sweeper is certainly free.
    service.kill();

    let service = Service::start(&path, &["--hold-ms", "1", "--lease-ms", "200"]);
    let client = service.client();
    let late = client.reserved("c", "carl", &[3, 4]);
    client.wait_until("the hold is expired", |client| {
        client.state_of(&late) == "expired"
    });
    let confirm = client.post(&format!("/reservations/{late}/confirm"));
    assert_eq!(confirm.error(), (409, "reservation_expired"));
    assert_eq!(client.state_of(&kept), "confirmed");
    assert_eq!(client.state_of(&held), "held");
    assert_eq!(
        (client.seats("sold"), client.seats("held")),
        (vec![1], vec![2])
    );
    client.reserved("d", "dora", &[3, 4]);
    service.stop();
}

#[test]
fn a_request_under_way_is_ended_before_the_service_stops() {
    let (_directory, path) = place();
    for (signal, seat) in [("TERM", 1), ("INT", 2)] {
        let service = Service::start(&path, &[]);
        let wish = json!({"customer": "ada", "seats": [seat]}).to_string();
        let mut request = TcpStream::connect(&service.address).unwrap();
        request.set_read_timeout(Some(service::PATIENCE)).unwrap();
        let length = wish.len();
        write!(
            request,
            "POST /reservations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Idempotency-Key: {signal}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
        .unwrap();
        // This answer tells that the request is under way.
        let mut head = [0; 25];
        request.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 100 Continue\r\n\r\n");

        service.send(signal);
        let address = service.address.clone();
        let client = service.client();
        client.wait_until("nobody listens", |_| TcpStream::connect(&address).is_err());
        request.write_all(wish.as_bytes()).unwrap();
        let mut answer = String::new();
        request.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
        assert!(service.ended().success());
        mailring::Mailring::verify_directory(&path).unwrap();
    }
    let service = Service::start(&path, &[]);
    assert_eq!(service.client().seats("held"), [1, 2]);
    service.stop();
}

#[test]
fn a_second_service_on_the_same_directory_says_why_it_does_not_start() {
    let (_directory, path) = place();
    let service = Service::start(&path, &[]);
    let second = start_in_vain(&path, &[]);
    let words = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{words}");
    assert!(
        words.contains("is open in another engine or process"),
        "{words}"
    );
    assert_eq!(service.client().get("/health").body["status"], "ok");
    service.stop();
}

#[test]
fn a_hall_keeps_its_number_of_seats() {
    let (_directory, path) = place();
    Service::start(&path, &["--seats", "7"]).stop();
    let other = start_in_vain(&path, &["--seats", "8"]);
    let words = String::from_utf8(other.stderr).unwrap();
    assert_eq!(other.status.code(), Some(1), "{words}");
    assert!(
        words.contains("this hall has 7 seats; say --seats 7"),
        "{words}"
    );
    for flags in [&["--seats", "7"][..], &[]] {
        let service = Service::start(&path, flags);
        assert_eq!(service.client().get("/seats").body["total"], 7);
        service.stop();
    }
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let (_directory, path) = place();
    let service = Service::start(&path, &["--seats", "30"]);
    let client = service.client();
    let json_type = ("Content-Type", "application/json");
    let key = ("Idempotency-Key", "k");
    let all: Vec<u32> = (1..=21).collect();
    let long = "x".repeat(129);
    let wish =
        |customer: &str, seats: &[u32]| json!({"customer": customer, "seats": seats}).to_string();
    let good = &*wish("ada", &[1]);
    let big = &*wish(&"a".repeat(5_000), &[1]);
    for (headers, body, error) in [
        (&[json_type][..], good, (400, "bad_request")),
        (
            &[json_type, ("Idempotency-Key", "")],
            good,
            (400, "bad_request"),
        ),
        (
            &[json_type, ("Idempotency-Key", "a b")],
            good,
            (400, "bad_request"),
        ),
        (
            &[json_type, ("Idempotency-Key", &long)],
            good,
            (400, "bad_request"),
        ),
        (&[key], good, (415, "not_json")),
        (&[json_type, key], big, (413, "body_too_large")),
        (&[json_type, key], "{", (400, "bad_request")),
        (
            &[json_type, key],
            r#"{"customer":"a","seats":[1],"vip":1}"#,
            (400, "bad_request"),
        ),
        (
            &[json_type, key],
            r#"{"customer":"a","seats":[-1]}"#,
            (400, "bad_request"),
        ),
        (&[json_type, key], &wish("", &[1]), (400, "bad_request")),
        (
            &[json_type, key],
            &wish(&"a".repeat(101), &[1]),
            (400, "bad_request"),
        ),
        (&[json_type, key], &wish("ada", &[]), (400, "bad_request")),
        (&[json_type, key], &wish("ada", &[0]), (400, "bad_request")),
        (&[json_type, key], &wish("ada", &[31]), (400, "bad_request")),
        (
            &[json_type, key],
            &wish("ada", &[5, 5]),
            (400, "bad_request"),
        ),
        (&[json_type, key], &wish("ada", &all), (400, "bad_request")),
    ] {
        let answer = client.post_raw("/reservations", headers, body);
        assert_eq!(answer.error(), error, "{body}: {answer:?}");
        assert!(answer.body["message"].is_string(), "{answer:?}");
    }
    let (missing, long_id) = (
        "/reservations/0",
        format!("/reservations/{}", "0".repeat(5_000)),
    );
    for (path, error) in [
        ("/seats?limit=0", (400, "bad_request")),
        ("/seats?limit=1001", (400, "bad_request")),
        ("/seats?from=0", (400, "bad_request")),
        ("/seats?from=31", (400, "bad_request")),
        ("/seats?from=x", (400, "bad_request")),
        ("/seats?state=lost", (400, "bad_request")),
        ("/seats?colour=red", (400, "bad_request")),
        ("/reservations", (405, "wrong_method")),
        (missing, (404, "no_such_reservation")),
        (&*long_id, (404, "no_such_reservation")),
        ("/elsewhere", (404, "not_found")),
    ] {
        let answer = client.get(path);
        assert_eq!(answer.error(), error, "{path}: {answer:?}");
        assert_eq!(answer.retry_after, None);
    }
    assert_eq!(client.seats("free").len(), 30);
    service.stop();
}

#[test]
fn seats_come_by_the_page() {
    let (_directory, path) = place();
    let service = Service::start(&path, &["--seats", "25"]);
    let client = service.client();
    client.reserved("a", "ada", &[9, 11, 25]);
    let page = |query: &str| {
        let body = client.get(&format!("/seats?{query}")).body;
        (body["seats"].clone(), body["next"].clone())
    };
    let held = |seat| json!({"seat": seat, "state": "held"});
    assert_eq!(page("limit=10&state=held"), (json!([held(9)]), json!(11)));
    assert_eq!(
        page("limit=10&state=held&from=11"),
        (json!([held(11)]), json!(21))
    );
    assert_eq!(
        page("limit=10&state=held&from=21"),
        (json!([held(25)]), json!(null))
    );
    assert_eq!(client.seats("free").len(), 22);
    service.stop();
}

#[test]
fn prometheus_is_told_of_the_engine_and_of_the_service() {
    let (_directory, path) = place();
    let service = Service::start(&path, &["--seats", "10"]);
    let client = service.client();
    let id = client.reserved("a", "ada", &[1, 2]);
    assert_eq!(client.reserve("b", "bob", &[2, 3]).status, 409);
    // What is repeated is not counted again.
    assert!(client.reserve("a", "ada", &[1, 2]).is_replayed);
    for _ in 0..2 {
        let confirmed = client.post(&format!("/reservations/{id}/confirm"));
        assert_eq!(confirmed.status, 200);
    }
    let has_lock = "\nmailring_lock_grants_total 1\n";
    client.wait_until("a sweeper has the lock", |client| {
        client.get("/metrics").text.contains(has_lock)
    });
    let metrics = client.get("/metrics");
    assert_eq!(metrics.status, 200);
    let has = |line: &str| metrics.text.lines().any(|other| other.starts_with(line));
    for line in [
        "booking_reservations_total{outcome=\"held\"} 1",
        "booking_reservations_total{outcome=\"refused\"} 1",
        "booking_reservations_total{outcome=\"confirmed\"} 1",
        "# TYPE mailring_transaction_commit_seconds histogram",
        "mailring_transaction_commits_total 2",
        "mailring_transaction_commit_seconds_count 2",
        "mailring_transaction_commit_seconds_bucket{le=\"5\"} 2",
        "mailring_journal_force_seconds_bucket{le=\"0.01\"} ",
        "mailring_journal_group_records_bucket{le=\"2048\"} ",
        "mailring_node_writes_total{node=\"3\"} ",
    ] {
        assert!(has(line), "no {line:?} in\n{}", metrics.text);
    }
    service.stop();
}

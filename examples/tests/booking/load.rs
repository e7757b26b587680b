//! Customers who want more seats than there are, while the service is killed and started again under their hands.

use crate::service::{Answer, Client, PATIENCE, Service};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::index::sample};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

const SEATS: u32 = 24;
const CUSTOMERS: u32 = 8;

/// Reservations and endings that are acknowledged in each life before it is killed.
const ACKNOWLEDGED_A_LIFE: usize = 150;
const LIVES: u32 = 5;

/// No more are confirmed, so that there is something left to fight for.
const CONFIRMATIONS: u32 = 3;

/// What a customer was told of a reservation of his.
#[derive(Debug, Clone)]
struct Told {
    seats: Vec<u32>,
    state: &'static str,
}

/// What all customers share.
struct Crowd {
    /// The number of the life, and where it listens. Who kills has it locked until the next life listens.
    life: RwLock<(u32, String)>,
    is_over: AtomicBool,
    /// By seat, the customer who was told that it is his, and has not said since that he will cancel; 0 is nobody.
    owners: Vec<AtomicU32>,
    confirmations: AtomicU32,
}

impl Crowd {
    /// Sends a request until it has an answer. A connection breaks only because the service was killed.
    fn ask(&self, send: impl Fn(&Client) -> Result<Answer, ureq::Error>) -> Answer {
        let until = Instant::now() + PATIENCE;
        loop {
            let (life, address) = self.life.read().unwrap().clone();
            let broken = match send(&Client::new(&address)) {
                Ok(answer) if answer.status != 503 => return answer,
                Ok(_) => None,
                Err(error) => Some(error),
            };
            assert!(Instant::now() < until, "no answer");
            if let Some(error) = broken {
                // This waits for the next life.
                let now = self.life.read().unwrap().0;
                assert_ne!(now, life, "broken without a kill: {error}");
            }
        }
    }

    fn own(&self, customer: u32, seats: &[u32]) {
        for seat in seats {
            let before = self.owners[*seat as usize].swap(customer, Ordering::SeqCst);
            assert_eq!(before, 0, "seat {seat} is {before}'s and {customer}'s");
        }
    }

    fn disown(&self, customer: u32, seats: &[u32]) {
        for seat in seats {
            let before = self.owners[*seat as usize].swap(0, Ordering::SeqCst);
            assert_eq!(before, customer, "seat {seat}");
        }
    }
}

/// One customer's reservations, by number.
struct Customer<'a> {
    crowd: &'a Crowd,
    number: u32,
    told: BTreeMap<String, Told>,
    acknowledged: mpsc::Sender<()>,
}

impl Customer<'_> {
    fn shop(mut self) -> BTreeMap<String, Told> {
        let mut dice = StdRng::seed_from_u64(self.number.into());
        for request in 0.. {
            if self.crowd.is_over.load(Ordering::SeqCst) {
                break;
            }
            let number = dice.random_range(1..=4);
            let seats = sample(&mut dice, SEATS as usize, number);
            let mut seats: Vec<u32> = seats.iter().map(|seat| seat as u32 + 1).collect();
            seats.sort_unstable();
            let is_reserved = self.reserve(&format!("{}-{request}", self.number), seats);
            let others = self.told.iter().filter(|(_, told)| told.state == "held");
            let others: Vec<String> = others.map(|(id, _)| id.clone()).collect();
            let confirmations = &self.crowd.confirmations;
            if is_reserved && dice.random_bool(0.1) {
                if confirmations.fetch_add(1, Ordering::SeqCst) < CONFIRMATIONS {
                    self.end(&others[0], "confirm");
                }
            } else if others.len() > 1 || dice.random_bool(0.5) {
                for id in &others {
                    self.end(id, "cancel");
                }
            }
        }
        self.told
    }

    /// Whether the seats were to be had.
    fn reserve(&mut self, key: &str, seats: Vec<u32>) -> bool {
        let name = self.name();
        let answer = self
            .crowd
            .ask(|client| client.try_reserve(key, &name, &seats));
        if answer.error() == (409, "seats_taken") {
            return false;
        }
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.body["seats"], serde_json::json!(seats));
        self.crowd.own(self.number, &seats);
        let id = answer.body["id"].as_str().unwrap().to_owned();
        let state = "held";
        assert!(self.told.insert(id, Told { seats, state }).is_none());
        let _ = self.acknowledged.send(());
        true
    }

    fn end(&mut self, id: &str, how: &str) {
        let told = self.told.get_mut(id).unwrap();
        told.state = match how {
            "confirm" => "confirmed",
            _ => {
                // Once he says it, the next one may have them before he has his answer.
                self.crowd.disown(self.number, &told.seats);
                "cancelled"
            }
        };
        let path = format!("/reservations/{id}/{how}");
        let answer = self.crowd.ask(|client| client.try_post(&path));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body["state"], told.state);
        let _ = self.acknowledged.send(());
    }

    fn name(&self) -> String {
        format!("customer-{}", self.number)
    }
}

#[test]
fn no_seat_is_ever_two_customers_and_no_acknowledged_word_is_lost_by_kills() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("booking");
    let seats = ["--seats", &SEATS.to_string()];
    let mut service = Service::start(&path, &seats);
    let crowd = Crowd {
        life: RwLock::new((1, service.address.clone())),
        is_over: AtomicBool::new(false),
        owners: (0..=SEATS).map(|_| AtomicU32::new(0)).collect(),
        confirmations: AtomicU32::new(0),
    };
    let (acknowledged, words) = mpsc::channel();
    let (told, service) = thread::scope(|scope| {
        let crowd = &crowd;
        let customers: Vec<_> = (1..=CUSTOMERS)
            .map(|number| {
                let customer = Customer {
                    crowd,
                    number,
                    told: BTreeMap::new(),
                    acknowledged: acknowledged.clone(),
                };
                scope.spawn(move || customer.shop())
            })
            .collect();
        drop(acknowledged);
        for number in 2..=LIVES {
            hear(&words, &crowd.is_over);
            let mut life = crowd.life.write().unwrap();
            service.kill();
            service = Service::start(&path, &[]);
            *life = (number, service.address.clone());
        }
        hear(&words, &crowd.is_over);
        crowd.is_over.store(true, Ordering::SeqCst);
        let join = |customer: thread::ScopedJoinHandle<'_, _>| customer.join().unwrap();
        let told: Vec<_> = customers.into_iter().map(join).collect();
        (told, service)
    });
    // Once without an ending in peace, and once with it.
    service.kill();
    let service = Service::start(&path, &[]);
    compare(&service.client(), &told);
    service.stop();
    check_files(&path);
    let service = Service::start(&path, &[]);
    compare(&service.client(), &told);
    service.stop();
}

/// Waits for the acknowledgements of one life. If a customer fails, the others end as well, and the test with them.
fn hear(words: &mpsc::Receiver<()>, is_over: &AtomicBool) {
    for _ in 0..ACKNOWLEDGED_A_LIFE {
        if let Err(error) = words.recv_timeout(PATIENCE) {
            is_over.store(true, Ordering::SeqCst);
            panic!("the customers have stopped: {error}");
        }
    }
}

/// What the customers were told is all that there is.
fn compare(client: &Client, told: &[BTreeMap<String, Told>]) {
    let mut taken: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
    for (number, told) in (1..).zip(told) {
        for (id, told) in told {
            let answer = client.get(&format!("/reservations/{id}"));
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.body["customer"], format!("customer-{number}"));
            assert_eq!(answer.body["seats"], serde_json::json!(told.seats));
            assert_eq!(answer.body["state"], told.state);
            for seat in &told.seats {
                let is_first = taken.entry(told.state).or_default().insert(*seat);
                assert!(told.state == "cancelled" || is_first, "seat {seat} twice");
            }
        }
    }
    let [held, sold, free] = ["held", "sold", "free"].map(|state| client.seats(state));
    let told = |state| Vec::from_iter(taken.get(state).into_iter().flatten().copied());
    assert_eq!(
        (held.clone(), sold.clone()),
        (told("held"), told("confirmed"))
    );
    let all = BTreeSet::from_iter([held, sold, free].concat());
    assert_eq!(all, (1..=SEATS).collect());
}

/// Every checksum, every key in its place.
fn check_files(path: &Path) {
    mailring::Mailring::verify_directory(path).unwrap();
}

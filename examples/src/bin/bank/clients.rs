//! The clients and the auditor of one life, and what they have counted since the last report.

use crate::{
    Plan,
    accounts::{Bank, Order, Transfer},
    report::Report,
};
use mailring::{Error, Result};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// The largest sum of one transfer.
const LARGEST_SUM: i64 = 100;

/// What all clients and the auditor of a life share.
#[derive(Debug)]
pub(crate) struct Branch {
    bank: Bank,
    plan: Plan,
    /// Tells the orders of this life from those of the lives before.
    life: u64,
    is_closing: AtomicBool,
    tally: Mutex<Tally>,
}

#[derive(Debug)]
struct Tally {
    report: Report,
    failure: Option<String>,
}

impl Branch {
    pub(crate) fn new(bank: Bank, plan: &Plan) -> Self {
        Self {
            bank,
            plan: plan.clone(),
            life: rand::rng().random(),
            is_closing: AtomicBool::new(false),
            tally: Mutex::new(Tally {
                report: Report {
                    settled: vec![0; plan.clients as usize],
                    ..Report::default()
                },
                failure: None,
            }),
        }
    }

    /// Everybody ends what he is doing, and nothing more.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        !self.is_closing.load(Ordering::Relaxed)
    }

    /// What was counted since the last time, or what must not have happened.
    pub(crate) fn take_report(&self) -> std::result::Result<Report, String> {
        let mut tally = self.tally();
        if let Some(failure) = tally.failure.take() {
            return Err(failure);
        }
        let clients = tally.report.settled.len();
        let next = Report {
            settled: vec![0; clients],
            ..Report::default()
        };
        Ok(std::mem::replace(&mut tally.report, next))
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, failure: String) {
        self.tally().failure.get_or_insert(failure);
        self.close();
    }

    /// One client: transfer after transfer, until the bank closes.
    pub(crate) async fn serve(&self, client: u32) {
        if let Err(error) = self.transfer_until_closed(client).await {
            self.fail(format!("client {client} could not transfer: {error}"));
        }
    }

    async fn transfer_until_closed(&self, client: u32) -> Result<()> {
        let mut dice = StdRng::from_os_rng();
        let accounts = self.plan.accounts;
        for number in 0_u64.. {
            if !self.is_open() {
                break;
            }
            let payer = dice.random_range(0..accounts);
            let order = Order {
                key: format!("{:016x}-{client}-{number}", self.life),
                client,
                payer,
                payee: (payer + dice.random_range(1..accounts)) % accounts,
                sum: dice.random_range(1..=LARGEST_SUM),
            };
            let begun = Instant::now();
            let outcome = self.settle(&order).await;
            let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            let report = &mut self.tally().report;
            match outcome {
                Ok(transfer) => {
                    report.settled[client as usize] += 1;
                    *report.latencies.entry(took_us).or_default() += 1;
                    report.refused += u64::from(transfer == Transfer::Refused);
                }
                Err(error) if error.is_retryable() => report.given_up += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the order, again for as long as its outcome can't be told. Its key settles it once, however often it comes.
    async fn settle(&self, order: &Order) -> Result<Transfer> {
        let mut is_in_doubt = false;
        loop {
            match self.bank.transfer(order).await {
                Err(Error::Unknown { .. }) => {
                    is_in_doubt = true;
                    self.tally().report.repeated += 1;
                }
                // This one was not carried out, but the one before may have been.
                Err(error) if is_in_doubt && error.is_retryable() => {}
                outcome => return outcome,
            }
        }
    }

    /// The auditor: reads all accounts in one snapshot after the other.
    pub(crate) async fn audit(&self) {
        while self.is_open() {
            match self.bank.audit().await {
                Ok(books) => match books.fault(&self.plan) {
                    None => self.tally().report.audits += 1,
                    Some(fault) => return self.fail(format!("an audit failed: {fault}")),
                },
                Err(error) => return self.fail(format!("an audit was impossible: {error}")),
            }
            // A snapshot in memory never makes its reader wait, so it lets the others run.
            tokio::task::yield_now().await;
        }
    }
}

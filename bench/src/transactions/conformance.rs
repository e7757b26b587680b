//! Every store of this build carries out every workload, and keeps its books; stores that do not are found out. A peer
//! that quietly lost updates would make a comparison worthless.

use std::sync::Mutex;
use std::time::Duration;

use clap::ValueEnum;
use tokio::runtime::Runtime;

use super::*;
use crate::distribution::Distribution;
use crate::driver::{Schedule, Stop};
use crate::subject::{Durability, Kind, Settings};

fn runtime() -> Arc<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Arc::new(builder.worker_threads(2).enable_all().build().unwrap())
}

/// Few accounts and a steep choice, so that clients meet.
fn economy(mix: Mix) -> Arc<Economy> {
    Arc::new(Economy::new(mix, 12, Some(Distribution::Zipfian), 0.99, 40).unwrap())
}

fn job(economy: &Arc<Economy>) -> BankJob {
    BankJob {
        economy: economy.clone(),
        schedule: Schedule {
            clients: 8,
            stop: Stop::Operations(400),
            warmup: Duration::ZERO,
            rate: None,
            sample_every: 1,
            by_second: false,
        },
        seed: 1,
        on_threads: false,
    }
}

#[test]
fn every_store_with_transactions_keeps_its_books_under_contention() {
    for kind in Kind::usual_banks() {
        for mix in Mix::value_variants() {
            let dir = tempfile::tempdir().unwrap();
            let settings = Settings {
                dir: dir.path().to_owned(),
                durability: Durability::None,
                cache_bytes: 8 << 20,
                write_buffer_bytes: 8 << 20,
                nodes: 3,
            };
            let economy = economy(*mix);
            let bank = peers::open(kind, &settings, &economy, &runtime()).unwrap();
            bank.open_rows().unwrap();
            bank.audit().unwrap();
            for _ in 0..2 {
                let driven = bank.drive(&job(&economy), &Arc::default()).unwrap();
                assert_eq!(driven.outcome.operations, 400, "{kind} {mix:?}");
                assert_eq!(driven.outcome.done.found, 400, "{kind} {mix:?}");
                bank.audit()
                    .unwrap_or_else(|fault| panic!("{kind} {mix:?}: {fault}"));
            }
            bank.close().unwrap();
        }
    }
}

#[test]
fn a_durable_commit_of_each_store_is_carried_out_too() {
    for kind in Kind::usual_banks().into_iter().chain([Kind::Raw]) {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            dir: dir.path().to_owned(),
            durability: Durability::Always,
            cache_bytes: 8 << 20,
            write_buffer_bytes: 8 << 20,
            nodes: 3,
        };
        let economy = economy(Mix::Transfer);
        let bank = peers::open(kind, &settings, &economy, &runtime()).unwrap();
        bank.open_rows().unwrap();
        let mut job = job(&economy);
        job.schedule.stop = Stop::Operations(50);
        let driven = bank.drive(&job, &Arc::default()).unwrap();
        assert_eq!(driven.outcome.operations, 50, "{kind}");
        assert_eq!(driven.per_force.is_some(), kind.is_mailring(), "{kind}");
        bank.audit()
            .unwrap_or_else(|fault| panic!("{kind}: {fault}"));
        bank.close().unwrap();
    }
}

/// Refuses every third attempt, and may lose the first write of each program.
#[derive(Default)]
struct Careless {
    balances: Mutex<std::collections::HashMap<Vec<u8>, i64>>,
    loses: bool,
    attempts: std::sync::atomic::AtomicU64,
}

impl Ledger for Careless {
    fn attempt(&self, programs: &[Program]) -> std::result::Result<Vec<Effect>, Refusal> {
        let attempt = &self.attempts;
        if programs[0].reads()
            && attempt.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 == 2
        {
            return Err(Refusal::Contention);
        }
        let mut balances = self.balances.lock().unwrap();
        let found = programs[0].look(|key| Ok(balances.get(key).copied()))?;
        let (effect, values) = programs[0].decide(&found);
        for (key, value) in values
            .into_iter()
            .skip(usize::from(self.loses && !found.is_empty()))
        {
            balances.insert(
                key.to_vec(),
                program::balance_of(&value).map_err(Refusal::Fault)?,
            );
        }
        Ok(vec![effect])
    }

    fn read(&self, program: &Program) -> std::result::Result<Effect, Refusal> {
        let balances = self.balances.lock().unwrap();
        let found = program.look(|key| Ok(balances.get(key).copied()))?;
        Ok(program.decide(&found).0)
    }
}

#[test]
fn a_store_that_loses_an_update_fails_the_audit() {
    for loses in [false, true] {
        for mix in [Mix::Transfer, Mix::Smallbank, Mix::YcsbT, Mix::Counter] {
            let (economy, runtime) = (economy(mix), runtime());
            let ledger = Careless {
                loses,
                ..Careless::default()
            };
            let bank = Bank::new(Threaded::new(ledger), &economy, &runtime);
            bank.open_rows().unwrap();
            bank.drive(&job(&economy), &Arc::default()).unwrap();
            assert_eq!(bank.audit().is_err(), loses, "{mix:?}");
        }
    }
}

#[test]
fn who_is_refused_tries_again_and_both_are_counted() {
    let (economy, runtime) = (economy(Mix::Transfer), runtime());
    let bank = Bank::new(Threaded::new(Careless::default()), &economy, &runtime);
    bank.open_rows().unwrap();
    let outcome = bank.drive(&job(&economy), &Arc::default()).unwrap().outcome;
    let contention = outcome.done.contention;
    // Of 600 attempts, more or less the ones that end a run, every third was refused.
    assert_eq!(outcome.operations, 400);
    assert!(contention.aborts.abs_diff(200) <= 1, "{contention:?}");
    assert_eq!(contention.retries, contention.aborts);
    assert!(contention.most_retries >= 1);
}

#[test]
fn a_missing_row_ends_the_run_with_its_error() {
    let (economy, runtime) = (economy(Mix::Transfer), runtime());
    let bank = Bank::new(Threaded::new(Careless::default()), &economy, &runtime);
    let fault = bank.drive(&job(&economy), &Arc::default()).err().unwrap();
    assert_eq!(fault.to_string(), "a row is missing");
}

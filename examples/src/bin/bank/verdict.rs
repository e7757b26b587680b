//! What the whole drill has come to: the figures, the checks, and the table of both.

use crate::{
    Plan,
    accounts::{Books, money},
    report::{Engine, Report},
};
use hdrhistogram::Histogram;
use std::{fmt, time::Duration};

/// Latencies are told up to a minute.
const LONGEST_US: u64 = 60_000_000;

pub(crate) struct Verdict {
    plan: Plan,
    latencies: Histogram<u64>,
    settled: u64,
    refused: u64,
    given_up: u64,
    repeated: u64,
    audits: u64,
    /// What the engine of this life has counted, and those of the lives before.
    engine: Engine,
    engines_before: Engine,
    kills: u64,
    longest_recovery_ms: u64,
    /// What the books said when this life began, and what it has acknowledged since, by client.
    books: Books,
    acknowledged: Vec<u64>,
    took: Duration,
    faults: Vec<String>,
}

impl Verdict {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            latencies: Histogram::new_with_bounds(1, LONGEST_US, 3).expect("they are in order"),
            settled: 0,
            refused: 0,
            given_up: 0,
            repeated: 0,
            audits: 0,
            engine: Engine::default(),
            kills: 0,
            longest_recovery_ms: 0,
            engines_before: Engine::default(),
            books: Books::default(),
            acknowledged: vec![0; plan.clients as usize],
            took: Duration::ZERO,
            faults: Vec::new(),
        }
    }

    /// A life has begun, with these books. Everything that was acknowledged before must be in them.
    pub(crate) fn opened(&mut self, recovery_ms: u64, books: Books) {
        if self.kills > 0 {
            self.longest_recovery_ms = self.longest_recovery_ms.max(recovery_ms);
            self.compare(&books);
        }
        self.faults.extend(books.fault(&self.plan));
        self.books = books;
        self.acknowledged.fill(0);
    }

    pub(crate) fn report(&mut self, report: Report) {
        for (client, settled) in report.settled.iter().enumerate() {
            self.acknowledged[client] += settled;
        }
        for (latency_us, count) in report.latencies {
            self.latencies.saturating_record_n(latency_us, count);
        }
        self.settled += report.settled.iter().sum::<u64>();
        self.refused += report.refused;
        self.given_up += report.given_up;
        self.repeated += report.repeated;
        self.audits += report.audits;
        self.engine = report.engine;
    }

    pub(crate) fn killed(&mut self) {
        self.kills += 1;
        self.engines_before = self.engine();
        self.engine = Engine::default();
    }

    /// The last life has ended by itself, and this is what it has left.
    pub(crate) fn closed(&mut self, took: Duration, books: Books) {
        self.took = took;
        self.compare(&books);
        let receipts = |books: &Books| books.receipts.values().sum::<i64>();
        let acknowledged: u64 = self.acknowledged.iter().sum();
        let settled = receipts(&books) - receipts(&self.books);
        if u64::try_from(settled) != Ok(acknowledged) {
            self.faults.push(format!(
                "the last life has settled {settled} orders and acknowledged {acknowledged}"
            ));
        }
        self.faults.extend(books.fault(&self.plan));
        if self.audits == 0 {
            self.faults.push("no audit came to its end".to_owned());
        }
        self.books = books;
    }

    /// A life has ended otherwise than it should.
    pub(crate) fn failed(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// All that was acknowledged since the books before must be in these.
    fn compare(&mut self, books: &Books) {
        for (client, acknowledged) in (0_u32..).zip(&self.acknowledged) {
            let settled = books.receipts_of(client) - self.books.receipts_of(client);
            if settled < i64::try_from(*acknowledged).unwrap_or(i64::MAX) {
                self.faults.push(format!(
                    "client {client} was told of {acknowledged} orders, and {settled} are settled"
                ));
            }
        }
    }

    pub(crate) fn holds(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }

    pub(crate) fn audits(&self) -> u64 {
        self.audits
    }

    pub(crate) fn kills(&self) -> u64 {
        self.kills
    }

    /// Restarts of nodes in all lives.
    pub(crate) fn restarts(&self) -> u64 {
        self.engine().restarts
    }

    fn engine(&self) -> Engine {
        let (before, now) = (self.engines_before, self.engine);
        Engine {
            aborts: before.aborts + now.aborts,
            retries: before.retries + now.retries,
            restarts: before.restarts + now.restarts,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            accounts, clients, ..
        } = &self.plan;
        let seconds = self.took.as_secs_f64();
        let engine = self.engine();
        let latency_ms = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        let rows = [
            ("orders settled", self.settled.to_string()),
            (
                "a second, kills included",
                format!("{:.0}", self.settled as f64 / seconds),
            ),
            ("p50", format!("{:.2} ms", latency_ms(0.5))),
            ("p99", format!("{:.2} ms", latency_ms(0.99))),
            ("refused, payer too poor", self.refused.to_string()),
            ("aborts", engine.aborts.to_string()),
            ("retries", engine.retries.to_string()),
            ("given up after retries", self.given_up.to_string()),
            ("repeated in doubt", self.repeated.to_string()),
            ("audits", self.audits.to_string()),
            ("node restarts survived", engine.restarts.to_string()),
            ("process kills survived", self.kills.to_string()),
            (
                "longest recovery",
                format!("{} ms", self.longest_recovery_ms),
            ),
        ];
        writeln!(f, "{accounts} accounts, {clients} clients, {seconds:.1} s")?;
        for (name, figure) in rows {
            writeln!(f, "  {name:<26}{figure:>12}")?;
        }
        for fault in &self.faults {
            writeln!(f, "CHECK FAILED: {fault}")?;
        }
        let (money, books) = (money(&self.plan), &self.books);
        let (accounts, held) = (books.accounts, books.money);
        write!(f, "total: {accounts} accounts hold {held} of {money}")?;
        if self.holds() {
            write!(f, "; no acknowledged order is lost, and none settled twice")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// Two accounts, and so many receipts of each of two clients.
    fn books(receipts: [i64; 2]) -> Books {
        let clients = ["client-000000", "client-000001"].map(str::to_owned);
        Books {
            accounts: 2,
            money: 2_000,
            overdrawn: 0,
            receipts: clients.into_iter().zip(receipts).collect(),
        }
    }

    /// Opened with three receipts for each client; both have some more since.
    fn verdict(settled: [u64; 2]) -> Verdict {
        let plan = Plan::parse_from(["bank", "--accounts", "2", "--clients", "2"]);
        let mut verdict = Verdict::new(&plan);
        verdict.opened(0, books([3, 3]));
        verdict.report(Report {
            settled: settled.to_vec(),
            audits: 1,
            ..Report::default()
        });
        verdict
    }

    fn faults(mut verdict: Verdict, end: Books) -> Vec<String> {
        verdict.closed(Duration::from_secs(1), end);
        assert_eq!(verdict.holds(), verdict.faults.is_empty());
        assert_eq!(
            verdict.to_string().contains("CHECK FAILED"),
            !verdict.holds()
        );
        verdict.faults
    }

    #[test]
    fn what_was_acknowledged_and_nothing_else_holds() {
        assert_eq!(faults(verdict([2, 0]), books([5, 3])), [""; 0]);
    }

    #[test]
    fn an_order_that_is_gone_is_a_fault_although_another_client_has_one_more() {
        let fault = "client 0 was told of 2 orders, and 1 are settled";
        assert_eq!(faults(verdict([2, 0]), books([4, 4])), [fault]);
    }

    #[test]
    fn an_order_that_was_settled_twice_is_a_fault() {
        let fault = "the last life has settled 3 orders and acknowledged 2";
        assert_eq!(faults(verdict([2, 0]), books([6, 3])), [fault]);
    }

    #[test]
    fn a_killed_life_may_have_settled_more_than_it_could_tell_but_not_less() {
        let mut more = verdict([2, 0]);
        more.killed();
        more.opened(7, books([6, 3]));
        assert_eq!(faults(more, books([6, 3])), [""; 0]);
        let mut less = verdict([2, 0]);
        less.killed();
        less.opened(7, books([4, 3]));
        let fault = "client 0 was told of 2 orders, and 1 are settled";
        assert_eq!(faults(less, books([4, 3])), [fault]);
    }

    #[test]
    fn money_from_nowhere_and_an_overdrawn_account_are_faults() {
        let mut end = books([5, 3]);
        (end.money, end.overdrawn) = (2_001, 1);
        let fault = "2 accounts hold 2001, and 1 are overdrawn; 2 must hold 2000";
        assert_eq!(faults(verdict([2, 0]), end), [fault]);
    }
}

//! Which programs come: the workloads with transactions.
//!
//! | name | programs | rows | usual choice |
//! |---|---|---|---|
//! | `transfer` | moves 1 to 10 between two accounts | one an account | uniform |
//! | `smallbank` | 15 % Balance, 15 % DepositChecking, 15 % TransactSavings, 15 % Amalgamate, 15 % WriteCheck, 25 % SendPayment | three a customer | uniform |
//! | `ycsb-t` | 90 % reads of an account, 10 % transfers of 1 (the closed economy of Dey et al., "YCSB+T", 2014) | one an account | zipfian |
//! | `counter` | adds 1 to the same counter | one | |
//! | `read` | reads ten accounts | one an account | uniform |
//!
//! The zipfian choice is over the accounts themselves: account 0 is the hottest. Its key says nothing about that, so the
//! hot accounts are spread over the nodes.
//!
//! Under `--cross-node` so many percent of the transfers are between accounts on different nodes of mailring's ring, the
//! others between accounts of one node. The ring is a function of the number of nodes, so the same pairs come for every
//! subject. Without the flag pairs come as they are drawn.

use std::sync::Arc;

use clap::ValueEnum;
use mailring::Mailring;
use tokio::runtime::Runtime;

use super::program::{BALANCE_BYTES, Procedure, Program, key_of};
use crate::distribution::{Distribution, Rng, Zipfian};
use crate::{Fault, Result};

/// What each account is opened with: so much that a hot one does not run dry.
const OPENING_BALANCE: i64 = 1_000_000;

/// Rows that one program opens.
const OPENED_AT_ONCE: u64 = 1_000;

/// Accounts that a read-only transaction reads.
const READ_AT_ONCE: usize = 10;

/// Partners drawn before one is looked for in order.
const DRAWS: usize = 1_000;

/// The name of a workload with transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mix {
    /// Moves money between two accounts.
    Transfer,
    /// The six procedures of SmallBank.
    Smallbank,
    /// The closed economy of YCSB+T.
    YcsbT,
    /// Adds to one hot counter.
    Counter,
    /// Reads ten accounts in one transaction.
    Read,
}

/// Which node has which account.
#[derive(Clone, Debug)]
pub(crate) struct Placement(Arc<[u16]>);

/// Everything that says which programs come.
#[derive(Clone, Debug)]
pub(crate) struct Economy {
    mix: Mix,
    accounts: u64,
    choice: Option<Zipfian>,
    value_bytes: usize,
    cross_node: Option<(u64, Placement)>,
}

impl Placement {
    /// Asks the ring of an engine in memory with so many nodes.
    ///
    /// # Errors
    ///
    /// If there are fewer than two nodes, or an account has no other on its node.
    pub(crate) fn of(accounts: u64, nodes: u32, runtime: &Runtime) -> Result<Self> {
        if nodes < 2 {
            return Err(Fault::from("--cross-node needs at least 2 --nodes"));
        }
        let places = runtime.block_on(async {
            let ring = Mailring::memory();
            let ring = ring.nodes(u16::try_from(nodes)?).open().await?;
            let keyspace = ring.keyspace("accounts").await?;
            let places = (0..accounts).map(|account| keyspace.node_of(key_of(account)).0);
            let places: Arc<[u16]> = places.collect();
            ring.shutdown().await?;
            Result::Ok(places)
        })?;
        let lonely = |node: u32| {
            let there = places.iter().filter(|place| u32::from(**place) == node);
            there.take(2).count() < 2
        };
        match (0..nodes).find(|node| lonely(*node)) {
            Some(_) => Err(Fault::from(
                "--cross-node needs at least two accounts on each node: more --accounts, or fewer --nodes",
            )),
            None => Ok(Self(places)),
        }
    }

    /// The node of an account.
    pub(crate) fn node(&self, account: u64) -> u16 {
        self.0[account as usize]
    }
}

impl Economy {
    /// A workload by name over so many accounts; the skew is that of zipfian.
    ///
    /// # Errors
    ///
    /// If the distribution is one that accounts have not, or there are too few accounts.
    pub(crate) fn new(
        mix: Mix,
        accounts: u64,
        distribution: Option<Distribution>,
        theta: f64,
        value_bytes: usize,
    ) -> Result<Self> {
        let usual = match mix {
            Mix::YcsbT => Distribution::Zipfian,
            _ => Distribution::Uniform,
        };
        if accounts < READ_AT_ONCE as u64 {
            return Err(Fault::from("--accounts must be at least 10"));
        }
        let choice = match distribution.unwrap_or(usual) {
            Distribution::Uniform => None,
            Distribution::Zipfian => Some(Zipfian::new(accounts, theta)),
            Distribution::Latest => {
                return Err(Fault::from("accounts are chosen uniform or zipfian"));
            }
        };
        let value_bytes = match mix {
            // A counter is its eight bytes.
            Mix::Counter => BALANCE_BYTES,
            _ => value_bytes.max(BALANCE_BYTES),
        };
        Ok(Self {
            mix,
            accounts,
            choice,
            value_bytes,
            cross_node: None,
        })
    }

    /// So many percent of the transfers between accounts on different nodes, the others on one.
    pub(crate) fn crossing(self, percent: u64, placement: Placement) -> Self {
        Self {
            cross_node: Some((percent, placement)),
            ..self
        }
    }

    /// Other programs on the same rows.
    pub(crate) fn with_mix(self, mix: Mix) -> Self {
        Self { mix, ..self }
    }

    fn rows(&self) -> u64 {
        match self.mix {
            Mix::Smallbank => 3 * self.accounts,
            Mix::Counter => 1,
            Mix::Transfer | Mix::YcsbT | Mix::Read => self.accounts,
        }
    }

    /// What each row is opened with.
    fn opening_balance(&self) -> i64 {
        match self.mix {
            Mix::Counter => 0,
            _ => OPENING_BALANCE,
        }
    }

    /// The total at the beginning.
    pub(crate) fn opening_total(&self) -> i64 {
        self.rows() as i64 * self.opening_balance()
    }

    /// Whether a balance may fall below nothing. Only SmallBank's checks may.
    pub(crate) fn may_owe(&self) -> bool {
        self.mix == Mix::Smallbank
    }

    /// Bytes that a program of a transfer writes, for the calibration of the disk.
    pub(crate) fn bytes_written(&self) -> usize {
        let rows = if self.mix == Mix::Counter { 1 } else { 2 };
        rows * (super::program::KEY_BYTES + self.value_bytes)
    }

    fn program(&self, procedure: Procedure, rows: impl IntoIterator<Item = u64>) -> Program {
        Program {
            procedure,
            keys: rows.into_iter().map(key_of).collect(),
            value_bytes: self.value_bytes,
        }
    }

    fn in_parts(&self, procedure: Procedure) -> impl Iterator<Item = Program> {
        let rows = self.rows();
        (0..rows.div_ceil(OPENED_AT_ONCE)).map(move |part| {
            let end = ((part + 1) * OPENED_AT_ONCE).min(rows);
            self.program(procedure, part * OPENED_AT_ONCE..end)
        })
    }

    /// The programs that open all rows.
    pub(crate) fn openings(&self) -> impl Iterator<Item = Program> {
        self.in_parts(Procedure::Open(self.opening_balance()))
    }

    /// The programs that read all rows.
    pub(crate) fn audits(&self) -> impl Iterator<Item = Program> {
        self.in_parts(Procedure::Read)
    }

    fn account(&self, rng: &mut Rng) -> u64 {
        match &self.choice {
            None => rng.below(self.accounts),
            Some(zipfian) => zipfian.rank(rng),
        }
    }

    /// Another account, drawn like the first, for which `fits` holds.
    fn partner(&self, first: u64, rng: &mut Rng, fits: impl Fn(u64) -> bool) -> u64 {
        let fits = |other: &u64| *other != first && fits(*other);
        let drawn = (0..DRAWS)
            .map(|_| self.account(rng))
            .find(|other| fits(other));
        drawn.unwrap_or_else(|| {
            let start = rng.below(self.accounts);
            let mut others = (start..self.accounts).chain(0..start);
            others
                .find(fits)
                .expect("each node has two accounts, and there are two nodes")
        })
    }

    /// Two accounts of a transfer.
    fn pair(&self, rng: &mut Rng) -> [u64; 2] {
        let first = self.account(rng);
        let second = match &self.cross_node {
            None => self.partner(first, rng, |_| true),
            Some((percent, placement)) => {
                let crosses = rng.below(100) < *percent;
                let home = placement.node(first);
                self.partner(first, rng, |other| {
                    (placement.node(other) != home) == crosses
                })
            }
        };
        // The partner's draw is bent by what fits; which of them pays is not.
        if rng.below(2) == 0 {
            [first, second]
        } else {
            [second, first]
        }
    }

    /// The next program.
    pub(crate) fn next(&self, rng: &mut Rng) -> Program {
        match self.mix {
            Mix::Transfer => {
                let amount = 1 + rng.below(10) as i64;
                self.program(Procedure::Transfer(amount), self.pair(rng))
            }
            Mix::YcsbT if rng.below(10) == 0 => {
                self.program(Procedure::Transfer(1), self.pair(rng))
            }
            Mix::YcsbT => self.program(Procedure::Read, [self.account(rng)]),
            Mix::Counter => self.program(Procedure::Add(1), [0]),
            Mix::Read => {
                let mut accounts = Vec::with_capacity(READ_AT_ONCE);
                while accounts.len() < READ_AT_ONCE {
                    let account = self.account(rng);
                    if !accounts.contains(&account) {
                        accounts.push(account);
                    }
                }
                self.program(Procedure::Read, accounts)
            }
            Mix::Smallbank => self.smallbank(rng),
        }
    }

    fn smallbank(&self, rng: &mut Rng) -> Program {
        let (account, savings, checking) = (|c| 3 * c, |c| 3 * c + 1, |c| 3 * c + 2);
        let amount = 1 + rng.below(100) as i64;
        match rng.below(100) {
            0..15 => {
                let who = self.account(rng);
                let rows = [account(who), savings(who), checking(who)];
                self.program(Procedure::Balance, rows)
            }
            15..30 => {
                let who = self.account(rng);
                let rows = [account(who), checking(who)];
                self.program(Procedure::DepositChecking(amount), rows)
            }
            30..45 => {
                let who = self.account(rng);
                let amount = if rng.below(2) == 0 { amount } else { -amount };
                let rows = [account(who), savings(who)];
                self.program(Procedure::TransactSavings(amount), rows)
            }
            45..60 => {
                let [from, to] = self.pair(rng);
                let rows = [
                    account(from),
                    account(to),
                    savings(from),
                    checking(from),
                    checking(to),
                ];
                self.program(Procedure::Amalgamate, rows)
            }
            60..75 => {
                let who = self.account(rng);
                let rows = [account(who), savings(who), checking(who)];
                self.program(Procedure::WriteCheck(amount), rows)
            }
            _ => {
                let [from, to] = self.pair(rng);
                let rows = [account(from), account(to), checking(from), checking(to)];
                self.program(Procedure::SendPayment(amount), rows)
            }
        }
    }

    /// How many transfers a force can have at most, if a key can commit once a force: one over the share of the
    /// transfers in which the hottest account takes part. Found by drawing.
    pub(crate) fn cap_per_force(&self, seed: u64) -> f64 {
        const DRAWN: usize = 100_000;
        let mut rng = Rng::new(seed, u64::MAX);
        let hottest = (0..DRAWN).filter(|_| self.pair(&mut rng).contains(&0));
        DRAWN as f64 / hottest.count().max(1) as f64
    }
}

#[cfg(test)]
#[path = "economy_tests.rs"]
mod tests;

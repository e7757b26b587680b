//! A transaction as data: the keys it reads, and a pure function from what it found to what it writes.
//!
//! Every store runs the same programs, each in the way that suits it best: one that locks takes the keys in order, one
//! that has a single writer may carry out many in one transaction. What a program did to the sum of all balances is its
//! [`Effect`]; a store that lost, doubled or mixed up an update shows a total that the acknowledged effects don't
//! explain.
//!
//! The keys of each procedure, in the order of [`Program::keys`]:
//!
//! | procedure | keys | writes |
//! |---|---|---|
//! | `Open` | any | all, unread |
//! | `Read` | any | |
//! | `Add` | one | it |
//! | `Transfer` | from, to | both, unless `from` has too little |
//! | `Balance` | account, savings, checking | |
//! | `DepositChecking` | account, checking | checking |
//! | `TransactSavings` | account, savings | savings, unless it fell below nothing |
//! | `Amalgamate` | both accounts, savings and checking of the first, checking of the second | the last three |
//! | `WriteCheck` | account, savings, checking | checking, with a penalty of 1 if both have too little |
//! | `SendPayment` | both accounts, both checkings | both checkings, unless the first has too little |
//!
//! The last six are SmallBank (Alomari et al., "The Cost of Serializability on Platforms That Use Snapshot Isolation",
//! ICDE 2008), with `SendPayment` as H-Store and OLTP-Bench added it. The row `account` stands for the table from names
//! to customers: it is read and found, its content means nothing here.

use crate::distribution::mix;
use crate::{Fault, Result};

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 16;

/// Bytes of a balance, at the front of a value.
pub(crate) const BALANCE_BYTES: usize = 8;

/// A key: 16 hexadecimal digits, in no order and without collisions.
pub(crate) type Key = [u8; KEY_BYTES];

/// The key of a row by its number.
pub(crate) fn key_of(row: u64) -> Key {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut key = [0; KEY_BYTES];
    for (pair, byte) in key.chunks_exact_mut(2).zip(mix(row).to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    key
}

/// The balance in a value.
///
/// # Errors
///
/// If the value is too short to be one.
pub(crate) fn balance_of(value: &[u8]) -> Result<i64> {
    let bytes = value.first_chunk::<BALANCE_BYTES>();
    bytes
        .map(|bytes| i64::from_le_bytes(*bytes))
        .ok_or_else(|| Fault::from("a value is too short to be a balance"))
}

/// What a program does; the amounts are those of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Procedure {
    /// Sets all keys to this balance.
    Open(i64),
    /// Reads all keys.
    Read,
    /// Adds to a counter.
    Add(i64),
    /// Moves money.
    Transfer(i64),
    /// SmallBank: what a customer has.
    Balance,
    /// SmallBank: pays in.
    DepositChecking(i64),
    /// SmallBank: pays in or takes out.
    TransactSavings(i64),
    /// SmallBank: moves all of one customer to another.
    Amalgamate,
    /// SmallBank: takes out.
    WriteCheck(i64),
    /// SmallBank: moves money between customers.
    SendPayment(i64),
}

/// A transaction to be carried out.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// What is done.
    pub(crate) procedure: Procedure,
    /// With which keys, no two of them the same.
    pub(crate) keys: Vec<Key>,
    /// Bytes of each value that is written, at least those of a balance.
    pub(crate) value_bytes: usize,
}

/// What a program that was carried out has found and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// The sum of the balances that it read.
    pub(crate) sum: i64,
    /// The lowest of them.
    pub(crate) lowest: i64,
    /// What it added to the sum of all balances.
    pub(crate) delta: i64,
    /// It wrote nothing by its own rule.
    pub(crate) declined: bool,
}

/// Why an attempt came to nothing.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Somebody else was in the way; another attempt may succeed.
    Contention,
    /// Something is broken.
    Fault(Fault),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

/// The rows that one transaction of a store sees.
pub(crate) trait Rows {
    /// The balance at a key.
    fn balance(&mut self, key: &[u8]) -> std::result::Result<Option<i64>, Refusal>;

    /// Writes a value.
    fn set(&mut self, key: &[u8], value: &[u8]) -> std::result::Result<(), Refusal>;
}

/// The balances to be written, by the place of their key.
type Writes = Vec<(usize, i64)>;

impl Program {
    /// Whether it writes nothing, whatever it finds.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.procedure, Procedure::Read | Procedure::Balance)
    }

    /// Whether it reads what it writes.
    pub(crate) fn reads(&self) -> bool {
        !matches!(self.procedure, Procedure::Open(_))
    }

    /// The value of a balance.
    pub(crate) fn value(&self, balance: i64) -> Vec<u8> {
        let mut value = vec![b'.'; self.value_bytes.max(BALANCE_BYTES)];
        value[..BALANCE_BYTES].copy_from_slice(&balance.to_le_bytes());
        value
    }

    /// What is to be written where these balances were found, none to decline.
    fn writes(&self, found: &[i64]) -> Option<Writes> {
        let has = |is_enough: bool, writes: Writes| is_enough.then_some(writes);
        match (self.procedure, found) {
            (Procedure::Open(balance), _) => {
                Some((0..self.keys.len()).map(|key| (key, balance)).collect())
            }
            (Procedure::Read | Procedure::Balance, _) => Some(Vec::new()),
            (Procedure::Add(delta), [count]) => Some(vec![(0, count + delta)]),
            (Procedure::Transfer(amount), [from, to]) => {
                has(*from >= amount, vec![(0, from - amount), (1, to + amount)])
            }
            (Procedure::DepositChecking(amount), [_, checking]) => {
                Some(vec![(1, checking + amount)])
            }
            (Procedure::TransactSavings(amount), [_, savings]) => {
                has(savings + amount >= 0, vec![(1, savings + amount)])
            }
            (Procedure::Amalgamate, [_, _, savings, checking, other]) => {
                Some(vec![(2, 0), (3, 0), (4, other + savings + checking)])
            }
            (Procedure::WriteCheck(amount), [_, savings, checking]) => {
                let penalty = i64::from(savings + checking < amount);
                Some(vec![(2, checking - amount - penalty)])
            }
            (Procedure::SendPayment(amount), [_, _, from, to]) => {
                has(*from >= amount, vec![(2, from - amount), (3, to + amount)])
            }
            (procedure, _) => panic!("{procedure:?} was given {} keys", self.keys.len()),
        }
    }

    /// What the balances found lead to: the effect and the values to be written.
    pub(crate) fn decide(&self, found: &[i64]) -> (Effect, Vec<(&Key, Vec<u8>)>) {
        let decision = self.writes(found);
        let declined = decision.is_none();
        let writes = decision.unwrap_or_default();
        let before = |key: &usize| found.get(*key).copied().unwrap_or_default();
        let effect = Effect {
            sum: found.iter().sum(),
            lowest: found.iter().copied().min().unwrap_or_default(),
            delta: writes.iter().map(|(key, new)| new - before(key)).sum(),
            declined,
        };
        let values = writes
            .into_iter()
            .map(|(key, balance)| (&self.keys[key], self.value(balance)))
            .collect();
        (effect, values)
    }

    /// The places of the keys in their order.
    pub(crate) fn places_in_key_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_unstable_by_key(|place| self.keys[*place]);
        order
    }

    /// Reads all keys, in key order, so that stores that lock what they read meet no deadlock; the balances come in
    /// the order of the keys of the program.
    ///
    /// # Errors
    ///
    /// What `read` says, and if a key is not there.
    pub(crate) fn look(
        &self,
        mut read: impl FnMut(&[u8]) -> std::result::Result<Option<i64>, Refusal>,
    ) -> std::result::Result<Vec<i64>, Refusal> {
        if !self.reads() {
            return Ok(Vec::new());
        }
        let mut found = vec![0; self.keys.len()];
        for place in self.places_in_key_order() {
            found[place] = read(&self.keys[place])?
                .ok_or_else(|| Refusal::Fault(Fault::from("a row is missing")))?;
        }
        Ok(found)
    }

    /// Reads and writes within one transaction, which the caller commits.
    ///
    /// # Errors
    ///
    /// What the rows say.
    pub(crate) fn carry_out(&self, rows: &mut impl Rows) -> std::result::Result<Effect, Refusal> {
        let found = self.look(|key| rows.balance(key))?;
        let (effect, values) = self.decide(&found);
        for (key, value) in values {
            rows.set(key, &value)?;
        }
        Ok(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(procedure: Procedure, found: &[i64]) -> (Effect, Vec<i64>) {
        let program = Program {
            procedure,
            keys: (0..found.len() as u64).map(key_of).collect(),
            value_bytes: 20,
        };
        let (effect, values) = program.decide(found);
        let mut after = found.to_vec();
        for (key, value) in values {
            assert_eq!(value.len(), 20);
            let place = program.keys.iter().position(|own| own == key).unwrap();
            after[place] = balance_of(&value).unwrap();
        }
        (effect, after)
    }

    #[test]
    fn a_transfer_moves_and_declines_what_is_not_there() {
        let (effect, after) = decide(Procedure::Transfer(7), &[10, 1]);
        assert_eq!(
            (effect.delta, effect.declined, after),
            (0, false, vec![3, 8])
        );
        let (effect, after) = decide(Procedure::Transfer(11), &[10, 1]);
        assert_eq!(
            (effect.delta, effect.declined, after),
            (0, true, vec![10, 1])
        );
    }

    #[test]
    fn each_procedure_of_smallbank_does_what_its_paper_says() {
        let after = |procedure, found: &[i64]| {
            let (effect, after) = decide(procedure, found);
            let sum: i64 = found.iter().sum();
            assert_eq!(
                after.iter().sum::<i64>(),
                sum + effect.delta,
                "{procedure:?}"
            );
            assert_eq!(effect.sum, sum);
            after
        };
        assert_eq!(after(Procedure::Balance, &[0, 5, 6]), [0, 5, 6]);
        assert_eq!(after(Procedure::DepositChecking(4), &[0, 6]), [0, 10]);
        assert_eq!(after(Procedure::TransactSavings(-4), &[0, 6]), [0, 2]);
        assert_eq!(after(Procedure::TransactSavings(-7), &[0, 6]), [0, 6]);
        assert_eq!(
            after(Procedure::Amalgamate, &[0, 0, 5, 6, 7]),
            [0, 0, 0, 0, 18]
        );
        assert_eq!(after(Procedure::WriteCheck(9), &[0, 5, 6]), [0, 5, -3]);
        assert_eq!(after(Procedure::WriteCheck(12), &[0, 5, 6]), [0, 5, -7]);
        assert_eq!(
            after(Procedure::SendPayment(5), &[0, 0, 5, 6]),
            [0, 0, 0, 11]
        );
        assert_eq!(
            after(Procedure::SendPayment(6), &[0, 0, 5, 6]),
            [0, 0, 5, 6]
        );
    }

    #[test]
    fn keys_are_read_in_order_and_found_in_place() {
        let program = Program {
            procedure: Procedure::Read,
            keys: (0..20).map(key_of).collect(),
            value_bytes: 8,
        };
        let mut asked = Vec::new();
        let found = program.look(|key| {
            asked.push(key.to_vec());
            Ok(Some(i64::from(key[0])))
        });
        assert!(asked.is_sorted() && asked.len() == 20);
        let places: Vec<i64> = program.keys.iter().map(|key| i64::from(key[0])).collect();
        assert_eq!(found.unwrap(), places);
    }

    #[test]
    fn a_missing_row_is_a_fault_and_not_an_empty_account() {
        let program = Program {
            procedure: Procedure::Read,
            keys: vec![key_of(1)],
            value_bytes: 8,
        };
        let refusal = program.look(|_| Ok(None)).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Fault(fault) if fault.to_string() == "a row is missing")
        );
    }
}

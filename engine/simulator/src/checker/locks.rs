//! Histories of locks: one exclusive holder at a time, tokens that only rise, and nothing written under a stale one.
//!
//! A grant lasts until its holder gives it back, is told that it is lost, or its lease runs out; a restart of the lock
//! manager ends no grant by itself, since a holder may be looking elsewhere. A write under a token belongs before
//! everything that the next holder sees: it is at an LSN that was visible when the next one was granted, or nowhere.

use mailring_engine::{
    ids::{Lsn, Time},
    locks::{FencingToken, Mode},
};
use std::{collections::BTreeMap, fmt};

/// Something that happened to a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A session holds the lock on these terms from now on, or has new terms.
    Held {
        /// Who.
        session: u64,
        /// How.
        mode: Mode,
        /// Its token.
        token: FencingToken,
        /// When the lease ends.
        expires: Time,
        /// The visible LSN now.
        visible: Lsn,
    },
    /// The session has given the lock back, or was told that it has lost it.
    Ended {
        /// Who.
        session: u64,
    },
    /// Something was written under a token.
    Wrote {
        /// Under which.
        token: FencingToken,
        /// Where it is in the order of commits.
        lsn: Lsn,
    },
}

/// What is wrong with a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// Two sessions hold a lock in modes that do not go together.
    TwoHolders {
        /// The sessions.
        sessions: [u64; 2],
        /// When.
        at: Time,
    },
    /// A new holder's token is not above the one before.
    TokenFell {
        /// The token before.
        before: FencingToken,
        /// The one that does not rise.
        token: FencingToken,
    },
    /// Something was written under a token after a higher one was given, behind what the later holder could see.
    StaleWrite {
        /// The token.
        token: FencingToken,
        /// Where the write is.
        lsn: Lsn,
        /// The higher token, and what its holder could see.
        later: (FencingToken, Lsn),
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoHolders { sessions, at } => {
                let [one, other] = sessions;
                write!(f, "sessions {one} and {other} both hold it at {} ns", at.0)
            }
            Self::TokenFell { before, token } => write!(f, "token {token} came behind {before}"),
            Self::StaleWrite { token, lsn, later } => write!(
                f,
                "LSN {lsn} was written under token {token}, but {} was granted at LSN {}",
                later.0, later.1
            ),
        }
    }
}

struct Hold {
    mode: Mode,
    expires: Time,
}

/// The history of one lock.
#[derive(Debug, Clone, Default)]
pub struct LockHistory {
    events: Vec<(Time, Event)>,
}

impl LockHistory {
    /// Adds what happened at a time; times do not fall.
    pub fn push(&mut self, at: Time, event: Event) {
        self.events.push((at, event));
    }

    /// Takes back writes behind `last`: a crash has, and nobody was told that they were there.
    pub fn forget_writes_behind(&mut self, last: Lsn) {
        let is_kept = |event: &Event| !matches!(event, Event::Wrote { lsn, .. } if *lsn > last);
        self.events.retain(|(_, event)| is_kept(event));
    }

    /// The last events, for who looks for the cause of a violation.
    #[must_use]
    pub fn tail(&self) -> String {
        const SHOWN: usize = 30;
        let start = self.events.len().saturating_sub(SHOWN);
        format!("its last events: {:?}", &self.events[start..])
    }

    /// Checks the history.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_holders()?;
        self.check_writes()
    }

    fn check_holders(&self) -> Result<(), Violation> {
        let mut holds: BTreeMap<u64, Hold> = BTreeMap::new();
        let mut highest: Option<FencingToken> = None;
        // The last token of each session, until it is told that its grant has ended. A lease that has run out is not
        // told at once, and may be told of with its token meanwhile.
        let mut tokens: BTreeMap<u64, FencingToken> = BTreeMap::new();
        for (at, event) in &self.events {
            match *event {
                Event::Held {
                    session,
                    mode,
                    token,
                    expires,
                    ..
                } => {
                    holds.retain(|_, hold| hold.expires > *at);
                    if tokens.insert(session, token) != Some(token) {
                        if let Some(before) = highest.filter(|before| *before >= token) {
                            return Err(Violation::TokenFell { before, token });
                        }
                        highest = Some(token);
                    }
                    let mut others = holds.iter().filter(|(other, _)| **other != session);
                    if let Some((other, _)) =
                        others.find(|(_, hold)| !hold.mode.is_compatible(mode))
                    {
                        let sessions = [*other, session];
                        return Err(Violation::TwoHolders { sessions, at: *at });
                    }
                    holds.insert(session, Hold { mode, expires });
                }
                Event::Ended { session } => {
                    holds.remove(&session);
                    tokens.remove(&session);
                }
                Event::Wrote { .. } => {}
            }
        }
        Ok(())
    }

    /// Shared holders don't exclude each other, so only a grant of an exclusive mode ends what came before it.
    fn check_writes(&self) -> Result<(), Violation> {
        let mut owners: BTreeMap<FencingToken, u64> = BTreeMap::new();
        for (_, event) in &self.events {
            if let Event::Held { session, token, .. } = event {
                owners.entry(*token).or_insert(*session);
            }
        }
        let grants = self.events.iter().filter_map(|(_, event)| match *event {
            Event::Held {
                mode: Mode::Exclusive,
                token,
                visible,
                ..
            } => Some((token, visible)),
            _ => None,
        });
        // What was visible when each token was given: its first event.
        let mut given: BTreeMap<FencingToken, Lsn> = BTreeMap::new();
        for (token, visible) in grants {
            given.entry(token).or_insert(visible);
        }
        for (_, event) in &self.events {
            if let Event::Wrote { token, lsn } = *event {
                // Who upgrades his own hold has a higher token, and takes nothing from himself.
                let owner = owners.get(&token);
                let is_broken = |(later, visible): &(&FencingToken, &Lsn)| {
                    owners.get(*later) != owner && lsn > **visible
                };
                let later = given.range(FencingToken(token.0 + 1)..).find(is_broken);
                if let Some((later, visible)) = later {
                    let later = (*later, *visible);
                    return Err(Violation::StaleWrite { token, lsn, later });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: FencingToken = FencingToken(1);
    const TWO: FencingToken = FencingToken(2);

    fn held(session: u64, mode: Mode, token: FencingToken, expires: u64, visible: u64) -> Event {
        Event::Held {
            session,
            mode,
            token,
            expires: Time(expires),
            visible: Lsn(visible),
        }
    }

    fn exclusive(session: u64, token: FencingToken, expires: u64, visible: u64) -> Event {
        held(session, Mode::Exclusive, token, expires, visible)
    }

    fn check(events: &[(u64, Event)]) -> Result<(), Violation> {
        let mut history = LockHistory::default();
        for (at, event) in events {
            history.push(Time(*at), *event);
        }
        history.check()
    }

    #[test]
    fn one_after_the_other_is_fine() {
        let given_back = [
            (1, exclusive(7, ONE, 10, 0)),
            (2, Event::Ended { session: 7 }),
            (2, exclusive(8, TWO, 12, 0)),
        ];
        assert_eq!(check(&given_back), Ok(()));
        let run_out = [
            (1, exclusive(7, ONE, 10, 0)),
            (10, exclusive(8, TWO, 20, 0)),
        ];
        assert_eq!(check(&run_out), Ok(()));
        let shared = [
            (1, held(7, Mode::Shared, ONE, 10, 0)),
            (2, held(8, Mode::Shared, TWO, 10, 0)),
            (3, held(7, Mode::Shared, ONE, 20, 0)),
        ];
        assert_eq!(check(&shared), Ok(()));
    }

    #[test]
    fn two_holders_are_found() {
        let events = [(1, exclusive(7, ONE, 10, 0)), (9, exclusive(8, TWO, 20, 0))];
        let violation = Violation::TwoHolders {
            sessions: [7, 8],
            at: Time(9),
        };
        assert_eq!(check(&events), Err(violation));
    }

    #[test]
    fn a_renewed_lease_still_excludes() {
        let events = [
            (1, exclusive(7, ONE, 10, 0)),
            (5, exclusive(7, ONE, 15, 0)),
            (12, exclusive(8, TWO, 20, 0)),
        ];
        assert!(matches!(check(&events), Err(Violation::TwoHolders { .. })));
    }

    #[test]
    fn a_token_that_does_not_rise_is_found() {
        let events = [
            (1, exclusive(7, TWO, 10, 0)),
            (20, exclusive(8, ONE, 30, 0)),
        ];
        let violation = Violation::TokenFell {
            before: TWO,
            token: ONE,
        };
        assert_eq!(check(&events), Err(violation));
        let again = [
            (1, exclusive(7, ONE, 10, 0)),
            (20, exclusive(8, ONE, 30, 0)),
        ];
        assert!(matches!(check(&again), Err(Violation::TokenFell { .. })));
    }

    #[test]
    fn a_write_behind_the_next_holder_is_found() {
        let wrote = |lsn| Event::Wrote {
            token: ONE,
            lsn: Lsn(lsn),
        };
        let events = |lsn| {
            [
                (1, exclusive(7, ONE, 10, 3)),
                (12, exclusive(8, TWO, 20, 5)),
                (13, wrote(lsn)),
            ]
        };
        assert_eq!(check(&events(5)), Ok(()), "the next holder has seen it");
        let violation = Violation::StaleWrite {
            token: ONE,
            lsn: Lsn(6),
            later: (TWO, Lsn(5)),
        };
        assert_eq!(check(&events(6)), Err(violation));
    }
}

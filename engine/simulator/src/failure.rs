//! A broken invariant: what was broken, where, and the one command that shows it again.

use crate::options::Options;
use std::{
    cell::{Cell, RefCell},
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

/// A run that broke an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The options.
    pub options: Options,
    /// The words of the assertion.
    pub reason: String,
    /// Where it stands in the source.
    pub place: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {} ({})", self.seed, self.reason, self.place)?;
        write!(
            f,
            "replay: cargo run --release --locked -p mailring-simulator --bin simulate -- --seed {}{} --trace",
            self.seed, self.options
        )
    }
}

thread_local! {
    /// Whether a panic of this thread is caught and told in other words.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs it; a panic comes back as its words and its place, and is not printed.
pub(crate) fn catch<T>(body: impl FnOnce() -> T) -> Result<T, (String, String)> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_CAUGHT.get() {
                let place = info.location().map(ToString::to_string);
                PLACE.replace(place.unwrap_or_default());
            } else {
                usual(info);
            }
        }));
    });
    let before = IS_CAUGHT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    IS_CAUGHT.set(before);
    outcome.map_err(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned());
        (words, PLACE.take())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_with_its_place() {
        let caught = catch(|| -> () { panic!("{} is broken", "this") });
        let (words, place) = caught.unwrap_err();
        assert_eq!(words, "this is broken");
        assert!(place.contains("failure.rs"), "{place}");
        assert_eq!(catch(|| 3), Ok(3));
    }

    #[test]
    fn a_failure_says_how_to_replay_it() {
        let failure = Failure {
            seed: 17,
            options: Options {
                steps: Some(40),
                ..Options::default()
            },
            reason: "it broke".into(),
            place: "x.rs:1:1".into(),
        };
        let text = failure.to_string();
        assert!(text.starts_with("seed 17: it broke (x.rs:1:1)\nreplay: cargo run"));
        assert!(text.ends_with("simulate -- --seed 17 --steps 40 --trace"));
    }
}

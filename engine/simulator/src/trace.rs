//! What has happened, as one number, and on demand as a text that can be read.
//!
//! The number is mixed from every step, so two runs with one number have gone the same way. The text names each message
//! with its sender and receiver, each fault, and each answer.

use std::fmt::{self, Write as _};

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    /// Kept only on demand: it is long.
    text: Option<String>,
}

/// Longer lines are cut: what they lack is in the payloads.
const LINE_BYTES: usize = 600;

impl Trace {
    /// An empty trace; `is_readable` says whether the text is kept.
    #[must_use]
    pub fn new(is_readable: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            text: is_readable.then(String::new),
        }
    }

    /// Mixes a number in.
    pub fn note(&mut self, what: u64) {
        self.hash = (self.hash ^ what).wrapping_mul(0x0100_0000_01b3);
        self.hash ^= self.hash >> 29;
    }

    /// Adds a line to the text, if it is kept.
    pub fn line(&mut self, line: fmt::Arguments<'_>) {
        if let Some(text) = &mut self.text {
            let start = text.len();
            // Writing to a string does not fail.
            let _ = writeln!(text, "{line}");
            if text.len() > start + LINE_BYTES {
                let end = text.floor_char_boundary(start + LINE_BYTES);
                text.truncate(end);
                text.push_str(" …\n");
            }
        }
    }

    /// Whether lines are kept, so that making them is worth the time.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.text.is_some()
    }

    /// The number of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Takes the text.
    pub fn take_text(&mut self) -> String {
        self.text.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_what_happened_changes_the_number() {
        let number = |steps: &[u64]| {
            let mut trace = Trace::new(false);
            steps.iter().for_each(|step| trace.note(*step));
            trace.hash()
        };
        assert_eq!(number(&[1, 2]), number(&[1, 2]));
        assert_ne!(number(&[1, 2]), number(&[2, 1]));
    }

    #[test]
    fn long_lines_are_cut() {
        let mut trace = Trace::new(true);
        trace.line(format_args!("{}", "é".repeat(LINE_BYTES)));
        trace.line(format_args!("short"));
        let text = trace.take_text();
        assert!(text.ends_with(" …\nshort\n") && text.len() < LINE_BYTES + 20);
    }
}

//! Lines of a source, with a bound on their length, and the position after each.

use crate::position::Position;
use std::io::{self, BufRead, ErrorKind};
use xxhash_rust::xxh3::Xxh3;

/// What kind of line was read into the buffer. An end of line is never in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// It was longer than the limit; its end was looked for and its bytes were not kept.
    pub(crate) too_long: bool,
    /// It has a line end. Only the last line of a source can lack one; it may be longer another time.
    pub(crate) ended: bool,
}

/// Reads lines and hashes every byte it has passed. Memory is bounded by the longest line allowed.
pub(crate) struct Lines<R> {
    reader: R,
    longest: usize,
    hash: Xxh3,
    offset: u64,
    number: u64,
}

/// Why the reading can't go on at a stored position.
#[derive(Debug)]
pub(crate) enum NotTheSource {
    /// The source ends before the position.
    Shorter { bytes: u64 },
    /// The bytes before the position are not those that were imported.
    Different,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R, longest: usize) -> Self {
        Self {
            reader,
            longest,
            hash: Xxh3::new(),
            offset: 0,
            number: 0,
        }
    }

    /// Passes what an earlier run has imported, and checks that it is that.
    pub(crate) fn pass(&mut self, position: &Position) -> io::Result<Result<(), NotTheSource>> {
        while self.offset < position.offset {
            let left = usize::try_from(position.offset - self.offset).unwrap_or(usize::MAX);
            let length = match self.fill()? {
                0 => return Ok(Err(NotTheSource::Shorter { bytes: self.offset })),
                length => length.min(left),
            };
            self.take(length, |_| {})?;
        }
        self.number = position.lines;
        Ok(if self.hash.digest() == position.fingerprint {
            Ok(())
        } else {
            Err(NotTheSource::Different)
        })
    }

    /// Reads the next line into `line`; `None` at the end of the source.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Option<Line>> {
        line.clear();
        let start = self.offset;
        let mut too_long = false;
        let mut ended = false;
        while !ended {
            let length = self.fill()?;
            if length == 0 {
                break;
            }
            let end = self
                .reader
                .fill_buf()?
                .iter()
                .position(|byte| *byte == b'\n');
            ended = end.is_some();
            // A line end is up to two bytes.
            let most = self.longest + 2;
            self.take(end.map_or(length, |end| end + 1), |chunk| {
                too_long |= line.len() + chunk.len() > most;
                if too_long {
                    line.clear();
                } else {
                    line.extend_from_slice(chunk);
                }
            })?;
        }
        if self.offset == start {
            return Ok(None);
        }
        self.number += 1;
        if ended && line.pop().is_some() && line.last() == Some(&b'\r') {
            line.pop();
        }
        too_long |= line.len() > self.longest;
        Ok(Some(Line { too_long, ended }))
    }

    /// The place after the line that was read last, with its line end.
    pub(crate) fn position(&self) -> Position {
        Position {
            offset: self.offset,
            fingerprint: self.hash.digest(),
            lines: self.number,
            ..Position::default()
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        loop {
            match self.reader.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome.map(<[u8]>::len),
            }
        }
    }

    /// Consumes `length` bytes that are buffered already.
    fn take(&mut self, length: usize, with: impl FnOnce(&[u8])) -> io::Result<()> {
        let chunk = &self.reader.fill_buf()?[..length];
        self.hash.update(chunk);
        with(chunk);
        self.reader.consume(length);
        self.offset += length as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn read(source: &[u8], buffer: usize, longest: usize) -> Vec<(bool, bool, Vec<u8>)> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, source), longest);
        let mut line = Vec::new();
        let mut all = Vec::new();
        while let Some(Line { too_long, ended }) = lines.next(&mut line).unwrap() {
            all.push((too_long, ended, line.clone()));
        }
        all
    }

    #[test]
    fn lines_are_the_same_whatever_the_buffer() {
        for buffer in 1..9 {
            let whole = |text: &[u8], ended| (false, ended, text.to_vec());
            let expected = [
                whole(b"a", true),
                whole(b"", true),
                whole(b"bcd", true),
                whole(b"e", false),
            ];
            assert_eq!(read(b"a\n\nbcd\r\ne", buffer, 3), expected, "{buffer}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_skipped_and_the_next_is_read() {
        for buffer in 1..9 {
            let all = read(b"abcd\nabc\nabcdefghijk\nabc\r\nx", buffer, 3);
            let too_long: Vec<_> = all.iter().map(|line| line.0).collect();
            assert_eq!(too_long, [true, false, true, false, false], "{buffer}");
            assert_eq!(all[3].2, b"abc");
        }
    }

    #[test]
    fn every_position_is_found_again_and_only_in_the_same_source() {
        let source = b"one\ntwo\nthree\nunended";
        let mut lines = Lines::new(&source[..], 100);
        let mut line = Vec::new();
        let mut positions = vec![lines.position()];
        while lines.next(&mut line).unwrap().is_some() {
            positions.push(lines.position());
        }
        let offsets: Vec<_> = positions.iter().map(|p| (p.offset, p.lines)).collect();
        assert_eq!(offsets, [(0, 0), (4, 1), (8, 2), (14, 3), (21, 4)]);
        for position in &positions {
            let mut again = Lines::new(&source[..], 100);
            assert!(again.pass(position).unwrap().is_ok());
            assert_eq!(again.position(), *position);
        }
        let last = &positions[3];
        let mut other = Lines::new(&b"One\ntwo\nthree\n"[..], 100);
        assert!(matches!(
            other.pass(last).unwrap(),
            Err(NotTheSource::Different)
        ));
        let mut short = Lines::new(&b"one\n"[..], 100);
        assert!(matches!(
            short.pass(last).unwrap(),
            Err(NotTheSource::Shorter { bytes: 4 })
        ));
    }
}

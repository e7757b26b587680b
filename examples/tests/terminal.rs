//! `elastic` on a terminal: what somebody who watches it sees, and what is left behind. The terminal is that of `script` (of
//! util-linux), and what a program writes to it is drawn on a screen here.

use std::{
    collections::VecDeque,
    env, fs,
    io::{self, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Set where nothing must be skipped.
const DEMAND: &str = "MAILRING_DEMAND_FAULTS";

const COLUMNS: usize = 120;

/// What a terminal shows, as far as the view makes use of it: text, and the cursor moving up and to the left.
struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    is_wrapping: bool,
    is_cursor_hidden: bool,
}

impl Screen {
    fn new() -> Self {
        Self {
            rows: vec![Vec::new()],
            row: 0,
            column: 0,
            is_wrapping: true,
            is_cursor_hidden: false,
        }
    }

    fn put(&mut self, letter: char) {
        if self.column == COLUMNS {
            match self.is_wrapping {
                true => {
                    self.go_to_row(self.row + 1);
                    self.column = 0;
                }
                false => self.column -= 1,
            }
        }
        let row = &mut self.rows[self.row];
        if row.len() <= self.column {
            row.resize(self.column + 1, ' ');
        }
        row[self.column] = letter;
        self.column += 1;
    }

    fn go_to_row(&mut self, row: usize) {
        self.row = row;
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
    }

    /// Carries out what stands between the escape and its letter.
    fn escape(&mut self, parameter: &str, letter: char) {
        let count = parameter.parse().unwrap_or(1);
        match (parameter, letter) {
            (_, 'A') => self.go_to_row(self.row.saturating_sub(count)),
            ("0", 'J') => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].truncate(self.column);
            }
            ("?7", 'l' | 'h') => self.is_wrapping = letter == 'h',
            ("?25", 'l' | 'h') => self.is_cursor_hidden = letter == 'l',
            _ => panic!("this screen does not know escape [{parameter}{letter}"),
        }
    }

    /// Draws what was written, and shows the screen to `look` whenever the cursor moves on to draw another frame.
    fn draw(&mut self, written: &str, mut look: impl FnMut(&str)) {
        let mut letters = written.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\r' => self.column = 0,
                '\n' => self.go_to_row(self.row + 1),
                '\x1b' => {
                    assert_eq!(letters.next(), Some('['), "an escape of another kind");
                    let is_parameter = |letter: &char| !letter.is_ascii_alphabetic();
                    let rest = letters.as_str();
                    let parameter: String = rest.chars().take_while(is_parameter).collect();
                    let last = letters.nth(parameter.len()).expect("it is whole");
                    if last == 'A' {
                        look(&self.text());
                    }
                    self.escape(&parameter, last);
                }
                letter => self.put(letter),
            }
        }
    }

    /// Nothing is different for whoever writes next.
    fn assert_restored(&self) {
        assert_eq!(self.column, 0, "he begins a line");
        assert!(self.is_wrapping && !self.is_cursor_hidden);
    }

    fn text(&self) -> String {
        let rows = self.rows.iter().map(|row| row.iter().collect::<String>());
        let rows: Vec<_> = rows.map(|row| row.trim_end().to_owned()).collect();
        rows.join("\n").trim_end().to_owned()
    }
}

/// Starts `elastic` on a terminal. Where there is none to be had this says why, and is `None`.
///
/// # Panics
///
/// Panics instead if `MAILRING_DEMAND_FAULTS` is set, as it is in CI.
fn start(temporary: &Path) -> Option<Child> {
    let elastic = env!("CARGO_BIN_EXE_elastic");
    let plan = "--seconds 1 --accounts 2000 --clients 16";
    let command = format!("stty cols {COLUMNS} rows 40 && exec {elastic} {plan}");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    script.env("TMPDIR", temporary).env("TERM", "xterm");
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    match script.spawn() {
        Ok(started) => Some(started),
        Err(error) => {
            let reason = format!("util-linux's script can't be run: {error}");
            assert!(
                env::var_os(DEMAND).is_none(),
                "{DEMAND} is set, but {reason}"
            );
            // Past the test harness, which would show it only if the test failed.
            let _ = writeln!(io::stderr(), "SKIPPED: no terminal: {reason}");
            None
        }
    }
}

/// Reads what is written up to where `is_enough`, or to the end.
fn read(child: &mut Child, is_enough: impl Fn(&str) -> bool) -> String {
    let output = child.stdout.as_mut().expect("it is piped");
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let read = output.read(&mut part).expect("it can be read");
        bytes.extend_from_slice(&part[..read]);
        let whole = String::from_utf8_lossy(&bytes);
        if read == 0 || is_enough(&whole) {
            return whole.into_owned();
        }
    }
}

/// Whether a frame has the step, and a line for each of so many nodes with its share as a bar and its load.
fn shows(frame: &str, step: &str, nodes: usize) -> bool {
    let is_head = |line: &str| {
        let is_figures = line.contains(" transfers/s, p99 ") && line.contains(" ms");
        line.contains(step) && is_figures
    };
    let is_node = |line: &&str| {
        let is_figures = line.contains(" % of the arcs, ") && line.ends_with(" writes/s");
        line.trim_start().starts_with("node ") && line.contains('█') && is_figures
    };
    frame.lines().any(is_head) && frame.lines().filter(is_node).count() == nodes
}

#[test]
fn a_terminal_shows_the_ring_live_and_is_as_before_when_it_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let Some(mut elastic) = start(temporary.path()) else {
        return;
    };
    let written = read(&mut elastic, |_| false);
    let status = elastic.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{written}");
    // One after the other.
    let mut expected = VecDeque::from([
        ("four nodes  ", 4),
        ("a node is added  ", 5),
        ("the clients go on  ", 5),
        ("another one is added  ", 6),
        ("node 0 weighs double  ", 6),
        ("node 1 is removed  ", 5),
        ("node 2 panics  ", 5),
        ("the clients go on  ", 4),
    ]);
    let (mut moved, mut screen) = (0, Screen::new());
    screen.draw(&written, |frame| {
        moved += usize::from(frame.contains("Done ") && frame.contains(" arcs, "));
        if expected
            .front()
            .is_some_and(|(step, nodes)| shows(frame, step, *nodes))
        {
            expected.pop_front();
        }
    });
    assert!(expected.is_empty(), "{expected:?} in {written}");
    assert!(moved >= 4, "each change is shown to its end: {moved}");
    let left = screen.text();
    assert!(left.starts_with("step "), "{left}");
    assert!(
        left.ends_with("total: all the money of 2000 accounts is there"),
        "{left}"
    );
    assert!(!left.contains(['█', '░']), "{left}");
    screen.assert_restored();
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn ctrl_c_leaves_the_terminal_and_the_disk_as_they_were() {
    let temporary = tempfile::tempdir().unwrap();
    let Some(mut elastic) = start(temporary.path()) else {
        return;
    };
    let mut written = read(&mut elastic, |written| written.contains(" writes/s"));
    // The terminal makes SIGINT of it.
    let mut keyboard = elastic.stdin.take().expect("it is piped");
    keyboard.write_all(b"\x03").unwrap();
    written += &read(&mut elastic, |_| false);
    let status = elastic.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{written}");
    let mut screen = Screen::new();
    screen.draw(&written, |_| {});
    let left = screen.text().replace("^C", "");
    assert_eq!(left, "elastic: interrupted before everything was checked");
    screen.assert_restored();
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

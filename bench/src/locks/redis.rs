//! Redis as a lock service, as its documentation says: `SET name token NX PX lease` takes a lock, and a script that
//! compares the token and deletes gives it back. A private server is started from the `PATH`, without persistence, on a
//! Unix socket in the subject's directory; each client is a thread with a connection of its own. It waits for the answer of an
//! unlock, or else (`redis-pipelined`) sends it and reads the answer with that of its next lock.
//!
//! The protocol is RESP 2, of which four kinds of answers occur here.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{LockClient, LockService};
use crate::subject::Style;
use crate::{Fault, Result};

/// How long a lock is held at most, in milliseconds.
const LEASE_MS: &str = "10000";

/// How long the server may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Deletes the lock if the token is still the caller's.
const UNLOCK: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

/// The name of the server's program.
const PROGRAM: &str = "redis-server";

/// Whether a server can be started.
pub(crate) fn is_installed() -> bool {
    let mut probe = Command::new(PROGRAM);
    let probe = probe.arg("--version").stdout(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// A private server, killed with the last clone.
#[derive(Clone)]
pub(crate) struct Redis {
    server: Arc<Server>,
    is_pipelined: bool,
}

struct Server {
    process: Child,
    socket: PathBuf,
    unlock: String,
    tokens: AtomicU64,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to save.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    /// Starts a server in this directory.
    ///
    /// # Errors
    ///
    /// If there is no such program, or it does not answer.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        if !is_installed() {
            return Err(Fault::from(format!(
                "{PROGRAM} is not in the PATH: install it, or leave redis out of the peers"
            )));
        }
        let socket = dir.join("redis.sock");
        let process = Command::new(PROGRAM)
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(dir)
            .stdout(Stdio::null())
            .spawn()?;
        let mut server = Server {
            process,
            socket,
            unlock: String::new(),
            tokens: AtomicU64::new(0),
        };
        let began = Instant::now();
        let mut connection = loop {
            match Connection::open(&server.socket) {
                Ok(connection) => break connection,
                Err(_) if began.elapsed() < PATIENCE => {
                    if let Some(status) = server.process.try_wait()? {
                        return Err(Fault::from(format!("{PROGRAM} ended: {status}")));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(fault) => return Err(fault),
            }
        };
        match connection.ask(&["SCRIPT", "LOAD", UNLOCK])? {
            Answer::Text(digest) => server.unlock = digest,
            other => return Err(Fault::from(format!("SCRIPT LOAD answered {other:?}"))),
        }
        Ok(Self {
            server: Arc::new(server),
            is_pipelined: false,
        })
    }

    /// Whether clients go on without the answer of an unlock, which they read with that of the next lock.
    pub(crate) fn pipelined(self, is_pipelined: bool) -> Self {
        Self {
            is_pipelined,
            ..self
        }
    }
}

impl LockService for Redis {
    const STYLE: Style = Style::Threads;
    type Client = Client;

    fn connect(&self) -> Result<Client> {
        Ok(Client {
            connection: Connection::open(&self.server.socket)?,
            server: self.server.clone(),
            is_pipelined: self.is_pipelined,
            owes_unlock: false,
        })
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

/// A client with its connection.
pub(crate) struct Client {
    connection: Connection,
    server: Arc<Server>,
    is_pipelined: bool,
    /// The answer of an unlock has not been read yet.
    owes_unlock: bool,
}

impl Client {
    /// Reads the answer of an unlock.
    fn unlocked(&mut self) -> Result<()> {
        self.owes_unlock = false;
        match self.connection.answer()? {
            Answer::Number(1) => Ok(()),
            other => Err(Fault::from(format!("the lock was lost: {other:?}"))),
        }
    }
}

/// A lock that is held.
pub(crate) struct Held {
    name: String,
    token: String,
}

impl LockClient for Client {
    type Held = Held;

    async fn lock(&mut self, name: &str) -> Result<Option<Held>> {
        let token = self
            .server
            .tokens
            .fetch_add(1, Ordering::Relaxed)
            .to_string();
        let request = ["SET", name, &token, "NX", "PX", LEASE_MS];
        self.connection.send(&request)?;
        if self.owes_unlock {
            self.unlocked()?;
        }
        match self.connection.answer()? {
            Answer::Text(_) => Ok(Some(Held {
                name: name.to_owned(),
                token,
            })),
            Answer::Nothing => Ok(None),
            Answer::Number(_) => Err(Fault::from("SET answered a number")),
        }
    }

    async fn unlock(&mut self, held: Held) -> Result<()> {
        let request = ["EVALSHA", &self.server.unlock, "1", &held.name, &held.token];
        self.connection.send(&request)?;
        self.owes_unlock = true;
        match self.is_pipelined {
            true => Ok(()),
            false => self.unlocked(),
        }
    }
}

/// What the server answers.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// A status or a string.
    Text(String),
    /// An integer.
    Number(i64),
    /// The absent string.
    Nothing,
}

struct Connection {
    stream: BufReader<UnixStream>,
    request: Vec<u8>,
}

impl Connection {
    fn open(socket: &Path) -> Result<Self> {
        Ok(Self {
            stream: BufReader::new(UnixStream::connect(socket)?),
            request: Vec::new(),
        })
    }

    fn ask(&mut self, words: &[&str]) -> Result<Answer> {
        self.send(words)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer> {
        answer(&mut self.stream)
    }

    fn send(&mut self, words: &[&str]) -> Result<()> {
        self.request.clear();
        write!(self.request, "*{}\r\n", words.len())?;
        for word in words {
            write!(self.request, "${}\r\n{word}\r\n", word.len())?;
        }
        Ok(self.stream.get_mut().write_all(&self.request)?)
    }
}

/// Reads one answer.
fn answer(stream: &mut impl BufRead) -> Result<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let Some(line) = line.strip_suffix("\r\n").filter(|line| !line.is_empty()) else {
        return Err(Fault::from("redis closed the connection"));
    };
    let (kind, rest) = line.split_at(1);
    match kind {
        "+" => Ok(Answer::Text(rest.to_owned())),
        ":" => Ok(Answer::Number(rest.parse()?)),
        "$" if rest == "-1" => Ok(Answer::Nothing),
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>()? + 2];
            stream.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Ok(Answer::Text(String::from_utf8(bytes)?))
        }
        _ => Err(Fault::from(format!("redis: {line}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_answer_is_understood_and_errors_are_told() {
        let parse = |text: &str| answer(&mut BufReader::new(text.as_bytes()));
        let text = |text: &str| Answer::Text(text.to_owned());
        assert_eq!(parse("+OK\r\n").unwrap(), text("OK"));
        assert_eq!(parse("$3\r\na\r\n\r\n").unwrap(), text("a\r\n"));
        assert_eq!(parse(":-7\r\n").unwrap(), Answer::Number(-7));
        assert_eq!(parse("$-1\r\n").unwrap(), Answer::Nothing);
        let error = parse("-NOSCRIPT gone\r\n").unwrap_err();
        assert_eq!(error.to_string(), "redis: -NOSCRIPT gone");
        for cut in ["", "$3\r\na", "+OK"] {
            assert!(parse(cut).is_err(), "{cut:?}");
        }
    }
}

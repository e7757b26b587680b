//! The service as a process of its own, and a client that speaks HTTP to it.

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, copy, sink},
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

/// For whatever is due at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running service. It does not outlive the test, however that ends.
pub(crate) struct Service {
    process: Child,
    /// Ends when the process does.
    stdout: Option<BufReader<ChildStdout>>,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
}

impl Service {
    /// Starts it on a port that is free, and returns when it listens.
    pub(crate) fn start(directory: &Path, flags: &[&str]) -> Self {
        let mut process = command(directory, flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("booking: http://");
        let address = address.and_then(|rest| rest.split_once(','));
        let (address, _) = address.unwrap_or_else(|| panic!("it does not start: {line:?}"));
        Self {
            process,
            stdout: Some(stdout),
            address: address.to_owned(),
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn send(&self, signal: &str) {
        // Every shell has it built in; the program of this name is not everywhere.
        let kill = format!("kill -s {signal} {}", self.process.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.unwrap().success());
    }

    /// How it ends by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        let mut stdout = self.stdout.take().expect("only this takes it");
        let (sender, end) = channel();
        thread::spawn(move || {
            // Who has lost his patience does not listen any more.
            let _ = sender.send(copy(&mut stdout, &mut sink()));
        });
        end.recv_timeout(PATIENCE)
            .expect("it ends")
            .expect("a pipe can be read");
        self.process.wait().unwrap()
    }

    /// Asked to end, it ends in peace.
    pub(crate) fn stop(self) {
        self.send("TERM");
        let status = self.ended();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a start comes to that must fail.
pub(crate) fn start_in_vain(directory: &Path, flags: &[&str]) -> Output {
    command(directory, flags).output().unwrap()
}

fn command(directory: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_booking"));
    command.arg("--dir").arg(directory);
    command.args(["--listen", "127.0.0.1:0"]).args(flags);
    command
}

/// An answer, its body as JSON if it is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) text: String,
    pub(crate) is_replayed: bool,
    pub(crate) retry_after: Option<String>,
}

impl Answer {
    /// The code of a refusal.
    pub(crate) fn error(&self) -> (u16, &str) {
        (self.status, self.body["error"].as_str().unwrap_or_default())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    address: String,
}

impl Client {
    pub(crate) fn new(address: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            .build();
        Self {
            agent: config.into(),
            address: address.to_owned(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap()
    }

    pub(crate) fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        read(self.agent.get(self.url(path)).call()?)
    }

    /// A request without a body.
    pub(crate) fn try_post(&self, path: &str) -> Result<Answer, ureq::Error> {
        read(self.agent.post(self.url(path)).send_empty()?)
    }

    pub(crate) fn post(&self, path: &str) -> Answer {
        self.try_post(path).unwrap()
    }

    /// With headers and a body of the caller's making.
    pub(crate) fn post_raw(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let request = self.agent.post(self.url(path));
        let with = |request: ureq::RequestBuilder<_>, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        let request = headers.iter().fold(request, with);
        read(request.send(body).unwrap()).unwrap()
    }

    pub(crate) fn try_reserve(
        &self,
        key: &str,
        customer: &str,
        seats: &[u32],
    ) -> Result<Answer, ureq::Error> {
        let wish = json!({"customer": customer, "seats": seats}).to_string();
        let request = self.agent.post(self.url("/reservations"));
        let request = request.header("Idempotency-Key", key);
        read(request.content_type("application/json").send(wish)?)
    }

    pub(crate) fn reserve(&self, key: &str, customer: &str, seats: &[u32]) -> Answer {
        self.try_reserve(key, customer, seats).unwrap()
    }

    /// The number of a reservation that must succeed.
    pub(crate) fn reserved(&self, key: &str, customer: &str, seats: &[u32]) -> String {
        let answer = self.reserve(key, customer, seats);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// The seats in this state, of at most 1,000.
    pub(crate) fn seats(&self, state: &str) -> Vec<u32> {
        let answer = self.get(&format!("/seats?limit=1000&state={state}"));
        assert_eq!((answer.status, &answer.body["next"]), (200, &Value::Null));
        let seats = answer.body["seats"].as_array().unwrap().iter();
        seats
            .map(|seat| u32::try_from(seat["seat"].as_u64().unwrap()).unwrap())
            .collect()
    }

    pub(crate) fn state_of(&self, id: &str) -> String {
        let answer = self.get(&format!("/reservations/{id}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["state"].as_str().unwrap().to_owned()
    }

    /// Asks until it is so: nobody tells a client when a sweeper has been there.
    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < until, "not so: {what}");
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn read(response: ureq::http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
    let (head, mut body) = response.into_parts();
    let text = body.read_to_string()?;
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    Ok(Answer {
        status: head.status.as_u16(),
        body: serde_json::from_str(&text).unwrap_or_default(),
        text,
        is_replayed: header("idempotency-replayed") == Some("true"),
        retry_after: header("retry-after").map(str::to_owned),
    })
}

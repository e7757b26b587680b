//! Why a command ended without its result: words for stderr, and the exit code.

use std::process::ExitCode;

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) code: ExitCode,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: ExitCode::FAILURE,
        }
    }

    /// Flags that can't go together; clap itself finds most wrong uses.
    pub(crate) fn wrong_use(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: ExitCode::from(2),
        }
    }
}

impl From<mailring::Error> for Failure {
    fn from(error: mailring::Error) -> Self {
        Self::new(error.to_string())
    }
}

//! How far the import of a source has come. Kept in a keyspace of its own, one key for each keyspace and source.

use crate::failure::Failure;
use mailring::{BlockingKeyspace, Mailring};
use serde_json::{Value, json};

/// The keyspace of the positions.
pub(crate) const POSITIONS: &str = "import-positions";

/// A place between two lines of a source, and what came before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Bytes before it.
    pub(crate) offset: u64,
    /// XXH3 of these bytes.
    pub(crate) fingerprint: u64,
    /// Lines before it.
    pub(crate) lines: u64,
    /// Records put from them.
    pub(crate) records: u64,
    /// Bad lines among them.
    pub(crate) left_out: u64,
}

/// Where the position of one import is stored.
pub(crate) struct Bookmark {
    positions: BlockingKeyspace,
    key: String,
    /// How lines become records. Going on with other settings would mix two imports.
    settings: String,
}

impl Bookmark {
    pub(crate) fn open(
        db: &Mailring,
        keyspace: &str,
        source: &str,
        settings: String,
    ) -> Result<Self, Failure> {
        if keyspace == POSITIONS {
            return Err(Failure::wrong_use(format!(
                "the keyspace {POSITIONS:?} holds the positions of imports; choose another"
            )));
        }
        Ok(Self {
            positions: db.blocking().keyspace(POSITIONS)?,
            key: format!("{keyspace} from {source}"),
            settings,
        })
    }

    /// The stored position; none if this import has never stored one.
    pub(crate) fn load(&self) -> Result<Option<Position>, Failure> {
        let Some(stored) = self.positions.get(&self.key)? else {
            return Ok(None);
        };
        let stored: Value = serde_json::from_slice(&stored).unwrap_or_default();
        let number = |name: &str| stored[name].as_u64();
        let position = || {
            Some(Position {
                offset: number("offset")?,
                fingerprint: number("fingerprint")?,
                lines: number("lines")?,
                records: number("records")?,
                left_out: number("left_out")?,
            })
        };
        let Some(position) = position() else {
            return Err(Failure::new(format!(
                "the stored position of {:?} can't be read: {stored}; begin again with --restart",
                self.key
            )));
        };
        let (begun, now) = (stored["settings"].as_str().unwrap_or("?"), &self.settings);
        if begun != now {
            return Err(Failure::new(format!(
                "this import was begun with `{begun}`, not `{now}`; use the same flags, or begin again with --restart"
            )));
        }
        Ok(Some(position))
    }

    pub(crate) fn store(&self, position: &Position) -> mailring::Result<()> {
        let value = json!({
            "offset": position.offset,
            "fingerprint": position.fingerprint,
            "lines": position.lines,
            "records": position.records,
            "left_out": position.left_out,
            "settings": self.settings,
        });
        self.positions.put(&self.key, value.to_string()).map(|_| ())
    }

    pub(crate) fn forget(&self) -> mailring::Result<()> {
        self.positions.delete(&self.key).map(|_| ())
    }
}

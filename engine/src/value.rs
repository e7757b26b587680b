//! Keys, values and writes as the nodes, the journal and the stores see them.

use crate::{ids::KeyspaceId, packed};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest key a caller may use, in bytes (60 KiB). The tree under a node takes 65,535 with our prefix.
pub const MAX_KEY_BYTES: usize = 60 * 1024;
/// Longest value, in bytes (16 MiB).
pub const MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes that [`qualify`] puts before a caller's key.
pub const KEYSPACE_PREFIX_BYTES: usize = 4;

/// A caller's key with the keyspace's number (big endian) before it, so that one ordered table serves all
/// keyspaces of a node and the keys of a keyspace stand together in their own order.
#[must_use]
pub fn qualify(keyspace: KeyspaceId, key: &[u8]) -> Bytes {
    packed::concat([&keyspace.0.to_be_bytes(), key, &[]])
}

/// The keyspace and the caller's key of a qualified key.
///
/// # Panics
///
/// Panics if `qualified` was not made by [`qualify`].
#[must_use]
pub fn split_qualified(qualified: &[u8]) -> (KeyspaceId, &[u8]) {
    let (prefix, key) = qualified
        .split_first_chunk::<KEYSPACE_PREFIX_BYTES>()
        .expect("a qualified key starts with its keyspace");
    (KeyspaceId(u32::from_be_bytes(*prefix)), key)
}

/// A qualified key as an error message shows it: the caller's part, escaped, and shortened where it is long.
#[must_use]
pub fn printable(qualified: &[u8]) -> String {
    const SHOWN_BYTES: usize = 64;
    let key = qualified
        .split_first_chunk::<KEYSPACE_PREFIX_BYTES>()
        .map_or(qualified, |(_, key)| key);
    let shown = key[..key.len().min(SHOWN_BYTES)].escape_ascii();
    let more = if key.len() > SHOWN_BYTES { "…" } else { "" };
    format!("\"{shown}\"{more}")
}

/// A value and the moment it stops being visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The caller's bytes.
    pub bytes: Bytes,
    /// Milliseconds since the Unix epoch at which the value expires; 0 is never.
    pub expires_at_ms: u64,
}

impl Value {
    /// A value that never expires.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self {
            bytes,
            expires_at_ms: 0,
        }
    }

    /// Whether the value has expired at `now_ms` (milliseconds since the Unix epoch).
    #[must_use]
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }

    /// The stored form: `0x00` and the bytes, or `0x01`, the expiry (u64, little endian) and the bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut stored = BytesMut::with_capacity(9 + self.bytes.len());
        if self.expires_at_ms == 0 {
            stored.put_u8(0);
        } else {
            stored.put_u8(1);
            stored.put_u64_le(self.expires_at_ms);
        }
        stored.put_slice(&self.bytes);
        stored.freeze()
    }

    /// Reads what [`Value::encode`] wrote; `None` if the bytes can't be such a form. Takes the bytes, so
    /// that reading costs neither a copy nor a count.
    #[must_use]
    pub fn decode(mut stored: Bytes) -> Option<Self> {
        match stored.first()? {
            0 => {
                stored.advance(1);
                Some(Self::new(stored))
            }
            1 => {
                let expiry = stored.get(1..9)?.try_into().expect("eight bytes");
                stored.advance(9);
                Some(Self {
                    bytes: stored,
                    expires_at_ms: u64::from_le_bytes(expiry),
                })
            }
            _ => None,
        }
    }
}

/// One key's new state inside a commit: a value, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The qualified key.
    pub key: Bytes,
    /// The new value; `None` removes the key.
    pub value: Option<Value>,
}

impl Write {
    /// The new state of a caller's key: a value with its expiry (0 is never), or its removal. Copies both into one
    /// buffer, so that the many clones on the way of a write cost a count and no allocation.
    #[must_use]
    pub fn new(keyspace: KeyspaceId, key: &[u8], value: Option<(&[u8], u64)>) -> Self {
        let value_bytes = value.map_or(&[][..], |(bytes, _)| bytes);
        let key_len = KEYSPACE_PREFIX_BYTES + key.len();
        let mut bytes = packed::concat([&keyspace.0.to_be_bytes(), key, value_bytes]);
        let key = bytes.split_to(key_len);
        Self {
            key,
            value: value.map(|(_, expires_at_ms)| Value {
                bytes,
                expires_at_ms,
            }),
        }
    }

    /// Bytes this write holds in memory, with an allowance for the table entry around it.
    #[must_use]
    pub fn weight(&self) -> usize {
        const ENTRY_BYTES: usize = 112;
        self.key.len() + self.value.as_ref().map_or(0, |v| v.bytes.len()) + ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_value_reads_back_with_and_without_expiry() {
        for expires_at_ms in [0, 1, u64::MAX] {
            for bytes in [&b""[..], b"v"] {
                let value = Value {
                    bytes: Bytes::copy_from_slice(bytes),
                    expires_at_ms,
                };
                assert_eq!(Value::decode(value.encode()), Some(value));
            }
        }
    }

    #[test]
    fn foreign_bytes_are_not_a_value() {
        for foreign in [&b""[..], &[2, 0], &[1, 0, 0]] {
            assert_eq!(Value::decode(Bytes::copy_from_slice(foreign)), None);
        }
    }

    #[test]
    fn a_qualified_key_splits_back() {
        let qualified = qualify(KeyspaceId(7), b"key");
        assert_eq!(split_qualified(&qualified), (KeyspaceId(7), &b"key"[..]));
    }
}

//! mailring

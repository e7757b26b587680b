//! Nodes come and go while everything is served.
//!
//! A [`World`] is an engine under writers whose every outcome is noted; after each story all that was acknowledged must be
//! there once, at the node that the ring names, and the totals must be what they were.

#[path = "../common/mod.rs"]
mod common;

mod carried;
mod crashes;
mod failures;
mod serving;
mod settings;
mod taken_over;
mod world;

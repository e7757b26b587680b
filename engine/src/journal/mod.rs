//! The journal: the order of all commits, and the only place that is forced.

pub mod record;

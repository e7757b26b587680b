//! The load generator of mailring.
fn main() {}

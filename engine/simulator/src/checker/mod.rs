//! Judges of histories. They know nothing of the engine and of the workloads: each takes what clients have done and seen,
//! and says what is wrong with it.

pub mod acknowledged;
pub mod history;
pub mod list_append;
#[cfg(test)]
mod list_append_tests;
pub mod locks;

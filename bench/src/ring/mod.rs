//! The ring under the load generator: what grows with it, and what it costs to change it.
//!
//! [`grow()`] opens the subject with 1 to 64 nodes, and with 1,000 to 10 million records, and measures the same puts and gets
//! each time; [`write_svg`] draws what came out.

mod grow;
mod plot;

pub(crate) use grow::grow;
pub(crate) use plot::write_svg;

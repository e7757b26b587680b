//! The ring under the load generator: what grows with it, and what it costs to change it.
//!
//! [`grow()`] opens the subject with 1 to 64 nodes, and with 1,000 to 10 million records (or as many as `--records` says), and
//! measures the same gets and puts each time; [`resize()`] changes the ring under clients that go on. [`write_svg`] and [`write_resize_svg`] draw what came out.

mod grow;
mod plot;
mod resize;

pub(crate) use grow::grow;
pub(crate) use plot::{write_resize_svg, write_svg};
pub(crate) use resize::resize;

//! What `cargo fuzz run TARGET` gives its bytes to: the checks that `engine/tests/fuzz` makes of fixed inputs.
//!
//! | target | bytes are |
//! |---|---|
//! | `records` | the payload of a group of the journal |
//! | `values` | a stored value |
//! | `manifest` | the manifest's file |
//! | `identity` | the file that says which directory of an engine this is |
//! | `sections` | its sections, behind a right checksum |
//! | `segment` | a segment of the journal |
//! | `journal` | a script: groups and headers with right checksums that do not fit each other |
//! | `tree` | changes of the files of a tree, some of them made good in the checksum of their block |

#[path = "../../engine/tests/fuzz/checks/mod.rs"]
mod checks;
#[allow(dead_code, reason = "the deterministic tests begin with more samples")]
#[path = "../../engine/tests/fuzz/samples.rs"]
mod samples;

use std::{cell::OnceCell, panic};

pub fn records(input: &[u8]) {
    checks::records(input);
}

pub fn values(input: &[u8]) {
    checks::values(input);
}

pub fn manifest(input: &[u8]) {
    checks::manifest(input);
}

pub fn identity(input: &[u8]) {
    checks::identity(input);
}

pub fn sections(input: &[u8]) {
    checks::sections(input);
}

pub fn segment(input: &[u8]) {
    checks::segment(input);
}

pub fn journal(input: &[u8]) {
    checks::journal(input);
}

thread_local! {
    static TREES: OnceCell<Vec<checks::Tree>> = const { OnceCell::new() };
}

/// The first byte chooses the layout of the tree.
pub fn tree(input: &[u8]) {
    let Some((first, damage)) = input.split_first() else {
        return;
    };
    TREES.with(|trees| {
        let trees = trees.get_or_init(|| {
            // libFuzzer's hook ends the process at any panic. Those of the storage library are caught and become errors;
            // one that is not caught still ends it.
            panic::set_hook(Box::new(|_| ()));
            samples::trees()
        });
        checks::tree(&trees[usize::from(*first) % trees.len()], damage);
    });
}

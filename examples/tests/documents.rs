//! What ARCHITECTURE.md and TESTING.md name is there: each test, each file, and a test in each row of the table that says
//! who dies when.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR"));
    examples.parent().expect("it is a folder of it").to_owned()
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect("it is there")
}

/// All source files: where each is, and its text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = ["engine", "actors", "bench", "examples", "fuzz"]
        .map(|part| root().join(part))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("it is text");
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Tests are named by claims, which have more words than anything else; `…` stands for the rest of one.
fn is_test(name: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_…".contains(c);
    name.chars().all(is_of_name) && name.matches('_').count() >= 3
}

#[test]
fn the_tests_and_files_that_are_named_are_there() {
    let sources = sources();
    let (mut tests, mut files) = (0, 0);
    for name in ["ARCHITECTURE.md", "TESTING.md"] {
        let text = document(name);
        for quoted in text.lines().flat_map(quoted) {
            if is_test(quoted) {
                let function = match quoted.strip_suffix('…') {
                    Some(beginning) => format!("fn {beginning}"),
                    None => format!("fn {quoted}("),
                };
                let is_there = sources.iter().any(|(_, text)| text.contains(&function));
                assert!(is_there, "{name} names {quoted}, which is nowhere");
                tests += 1;
            } else if quoted.ends_with(".rs") {
                let ending = format!("/{quoted}");
                let is_there = sources.iter().any(|(path, _)| path.ends_with(&ending));
                assert!(is_there, "{name} names {quoted}, which is no file");
                files += 1;
            }
        }
    }
    assert!(tests > 15 && files > 20, "{tests} tests, {files} files");
}

#[test]
fn each_row_of_who_dies_when_names_its_test() {
    let text = document("ARCHITECTURE.md");
    let (mut rows, mut is_inside) = (0, false);
    for line in text.lines() {
        let is_head = line.contains("| who dies |");
        is_inside = line.starts_with('|') && (is_head || is_inside);
        if !is_inside || is_head || line.starts_with("|---") {
            continue;
        }
        let shown_by = line.trim_end_matches([' ', '|']).rsplit('|').next();
        let names = quoted(shown_by.expect("a row has cells"));
        assert!(names.into_iter().any(is_test), "{line}");
        rows += 1;
    }
    assert!(rows > 20, "{rows} rows of both tables");
}

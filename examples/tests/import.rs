//! What `import` promises, shown on the program itself. `.ci/import-real-records` does it on real records.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

fn import() -> Command {
    Command::new(env!("CARGO_BIN_EXE_import"))
}

/// A place with a directory to be made, and files to import.
struct Bench(TempDir);

struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let answer = Self {
            code: output.status.code().expect("it ends by itself"),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        assert!(!answer.err.contains("panicked"), "{}", answer.err);
        answer
    }

    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }
}

impl Bench {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), content).unwrap();
    }

    /// The program, with `db` as its directory and the files in reach.
    fn command(&self, command: &str, db: &str, rest: &[&str]) -> Command {
        let mut import = import();
        import.current_dir(self.path());
        import.args([command, "--dir", db]).args(rest);
        import.stdin(Stdio::null());
        import
    }

    fn run(&self, command: &str, rest: &[&str]) -> Answer {
        Answer::of(self.command(command, "db", rest).output().unwrap())
    }

    fn dump(&self, db: &str) -> String {
        let output = self.command("prefix", db, &[""]).output().unwrap();
        Answer::of(output).expect(0).out
    }
}

#[test]
fn json_from_stdin_is_answered_by_key_prefix_and_count() {
    let bench = Bench::new();
    let mut load = bench
        .command("load", "db", &["--format", "ndjson", "--key", "id"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = load.stdin.take().unwrap();
    for line in [
        r#"{"id":"ä:1","n":1}"#,
        r#"{"id":"b:2"}"#,
        r#"{"id":"ä:3"}"#,
    ] {
        writeln!(stdin, "{line}").unwrap();
    }
    drop(stdin);
    assert!(load.wait().unwrap().success());
    let one = bench.run("get", &["ä:1"]).expect(0);
    assert_eq!(one.out, "{\"id\":\"ä:1\",\"n\":1}\n");
    assert_eq!(bench.run("get", &["ä:2"]).expect(3).out, "");
    let prefix = bench.run("prefix", &["ä"]).expect(0);
    assert_eq!(
        prefix.out,
        "ä:1\t{\"id\":\"ä:1\",\"n\":1}\nä:3\t{\"id\":\"ä:3\"}\n"
    );
    let limited = bench.run("prefix", &["ä", "--limit", "1"]).expect(0);
    assert_eq!(limited.out.lines().count(), 1);
    assert_eq!(bench.run("count", &[]).expect(0).out, "3\n");
    let stats = bench.run("stats", &[]).expect(0).out;
    assert!(stats.contains("records from stdin"), "{stats}");
}

#[test]
fn bad_lines_are_left_out_and_told_by_number() {
    let bench = Bench::new();
    bench.file("a.tsv", "k1\tv1\n\tno key\n\nk2\tv2\n\t\nk3\tv3\n");
    let load = bench.run("load", &["a.tsv"]).expect(3);
    assert!(
        load.out
            .contains("imported 3 records of 6 lines, 2 lines left out"),
        "{}",
        load.out
    );
    assert!(load.err.contains("left out line 2: the key is empty"));
    assert!(load.err.contains("left out line 5: the key is empty"));
    assert_eq!(bench.dump("db"), "k1\tv1\nk2\tv2\nk3\tv3\n");
}

#[test]
fn too_many_bad_lines_end_the_run_and_a_higher_limit_goes_on_from_there() {
    let bench = Bench::new();
    bench.file("a.ndjson", "{\"k\":1}\nbad\n{\"k\":2}\nworse\n{\"k\":3}\n");
    let load = ["--key", "k", "a.ndjson", "--max-bad", "1"];
    let first = bench.run("load", &load).expect(1);
    assert!(
        first
            .err
            .contains("more than 1 bad lines, line 4: not a JSON object"),
        "{}",
        first.err
    );
    assert_eq!(bench.run("count", &[]).out, "2\n");
    let second = bench
        .run("load", &["--key", "k", "a.ndjson", "--max-bad", "2"])
        .expect(3);
    assert!(second.err.contains("after 3 lines"), "{}", second.err);
    assert!(
        second
            .out
            .contains("imported 3 records of 5 lines, 2 lines left out")
    );
    assert_eq!(bench.run("count", &[]).out, "3\n");
}

#[test]
fn a_line_over_the_limit_is_left_out_and_the_next_is_read() {
    let bench = Bench::new();
    let long = "x".repeat(3 << 20);
    bench.file("a.tsv", format!("a\t1\nb\t{long}\nc\t3\n"));
    let load = bench.run("load", &["a.tsv", "--max-line", "1000"]);
    let load = load.expect(3);
    assert!(
        load.err
            .contains("line 2: it is longer than --max-line allows")
    );
    assert_eq!(bench.dump("db"), "a\t1\nc\t3\n");
}

#[test]
fn another_source_or_other_flags_are_refused_and_restart_begins_again() {
    let bench = Bench::new();
    bench.file("a.tsv", "k1\tv1\nk2\tv2\n");
    bench.run("load", &["a.tsv"]).expect(0);
    let flags = bench.run("load", &["a.tsv", "--key", "2"]).expect(1);
    assert!(
        flags.err.contains("begun with `--format tsv --key 1`"),
        "{}",
        flags.err
    );
    bench.file("a.tsv", "k1\tv1\nk2\tx2\nk3\tv3\n");
    let edited = bench.run("load", &["a.tsv"]).expect(1);
    assert!(edited.err.contains("its first 12 bytes"), "{}", edited.err);
    bench.file("a.tsv", "k1\tv1\n");
    let shorter = bench.run("load", &["a.tsv"]).expect(1);
    assert!(
        shorter.err.contains("it has 6 bytes, and 12"),
        "{}",
        shorter.err
    );
    assert_eq!(bench.dump("db"), "k1\tv1\nk2\tv2\n");
    bench.file("a.tsv", "k2\tx2\n");
    let again = bench.run("load", &["a.tsv", "--restart"]).expect(0);
    assert!(again.out.contains("imported 1 records of 1 lines"));
    assert_eq!(bench.dump("db"), "k1\tv1\nk2\tx2\n");
}

#[test]
fn a_source_that_has_grown_goes_on_where_it_ended_even_within_a_line() {
    let bench = Bench::new();
    bench.file("a.tsv", "k1\tv1\nk2\tv");
    let load = bench.run("load", &["a.tsv"]).expect(0);
    assert!(load.out.contains("imported 2 records of 2 lines"));
    assert_eq!(bench.dump("db"), "k1\tv1\nk2\tv\n");
    bench.file("a.tsv", "k1\tv1\nk2\tv2\nk3\tv3\n");
    let load = bench.run("load", &["a.tsv"]).expect(0);
    assert!(load.err.contains("after 1 lines, 6 bytes"), "{}", load.err);
    assert!(load.out.contains("imported 3 records of 3 lines"));
    assert_eq!(bench.dump("db"), "k1\tv1\nk2\tv2\nk3\tv3\n");
    let load = bench.run("load", &["a.tsv"]).expect(0);
    assert!(load.out.contains("imported 3 records of 3 lines"));
    assert!(load.out.contains("checked 0 of the keys of this run"));
}

#[test]
fn a_killed_import_leaves_what_an_uninterrupted_one_leaves() {
    let bench = Bench::new();
    // Keys repeat within batches and across them.
    let source: String = (0..6000)
        .map(|line| format!("key{}\tvalue {line}\n", line * 7 % 1000))
        .collect();
    bench.file("whole.tsv", &source);
    let whole = bench
        .command("load", "uninterrupted", &["whole.tsv"])
        .output();
    Answer::of(whole.unwrap()).expect(0);

    let flags = ["--format", "tsv", "--batch", "64", "--report-every", "100"];
    for part in [2000, 4000] {
        let mut load = bench
            .command("load", "db", &flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Its stdin stays open, so it can't end before the kill.
        let mut stdin = load.stdin.take().unwrap();
        let lines: Vec<_> = source.split_inclusive('\n').take(part).collect();
        let feed = lines.concat();
        let feeder = std::thread::spawn(move || {
            // It may be killed before it has read all.
            let _ = stdin.write_all(feed.as_bytes());
            stdin
        });
        // Its stderr stays open, too: it could not live on with reports that nobody can read.
        let mut reports = BufReader::new(load.stderr.take().unwrap()).lines();
        let durable = reports.by_ref().map(Result::unwrap).find_map(|report| {
            let lines = report
                .strip_prefix("progress: ")?
                .split(' ')
                .next()?
                .parse();
            lines.ok().filter(|lines: &usize| *lines >= part - 500)
        });
        assert!(durable.is_some(), "it reports what is durable");
        if part == 2000 {
            let busy = bench.run("count", &[]).expect(1);
            assert!(
                busy.err.contains("is open in another engine"),
                "{}",
                busy.err
            );
        }
        load.kill().unwrap();
        load.wait().unwrap();
        drop((feeder.join().unwrap(), reports));
    }
    let last = bench
        .command("load", "db", &flags)
        .stdin(fs::File::open(bench.path().join("whole.tsv")).unwrap())
        .output()
        .unwrap();
    let last = Answer::of(last).expect(0);
    assert!(last.err.starts_with("resuming stdin after "));
    assert!(last.out.contains("imported 6000 records of 6000 lines"));
    assert_eq!(bench.dump("db"), bench.dump("uninterrupted"));
    assert_eq!(bench.run("count", &[]).out, "1000\n");
}

#[test]
fn wrong_use_is_told_and_makes_nothing() {
    let bench = Bench::new();
    bench.file("a.txt", "k\tv\n");
    bench.file("a.ndjson", "{}\n");
    for (arguments, words) in [
        (&["a.txt"][..], "does not tell the format"),
        (&["a.ndjson"], "--key FIELD is needed"),
        (
            &["a.txt", "--format", "tsv", "--key", "0"],
            "columns count from 1",
        ),
        (&["a.txt", "--format", "tsv", "--batch", "0"], "1 to 100000"),
    ] {
        let answer = bench.run("load", arguments).expect(2);
        assert!(answer.err.contains(words), "{}", answer.err);
    }
    let absent = bench.run("load", &["absent.tsv"]).expect(1);
    assert!(absent.err.contains("reading absent.tsv"), "{}", absent.err);
    let folder = bench.run("load", &[".", "--format", "tsv"]).expect(1);
    assert!(folder.err.contains("is a directory"), "{}", folder.err);
    for command in [&["count"][..], &["stats"], &["get", "k"], &["prefix", ""]] {
        let answer = bench.run(command[0], &command[1..]).expect(1);
        assert!(answer.err.contains("the directory db"), "{}", answer.err);
    }
    assert!(!bench.path().join("db").exists());
    fs::create_dir(bench.path().join("db")).unwrap();
    bench.file("db/notes", "somebody else's");
    bench.run("count", &[]).expect(1);
    let entries = fs::read_dir(bench.path().join("db")).unwrap();
    assert_eq!(entries.count(), 1, "asking writes nothing");

    let refused = bench.run("load", &["a.txt", "--format", "tsv"]).expect(1);
    assert!(refused.err.contains("notes"), "{}", refused.err);
    fs::remove_file(bench.path().join("db/notes")).unwrap();
    bench.run("load", &["a.txt", "--format", "tsv"]).expect(0);
    let misspelt = bench.run("count", &["--keyspace", "recrods"]).expect(1);
    assert!(
        misspelt.err.contains("no keyspace \"recrods\""),
        "{}",
        misspelt.err
    );
    let stats = bench.run("stats", &[]).expect(0).out;
    assert!(!stats.contains("recrods"), "{stats}");
    bench.run("get", &[""]).expect(1);
}

#[test]
fn a_directory_that_is_not_an_engines_is_left_alone() {
    let bench = Bench::new();
    bench.file("a.tsv", "k\tv\n");
    fs::create_dir(bench.path().join("db")).unwrap();
    fs::write(bench.path().join("db/MANIFEST"), "not a manifest").unwrap();
    for (command, rest) in [("load", &["a.tsv"][..]), ("count", &[])] {
        let answer = bench.run(command, rest).expect(1);
        assert!(answer.err.contains("MANIFEST"), "{}", answer.err);
    }
    let manifest = fs::read(bench.path().join("db/MANIFEST")).unwrap();
    assert_eq!(manifest, b"not a manifest");
}

#[test]
fn a_reader_that_has_seen_enough_is_not_a_failure() {
    let bench = Bench::new();
    let source: String = (0..20_000).map(|line| format!("{line}\tvalue\n")).collect();
    bench.file("a.tsv", source);
    bench.run("load", &["a.tsv"]).expect(0);
    let mut dump = bench
        .command("prefix", "db", &[""])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::with_capacity(16, dump.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(first, "0\tvalue\n");
    Answer::of(dump.wait_with_output().unwrap()).expect(0);
}

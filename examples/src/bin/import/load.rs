//! The import itself. One thread reads and parses, this one writes; between them a short queue, so that parsing goes on
//! while a batch is being forced.

use crate::{
    IN_PART, Place, Plan,
    failure::Failure,
    lines::{Line, Lines, NotTheSource},
    position::{Bookmark, Position},
    progress::Progress,
    record::{Recipe, Record},
    sample::{Sample, value_hash},
};
use mailring::{Keyspace, Mailring};
use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    process::ExitCode,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

/// Bytes at which a batch is closed before it has its number of records.
const BATCH_BYTES: usize = 4 << 20;
/// Batches that may wait for the writer.
const QUEUED_BATCHES: usize = 2;
/// Bad lines that are told one by one; the rest are only counted.
const TOLD_BAD_LINES: u64 = 20;
/// Times that a batch is tried when the engine says that trying again can help.
const ATTEMPTS: u32 = 8;

/// Records that are put together, and the position after them.
struct Parcel {
    records: Vec<Record>,
    bad_lines: Vec<String>,
    /// Where another run goes on.
    position: Position,
    /// The place after the last line. The position stays before a last line without a line end: it is put as it is,
    /// and read again as a whole line if the source grows.
    read_to: Position,
}

pub(crate) fn load(place: &Place, plan: Plan) -> Result<ExitCode, Failure> {
    let recipe = Recipe::of(&plan)?;
    let (name, total_bytes, reader) = open_source(plan.source.as_deref())?;
    let db = Mailring::builder(&place.dir).open_blocking()?;
    let keyspace = db.blocking().keyspace(&place.keyspace)?.keyspace().clone();
    let settings = recipe.to_string();
    let bookmark = Bookmark::open(&db, &place.keyspace, &name, settings)?;
    if plan.restart {
        bookmark.forget()?;
    }
    let begin = bookmark.load()?;
    let longest = usize::try_from(plan.max_line).unwrap_or(usize::MAX);
    let mut lines = Lines::new(reader, longest);
    if let Some(begin) = &begin {
        let Position {
            lines: passed,
            offset,
            ..
        } = begin;
        eprintln!("resuming {name} after {passed} lines, {offset} bytes");
        let found = lines.pass(begin).map_err(|error| reading(&name, &error))?;
        found.map_err(|why| not_the_source(&name, begin, &why))?;
    }
    let begin = begin.unwrap_or_default();
    let mut progress = Progress::new(total_bytes, plan.report_every, &begin);
    let (sender, parcels) = sync_channel(QUEUED_BATCHES);
    let parser = Parser {
        lines,
        recipe,
        batch: plan.batch,
        max_bad: plan.max_bad,
        name,
        position: begin,
    };
    let parser = thread::Builder::new()
        .name("import-parse".into())
        .spawn(move || parser.run(&sender))
        .map_err(|error| Failure::new(format!("starting a thread: {error}")))?;
    let written = write(&db, &keyspace, &bookmark, &parcels, &mut progress);
    // Without a receiver the parser stops at its next batch, so that a failed write ends it too.
    drop(parcels);
    progress.end();
    let (total, sample) = written?;
    let parsed = parser.join();
    parsed.unwrap_or_else(|_| Err(Failure::new("the parser panicked")))?;
    check(&keyspace, &sample)?;
    db.blocking().shutdown()?;
    let Position {
        records,
        lines,
        left_out,
        ..
    } = total;
    println!("imported {records} records of {lines} lines, {left_out} lines left out");
    println!(
        "checked {} of the keys of this run: all read back",
        sample.len()
    );
    Ok(if left_out > 0 {
        ExitCode::from(IN_PART)
    } else {
        ExitCode::SUCCESS
    })
}

type Source = Box<dyn BufRead + Send>;

/// The source's name for its position, its length if it is known, and its bytes.
fn open_source(path: Option<&Path>) -> Result<(String, Option<u64>, Source), Failure> {
    const BUFFER_BYTES: usize = 256 << 10;
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        let stdin = BufReader::with_capacity(BUFFER_BYTES, io::stdin());
        return Ok(("stdin".into(), None, Box::new(stdin)));
    };
    let shown = path.display().to_string();
    let failed = |error: io::Error| reading(&shown, &error);
    let name = path.canonicalize().map_err(failed)?;
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(Failure::new(format!("{shown} is a directory; give a file")));
    }
    let length = metadata.is_file().then_some(metadata.len());
    let reader = BufReader::with_capacity(BUFFER_BYTES, file);
    Ok((name.display().to_string(), length, Box::new(reader)))
}

fn reading(name: &str, error: &io::Error) -> Failure {
    Failure::new(format!("reading {name}: {error}"))
}

fn not_the_source(name: &str, position: &Position, why: &NotTheSource) -> Failure {
    let imported = position.offset;
    let why = match why {
        NotTheSource::Shorter { bytes } => {
            format!("it has {bytes} bytes, and {imported} have been imported")
        }
        NotTheSource::Different => {
            format!("its first {imported} bytes are not those that have been imported")
        }
    };
    Failure::new(format!(
        "{name} is not the source whose import was begun: {why}; nothing was written. Give that source, or import this one from its beginning with --restart"
    ))
}

struct Parser {
    lines: Lines<Source>,
    recipe: Recipe,
    batch: usize,
    max_bad: u64,
    name: String,
    position: Position,
}

/// How the source ends.
type End = Result<(), Failure>;

impl Parser {
    fn run(mut self, parcels: &SyncSender<Parcel>) -> End {
        let mut line = Vec::new();
        loop {
            let (parcel, end) = self.parcel(&mut line);
            if parcels.send(parcel).is_err() {
                // The writer has failed, and tells why.
                return Ok(());
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// The next records, and how the source ends if it ends with them. What was read before a failure is kept.
    fn parcel(&mut self, line: &mut Vec<u8>) -> (Parcel, Option<End>) {
        let mut records = Vec::new();
        let mut bad_lines = Vec::new();
        let mut bytes = 0;
        let mut read_to = self.position.clone();
        let end = loop {
            if records.len() + bad_lines.len() >= self.batch || bytes >= BATCH_BYTES {
                break None;
            }
            let read = match self.lines.next(line) {
                Ok(Some(read)) => read,
                Ok(None) => break Some(Ok(())),
                Err(error) => break Some(Err(reading(&self.name, &error))),
            };
            let mut after = self.lines.position();
            after.records = self.position.records;
            after.left_out = self.position.left_out;
            match self.record(line, read) {
                None => {}
                Some(Ok((key, value))) => {
                    bytes += key.len() + value.len();
                    records.push((key, value));
                    after.records += 1;
                }
                Some(Err(why)) => {
                    let bad = format!("line {}: {why}", after.lines);
                    if after.left_out >= self.max_bad {
                        // The position stays before this line: a run with a higher limit goes on with it.
                        break Some(Err(self.too_many(&bad)));
                    }
                    bad_lines.push(bad);
                    after.left_out += 1;
                }
            }
            if read.ended {
                self.position = after.clone();
            }
            read_to = after;
        };
        let parcel = Parcel {
            records,
            bad_lines,
            position: self.position.clone(),
            read_to,
        };
        (parcel, end)
    }

    /// The record of a line, or what is wrong with it; none if it is empty.
    fn record(&self, line: &[u8], read: Line) -> Option<Result<Record, String>> {
        if read.too_long {
            Some(Err("it is longer than --max-line allows".into()))
        } else if line.is_empty() {
            None
        } else {
            Some(self.recipe.record(line))
        }
    }

    fn too_many(&self, bad: &str) -> Failure {
        let Self { name, max_bad, .. } = self;
        Failure::new(format!(
            "{name} has more than {max_bad} bad lines, {bad}. What came before is imported; mend the lines from there on, or raise --max-bad, and run again"
        ))
    }
}

/// Puts what the parser sends; answers how far it came, and a sample of what was put.
fn write(
    db: &Mailring,
    keyspace: &Keyspace,
    bookmark: &Bookmark,
    parcels: &Receiver<Parcel>,
    progress: &mut Progress,
) -> Result<(Position, Sample), Failure> {
    let mut sample = Sample::default();
    let mut reached = Position::default();
    let mut told = 0;
    for parcel in parcels {
        for bad in &parcel.bad_lines {
            told += 1;
            if told <= TOLD_BAD_LINES {
                progress.say(&format!("left out {bad}"));
            } else if told == TOLD_BAD_LINES + 1 {
                progress.say("more bad lines are only counted");
            }
        }
        persist(|| put(db, keyspace, &parcel.records))?;
        // Only now: the stored position must never be ahead of what is durable.
        persist(|| bookmark.store(&parcel.position))?;
        for (key, value) in &parcel.records {
            sample.offer(key, value);
        }
        progress.at(&parcel.position);
        reached = parcel.read_to;
    }
    Ok((reached, sample))
}

fn put(db: &Mailring, keyspace: &Keyspace, records: &[Record]) -> mailring::Result<()> {
    let mut batch = db.batch();
    for (key, value) in records {
        batch.put(keyspace, key, value);
    }
    batch.commit_blocking()
}

/// Tries again, with longer and longer pauses, while the engine says that this can help.
fn persist(attempt: impl Fn() -> mailring::Result<()>) -> mailring::Result<()> {
    for failures in 0..ATTEMPTS {
        match attempt() {
            Err(error) if error.is_retryable() => {
                thread::sleep(Duration::from_millis(50 << failures));
            }
            outcome => return outcome,
        }
    }
    attempt()
}

/// Reads a sample of what this run has put.
fn check(keyspace: &Keyspace, sample: &Sample) -> Result<(), Failure> {
    let reader = keyspace.blocking();
    let read = |key: &[u8]| {
        reader
            .get(key)
            .map(|value| value.map(|value| value_hash(&value)))
    };
    match sample.first_wrong(read)? {
        None => Ok(()),
        Some(key) => Err(Failure::new(format!(
            "the check failed: {:?} does not have the value that was put; please report this",
            String::from_utf8_lossy(key)
        ))),
    }
}

//! The commands that only read.

use crate::{IN_PART, Place, failure::Failure, position::POSITIONS};
use mailring::NodeState;
use std::{
    io::{self, BufWriter, ErrorKind, Write},
    process::ExitCode,
};

pub(crate) fn get(place: &Place, key: &[u8]) -> Result<ExitCode, Failure> {
    let (db, keyspace) = place.open_existing()?;
    let value = keyspace.blocking().get(key)?;
    db.blocking().shutdown()?;
    match value {
        Some(value) => print(|out| {
            out.write_all(&value)?;
            out.write_all(b"\n")
        }),
        None => Ok(ExitCode::from(IN_PART)),
    }
}

pub(crate) fn prefix(
    place: &Place,
    prefix: &[u8],
    limit: Option<usize>,
) -> Result<ExitCode, Failure> {
    let (db, keyspace) = place.open_existing()?;
    let mut scan = keyspace.prefix(prefix).limit(limit.unwrap_or(usize::MAX));
    let mut failed = Ok(());
    let code = print(|out| {
        for pair in scan.iter() {
            let (key, value) = match pair {
                Ok(pair) => pair,
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            };
            out.write_all(&key)?;
            out.write_all(b"\t")?;
            out.write_all(&value)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })?;
    failed?;
    drop(scan);
    db.blocking().shutdown()?;
    Ok(code)
}

pub(crate) fn count(place: &Place) -> Result<ExitCode, Failure> {
    let (db, keyspace) = place.open_existing()?;
    let mut count = 0u64;
    for pair in keyspace.prefix("").iter() {
        pair?;
        count += 1;
    }
    db.blocking().shutdown()?;
    print(|out| writeln!(out, "{count}"))
}

pub(crate) fn stats(place: &Place) -> Result<ExitCode, Failure> {
    let (db, _) = place.open_existing()?;
    let stats = db.stats();
    let names = db.blocking().keyspaces()?;
    let mut positions = Vec::new();
    if names.iter().any(|name| name == POSITIONS) {
        let keyspace = db.blocking().keyspace(POSITIONS)?;
        for pair in keyspace.keyspace().prefix("").iter() {
            positions.push(pair?);
        }
    }
    let code = print(|out| {
        writeln!(out, "visible LSN {}", stats.visible_lsn.0)?;
        writeln!(out, "keyspaces   {}", names.join(", "))?;
        for node in &stats.nodes {
            let state = match node.state {
                NodeState::Serving => "serving",
                NodeState::Restarted => "restarted",
                NodeState::Down => "down",
                NodeState::Isolated => "isolated",
            };
            writeln!(
                out,
                "node {:<6} {state}, about {} keys in {} runs of {} bytes, {} bytes in memory",
                node.node.0,
                node.tree.approximate_keys,
                node.tree.runs,
                node.tree.bytes,
                node.generation_bytes
            )?;
        }
        for (key, value) in &positions {
            let [key, value] = [key, value].map(|bytes| String::from_utf8_lossy(bytes));
            writeln!(out, "import      {key}: {value}")?;
        }
        Ok(())
    });
    db.blocking().shutdown()?;
    code
}

/// Writes to stdout. A reader that has seen enough (`| head`) is not a failure.
fn print(
    write: impl FnOnce(&mut BufWriter<io::StdoutLock<'static>>) -> io::Result<()>,
) -> Result<ExitCode, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("writing to stdout: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

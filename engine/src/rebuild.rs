//! Rebuilding a restarted node's generation from the journal.

use crate::{
    error::{Error, Result},
    generation::Generation,
    ids::{Lsn, NodeId},
    journal::{JournalReader, record::RecordBody},
};

/// Installs what the journal holds for `node`, LSN `after` (excluded) to `through`, into `generation`.
///
/// # Errors
///
/// As [`JournalReader::replay`], and [`Error::Unknown`] if the journal ends before `through`.
pub fn rebuild_node(
    journal: &JournalReader,
    node: NodeId,
    after: Lsn,
    through: Lsn,
    generation: &Generation,
) -> Result<()> {
    let reached = journal.replay(after, through, &mut |record| {
        if let RecordBody::Commit { parts, .. } = record.body {
            for part in parts.iter().filter(|part| part.node == node) {
                for write in &part.writes {
                    generation.insert(record.lsn, write);
                }
            }
        }
        Ok(())
    })?;
    if reached < through {
        return Err(Error::Unknown {
            reason: format!(
                "the journal ends at LSN {reached}, node {node} needs it up to {through}"
            ),
        });
    }
    Ok(())
}

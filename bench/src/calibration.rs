//! The yardstick of a durable write: what the disk itself takes.
//!
//! A file is filled with zeros beforehand, then the same bytes of it are overwritten and forced again and again.
//! Nothing that forces before it answers can be faster than that for a lone writer. Every round of a comparison
//! measures it again, because disks in the cloud change their mind.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;

/// The size of the file.
const FILE_BYTES: u64 = 1 << 20;

/// What forcing costs.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
pub(crate) struct Calibration {
    /// Forces measured.
    pub(crate) forces: usize,
    /// Half of them were faster, in microseconds.
    pub(crate) p50_us: f64,
    /// 99 % of them were faster, in microseconds.
    pub(crate) p99_us: f64,
}

/// A file of so many zeros, on the disk and not only reserved.
///
/// # Errors
///
/// If it can't be written.
pub(crate) fn preallocated(path: &Path, bytes: u64) -> Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let zeros = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < bytes {
        let length = zeros.len().min((bytes - offset) as usize);
        file.write_all_at(&zeros[..length], offset)?;
        offset += length as u64;
    }
    file.sync_all()?;
    Ok(file)
}

/// Overwrites and forces `record_bytes` at one place for about so long, at least ten times.
///
/// # Errors
///
/// If the file can't be written or forced.
pub(crate) fn raw_force(dir: &Path, record_bytes: usize, time: Duration) -> Result<Calibration> {
    let path = dir.join("calibration");
    let file = preallocated(&path, FILE_BYTES)?;
    let record = vec![0xA5; record_bytes];
    let mut micros = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time || micros.len() < 10 {
        let start = Instant::now();
        file.write_all_at(&record, 0)?;
        file.sync_data()?;
        micros.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    std::fs::remove_file(path)?;
    micros.sort_by(f64::total_cmp);
    let quantile = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
    Ok(Calibration {
        forces: micros.len(),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preallocated_file_has_its_length_in_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        preallocated(&path, (1 << 20) + 5).unwrap();
        let content = std::fs::read(path).unwrap();
        assert_eq!(content.len(), (1 << 20) + 5);
        assert!(content.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_calibration_measures_at_least_ten_forces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let calibration = raw_force(dir.path(), 116, Duration::ZERO).unwrap();
        assert!(calibration.forces >= 10);
        assert!(calibration.p50_us > 0.0 && calibration.p50_us <= calibration.p99_us);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

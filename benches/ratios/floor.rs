//! The floors: what the disk and the engine cost without us.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Durations of `n` times: append 1 KiB and fdatasync.
pub(crate) fn fdatasync(dir: &Path, n: usize) -> Vec<Duration> {
    let path = dir.join("floor");
    let mut file = fs_err::File::create(&path).expect("a file in the data directory");
    let block = [7u8; 1024];
    let samples = (0..n)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&block).expect("written");
            file.sync_data().expect("synced");
            started.elapsed()
        })
        .collect();
    fs_err::remove_file(path).expect("removed");
    samples
}

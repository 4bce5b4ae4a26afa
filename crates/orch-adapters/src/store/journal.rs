//! The journal: what was committed since the last checkpoint, as records in one file. A commit is durable when its record is,
//! which is one `fdatasync` over blocks that exist already; the tables take it over later, many at a time.
//!
//! A record is `magic, checksum, length, epoch, sequence number` and its operations. Each checkpoint begins a new epoch at
//! the start of the file, so that what older epochs left behind is not read as ours.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u32 = 0x6d6f_6a31;
const HEAD: usize = 4 + 4 + 4 + 8 + 8;
/// The file grows in steps of zeros, because writing into blocks that exist is what makes a sync cheap.
const STEP: u64 = 1 << 20;

pub(super) struct Journal {
    file: File,
    epoch: u64,
    /// Sequence number before the first record.
    start: u64,
    /// Where the next record goes.
    end: u64,
    /// Bytes of the file that are written already.
    allocated: u64,
    buffer: Vec<u8>,
}

/// A record as it was found.
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) operations: Vec<u8>,
}

impl Record {
    fn len(&self) -> u64 {
        (HEAD + self.operations.len()) as u64
    }
}

impl Journal {
    pub(super) fn create(path: &Path) -> io::Result<()> {
        let file = fs_err::File::create(path)?;
        file.file().write_all_at(&vec![0; STEP as usize], 0)?;
        file.sync_all()
    }

    pub(super) fn open(path: &Path) -> io::Result<Journal> {
        let file = fs_err::OpenOptions::new().read(true).write(true).open(path)?;
        let allocated = file.metadata()?.len();
        let (file, _) = file.into_parts();
        Ok(Journal { file, epoch: 0, start: 0, end: 0, allocated, buffer: Vec::new() })
    }

    pub(super) fn len(&self) -> u64 {
        self.end
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Makes ready to append behind the records of `epoch`, which began after the commit `start`, and returns the
    /// sequence number of the last. Where they end early the caller knows it from the one that was acknowledged last.
    pub(super) fn recover(&mut self, epoch: u64, start: u64) -> io::Result<u64> {
        self.epoch = epoch;
        self.start = start;
        self.end = 0;
        let mut last = start;
        while let Some(record) = self.read_at(self.end, last + 1)? {
            self.end += record.len();
            last += 1;
        }
        Ok(last)
    }

    /// The records up to now, read back one at a time.
    pub(super) fn records(&self) -> impl Iterator<Item = io::Result<Record>> {
        let mut at = 0;
        let mut sequence = self.start;
        std::iter::from_fn(move || {
            if self.end <= at {
                return None;
            }
            sequence += 1;
            let record = self.read_at(at, sequence).and_then(|it| {
                let lost = format!("the journal does not read back at byte {at}");
                it.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, lost))
            });
            match &record {
                Ok(it) => at += it.len(),
                Err(_) => at = self.end,
            }
            Some(record)
        })
    }

    /// The record at `at` if it is whole, of this epoch and numbered `sequence`.
    fn read_at(&self, at: u64, sequence: u64) -> io::Result<Option<Record>> {
        let mut head = [0; HEAD];
        if self.allocated < at + HEAD as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut head, at)?;
        let [magic, checksum, len] = [0, 4, 8]
            .map(|it| u32::from_le_bytes([head[it], head[it + 1], head[it + 2], head[it + 3]]));
        let is_next = magic == MAGIC
            && head[12..20] == self.epoch.to_le_bytes()
            && head[20..28] == sequence.to_le_bytes()
            && at + HEAD as u64 + u64::from(len) <= self.allocated;
        if !is_next {
            return Ok(None);
        }
        let mut operations = vec![0; len as usize];
        self.file.read_exact_at(&mut operations, at + HEAD as u64)?;
        if checksum_of(&head, &operations) != checksum {
            return Ok(None);
        }
        Ok(Some(Record { sequence, operations }))
    }

    /// Writes one record of all `parts` and returns when it is durable.
    pub(super) fn append<'a>(
        &mut self,
        sequence: u64,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.resize(HEAD, 0);
        parts.for_each(|it| self.buffer.extend_from_slice(it));
        let len = u32::try_from(self.buffer.len() - HEAD)
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "a commit above 4 GiB"))?;
        let (head, operations) = self.buffer.split_at_mut(HEAD);
        head[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[8..12].copy_from_slice(&len.to_le_bytes());
        head[12..20].copy_from_slice(&self.epoch.to_le_bytes());
        head[20..28].copy_from_slice(&sequence.to_le_bytes());
        let checksum = checksum_of(head, operations);
        head[4..8].copy_from_slice(&checksum.to_le_bytes());

        let end = self.end + self.buffer.len() as u64;
        self.allocate(end)?;
        let written =
            self.file.write_all_at(&self.buffer, self.end).and_then(|()| self.file.sync_data());
        if let Err(err) = written {
            // It was not acknowledged, so it should not come back after a restart either.
            if let Err(err) = self.file.write_all_at(&[0; HEAD], self.end) {
                tracing::warn!(%err, "a record that failed could not be taken back");
            }
            return Err(err);
        }
        self.end = end;
        // A commit of an unusual size should not hold its memory for ever.
        self.buffer.shrink_to(STEP as usize);
        Ok(())
    }

    /// Begins anew after the commit `start`: what was written is in the tables now.
    pub(super) fn reset(&mut self, epoch: u64, start: u64) {
        self.epoch = epoch;
        self.start = start;
        self.end = 0;
    }

    fn allocate(&mut self, end: u64) -> io::Result<()> {
        while self.allocated < end {
            let zeros = vec![0; STEP as usize];
            self.file.write_all_at(&zeros, self.allocated)?;
            self.allocated += STEP;
        }
        Ok(())
    }
}

fn checksum_of(head: &[u8], operations: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[8..]);
    hasher.update(operations);
    hasher.finalize()
}

//! Results that are too large for a row of the store, as files beside it.

use orch_domain::name::BatchId;

use super::store::StoreError;

/// Blocks for as long as the disk takes: to be called where that is allowed. A name is 1 to 128 letters, digits, `-`, `_` or
/// `.`, begins with a letter or a digit and has no two dots in a row; any other is an error.
pub trait Blobs: Send + Sync {
    /// Keeps `bytes` under that name, in place of what had it before. Durable when it returns, and whole or not there at
    /// all; a full disk leaves nothing behind. To be called before the row that names it is committed.
    fn put(&self, batch: &BatchId, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// All of it, checked. None: there is none.
    fn get(&self, batch: &BatchId, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// The text that begins at the byte `offset`: at most `max_bytes` (4 or more) of it, cut between characters. None:
    /// there is none, or it does not reach that far.
    fn part(
        &self,
        batch: &BatchId,
        name: &str,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<BlobPart>, StoreError>;

    /// Removes what a batch has. The store does so by itself with a batch that is forgotten; this is for one of which
    /// nothing was ever committed.
    fn forget(&self, batch: &BatchId) -> Result<(), StoreError>;

    /// Removes what other batches than these have, and what a crash left half-written. To be called at the start, before
    /// anything is put.
    fn sweep(&self, keep: &[BatchId]) -> Result<usize, StoreError>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobPart {
    pub text: String,
    /// Where the next part begins. None: this is the last.
    pub next: Option<u64>,
    /// Bytes of all of it.
    pub total: u64,
}

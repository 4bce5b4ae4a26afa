//! Batches from the shell.

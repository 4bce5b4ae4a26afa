//! The one integration binary. A file per behaviour; what they share is in `harness`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

mod crash;
mod drift;
mod engine_contract;
mod harness;
mod launch;
mod main_job;
mod saga;

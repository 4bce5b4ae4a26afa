//! The one integration binary. A file per behaviour; what they share is in `harness`.

mod engine_contract;
mod harness;

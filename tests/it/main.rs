//! The one integration binary. A file per behaviour; what they share is in `harness`.

mod crash;
mod drift;
mod engine_contract;
mod harness;
mod launch;
mod saga;

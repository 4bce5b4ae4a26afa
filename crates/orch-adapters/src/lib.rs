//! What the ports of orch-core are implemented with: engines, and the store.

pub mod store;

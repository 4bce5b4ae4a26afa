//! What an instance, a node, a quota and a port are, and the rules between them.
//!
//! Floor 0: plain data and arithmetic. No runtime, no I/O and no clock; whoever calls passes the time in.

pub mod audit;
pub mod batch;
pub mod book;
pub mod caller;
pub mod capacity;
pub mod cluster;
pub mod error;
pub mod event;
#[cfg(any(test, feature = "fixtures"))]
mod fixture;
pub mod grant;
pub mod health;
pub mod image;
pub mod instance;
pub mod label;
pub mod metrics;
pub mod name;
pub mod node;
pub mod node_loss;
pub mod page;
pub mod password;
pub mod placement;
pub mod plan;
pub mod port;
pub mod rate;
pub mod ray;
pub mod redact;
pub mod registry;
pub mod resource;
pub mod secret;
pub mod ssh;
pub mod text;
pub mod time;
pub mod tool_access;
pub mod trouble;
pub mod user;

pub use error::{Error, ErrorCode};

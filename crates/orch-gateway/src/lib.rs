//! Upstream MCP servers: which there are, the connections to them, and what they offer.
//!
//! `frame` and `members` carry messages without taking them apart; `upstream` holds connections.

pub mod catalog;
pub mod config;
pub mod edge;
pub mod frame;
pub mod hub;
pub mod members;
pub mod names;
pub mod port;
pub mod server;
pub mod shape;
pub mod upstream;

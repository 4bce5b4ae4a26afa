//! Upstream MCP servers: which there are, the connections to them, what they offer, and how messages go there and back.
//!
//! `frame` and `members` carry messages without taking them apart; `upstream` holds connections, `server` keeps one server
//! connected, `hub` all of them, and `edge` finds out what of a client's messages is for them.

pub mod catalog;
pub mod config;
pub mod edge;
pub mod forward;
pub mod frame;
pub mod headers;
pub mod hub;
pub mod limits;
pub mod members;
pub mod names;
pub mod oauth;
pub mod offer;
pub mod port;
pub mod profile;
pub mod remote;
pub mod safety;
pub mod server;
pub mod session;
pub mod shape;
pub mod upstream;
pub mod view;

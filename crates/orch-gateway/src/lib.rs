//! Upstream MCP servers: which there are and how they are reached. Connecting to them is not here yet.

pub mod config;

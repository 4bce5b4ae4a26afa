//! The faces of mcp-orch and what wires them to the floors below.

pub mod auth;
pub mod config;
pub mod face;

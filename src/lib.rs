//! The faces of mcp-orch and what wires them to the floors below.

pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod face;
pub mod telemetry;

//! Protocols spoken with clients. A face finds the caller, decodes, calls an operation and renders its answer.

pub mod argument;
pub mod mcp;
pub mod rest;

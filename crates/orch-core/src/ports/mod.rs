//! What the services need of the world. Each trait is small, object-safe and implemented one floor down.

pub mod blobs;
pub mod clock;
pub mod engine;
pub mod failpoint;
pub mod model;
pub mod peers;
pub mod ray;
pub mod server_login;
pub mod store;
pub mod tool_server;
pub mod vault;

//! Docker, SSH, Ray, language models, the simulated fleet and the store, behind the ports of the floor below.

pub mod docker;
pub mod engines;
pub mod llm;
pub mod ray;
pub mod sim;
pub mod ssh;
pub mod store;
pub mod tailscale;

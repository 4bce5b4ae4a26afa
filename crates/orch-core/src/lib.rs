//! What the product does, whatever the face and whatever the engine.
//!
//! Floor 1: `ports` are the traits this floor needs from below, `service` the order of steps, `ops` one file per
//! operation, `view` how answers look, `task` what runs in the background. No adapter and no face is named here.

pub mod cx;
pub mod event;
pub mod gate;
pub mod operation;
pub mod ops;
pub mod orch;
pub mod ports;
pub mod service;
pub mod settings;
pub mod task;
pub mod view;

pub use cx::Cx;
pub use operation::{Answer, Op};
pub use orch::Orch;

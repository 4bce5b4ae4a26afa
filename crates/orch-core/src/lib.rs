//! What the product does, whatever the face and whatever the engine.
//!
//! Floor 1: `ports` are the traits this floor needs from below, `service` the order of steps, `ops` one file per
//! operation, `task` what runs in the background. No adapter and no face is named here.

pub mod cx;
pub mod event;
pub mod ports;
pub mod settings;

pub use cx::Cx;

//! REST: every operation at its route, and the few HTTP-only pages.

pub mod problem;

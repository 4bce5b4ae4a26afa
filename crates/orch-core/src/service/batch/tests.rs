//! The runner on scripted calls, in stopped time.

mod scripted;
mod small;

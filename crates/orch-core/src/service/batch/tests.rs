//! The runner on scripted calls, in stopped time.

mod random;
mod scripted;
mod small;

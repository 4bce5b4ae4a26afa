//! Many tool calls as one: plans, and what runs them.
//!
//! ```text
//! accept ─► Batch (durable) ─► Run: Machine (orch-domain) ─► step tasks ─► the gate, as any other call
//!    ▲                          │  one task per batch: judges, dispatches, journals, ends
//!  planner ──── Canvas ─────────┘
//! ```
//!
//! A `Run` holds its machine under a short lock; whoever cancels takes the same lock, so nothing is dispatched after a
//! cancellation was acknowledged. Every change of state goes to the store in the order in which it was made; only a call
//! that must not be made twice waits until it is durable that it will be made.

mod accept;
pub mod bench;
mod board;
mod caller;
mod calls;
mod canvas;
mod durations;
mod journal;
mod live;
mod look;
mod payload;
mod plan_ahead;
pub mod planner;
mod recover;
mod runner;
mod slots;
mod step;
#[cfg(test)]
mod tests;
mod toolbox;
mod transitions;

pub use accept::{Accepted, Ask, Wanted};
pub use board::Batches;
pub use calls::{StepCalls, Target};
pub use live::{Run, Timing};
pub use look::{Found, ResultPage};
pub use plan_ahead::{Ahead, StepAhead};
pub use slots::{Limits as SlotLimits, Slots};
pub use transitions::{Subject, Transition};

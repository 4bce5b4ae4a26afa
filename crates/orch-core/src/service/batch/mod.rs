//! Many tool calls as one: plans, and what runs them.

pub mod planner;

//! The order of steps behind the operations.

mod argon;
pub mod audit;
pub mod bootstrap;
pub mod containers;
pub mod engines;
pub mod event_log;
pub mod flight;
pub mod health;
pub mod identity;
pub mod images;
pub mod instances;
pub mod launch;
pub mod ledger;
pub mod node_loss;
pub mod nodes;
mod probe;
pub mod pull;
pub mod reconcile;
pub mod registries;
pub mod relocate;
pub mod remnant;
pub(crate) mod seal;
pub mod settle;
pub mod start_queue;
mod unsettled;
pub mod users;

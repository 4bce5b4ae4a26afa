//! The order of steps behind the operations.

pub mod bootstrap;
pub mod engines;
pub mod flight;
pub mod health;
pub mod identity;
pub mod instances;
pub mod launch;
pub mod ledger;
pub mod reconcile;
pub mod settle;
pub mod start_queue;

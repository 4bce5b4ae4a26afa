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
pub mod ray;
pub mod ray_jobs;
pub mod reconcile;
pub mod relocate;
pub mod remnant;
pub mod settle;
pub mod ssh_arguments;
pub mod start_queue;
pub mod users;

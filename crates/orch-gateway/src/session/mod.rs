//! One client of the gateway and what stands between it and the servers: `visitor` is the client, `question` what servers
//! ask it, `connection` the connections that are its alone, `tasks` whose a task is, `parked` calls that wait for a client
//! that comes back with its answers, `bridge` what differs between the two eras, `watch` resources that several want to
//! hear about, `direct` a client that speaks to one server as that is.

pub mod bridge;
pub mod connection;
pub mod direct;
pub mod parked;
pub mod question;
pub mod tasks;
pub mod visitor;
pub mod watch;

pub use connection::{Connection, Lifecycle};
pub use visitor::Visitor;

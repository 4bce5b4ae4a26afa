//! Machines behind SSH: one connection to each, and any number of streams to Unix sockets of the machine inside it.
//!
//! Every stream is a `direct-streamlocal` channel, which costs no handshake and does not count as a session of the
//! SSH server. What is spoken inside is the business of whoever opened it.
//!
//! A machine behind others is reached through streams of their connections, which all machines behind them share.
//!
//! A machine is recognised by its pinned host key alone; who is not, is never logged in to. A connection that is lost
//! is made anew by the next stream; while that fails, streams fail at once until the next attempt is due.

mod channel;
mod config;
mod dial;
mod error;
mod host_key;
mod jump;
mod link;
mod login;
mod look;
mod run;

use std::path::PathBuf;

pub use channel::Channel;
pub use config::resolve;
pub use error::SshError;
pub use host_key::identify;
pub use jump::Jumps;
pub use link::{Lane, Link};
pub use run::Printed;

/// What this server's user has for SSH.
#[derive(Clone, Debug, Default)]
pub struct SshSettings {
    /// Where the SSH agent listens.
    pub agent_socket: Option<PathBuf>,
    /// Where `.ssh` is.
    pub home: Option<PathBuf>,
    /// The SSH configuration, when it is not `.ssh/config` in `home`.
    pub config: Option<PathBuf>,
}

impl SshSettings {
    fn dot_ssh(&self, file: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|it| it.join(".ssh").join(file))
    }

    /// `~/` is the user's own folder.
    fn expand(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        }
    }
}

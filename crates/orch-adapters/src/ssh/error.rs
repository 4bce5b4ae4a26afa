//! Why a machine could not be reached, in words that help whoever runs it.

use std::time::Duration;

use orch_core::ports::engine::EngineError;
use orch_domain::ssh::{Fingerprint, HostKey};

/// Cheap to clone: all who wait for one connection get the same answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SshError {
    #[error("`{place}` cannot be reached: {why}")]
    NoAnswer { place: String, why: String },
    #[error("`{place}` did not finish the SSH handshake within {after:?}")]
    Slow { place: String, after: Duration },
    #[error("`{place}` and this server do not agree on SSH: {why}")]
    Handshake { place: String, why: String },
    #[error("the key of `{place}` is not known; it shows {found}")]
    HostKeyUnknown { place: String, found: HostKey },
    #[error("`{place}` does not show its host key {expected}")]
    HostKeyChanged { place: String, expected: Fingerprint, found: Option<HostKey> },
    #[error("there is nothing to log in to `{place}` with: {why}")]
    NoIdentity { place: String, why: String },
    #[error(
        "`{place}` did not accept the login: tried {tried}; is the public key in its `authorized_keys`?"
    )]
    LoginRefused { place: String, tried: String },
    #[error("the SSH connection to `{place}` was lost")]
    Lost { place: String },
    #[error("the SSH server of `{place}` does not open `{socket}`: {why}")]
    SocketRefused { place: String, socket: String, why: String },
    #[error("the SSH server of `{place}` does not run a command: {why}")]
    CommandRefused { place: String, why: String },
    #[error("{last}; the next attempt is due in {retry_in:?}")]
    Waiting { last: Box<SshError>, retry_in: Duration },
    #[error(transparent)]
    Protocol(std::sync::Arc<russh::Error>),
}

impl From<russh::Error> for SshError {
    fn from(err: russh::Error) -> SshError {
        SshError::Protocol(std::sync::Arc::new(err))
    }
}

impl SshError {
    /// Names the machine that a failure of the protocol happened with.
    pub(super) fn at(self, place: &str, expected: Option<&Fingerprint>) -> SshError {
        let SshError::Protocol(err) = self else { return self };
        let place = place.to_owned();
        match (&*err, expected) {
            (
                russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, .. },
                Some(expected),
            ) => SshError::HostKeyChanged { place, expected: expected.clone(), found: None },
            (russh::Error::IO(_) | russh::Error::HUP | russh::Error::Disconnect, _) => {
                SshError::NoAnswer { place, why: "the connection was closed".to_owned() }
            }
            (other, _) => SshError::Handshake { place, why: other.to_string() },
        }
    }
}

impl From<&SshError> for EngineError {
    fn from(err: &SshError) -> EngineError {
        match err.clone() {
            SshError::HostKeyUnknown { place, found } => {
                EngineError::HostKeyUnknown { place, found }
            }
            SshError::HostKeyChanged { place, expected, found } => {
                EngineError::HostKeyChanged { place, expected, found }
            }
            SshError::Waiting { last, .. }
                if matches!(
                    *last,
                    SshError::HostKeyChanged { .. } | SshError::HostKeyUnknown { .. }
                ) =>
            {
                EngineError::from(&*last)
            }
            it @ SshError::SocketRefused { .. } => {
                EngineError::EngineDown { message: it.to_string() }
            }
            it => EngineError::NoConnection { message: it.to_string() },
        }
    }
}

//! Why a machine could not be reached, in words that help whoever runs it.

use std::time::Duration;

use orch_core::ports::engine::EngineError;
use orch_domain::health::Level;
use orch_domain::ssh::{Fingerprint, HostKey};
use orch_domain::trouble::Trouble;

/// Cheap to clone: all who wait for one connection get the same answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SshError {
    #[error("`{place}` cannot be reached: {why}")]
    NoAnswer { place: String, why: String, trouble: Trouble },
    #[error("`{place}` did not finish the SSH handshake within {after:?}")]
    Slow { place: String, after: Duration },
    #[error("`{place}` closed the connection before anything was agreed on")]
    Closed { place: String },
    #[error("`{place}` and this server do not agree on SSH: {why}")]
    Handshake { place: String, why: String },
    #[error("the key of `{place}` is not known; it shows {found}")]
    HostKeyUnknown { place: String, found: HostKey },
    #[error("`{place}` does not show its host key {expected}")]
    HostKeyChanged { place: String, expected: Fingerprint, found: Option<HostKey> },
    #[error("there is nothing to log in to `{place}` with: {why}")]
    NoIdentity { place: String, why: String, trouble: Trouble },
    #[error(
        "`{place}` did not accept the login: tried {tried}; is the public key in its `authorized_keys`?"
    )]
    LoginRefused { place: String, tried: String },
    #[error("the SSH connection to `{place}` was lost")]
    Lost { place: String },
    #[error("the SSH server of `{place}` does not open `{socket}`: {why}")]
    SocketRefused { place: String, socket: String, why: String, trouble: Trouble },
    #[error("the jump `{place}` does not lead to `{to}`: {why}")]
    WayRefused { place: String, to: String, why: String, trouble: Trouble },
    /// Something is the matter with a machine on the way, and not with the one at its end.
    #[error("on the way to `{to}`: {cause}")]
    OnTheWay { to: String, cause: Box<SshError> },
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
                SshError::Closed { place }
            }
            (other, _) => SshError::Handshake { place, why: other.to_string() },
        }
    }

    /// What is the matter, by name.
    pub fn trouble(&self) -> Trouble {
        match self {
            SshError::NoAnswer { trouble, .. }
            | SshError::NoIdentity { trouble, .. }
            | SshError::SocketRefused { trouble, .. }
            | SshError::WayRefused { trouble, .. } => *trouble,
            SshError::Slow { .. } => Trouble::Silent,
            SshError::Closed { .. } => Trouble::Closed,
            SshError::Handshake { .. } | SshError::Protocol(_) => Trouble::NotSsh,
            SshError::HostKeyUnknown { .. } => Trouble::HostKeyUnknown,
            SshError::HostKeyChanged { .. } => Trouble::HostKeyChanged,
            SshError::LoginRefused { .. } => Trouble::LoginRefused,
            SshError::CommandRefused { .. } => Trouble::Other,
            SshError::Lost { .. } => Trouble::Lost,
            SshError::OnTheWay { cause, .. } => cause.trouble(),
            SshError::Waiting { last, .. } => last.trouble(),
        }
    }

    /// The failure itself, without where it happened and when it is tried again.
    fn root(&self) -> &SshError {
        match self {
            SshError::OnTheWay { cause: it, .. } | SshError::Waiting { last: it, .. } => it.root(),
            it => it,
        }
    }
}

impl From<&SshError> for EngineError {
    fn from(err: &SshError) -> EngineError {
        let (message, trouble) = (err.to_string(), err.trouble());
        match err.root() {
            SshError::HostKeyUnknown { place, found } => {
                EngineError::HostKeyUnknown { place: place.clone(), found: found.clone() }
            }
            SshError::HostKeyChanged { place, expected, found } => EngineError::HostKeyChanged {
                place: place.clone(),
                expected: expected.clone(),
                found: found.clone(),
            },
            _ if trouble.level() == Level::Engine => EngineError::EngineDown { message, trouble },
            _ => EngineError::NoConnection { message, trouble },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(err: SshError) -> Box<SshError> {
        Box::new(err)
    }

    #[test]
    fn a_failure_on_the_way_keeps_its_name_and_says_where_it_was() {
        let place = || "ssh://root@bastion:22".to_owned();
        let cause = SshError::LoginRefused { place: place(), tried: "the key `k`".to_owned() };
        let to = "ssh://root@inner:22".to_owned();
        let err = SshError::OnTheWay { to: to.clone(), cause: boxed(cause) };
        let waiting = SshError::Waiting { last: boxed(err), retry_in: Duration::from_secs(1) };
        assert_eq!(waiting.trouble(), Trouble::LoginRefused);
        let said = EngineError::from(&waiting).to_string();
        assert!(said.contains("bastion") && said.contains("on the way to"), "{said}");

        let expected = Fingerprint::try_new(&format!("SHA256:{}", "A".repeat(43))).unwrap();
        let cause = SshError::HostKeyChanged { place: place(), expected, found: None };
        let err = EngineError::from(&SshError::OnTheWay { to, cause: boxed(cause) });
        let EngineError::HostKeyChanged { place: named, .. } = &err else { panic!("{err:?}") };
        assert_eq!(*named, place());
    }
}

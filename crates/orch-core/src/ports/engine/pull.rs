//! What a pull is told and what it tells, also to those who only joined it.

use std::sync::Arc;

use orch_domain::image::ImageRef;
use orch_domain::registry::RegistryHost;
use orch_domain::secret::Secret;

use super::EngineError;

/// What a pull left on the node.
#[derive(Clone, Debug, PartialEq)]
pub struct PulledImage {
    pub id: String,
    /// What the registry calls this content, `sha256:…`; where the engine knows it.
    pub digest: Option<String>,
    pub size_bytes: u64,
    /// False: the node had exactly this already.
    pub is_new: bool,
}

/// What a registry wants to see before it gives out an image.
#[derive(Clone, Debug)]
pub struct RegistryLogin {
    pub registry: RegistryHost,
    pub username: String,
    pub password: Secret<String>,
}

pub(super) fn login_refused(image: &ImageRef, username: Option<&str>) -> String {
    let registry = image.registry();
    match username {
        Some(username) => format!(
            "the registry `{registry}` does not let `{username}` have the image `{image}`: an administrator has to check \
             that this user may pull it there, and set the right password with `set_registry_credential`"
        ),
        None => format!(
            "the registry `{registry}` wants a login for the image `{image}`, and none is kept for it: an administrator \
             can set one with `set_registry_credential`"
        ),
    }
}

impl EngineError {
    /// The same, for another of those who waited for one thing.
    pub fn again(self: &Arc<EngineError>) -> EngineError {
        match &**self {
            EngineError::Unreachable { .. } => {
                EngineError::Unreachable { source: Box::new(SharedCause(Arc::clone(self))) }
            }
            EngineError::Timeout { after } => EngineError::Timeout { after: *after },
            EngineError::NoConnection { message, trouble } => {
                EngineError::NoConnection { message: message.clone(), trouble: *trouble }
            }
            EngineError::EngineDown { message, trouble } => {
                EngineError::EngineDown { message: message.clone(), trouble: *trouble }
            }
            EngineError::HostKeyUnknown { place, found } => {
                EngineError::HostKeyUnknown { place: place.clone(), found: found.clone() }
            }
            EngineError::HostKeyChanged { place, expected, found } => EngineError::HostKeyChanged {
                place: place.clone(),
                expected: expected.clone(),
                found: found.clone(),
            },
            EngineError::ImageNotFound { image, message } => {
                EngineError::ImageNotFound { image: image.clone(), message: message.clone() }
            }
            EngineError::LoginRefused { image, username } => {
                EngineError::LoginRefused { image: image.clone(), username: username.clone() }
            }
            EngineError::PortInUse { ports } => EngineError::PortInUse { ports: ports.clone() },
            EngineError::NameTaken { name } => EngineError::NameTaken { name: name.clone() },
            EngineError::NoSuchContainer { name } => {
                EngineError::NoSuchContainer { name: name.clone() }
            }
            EngineError::CutShort { name } => EngineError::CutShort { name: name.clone() },
            EngineError::NotRunning { name } => EngineError::NotRunning { name: name.clone() },
            EngineError::InvalidCommand { message } => {
                EngineError::InvalidCommand { message: message.clone() }
            }
            EngineError::Refused { message } => EngineError::Refused { message: message.clone() },
            EngineError::Unsupported { node_id, kind } => {
                EngineError::Unsupported { node_id: node_id.clone(), kind: kind.clone() }
            }
        }
    }
}

/// What is underneath an error that several were told.
#[derive(Debug)]
struct SharedCause(Arc<EngineError>);

impl SharedCause {
    fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}

impl std::fmt::Display for SharedCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.cause().map_or(Ok(()), |it| write!(f, "{it}"))
    }
}

impl std::error::Error for SharedCause {
    /// The cause itself, so that who looks for its type finds it; its words come twice in a log then, which is the price.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_who_waited_is_told_the_same_down_to_the_cause() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let first = Arc::new(EngineError::Unreachable { source: Box::new(refused) });
        let again = first.again();
        assert!(again.is_transient());
        assert_eq!(again.to_string(), first.to_string());
        let mut cause = std::error::Error::source(&again);
        let found = loop {
            let it = cause.expect("the cause is there");
            match it.downcast_ref::<std::io::Error>() {
                Some(it) => break it.kind(),
                None => cause = it.source(),
            }
        };
        assert_eq!(found, std::io::ErrorKind::ConnectionRefused);
        let image = ImageRef::try_new("ghcr.io/a:1").unwrap();
        let refused = EngineError::LoginRefused { image, username: Some("ann".to_owned()) };
        let refused = Arc::new(refused);
        assert_eq!(refused.again().to_string(), refused.to_string());
    }
}

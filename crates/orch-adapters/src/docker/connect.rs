//! How an engine is reached: its endpoint, a connection made when first needed, and a deadline for every call.

use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion, Docker};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use orch_core::ports::engine::EngineError;
use orch_domain::health::Level;
use orch_domain::trouble::Trouble;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::error::Failure;
use super::over_ssh;
use crate::ssh::Link;

/// What is answered from memory; a busy engine may still take seconds over it.
pub(super) const QUICK: Duration = Duration::from_secs(10);
/// What waits for a lock of the container, which a start or a stop may hold for long.
pub(super) const PATIENT: Duration = Duration::from_secs(60);
/// Starts queue up inside the engine, also those of others.
pub(super) const START: Duration = Duration::from_secs(120);
/// Between two words of a pull. A slow registry still says something.
pub(super) const PULL_SILENCE: Duration = Duration::from_secs(120);

/// bollard limits the wait for a response's head by itself, in whole seconds. Our own deadlines are per call, so that
/// one is put out of the way.
pub(super) const NO_LIMIT_SECS: u64 = 30 * 24 * 3600;

/// What a pull logs in with.
const LOGIN: &str = "x-registry-auth";

#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    Unix { path: String },
    Tcp { authority: String },
    Ssh { link: Arc<Link>, socket: String },
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Endpoint, String> {
        let refuse = || {
            format!(
                "`{}` is not an endpoint of a Docker engine such as `unix:///var/run/docker.sock` or \
                 `tcp://127.0.0.1:2375`",
                orch_domain::text::excerpt(text, 100)
            )
        };
        if text.chars().any(|it| it.is_control() || it.is_whitespace()) {
            return Err(refuse());
        }
        if let Some(path) = text.strip_prefix("unix://") {
            let is_path = path.starts_with('/') && 1 < path.len() && !path.ends_with('/');
            return if is_path {
                Ok(Endpoint::Unix { path: path.to_owned() })
            } else {
                Err(refuse())
            };
        }
        let authority = text.strip_prefix("tcp://").ok_or_else(refuse)?;
        let parsed: http::uri::Authority = authority.parse().map_err(|_| refuse())?;
        let is_plain = !authority.contains('@') && !parsed.host().is_empty();
        match parsed.port_u16() {
            Some(port) if is_plain && port != 0 => {
                Ok(Endpoint::Tcp { authority: authority.to_owned() })
            }
            _ => Err(refuse()),
        }
    }

    /// Whether something is where the engine, or the machine it is on, should be. May wait for ever.
    pub(super) async fn reach(&self, level: Level) -> Result<(), EngineError> {
        let no_connection = |message: &str, trouble| EngineError::NoConnection {
            message: message.to_owned(),
            trouble,
        };
        match (self, level) {
            (Endpoint::Unix { path }, Level::Address) => {
                match tokio::fs::metadata(path).await {
                    Ok(it) if it.file_type().is_socket() => Ok(()),
                    Ok(_) => Err(no_connection(
                        "what is in place of its socket is none",
                        Trouble::NotDocker,
                    )),
                    Err(err) => match err.kind() {
                        ErrorKind::NotFound => {
                            Err(no_connection("its socket is not there", Trouble::SocketMissing))
                        }
                        ErrorKind::PermissionDenied => Err(no_connection(
                            "this server may not see its socket",
                            Trouble::SocketForbidden,
                        )),
                        // What else it may be, its use will tell.
                        _ => Ok(()),
                    },
                }
            }
            (Endpoint::Tcp { authority }, Level::Address) => {
                let connected = TcpStream::connect(authority).await;
                connected.map(drop).map_err(|err| match err.kind() {
                    ErrorKind::ConnectionRefused => {
                        no_connection("nothing listens at its port", Trouble::NothingListens)
                    }
                    _ => no_connection(&super::error::clean(&err.to_string()), Trouble::NoAnswer),
                })
            }
            (Endpoint::Ssh { link, .. }, Level::Address) => {
                link.reach().await.map_err(|err| EngineError::from(&err))
            }
            (Endpoint::Ssh { link, .. }, Level::Ssh) => {
                link.log_in().await.map_err(|err| EngineError::from(&err))
            }
            (Endpoint::Unix { .. } | Endpoint::Tcp { .. }, Level::Ssh) | (_, Level::Engine) => {
                Ok(())
            }
        }
    }

    fn connect(&self) -> Result<Docker, bollard::errors::Error> {
        match self {
            Endpoint::Unix { path } => {
                Docker::connect_with_unix(path, NO_LIMIT_SECS, API_DEFAULT_VERSION)
            }
            Endpoint::Tcp { authority } => {
                Docker::connect_with_http(authority, NO_LIMIT_SECS, API_DEFAULT_VERSION)
            }
            Endpoint::Ssh { link, socket } => over_ssh::connect(link, socket),
        }
    }
}

pub(super) struct Connection {
    pub(super) endpoint: Endpoint,
    /// None until a version was agreed on, and again after the engine was lost: it may come back as another version.
    agreed: Mutex<Option<Docker>>,
}

impl Connection {
    pub(super) fn new(endpoint: Endpoint) -> Connection {
        Connection { endpoint, agreed: Mutex::new(None) }
    }

    /// The connection, and the API version both sides know.
    pub(super) async fn docker(&self) -> Result<Docker, Failure> {
        if let Some(it) = self.agreed.lock().clone() {
            return Ok(it);
        }
        // Several callers may agree at the same time; they come to the same result.
        let docker = self.endpoint.connect()?.negotiate_version().await?;
        let version = docker.client_version();
        let docker =
            docker.with_request_modifier(move |req| with_login(with_version(req, &version)));
        *self.agreed.lock() = Some(docker.clone());
        Ok(docker)
    }

    /// Makes one call, agreeing on a version first where that was not done yet.
    pub(super) async fn call<T, F>(
        &self,
        within: Duration,
        verb: impl FnOnce(Docker) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let call = async {
            let docker = self.docker().await?;
            verb(docker).await.map_err(Failure::from)
        };
        let out = match tokio::time::timeout(within, call).await {
            Ok(out) => out,
            Err(_) => Err(Failure::Engine(EngineError::Timeout { after: within })),
        };
        if matches!(
            out,
            Err(Failure::Engine(
                EngineError::Unreachable { .. }
                    | EngineError::EngineDown { .. }
                    | EngineError::NoConnection { .. }
            ))
        ) {
            *self.agreed.lock() = None;
        }
        out
    }
}

/// bollard resolves `/containers/…` against `…/v1.41/`, which drops the version: without this, requests would be
/// answered in whatever version the engine likes best.
fn with_version(mut req: BollardRequest, version: &ClientVersion) -> BollardRequest {
    let mut parts = req.uri().clone().into_parts();
    let Some(asked) = parts.path_and_query.as_ref().map(PathAndQuery::as_str) else { return req };
    let prefix = format!("/v{version}/");
    if asked.starts_with(&prefix) {
        return req;
    }
    let versioned = format!("{}{}", prefix.trim_end_matches('/'), asked);
    let Ok(path_and_query) = versioned.parse() else { return req };
    parts.path_and_query = Some(path_and_query);
    if let Ok(uri) = Uri::from_parts(parts) {
        *req.uri_mut() = uri;
    }
    req
}

/// bollard writes the login in the common alphabet of base64 and engines read the one for URLs: what they cannot read they
/// take for no login at all. And nobody that logs headers is to show it.
fn with_login(mut req: BollardRequest) -> BollardRequest {
    let Some(given) = req.headers().get(LOGIN) else { return req };
    let for_urls: Vec<u8> = (given.as_bytes().iter())
        .map(|it| match it {
            b'+' => b'-',
            b'/' => b'_',
            it => *it,
        })
        .collect();
    if let Ok(mut login) = HeaderValue::from_bytes(&for_urls) {
        login.set_sensitive(true);
        req.headers_mut().insert(LOGIN, login);
    }
    req
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_people_write_are_read() {
        let unix = Endpoint::parse("unix:///var/run/docker.sock").unwrap();
        assert!(matches!(unix, Endpoint::Unix { path } if path == "/var/run/docker.sock"));
        for good in ["tcp://127.0.0.1:2375", "tcp://node-1.example:2375", "tcp://[::1]:2375"] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for bad in [
            "",
            "/var/run/docker.sock",
            "unix://",
            "unix://var/run/docker.sock",
            "unix:///",
            "tcp://",
            "tcp://host",
            "tcp://host:0",
            "tcp://host:99999",
            "tcp://user:secret@host:1",
            "tcp://host:1/path",
            "ssh://host",
            "http://host:1",
            "tcp://a b:1",
        ] {
            let err = Endpoint::parse(bad).unwrap_err();
            assert!(err.contains("unix:///var/run/docker.sock"), "{bad}: {err}");
        }
    }

    #[test]
    fn a_login_is_written_as_engines_read_it_and_shown_to_nobody() {
        let req = http::Request::builder()
            .uri("http://h/images/create")
            .header("X-Registry-Auth", "ab+/c=")
            .body(bollard::body_full(bytes::Bytes::new()))
            .unwrap();
        let req = with_login(req);
        assert_eq!(req.headers()[LOGIN], "ab-_c=");
        assert!(!format!("{:?}", req.headers()).contains("ab-_c"));
    }

    #[test]
    fn requests_carry_the_agreed_version_once() {
        let version = ClientVersion { major_version: 1, minor_version: 41 };
        let build = |uri: &str| {
            http::Request::builder().uri(uri).body(bollard::body_full(bytes::Bytes::new())).unwrap()
        };
        let req = with_version(build("http://h/containers/json?all=true"), &version);
        assert_eq!(req.uri(), "http://h/v1.41/containers/json?all=true");
        let req = with_version(req, &version);
        assert_eq!(req.uri(), "http://h/v1.41/containers/json?all=true");
    }
}

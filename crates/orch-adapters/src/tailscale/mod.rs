//! Tailscale's local API: which machines this one's network has.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use orch_core::ports::peers::{Peer, Peers, PeersError};
use orch_domain::text::{excerpt, sanitize};
use orch_domain::time::Timestamp;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// It answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// A network of ten thousand machines fits.
const MAX_ANSWER: usize = 32 << 20;
const NO_TAILSCALE: &str = "install Tailscale and start it (`tailscale up`), name its socket in `cluster.tailscale_socket`, \
                            or register machines with `register_node` or `mcp-orch nodes import`";

pub struct Tailscale {
    socket: PathBuf,
}

impl Tailscale {
    /// Listens at `/var/run/tailscale/tailscaled.sock` unless somebody moved it.
    pub fn new(socket: PathBuf) -> Tailscale {
        Tailscale { socket }
    }

    async fn ask(&self) -> Result<Bytes, PeersError> {
        let shown = self.socket.display();
        let failed = |what: &str, source: Box<dyn std::error::Error + Send + Sync>| PeersError {
            message: format!("Tailscale at `{shown}` {what}; {NO_TAILSCALE}"),
            source: Some(source),
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|err| {
            let what = match err.kind() {
                ErrorKind::NotFound => "is not there",
                ErrorKind::PermissionDenied => "may not be used by the user that runs this server",
                ErrorKind::ConnectionRefused => "does not run",
                _ => "cannot be connected to",
            };
            failed(what, Box::new(err))
        })?;
        let broken = |err: hyper::Error| failed("does not speak HTTP", Box::new(err));
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(broken)?;
        // Ends with the answer, or with whoever no longer waits for it.
        let connection = AbortOnDropHandle::new(TaskTracker::new().spawn(connection));
        let request = Request::get("/localapi/v0/status")
            .header(HOST, "local-tailscaled.sock")
            .body(Empty::<Bytes>::new())
            .expect("its parts are constants");
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        drop(connection);
        let body = body.map_err(|err| failed("broke off its answer, or said too much", err))?;
        let body = body.to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        let said = excerpt(&sanitize(&String::from_utf8_lossy(&body[..body.len().min(400)])), 200);
        let hint = match status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                "let the user that runs this server use it (`sudo tailscale set --operator=USER`)"
            }
            _ => "look at its log (`journalctl -u tailscaled`)",
        };
        Err(PeersError {
            message: format!("Tailscale at `{shown}` answered {status}: {said}; {hint}"),
            source: None,
        })
    }
}

#[async_trait]
impl Peers for Tailscale {
    async fn peers(&self) -> Result<Vec<Peer>, PeersError> {
        let shown = self.socket.display();
        let body = tokio::time::timeout(PATIENCE, self.ask()).await.map_err(|err| PeersError {
            message: format!(
                "Tailscale at `{shown}` did not answer within {PATIENCE:?}; restart it (`systemctl restart tailscaled`)"
            ),
            source: Some(Box::new(err)),
        })??;
        let status: Status = serde_json::from_slice(&body).map_err(|err| PeersError {
            message: format!(
                "what answers at `{shown}` is not Tailscale, or of a version that is not understood; {NO_TAILSCALE}"
            ),
            source: Some(Box::new(err)),
        })?;
        if status.backend_state != "Running" {
            let state = excerpt(&sanitize(&status.backend_state), 40);
            return Err(PeersError {
                message: format!(
                    "Tailscale at `{shown}` is not connected (`{state}`); log in with `tailscale up`"
                ),
                source: None,
            });
        }
        let this = status.this.into_iter().map(|it| it.peer(true));
        Ok(this
            .chain(status.peers.unwrap_or_default().into_values().map(|it| it.peer(false)))
            .collect())
    }
}

/// As `tailscale status --json` prints it; only what is used.
#[derive(Deserialize)]
struct Status {
    #[serde(rename = "BackendState")]
    backend_state: String,
    #[serde(rename = "Self")]
    this: Option<Machine>,
    /// By public key; null where there is none.
    #[serde(rename = "Peer", default)]
    peers: Option<BTreeMap<String, Machine>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Machine {
    host_name: String,
    #[serde(default, rename = "DNSName")]
    dns_name: String,
    #[serde(default, rename = "TailscaleIPs")]
    addresses: Option<Vec<IpAddr>>,
    #[serde(default)]
    online: bool,
    #[serde(default, rename = "OS")]
    os: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    /// The first day of the year 1 when it never was.
    #[serde(default)]
    last_seen: Option<String>,
}

impl Machine {
    fn peer(self, is_self: bool) -> Peer {
        let last_seen = self
            .last_seen
            .and_then(|it| serde_json::from_value::<Timestamp>(serde_json::Value::String(it)).ok());
        Peer {
            hostname: self.host_name,
            dns_name: self.dns_name.trim_end_matches('.').to_owned(),
            addresses: self.addresses.unwrap_or_default(),
            is_online: self.online,
            os: self.os,
            tags: self.tags.unwrap_or_default(),
            last_seen: last_seen.filter(|it| Timestamp::ZERO < *it),
            is_self,
        }
    }
}

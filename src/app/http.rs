//! The TCP listener: where it may listen, and what it serves.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::Router;
use axum::serve::ListenerExt;
use orch_core::Orch;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::{Access, Mode, ResourceServer, Sites, oauth};
use crate::config::Config;
use crate::face::mcp::Face;
use crate::face::rest;
use crate::telemetry;

pub(super) struct Http {
    pub address: SocketAddr,
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
}

impl Http {
    pub(super) async fn bind(
        orch: &Arc<Orch>,
        config: &Config,
        demo: bool,
        face: Arc<Face>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Http> {
        let address = choose(config, demo).await?;
        let listener = TcpListener::bind(address).await.with_context(|| in_use(address))?;
        let address = listener.local_addr()?;
        let sites =
            Sites::new(address.ip(), &config.server.allowed_hosts, &config.server.allowed_origins)
                .context("`server.allowed_hosts` or `server.allowed_origins`")?;
        let oauth = ResourceServer::build(config, &url_of(address))?;
        let mode = if config.security.enable_auth { Mode::Login } else { Mode::NoAuth };
        let access =
            Arc::new(Access::new(orch.clone(), mode, sites).with_demo(demo).with_oauth(oauth));
        let mcp = oauth::protect(face.router(access.clone()), &access);
        let metrics = telemetry::start_metrics()?;
        let router = rest::router(orch.clone(), access, Some(metrics)).merge(mcp);
        Ok(Http { address, listener, router, shutdown })
    }

    pub(super) async fn serve(self) {
        // Without this a streamed answer waits for the client's delayed acknowledgement, some 40 ms each.
        let listener = self.listener.tap_io(|stream| {
            if let Err(err) = stream.set_nodelay(true) {
                tracing::debug!("TCP_NODELAY cannot be set: {err}");
            }
        });
        let served = axum::serve(listener, self.router)
            .with_graceful_shutdown(self.shutdown.cancelled_owned())
            .await;
        if let Err(err) = served {
            tracing::error!("HTTP is not served any more: {err}");
        }
    }
}

/// Loopback is for everybody on the machine; anywhere else has to know who calls.
async fn choose(config: &Config, demo: bool) -> anyhow::Result<SocketAddr> {
    let server = &config.server;
    let found: Vec<SocketAddr> = tokio::net::lookup_host((server.host.as_str(), server.port))
        .await
        .with_context(|| {
            format!("`server.host`: `{}` is no address and cannot be found", server.host)
        })?
        .collect();
    let address = *found.first().with_context(|| format!("`{}` has no address", server.host))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    let why = match (demo, config.security.enable_auth) {
        (true, _) => "`--demo` has known passwords",
        (false, false) => "without authentication everybody could run containers",
        (false, true) => {
            tracing::warn!(
                "listening on {} without TLS: passwords and keys can be read on the way; use a reverse proxy with TLS \
                 or a private network such as Tailscale",
                address.ip()
            );
            return Ok(address);
        }
    };
    bail!(
        "refused to listen on {}: {why}\n\
         hint: leave out `--host` (it is then 127.0.0.1), or turn authentication on and the demo off",
        address.ip()
    )
}

fn in_use(address: SocketAddr) -> String {
    format!(
        "{address} cannot be listened on\nhint: choose another port with `--port`; 0 takes a free one"
    )
}

/// As a browser on this machine reaches it.
pub(super) fn url_of(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
        _ => format!("http://{address}"),
    }
}

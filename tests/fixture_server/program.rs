//! A server for tests: all that the protocol has, under the names that the conformance suite calls, over stdio and
//! streamable HTTP, in both eras. It is built on the official library, so that what stands in front of it is not judged
//! by our own reading of the specification. No release of the product carries it.

mod ask;
mod calls;
mod catalog;
mod handler;
mod tasks;

use std::io::Write;

use anyhow::{Context, bail};
use axum::serve::ListenerExt;
use rmcp::ServiceExt;
use rmcp::model::ProtocolVersion;
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use self::handler::Fixture;

/// Which revisions it speaks, so that a test has a server of one era only.
fn versions(era: &str) -> anyhow::Result<&'static [ProtocolVersion]> {
    const MODERN: &[ProtocolVersion] = &[ProtocolVersion::V_2026_07_28];
    Ok(match era {
        "both" => ProtocolVersion::KNOWN_VERSIONS,
        "modern" => MODERN,
        "legacy" => ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25),
        other => bail!("`{other}` is no era: `both`, `modern` or `legacy`"),
    })
}

/// `mcp-fixture stdio|http [both|modern|legacy]`. Over HTTP it says its URL on the first line and ends with its stdin.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let way = arguments.next().context("`stdio` or `http`?")?;
    let fixture = Fixture::new(versions(arguments.next().as_deref().unwrap_or("both"))?);
    match way.as_str() {
        "stdio" => {
            // The other side may go away before it has said anything.
            if let Ok(running) = fixture.serve(rmcp::transport::stdio_pipes()).await {
                running.waiting().await?;
            }
            Ok(())
        }
        "http" => http(fixture).await,
        other => bail!("`{other}` is no way in: `stdio` or `http`"),
    }
}

async fn http(fixture: Fixture) -> anyhow::Result<()> {
    let ended = CancellationToken::new();
    let config = StreamableHttpServerConfig::default()
        .with_allowed_origins(["http://localhost:*", "http://127.0.0.1:*"])
        .with_cancellation_token(ended.child_token());
    let sessions = std::sync::Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(fixture.session()), sessions, config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "http://{}/mcp", listener.local_addr()?)?;
        stdout.flush()?;
    }
    // Without it a short message waits for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let router = axum::Router::new().nest_service("/mcp", service);
    let serving = axum::serve(listener, router);
    let (mut stdin, mut rest) = (tokio::io::stdin(), Vec::new());
    tokio::select! {
        served = serving => served?,
        read = stdin.read_to_end(&mut rest) => drop(read?),
    }
    ended.cancel();
    Ok(())
}

//! An MCP client for the verbs that call operations: over the socket of a running server, over HTTP, or to a server in
//! this process when none runs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest, Implementation,
    JsonObject, ProgressNotificationParam, Request, ServerResult, Tool,
};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, NotificationContext, PeerRequestOptions,
    RequestHandle, RoleClient, RunningService, ServiceError,
};
use rmcp::transport::streamable_http_client::{
    StreamableHttpClientTransport, StreamableHttpClientTransportConfig, StreamableHttpError,
};
use rmcp::{ClientHandler, ClientServiceExt};
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stdio;
use crate::app::Kind;
use crate::app::data_dir::DataDir;
use crate::app::socket::Entry;
use crate::config::{Config, Env};

/// How this client introduces itself; audit tells it from an agent's by this name.
const NAME: &str = "mcp-orch-cli";
const BUFFER: usize = 256 * 1024;

/// Told of progress while a call runs: how far, of how much, and what is going on.
pub(super) type Listener = Arc<dyn Fn(f64, Option<f64>, &str) + Send + Sync>;

/// A connection to a server, wherever it is.
pub(super) struct Connection {
    service: RunningService<RoleClient, Handler>,
    /// Brings us to whoever has the data directory; ends after the connection.
    carrier: Option<JoinHandle<anyhow::Result<()>>>,
    /// The server, when this process started it.
    child: Option<Child>,
}

/// What an operation answered.
pub(super) struct Outcome {
    pub is_error: bool,
    pub value: Value,
    pub text: String,
}

/// Of the protocol's library, what other files of the command line need of a tool.
#[derive(Clone)]
pub(super) struct ToolInfo {
    pub name: String,
    pub title: String,
    pub input: Map<String, Value>,
    pub is_destructive: bool,
}

struct Handler {
    listener: Mutex<Option<Listener>>,
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let implementation = Implementation::new(NAME, env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), implementation)
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener {
            listener(params.progress, params.total, params.message.as_deref().unwrap_or_default());
        }
    }
}

impl Connection {
    /// To whoever serves the data directory, and else to this process. When that one goes away meanwhile another is
    /// found, as for every client on stdin.
    pub(super) async fn local(config: Config, env: &'static dyn Env) -> anyhow::Result<Connection> {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let tasks = TaskTracker::new();
        let carrier = tasks.spawn(async move {
            let (read, write) = tokio::io::split(theirs);
            let (client, stop) = (stdio::Client::new(read, write), CancellationToken::new());
            stdio::carry(client, env, &config, Kind::Stdio, &Entry::default(), stop).await
        });
        match over(tokio::io::split(ours)).await {
            Ok(connection) => Ok(Connection { carrier: Some(carrier), ..connection }),
            // Why there is nobody at the other end, when that is known.
            Err(err) => {
                carrier.await??;
                Err(err)
            }
        }
    }

    /// To whoever serves the data directory now, and never to this process in its place.
    pub(super) async fn attached(data_dir: &DataDir) -> anyhow::Result<Connection> {
        let stream = UnixStream::connect(data_dir.socket()).await.context(
            "the server of this data directory is just starting or ending; run this again in a moment",
        )?;
        over(tokio::io::split(stream)).await
    }

    /// To a server anywhere, by its URL with or without `/mcp`.
    pub(super) async fn http(url: &str, bearer: Option<&str>) -> anyhow::Result<Connection> {
        let url = url.trim_end_matches('/');
        let uri = if url.ends_with("/mcp") { url.to_owned() } else { format!("{url}/mcp") };
        if !(uri.starts_with("http://") || uri.starts_with("https://")) {
            bail!("`{url}` is no URL\nhint: it is such as `http://127.0.0.1:3000`");
        }
        // Fails only when it was done before.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder().tcp_nodelay(true).build()?;
        let mut config = StreamableHttpClientTransportConfig::with_uri(uri.as_str());
        if let Some(bearer) = bearer {
            config = config.auth_header(bearer);
        }
        let transport = StreamableHttpClientTransport::with_client(client, config);
        let service = handler()
            .serve_with_lifecycle(transport, ClientLifecycleMode::Initialize)
            .await
            .map_err(|err| unconnected(&uri, err))?;
        Ok(Connection { service, carrier: None, child: None })
    }

    /// To a `stdio` process of this program, as an MCP client starts it.
    pub(super) async fn spawned(data_dir: &Path) -> anyhow::Result<Connection> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("stdio")
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--log-level", "warn"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("`mcp-orch stdio` cannot be started")?;
        let pipes = child.stdout.take().zip(child.stdin.take()).context("it has no pipes")?;
        let mut connection = over(pipes).await?;
        connection.child = Some(child);
        Ok(connection)
    }

    pub(super) async fn tools(&self) -> anyhow::Result<Vec<ToolInfo>> {
        let tools =
            self.service.list_all_tools().await.context("the server names no operations")?;
        Ok(tools.into_iter().map(tool_info).collect())
    }

    /// Calls an operation; `listener` hears of its progress. Dropped meanwhile, the call goes on; `interrupt` ends it.
    pub(super) async fn call(
        &self,
        name: &str,
        arguments: Map<String, Value>,
        listener: Option<Listener>,
        interrupt: impl Future<Output = ()>,
    ) -> anyhow::Result<Option<Outcome>> {
        *self.service.service().listener.lock() = listener;
        let params = CallToolRequestParams::new(name.to_owned())
            .with_arguments(JsonObject::from_iter(arguments));
        let request = ClientRequest::CallToolRequest(Request::new(params));
        let mut handle: RequestHandle<RoleClient> = self
            .service
            .send_request_with_option(request, PeerRequestOptions::no_options())
            .await?;
        let answered = tokio::select! {
            it = &mut handle.rx => Some(it),
            () = interrupt => None,
        };
        *self.service.service().listener.lock() = None;
        let Some(answered) = answered else {
            handle.cancel(Some("interrupted".to_owned())).await?;
            return Ok(None);
        };
        let answered = match answered.context("the connection to the server was lost")? {
            Err(ServiceError::McpError(err)) => bail!("{}", err.message),
            other => other?,
        };
        let result = match answered {
            ServerResult::CallToolResult(it) => it,
            other => {
                bail!("the server answered something else than the result of a call: {other:?}")
            }
        };
        let texts = result.content.iter().filter_map(|it| it.as_text());
        Ok(Some(Outcome {
            is_error: result.is_error == Some(true),
            text: texts.map(|it| it.text.as_str()).collect::<Vec<_>>().join("\n"),
            value: result.structured_content.unwrap_or(Value::Null),
        }))
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.service.cancel().await.context("the connection did not end well")?;
        if let Some(carrier) = self.carrier {
            carrier.await??;
        }
        if let Some(mut child) = self.child {
            child.wait().await.context("`mcp-orch stdio` did not end")?;
        }
        Ok(())
    }
}

/// Says what kept us from a server, without the layers it came through.
fn unconnected(uri: &str, err: ClientInitializeError) -> anyhow::Error {
    let over_http = match &err {
        ClientInitializeError::TransportError { error, .. } => {
            error.error.downcast_ref::<StreamableHttpError<reqwest::Error>>()
        }
        _ => None,
    };
    match over_http {
        Some(StreamableHttpError::AuthRequired(_)) => anyhow::anyhow!(
            "the server at `{uri}` does not know you\n\
             hint: give an API key or access token with `--api-key`, or in `MCP_ORCH_API_KEY`"
        ),
        Some(StreamableHttpError::Client(err)) if is_refused(err) => anyhow::anyhow!(
            "nothing answers at `{uri}`\nhint: start it with `mcp-orch serve`, or check the address"
        ),
        Some(StreamableHttpError::Client(err)) => anyhow::anyhow!(
            "no connection to `{uri}`: {}\nhint: check the address; `https` needs a certificate that this machine trusts",
            innermost(err)
        ),
        Some(err) => anyhow::anyhow!(
            "what answers at `{uri}` is no mcp-orch, or refuses us: {}\n\
             hint: the address is such as `http://127.0.0.1:3000`; behind another name, add it to `server.allowed_hosts`",
            orch_domain::text::excerpt(&orch_domain::text::sanitize(&innermost(err)), 400)
        ),
        None => anyhow::Error::new(err).context(format!("no connection to `{uri}`")),
    }
}

fn is_refused(err: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(err);
    while let Some(it) = cause {
        if let Some(io) = it.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        cause = it.source();
    }
    false
}

/// What went wrong in the end; what is around it only says that something did.
fn innermost(err: &dyn std::error::Error) -> String {
    match err.source() {
        Some(cause) => innermost(cause),
        None => err.to_string(),
    }
}

fn handler() -> Handler {
    Handler { listener: Mutex::new(None) }
}

async fn over<R, W>(halves: (R, W)) -> anyhow::Result<Connection>
where
    R: tokio::io::AsyncRead + Send + Unpin + 'static,
    W: tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let service = handler()
        .serve_with_lifecycle(halves, ClientLifecycleMode::Initialize)
        .await
        .context("the server did not answer the handshake")?;
    Ok(Connection { service, carrier: None, child: None })
}

/// An operation of this program's own catalogue. A server does not show what its caller may not call.
pub(super) fn known(name: &str) -> Option<ToolInfo> {
    let op = orch_core::ops::catalogue().into_iter().find(|it| it.spec.name == name)?;
    Some(ToolInfo {
        name: name.to_owned(),
        title: op.spec.title().to_owned(),
        input: op.input,
        is_destructive: op.spec.effect.is_destructive(),
    })
}

fn tool_info(tool: Tool) -> ToolInfo {
    let description = tool.description.as_deref().unwrap_or_default();
    ToolInfo {
        title: description.lines().next().unwrap_or_default().to_owned(),
        input: Map::from_iter(tool.input_schema.iter().map(|(k, v)| (k.clone(), v.clone()))),
        is_destructive: tool.annotations.and_then(|it| it.destructive_hint).unwrap_or(false),
        name: tool.name.into_owned(),
    }
}

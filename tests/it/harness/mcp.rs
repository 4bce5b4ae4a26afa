//! Clients of the protocol: the official library in both eras over both ways in, and bare messages where order and
//! framing matter.

use std::sync::Once;

use mcp_orch::face::mcp;
use rmcp::handler::client::ClientHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
    ProtocolVersion, ResourceUpdatedNotificationParam,
};
use rmcp::service::{
    ClientCacheConfig, ClientLifecycleMode, ClientServiceExt, NotificationContext, RoleClient,
    RunningService,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::within;
use super::world::World;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Stream,
    Http,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Era {
    /// 2025-11-25, with a session.
    Legacy,
    /// 2026-07-28, every request by itself.
    Modern,
}

pub(crate) const EVERY_WAY: [(Way, Era); 4] = [
    (Way::Stream, Era::Legacy),
    (Way::Stream, Era::Modern),
    (Way::Http, Era::Legacy),
    (Way::Http, Era::Modern),
];

/// `/mcp` on a port of its own, until it is dropped.
pub(crate) struct Site {
    pub(crate) url: String,
    pub(crate) shutdown: CancellationToken,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) async fn site(world: &World) -> Site {
    use axum::serve::ListenerExt;
    let shutdown = CancellationToken::new();
    let router = mcp::router(world.orch().clone(), world.access(), shutdown.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let listener = listener.tap_io(|it| it.set_nodelay(true).unwrap());
    let until = shutdown.clone().cancelled_owned();
    world.orch().tracker.spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(until).await.unwrap();
    });
    Site { url, shutdown }
}

/// One end of a stream whose other end is served to `user`.
pub(crate) fn stream(world: &World, user: &str) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (orch, caller) = (world.orch().clone(), world.stranger(user));
    let shutdown = orch.shutdown.clone();
    world.orch().tracker.spawn(async move {
        mcp::serve_stream(orch, caller, theirs, shutdown).await.ok();
    });
    ours
}

/// What a client was told without asking.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    Updated(String),
    ListChanged,
    Log(Value),
}

pub(crate) struct Ear {
    name: &'static str,
    sender: mpsc::UnboundedSender<Heard>,
}

impl ClientHandler for Ear {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(ClientCapabilities::default(), Implementation::new(self.name, "9.9"))
    }

    async fn on_resource_updated(
        &self,
        update: ResourceUpdatedNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.sender.send(Heard::Updated(update.uri)).ok();
    }

    async fn on_resource_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.sender.send(Heard::ListChanged).ok();
    }

    #[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
    async fn on_logging_message(
        &self,
        message: rmcp::model::LoggingMessageNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.sender.send(Heard::Log(message.data)).ok();
    }
}

pub(crate) struct Client {
    pub(crate) service: RunningService<RoleClient, Ear>,
    pub(crate) heard: mpsc::UnboundedReceiver<Heard>,
    /// Over HTTP, the server that was started for it.
    _site: Option<Site>,
}

impl std::ops::Deref for Client {
    type Target = RunningService<RoleClient, Ear>;
    fn deref(&self) -> &Self::Target {
        &self.service
    }
}

pub(crate) async fn connect(world: &World, user: &str, way: Way, era: Era) -> Client {
    connect_as(world, user, way, era, "test-client").await
}

pub(crate) async fn connect_as(
    world: &World,
    user: &str,
    way: Way,
    era: Era,
    name: &'static str,
) -> Client {
    match way {
        Way::Stream => {
            let (sender, heard) = mpsc::unbounded_channel();
            let ear = Ear { name, sender };
            let serving = ear.serve_with_lifecycle(stream(world, user), lifecycle(era));
            let service = within("a client over a stream", serving).await.unwrap();
            service.set_response_cache_config(ClientCacheConfig::disabled()).await;
            Client { service, heard, _site: None }
        }
        Way::Http => {
            let site = site(world).await;
            let key = world.api_key(user, &world.caller(user).permissions).await;
            let mut client = connect_to(&site, &key, era, name).await;
            client._site = Some(site);
            client
        }
    }
}

pub(crate) async fn connect_to(site: &Site, key: &str, era: Era, name: &'static str) -> Client {
    let (sender, heard) = mpsc::unbounded_channel();
    let ear = Ear { name, sender };
    let config = StreamableHttpClientTransportConfig::with_uri(site.url.as_str())
        .auth_header(key.to_owned());
    let transport = StreamableHttpClientTransport::with_client(http_client(), config);
    let serving = ear.serve_with_lifecycle(transport, lifecycle(era));
    let service = within("a client over HTTP", serving).await.unwrap();
    service.set_response_cache_config(ClientCacheConfig::disabled()).await;
    Client { service, heard, _site: None }
}

fn lifecycle(era: Era) -> ClientLifecycleMode {
    match era {
        Era::Legacy => ClientLifecycleMode::Initialize,
        Era::Modern => ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        },
    }
}

pub(crate) fn http_client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Whoever else installed one first is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
    });
    reqwest::Client::new()
}

impl Client {
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> CallToolResult {
        within(tool, self.service.call_tool(params(tool, arguments))).await.unwrap()
    }

    /// The structured answer of a call that is not refused.
    pub(crate) async fn answer(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_ne!(result.is_error, Some(true), "{tool}: {result:?}");
        result.structured_content.unwrap()
    }

    /// The structured refusal of a call that is refused.
    pub(crate) async fn refusal(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_eq!(result.is_error, Some(true), "{tool}: {result:?}");
        let text = result.content[0].as_text().unwrap().text.clone();
        let refusal = result.structured_content.unwrap();
        // Both halves say the same, for clients that show only one.
        let both = format!(
            "{}: {}",
            refusal["error"].as_str().unwrap(),
            refusal["message"].as_str().unwrap()
        );
        assert_eq!(text, both);
        refusal
    }

    pub(crate) async fn hears(&mut self) -> Heard {
        within("word from the server", self.heard.recv()).await.unwrap()
    }
}

pub(crate) fn params(tool: &str, arguments: Value) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments)
}

/// `_meta` of a modern request.
pub(crate) fn modern_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bare", "version": "0"},
    })
}

/// Messages as they are, one per line.
pub(crate) struct Bare {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    write: WriteHalf<DuplexStream>,
    era: Era,
}

impl Bare {
    /// Ready for requests.
    pub(crate) async fn connect(world: &World, user: &str, era: Era) -> Bare {
        let (read, write) = tokio::io::split(stream(world, user));
        let mut bare = Bare { lines: BufReader::new(read).lines(), write, era };
        if era == Era::Legacy {
            let client = json!({"name": "bare", "version": "0"});
            let hello =
                json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
            bare.send(
                json!({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": hello}),
            )
            .await;
            assert_eq!(bare.next().await["id"], "hello");
            bare.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        }
        bare
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.write.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn request(&mut self, id: impl Into<Value>, method: &str, params: Value) {
        let message = request(self.era, id.into(), method, params);
        self.send(message).await;
    }

    pub(crate) async fn next(&mut self) -> Value {
        let line = within("a message", self.lines.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("the stream is open")).unwrap()
    }

    /// The answer to `id`, past whatever comes before it.
    pub(crate) async fn answer_to(&mut self, id: impl Into<Value>) -> Value {
        let id = id.into();
        loop {
            let message = self.next().await;
            if message["id"] == id {
                return message;
            }
        }
    }
}

pub(crate) fn request(era: Era, id: Value, method: &str, mut params: Value) -> Value {
    if era == Era::Modern {
        let mut meta = modern_meta();
        if let Some(own) = params["_meta"].as_object() {
            meta.as_object_mut().unwrap().extend(own.clone());
        }
        params["_meta"] = meta;
    }
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A modern request over HTTP, as it is.
pub(crate) fn post(site: &Site, key: &str, message: &Value) -> reqwest::RequestBuilder {
    let method = message["method"].as_str().unwrap_or_default();
    let mut request = http_client()
        .post(&site.url)
        .bearer_auth(key)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method)
        .json(message);
    let name = message["params"]["name"].as_str().or(message["params"]["uri"].as_str());
    if let Some(name) = name {
        request = request.header("mcp-name", name);
    }
    request
}

/// The messages of an event stream, in order.
pub(crate) fn events(body: &str) -> Vec<Value> {
    let data = body.lines().filter_map(|it| it.strip_prefix("data:")).map(str::trim);
    data.filter(|it| !it.is_empty()).map(|it| serde_json::from_str(it).unwrap()).collect()
}

/// A session as a client up to 2025-11-25 has it over HTTP.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) id: String,
}

impl Session {
    pub(crate) async fn begin(site: &Site, key: &str) -> Session {
        let client = json!({"name": "bare", "version": "0"});
        let hello =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let message = request(Era::Legacy, json!(0), "initialize", hello);
        let request = http_client()
            .post(&site.url)
            .bearer_auth(key)
            .header("accept", "application/json, text/event-stream")
            .json(&message);
        let response = within("a session", request.send()).await.unwrap();
        let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        within("the end of the answer", response.text()).await.unwrap();
        let session = Session { url: site.url.clone(), key: key.to_owned(), id };
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(session.post(&ready).send().await.unwrap().status(), 202);
        session
    }

    fn with_headers(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request
            .bearer_auth(&self.key)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2025-11-25")
            .header("mcp-session-id", &self.id)
    }

    pub(crate) fn post(&self, message: &Value) -> reqwest::RequestBuilder {
        self.with_headers(http_client().post(&self.url)).json(message)
    }

    pub(crate) fn get(&self) -> reqwest::RequestBuilder {
        self.with_headers(http_client().get(&self.url))
    }

    pub(crate) fn delete(&self) -> reqwest::RequestBuilder {
        self.with_headers(http_client().delete(&self.url))
    }
}

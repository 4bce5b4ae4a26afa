//! The hub and its file of servers, as the floor below wants them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch_core::Cx;
use orch_core::operation::Summary;
use orch_core::ports::server_login::ServerLogins;
use orch_core::ports::tool_server::{
    FlaggedTool, ReloadedServers, ResultPart, ServerState, ServerTool, ToolServer, ToolServers,
    no_result, no_server, no_tool_of,
};
use orch_domain::redact::SecretValues;
use orch_domain::{Error, text};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, Item, List};
use crate::config::{McpConfig, Reach, Upstream};
use crate::hub::{Hub, Reloaded};
use crate::members::Members;
use crate::safety::pin::{self, PinMode};
use crate::server::{Server, State};
use crate::session::Visitor;
use crate::upstream::LinkError;

/// Between two looks at the file.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Of what a server said, what an error message repeats.
const EXCERPT: usize = 500;

/// Looks up variables of the environment that the file refers to.
pub type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

pub struct Gateway {
    pub hub: Arc<Hub>,
    /// Where the configuration is read from, and written to when servers are added.
    file: PathBuf,
    lookup: Lookup,
    /// One more server than the file has, which no change of the file touches.
    published: Option<(String, Upstream)>,
    /// One change of the file at a time.
    editing: tokio::sync::Mutex<()>,
    catalog: parking_lot::Mutex<Known>,
}

/// All tools read for the floor below. Invariant: `tools` are those of `of`.
#[derive(Default)]
struct Known {
    /// By server; held, so that another catalog has another address.
    of: Vec<(Arc<str>, Arc<Catalog>)>,
    tools: Arc<Vec<ServerTool>>,
}

impl Gateway {
    pub fn new(hub: Arc<Hub>, file: PathBuf, lookup: Lookup) -> Gateway {
        Gateway {
            hub,
            file,
            lookup,
            published: None,
            editing: tokio::sync::Mutex::default(),
            catalog: parking_lot::Mutex::default(),
        }
    }

    /// With one more server than the file has. In a file that has one of that name, it takes that one's place.
    pub fn publishing(mut self, name: String, server: Upstream) -> Gateway {
        self.published = Some((name, server));
        self
    }

    /// Goes over to another configuration: only what differs is restarted.
    pub fn apply(&self, mut config: McpConfig) -> Reloaded {
        config.servers.extend(self.published.clone());
        self.hub.reload(&config)
    }

    /// Goes over to what the file says whenever it changes, until `ended`.
    pub async fn run(&self, ended: CancellationToken) {
        let mut seen = self.stamp();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = ended.cancelled() => return,
            }
            self.hub.safety().results.expire(self.hub.now());
            let now = self.stamp();
            if now == seen {
                continue;
            }
            seen = now;
            match self.reload().await {
                Ok(it) => tracing::info!("the file of servers has changed: {}", it.summary()),
                Err(err) => tracing::warn!("{err}"),
            }
        }
    }

    /// Changes when the file does. None: it is not there.
    fn stamp(&self) -> Option<(std::time::SystemTime, u64)> {
        let about = fs_err::metadata(&self.file).ok()?;
        Some((about.modified().ok()?, about.len()))
    }

    /// The file as it is; one that is not there has no servers.
    pub fn read(file: &std::path::Path, lookup: &Lookup) -> Result<McpConfig, Error> {
        let text = match fs_err::read_to_string(file) {
            Ok(it) => it,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                return Ok(McpConfig::default());
            }
            Err(err) => {
                return Err(Error::invalid(
                    "",
                    format!("the file of servers cannot be read: {err}"),
                ));
            }
        };
        McpConfig::parse(&text, &|name| lookup(name))
            .map_err(|err| Error::invalid("", format!("`{}`: {err}", file.display())))
    }

    /// Changes the entries of the file, all else in it staying as it is, and goes over to it. Nothing is changed when
    /// the result would not be valid.
    async fn edit(
        &self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _editing = self.editing.lock().await;
        let unwritable = |err: std::io::Error| Error::Unavailable {
            message: "the file of servers could not be written; nothing was changed".to_owned(),
            source: Some(Box::new(err)),
        };
        let text = match fs_err::read_to_string(&self.file) {
            Ok(it) => it,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
            Err(err) => return Err(unwritable(err)),
        };
        let mut root: Map<String, Value> = serde_json::from_str(&text).map_err(|err| {
            Error::conflict(format!(
                "`{}` is not valid JSON ({err}); mend it first",
                self.file.display()
            ))
        })?;
        let servers = root.entry("mcpServers").or_insert_with(|| json!({}));
        let Value::Object(servers) = servers else {
            return Err(Error::conflict(format!(
                "`mcpServers` in `{}` is no object; mend it first",
                self.file.display()
            )));
        };
        change(servers)?;
        let text = serde_json::to_string_pretty(&root).map_err(Error::internal)?;
        let config = McpConfig::parse(&text, &|name| (self.lookup)(name))
            .map_err(|err| Error::invalid("", err.to_string()))?;
        let (file, text) = (self.file.clone(), text + "\n");
        tokio::task::spawn_blocking(move || replace(&file, &text))
            .await
            .map_err(Error::internal)?
            .map_err(unwritable)?;
        self.apply(config);
        Ok(())
    }
}

/// Whole or not at all, also when the machine stops meanwhile; readable by its owner alone, because it holds secrets.
fn replace(file: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = file.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let new = file.with_extension("json.new");
    // Left over from a crash.
    fs_err::remove_file(&new).or_else(|err| match err.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(err),
    })?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut out = options.open(&new)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs_err::rename(&new, file)
}

#[async_trait]
impl ToolServers for Gateway {
    fn servers(&self) -> Vec<ToolServer> {
        self.hub.servers().iter().map(|it| view(it)).collect()
    }

    fn catalog(&self) -> Arc<Vec<ServerTool>> {
        let catalogs: Vec<_> =
            self.hub.servers().into_iter().map(|it| (it.name.clone(), it.catalog())).collect();
        let mut known = self.catalog.lock();
        let is_same = known.of.len() == catalogs.len()
            && known.of.iter().zip(&catalogs).all(|((name, catalog), (new_name, new))| {
                name == new_name && Arc::ptr_eq(catalog, new)
            });
        if !is_same {
            let tools: Vec<ServerTool> = catalogs
                .iter()
                .flat_map(|(name, catalog)| {
                    catalog.of(List::Tools).iter().map(|tool| tool_of(name, tool, catalog))
                })
                .collect();
            // Lists are read again now and then, and mostly say what they said.
            if *known.tools != tools {
                known.tools = Arc::new(tools);
            }
            known.of = catalogs;
        }
        known.tools.clone()
    }

    async fn call(
        &self,
        server: &str,
        tool: &str,
        arguments: Map<String, Value>,
        cx: &Cx,
    ) -> Result<Value, Error> {
        let server = self.hub.server(server).ok_or_else(|| no_server(server))?;
        // Who does not know yet what it has is given a moment.
        server.settled().await;
        let found = server.catalog().find(List::Tools, tool).cloned();
        if let Some(held) = server.held_back(tool).filter(|_| found.is_none()) {
            return Err(failure(&server, held));
        }
        // What is denied is not called either, and what a server has that never answered is not known.
        // What was never seen could be something to quarantine.
        let is_known = matches!(server.state().0, State::Ready | State::Degraded { .. })
            || !server.spec.tools.is_plain()
            || server.offer().pin == PinMode::Enforce;
        if found.is_none() && is_known {
            return Err(no_tool_of(&server.name, tool));
        }
        self.hub.admit(&server, cx)?;
        let mut params = Members::default();
        let origin = found.as_ref().map_or_else(|| tool.into(), |it| it.origin.clone());
        params.set("name", &*origin);
        params.set("arguments", &arguments);
        if let Some(filled) = server.spec.tools.with_defaults(&origin, params.get("arguments")) {
            params.set("arguments", &filled);
        }
        if cx.progress.is_wanted() {
            params.set("_meta", &json!({"progressToken": 0}));
        }
        let user = cx.maybe_caller().map_or("", |it| it.user.as_str());
        let visitor = Arc::new(Visitor::of_call(user, cx.takes_whole()));
        let forward = self.hub.call(server.clone(), found, params, visitor);
        let called = async {
            let id = crate::frame::raw(&0);
            let mut answering = forward.send(id).await.map_err(|err| failure(&server, err))?;
            loop {
                let frame = answering.next().await.map_err(|err| failure(&server, err))?;
                if frame.is("notifications/progress") {
                    report(cx, frame.params.as_ref().map(|it| it.get()).unwrap_or_default());
                } else if frame.method.is_none() {
                    return result_of(&server, frame);
                }
            }
        };
        tokio::select! {
            called = called => called,
            // Dropping the exchange cancels it there.
            () = cx.cancel.cancelled() => Err(Error::Cancelled {
                message: format!("the call of `{}.{tool}` was withdrawn", server.name),
            }),
        }
    }

    fn secrets(&self) -> Arc<SecretValues> {
        self.hub.secrets()
    }

    async fn reload(&self) -> Result<ReloadedServers, Error> {
        let _editing = self.editing.lock().await;
        let config = Gateway::read(&self.file, &self.lookup)
            .map_err(|err| Error::invalid("", format!("{err}; the servers go on as they were")))?;
        let report = self.apply(config);
        Ok(ReloadedServers {
            added: report.added,
            changed: report.changed,
            removed: report.removed,
            unchanged: report.unchanged,
        })
    }

    async fn add(&self, name: &str, entry: Value, replace: bool) -> Result<(), Error> {
        self.edit(|servers| {
            if servers.contains_key(name) && !replace {
                return Err(Error::conflict(format!(
                    "there is a server `{name}` already; `replace=true` puts this one in its place"
                )));
            }
            servers.insert(name.to_owned(), entry);
            Ok(())
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        self.edit(|servers| servers.remove(name).map(drop).ok_or_else(|| no_server(name))).await?;
        // One that comes under this name later is another.
        pin::forget(self.hub.safety().dir_of("pins"), name);
        Ok(())
    }

    async fn approve(&self, server: &str, tools: &[String]) -> Result<Vec<FlaggedTool>, Error> {
        let server = self.hub.server(server).ok_or_else(|| no_server(server))?;
        let before = flagged(&server);
        let approved = server.approve(tools).await.map_err(|name| Error::NotFound {
            kind: "tool",
            id: text::excerpt(&name, 100),
            hint: format!(
                "`list_servers` shows the tools of `{}` that are `flagged`, and `list_tools` the others",
                server.name
            ),
        })?;
        let is_approved = |it: &FlaggedTool| approved.iter().any(|flag| *flag.origin == *it.tool);
        Ok(before.into_iter().filter(is_approved).collect())
    }

    async fn result(
        &self,
        id: &str,
        offset: u64,
        max_bytes: usize,
        cx: &Cx,
    ) -> Result<ResultPart, Error> {
        let owner = cx.caller()?.user.to_string();
        let (safety, wanted, now) = (self.hub.safety().clone(), id.to_owned(), self.hub.now());
        let read = tokio::task::spawn_blocking(move || {
            safety.results.part(&owner, &wanted, offset, max_bytes, now)
        });
        let part = read.await.map_err(Error::internal)?.map_err(Error::internal)?;
        let part = part.ok_or_else(|| no_result(id))?;
        Ok(ResultPart {
            id: id.to_owned(),
            media_type: part.media_type,
            offset: part.offset,
            size: part.size,
            next_offset: part.next_offset,
            text: part.text,
            boundary: 0,
        })
    }

    fn logins(&self) -> Option<&dyn ServerLogins> {
        Some(self)
    }
}

fn view(server: &Server) -> ToolServer {
    let (state, state_since) = server.state();
    let (word, reason, next_retry) = match state {
        State::Disabled => (ServerState::Disabled, None, None),
        State::Connecting => (ServerState::Connecting, None, None),
        State::Ready => (ServerState::Ready, None, None),
        State::Degraded { reason } => (ServerState::Degraded, Some(reason), None),
        State::NeedsLogin { reason } => (ServerState::NeedsLogin, Some(reason), None),
        State::Failed { reason, next_retry } => {
            (ServerState::Failed, Some(reason), Some(next_retry))
        }
    };
    let target = match &server.spec.reach {
        Reach::Stdio { command, .. } => command.clone(),
        // What is behind the `?` may be a key.
        Reach::Http { url, .. } => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
        Reach::OpenApi { document, .. } => {
            document.split(['?', '#']).next().unwrap_or_default().to_owned()
        }
    };
    let welcome = server.welcome();
    let software = welcome.as_ref().map(|it| &it.info).and_then(|it| {
        let name = it.text("name")?;
        Some(text::excerpt(&format!("{name} {}", it.text("version").unwrap_or_default()), 100))
    });
    let catalog = server.catalog();
    ToolServer {
        name: server.name.to_string(),
        transport: server.transport().to_owned(),
        target,
        state: word,
        state_since,
        reason: reason.map(|it| text::sanitize(&it)),
        next_retry,
        software,
        protocol_version: welcome.map(|it| it.terms.version),
        n_tools: catalog.tools.len(),
        n_prompts: catalog.prompts.len(),
        n_resources: catalog.resources.len(),
        n_connections: server.n_connections(),
        pin: server.offer().pin.as_str().to_owned(),
        flagged: flagged(server),
    }
}

/// Tools that are not what they were when they were first seen.
fn flagged(server: &Server) -> Vec<FlaggedTool> {
    let catalog = server.catalog();
    let Some(said) = server.offer().said().filter(|_| !catalog.flags.is_empty()) else {
        return Vec::new();
    };
    let flags = catalog.flags.iter();
    flags
        .map(|flag| {
            let item = said.catalog.find(List::Tools, &flag.origin);
            let words = item.and_then(|it| Members::of(&it.json)?.text("description"));
            let offered = server.spec.tools.apply(item.cloned().into_iter().collect());
            FlaggedTool {
                tool: flag.origin.to_string(),
                offered: offered.first().map(|it| it.name.to_string()),
                differs: flag.differs.as_str().to_owned(),
                quarantined: flag.is_quarantined,
                description: text::excerpt(&text::sanitize(&words.unwrap_or_default()), 2000),
            }
        })
        .collect()
}

fn tool_of(server: &str, item: &Item, catalog: &Catalog) -> ServerTool {
    let tool = Members::of(&item.json).unwrap_or_default();
    let flag = catalog.flags.iter().find(|it| it.origin == item.origin);
    let value = |key: &str| tool.get(key).and_then(|it| serde_json::from_str(it.get()).ok());
    ServerTool {
        server: server.to_owned(),
        name: tool.text("name").unwrap_or_default(),
        title: tool.text("title"),
        description: tool.text("description").unwrap_or_default(),
        input_schema: value("inputSchema").unwrap_or_else(|| json!({"type": "object"})),
        output_schema: value("outputSchema"),
        annotations: value("annotations"),
        pin: flag.map(|it| it.differs.as_str().to_owned()),
    }
}

fn report(cx: &Cx, params: &str) {
    let Ok(params) = serde_json::from_str::<Value>(params) else { return };
    let message = text::sanitize(params["message"].as_str().unwrap_or_default());
    let progress = params["progress"].as_f64().unwrap_or_default();
    cx.progress.report(progress, params["total"].as_f64(), text::excerpt(&message, EXCERPT));
}

fn result_of(server: &Server, frame: crate::frame::Frame) -> Result<Value, Error> {
    if let Some(result) = frame.result {
        return serde_json::from_str(result.get()).map_err(Error::internal);
    }
    let error = frame.error.as_ref().and_then(Members::of).unwrap_or_default();
    let message = text::sanitize(&error.text("message").unwrap_or_default());
    let code = error.get("code").map_or("", |it| it.get());
    Err(Error::UpstreamError {
        server: server.name.to_string(),
        message: format!(
            "the server `{}` refused the call: {} ({code})",
            server.name,
            text::excerpt(&message, EXCERPT)
        ),
    })
}

/// A failure of the connection, as every face says it.
pub fn failure(server: &Server, err: LinkError) -> Error {
    let name = server.name.to_string();
    if let LinkError::Quarantined { tool, differs } = &err {
        let tool = text::excerpt(tool, 200);
        return Error::IncorrectState {
            id: format!("{name}.{tool}"),
            state: "quarantined".to_owned(),
            message: format!(
                "the tool `{name}.{tool}` is {differs} since it was first seen and is quarantined; `list_servers` shows \
                 how it describes itself now, and an administrator approves it with `approve_tools` and server={name} \
                 tools=[\"{tool}\"]"
            ),
        };
    }
    if let LinkError::Timeout { after, .. } = err {
        let timeout_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        return Error::UpstreamTimeout { server: name, timeout_ms };
    }
    let said = text::excerpt(&text::sanitize(&err.to_string()), EXCERPT);
    // Whole sentences with what to do; nothing is wrong with the server.
    if let LinkError::LoginNeeded { .. } | LinkError::Forbidden { .. } = err {
        return Error::UpstreamError { server: name, message: said };
    }
    Error::UpstreamError {
        message: format!(
            "the server `{name}` did not take the call: {said}; `list_servers` shows how it is"
        ),
        server: name,
    }
}

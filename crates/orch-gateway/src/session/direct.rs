//! A client that speaks to one server as that is: no names changed, nothing added, every method passed on. Where the two
//! speak different eras, what one has and the other has not is put into its words.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::watch::{Watch, subscribe};
use super::{Connection, Visitor};
use crate::catalog::List;
use crate::edge::Asking;
use crate::forward::Forward;
use crate::frame::{Frame, Raw, raw};
use crate::hub::Hub;
use crate::members::Members;
use crate::server::{Change, Heard, Server};
use crate::upstream::handshake::{LATEST_SESSION, STATELESS, Welcome};
use crate::upstream::pending::SUBSCRIPTION;
use crate::upstream::{Era, Exchange, LinkError};

const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// What a server is in a discovery that is made up for it: it may be another after its next start.
const DISCOVERY_TTL_MS: u64 = 60_000;

/// The one server, and the client's side of it.
pub struct Direct {
    pub server: Arc<Server>,
    pub visitor: Arc<Visitor>,
    hub: Arc<Hub>,
    /// What a client with sessions wants to hear of a server without them.
    uris: watch::Sender<Vec<String>>,
    listening: Mutex<Option<DropGuard>>,
}

/// What to do with a request.
pub enum Turn {
    /// It goes on.
    Forward(Box<Forward>),
    /// It is answered here.
    Answer(Frame),
    /// Here too, and for as long as the client listens.
    Listen(Listening),
}

impl Direct {
    pub fn new(hub: Arc<Hub>, server: Arc<Server>, visitor: Arc<Visitor>) -> Direct {
        Direct { server, visitor, hub, uris: watch::Sender::default(), listening: Mutex::default() }
    }

    /// The same server for one request of a stream whose client turns out to say everything with each.
    pub fn for_request(&self, frame: &Frame) -> Direct {
        let visitor = Visitor::of_request(&self.visitor.user, frame, true);
        Direct::new(self.hub.clone(), self.server.clone(), Arc::new(visitor))
    }

    /// The tool a request calls, where the server lists it.
    pub fn tool(&self, frame: &Frame) -> Option<crate::catalog::Item> {
        if frame.method.as_deref() != Some("tools/call") {
            return None;
        }
        let name = Members::of_params(frame.params.as_ref()).text("name")?;
        self.server.catalog().find(List::Tools, &name).cloned()
    }

    /// Why a tool is not called.
    fn held(&self, frame: &Frame) -> Option<LinkError> {
        if !frame.is("tools/call") {
            return None;
        }
        let name = Members::of_params(frame.params.as_ref()).text("name")?;
        self.server.held_back_by_origin(&name)
    }

    pub async fn request(&self, frame: &Frame) -> Result<Turn, LinkError> {
        let id = frame.id.clone().unwrap_or_else(|| raw(&()));
        let method = frame.method.as_deref().unwrap_or_default();
        let shared = self.server.connected().await?;
        let params = Members::of_params(frame.params.as_ref());
        Ok(match (self.visitor.era, shared.welcome.terms.era, method) {
            (Era::Session, era, "initialize") => {
                self.visitor.introduce(frame.params.as_ref());
                let result = match era {
                    Era::Session => {
                        let connection = self.server.connection_of_session(&self.visitor).await?;
                        connection.live.welcome.answer.clone()
                    }
                    Era::Stateless => initialized(&shared.welcome, &params),
                };
                Turn::Answer(Frame::result(id, result))
            }
            (Era::Stateless, Era::Session, "server/discover") => {
                Turn::Answer(Frame::result(id, discovered(&shared.welcome)))
            }
            (Era::Stateless, Era::Session, "subscriptions/listen") => {
                Turn::Listen(self.listen(id, &params).await)
            }
            (Era::Session, Era::Stateless, "ping") => {
                Turn::Answer(Frame::result(id, raw(&json!({}))))
            }
            (Era::Session, Era::Stateless, "logging/setLevel") => {
                self.visitor.set_log_level(params.get("level").cloned());
                Turn::Answer(Frame::result(id, raw(&json!({}))))
            }
            (Era::Session, Era::Stateless, "resources/subscribe" | "resources/unsubscribe") => {
                let uri = params.text("uri").unwrap_or_default();
                self.uris.send_modify(|uris| {
                    uris.retain(|it| *it != uri);
                    if method == "resources/subscribe" {
                        uris.push(uri);
                    }
                });
                Turn::Answer(Frame::result(id, raw(&json!({}))))
            }
            _ => Turn::Forward(Box::new(self.forward(frame))),
        })
    }

    fn forward(&self, frame: &Frame) -> Forward {
        let view = crate::view::View::default();
        let asking = Asking { frame, view: &view, visitor: &self.visitor };
        let params = Members::of_params(frame.params.as_ref());
        let is_tool_call = frame.method.as_deref() == Some("tools/call");
        let tool = self.tool(frame);
        let target = match params.text("name") {
            Some(name) if is_tool_call => crate::names::canonical(&self.server.name, &name),
            _ => format!("{} of {}", frame.method.as_deref().unwrap_or_default(), self.server.name),
        };
        Forward {
            is_tool_call,
            held: self.held(frame).map(Box::new),
            tool,
            ..self.hub.forward(&asking, self.server.clone(), target, params)
        }
    }

    /// What a client says that is answered by nothing.
    pub async fn notification(&self, frame: &Frame) {
        let Ok(shared) = self.server.connected().await else { return };
        match shared.welcome.terms.era {
            Era::Stateless if frame.is("notifications/initialized") => self.begin_to_listen(),
            // There, a client says nothing of its own accord.
            Era::Stateless => {}
            Era::Session => {
                if let Some(session) = self.visitor.session
                    && let Some(live) = self.server.present(session).await
                {
                    live.link.tell(frame.clone()).await.ok();
                }
            }
        }
    }

    /// A client with sessions hears of changes without asking for them; a server without is to be asked.
    fn begin_to_listen(&self) {
        let ended = CancellationToken::new();
        *self.listening.lock() = Some(ended.clone().drop_guard());
        let (server, visitor, mut uris) =
            (self.server.clone(), self.visitor.clone(), self.uris.subscribe());
        self.server.around.tasks.clone().spawn(async move {
            let mut wanted = uris.borrow_and_update().clone();
            let mut exchange = server.listen_to(&wanted).await;
            loop {
                tokio::select! {
                    heard = crate::server::next_of(&mut exchange) => match heard {
                        Heard::Said(frame)
                            if frame.is("notifications/subscriptions/acknowledged") => {}
                        Heard::Said(frame) => drop(visitor.tell(untagged(frame))),
                        Heard::Refused => return,
                        Heard::End => {
                            tokio::time::sleep(crate::server::RELISTEN).await;
                            exchange = server.listen_to(&wanted).await;
                        }
                    },
                    changed = uris.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        wanted = uris.borrow_and_update().clone();
                        exchange = server.listen_to(&wanted).await;
                    }
                    () = ended.cancelled() => return,
                }
            }
        });
    }

    /// A subscription of the later era at a server that knows only the earlier one's.
    async fn listen(&self, id: Raw, params: &Members) -> Listening {
        let filter = params.object("notifications").unwrap_or_default();
        let wants = |key: &str| filter.get(key).is_some_and(|it| it.get() == "true");
        let changes = self.hub.changes();
        // Where the client's calls go, there is what they change.
        let connection = self.server.connection_for(&self.visitor).await.ok();
        let told = connection.as_ref().and_then(Connection::told);
        let mut watches = Vec::new();
        let mut uris = Vec::new();
        for uri in filter.array("resourceSubscriptions").unwrap_or_default() {
            let Ok(uri) = serde_json::from_str::<String>(uri.get()) else { continue };
            // What the server refuses is not acknowledged.
            if let Some(connection) = connection.as_ref().filter(|it| !it.is_shared()) {
                if subscribe(&connection.live, &uri, "resources/subscribe").await.is_ok() {
                    uris.push(uri);
                }
            } else if let Ok(watch) = self.server.watch(&uri).await {
                watches.push(watch);
                uris.push(uri);
            }
        }
        let mut accepted = Members::default();
        for key in ["toolsListChanged", "promptsListChanged", "resourcesListChanged"] {
            if wants(key) {
                accepted.set(key, &true);
            }
        }
        if !uris.is_empty() {
            accepted.set("resourceSubscriptions", &uris);
        }
        let mut said = Members::default();
        said.set("notifications", &accepted);
        let first = tagged("notifications/subscriptions/acknowledged", said, &id);
        Listening {
            id,
            first: Some(first),
            tools: wants("toolsListChanged"),
            prompts: wants("promptsListChanged"),
            resources: wants("resourcesListChanged"),
            uris,
            server: self.server.name.clone(),
            changes,
            told,
            connection,
            tasks: self.server.around.tasks.clone(),
            _watches: watches,
        }
    }
}

/// A subscription that is kept up here.
pub struct Listening {
    id: Raw,
    first: Option<Frame>,
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
    server: Arc<str>,
    changes: broadcast::Receiver<Change>,
    /// Of the connection that is the client's alone; then `changes` are of another.
    told: Option<broadcast::Receiver<Arc<Frame>>>,
    connection: Option<Connection>,
    tasks: TaskTracker,
    _watches: Vec<Watch>,
}

impl Listening {
    /// Until the gateway ends; then the answer.
    pub async fn next(&mut self) -> Frame {
        if let Some(first) = self.first.take() {
            return first;
        }
        if self.told.is_some() {
            return self.next_told().await;
        }
        loop {
            let method = match self.changes.recv().await {
                Ok(Change::List { server, list }) if server == self.server => match list {
                    List::Tools if self.tools => "notifications/tools/list_changed",
                    List::Prompts if self.prompts => "notifications/prompts/list_changed",
                    List::Resources if self.resources => "notifications/resources/list_changed",
                    _ => continue,
                },
                Ok(Change::Notification { server, frame })
                    if server == self.server && frame.is("notifications/resources/updated") =>
                {
                    let params = Members::of_params(frame.params.as_ref());
                    if params.text("uri").is_some_and(|it| self.uris.contains(&it)) {
                        return tagged("notifications/resources/updated", params, &self.id);
                    }
                    continue;
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return self.end(),
            };
            return tagged(method, Members::default(), &self.id);
        }
    }

    /// The same of what is said on the client's own connection.
    async fn next_told(&mut self) -> Frame {
        loop {
            let Some(told) = &mut self.told else { return self.end() };
            let frame = match told.recv().await {
                Ok(frame) => frame,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return self.end(),
            };
            let params = Members::of_params(frame.params.as_ref());
            let is_wanted = match frame.method.as_deref() {
                Some("notifications/tools/list_changed") => self.tools,
                Some("notifications/prompts/list_changed") => self.prompts,
                Some("notifications/resources/list_changed") => self.resources,
                Some("notifications/resources/updated") => {
                    params.text("uri").is_some_and(|it| self.uris.contains(&it))
                }
                _ => false,
            };
            if is_wanted {
                let method = frame.method.as_deref().unwrap_or_default();
                return tagged(method, params, &self.id);
            }
        }
    }

    /// The answer to the request that began it.
    pub fn end(&self) -> Frame {
        let result = json!({"resultType": "complete", "_meta": {SUBSCRIPTION: self.id}});
        Frame::result(self.id.clone(), raw(&result))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take().filter(|it| !it.is_shared()) else { return };
        let uris = std::mem::take(&mut self.uris);
        self.tasks.spawn(async move {
            for uri in uris {
                // A connection that ends forgets it too.
                subscribe(&connection.live, &uri, "resources/unsubscribe").await.ok();
            }
        });
    }
}

fn tagged(method: &str, mut params: Members, id: &Raw) -> Frame {
    let mut meta = params.object("_meta").unwrap_or_default();
    meta.set(SUBSCRIPTION, id);
    params.set("_meta", &meta);
    Frame::notification(method, Some(params.to_raw()))
}

fn untagged(mut frame: Frame) -> Frame {
    let mut params = Members::of_params(frame.params.as_ref());
    if let Some(mut meta) = params.object("_meta") {
        meta.remove(SUBSCRIPTION);
        if meta.is_empty() {
            params.remove("_meta");
        } else {
            params.set("_meta", &meta);
        }
        frame.params = (!params.is_empty()).then(|| params.to_raw());
    }
    frame
}

/// The answer to `initialize` of a server that knows no such thing.
fn initialized(welcome: &Welcome, asked: &Members) -> Raw {
    let version = asked.text("protocolVersion").unwrap_or_default();
    let known = crate::upstream::handshake::SESSION.contains(&version.as_str());
    let mut result = Members::default();
    result.set("protocolVersion", if known { version.as_str() } else { LATEST_SESSION });
    let mut capabilities = welcome.capabilities.clone();
    // A client of that era finds its extensions elsewhere.
    capabilities.remove("extensions");
    result.set("capabilities", &capabilities);
    result.set("serverInfo", &server_info(welcome));
    if let Some(instructions) = &welcome.instructions {
        result.set("instructions", instructions);
    }
    result.to_raw()
}

/// The answer to `server/discover` of a server that knows no such thing.
fn discovered(welcome: &Welcome) -> Raw {
    let mut result = Members::default();
    result.set("resultType", "complete");
    result.set("supportedVersions", &[STATELESS]);
    let mut capabilities = welcome.capabilities.clone();
    // Those of the earlier era are others.
    capabilities.remove("tasks");
    result.set("capabilities", &capabilities);
    if let Some(instructions) = &welcome.instructions {
        result.set("instructions", instructions);
    }
    result.set("ttlMs", &DISCOVERY_TTL_MS);
    result.set("cacheScope", "private");
    let mut meta = Members::default();
    meta.set(SERVER_INFO, &server_info(welcome));
    result.set("_meta", &meta);
    result.to_raw()
}

fn server_info(welcome: &Welcome) -> Members {
    if !welcome.info.is_empty() {
        return welcome.info.clone();
    }
    let meta = Members::of(&welcome.answer).and_then(|it| it.object("_meta"));
    let said = meta.and_then(|it| it.object(SERVER_INFO));
    said.unwrap_or_else(|| {
        let mut nobody = Members::default();
        nobody.set("name", "unknown");
        nobody.set("version", "0");
        nobody
    })
}

impl Server {
    /// Asks a server of the later era to tell what changes.
    pub(crate) async fn listen_to(&self, uris: &[String]) -> Option<Exchange> {
        let live = self.connected().await.ok()?;
        let uris = if live.owner.is_some() { &[] } else { uris };
        self.listen(&live, uris).await
    }
}

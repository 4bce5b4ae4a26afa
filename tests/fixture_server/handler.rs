//! The server as the library wants it: lists, subscriptions, log levels, and what is shared between sessions.
#![expect(
    deprecated,
    reason = "logging, subscriptions of the earlier era and sampling are part of what is tested"
)]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams,
    CompleteResult, ErrorData, GetPromptRequestParams, GetPromptResponse, GetPromptResult,
    GetTaskParams, GetTaskResult, Implementation, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, ListToolsResult, LoggingLevel, LoggingMessageNotificationParam,
    PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ReadResourceResult, ResourceUpdatedNotificationParam, ServerCapabilities, ServerConfig,
    SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, Tool,
    UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext, SubscriptionSink};
use rmcp::task_manager::TaskManager;
use rmcp::{Peer, RoleServer, ServerHandler};
use serde_json::{Value, json};

use crate::ask::{Asked, Round, ask, complete, form, is_modern, typed};
use crate::catalog;

/// One session's server; all of a process share what changes.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
}

pub(crate) struct Shared {
    versions: &'static [ProtocolVersion],
    pub(crate) tasks: TaskManager,
    has_more_tools: AtomicBool,
    has_more_prompts: AtomicBool,
    /// Streams that were promised, and those that were opened since.
    n_accepted: AtomicU64,
    n_listening: AtomicU64,
    listening: Mutex<Vec<(u64, SubscriptionSink)>>,
    /// Sessions of the earlier era, which are told of changes without having asked.
    sessions: Mutex<Vec<(Peer<RoleServer>, Arc<Session>)>>,
    /// Calls of `hold` that wait, and those that were cancelled.
    pub(crate) n_held: AtomicUsize,
    pub(crate) n_cancelled: AtomicUsize,
}

#[derive(Default)]
pub(crate) struct Session {
    level: Mutex<Option<LoggingLevel>>,
    subscribed: Mutex<HashSet<String>>,
}

/// What was changed.
pub(crate) enum Change {
    Tools,
    Prompts,
    Resource(String),
}

impl Fixture {
    pub(crate) fn new(versions: &'static [ProtocolVersion]) -> Fixture {
        let shared = Shared {
            versions,
            tasks: TaskManager::new(),
            has_more_tools: AtomicBool::default(),
            has_more_prompts: AtomicBool::default(),
            n_accepted: AtomicU64::default(),
            n_listening: AtomicU64::default(),
            listening: Mutex::default(),
            sessions: Mutex::default(),
            n_held: AtomicUsize::default(),
            n_cancelled: AtomicUsize::default(),
        };
        Fixture { shared: Arc::new(shared), session: Arc::default() }
    }

    /// The same server for another session.
    pub(crate) fn session(&self) -> Fixture {
        Fixture { shared: self.shared.clone(), session: Arc::default() }
    }

    /// Logs if the caller wants that level: by the request's own metadata, or by what the session has set.
    pub(crate) async fn log(
        &self,
        cx: &RequestContext<RoleServer>,
        level: LoggingLevel,
        data: &str,
    ) {
        let wanted = if is_modern(cx) { cx.meta.log_level() } else { *self.session.level.lock() };
        // Whoever has set none in the earlier era gets all; in the later one nothing.
        let is_wanted = match wanted {
            Some(wanted) => wanted as u8 <= level as u8,
            None => !is_modern(cx),
        };
        if is_wanted {
            let mut message = LoggingMessageNotificationParam::new(level, json!(data));
            message.logger = Some("fixture".to_owned());
            cx.peer.notify_logging_message(message).await.ok();
        }
    }

    pub(crate) async fn change(&self, change: Change) {
        let flag = match &change {
            Change::Tools => Some(&self.shared.has_more_tools),
            Change::Prompts => Some(&self.shared.has_more_prompts),
            Change::Resource(_) => None,
        };
        if let Some(flag) = flag {
            flag.fetch_xor(true, Ordering::SeqCst);
        }
        self.until_listened().await;
        let listening: Vec<_> = self.shared.listening.lock().clone();
        for (_, sink) in listening {
            // Not asked for, or gone: neither is a fault here.
            drop(match &change {
                Change::Tools => sink.notify_tool_list_changed().await,
                Change::Prompts => sink.notify_prompt_list_changed().await,
                Change::Resource(uri) => sink.notify_resource_updated(uri.as_str()).await,
            });
        }
        let sessions: Vec<_> = {
            let mut sessions = self.shared.sessions.lock();
            sessions.retain(|(peer, _)| !peer.is_transport_closed());
            sessions.clone()
        };
        for (peer, session) in sessions {
            drop(match &change {
                Change::Tools => peer.notify_tool_list_changed().await,
                Change::Prompts => peer.notify_prompt_list_changed().await,
                Change::Resource(uri) if session.subscribed.lock().contains(uri) => {
                    let param = ResourceUpdatedNotificationParam::new(uri);
                    peer.notify_resource_updated(param).await
                }
                Change::Resource(_) => Ok(()),
            });
        }
    }

    /// The library promises a stream before it hands it out, and a client may act on that at once.
    async fn until_listened(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        let is_behind = || {
            let accepted = self.shared.n_accepted.load(Ordering::SeqCst);
            self.shared.n_listening.load(Ordering::SeqCst) < accepted
        };
        while is_behind() && tokio::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
    }

    fn tools(&self) -> Vec<Value> {
        catalog::tools(self.shared.has_more_tools.load(Ordering::SeqCst))
    }
}

/// A list may be kept for a while, and by everybody.
fn kept(mut list: Value) -> Value {
    list["ttlMs"] = json!(30_000);
    list["cacheScope"] = json!("public");
    list
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_completions()
            .enable_logging()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("mcp-fixture", "1.0.0").with_title("Fixture"))
            .with_instructions("Everything there is, for tests.")
    }

    fn supported_protocol_versions(&self) -> std::borrow::Cow<'static, [ProtocolVersion]> {
        self.shared.versions.into()
    }

    async fn on_initialized(&self, cx: NotificationContext<RoleServer>) {
        self.shared.sessions.lock().push((cx.peer, self.session.clone()));
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        complete(kept(json!({"tools": self.tools()})))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tool = self.tools().into_iter().find(|it| it["name"] == name)?;
        typed(tool).ok()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.call(request, cx).await
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let is_grown = self.shared.has_more_prompts.load(Ordering::SeqCst);
        complete(kept(json!({"prompts": catalog::prompts(is_grown)})))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name == "test_input_required_result_prompt" {
            let round = Round { responses: request.input_responses, state: request.request_state };
            let question = form("user_context", "What context should the prompt use?", "context");
            return Ok(match ask(&cx, &round, vec![question], None).await? {
                Asked::NotYet(result) => result.into(),
                Asked::Answers(answers) => {
                    let text = answers["user_context"]["content"].to_string();
                    let content = json!({"type": "text", "text": text});
                    let messages = json!([{"role": "user", "content": content}]);
                    complete::<GetPromptResult>(json!({"messages": messages}))?.into()
                }
            });
        }
        let arguments = request.arguments.unwrap_or_default();
        let argument = |name: &str| {
            let value = arguments.get(name).and_then(|it| serde_json::to_value(it).ok());
            value.and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default()
        };
        let prompt = catalog::prompt(&request.name, argument);
        let prompt = prompt.ok_or_else(|| {
            ErrorData::invalid_params(format!("no prompt `{}`", request.name), None)
        })?;
        Ok(complete::<GetPromptResult>(prompt)?.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        complete(kept(json!({"resources": catalog::resources()})))
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let [first, second] = catalog::templates();
        let list = match request.and_then(|it| it.cursor).as_deref() {
            None => json!({"resourceTemplates": [first], "nextCursor": "page 2/=?&"}),
            Some("page 2/=?&") => json!({"resourceTemplates": [second]}),
            Some(other) => {
                return Err(ErrorData::invalid_params(format!("no page `{other}`"), None));
            }
        };
        complete(kept(list))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        if uri == "test://asks-first" {
            let round = Round { responses: request.input_responses, state: request.request_state };
            let question = form("password", "What is the password?", "password");
            return Ok(match ask(&cx, &round, vec![question], None).await? {
                Asked::NotYet(result) => result.into(),
                Asked::Answers(answers) => {
                    let contents =
                        json!([{"uri": uri, "text": answers["password"]["content"].to_string()}]);
                    complete::<ReadResourceResult>(kept(json!({"contents": contents})))?.into()
                }
            });
        }
        match catalog::contents(&uri) {
            Some(contents) => {
                Ok(complete::<ReadResourceResult>(kept(json!({"contents": contents})))?.into())
            }
            None => Err(ErrorData::resource_not_found(
                format!("no resource `{uri}`"),
                Some(json!({"uri": uri})),
            )),
        }
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let value = request.argument.value;
        let values = [format!("{value}ing"), format!("{value}er")];
        complete(json!({"completion": {"values": values, "total": 150, "hasMore": true}}))
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        *self.session.level.lock() = Some(request.level);
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.session.subscribed.lock().insert(request.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.session.subscribed.lock().remove(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        self.shared.n_accepted.fetch_add(1, Ordering::SeqCst);
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, cx: SubscriptionContext) -> Result<(), ErrorData> {
        let number = {
            let mut listening = self.shared.listening.lock();
            let number = self.shared.n_listening.fetch_add(1, Ordering::SeqCst);
            listening.push((number, cx.sink().clone()));
            number
        };
        cx.cancelled().await;
        self.shared.listening.lock().retain(|(it, _)| *it != number);
        Ok(())
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.shared.tasks.get_task(&request.task_id).map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.shared.tasks.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.shared.tasks.cancel_task(&request.task_id)
    }
}

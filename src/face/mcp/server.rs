//! Answers requests: finds the caller, asks the module that knows, and puts refusals into the protocol's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_core::operation::Operation;
use orch_core::ops::CallTool;
use orch_core::{Cx, gate};
use orch_domain::caller::Caller;
use orch_domain::{Error, ErrorCode as Code, text};
use orch_gateway::names::own_name;
use orch_gateway::view::View;
#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
use rmcp::model::SetLevelRequestParams;
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams,
    CompleteResult, DiscoverResult, ErrorCode, ErrorData, GetPromptRequestParams,
    GetPromptResponse, GetTaskParams, GetTaskResult, InitializeRequestParams, InitializeResult,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerConfig,
    SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{RoleServer, ServerHandler};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::own::Lent;
use super::resource::Uri;
use super::session::Session;
use super::subscription::{Outlet, Subscription, Wanted, WantedLists};
use super::{Face, call, completion, identity, profile, resource, subscription, task, tool, who};

/// What depends on the program and on the caller's permissions only. Five minutes, because permissions change.
const STEADY_TTL_MS: u64 = 300_000;
/// What is read from the cluster is old as soon as it is answered; subscriptions tell when to read again.
const LIVE_TTL_MS: u64 = 0;

/// One per session or stream, and one per request in the stateless era: cheap to make.
pub(super) struct Server {
    face: Arc<Face>,
    /// Whose the stream is; requests over HTTP bring their own caller.
    of_stream: Option<Caller>,
    session: Session,
    /// What there is for a stream; requests over HTTP bring their own.
    view: View,
}

impl Server {
    pub(super) fn new(face: Arc<Face>, of_stream: Option<Caller>, view: View) -> Server {
        Server { face, of_stream, session: Session::default(), view }
    }

    fn context(&self, cx: &RequestContext<RoleServer>) -> Cx {
        let call_cx = profile::within(self.view(cx), who::context(self.of_stream.as_ref(), cx));
        match cx.extensions.get::<Lent>() {
            Some(Lent(model)) => call_cx.with_model(model.clone()),
            None => call_cx,
        }
    }

    /// The context of what is asked about tasks, where there can be any.
    fn of_tasks(&self, cx: &RequestContext<RoleServer>) -> Result<Cx, ErrorData> {
        if task::are_offered(&self.view(cx)) {
            return Ok(self.context(cx));
        }
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "there are no tasks here", None))
    }

    fn view(&self, cx: &RequestContext<RoleServer>) -> View {
        profile::view_of(&self.view, &cx.extensions)
    }
}

#[expect(
    deprecated,
    reason = "clients up to 2025-11-25 still ask for logging and subscribe this way"
)]
impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let mut config = identity::server_config();
        if !task::are_offered(&View::default()) {
            config.capabilities.extensions = None;
        }
        config
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        cx.peer.set_peer_info(request.clone());
        let mut result = self.negotiate_initialize(&request)?;
        profile::introduce(&self.view(&cx), &mut result);
        // Clients with sessions have another kind of tasks.
        result.capabilities.extensions = None;
        Ok(result)
    }

    async fn discover(&self, cx: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let versions = self.supported_protocol_versions().into_owned();
        let mut info = self.get_info();
        profile::introduce(&self.view(&cx), &mut info);
        if !task::are_offered(&self.view(&cx)) {
            info.capabilities.extensions = None;
        }
        Ok(DiscoverResult::from_server_info(versions, info)
            .with_ttl_ms(STEADY_TTL_MS)
            .with_cache_scope(CacheScope::Private))
    }

    async fn on_initialized(&self, cx: NotificationContext<RoleServer>) {
        if let Some(caller) = who::caller(self.of_stream.as_ref(), &cx.extensions) {
            self.session.watch(&self.face, caller, &cx.peer);
        }
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tool::get(name)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        cx: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let (view, call_cx) = (self.view(&cx), self.context(&cx));
        let result = tool::list(&call_cx, &view, cursor(request.as_ref())).map_err(protocol)?;
        Ok(result.with_ttl_ms(STEADY_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let view = self.view(&cx);
        let op = tool::op(&request.name).filter(|it| view.offers_own(it.spec.name));
        let Some(op) = op else {
            let name = text::excerpt(&request.name, 100);
            return Err(ErrorData::invalid_params(
                format!("there is no tool `{name}`; `tools/list` shows those there are"),
                None,
            ));
        };
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let log_level = cx.meta.log_level().or_else(|| self.session.log_level());
        let call_cx = self.context(&cx);
        let is_task = task::extension::is_wanted(op.spec.name, &arguments, &cx);
        let arguments = if is_task { task::extension::begin(arguments) } else { arguments };
        if is_task && let Some(Lent(model)) = cx.extensions.get() {
            model.outlast_call();
        }
        let result = call::run(&self.face, op, arguments, call_cx, &cx, log_level).await;
        Ok(match result {
            Ok(answer) => match task::extension::begun(&answer).filter(|_| is_task) {
                Some(task) => task.into(),
                None => tool::answered(answer).into(),
            },
            Err(err) => tool::refused(&err).into(),
        })
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let call_cx = self.of_tasks(&cx)?;
        self.face.get_task(&call_cx, &request.task_id).await.map_err(protocol)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let call_cx = self.of_tasks(&cx)?;
        let UpdateTaskParams { task_id, input_responses, .. } = request;
        self.face.update_task(&call_cx, &task_id, input_responses).await.map_err(protocol)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let call_cx = self.of_tasks(&cx)?;
        self.face.cancel_task(&call_cx, &request.task_id).await.map_err(protocol)
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        cx: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        if !self.view(&cx).shows_own() {
            return Ok(ListResourcesResult::with_all_items(Vec::new())
                .with_ttl_ms(LIVE_TTL_MS)
                .with_cache_scope(CacheScope::Private));
        }
        let call_cx = self.context(&cx);
        let result = resource::list(&self.face.orch, &call_cx, cursor(request.as_ref())).await;
        let result = result.map_err(protocol)?;
        Ok(result.with_ttl_ms(LIVE_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        cx: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        if !self.view(&cx).shows_own() {
            return Ok(ListResourceTemplatesResult::with_all_items(Vec::new())
                .with_ttl_ms(STEADY_TTL_MS)
                .with_cache_scope(CacheScope::Private));
        }
        Ok(resource::templates(&self.context(&cx))
            .with_ttl_ms(STEADY_TTL_MS)
            .with_cache_scope(CacheScope::Private))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if !self.view(&cx).shows_own() {
            return Err(of_resource(resource::not_found(&request.uri), &request.uri));
        }
        let result = resource::read(&self.face.orch, &self.context(&cx), &request.uri).await;
        let result = result.map_err(|err| of_resource(err, &request.uri))?;
        Ok(result.with_ttl_ms(LIVE_TTL_MS).with_cache_scope(CacheScope::Private).into())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let call_cx = self.context(&cx);
        let subscribed = async {
            let uri = Uri::parse(&request.uri).filter(|_| self.view(&cx).shows_own());
            let uri = uri.ok_or_else(|| resource::not_found(&request.uri))?;
            uri.permit(&self.face.orch, &call_cx)?;
            let caller = call_cx.caller()?.clone();
            self.session.subscribe(&self.face, caller, &cx.peer, uri, request.uri.clone())
        };
        subscribed.await.map_err(|err: Error| of_resource(err, &request.uri))
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if let Some(uri) = Uri::parse(&request.uri) {
            self.session.unsubscribe(&uri);
        }
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        // The library acknowledges with what is answered here, and only then calls `listen`.
        self.session.promise_listen(&self.face);
        Some(subscription::accepted(&self.face, requested))
    }

    async fn listen(&self, cx: SubscriptionContext) -> Result<(), ErrorData> {
        let request = cx.request_context();
        let changes = self.face.changes.subscribe(&self.face.orch);
        let has_missed = self.session.begin_listen(&self.face);
        let call_cx = self.context(request);
        let caller = call_cx.caller().map_err(protocol)?.clone();
        let uris = cx.accepted().resource_subscriptions.clone().unwrap_or_default();
        // Servers behind are for those who may call their tools.
        let behind = if gate::authorise(&CallTool::SPEC, &call_cx).is_ok() {
            let view = self.view(request).for_caller(Some(&caller));
            subscription::watch_behind(&self.face, &view, &uris).await
        } else {
            BTreeMap::new()
        };
        let subscription = Subscription {
            behind,
            face: self.face.clone(),
            caller,
            wanted: Arc::new(Wanted::of(cx.accepted())),
            wants: WantedLists::of(cx.accepted()),
            outlet: Outlet::Listen(cx.sink().clone()),
            changes,
            has_missed,
        };
        let ended: CancellationToken = request.ct.clone();
        subscription.run(ended).await;
        Ok(())
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        cx: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        if !self.view(&cx).shows_own() {
            return Ok(ListPromptsResult::with_all_items(Vec::new())
                .with_ttl_ms(STEADY_TTL_MS)
                .with_cache_scope(CacheScope::Private));
        }
        Ok(self
            .face
            .prompts
            .list(&self.context(&cx))
            .with_ttl_ms(STEADY_TTL_MS)
            .with_cache_scope(CacheScope::Private))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let prompt = self.face.prompts.get(own_name(&request.name));
        let Some(prompt) = prompt.filter(|_| self.view(&cx).shows_own()) else {
            let name = text::excerpt(&request.name, 100);
            return Err(ErrorData::invalid_params(
                format!("there is no prompt `{name}`; `prompts/list` shows those there are"),
                None,
            ));
        };
        prompt.permit(&self.context(&cx)).map_err(protocol)?;
        let arguments = request.arguments.unwrap_or_default();
        Ok(prompt.answer(&arguments).map_err(protocol)?.into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let call_cx = self.context(&cx);
        if !self.view(&cx).shows_own() {
            let message = "there is no such prompt or template here";
            return Err(protocol(Error::invalid("ref", message)));
        }
        completion::complete(&self.face.orch, &self.face.prompts, &call_cx, &request)
            .await
            .map_err(protocol)
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _cx: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.session.set_log_level(request.level);
        Ok(())
    }
}

fn cursor(request: Option<&PaginatedRequestParams>) -> Option<&str> {
    request.and_then(|it| it.cursor.as_deref())
}

/// A refusal of anything but a tool call, which has no result to say it in. `data` is the object that every face sends.
fn protocol(err: Error) -> ErrorData {
    let code = match err.code() {
        Code::Internal
        | Code::EngineError
        | Code::NodeUnreachable
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::UpstreamError
        | Code::UpstreamTimeout => ErrorCode::INTERNAL_ERROR,
        Code::Unauthenticated | Code::Forbidden => ErrorCode::INVALID_REQUEST,
        _ => ErrorCode::INVALID_PARAMS,
    };
    ErrorData::new(code, err.to_string(), Some(Value::Object(err.describe())))
}

fn of_resource(err: Error, uri: &str) -> ErrorData {
    if err.code() == Code::NotFound {
        let mut data = err.describe();
        data.insert("uri".to_owned(), text::excerpt(uri, 200).into());
        return ErrorData::resource_not_found(err.to_string(), Some(Value::Object(data)));
    }
    protocol(err)
}

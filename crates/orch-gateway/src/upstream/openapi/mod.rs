//! An API that is described by an OpenAPI document, as a server whose tools are the API's operations. It is not connected
//! to; what the protocol asks is answered from the document, and every call is one HTTP request.

mod answer;
mod document;
mod operation;
mod request;
mod schema;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::HeaderMap;
use orch_domain::secret::Secret;
use orch_domain::text;
use reqwest::{Client, Url};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::document::Document;
use self::operation::Operation;
use super::handshake::LATEST_SESSION;
use super::{Exchange, Link, LinkError, Terms};
use crate::frame::{Frame, Raw, raw};
use crate::members::Members;

/// Longer than a document takes to be read, also from afar.
const READ_LIMIT: Duration = Duration::from_secs(20);

pub struct OpenApiLink {
    source: Arc<Source>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

/// Where the document is, and what was made of it when it was first asked for.
struct Source {
    client: Client,
    place: String,
    base_url: Option<String>,
    headers: HeaderMap,
    timeout: Duration,
    api: tokio::sync::OnceCell<Api>,
}

struct Api {
    base: Url,
    operations: HashMap<String, Operation>,
    /// The results of `initialize` and `tools/list`.
    welcome: Raw,
    tools: Raw,
}

impl OpenApiLink {
    /// The document is at `place`, a file or an address; it is read when the server is first asked. `timeout` is for each
    /// call.
    pub fn new(
        client: Client,
        place: &str,
        base_url: Option<&str>,
        headers: &BTreeMap<String, Secret<String>>,
        timeout: Duration,
        tasks: &TaskTracker,
    ) -> Result<Arc<OpenApiLink>, LinkError> {
        let source = Source {
            client,
            place: place.to_owned(),
            base_url: base_url.map(str::to_owned),
            headers: super::site::configured(headers)?,
            timeout,
            api: tokio::sync::OnceCell::new(),
        };
        Ok(Arc::new(OpenApiLink {
            source: Arc::new(source),
            tasks: tasks.clone(),
            closed: CancellationToken::new(),
        }))
    }
}

impl Source {
    async fn api(&self) -> Result<&Api, LinkError> {
        self.api.get_or_try_init(|| self.read()).await
    }

    async fn read(&self) -> Result<Api, LinkError> {
        // They are for the API. Where the document is kept may be somebody else's.
        let known = self.base_url.as_ref().and_then(|it| Url::parse(it).ok());
        let is_same =
            |api: &Url| Url::parse(&self.place).is_ok_and(|it| it.origin() == api.origin());
        let with_document = if known.as_ref().is_some_and(is_same) {
            self.headers.clone()
        } else {
            HeaderMap::new()
        };
        let reading = document::read(&self.client, &self.place, with_document);
        let text = tokio::time::timeout(READ_LIMIT, reading).await.map_err(|_| {
            LinkError::Timeout { method: "the OpenAPI document".to_owned(), after: READ_LIMIT }
        })??;
        let document = Document::parse(&text)?;
        let base = document.base_url(self.base_url.as_deref(), &self.place)?;
        let operations = operation::operations(&document);
        let tools: Vec<&Raw> = operations.iter().map(|it| &it.tool).collect();
        let info = &document.root["info"];
        let word = |key: &str| text::excerpt(info[key].as_str().unwrap_or_default(), 100);
        let mut welcome = json!({
            "protocolVersion": LATEST_SESSION,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": word("title"), "version": word("version")},
        });
        if let Some(words) = info["description"].as_str() {
            welcome["instructions"] = text::excerpt(words, 2000).into();
        }
        Ok(Api {
            base,
            welcome: raw(&welcome),
            tools: raw(&json!({"tools": tools})),
            operations: operations.into_iter().map(|it| (it.name.clone(), it)).collect(),
        })
    }

    async fn answer(&self, method: &str, params: Option<&Raw>) -> Result<Frame, LinkError> {
        Ok(match method {
            "initialize" => Frame::result(id(), self.api().await?.welcome.clone()),
            "tools/list" => Frame::result(id(), self.api().await?.tools.clone()),
            "tools/call" => self.call(params).await?,
            "ping" => Frame::result(id(), raw(&json!({}))),
            _ => Frame::error(id(), -32601, "an API has tools only"),
        })
    }

    async fn call(&self, params: Option<&Raw>) -> Result<Frame, LinkError> {
        let params = Members::of_params(params);
        let name = params.text("name").unwrap_or_default();
        let api = self.api().await?;
        let Some(operation) = api.operations.get(&name) else {
            let shown = text::excerpt(&name, 100);
            return Ok(Frame::error(id(), -32602, &format!("there is no tool `{shown}`")));
        };
        let arguments = params.object("arguments").unwrap_or_default();
        let request = request::build(&self.client, &api.base, &self.headers, operation, &arguments);
        let request = match request {
            Ok(it) => it,
            Err(mistake) => return Ok(Frame::result(id(), answer::failed(&mistake))),
        };
        let answered = async {
            let response = request.send().await.map_err(super::http::unreachable)?;
            answer::result_of(response).await
        };
        let result = tokio::time::timeout(self.timeout, answered)
            .await
            .map_err(|_| LinkError::Timeout { method: name, after: self.timeout })??;
        Ok(Frame::result(id(), result))
    }
}

/// Nobody but the exchange sees it.
fn id() -> Raw {
    raw(&0)
}

#[async_trait]
impl Link for OpenApiLink {
    async fn send(&self, method: &str, params: Option<Raw>) -> Result<Exchange, LinkError> {
        let withdrawn = CancellationToken::new();
        let cancel = withdrawn.clone();
        let (sender, exchange) = Exchange::new(move || cancel.cancel());
        let (source, closed) = (self.source.clone(), self.closed.clone());
        let method = method.to_owned();
        self.tasks.spawn(async move {
            let answered = tokio::select! {
                answered = source.answer(&method, params.as_ref()) => answered,
                // The request is dropped, and with it its connection.
                () = withdrawn.cancelled() => return,
                () = closed.cancelled() => Err(LinkError::Closed { reason: "it was closed".to_owned() }),
            };
            // A caller that is gone needs no answer.
            sender.send(answered).ok();
        });
        Ok(exchange)
    }

    async fn tell(&self, _: Frame) -> Result<(), LinkError> {
        Ok(())
    }

    fn settle(&self, _: Terms) {}

    fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    fn reason(&self) -> String {
        "it was closed".to_owned()
    }

    async fn close(&self) {
        self.closed.cancel();
    }
}

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
use http::header::{HeaderMap, HeaderName, HeaderValue};
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
    shared: Arc<Shared>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

struct Shared {
    client: Client,
    base: Url,
    headers: HeaderMap,
    operations: HashMap<String, Operation>,
    /// The results of `initialize` and `tools/list`.
    welcome: Raw,
    tools: Raw,
    timeout: Duration,
}

impl OpenApiLink {
    /// Reads the document at `place`, a file or an address. `timeout` is for each call.
    pub async fn open(
        client: Client,
        place: &str,
        base_url: Option<&str>,
        headers: &BTreeMap<String, Secret<String>>,
        timeout: Duration,
        tasks: &TaskTracker,
    ) -> Result<Arc<OpenApiLink>, LinkError> {
        let headers = header_map(headers)?;
        // They are for the API. Where the document is kept may be somebody else's.
        let known = base_url.and_then(|it| Url::parse(it).ok());
        let is_same = |api: &Url| Url::parse(place).is_ok_and(|it| it.origin() == api.origin());
        let with_document =
            if known.as_ref().is_some_and(is_same) { headers.clone() } else { HeaderMap::new() };
        let reading = document::read(&client, place, with_document);
        let text = tokio::time::timeout(READ_LIMIT, reading).await.map_err(|_| {
            LinkError::Timeout { method: "the OpenAPI document".to_owned(), after: READ_LIMIT }
        })??;
        let document = Document::parse(&text)?;
        let base = document.base_url(base_url, place)?;
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
        let shared = Shared {
            client,
            base,
            headers,
            welcome: raw(&welcome),
            tools: raw(&json!({"tools": tools})),
            operations: operations.into_iter().map(|it| (it.name.clone(), it)).collect(),
            timeout,
        };
        Ok(Arc::new(OpenApiLink {
            shared: Arc::new(shared),
            tasks: tasks.clone(),
            closed: CancellationToken::new(),
        }))
    }
}

fn header_map(headers: &BTreeMap<String, Secret<String>>) -> Result<HeaderMap, LinkError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let bad = || LinkError::Unreachable {
            message: format!("its configured header `{name}` is no HTTP header"),
        };
        let key = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
        let mut value = HeaderValue::try_from(value.expose().as_str()).map_err(|_| bad())?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}

impl Shared {
    async fn call(&self, params: Option<&Raw>) -> Result<Frame, LinkError> {
        let params = Members::of_params(params);
        let name = params.text("name").unwrap_or_default();
        let Some(operation) = self.operations.get(&name) else {
            let shown = text::excerpt(&name, 100);
            return Ok(Frame::error(id(), -32602, &format!("there is no tool `{shown}`")));
        };
        let arguments = params.object("arguments").unwrap_or_default();
        let request =
            request::build(&self.client, &self.base, &self.headers, operation, &arguments);
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
        let answer = match method {
            "initialize" => Frame::result(id(), self.shared.welcome.clone()),
            "tools/list" => Frame::result(id(), self.shared.tools.clone()),
            "ping" => Frame::result(id(), raw(&json!({}))),
            "tools/call" => {
                let (shared, closed) = (self.shared.clone(), self.closed.clone());
                self.tasks.spawn(async move {
                    let called = tokio::select! {
                        called = shared.call(params.as_ref()) => called,
                        // The request is dropped, and with it its connection.
                        () = withdrawn.cancelled() => return,
                        () = closed.cancelled() => {
                            Err(LinkError::Closed { reason: "it was closed".to_owned() })
                        }
                    };
                    // A caller that is gone needs no answer.
                    sender.send(called).ok();
                });
                return Ok(exchange);
            }
            _ => Frame::error(id(), -32601, "an API has tools only"),
        };
        sender.send(Ok(answer)).ok();
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

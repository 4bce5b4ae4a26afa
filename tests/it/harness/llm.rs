//! A provider of language models on loopback: what it is asked is written down, and what it answers is told ahead, to the
//! byte, with the faults that a network and a provider have.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tongue {
    Openai,
    Azure,
    Anthropic,
    Bedrock,
}

impl Tongue {
    pub(crate) const ALL: [Tongue; 4] =
        [Tongue::Openai, Tongue::Azure, Tongue::Anthropic, Tongue::Bedrock];

    /// An answer as the provider documents it, with all that it has beside the text, which is `RECORDED`.
    pub(crate) fn recorded(self) -> Vec<u8> {
        match self {
            Tongue::Openai => include_bytes!("../llm/openai.sse").to_vec(),
            Tongue::Azure => include_bytes!("../llm/azure.sse").to_vec(),
            Tongue::Anthropic => include_bytes!("../llm/anthropic.sse").to_vec(),
            Tongue::Bedrock => {
                let frames: Vec<Value> =
                    serde_json::from_str(include_str!("../llm/bedrock.json")).unwrap();
                let frames =
                    frames.iter().map(|it| event(it["event"].as_str().unwrap(), &it["payload"]));
                frames.collect::<Vec<_>>().concat()
            }
        }
    }

    /// The bytes of one piece of text.
    pub(crate) fn piece(self, text: &str) -> Vec<u8> {
        match self {
            Tongue::Openai | Tongue::Azure => {
                let delta = json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
                sse(None, &json!({"object": "chat.completion.chunk", "choices": [delta]}))
            }
            Tongue::Anthropic => {
                let delta = json!({"type": "text_delta", "text": text});
                let event = json!({"type": "content_block_delta", "index": 0, "delta": delta});
                sse(Some("content_block_delta"), &event)
            }
            Tongue::Bedrock => {
                let payload = json!({"contentBlockIndex": 0, "delta": {"text": text}, "p": "abc"});
                event("contentBlockDelta", &payload)
            }
        }
    }

    /// What ends an answer, with the reason for which it ends, in the provider's own word.
    pub(crate) fn end(self, reason: &str) -> Vec<u8> {
        match self {
            Tongue::Openai | Tongue::Azure => {
                let choice = json!({"index": 0, "delta": {}, "finish_reason": reason});
                [sse(None, &json!({"choices": [choice]})), b"data: [DONE]\n\n".to_vec()].concat()
            }
            Tongue::Anthropic => {
                let delta = json!({"stop_reason": reason, "stop_sequence": null});
                let delta =
                    json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}});
                let stop = sse(Some("message_stop"), &json!({"type": "message_stop"}));
                [sse(Some("message_delta"), &delta), stop].concat()
            }
            Tongue::Bedrock => {
                let usage =
                    json!({"usage": {"inputTokens": 1, "outputTokens": 5, "totalTokens": 6}});
                let stop = event("messageStop", &json!({"stopReason": reason}));
                [stop, event("metadata", &usage)].concat()
            }
        }
    }

    /// A whole answer.
    pub(crate) fn whole(self, text: &str) -> Reply {
        let reason = match self {
            Tongue::Openai | Tongue::Azure => "stop",
            Tongue::Anthropic | Tongue::Bedrock => "end_turn",
        };
        Reply::streamed([self.piece(text), self.end(reason)])
    }

    /// That it is overloaded, said after the status said that all is well.
    pub(crate) fn overloaded(self) -> Vec<u8> {
        match self {
            Tongue::Openai | Tongue::Azure => {
                let error = json!({"message": "Overloaded", "type": "server_error", "code": null});
                sse(None, &json!({ "error": error }))
            }
            Tongue::Anthropic => {
                let error = json!({"type": "overloaded_error", "message": "Overloaded"});
                sse(Some("error"), &json!({"type": "error", "error": error}))
            }
            Tongue::Bedrock => frame(
                &[
                    (":message-type", "exception"),
                    (":exception-type", "serviceUnavailableException"),
                ],
                json!({"message": "Overloaded"}).to_string().as_bytes(),
            ),
        }
    }
}

/// The text of every recorded answer.
pub(crate) const RECORDED: &str = "Größe of\nthe 🦀!";

pub(crate) fn sse(event: Option<&str>, data: &Value) -> Vec<u8> {
    let event = event.map_or_else(String::new, |it| format!("event: {it}\n"));
    format!("{event}data: {data}\n\n").into_bytes()
}

fn event(kind: &str, payload: &Value) -> Vec<u8> {
    let headers =
        [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")];
    frame(&headers, payload.to_string().as_bytes())
}

/// A frame of AWS's event streams: lengths, their checksum, headers of the type text, payload, checksum.
pub(crate) fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    for (name, value) in headers {
        written.push(name.len() as u8);
        written.extend(name.as_bytes());
        written.push(7);
        written.extend((value.len() as u16).to_be_bytes());
        written.extend(value.as_bytes());
    }
    let length = 4 + 4 + 4 + written.len() + payload.len() + 4;
    let mut out = (length as u32).to_be_bytes().to_vec();
    out.extend((written.len() as u32).to_be_bytes());
    out.extend(crc32fast::hash(&out).to_be_bytes());
    out.extend([&written, payload].concat());
    out.extend(crc32fast::hash(&out).to_be_bytes());
    out
}

/// What becomes of an answer when all its chunks are sent.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    Ends,
    /// The connection breaks.
    Dies,
    Hangs,
    /// The chunks after it come when somebody adds a permit.
    Waits(Arc<Semaphore>, Vec<Vec<u8>>),
}

#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) chunks: Vec<Vec<u8>>,
    /// Before each chunk.
    pub(crate) pause: Duration,
    pub(crate) then: Then,
    /// Not even the status comes.
    pub(crate) is_mute: bool,
}

impl Reply {
    pub(crate) fn streamed(chunks: impl IntoIterator<Item = Vec<u8>>) -> Reply {
        Reply {
            status: 200,
            headers: Vec::new(),
            chunks: chunks.into_iter().collect(),
            pause: Duration::ZERO,
            then: Then::Ends,
            is_mute: false,
        }
    }

    /// `bytes` in chunks of so many.
    pub(crate) fn cut(bytes: &[u8], n_bytes: usize) -> Reply {
        Reply::streamed(bytes.chunks(n_bytes).map(<[u8]>::to_vec))
    }

    pub(crate) fn refused(status: u16, body: impl Into<String>) -> Reply {
        Reply { status, ..Reply::streamed([body.into().into_bytes()]) }
            .with("content-type", "application/json")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn then(self, then: Then) -> Reply {
        Reply { then, ..self }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|it| it.to_str().unwrap())
    }
}

pub(crate) struct LlmServer {
    pub(crate) url: String,
    state: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    replies: Mutex<VecDeque<Reply>>,
    asked: Mutex<Vec<Asked>>,
    /// Answers under way.
    n_open: AtomicUsize,
}

impl LlmServer {
    pub(crate) async fn start() -> LlmServer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Shared::default());
        let router = Router::new().fallback(answer).with_state(state.clone());
        let task =
            TaskTracker::new().spawn(async move { axum::serve(listener, router).await.unwrap() });
        LlmServer { url, state, _task: AbortOnDropHandle::new(task) }
    }

    /// For the next requests, one each. Those beyond get status 500.
    pub(crate) fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.state.replies.lock() = replies.into_iter().collect();
        self.state.asked.lock().clear();
    }

    /// Since `replies` was called.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().clone()
    }

    pub(crate) fn n_open(&self) -> usize {
        self.state.n_open.load(Ordering::SeqCst)
    }
}

/// Counts an answer for as long as somebody reads it.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.n_open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(State(state): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    state.asked.lock().push(Asked {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().unwrap().to_string(),
        headers: parts.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    let reply = state.replies.lock().pop_front();
    let reply = reply.unwrap_or_else(|| Reply::refused(500, "nothing more was to be asked"));
    state.n_open.fetch_add(1, Ordering::SeqCst);
    let open = Open(state);
    if reply.is_mute {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let pause = reply.pause;
    let (gate, late) = match &reply.then {
        Then::Waits(gate, late) => (Some(gate.clone()), late.clone()),
        _ => (None, Vec::new()),
    };
    let early = futures::stream::iter(reply.chunks).then(move |it| async move {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(Bytes::from(it))
    });
    let late = futures::stream::iter(late).then(move |it| {
        let gate = gate.clone();
        async move {
            gate.unwrap().acquire().await.unwrap().forget();
            Ok(Bytes::from(it))
        }
    });
    let then = reply.then;
    let end = futures::stream::once(async move {
        match then {
            Then::Ends | Then::Waits(..) => None,
            // Not before what was sent is on its way.
            Then::Dies => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some(Err(std::io::Error::other("it dies")))
            }
            Then::Hangs => std::future::pending().await,
        }
    });
    let all = early.chain(late).chain(end.filter_map(|it| async { it }));
    let all = all.map(move |it: Result<Bytes, std::io::Error>| {
        let _ = &open;
        it
    });
    response.body(Body::from_stream(all)).unwrap()
}

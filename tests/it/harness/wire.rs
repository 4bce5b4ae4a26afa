//! A client that is nothing but frames: it says what a test writes, keeps all that comes, and answers what it is asked
//! always in the same way. No library of the protocol stands between a test and the wire.

mod answers;
mod http;

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::answers::Answers;
pub(crate) use self::answers::Mind;
use self::http::Http;
use super::PATIENCE;

/// How a client speaks: with sessions that begin with `initialize`, or with single requests that say all of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

pub(crate) const LEGACY: &str = "2025-11-25";
pub(crate) const MODERN: &str = "2026-07-28";

pub(crate) struct Wire {
    era: Era,
    way: Way,
    frames: UnboundedReceiver<Value>,
    answers: Answers,
    n_sent: u64,
    /// What it says that it can do.
    capabilities: Value,
    /// The version it asks for in `initialize`.
    version: &'static str,
    /// How long it waits for the next frame.
    patience: Duration,
}

enum Way {
    Stdio { _child: Child, stdin: ChildStdin },
    Http(Http),
}

/// All that belongs to one request.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// One, or one for each round in which the server asked for more.
    pub(crate) responses: Vec<Value>,
    pub(crate) notifications: Vec<Value>,
    /// What the server asked this client.
    pub(crate) requests: Vec<Value>,
}

impl Step {
    /// The last answer's result; an error is a failure of the test.
    pub(crate) fn result(&self) -> &Value {
        let last = self.responses.last().unwrap();
        assert!(last.get("result").is_some(), "{last}");
        &last["result"]
    }

    /// A member of the last answer's result, or nothing.
    pub(crate) fn found(&self, pointer: &str) -> Value {
        let found = self.responses.last().and_then(|it| it["result"].pointer(pointer));
        found.cloned().unwrap_or_default()
    }
}

impl Wire {
    /// To a child of the test.
    pub(crate) fn stdio(command: &[String], era: Era) -> Wire {
        Wire::stdio_with(command, &[], era)
    }

    pub(crate) fn stdio_with(command: &[String], env: &[(&str, &str)], era: Era) -> Wire {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sink, frames) = unbounded_channel();
        let mut lines = BufReader::new(stdout).lines();
        spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // Whoever does not read any more has seen enough.
                sink.send(serde_json::from_str(&line).unwrap()).ok();
            }
        });
        Wire::new(era, Way::Stdio { _child: child, stdin }, frames)
    }

    /// To an endpoint of streamable HTTP.
    pub(crate) fn http(url: &str, era: Era) -> Wire {
        let (sink, frames): (UnboundedSender<Value>, _) = unbounded_channel();
        Wire::new(era, Way::Http(Http::new(url, sink)), frames)
    }

    fn new(era: Era, way: Way, frames: UnboundedReceiver<Value>) -> Wire {
        let capabilities = json!({
            "elicitation": {"form": {}, "url": {}}, "sampling": {},
            "roots": {"listChanged": true},
        });
        let answers = Answers::default();
        Wire {
            era,
            way,
            frames,
            answers,
            n_sent: 0,
            capabilities,
            version: LEGACY,
            patience: PATIENCE,
        }
    }

    /// Says that it can do just this.
    pub(crate) fn able(mut self, capabilities: Value) -> Wire {
        self.capabilities = capabilities;
        self
    }

    /// Goes as this user before a demo, over HTTP.
    pub(crate) fn by(mut self, user: &'static str) -> Wire {
        if let Way::Http(http) = &mut self.way {
            http.user = Some(user);
        }
        self
    }

    /// Says what `mind` says when its model is asked.
    pub(crate) fn minded(mut self, mind: Mind) -> Wire {
        self.answers.mind = Some(mind);
        self
    }

    /// Whether it can be asked anything.
    pub(crate) fn is_able(&self) -> bool {
        self.capabilities.as_object().is_some_and(|it| !it.is_empty())
    }

    /// From now on; only requests that say all of themselves can.
    pub(crate) fn add_capability(&mut self, name: &str, value: Value) {
        self.capabilities[name] = value;
    }

    /// Gives up on what does not come within `patience`, and goes on.
    pub(crate) fn patient_for(mut self, patience: Duration) -> Wire {
        self.patience = patience;
        self
    }

    /// A client with sessions of an older revision.
    pub(crate) fn speaking(mut self, version: &'static str) -> Wire {
        self.version = version;
        if let Way::Http(http) = &mut self.way {
            http.version = version;
        }
        self
    }

    pub(crate) fn era(&self) -> Era {
        self.era
    }

    /// Begins, and answers what the server says of itself.
    pub(crate) async fn open(&mut self) -> Step {
        if self.era == Era::Modern {
            return self.ask("server/discover", json!({})).await;
        }
        let params = json!({
            "protocolVersion": self.version, "capabilities": self.capabilities,
            "clientInfo": {"name": "wire", "version": "1"},
        });
        let step = self.ask("initialize", params).await;
        // What comes at once has to find somebody who listens.
        if let Way::Http(http) = &mut self.way {
            http.listen().await;
        }
        self.notify("notifications/initialized", Value::Null).await;
        step
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Step {
        self.ask_and_see(method, params, &[]).await
    }

    /// Asks and waits for the answer, whatever it is: what it asks for is not given.
    pub(crate) async fn ask_once(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params).await;
        self.collect(&mut Step::default(), Some(id), &[]).await.unwrap_or_default()
    }

    /// Asks, and waits for the answer and for notifications of these methods, which may come after it.
    pub(crate) async fn ask_and_see(
        &mut self,
        method: &str,
        mut params: Value,
        awaited: &[&str],
    ) -> Step {
        let mut step = Step::default();
        loop {
            let id = self.begin(method, params.clone()).await;
            let response = self.collect(&mut step, Some(id), awaited).await;
            let response = response.unwrap_or_default();
            let more = response["result"]["resultType"] == "input_required";
            let asked = response["result"].clone();
            step.responses.push(response);
            if !more {
                return step;
            }
            let requests = asked["inputRequests"].as_object().cloned().unwrap_or_default();
            let mut given = serde_json::Map::new();
            for (key, request) in requests {
                let method = request["method"].as_str().unwrap();
                given.insert(key, self.answers.to(method, &request["params"]).unwrap());
            }
            params["inputResponses"] = Value::Object(given);
            match asked.get("requestState") {
                Some(state) => params["requestState"] = state.clone(),
                None => drop(params.as_object_mut().unwrap().remove("requestState")),
            }
        }
    }

    /// Asks and goes on; the id is that of the request.
    pub(crate) async fn begin(&mut self, method: &str, mut params: Value) -> u64 {
        self.n_sent += 1;
        let id = self.n_sent;
        if self.era == Era::Modern {
            let own = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": self.capabilities,
            });
            let meta = params.as_object_mut().unwrap().entry("_meta").or_insert(json!({}));
            for (key, value) in own.as_object().unwrap() {
                meta[key] = value.clone();
            }
        }
        let frame = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(frame).await;
        id
    }

    /// Waits for notifications of these methods; what else comes is kept too.
    pub(crate) async fn see(&mut self, awaited: &[&str]) -> Step {
        let mut step = Step::default();
        self.collect(&mut step, None, awaited).await;
        step
    }

    pub(crate) async fn notify(&mut self, method: &str, params: Value) {
        let mut frame = json!({"jsonrpc": "2.0", "method": method});
        if !params.is_null() {
            frame["params"] = params;
        }
        self.send(frame).await;
    }

    /// Takes frames until the answer is there, and every awaited notification.
    async fn collect(
        &mut self,
        step: &mut Step,
        id: Option<u64>,
        awaited: &[&str],
    ) -> Option<Value> {
        let mut response = None;
        loop {
            let is_seen = awaited.iter().all(|method| {
                let n = |of: &mut dyn Iterator<Item = &str>| of.filter(|it| it == method).count();
                let seen = n(&mut step.notifications.iter().filter_map(|it| it["method"].as_str()));
                n(&mut awaited.iter().copied()) <= seen
            });
            if is_seen && (id.is_none() || response.is_some()) {
                return response;
            }
            let frame = match tokio::time::timeout(self.patience, self.frames.recv()).await {
                Ok(Some(frame)) => frame,
                // What is missing is written down like everything else, and found when it is compared.
                Ok(None) | Err(_) => {
                    let n_seen = step.notifications.len();
                    let missing = format!(
                        "nothing more, of {awaited:?} and the answer to {id:?}, after {n_seen} notifications"
                    );
                    return response.or(id.map(|id| json!({"id": id, "missing": missing})));
                }
            };
            let is_call = frame.get("method").is_some();
            match (is_call, frame.get("id")) {
                (true, None) => step.notifications.push(frame),
                (true, Some(asked)) => {
                    let method = frame["method"].as_str().unwrap();
                    let answer = match self.answers.to(method, &frame["params"]) {
                        Ok(result) => json!({"jsonrpc": "2.0", "id": asked, "result": result}),
                        Err(error) => json!({"jsonrpc": "2.0", "id": asked, "error": error}),
                    };
                    step.requests.push(frame);
                    self.send(answer).await;
                }
                (false, answered) if id.is_some_and(|id| answered == Some(&json!(id))) => {
                    response = Some(frame);
                }
                // Of a request that a test has begun and does not wait for.
                (false, _) => {}
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        match &mut self.way {
            Way::Stdio { stdin, .. } => {
                stdin.write_all(format!("{frame}\n").as_bytes()).await.unwrap();
                stdin.flush().await.unwrap();
            }
            Way::Http(http) => http.send(frame, self.era).await,
        }
    }

    /// Says goodbye, where there is a session.
    pub(crate) async fn end(self) {
        if let Way::Http(http) = self.way {
            http.end().await;
        }
    }

    /// Ends the response streams of everything that was begun, as a client of HTTP that goes away.
    pub(crate) fn hang_up(self) {
        drop(self);
    }
}

/// Something that goes on beside the test and ends with it.
fn spawn(work: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
    #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
    tokio::spawn(work).abort_handle()
}

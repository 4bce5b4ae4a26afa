//! Servers behind: what they have is offered, what is for them gets there once and as it is, and none of them holds up
//! another.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::server::{Server, Setup};
use crate::harness::upstream::{N_PROGRESS, STRANGE, TOOL, Upstream};
use crate::harness::{eventually, http, within};

struct Site {
    server: Server,
    dir: tempfile::TempDir,
    http: reqwest::Client,
    session: String,
}

impl Site {
    async fn before(servers: Value) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mcp-config.json");
        fs_err::write(&file, json!({"mcpServers": servers}).to_string()).unwrap();
        let setup =
            Setup::no_auth(dir.path()).argument("--mcp-config").argument(file.to_str().unwrap());
        let server = setup.start().await;
        let mut site = Site { server, dir, http: http(), session: String::new() };
        site.session = site.initialize().await;
        site
    }

    async fn before_one(upstream: &Upstream) -> Site {
        Site::before(json!({"counting": {"url": upstream.start().await}})).await
    }

    async fn initialize(&self) -> String {
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "bare", "version": "1"}
        });
        let request = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let response = self.post(&request.to_string()).await;
        let session = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        response.text().await.unwrap();
        let request =
            self.http.post(format!("{}/mcp", self.server.url)).header("mcp-session-id", &session);
        let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let done = request
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(done.to_string());
        assert!(done.send().await.unwrap().status().is_success());
        session
    }

    fn request(&self, body: &str) -> reqwest::RequestBuilder {
        let request = self
            .http
            .post(format!("{}/mcp", self.server.url))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(body.to_owned());
        if self.session.is_empty() {
            request
        } else {
            request.header("mcp-session-id", &self.session)
        }
    }

    async fn post(&self, body: &str) -> reqwest::Response {
        let response = self.request(body).send().await.unwrap();
        assert!(response.status().is_success(), "{response:?}");
        response
    }

    /// The messages that a request is answered with, as they were written.
    async fn frames(&self, body: &str) -> Vec<String> {
        let response = self.post(body).await;
        let is_stream = response.headers()["content-type"] == "text/event-stream";
        let text = response.text().await.unwrap();
        if !is_stream {
            return vec![text];
        }
        let data = text.lines().filter_map(|it| it.strip_prefix("data: "));
        data.filter(|it| !it.is_empty()).map(str::to_owned).collect()
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": "q", "method": method, "params": params});
        let frames = self.frames(&request.to_string()).await;
        serde_json::from_str(frames.last().unwrap()).unwrap()
    }

    async fn tool_names(&self) -> Vec<String> {
        let listed = self.ask("tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array().unwrap();
        tools.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn servers(&self) -> Vec<Value> {
        self.server.get("/servers").await["servers"].as_array().unwrap().clone()
    }

    async fn until_state(&self, name: &str, state: &str) -> Value {
        eventually(&format!("`{name}` {state}"), || async {
            self.servers().await.into_iter().find(|it| it["name"] == name && it["state"] == state)
        })
        .await
    }
}

fn call(id: &Value, tool: &str, meta: &Value) -> String {
    let mut params = json!({"name": tool, "arguments": {}});
    if !meta.is_null() {
        params["_meta"] = meta.clone();
    }
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string()
}

#[tokio::test]
async fn what_goes_through_is_what_was_said() {
    let upstream = Upstream::default();
    let site = Site::before_one(&upstream).await;
    let answer = site.frames(&call(&json!("my id"), "counting__strange", &Value::Null)).await;
    assert_eq!(answer, [format!(r#"{{"jsonrpc":"2.0","id":"my id","result":{STRANGE}}}"#)]);

    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let listed = site.frames(&request).await.pop().unwrap();
    let wanted = TOOL.replace(r#""name":"strange""#, r#""name":"counting__strange""#);
    assert!(listed.contains(&wanted), "{listed}");
    assert!(listed.contains(r#""name":"launch_instance""#), "own tools are listed with them");

    // Both names are understood, and REST says the canonical one.
    let answer = site.ask("tools/call", json!({"name": "counting.strange"})).await;
    assert_eq!(answer["result"]["structuredContent"]["p"], 0.7, "{answer}");
    let (status, answer) =
        site.server.call("POST", "/tools/counting.strange", Some(json!({}))).await;
    assert_eq!((status, &answer["structuredContent"]["p"]), (200, &json!(0.7)));
    let audit = site.server.get("/audit").await.to_string();
    assert!(audit.contains("counting.strange"), "{audit}");
}

#[tokio::test]
async fn progress_comes_in_order_and_before_the_answer() {
    let upstream = Upstream::default();
    let site = Site::before_one(&upstream).await;
    for i in 0..200 {
        let token = json!(format!("token {i}"));
        let frames = site
            .frames(&call(&json!(i), "counting__strange", &json!({"progressToken": token})))
            .await;
        assert_eq!(frames.len(), N_PROGRESS + 1, "call {i}: {frames:?}");
        for (n, frame) in frames[..N_PROGRESS].iter().enumerate() {
            let wanted = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{},"vendor":0.70}}}}"#,
                n + 1
            );
            assert_eq!(*frame, wanted);
        }
        assert_eq!(
            frames[N_PROGRESS],
            format!(r#"{{"jsonrpc":"2.0","id":{i},"result":{STRANGE}}}"#)
        );
    }
}

#[tokio::test]
async fn one_call_is_one_request() {
    let upstream = Upstream::default();
    let site = Site::before_one(&upstream).await;
    site.until_state("counting", "ready").await;
    for i in 0..5 {
        site.frames(&call(&json!(i), "counting__strange", &Value::Null)).await;
        site.tool_names().await;
    }
    assert_eq!(upstream.n_asked("tools/call"), 5);
    assert_eq!(upstream.n_asked("initialize"), 1);
    assert_eq!(upstream.n_asked("tools/list"), 1);
}

#[tokio::test]
async fn a_withdrawn_call_is_cancelled_there_by_the_id_it_has_there() {
    let upstream = Upstream::default();
    let site = Site::before_one(&upstream).await;
    site.until_state("counting", "ready").await;
    // By a message, as clients with a session do; the call is answered with nothing.
    let request = site.request(&call(&json!("mine"), "counting__slow", &Value::Null)).send();
    let withdrawn = async {
        upstream.until("tools/call", 1).await;
        let params = json!({"requestId": "mine", "reason": "enough"});
        let word = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        site.post(&word.to_string()).await;
    };
    let (response, ()) =
        within("the end of the call", futures::future::join(request, withdrawn)).await;
    assert_eq!(response.unwrap().text().await.unwrap(), "");
    upstream.until("notifications/cancelled", 1).await;

    // By going away.
    {
        let request = site.request(&call(&json!("mine"), "counting__slow", &Value::Null)).send();
        let gone = async { upstream.until("tools/call", 2).await };
        futures::future::select(std::pin::pin!(request), std::pin::pin!(gone)).await;
    }
    upstream.until("notifications/cancelled", 2).await;
    let cancelled =
        eventually("both ids", || async { Some(upstream.cancelled()).filter(|it| it.len() == 2) })
            .await;
    assert!(
        cancelled.iter().all(Value::is_u64),
        "the ids are ours and not the client's: {cancelled:?}"
    );
    assert_ne!(cancelled[0], cancelled[1]);

    // Others were not.
    site.frames(&call(&json!("mine"), "counting__strange", &Value::Null)).await;
    assert_eq!(upstream.cancelled().len(), 2);
}

#[tokio::test]
async fn a_server_that_hangs_or_is_dead_delays_nobody() {
    let (good, hung) = (Upstream::default(), Upstream::default());
    hung.hang();
    let servers = json!({
        "good": {"url": good.start().await}, "hung": {"url": hung.start().await},
        "dead": {"url": "http://127.0.0.1:9/mcp"}, "missing": {"command": "/no/such/program"},
        "off": {"command": "cat", "disabled": true}
    });
    let site = Site::before(servers).await;
    let failed = site.until_state("missing", "failed").await;
    assert!(failed["reason"].as_str().unwrap().contains("no such program"), "{failed}");
    assert!(failed["next_retry"].is_string(), "{failed}");
    site.until_state("dead", "failed").await;
    site.until_state("off", "disabled").await;
    site.until_state("good", "ready").await;
    // The first list may wait for what has just begun; no later one does.
    assert!(site.tool_names().await.contains(&"good__strange".to_owned()));
    let started = Instant::now();
    for _ in 0..20 {
        assert!(site.tool_names().await.contains(&"good__strange".to_owned()));
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());

    let answer = site.ask("tools/call", json!({"name": "good__strange"})).await;
    assert_eq!(answer["result"]["isError"], false);
    let (status, refusal) = site.server.call("POST", "/tools/dead.x", Some(json!({}))).await;
    assert_eq!((status, &refusal["error"]), (502, &json!("UpstreamError")), "{refusal}");
    assert!(refusal["message"].as_str().unwrap().contains("tried again"), "{refusal}");
    let (status, refusal) = site.server.call("POST", "/tools/nobody.x", Some(json!({}))).await;
    assert_eq!((status, &refusal["error"]), (404, &json!("NotFound")), "{refusal}");
}

#[tokio::test]
async fn an_expired_session_is_begun_anew_and_the_call_still_made_once() {
    let upstream = Upstream::default();
    let site = Site::before_one(&upstream).await;
    site.until_state("counting", "ready").await;
    upstream.forget_sessions();
    let answer = eventually("the call after the session", || async {
        let answer = site.ask("tools/call", json!({"name": "counting__strange"})).await;
        (answer["result"]["isError"] == false).then_some(answer)
    })
    .await;
    assert_eq!(answer["result"]["structuredContent"]["p"], 0.7);
    assert_eq!(upstream.n_asked("tools/call"), 1, "the first never got in");
    assert_eq!(upstream.n_asked("initialize"), 2);
}

#[tokio::test]
async fn a_changed_list_is_seen_and_told() {
    let upstream = Upstream::default();
    let site = Site::before_one(&upstream).await;
    site.until_state("counting", "ready").await;
    assert!(!site.tool_names().await.contains(&"counting__new".to_owned()));
    let stream = site
        .http
        .get(format!("{}/mcp", site.server.url))
        .header("accept", "text/event-stream")
        .header("mcp-session-id", &site.session)
        .send()
        .await
        .unwrap();
    let mut told = stream.bytes_stream();
    // Word of it is sent once; its stream may not be open yet.
    eventually("the new tool", || async {
        upstream.grow();
        site.tool_names().await.contains(&"counting__new".to_owned()).then_some(())
    })
    .await;
    within("word of the change", async {
        let mut seen = String::new();
        while !seen.contains("notifications/tools/list_changed") {
            seen.push_str(&String::from_utf8_lossy(&told.next().await.unwrap().unwrap()));
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_whose_lists_cannot_be_read_again_is_degraded_and_called_all_the_same() {
    let upstream = Upstream::default();
    let site = Site::before(json!({"counting": {"url": upstream.start().await}})).await;
    site.until_state("counting", "ready").await;
    upstream.break_lists(true);
    let server = eventually("it is degraded", || async {
        upstream.grow();
        let mut servers = site.servers().await.into_iter();
        servers.find(|it| it["name"] == "counting" && it["state"] == "degraded")
    })
    .await;
    let reason = server["reason"].as_str().unwrap();
    assert!(reason.contains("tools/list") && reason.contains("the shelf is gone"), "{reason}");
    assert_eq!(server["n_tools"], 2, "what it had is still shown");
    let (status, _) = site.server.call("POST", "/tools/counting.strange", Some(json!({}))).await;
    assert_eq!(status, 200);
    upstream.break_lists(false);
    eventually("it is ready again", || async {
        upstream.grow();
        let mut servers = site.servers().await.into_iter();
        servers.find(|it| it["name"] == "counting" && it["state"] == "ready")
    })
    .await;
    assert!(site.tool_names().await.contains(&"counting__new".to_owned()));
}

#[tokio::test]
async fn a_reload_restarts_only_what_differs_and_a_bad_file_changes_nothing() {
    let (first, second) = (Upstream::default(), Upstream::default());
    let servers = json!({"first": {"url": first.start().await}});
    let site = Site::before(servers.clone()).await;
    site.until_state("first", "ready").await;
    let file = site.dir.path().join("mcp-config.json");
    let mut more = servers;
    more["second"] = json!({"url": second.start().await});
    fs_err::write(&file, json!({"mcpServers": more}).to_string()).unwrap();
    // By itself, because the file changed, or by word.
    let (status, _) = site.server.call("POST", "/servers/reload", None).await;
    assert_eq!(status, 200);
    site.until_state("second", "ready").await;
    assert_eq!(first.n_asked("initialize"), 1, "it was left alone");

    fs_err::write(&file, r#"{"mcpServers": {"first": {"comand": "x"}}}"#).unwrap();
    let (status, refusal) = site.server.call("POST", "/servers/reload", None).await;
    assert_eq!(status, 400, "{refusal}");
    let said = refusal["message"].as_str().unwrap();
    assert!(said.contains("comand") && said.contains("go on as they were"), "{said}");
    assert_eq!(site.servers().await.len(), 2);
    fs_err::write(&file, json!({"mcpServers": more}).to_string()).unwrap();

    let (status, removed) = site.server.call("DELETE", "/servers/first", None).await;
    assert_eq!(status, 200, "{removed}");
    assert_eq!(site.servers().await.len(), 1);
    let add = json!({"name": "third", "url": first.start().await, "headers": {"X-Key": "s3cret"}});
    let (status, added) = site.server.call("POST", "/servers", Some(add.clone())).await;
    assert_eq!(status, 201, "{added}");
    assert!(!added.to_string().contains("s3cret"));
    let (status, _) = site.server.call("POST", "/servers", Some(add)).await;
    assert_eq!(status, 409);
    site.until_state("third", "ready").await;
    let text = fs_err::read_to_string(&file).unwrap();
    assert!(text.contains("second") && text.contains("third") && !text.contains("first"), "{text}");
}

#[tokio::test]
async fn children_are_restarted_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("cloud");
    // A real server: this program itself, with a state of its own, behind a shell that it is started by.
    let script = format!(
        "echo $$ >> {0}; exec {1} stdio --data-dir {2}",
        dir.path().join("pids").display(),
        env!("CARGO_BIN_EXE_mcp-orch"),
        child.display()
    );
    let site = Site::before(json!({"inner": {"command": "sh", "args": ["-c", script]}})).await;
    site.until_state("inner", "ready").await;
    let answer = site.ask("tools/call", json!({"name": "inner__whoami"})).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    let pids = || -> Vec<i32> {
        let text = fs_err::read_to_string(dir.path().join("pids")).unwrap();
        text.lines().map(|it| it.parse().unwrap()).collect()
    };
    let is_alive = |pid: i32| {
        let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    // A child of ours, ended behind the gateway's back.
    let first = pids()[0];
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    eventually("another child", || async { (pids().len() == 2).then_some(()) }).await;
    site.until_state("inner", "ready").await;
    let answer = site.ask("tools/call", json!({"name": "inner__whoami"})).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");

    // Many callers at once, one child.
    let calls = (0..50).map(|_| site.ask("tools/call", json!({"name": "inner__list_nodes"})));
    for answer in join_all(calls).await {
        assert_eq!(answer["result"]["isError"], false, "{answer}");
    }
    assert_eq!(pids().len(), 2);
    let (status, _) = site.server.call("DELETE", "/servers/inner", None).await;
    assert_eq!(status, 200);
    eventually("no child", || async { pids().iter().all(|it| !is_alive(*it)).then_some(()) }).await;
}

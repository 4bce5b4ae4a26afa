//! The file of servers is read again by request, when it changes, and at SIGHUP; a bad one changes nothing. And what REST
//! says of the servers behind.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::server::{Server, Setup};
use crate::harness::upstream::{N_PROGRESS, Upstream};

struct Site {
    server: Server,
    file: PathBuf,
    url: String,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn of(upstream: &Upstream) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mcp-config.json");
        let url = upstream.start().await;
        fs_err::write(&file, text_of("first", &url)).unwrap();
        let setup =
            Setup::no_auth(dir.path()).argument("--mcp-config").argument(file.to_str().unwrap());
        let site = Site { server: setup.start().await, file, url, _dir: dir };
        site.until(&["first"]).await;
        site
    }

    /// The names of those that are ready.
    async fn until(&self, wanted: &[&str]) {
        eventually(&format!("{wanted:?}"), || async {
            let servers = self.server.get("/servers").await;
            let names: Vec<Value> = servers["servers"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|it| it["state"] == "ready")
                .map(|it| it["name"].clone())
                .collect();
            (names == wanted).then_some(())
        })
        .await;
    }

    fn write(&self, text: &str) {
        fs_err::write(&self.file, text).unwrap();
    }

    /// In a way that nobody who only looks at its time and its size can see.
    fn write_unseen(&self, text: &str) {
        let before = fs_err::metadata(&self.file).unwrap();
        assert_eq!(before.len(), text.len() as u64);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).open(&self.file).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }

    fn hang_up(&self) {
        let pid = rustix::process::Pid::from_raw(self.server.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    async fn until_logged(&self, words: &[&str]) {
        eventually(&format!("{words:?} in the log"), || async {
            let log = self.server.log();
            log.lines().any(|line| words.iter().all(|it| line.contains(it))).then_some(())
        })
        .await;
    }
}

fn text_of(name: &str, url: &str) -> String {
    json!({"mcpServers": {name: {"url": url}}}).to_string()
}

const BAD: &str = r#"{"mcpServers": {"first": {"comand": "x"}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_seen_and_a_bad_one_keeps_what_there_was() {
    let upstream = Upstream::default();
    let site = Site::of(&upstream).await;
    site.write(BAD);
    site.until_logged(&["comand", "go on as they were"]).await;
    site.until(&["first"]).await;
    assert_eq!(upstream.n_asked("initialize"), 1, "nothing was restarted");
    site.write(&text_of("second", &site.url));
    site.until(&["second"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_reloads_and_ends_nothing() {
    let upstream = Upstream::default();
    let site = Site::of(&upstream).await;
    site.write_unseen(&text_of("other", &site.url));
    site.hang_up();
    site.until(&["other"]).await;
    site.until_logged(&["SIGHUP", "added: other"]).await;
    let before = fs_err::read_to_string(&site.file).unwrap();
    site.write_unseen(&format!("{BAD:<width$}", width = before.len()));
    site.hang_up();
    site.until_logged(&["SIGHUP", "comand", "go on as they were"]).await;
    site.until(&["other"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reloads_and_says_what_is_wrong() {
    let upstream = Upstream::default();
    let site = Site::of(&upstream).await;
    site.write_unseen(&text_of("other", &site.url));
    let (status, report) = site.server.call("POST", "/servers/reload", None).await;
    assert_eq!((status, &report["added"]), (200, &json!(["other"])), "{report}");
    site.until(&["other"]).await;
    site.write(BAD);
    let (status, refusal) = site.server.call("POST", "/servers/reload", None).await;
    assert_eq!((status, &refusal["error"]), (400, &json!("InvalidParameter")), "{refusal}");
    site.until(&["other"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_rest_streams_its_progress_and_then_its_result() {
    let site = Site::of(&Upstream::default()).await;
    let request = crate::harness::http()
        .post(format!("{}/tools/first.strange", site.server.url))
        .header("accept", "text/event-stream")
        .json(&json!({}));
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let data: Vec<(String, Value)> = text
        .split("\n\n")
        .filter_map(|it| it.strip_prefix("event: ")?.split_once("\ndata: "))
        .map(|(event, data)| (event.to_owned(), serde_json::from_str(data).unwrap()))
        .collect();
    let (last, progress) = data.split_last().unwrap();
    assert_eq!(last.0, "result");
    assert_eq!(last.1["structuredContent"]["p"], 0.7, "{text}");
    assert_eq!(progress.len(), N_PROGRESS, "{text}");
    for (n, (event, update)) in progress.iter().enumerate() {
        assert_eq!((event.as_str(), &update["progress"]), ("progress", &json!(n as f64 + 1.0)));
    }

    let listed = site.server.get("/tools/first").await;
    assert_eq!(listed["tools"][1]["name"], "first.strange", "{listed}");
    let (status, refusal) = site.server.call("GET", "/tools/nobody", None).await;
    assert_eq!((status, &refusal["error"]), (404, &json!("NotFound")), "{refusal}");
}

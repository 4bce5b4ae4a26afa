//! Servers behind that want a login of each user: found out, begun, renewed, ended and told, and never one user's for
//! another.

mod stdio_only;

use std::path::Path;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::issuer::{Issuer, KNOWN_CLIENT};
use crate::harness::protected::Protected;
use crate::harness::server::{Server, Setup};
use crate::harness::{eventually, http};

const ADMIN: &str = "user-admin-001";
const DEMO: &str = "user-demo-001";

struct Site {
    server: Option<Server>,
    dir: tempfile::TempDir,
    issuer: Issuer,
    protected: Protected,
    http: reqwest::Client,
}

impl Site {
    async fn new() -> Site {
        Site::with(json!({})).await
    }

    /// `oauth` is put into the entry of the server `notes`.
    async fn with(oauth: Value) -> Site {
        let issuer = Issuer::start().await;
        let protected = Protected::start(&issuer).await;
        let dir = tempfile::tempdir().unwrap();
        let mut site = Site { server: None, dir, issuer, protected, http: http() };
        let mut entry = json!({"url": site.protected.url()});
        if oauth != json!({}) {
            entry["oauth"] = oauth;
        }
        site.configure(&entry);
        site.start().await;
        site
    }

    fn configure(&self, entry: &Value) {
        let file = self.dir.path().join("mcp-config.json");
        fs_err::write(&file, json!({"mcpServers": {"notes": entry}}).to_string()).unwrap();
    }

    async fn start(&mut self) {
        self.server = None;
        let file = self.dir.path().join("mcp-config.json");
        let setup = Setup::demo(self.dir.path()).argument("--mcp-config");
        self.server = Some(setup.argument(file.to_str().unwrap()).start().await);
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    async fn ask(&self, user: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("{}{path}", self.server().url);
        let mut request = self.http.request(method, url).header("x-user-id", user);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// The account that the server took the user for, or why it was not called.
    async fn call(&self, user: &str) -> Result<String, String> {
        self.call_tool(user, "whoami").await
    }

    async fn call_tool(&self, user: &str, tool: &str) -> Result<String, String> {
        let path = format!("/tools/notes.{tool}");
        let (status, answer) = self.ask(user, "POST", &path, Some(json!({}))).await;
        if status == 200 {
            return Ok(answer["content"][0]["text"].as_str().unwrap().to_owned());
        }
        assert_eq!((status, &answer["error"]), (502, &json!("UpstreamError")), "{answer}");
        Err(answer["message"].as_str().unwrap().to_owned())
    }

    async fn shown(&self, user: &str) -> Value {
        self.ask(user, "GET", "/servers", None).await.1["servers"][0].clone()
    }

    async fn until(&self, user: &str, state: &str) -> Value {
        eventually(&format!("{user}: {state}"), || async {
            Some(self.shown(user).await).filter(|it| it["state"] == state)
        })
        .await
    }

    async fn begin(&self, user: &str) -> String {
        let (status, begun) = self.ask(user, "POST", "/servers/notes/login", None).await;
        assert_eq!(status, 200, "{begun}");
        begun["url"].as_str().unwrap().to_owned()
    }

    /// As a browser does, in which `account` is logged in at the issuer. The page that it ends at.
    async fn follow(&self, url: &str, account: &str) -> (u16, String) {
        let response = self.http.get(format!("{url}&login={account}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn log_in(&self, user: &str, account: &str) {
        let url = self.begin(user).await;
        let (status, page) = self.follow(&url, account).await;
        assert_eq!(status, 200, "{page}");
        assert!(page.contains("Logged in") && page.contains(user), "{page}");
    }

    /// Nothing that the issuer ever gave out is anywhere in plain.
    fn assert_no_secret_is_seen(&self) {
        let secrets = self.issuer.secrets();
        assert!(3 <= secrets.len());
        let mut n_files = 0;
        each_file(self.dir.path(), &mut |path, bytes| {
            n_files += 1;
            for secret in &secrets {
                let is_in = bytes.windows(secret.len()).any(|it| it == secret.as_bytes());
                assert!(!is_in, "{secret} is in {}", path.display());
            }
        });
        assert!(5 <= n_files, "the data directory was looked at");
    }
}

fn each_file(folder: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            each_file(&entry.path(), look);
        } else if kind.is_file() {
            look(&entry.path(), &fs_err::read(entry.path()).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_logs_in_once_and_is_taken_for_nobody_else() {
    let mut site = Site::new().await;
    let said = site.call(ADMIN).await.unwrap_err();
    assert!(said.contains("wants you to log in") && said.contains("`login_server`"), "{said}");
    let shown = site.until(ADMIN, "needs_login").await;
    assert!(
        shown["reason"].as_str().unwrap().contains("`login_server` with `name=notes`"),
        "{shown}"
    );

    site.log_in(ADMIN, "ann").await;
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    let shown = site.until(ADMIN, "ready").await;
    assert_eq!(shown["n_tools"], 2);
    // The server is connected to with ann's token by now; that is nobody else's.
    let said = site.call(DEMO).await.unwrap_err();
    assert!(said.contains("wants you to log in"), "{said}");
    assert_eq!(site.shown(DEMO).await["state"], "needs_login");
    site.log_in(DEMO, "bob").await;
    assert_eq!(site.call(DEMO).await.unwrap(), "bob");

    let calls = (0..40).map(|i| site.call(if i % 2 == 0 { ADMIN } else { DEMO }));
    for (i, account) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(account.unwrap(), if i % 2 == 0 { "ann" } else { "bob" });
    }
    assert_eq!(site.issuer.n_registered(), 1, "the gateway is one client of the issuer");

    // Also over MCP, where messages go on as they are.
    for (user, account) in [(DEMO, "bob"), (ADMIN, "ann")] {
        assert_eq!(over_mcp(&site, user).await, account);
    }
    assert_eq!(site.protected.mixed(), Vec::<String>::new());

    // Still logged in after a crash.
    let n_asked = site.issuer.n_token_requests();
    site.start().await;
    assert_eq!(site.call(DEMO).await.unwrap(), "bob");
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    assert_eq!(site.issuer.n_token_requests(), n_asked);

    // Who logs out is out, there too, and nobody else is.
    let (status, ended) = site.ask(DEMO, "DELETE", "/servers/notes/login", None).await;
    assert_eq!(status, 200, "{ended}");
    assert!(ended["logged_in_at"].is_string(), "{ended}");
    assert_eq!(site.issuer.n_revoked(), 1);
    assert!(site.call(DEMO).await.unwrap_err().contains("wants you to log in"));
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    site.until(ADMIN, "ready").await;
    assert_eq!(site.protected.mixed(), Vec::<String>::new());
    site.assert_no_secret_is_seen();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_sessions_tells_users_apart_by_their_tokens() {
    let site = Site::new().await;
    site.protected.without_sessions();
    site.log_in(ADMIN, "ann").await;
    site.log_in(DEMO, "bob").await;
    let calls = (0..20).map(|i| site.call(if i % 2 == 0 { ADMIN } else { DEMO }));
    for (i, account) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(account.unwrap(), if i % 2 == 0 { "ann" } else { "bob" });
    }
    assert_eq!(over_mcp(&site, DEMO).await, "bob");
    assert_eq!(site.protected.n_sessions(), 0);
    let (status, _) = site.ask(ADMIN, "DELETE", "/servers/notes/login", None).await;
    assert_eq!(status, 200);
    assert!(site.call(ADMIN).await.unwrap_err().contains("wants you to log in"));
    assert_eq!(site.call(DEMO).await.unwrap(), "bob");
}

async fn over_mcp(site: &Site, user: &str) -> String {
    let url = format!("{}/mcp", site.server().url);
    let post = |session: Option<&str>, message: Value| {
        let mut request = site.http.post(&url).header("x-user-id", user);
        request = request.header("content-type", "application/json");
        request = request.header("accept", "application/json, text/event-stream");
        if let Some(it) = session {
            request = request.header("mcp-session-id", it);
        }
        request.body(message.to_string()).send()
    };
    let params = json!({
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "bare", "version": "1"}
    });
    let request = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let response = post(None, request).await.unwrap();
    let session = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    response.text().await.unwrap();
    let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert!(post(Some(&session), done).await.unwrap().status().is_success());
    let params = json!({"name": "notes__whoami", "arguments": {}});
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let text = post(Some(&session), request).await.unwrap().text().await.unwrap();
    let answer = text.lines().find(|it| it.contains("result")).unwrap();
    let answer: Value =
        serde_json::from_str(answer.strip_prefix("data: ").unwrap_or(answer)).unwrap();
    answer["result"]["content"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_ahead_of_their_end_and_an_end_is_told() {
    let site = Site::new().await;
    site.issuer.lasting(2);
    site.log_in(ADMIN, "ann").await;
    site.log_in(DEMO, "bob").await;
    // Call after call, over several lives of a token, and none of them fails.
    eventually("renewed tokens", || async {
        assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
        (3 <= site.issuer.n_refreshed()).then_some(())
    })
    .await;

    // Ended before its time, it is renewed when it is refused, once for all who call.
    site.issuer.lasting(3600);
    site.issuer.end_accesses();
    let n_before = site.issuer.n_refreshed();
    for account in join_all((0..20).map(|_| site.call(ADMIN))).await {
        assert_eq!(account.unwrap(), "ann");
    }
    assert_eq!(site.issuer.n_refreshed(), n_before + 1, "a refresh token is good once");

    // Ended for good: said, and not asked for again and again.
    site.issuer.end_all_of("ann");
    let said = site.call(ADMIN).await.unwrap_err();
    assert!(said.contains("is over") && said.contains("`invalid_grant`"), "{said}");
    let shown = site.until(ADMIN, "needs_login").await;
    assert!(shown["reason"].as_str().unwrap().contains("`login_server`"), "{shown}");
    let n_asked = site.issuer.n_token_requests();
    let n_refused = site.protected.n_refused();
    for _ in 0..10 {
        assert!(site.call(ADMIN).await.unwrap_err().contains("is over"));
    }
    assert_eq!(site.call(DEMO).await.unwrap(), "bob");
    assert!(site.issuer.n_token_requests() <= n_asked + 1, "bob's at most");
    assert!(site.protected.n_refused() <= n_refused + 1, "bob's at most");

    site.log_in(ADMIN, "ann").await;
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    assert_eq!(site.protected.mixed(), Vec::<String>::new());
    site.assert_no_secret_is_seen();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_out_of_order_ends_no_login_and_is_not_stormed() {
    let site = Site::new().await;
    site.log_in(ADMIN, "ann").await;
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    site.issuer.out_of_order(true);
    site.issuer.end_accesses();
    let n_asked = site.issuer.n_token_requests();
    for said in join_all((0..20).map(|_| site.call(ADMIN))).await {
        let said = said.unwrap_err();
        assert!(said.contains("503") && !said.contains("`login_server`"), "{said}");
    }
    assert!(site.issuer.n_token_requests() <= n_asked + 3, "it is asked less and less often");
    site.issuer.out_of_order(false);
    eventually("the login to go on", || async { site.call(ADMIN).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_what_was_renewed_is_not_asked_again() {
    let site = Site::new().await;
    site.log_in(ADMIN, "ann").await;
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    site.protected.refusing_all(true);
    let said = site.call(ADMIN).await.unwrap_err();
    assert!(
        said.contains("refused the renewed token") && said.contains("`login_server`"),
        "{said}"
    );
    let n_refreshed = site.issuer.n_refreshed();
    for _ in 0..5 {
        assert!(site.call(ADMIN).await.is_err());
    }
    assert_eq!(site.issuer.n_refreshed(), n_refreshed);
    site.protected.refusing_all(false);
    site.log_in(ADMIN, "ann").await;
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");

    // Another thing is a login that is good and not for everything.
    let said = site.call_tool(ADMIN, "administer").await.unwrap_err();
    assert!(said.contains("does not allow this (it wants `notes admin`)"), "{said}");
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    let url = site.begin(ADMIN).await;
    assert!(url.contains("admin"), "the next login asks for that: {url}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_to_the_one_server_it_is_for() {
    let site = Site::new().await;
    site.log_in(ADMIN, "ann").await;
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    // The server leads to another one: it gets nothing.
    let other = Protected::start(&site.issuer).await;
    site.protected.leading_to(&other.url());
    assert!(site.call(ADMIN).await.is_err());
    assert_eq!(other.authorizations(), Vec::<String>::new());

    // The name is given to another one: a login of before is not for that.
    site.configure(&json!({"url": other.url()}));
    let (status, answer) = site.ask(ADMIN, "POST", "/servers/reload", None).await;
    assert_eq!(status, 200, "{answer}");
    assert!(site.call(ADMIN).await.unwrap_err().contains("wants you to log in"));
    assert_eq!(other.authorizations(), Vec::<String>::new());
    site.log_in(ADMIN, "ann").await;
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    let old: Vec<String> = site.protected.authorizations();
    assert!(other.authorizations().iter().all(|it| !old.contains(it)), "each has its own tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_together_begins_no_login() {
    let site = Site::new().await;
    let refused = async |what: &str| {
        let (status, answer) = site.ask(ADMIN, "POST", "/servers/notes/login", None).await;
        assert_eq!((status, &answer["error"]), (502, &json!("UpstreamError")), "{answer}");
        let said = answer["message"].as_str().unwrap().to_owned();
        assert!(said.contains(what), "{said}");
    };
    site.until(ADMIN, "needs_login").await;
    site.protected.calling_itself("https://mail.example/mcp");
    refused("another than").await;
    site.protected.calling_itself(&site.protected.url());
    for (member, value, said) in [
        ("issuer", json!("https://other.example"), "of another issuer"),
        ("code_challenge_methods_supported", json!(["plain"]), "PKCE"),
        ("code_challenge_methods_supported", Value::Null, "PKCE"),
        ("registration_endpoint", Value::Null, "`client_id`"),
        ("token_endpoint", json!("http://login.example/token"), "not `https`"),
        ("authorization_endpoint", json!("javascript:alert(1)"), "not `https`"),
    ] {
        let truth = site.issuer.url();
        site.issuer.saying(member, value);
        refused(said).await;
        let truth = match member {
            "issuer" => json!(truth),
            "code_challenge_methods_supported" => json!(["S256"]),
            "registration_endpoint" => json!(format!("{truth}/register")),
            "authorization_endpoint" => json!(format!("{truth}/authorize")),
            _ => json!(format!("{truth}/token")),
        };
        site.issuer.saying(member, truth);
    }

    // Who says no is told so, with nothing of theirs taken for markup.
    let url = site.begin(ADMIN).await;
    let (status, page) = site.follow(&url, "nobody").await;
    assert_eq!(status, 502);
    assert!(page.contains("access_denied") && page.contains("&lt;b&gt;no"), "{page}");
    // An answer in another's name is none.
    let url = site.begin(ADMIN).await;
    site.issuer.calling_itself("https://other.example");
    let (status, page) = site.follow(&url, "ann").await;
    assert_eq!(status, 502);
    assert!(page.contains("another issuer"), "{page}");
    // Nor is a second one, or one that nobody waits for.
    let state = url.split('&').find_map(|it| it.strip_prefix("state=")).unwrap().to_owned();
    for state in [state.as_str(), "guessed", ""] {
        let back = format!("{}/oauth/callback?code=x&state={state}", site.server().url);
        let response = site.http.get(back).send().await.unwrap();
        assert_eq!(response.status(), 400);
        assert!(response.text().await.unwrap().contains("no login waits for this"));
    }
    assert!(site.call(ADMIN).await.unwrap_err().contains("wants you to log in"));

    // Nobody waits for more browsers than they have.
    let mut status = 200;
    for _ in 0..12 {
        status = site.ask(ADMIN, "POST", "/servers/notes/login", None).await.0;
    }
    assert_eq!(status, 429);
    site.issuer.calling_itself(&site.issuer.url());
    site.log_in(DEMO, "bob").await;
    assert_eq!(site.call(DEMO).await.unwrap(), "bob");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_typed_in_where_no_browser_runs() {
    let site = Site::new().await;
    let body = Some(json!({"device": true}));
    let (status, begun) = site.ask(ADMIN, "POST", "/servers/notes/login", body).await;
    assert_eq!(status, 200, "{begun}");
    assert!(begun["url"].as_str().unwrap().ends_with("/activate"), "{begun}");
    assert!(site.call(ADMIN).await.is_err(), "nobody typed it in yet");
    site.issuer.approve(begun["user_code"].as_str().unwrap(), "ann");
    let account = eventually("the login", || async { site.call(ADMIN).await.ok() }).await;
    assert_eq!(account, "ann");
    assert!(site.call(DEMO).await.is_err());
    site.assert_no_secret_is_seen();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_known_there_is_used_and_may_stand_for_all() {
    let (id, secret) = KNOWN_CLIENT;
    let site =
        Site::with(json!({"client_id": id, "client_secret": secret, "scopes": ["notes"]})).await;
    site.log_in(ADMIN, "ann").await;
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");
    assert_eq!(site.issuer.n_registered(), 0);
    site.issuer.end_accesses();
    assert_eq!(site.call(ADMIN).await.unwrap(), "ann");

    let site = Site::with(json!({
        "client_id": id, "client_secret": secret, "client_credentials": true,
    }))
    .await;
    for user in [ADMIN, DEMO] {
        assert_eq!(site.call(user).await.unwrap(), "the gateway");
        assert_eq!(site.shown(user).await["state"], "ready");
    }
    assert_eq!(site.issuer.n_token_requests(), 1);
    site.issuer.end_accesses();
    assert_eq!(site.call(DEMO).await.unwrap(), "the gateway");
    assert_eq!(site.issuer.n_token_requests(), 2);
    let (status, refusal) = site.ask(ADMIN, "POST", "/servers/notes/login", None).await;
    assert_eq!((status, &refusal["error"]), (409, &json!("IncorrectState")), "{refusal}");
    let log = site.server().log();
    assert!(!log.contains(secret), "{log}");
}

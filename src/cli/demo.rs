//! `demo`: plays the main job through a real MCP client, over streamable HTTP and over stdio, and shows every call.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value, json};

use super::args::{DemoArgs, Globals};
use super::client::{Connection, Outcome};
use super::{ExitStatus, print};
use crate::app::data_dir::DataDir;
use crate::config::Env;

/// Lines of an answer that are shown.
const MAX_LINES: usize = 14;
const MAX_COLUMNS: usize = 160;
/// How long the program in a fresh container may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Port of the demo image's web server.
const PORT: u16 = 8080;

pub(super) async fn run(
    env: &dyn Env,
    globals: &Globals,
    args: &DemoArgs,
) -> anyhow::Result<ExitStatus> {
    let config = globals.load(env)?;
    let data_dir = DataDir::open(&config)?;
    let holder = data_dir.holder().and_then(|it| it.url);
    let url = holder.context(
        "no server runs on this data directory\nhint: start `mcp-orch serve --demo` first",
    )?;

    heading(&format!("MCP over streamable HTTP at {url}/mcp, as user demo"))?;
    let started = Instant::now();
    let token = login(&url).await?;
    let http = Connection::http(&url, Some(&token)).await?;
    step("connect, logged in", started, "")?;
    Stage { connection: &http, args }.play().await?;
    http.close().await?;

    heading("MCP over stdio: `mcp-orch stdio`, started by the client")?;
    let started = Instant::now();
    let stdio = Connection::spawned(data_dir.path()).await?;
    step("start and handshake", started, "")?;
    Stage { connection: &stdio, args }.play().await?;

    heading("An instance to stay")?;
    let stage = Stage { connection: &stdio, args };
    let (id, address) = stage.launch("demo-web").await?;
    stage.visit(&address).await?;
    if args.once {
        stage.call("terminate_instance", json!({ "id": id })).await?;
    }
    stdio.close().await?;
    print("\nThe main job is done.")?;
    Ok(ExitStatus::Done)
}

struct Stage<'a> {
    connection: &'a Connection,
    args: &'a DemoArgs,
}

impl Stage<'_> {
    /// From looking around to terminating what was launched.
    async fn play(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        let tools = self.connection.tools().await?;
        step("tools/list", started, &format!("{} tools", tools.len()))?;
        self.call("list_nodes", json!({})).await?;
        self.call("cluster_capacity", json!({})).await?;
        let (id, address) = self.launch("demo-job").await?;
        self.visit(&address).await?;
        self.call("instance_logs", json!({ "id": id })).await?;
        self.call("stop_instance", json!({ "id": id })).await?;
        self.call("start_instance", json!({ "id": id })).await?;
        self.visit(&address).await?;
        let command = json!(["echo", "hello from inside"]);
        self.call("exec_in_instance", json!({ "id": id, "command": command })).await?;
        self.call("terminate_instance", json!({ "id": id })).await?;
        Ok(())
    }

    async fn launch(&self, name: &str) -> anyhow::Result<(String, String)> {
        let launch = json!({
            "name": name, "image": self.args.image, "ports": [PORT], "cpu": 0.25, "memory": 0.0625,
        });
        let launched = self.call("launch_instance", launch).await?;
        let field = |name: &str| launched.value[name].as_str().map(str::to_owned);
        let id = field("id").context("the launch answered no id")?;
        let address = field("address").context("the launch answered no address")?;
        Ok((id, address))
    }

    async fn call(&self, operation: &str, arguments: Value) -> anyhow::Result<Outcome> {
        let shown = if arguments == json!({}) { String::new() } else { format!(" {arguments}") };
        let Value::Object(arguments) = arguments else { bail!("arguments are an object") };
        let started = Instant::now();
        let outcome = self
            .connection
            .call(operation, Map::from_iter(arguments), None, std::future::pending())
            .await?
            .context("the call was interrupted")?;
        step(&format!("{operation}{shown}"), started, &outcome.text)?;
        ensure!(!outcome.is_error, "`{operation}` was refused");
        Ok(outcome)
    }

    /// Asks the container itself, over the port it is published on.
    async fn visit(&self, address: &str) -> anyhow::Result<()> {
        if self.args.simulated {
            return print(format!(
                "    (a simulated engine runs no program, so nothing answers at http://{address}/)"
            ));
        }
        let url = format!("http://{address}/");
        let started = Instant::now();
        let page = loop {
            match get(&url).await {
                Ok(page) => break page,
                Err(err) if PATIENCE < started.elapsed() => {
                    return Err(err).with_context(|| format!("nothing answers at {url}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        step(&format!("GET {url}  (answered by the container)"), started, &page)
    }
}

async fn get(url: &str) -> anyhow::Result<String> {
    Ok(http_client()?.get(url).send().await?.error_for_status()?.text().await?)
}

async fn login(url: &str) -> anyhow::Result<String> {
    let request = http_client()?
        .post(format!("{url}/auth/login"))
        .json(&json!({ "username": "demo", "password": "demo" }));
    let answer: Value = request.send().await?.json().await?;
    let token = answer["access_token"].as_str();
    Ok(token.with_context(|| format!("user `demo` cannot log in: {answer}"))?.to_owned())
}

fn http_client() -> anyhow::Result<reqwest::Client> {
    // Fails only when it was done before.
    drop(rustls::crypto::ring::default_provider().install_default());
    Ok(reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?)
}

fn heading(text: &str) -> anyhow::Result<()> {
    print(format!("\n== {text}\n"))
}

fn step(what: &str, started: Instant, answer: &str) -> anyhow::Result<()> {
    let elapsed = started.elapsed().as_secs_f64() * 1000.0;
    print(format!("  > {what}  [{elapsed:.1} ms]"))?;
    for line in answer.lines().take(MAX_LINES) {
        print(format!("      {}", orch_domain::text::excerpt(line, MAX_COLUMNS)))?;
    }
    match answer.lines().count().saturating_sub(MAX_LINES) {
        0 => Ok(()),
        more => print(format!("      … {more} more lines")),
    }
}

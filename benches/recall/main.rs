//! How well `search_tools` finds, over the lists of public servers and our own operations: `cargo bench --bench recall`.
//!
//! A query counts as answered when any of the tools that would do is among the first; several servers have tools for the
//! same thing. `-- misses` shows the queries that are not, with what was found instead.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_adapters::engines::NodeEngines;
use orch_adapters::store::SledStore;
use orch_adapters::tailscale::Tailscale;
use orch_core::cx::Scope;
use orch_core::orch::Parts;
use orch_core::ports::clock::SystemClock;
use orch_core::ports::failpoint::NoFailpoints;
use orch_core::ports::tool_server::{
    FlaggedTool, ReloadedServers, ResultPart, ServerTool, ToolServer, ToolServers, no_result,
    no_server,
};
use orch_core::service::bootstrap::local_caller;
use orch_core::service::tool_search::ToolIndex;
use orch_core::settings::Settings;
use orch_core::{Cx, Orch, ops};
use orch_domain::Error;
use orch_domain::caller::Channel;
use orch_gateway::profile::Profile;
use orch_gateway::view::View;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::task::TaskTracker;
use wildmatch::WildMatch;

/// As many as are answered without a `limit`.
const N_FOUND: usize = 5;
/// Characters of a token, roughly; the same for both sides of the comparison.
const OF_TOKEN: usize = 4;
/// As `search_tools` cuts a description.
const LONGEST: usize = 400;

#[derive(Deserialize)]
struct Catalog {
    server: String,
    package: String,
    version: String,
    tools: Vec<Value>,
}

#[derive(Deserialize)]
struct Asked {
    query: String,
    /// Any of them would do.
    tools: Vec<String>,
}

fn main() {
    let shows_misses = std::env::args().any(|it| it == "misses");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let (mut tools, mut n_listed) = own();
    let n_own = tools.len();
    let mut files: Vec<_> = fs_err::read_dir(root.join("catalogs"))
        .expect("the folder of catalogs")
        .map(|it| it.expect("an entry").path())
        .filter(|it| it.extension().is_some_and(|it| it == "json"))
        .collect();
    files.sort();
    for file in &files {
        let catalog: Catalog = read(file);
        println!(
            "{:<12} {:>3} tools of {} {}",
            catalog.server,
            catalog.tools.len(),
            catalog.package,
            catalog.version
        );
        n_listed += catalog.tools.iter().map(|it| it.to_string().len()).sum::<usize>();
        tools.extend(catalog.tools.iter().map(|it| tool_of(&catalog.server, it)));
    }
    let names: Vec<String> = tools.iter().map(|it| format!("{}.{}", it.server, it.name)).collect();
    let known: HashSet<&str> = names.iter().map(String::as_str).collect();
    let index = ToolIndex::build(&tools);
    println!("\n{} tools of {} servers and {n_own} own", tools.len() - n_own, files.len());
    let mut all = Vec::new();
    let (mut n_answered, mut took) = (0, Vec::new());
    for set in ["first", "second", "third"] {
        let asked: Vec<Asked> = read(&root.join(format!("recall/{set}.json")));
        let (mut at_once, mut among, mut reciprocal) = (0_usize, 0_usize, 0.0);
        for it in &asked {
            for tool in &it.tools {
                assert!(known.contains(tool.as_str()), "`{tool}` is in no catalog");
            }
            let started = Instant::now();
            let found = index.search(&it.query);
            took.push(started.elapsed());
            let place = found.iter().position(|(at, _)| it.tools.contains(&names[*at]));
            at_once += usize::from(place == Some(0));
            among += usize::from(place.is_some_and(|it| it < N_FOUND));
            reciprocal += place.map_or(0.0, |it| 1.0 / (it + 1) as f64);
            let shown = &found[..found.len().min(N_FOUND)];
            n_answered +=
                shown.iter().map(|(at, _)| answered(&tools[*at]).to_string().len()).sum::<usize>();
            if shows_misses && place.is_none_or(|it| N_FOUND <= it) {
                let shown: Vec<&str> = shown.iter().map(|(at, _)| names[*at].as_str()).collect();
                println!(
                    "miss ({place:?}): {:?} wants {:?} and finds {shown:?}",
                    it.query, it.tools
                );
            }
        }
        let n = asked.len() as f64;
        println!(
            "{set} set, {n} queries: recall@1 {:.3}, recall@{N_FOUND} {:.3}, mean reciprocal rank {:.3}",
            at_once as f64 / n,
            among as f64 / n,
            reciprocal / n
        );
        all.extend(asked);
    }
    let (n_listed, n_answered) = (n_listed / OF_TOKEN, n_answered / OF_TOKEN / all.len());
    println!(
        "tokens (characters / {OF_TOKEN}): {n_listed} to list all, {n_answered} for {N_FOUND} found ({:.1} %)",
        n_answered as f64 * 100.0 / n_listed as f64
    );
    println!("a query over {} tools, p50: {:?}", tools.len(), p50(&mut took));
    over_a_thousand(&tools, &all);
}

/// The same tools under more names, until there are a thousand.
fn over_a_thousand(tools: &[ServerTool], asked: &[Asked]) {
    let many: Vec<ServerTool> = (0..1000)
        .map(|i| {
            let mut tool = tools[i % tools.len()].clone();
            tool.server = format!("{}{}", tool.server, i / tools.len());
            tool
        })
        .collect();
    let started = Instant::now();
    let index = ToolIndex::build(&many);
    println!("the index of 1000 tools is built in {:?}", started.elapsed());
    let mut took = Vec::new();
    for it in (0..20).flat_map(|_| asked) {
        let started = Instant::now();
        std::hint::black_box(index.search(&it.query));
        took.push(started.elapsed());
    }
    say("a query over 1000 tools, the index alone", took);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let patterns = |them: &[&str]| them.iter().map(|it| WildMatch::new(it)).collect::<Vec<_>>();
    let narrow = Profile {
        servers: patterns(&["*"]),
        deny: patterns(&["*.delete_*", "*.kubectl_*"]),
        own: true,
        ..Profile::default()
    };
    let narrow = View { profile: Some(Arc::new(narrow)), ..View::default() };
    runtime.expect("a runtime").block_on(async {
        let whole = Whole::over(many);
        say("the whole operation, answer as JSON included", whole.measure(asked, None).await);
        let narrow = Some(Arc::new(narrow) as Arc<dyn Scope>);
        say("the same in a profile with patterns", whole.measure(asked, narrow).await);
    });
}

fn say(what: &str, mut took: Vec<Duration>) {
    let median = p50(&mut took);
    println!("{what}: p50 {median:?}, p99 {:?} (limit of p50: 1 ms)", took[took.len() * 99 / 100]);
}

/// The operation on everything that it stands on, with servers that only have a catalog.
struct Whole {
    orch: Arc<Orch>,
    _dir: tempfile::TempDir,
}

impl Whole {
    fn over(tools: Vec<ServerTool>) -> Whole {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let clock = Arc::new(SystemClock);
        let store = Arc::new(SledStore::open(dir.path()).expect("a store"));
        let parts = Parts {
            model: None,
            blobs: store.clone(),
            store,
            engines: Arc::new(NodeEngines::new(clock.clone(), TaskTracker::new())),
            clock,
            failpoints: Arc::new(NoFailpoints),
            tool_servers: Arc::new(Catalogued(Arc::new(tools))),
            peers: Arc::new(Tailscale::new("/nowhere".into())),
            ray: None,
        };
        let orch = Orch::build(parts, Settings::default()).expect("an orchestrator");
        Whole { orch, _dir: dir }
    }

    async fn measure(&self, asked: &[Asked], scope: Option<Arc<dyn Scope>>) -> Vec<Duration> {
        let catalogue = ops::catalogue();
        let op = catalogue.iter().find(|it| it.spec.name == "search_tools").expect("it is there");
        let mut took = Vec::new();
        for it in (0..10).flat_map(|_| asked) {
            let mut cx = Cx::new(Some(local_caller(Channel::Mcp)));
            if let Some(scope) = &scope {
                cx = cx.with_scope(scope.clone());
            }
            let started = Instant::now();
            let answer = (op.call)(self.orch.clone(), cx, json!({"query": it.query})).await;
            std::hint::black_box(answer.expect("an answer").value);
            took.push(started.elapsed());
        }
        took
    }
}

struct Catalogued(Arc<Vec<ServerTool>>);

#[async_trait::async_trait]
impl ToolServers for Catalogued {
    fn servers(&self) -> Vec<ToolServer> {
        Vec::new()
    }

    fn catalog(&self) -> Arc<Vec<ServerTool>> {
        self.0.clone()
    }

    async fn call(
        &self,
        server: &str,
        _: &str,
        _: Map<String, Value>,
        _: &Cx,
    ) -> Result<Value, Error> {
        Err(no_server(server))
    }

    async fn reload(&self) -> Result<ReloadedServers, Error> {
        Ok(ReloadedServers::default())
    }

    async fn add(&self, name: &str, _: Value, _: bool) -> Result<(), Error> {
        Err(no_server(name))
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        Err(no_server(name))
    }

    async fn approve(&self, server: &str, _: &[String]) -> Result<Vec<FlaggedTool>, Error> {
        Err(no_server(server))
    }

    async fn result(&self, id: &str, _: u64, _: usize, _: &Cx) -> Result<ResultPart, Error> {
        Err(no_result(id))
    }
}

fn p50(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> T {
    let text = fs_err::read_to_string(file).expect("a file of the benchmark");
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{}: {err}", file.display()))
}

/// Our operations, and the characters of their list.
fn own() -> (Vec<ServerTool>, usize) {
    let tools = mcp_orch::face::mcp::tools();
    let n_listed = tools.iter().map(|it| it.to_string().len()).sum();
    let catalogue = ops::catalogue();
    let tools = catalogue.iter().map(|op| ServerTool {
        server: "orch".to_owned(),
        name: op.spec.name.to_owned(),
        title: Some(op.spec.title().to_owned()),
        description: op.spec.text.trim_end().to_owned(),
        input_schema: Value::Object(op.input.clone()),
        output_schema: None,
        annotations: None,
        pin: None,
    });
    (tools.collect(), n_listed)
}

fn tool_of(server: &str, tool: &Value) -> ServerTool {
    let text = |key: &str| tool[key].as_str().map(str::to_owned);
    ServerTool {
        server: server.to_owned(),
        name: text("name").unwrap_or_default(),
        title: text("title"),
        description: text("description").unwrap_or_default(),
        input_schema: tool["inputSchema"].clone(),
        output_schema: None,
        annotations: None,
        pin: None,
    }
}

/// As `search_tools` answers it.
fn answered(tool: &ServerTool) -> Value {
    let description: String = tool.description.chars().take(LONGEST).collect();
    json!({
        "name": format!("{}.{}", tool.server, tool.name), "server": tool.server, "title": tool.title,
        "description": description, "input_schema": tool.input_schema, "score": 12.34,
    })
}

//! What the planner's model is shown, with everything that the choice of tools stands on.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use orch_adapters::engines::NodeEngines;
use orch_adapters::store::SledStore;
use orch_adapters::tailscale::Tailscale;
use orch_core::cx::Scope;
use orch_core::orch::Parts;
use orch_core::ports::clock::SystemClock;
use orch_core::ports::failpoint::NoFailpoints;
use orch_core::ports::model::{End, Model, Piece, Prompt};
use orch_core::ports::tool_server::{
    FlaggedTool, NoToolServers, ReloadedServers, ResultPart, ServerTool, ToolServer, ToolServers,
};
use orch_core::service::batch::planner::{self, Canvas, Ended, Options, WITHHELD};
use orch_core::settings::Settings;
use orch_core::{Cx, Orch, ops};
use orch_domain::Error;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::name::UserId;
use orch_domain::plan::{Problem, Step};
use orch_domain::tool_access::ToolPatterns;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Servers that only have a list.
struct Listed(Arc<Vec<ServerTool>>);

#[async_trait]
impl ToolServers for Listed {
    fn servers(&self) -> Vec<ToolServer> {
        Vec::new()
    }
    fn catalog(&self) -> Arc<Vec<ServerTool>> {
        self.0.clone()
    }
    async fn call(
        &self,
        server: &str,
        tool: &str,
        args: Map<String, Value>,
        cx: &Cx,
    ) -> Result<Value, Error> {
        NoToolServers.call(server, tool, args, cx).await
    }
    async fn reload(&self) -> Result<ReloadedServers, Error> {
        NoToolServers.reload().await
    }
    async fn add(&self, name: &str, entry: Value, replace: bool) -> Result<(), Error> {
        NoToolServers.add(name, entry, replace).await
    }
    async fn remove(&self, name: &str) -> Result<(), Error> {
        NoToolServers.remove(name).await
    }
    async fn approve(&self, server: &str, tools: &[String]) -> Result<Vec<FlaggedTool>, Error> {
        NoToolServers.approve(server, tools).await
    }
    async fn result(&self, id: &str, from: u64, max: usize, cx: &Cx) -> Result<ResultPart, Error> {
        NoToolServers.result(id, from, max, cx).await
    }
}

/// Gives its replies in turn and keeps what it was asked.
#[derive(Default)]
struct Scripted {
    replies: Mutex<VecDeque<&'static str>>,
    prompts: Mutex<Vec<Prompt>>,
}

#[async_trait]
impl Model for Scripted {
    fn name(&self) -> String {
        "scripted".to_owned()
    }
    async fn generate(
        &self,
        prompt: &Prompt,
    ) -> Result<BoxStream<'static, Result<Piece, Error>>, Error> {
        self.prompts.lock().push(prompt.clone());
        let reply = self.replies.lock().pop_front().expect("it was asked more often than expected");
        let end = End { is_cut: false, input_tokens: None, output_tokens: None };
        let pieces = [Ok(Piece::Text(reply.to_owned())), Ok(Piece::End(end))];
        Ok(futures::stream::iter(pieces).boxed())
    }
}

/// Takes everything and runs nothing.
#[derive(Default)]
struct Paper(Mutex<Vec<Step>>, CancellationToken);

#[async_trait]
impl Canvas for Paper {
    fn add(&self, step: Step) -> Result<(), Vec<Problem>> {
        self.0.lock().push(step);
        Ok(())
    }
    fn check_output(&self, _: &Value) -> Vec<Problem> {
        Vec::new()
    }
    async fn settled(&self) -> Option<Vec<Ended>> {
        None
    }
    fn ended(&self) -> &CancellationToken {
        &self.1
    }
}

struct Desk {
    orch: Arc<Orch>,
    _dir: tempfile::TempDir,
}

impl Desk {
    fn with(tools: Vec<ServerTool>) -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let store = Arc::new(SledStore::open(dir.path()).unwrap());
        let parts = Parts {
            model: None,
            blobs: store.clone(),
            store,
            engines: Arc::new(NodeEngines::new(clock.clone(), TaskTracker::new())),
            clock,
            failpoints: Arc::new(NoFailpoints),
            tool_servers: Arc::new(Listed(Arc::new(tools))),
            peers: Arc::new(Tailscale::new(dir.path().join("tailscaled.sock"))),
            ray: None,
        };
        Desk { orch: Orch::build(parts, Settings::default()).unwrap(), _dir: dir }
    }

    /// What the model was asked: system prompt and messages together, round by round.
    async fn plan(
        &self,
        cx: &Cx,
        request: &str,
        options: &Options,
        replies: &[&'static str],
    ) -> Vec<String> {
        let scripted = Arc::new(Scripted::default());
        scripted.replies.lock().extend(replies);
        let model: Arc<dyn Model> = scripted.clone();
        let canvas = Paper::default();
        let outcome =
            planner::run(&self.orch, cx, &model, request, options, &canvas).await.unwrap();
        assert_eq!(outcome.rounds as usize, replies.len());
        let prompts = scripted.prompts.lock();
        let text = |it: &Prompt| {
            let messages: Vec<&str> = it.messages.iter().map(|it| it.text.as_str()).collect();
            format!("{}\n{}", it.system, messages.join("\n"))
        };
        prompts.iter().map(text).collect()
    }
}

/// Names of the tools that a prompt shows.
fn shown(prompt: &str) -> Vec<&str> {
    prompt.lines().filter_map(|it| it.strip_prefix("# ")).filter(|it| it.contains('.')).collect()
}

fn cx(permissions: &[Permission], tools: &ToolPatterns) -> Cx {
    let user = UserId::try_new("ann").unwrap();
    let mut caller = Caller::new(user, permissions.to_vec(), Channel::Rest);
    caller.tools = caller.tools.and(tools);
    Cx::new(Some(caller))
}

fn tool(server: &str, name: &str, description: &str) -> ServerTool {
    ServerTool {
        server: server.to_owned(),
        name: name.to_owned(),
        title: None,
        description: description.to_owned(),
        input_schema: json!({"type": "object", "properties": {"text": {"type": "string"}}}),
        output_schema: None,
        annotations: None,
        pin: None,
    }
}

const ANSWER: &str = r#"{"answer": "ok"}"#;

fn roomy() -> Options {
    Options { tool_budget_tokens: 1_000_000, ..Options::default() }
}

#[tokio::test]
async fn a_tool_that_the_caller_may_not_use_is_in_no_prompt() {
    let desk = Desk::with(vec![
        tool("files", "read_it", "Reads a file."),
        tool("files", "erase_it", "Erases a file."),
    ]);
    let all = Permission::ALL;
    let own: Vec<String> =
        ops::catalogue().iter().map(|it| format!("orch.{}", it.spec.name)).collect();

    let prompts =
        desk.plan(&cx(&all, &ToolPatterns::default()), "erase it", &roomy(), &[ANSWER]).await;
    let listed = shown(&prompts[0]);
    assert!(
        listed.contains(&"files.erase_it") && listed.contains(&"orch.launch_instance"),
        "{listed:?}"
    );
    for name in &own {
        let is_withheld = WITHHELD.iter().any(|it| name == &format!("orch.{it}"));
        let is_batch = name.starts_with("orch.batch_") || name == "orch.list_batches";
        assert_eq!(listed.contains(&name.as_str()), !is_withheld && !is_batch, "{name}");
    }

    let reader = cx(&[Permission::Read], &ToolPatterns::default());
    let prompts = desk.plan(&reader, "erase it", &roomy(), &[ANSWER]).await;
    let listed = shown(&prompts[0]);
    assert!(listed.contains(&"orch.list_nodes"), "{listed:?}");
    assert!(!listed.iter().any(|it| it.starts_with("files.")), "these need `execute`: {listed:?}");
    assert!(!listed.contains(&"orch.register_node"), "{listed:?}");

    let denied: ToolPatterns =
        serde_json::from_value(json!({"deny": ["*.erase_*", "orch.*"]})).unwrap();
    let prompts = desk.plan(&cx(&all, &denied), "erase it", &roomy(), &[ANSWER]).await;
    assert_eq!(shown(&prompts[0]), ["files.read_it"]);
    assert!(
        !prompts[0].contains("erase_it") && !prompts[0].contains("Erases a file"),
        "{}",
        prompts[0]
    );

    struct Narrow;
    impl Scope for Narrow {
        fn shows_server(&self, server: &str) -> bool {
            server == "files"
        }
        fn shows_tool(&self, server: &str, tool: &str) -> bool {
            server == "files" && tool == "read_it"
        }
    }
    let profile = cx(&all, &ToolPatterns::default()).with_scope(Arc::new(Narrow));
    let prompts = desk.plan(&profile, "erase it", &roomy(), &[ANSWER]).await;
    assert_eq!(shown(&prompts[0]), ["files.read_it"]);
}

fn thousand() -> Desk {
    let filler =
        "It is one of very many, and this is what it says of itself at some length. ".repeat(3);
    let mut tools: Vec<ServerTool> =
        (0..1_000).map(|i| tool(&format!("s{}", i / 50), &format!("thing_{i}"), &filler)).collect();
    tools[777] = tool("mail", "send_mail", "Sends an e-mail to somebody.");
    tools[888] = tool("weather", "forecast", "Tells tomorrow's weather of a city.");
    Desk::with(tools)
}

#[tokio::test]
async fn of_a_thousand_tools_those_that_fit_are_shown_within_the_budget() {
    let desk = thousand();
    let admin = cx(&Permission::ALL, &ToolPatterns::default());
    let request = "Look up the weather of Seoul for tomorrow, and send me a mail about it";
    for budget in [1_000, 8_000] {
        let options = Options { tool_budget_tokens: budget, ..Options::default() };
        let prompts = desk.plan(&admin, request, &options, &[ANSWER]).await;
        let listed = shown(&prompts[0]);
        assert!(
            listed.contains(&"mail.send_mail") && listed.contains(&"weather.forecast"),
            "{listed:?}"
        );
        let (_, tools) = prompts[0].split_once("--- begin ").unwrap();
        let (tools, _) = tools.split_once("--- end ").unwrap();
        assert!(tools.len() <= budget * 4 + 100, "{} bytes for {budget} tokens", tools.len());
        assert!(budget * 3 < tools.len(), "the budget is used: {}", tools.len());
    }
}

#[tokio::test]
async fn a_request_in_another_language_finds_its_tools_by_queries_of_the_model() {
    let desk = thousand();
    let admin = cx(&Permission::ALL, &ToolPatterns::default());
    let options = Options { tool_budget_tokens: 1_000, ..Options::default() };
    let request = "내일 서울 날씨를 알아보고 메일로 보내 줘";
    let queries =
        "```json\n{\"query\": \"weather forecast of a city\"}\n{\"query\": \"send an email\"}\n```";
    let prompts = desk.plan(&admin, request, &options, &[queries, ANSWER]).await;
    assert!(prompts[0].contains(request) && shown(&prompts[0]).is_empty(), "{}", prompts[0]);
    let listed = shown(&prompts[1]);
    assert_eq!(&listed[..2], ["weather.forecast", "mail.send_mail"], "{listed:?}");
    assert!(prompts[1].contains(request));

    // A model that finds no queries costs nothing but that.
    let prompts = desk.plan(&admin, request, &options, &["No.", ANSWER]).await;
    assert!(!shown(&prompts[1]).is_empty());
}

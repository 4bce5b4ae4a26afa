//! What the doctor says of the provider.

use super::*;
use crate::harness::program::{Home, ran};

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_whether_the_provider_answers_and_asks_nothing_that_costs() {
    let home = Home::new();
    let server = LlmServer::start().await;
    let doctor = |variables: &[(&str, &str)]| {
        let mut command = home.command(&["doctor"]);
        command.envs(variables.iter().copied());
        let said = tokio::task::block_in_place(|| ran(&mut command)).stdout;
        let begin = said.find("llm ")?;
        // With its hint, as lines after the first are indented.
        let lines: Vec<&str> = said[begin..].lines().collect();
        let more = lines[1..].iter().take_while(|it| it.starts_with(' '));
        Some([&lines[..1], &more.copied().collect::<Vec<_>>()].concat().join("\n"))
    };
    assert_eq!(doctor(&[]), None, "no lack where none is wanted");
    let line = doctor(&[("OPENAI_API_KEY", KEY)]).unwrap();
    assert!(line.contains("none is chosen") && line.contains("`llm.openai.model`"), "{line}");
    let url = format!("{}/v1", server.url);
    let openai = [
        ("MCP_ORCH_LLM_PROVIDER", "openai"),
        ("OPENAI_API_KEY", KEY),
        ("OPENAI_BASE_URL", url.as_str()),
        ("OPENAI_MODEL", "llama3"),
    ];
    let list = |ids: &[&str]| {
        let data: Vec<Value> = ids.iter().map(|it| json!({"id": it, "object": "model"})).collect();
        let body = json!({"object": "list", "data": data}).to_string();
        Reply::streamed([body.into_bytes()]).with("content-type", "application/json")
    };
    server.replies([list(&["mistral", "llama3:latest"])]);
    let line = doctor(&openai).unwrap();
    assert!(line.contains("openai llama3 answers and takes the key"), "{line}");
    let asked = server.asked();
    let bearer = format!("Bearer {KEY}");
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("GET", "/v1/models"));
    assert_eq!((asked[0].header("authorization"), asked.len()), (Some(bearer.as_str()), 1));
    server.replies([list(&["mistral", "phi"])]);
    let line = doctor(&openai).unwrap();
    assert!(line.contains("no `llama3`") && line.contains("hint: there is mistral, phi"), "{line}");
    server.replies([Reply::refused(401, "{}")]);
    let line = doctor(&openai).unwrap();
    assert!(line.contains("`llm.openai.api_key`") && !line.contains(KEY), "{line}");
    server.replies([]);
    let line = doctor(&[
        ("MCP_ORCH_LLM_PROVIDER", "bedrock"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", KEY),
        ("BEDROCK_MODEL_ID", "amazon.nova-pro-v1:0"),
    ])
    .unwrap();
    assert!(line.contains("not tried, as every request costs"), "{line}");
    assert!(server.asked().is_empty());
}

//! Language models of providers: each as its documentation has it, and every way in which an answer can fail to come.

mod doctor;
mod faults;

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use mcp_orch::app::llm as wiring;
use mcp_orch::config::{Config, Provider};
use orch_core::ports::model::{End, Message, Model, Piece, Prompt, Role};
use orch_domain::Error;
use orch_domain::secret::Secret;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::llm::{LlmServer, RECORDED, Reply, Then, Tongue};
use crate::harness::{eventually, within};

const KEY: &str = "sk-test-4242424242";

fn prompt() -> Prompt {
    let said = |role, text: &str| Message { role, text: text.to_owned() };
    Prompt {
        system: "Be brief.".to_owned(),
        messages: vec![
            said(Role::User, "Hi"),
            said(Role::Assistant, "Hello"),
            said(Role::User, "Was?"),
        ],
        max_tokens: 512,
    }
}

/// As a configuration has it, with the address of the server in the place where each provider's is.
fn config(tongue: Tongue, url: &str) -> Config {
    let mut config = Config::default();
    let llm = &mut config.llm;
    let (url, secret) = (Some(url.to_owned()), Some(Secret::new(KEY.to_owned())));
    match tongue {
        Tongue::Openai => {
            llm.provider = Some(Provider::Openai);
            llm.openai.base_url = url.map(|it| format!("{it}/v1/"));
            llm.openai.api_key = secret;
            llm.openai.model = Some("gpt-x".to_owned());
        }
        Tongue::Azure => {
            llm.provider = Some(Provider::Azure);
            llm.azure.endpoint = url;
            llm.azure.api_key = secret;
            llm.azure.model = Some("gpt-x".to_owned());
        }
        Tongue::Anthropic => {
            llm.provider = Some(Provider::Anthropic);
            llm.anthropic.base_url = url;
            llm.anthropic.api_key = secret;
            llm.anthropic.model = Some("gpt-x".to_owned());
        }
        Tongue::Bedrock => {
            llm.provider = Some(Provider::Bedrock);
            llm.bedrock.endpoint = url;
            llm.bedrock.region = Some("eu-central-1".to_owned());
            llm.bedrock.access_key_id = Some(Secret::new("AKIDEXAMPLE".to_owned()));
            llm.bedrock.secret_access_key = secret;
            llm.bedrock.session_token = Some(Secret::new("session+token==".to_owned()));
            llm.bedrock.model = Some("us.amazon.nova-pro-v1:0".to_owned());
        }
    }
    config
}

fn model(config: &Config) -> Arc<dyn Model> {
    wiring::of(config).unwrap().unwrap()
}

type Stream = BoxStream<'static, Result<Piece, Error>>;

/// The text until it ends, and how it ends. Nothing comes after that.
async fn read(mut stream: Stream) -> (String, Result<End, Error>) {
    let mut text = String::new();
    let end = within("the end of the answer", async {
        loop {
            match stream.next().await.expect("an answer has an end or an error") {
                Ok(Piece::Text(it)) => text.push_str(&it),
                Ok(Piece::End(it)) => break Ok(it),
                Err(err) => break Err(err),
            }
        }
    });
    let end = end.await;
    assert!(stream.next().await.is_none(), "nothing comes after the end");
    (text, end)
}

async fn ask(model: &Arc<dyn Model>) -> Result<(String, End), Error> {
    let stream = within("an answer", model.generate(&prompt())).await?;
    let (text, end) = read(stream).await;
    end.map(|it| (text, it))
}

#[tokio::test]
async fn every_provider_is_asked_and_read_as_it_documents_it() {
    let server = LlmServer::start().await;
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Was?"}
    ]);
    let chat = |limit: &str| {
        json!({
            "model": "gpt-x", "messages": messages, "stream": true, limit: 512,
            "stream_options": {"include_usage": true}
        })
    };
    let block = |role: &str, text: &str| json!({"role": role, "content": [{"text": text}]});
    let classic = {
        let mut config = config(Tongue::Azure, &server.url);
        config.llm.azure.api_version = Some("2024-10-21".to_owned());
        config.llm.azure.model = Some("my gpt".to_owned());
        config
    };
    let full = config(Tongue::Azure, &format!("{}/openai/v1/", server.url));
    let renamed = |mut body: Value| {
        body["model"] = "my gpt".into();
        body
    };
    let of = |tongue| config(tongue, &server.url);
    let cases = [
        (Tongue::Openai, of(Tongue::Openai), "/v1/chat/completions", chat("max_tokens")),
        (
            Tongue::Azure,
            of(Tongue::Azure),
            "/openai/v1/chat/completions",
            chat("max_completion_tokens"),
        ),
        (Tongue::Azure, full, "/openai/v1/chat/completions", chat("max_completion_tokens")),
        (
            Tongue::Azure,
            classic,
            "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21",
            renamed(chat("max_completion_tokens")),
        ),
        (
            Tongue::Anthropic,
            of(Tongue::Anthropic),
            "/v1/messages",
            json!({
                "model": "gpt-x", "max_tokens": 512, "system": "Be brief.", "stream": true,
                "messages": messages.as_array().unwrap()[1..]
            }),
        ),
        (
            Tongue::Bedrock,
            of(Tongue::Bedrock),
            "/model/us.amazon.nova-pro-v1%3A0/converse-stream",
            json!({
                "system": [{"text": "Be brief."}], "inferenceConfig": {"maxTokens": 512},
                "messages": [block("user", "Hi"), block("assistant", "Hello"), block("user", "Was?")]
            }),
        ),
    ];
    for (tongue, config, path, body) in cases {
        // The last cut is within the crab, wherever else they are.
        for n_bytes in [1, 7, 1000, 1_000_000] {
            server.replies([Reply::cut(&tongue.recorded(), n_bytes)]);
            let (text, end) = ask(&model(&config)).await.unwrap();
            assert_eq!(text, RECORDED, "{tongue:?} in chunks of {n_bytes}");
            let wanted = End { is_cut: false, input_tokens: Some(19), output_tokens: Some(10) };
            assert_eq!(end, wanted, "{tongue:?}");
        }
        let asked = server.asked().pop().unwrap();
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", path));
        assert_eq!(asked.body, body, "{tongue:?}");
        assert_eq!(asked.header("content-type"), Some("application/json"));
        match tongue {
            Tongue::Openai => {
                assert_eq!(asked.header("authorization").unwrap(), format!("Bearer {KEY}"))
            }
            Tongue::Azure => assert_eq!(asked.header("api-key"), Some(KEY)),
            Tongue::Anthropic => {
                assert_eq!(asked.header("x-api-key"), Some(KEY));
                assert_eq!(asked.header("anthropic-version"), Some("2023-06-01"));
            }
            Tongue::Bedrock => {
                let signature = asked.header("authorization").unwrap();
                assert!(
                    signature.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"),
                    "{signature}"
                );
                let signed = "/eu-central-1/bedrock/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, ";
                assert!(signature.contains(signed), "{signature}");
                assert_eq!(asked.header("x-amz-security-token"), Some("session+token=="));
                assert!(!format!("{:?}", asked.headers).contains(KEY), "it signs and is not sent");
            }
        }
    }
}

#[tokio::test]
async fn names_and_limits_are_as_configured_and_a_server_of_ones_own_needs_no_key() {
    let server = LlmServer::start().await;
    let mut config = config(Tongue::Openai, &server.url);
    config.llm.openai.api_key = None;
    config.llm.max_tokens = Some(100);
    let ours = model(&config);
    assert_eq!(ours.name(), "openai gpt-x");
    server.replies([Tongue::Openai.whole("ok")]);
    assert_eq!(ask(&ours).await.unwrap().0, "ok");
    let asked = server.asked().pop().unwrap();
    assert_eq!((asked.header("authorization"), &asked.body["max_tokens"]), (None, &json!(100)));
    let mut bedrock = self::config(Tongue::Bedrock, &server.url);
    bedrock.llm.bedrock.api_key = Some(Secret::new("bedrock-api-key".to_owned()));
    server.replies([Tongue::Bedrock.whole("ok")]);
    assert_eq!(ask(&model(&bedrock)).await.unwrap().0, "ok");
    let asked = server.asked().pop().unwrap();
    assert_eq!(asked.header("authorization"), Some("Bearer bedrock-api-key"));
    assert_eq!(asked.header("x-amz-security-token"), None);
    assert!(wiring::of(&Config::default()).unwrap().is_none(), "none unless chosen");
}

#[tokio::test]
async fn pieces_come_as_they_are_written_and_dropping_them_ends_the_request() {
    let server = LlmServer::start().await;
    for tongue in Tongue::ALL {
        let gate = Arc::new(Semaphore::new(0));
        let rest = vec![tongue.piece("two"), tongue.piece("three"), tongue.end("stop")];
        let first = Reply::streamed([tongue.piece("one")]);
        server.replies([first.then(Then::Waits(gate.clone(), rest))]);
        let model = model(&config(tongue, &server.url));
        let mut stream = within("the beginning", model.generate(&prompt())).await.unwrap();
        let text = |it: &str| Piece::Text(it.to_owned());
        let mut next = async || within("a piece", stream.next()).await.unwrap().unwrap();
        assert_eq!(next().await, text("one"), "{tongue:?}: before anything else is written");
        gate.add_permits(1);
        assert_eq!(next().await, text("two"), "{tongue:?}");
        assert_eq!(server.n_open(), 1);
        drop(stream);
        eventually("the request to end", || async { (server.n_open() == 0).then_some(()) }).await;
    }
}

#[tokio::test]
async fn giving_up_before_the_first_piece_ends_the_request_too() {
    let server = LlmServer::start().await;
    server.replies([Reply { is_mute: true, ..Reply::streamed([]) }]);
    let model = model(&config(Tongue::Openai, &server.url));
    let prompt = prompt();
    let asked = eventually("the question", || async { (server.n_open() == 1).then_some(()) });
    tokio::select! {
        answer = model.generate(&prompt) => panic!("it is mute: {:?}", answer.err()),
        () = asked => {}
    }
    eventually("the request to end", || async { (server.n_open() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn an_answer_that_was_too_long_is_cut_and_one_that_was_filtered_is_none() {
    let server = LlmServer::start().await;
    for (tongue, cut, filtered) in [
        (Tongue::Openai, "length", "content_filter"),
        (Tongue::Azure, "length", "content_filter"),
        (Tongue::Anthropic, "max_tokens", "refusal"),
        (Tongue::Bedrock, "max_tokens", "guardrail_intervened"),
    ] {
        let model = model(&config(tongue, &server.url));
        let reply = |reason| Reply::streamed([tongue.piece("half"), tongue.end(reason)]);
        server.replies([reply(cut), reply(filtered)]);
        let (text, end) = ask(&model).await.unwrap();
        assert_eq!((text.as_str(), end.is_cut), ("half", true), "{tongue:?}");
        let err = ask(&model).await.unwrap_err().to_string();
        assert!(err.contains("content filter"), "{tongue:?}: {err}");
    }
}

/// Newer models and older servers have different words for the limit, and some know no options of streams.
#[tokio::test]
async fn what_an_endpoint_does_not_know_is_learnt_once() {
    let server = LlmServer::start().await;
    let model = model(&config(Tongue::Openai, &server.url));
    let refused =
        |message: &str| Reply::refused(400, json!({"error": {"message": message}}).to_string());
    server.replies([
        refused("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
        refused("Unrecognized request argument supplied: stream_options"),
        Tongue::Openai.whole("ok"),
        Tongue::Openai.whole("ok"),
    ]);
    assert_eq!(ask(&model).await.unwrap().0, "ok");
    assert_eq!(ask(&model).await.unwrap().0, "ok");
    let asked = server.asked();
    assert_eq!(asked.len(), 4, "what was learnt is known the next time");
    for it in &asked[2..] {
        assert_eq!(
            (&it.body["max_completion_tokens"], &it.body["max_tokens"]),
            (&json!(512), &Value::Null)
        );
        assert_eq!(it.body["stream_options"], Value::Null);
    }
    // One that knows neither is not asked without end.
    let neither = ["max_completion_tokens", "max_tokens", "max_completion_tokens"];
    server.replies(neither.map(|it| refused(&format!("Unknown argument: {it}"))));
    assert!(ask(&model).await.unwrap_err().to_string().contains("status 400"));
    assert_eq!(server.asked().len(), 3);
    server.replies([refused("max_tokens is too large: 512")]);
    assert!(ask(&model).await.unwrap_err().to_string().contains("too large: 512"));
    assert_eq!(server.asked().len(), 1);
}

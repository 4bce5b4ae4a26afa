//! What fails, when it is tried again, and what the error says.

use std::time::Duration;

use super::*;
use crate::harness::ray::closed_port;

/// With limits that a test waits for.
fn hasty(tongue: Tongue, url: &str) -> Arc<dyn Model> {
    let mut config = config(tongue, url);
    config.llm.timeout = mcp_orch::config::Seconds::new(0.3);
    model(&config)
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_never_an_end() {
    let server = LlmServer::start().await;
    for tongue in Tongue::ALL {
        let model = model(&config(tongue, &server.url));
        let begun = Reply::streamed([tongue.piece("one"), tongue.piece("two")]);
        let mut half = tongue.piece("three");
        half.truncate(half.len() / 2);
        let mut torn = begun.clone();
        torn.chunks.push(half);
        for reply in [begun.clone(), begun.then(Then::Dies), torn] {
            server.replies([reply.clone()]);
            let stream = within("the beginning", model.generate(&prompt())).await.unwrap();
            let (text, end) = read(stream).await;
            let err = end.unwrap_err();
            let is_torn_json = err.to_string().contains("not what its protocol has");
            assert!(
                text == "onetwo" && (err.to_string().contains("cut off") || is_torn_json),
                "{tongue:?}, {reply:?}: {text}: {err}"
            );
            assert_eq!(server.asked().len(), 1, "nothing is asked again once a piece was given");
        }
        // It gives up in the middle, and says so.
        server.replies([Reply::streamed([tongue.piece("one"), tongue.overloaded()])]);
        let stream = within("the beginning", model.generate(&prompt())).await.unwrap();
        let (text, end) = read(stream).await;
        let err = end.unwrap_err();
        assert!(matches!(err, Error::Unavailable { .. }), "{tongue:?}: {err}");
        assert!(text == "one" && err.to_string().contains("Overloaded"), "{tongue:?}: {err}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn before_the_first_piece_it_is_asked_again() {
    let server = LlmServer::start().await;
    for tongue in Tongue::ALL {
        let model = model(&config(tongue, &server.url));
        let busy = Reply::refused(429, r#"{"error":{"message":"slow down"}}"#)
            .with("retry-after-ms", "20");
        for passing in [
            busy,
            Reply::refused(503, "{}").with("retry-after", "0"),
            Reply::refused(
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            ),
            Reply::streamed([]).then(Then::Dies),
            Reply::streamed([tongue.overloaded()]),
            Reply::streamed([]),
        ] {
            server.replies([passing.clone(), tongue.whole("ok")]);
            let answer =
                ask(&model).await.unwrap_or_else(|err| panic!("{tongue:?}, {passing:?}: {err}"));
            assert_eq!(
                (answer.0.as_str(), server.asked().len()),
                ("ok", 2),
                "{tongue:?}, {passing:?}"
            );
        }
    }
}

#[tokio::test]
async fn it_is_asked_three_times_at_most() {
    let server = LlmServer::start().await;
    let model = model(&config(Tongue::Openai, &server.url));
    let busy =
        Reply::refused(429, r#"{"error":{"message":"slow down"}}"#).with("retry-after-ms", "25");
    server.replies(vec![busy; 4]);
    let err = ask(&model).await.unwrap_err();
    assert!(matches!(err, Error::TooManyRequests { retry_after_ms: 25, .. }), "{err:?}");
    assert!(err.to_string().contains("slow down"), "{err}");
    assert_eq!(server.asked().len(), 3);
    // Longer than anybody waits: said at once.
    server.replies([Reply::refused(429, "{}").with("retry-after", "3600")]);
    let err = ask(&model).await.unwrap_err();
    assert!(matches!(err, Error::TooManyRequests { retry_after_ms: 3_600_000, .. }), "{err:?}");
    assert_eq!(server.asked().len(), 1);
    let gone = self::model(&config(Tongue::Openai, &format!("http://{}", closed_port().await)));
    let err = ask(&gone).await.unwrap_err();
    assert!(matches!(err, Error::Unavailable { .. }), "{err:?}");
    let said = err.to_string();
    assert!(said.contains("cannot be reached") && said.contains("llm.openai.base_url"), "{said}");
}

#[tokio::test]
async fn what_does_not_pass_is_told_at_once_with_what_to_do() {
    let server = LlmServer::start().await;
    let elsewhere = LlmServer::start().await;
    let hostile = format!("\u{1b}[31mred\u{202e} {KEY} {}", "long ".repeat(1000));
    let hostile = json!({"error": {"message": hostile}}).to_string();
    let spent =
        r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
    let cases: Vec<(Reply, &[&str])> = vec![
        (Reply::refused(401, &hostile), &["status 401", "correct `", "api_key`"]),
        (Reply::refused(403, &hostile), &["status 403", "`llm.", "it said: red"]),
        (Reply::refused(404, "{}"), &["status 404", ".model`", "has no model"]),
        (Reply::refused(400, &hostile), &["status 400", "it said: red ***"]),
        (Reply::refused(413, r#"{"message":"too large"}"#), &["status 413", "too large"]),
        (Reply::refused(429, spent), &["paid for", "exceeded your current quota"]),
        (
            Reply::refused(307, "").with("location", format!("{}/x", elsewhere.url)),
            &["status 307", "not followed", "`llm."],
        ),
        (
            Reply::streamed([b"<html>Sign in</html>".to_vec()]).with("content-type", "text/html"),
            &["`text/html`", "right address", "Sign in"],
        ),
        (
            Reply::streamed([br#"{"error":{"message":"no streams here"}}"#.to_vec()])
                .with("content-type", "application/json"),
            &["`application/json`", "no streams here"],
        ),
        (
            Reply::streamed([b"data: {nonsense\n\ndata: more\n\n".to_vec()]),
            &["not what its protocol has", "right address"],
        ),
    ];
    for tongue in Tongue::ALL {
        let model = model(&config(tongue, &server.url));
        for (reply, words) in &cases {
            server.replies([reply.clone()]);
            let err = ask(&model).await.unwrap_err();
            let said = err.to_string();
            for word in *words {
                // Each provider has keys of its own.
                let word = if tongue == Tongue::Bedrock {
                    word.replace("api_key`", "secret_access_key`")
                } else {
                    (*word).to_owned()
                };
                assert!(said.contains(&word), "{tongue:?}: {word} is not in: {said}");
            }
            assert!(matches!(err, Error::UpstreamError { .. }), "{err:?}");
            assert!(!format!("{err:?} {said}").contains(KEY), "{said}");
            assert!(
                said.chars().count() < 700 && !said.contains(['\u{1b}', '\u{202e}', '\n']),
                "{said:?}"
            );
            assert_eq!(server.asked().len(), 1, "{tongue:?}: {said}");
        }
    }
    assert!(elsewhere.asked().is_empty(), "no key goes where a provider sends it");
}

#[tokio::test]
async fn a_key_that_is_not_there_is_asked_for() {
    let server = LlmServer::start().await;
    let mut config = config(Tongue::Openai, &server.url);
    config.llm.openai.api_key = None;
    server.replies([Reply::refused(401, "{}")]);
    let err = ask(&model(&config)).await.unwrap_err().to_string();
    assert!(err.contains("wants a key") && err.contains("set `llm.openai.api_key`"), "{err}");
}

/// No answer at all, none after its beginning, signs of life without text, and a byte now and then.
#[tokio::test]
async fn silence_has_a_limit() {
    let server = LlmServer::start().await;
    for tongue in Tongue::ALL {
        let model = hasty(tongue, &server.url);
        let lively = match tongue {
            Tongue::Anthropic => b"event: ping\ndata: {\"type\": \"ping\"}\n\n".to_vec(),
            Tongue::Bedrock => tongue.piece("x")[..20].to_vec(),
            Tongue::Openai | Tongue::Azure => b": PROCESSING\n\n".to_vec(),
        };
        let trickle = |bytes: &[u8], n_bytes| Reply {
            pause: Duration::from_millis(50),
            ..Reply::cut(bytes, n_bytes)
        };
        let living = if tongue == Tongue::Bedrock { lively.clone() } else { lively.repeat(100) };
        for silent in [
            Reply { is_mute: true, ..Reply::streamed([]) },
            Reply::streamed([]).then(Then::Hangs),
            trickle(&living, lively.len()).then(Then::Hangs),
            trickle(&tongue.piece("one"), 1).then(Then::Hangs),
        ] {
            server.replies([silent.clone(), tongue.whole("never")]);
            let err = ask(&model).await.unwrap_err();
            assert!(matches!(err, Error::Unavailable { .. }), "{tongue:?}, {silent:?}: {err:?}");
            let said = err.to_string();
            assert!(
                said.contains("gave nothing of an answer for 0.3 s")
                    && said.contains("`llm.timeout`"),
                "{said}"
            );
            assert_eq!(
                server.asked().len(),
                1,
                "{tongue:?}: a wait is not made three times as long"
            );
        }
        server.replies([Reply::streamed([tongue.piece("one")]).then(Then::Hangs)]);
        let stream = within("the beginning", model.generate(&prompt())).await.unwrap();
        let (text, end) = read(stream).await;
        assert!(
            text == "one" && end.unwrap_err().to_string().contains("gave nothing"),
            "{tongue:?}"
        );
        // Slow is not silent: far longer than the limit in all, with a piece in time each.
        let pieces = (0..8).map(|_| tongue.piece("x")).chain([tongue.end("stop")]);
        server.replies([Reply { pause: Duration::from_millis(100), ..Reply::streamed(pieces) }]);
        assert_eq!(ask(&model).await.unwrap().0, "xxxxxxxx", "{tongue:?}");
    }
}

/// Who reads slowly has not been kept waiting.
#[tokio::test]
async fn the_time_that_nobody_reads_is_not_the_providers() {
    let server = LlmServer::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let rest = vec![Tongue::Openai.piece("two"), Tongue::Openai.end("stop")];
    server.replies([
        Reply::streamed([Tongue::Openai.piece("one")]).then(Then::Waits(gate.clone(), rest))
    ]);
    let model = hasty(Tongue::Openai, &server.url);
    let mut stream = within("the beginning", model.generate(&prompt())).await.unwrap();
    within("a piece", stream.next()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let opened = tokio::time::sleep(Duration::from_millis(50));
    let (_, (text, end)) = tokio::join!(
        async {
            opened.await;
            gate.add_permits(2)
        },
        read(stream)
    );
    assert!(text == "two" && end.is_ok(), "{end:?}");
}

#[tokio::test]
async fn nothing_grows_without_end() {
    let server = LlmServer::start().await;
    for tongue in Tongue::ALL {
        let model = model(&config(tongue, &server.url));
        // One line, or one frame, that does not end.
        let endless = match tongue {
            Tongue::Bedrock => crate::harness::llm::frame(&[], &vec![b' '; 2 << 20]),
            _ => [b"data: ".to_vec(), vec![b'x'; 3 << 20]].concat(),
        };
        server.replies([Reply::cut(&endless, 64 << 10)]);
        let err = ask(&model).await.unwrap_err().to_string();
        assert!(
            err.contains("bytes") && err.contains("not what its protocol has"),
            "{tongue:?}: {err}"
        );
        let large = "ä".repeat(50_000);
        server.replies([Reply::streamed((0..50).map(|_| tongue.piece(&large)))]);
        let stream = within("the beginning", model.generate(&prompt())).await.unwrap();
        let (text, end) = read(stream).await;
        let err = end.unwrap_err().to_string();
        assert!(err.contains("more than 4194304 bytes"), "{tongue:?}: {err}");
        assert!(text.len() <= 4 << 20 && 4_000_000 < text.len(), "{}", text.len());
    }
}

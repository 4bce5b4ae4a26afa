use futures::TryStreamExt;
use orch_core::ports::model::Message;
use orch_gateway::frame::raw;

use super::*;

fn client() -> Arc<Visitor> {
    let (outside, _) = mpsc::channel(1);
    let visitor = Visitor::of_session("ada", outside, false);
    let hello =
        json!({"capabilities": {"sampling": {}}, "clientInfo": {"name": "wire", "version": "1"}});
    visitor.introduce(Some(&raw(&hello)));
    Arc::new(visitor)
}

fn prompt() -> Prompt {
    Prompt {
        system: "Plan.".to_owned(),
        messages: vec![
            Message { role: Role::User, text: "two machines".to_owned() },
            Message { role: Role::Assistant, text: "{}".to_owned() },
            Message { role: Role::User, text: "no".to_owned() },
        ],
        max_tokens: 700,
    }
}

async fn said(model: &LentModel) -> Result<Vec<Piece>, Error> {
    model.generate(&prompt()).await?.try_collect().await
}

/// What is asked, and what becomes of it when the client answers with `answer`, which has the members of a frame.
async fn answered(answer: serde_json::Value) -> (Frame, Result<Vec<Piece>, Error>) {
    let visitor = client();
    let (model, mut questions) = lend(&visitor).unwrap();
    let of_client = async {
        let question = questions.next().await.unwrap();
        let mut frame = answer.clone();
        frame["jsonrpc"] = json!("2.0");
        frame["id"] = serde_json::from_str(question.id.as_ref().unwrap().get()).unwrap();
        let frame = Frame::parse(frame.to_string().as_bytes()).unwrap();
        assert!(visitor.questions.answer(frame).await);
        question
    };
    let (question, said) = futures::join!(of_client, said(&model));
    assert_eq!(visitor.questions.n_open(), 0);
    // Nothing is taken back that was answered.
    assert!(questions.open().is_empty());
    (question, said)
}

fn text(text: &str, is_cut: bool) -> Vec<Piece> {
    let end = End { is_cut, input_tokens: None, output_tokens: None };
    vec![Piece::Text(text.to_owned()), Piece::End(end)]
}

#[tokio::test]
async fn the_whole_prompt_is_put_to_the_client_and_its_answer_comes_whole() {
    let result = json!({"role": "assistant", "model": "m", "stopReason": "endTurn", "content": {"type": "text", "text": "a\nb"}});
    let (question, said) = answered(json!({"result": result})).await;
    assert!(question.is("sampling/createMessage"));
    let asked: serde_json::Value = serde_json::from_str(question.params.unwrap().get()).unwrap();
    let message =
        |role: &str, text: &str| json!({"role": role, "content": {"type": "text", "text": text}});
    assert_eq!(
        asked,
        json!({
            "messages": [message("user", "two machines"), message("assistant", "{}"), message("user", "no")],
            "systemPrompt": "Plan.", "includeContext": "none", "maxTokens": 700,
        })
    );
    assert_eq!(said.unwrap(), text("a\nb", false));
}

#[tokio::test]
async fn an_answer_of_several_blocks_is_their_text() {
    let content = json!([
        {"type": "text", "text": "one "}, {"type": "image", "data": "", "mimeType": "image/png"}, {"type": "text", "text": "two"},
    ]);
    let result =
        json!({"role": "assistant", "model": "m", "stopReason": "maxTokens", "content": content});
    let (_, said) = answered(json!({"result": result})).await;
    assert_eq!(said.unwrap(), text("one two", true));
}

#[tokio::test]
async fn what_is_no_answer_says_so_and_what_else_there_is() {
    let no_text = json!({"role": "assistant", "model": "m", "content": {"type": "image", "data": "", "mimeType": "a/b"}});
    for (answer, why) in [
        (
            json!({"error": {"code": -1, "message": "User rejected sampling request"}}),
            "`User rejected sampling request`",
        ),
        (json!({"error": {"code": -1, "message": ""}}), "its user refused"),
        (json!({"error": {"code": -32603, "message": ""}}), "only that it failed"),
        (json!({"result": no_text}), "has no text"),
        (json!({"result": []}), "has no text"),
    ] {
        let (_, said) = answered(answer).await;
        let err = said.unwrap_err();
        assert!(matches!(err, Error::Unavailable { .. }), "{err:?}");
        let message = err.to_string();
        assert!(message.starts_with("the model of wire 1 gave no answer: "), "{message}");
        assert!(
            message.contains(why) && message.contains("`plan`") && message.contains("`llm`"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn who_goes_away_leaves_nothing() {
    let visitor = client();
    let (model, questions) = lend(&visitor).unwrap();
    let mut asking = Box::pin(said(&model));
    assert!(futures::poll!(&mut asking).is_pending());
    drop(questions);
    assert!(matches!(asking.await, Err(Error::Cancelled { .. })));
    // Nobody is there to be asked.
    assert!(matches!(said(&model).await, Err(Error::Cancelled { .. })));
    assert_eq!(visitor.questions.n_open(), 0);
}

#[tokio::test]
async fn a_question_nobody_waits_for_is_taken_back() {
    let visitor = client();
    let (model, mut questions) = lend(&visitor).unwrap();
    let stream = model.generate(&prompt()).await.unwrap();
    let question = questions.next().await.unwrap();
    drop(stream);
    let word = questions.next().await.unwrap();
    assert!(word.is("notifications/cancelled"));
    let about = Members::of_params(word.params.as_ref()).get("requestId").cloned().unwrap();
    assert_eq!(about.get(), question.id.unwrap().get());
    assert_eq!(visitor.questions.n_open(), 0);
}

#[tokio::test]
async fn a_client_that_never_answers_is_waited_for_so_long_and_no_longer() {
    let visitor = client();
    let (model, _questions) = lend(&visitor).unwrap();
    let model = model.patient_for(Duration::from_millis(1));
    assert!(matches!(said(&model).await, Err(Error::DeadlineExceeded { .. })));
    assert_eq!(visitor.questions.n_open(), 0);
}

#[test]
fn a_client_that_did_not_say_so_lends_none() {
    let able = |capabilities: serde_json::Value| {
        let (outside, _) = mpsc::channel(1);
        let visitor = Visitor::of_session("ada", outside, false);
        visitor.introduce(Some(&raw(&json!({"capabilities": capabilities}))));
        lend(&Arc::new(visitor)).map(|(model, _)| model.name())
    };
    assert_eq!(able(json!({})), None);
    assert_eq!(able(json!({"elicitation": {}, "sampling": null})), None);
    assert_eq!(able(json!({"sampling": {}})).unwrap(), "the model of the connected client");
}

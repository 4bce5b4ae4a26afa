use futures::TryStreamExt;
use orch_core::ports::model::{Message, Model, Piece, Prompt, Role};
use orch_domain::Error;
use orch_domain::caller::Channel;
use orch_domain::name::UserId;
use orch_gateway::frame::raw;
use orch_gateway::session::Visitor;
use orch_gateway::upstream::pending::Pending;
use orch_gateway::upstream::{LinkError, Terms};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::face::mcp::lent::{LentModel, lend};

const SAMPLING: &str = r#"{"name":"ask","_meta":{"progressToken":"first","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"sampling":{}}}}"#;

/// A server that is there and does nothing.
#[derive(Default)]
struct Silent(CancellationToken);

#[async_trait::async_trait]
impl Link for Silent {
    async fn send(&self, _: &str, _: Option<Raw>) -> Result<Exchange, LinkError> {
        Err(LinkError::Closed { reason: String::new() })
    }
    async fn tell(&self, _: Frame) -> Result<(), LinkError> {
        Ok(())
    }
    fn settle(&self, _: Terms) {}
    fn closed(&self) -> &CancellationToken {
        &self.0
    }
    fn reason(&self) -> String {
        String::new()
    }
    async fn close(&self) {}
}

/// A call of a client without sessions, and the ends of it that an operation has.
struct Scene {
    call: OwnCall,
    model: LentModel,
    pending: Arc<Pending>,
    visitor: Arc<Visitor>,
    cancelled: Arc<Mutex<Vec<u64>>>,
}

fn scene() -> Scene {
    let params: Raw = serde_json::from_str(SAMPLING).unwrap();
    let request = Frame::request(raw(&1), "tools/call", Some(params.clone()));
    let visitor = Arc::new(Visitor::of_request("ada", &request, false));
    let (model, questions) = lend(&visitor).unwrap();
    let pending = Pending::new(mpsc::unbounded_channel().0);
    let cancelled = Arc::<Mutex<Vec<u64>>>::default();
    let seen = cancelled.clone();
    let (_, _, exchange) =
        pending.begin("tools/call", Some(params), move |id| seen.lock().push(id));
    let call =
        OwnCall::new(Arc::new(Silent::default()), exchange, Some(questions), "ask".to_owned());
    Scene { call, model, pending, visitor, cancelled }
}

impl Scene {
    fn say(&self, frame: &Value) {
        self.pending.deliver(Frame::parse(frame.to_string().as_bytes()).unwrap());
    }
}

async fn asked(model: &LentModel, text: &str) -> Result<String, Error> {
    let messages = vec![Message { role: Role::User, text: text.to_owned() }];
    let prompt = Prompt { system: String::new(), messages, max_tokens: 10 };
    let pieces: Vec<Piece> = model.generate(&prompt).await?.try_collect().await?;
    match &pieces[..] {
        [Piece::Text(text), Piece::End(_)] => Ok(text.clone()),
        other => panic!("{other:?}"),
    }
}

/// Goes on until the client has to be asked.
async fn until_it_asks(call: &mut OwnCall) {
    while !call.waits_for_client() {
        match call.next().await.unwrap() {
            Said::Asks(frame) => call.note(frame),
            Said::About(frame) => panic!("{frame:?}"),
        }
    }
}

fn result(frame: &Frame) -> Value {
    serde_json::from_str(frame.result.as_ref().unwrap().get()).unwrap()
}

fn retry(given: Value, meta: Value) -> Members {
    Members::of(&raw(&json!({"name": "ask", "inputResponses": given, "_meta": meta}))).unwrap()
}

fn answer(text: &str) -> Value {
    json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": text}})
}

#[tokio::test]
async fn an_operation_asks_round_after_round_and_is_never_begun_anew() {
    let mut it = scene();
    let waiting = Waiting::default();
    let model = it.model;
    let operation = async {
        let first = asked(&model, "one").await.unwrap();
        let second = asked(&model, "two").await.unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("1", "2"));
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"sum": 3}});
        it.pending.deliver(Frame::parse(answer.to_string().as_bytes()).unwrap());
    };
    let client = async {
        for (round, text) in ["1", "2"].into_iter().enumerate() {
            until_it_asks(&mut it.call).await;
            let frame = waiting.park(it.call, raw(&(round + 10)));
            assert_eq!(frame.id.as_ref().unwrap().get(), (round + 10).to_string());
            let asked = result(&frame);
            assert_eq!(asked["resultType"], "input_required");
            let requests = asked["inputRequests"].as_object().unwrap();
            let (name, request) = requests.iter().next().unwrap();
            assert_eq!((requests.len(), name.as_str()), (1, ["q1", "q2"][round]));
            assert_eq!(request["method"], "sampling/createMessage");
            assert_eq!(request["params"]["messages"][0]["content"]["text"], ["one", "two"][round]);
            let state = asked["requestState"].as_str().unwrap();
            assert!(waiting.take(state, "bob", "ask").is_none());
            assert!(waiting.take(state, "ada", "other").is_none());
            it.call = waiting.take(state, "ada", "ask").unwrap();
            assert!(waiting.take(state, "ada", "ask").is_none());
            it.call.resume(&retry(json!({name: answer(text), "more": {}}), json!({}))).await;
        }
        match it.call.next().await.unwrap() {
            Said::About(frame) => assert_eq!(result(&frame), json!({"sum": 3})),
            Said::Asks(frame) => panic!("{frame:?}"),
        }
    };
    futures::join!(operation, client);
    assert_eq!((waiting.n_waiting(), it.visitor.questions.n_open()), (0, 0));
    assert!(it.cancelled.lock().is_empty());
}

#[tokio::test]
async fn what_was_asked_together_is_asked_again_for_what_is_missing() {
    let mut it = scene();
    let model = it.model;
    let client = async {
        until_it_asks(&mut it.call).await;
        let waiting = Waiting::default();
        let both = result(&waiting.park(it.call, raw(&1)));
        assert_eq!(both["inputRequests"].as_object().unwrap().len(), 2);
        let state = both["requestState"].as_str().unwrap();
        it.call = waiting.take(state, "ada", "ask").unwrap();
        it.call.resume(&retry(json!({"q2": answer("second")}), json!({}))).await;
        assert!(it.call.waits_for_client());
        let rest = result(&waiting.park(it.call, raw(&2)));
        let names: Vec<&String> = rest["inputRequests"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["q1"]);
        assert_ne!(rest["requestState"], both["requestState"]);
        it.call = waiting.take(rest["requestState"].as_str().unwrap(), "ada", "ask").unwrap();
        it.call.resume(&retry(json!({"q1": answer("first")}), json!({}))).await;
        assert!(!it.call.waits_for_client());
        it.call
    };
    let (one, two, _call) = futures::join!(asked(&model, "one"), asked(&model, "two"), client);
    assert_eq!((one.unwrap().as_str(), two.unwrap().as_str()), ("first", "second"));
}

#[tokio::test]
async fn a_question_that_was_taken_back_meanwhile_is_not_asked_again() {
    let mut it = scene();
    {
        let mut asking = Box::pin(asked(&it.model, "one"));
        assert!(futures::poll!(&mut asking).is_pending());
        until_it_asks(&mut it.call).await;
    }
    it.call.resume(&retry(json!({}), json!({}))).await;
    assert!(!it.call.waits_for_client());
    // Nor one that nobody heard of.
    drop(
        it.model.generate(&Prompt { system: String::new(), messages: vec![], max_tokens: 1 }).await,
    );
    assert!(!it.call.waits_for_client());
    assert_eq!(it.visitor.questions.n_open(), 0);
}

#[tokio::test]
async fn progress_goes_to_the_request_that_hears_it() {
    let mut it = scene();
    let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 2}});
    let token = async |call: &mut OwnCall| match call.next().await.unwrap() {
        Said::About(frame) if frame.method.is_some() => {
            let params = Members::of_params(frame.params.as_ref());
            params.get("progressToken").unwrap().get().to_owned()
        }
        Said::About(frame) => result(&frame).to_string(),
        Said::Asks(frame) => panic!("{frame:?}"),
    };
    it.say(&progress);
    assert_eq!(token(&mut it.call).await, "\"first\"");
    it.call.resume(&retry(json!({}), json!({"progressToken": 7}))).await;
    it.say(&progress);
    assert_eq!(token(&mut it.call).await, "7");
    it.call.resume(&retry(json!({}), json!({}))).await;
    it.say(&progress);
    it.say(&json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    assert_eq!(token(&mut it.call).await, "{}");
}

#[tokio::test]
async fn a_client_that_does_not_come_back_gives_its_call_up() {
    let mut it = scene();
    let waiting = Waiting::default();
    let asking = asked(&it.model, "one");
    let client = async {
        until_it_asks(&mut it.call).await;
        let frame = waiting.park_until(Instant::now(), it.call, raw(&1));
        let state = result(&frame)["requestState"].as_str().unwrap().to_owned();
        assert_eq!((waiting.n_waiting(), it.cancelled.lock().len()), (1, 0));
        assert!(waiting.take(&state, "ada", "ask").is_none());
        waiting.calls.sweep();
        assert_eq!(waiting.n_waiting(), 0);
    };
    let (said, ()) = futures::join!(asking, client);
    assert!(matches!(said, Err(Error::Cancelled { .. })));
    assert_eq!(*it.cancelled.lock(), [1]);
    assert_eq!(it.visitor.questions.n_open(), 0);
}

/// The operation hears of it first, and the client may still hear what the operation made of it.
#[tokio::test]
async fn a_client_that_is_a_little_late_hears_how_it_ended() {
    let mut it = scene();
    let waiting = Waiting::default();
    let model = it.model.patient_for(Duration::from_millis(1));
    let (said, frame) = futures::join!(asked(&model, "one"), async {
        until_it_asks(&mut it.call).await;
        waiting.park(it.call, raw(&1))
    });
    assert!(matches!(said, Err(Error::DeadlineExceeded { .. })));
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"isError": true}});
    it.pending.deliver(Frame::parse(answer.to_string().as_bytes()).unwrap());
    let state = result(&frame)["requestState"].as_str().unwrap().to_owned();
    let mut call = waiting.take(&state, "ada", "ask").unwrap();
    call.resume(&retry(json!({}), json!({}))).await;
    assert!(!call.waits_for_client());
    let Some(Said::About(frame)) = call.next().await else { panic!("it has ended") };
    assert_eq!(result(&frame), json!({"isError": true}));
}

#[test]
fn a_client_means_the_same_whatever_the_order_of_its_words() {
    let ada = Caller::new(UserId::try_new("ada").unwrap(), Vec::new(), Channel::Mcp);
    let of =
        |params: Value, view: &View| target_of(&Members::of(&raw(&params)).unwrap(), &ada, view);
    let here = View::default();
    let a = of(json!({"name": "ask", "arguments": {"a": 1, "b": {"c": 2, "d": 3}}}), &here);
    assert_eq!(
        a,
        of(json!({"arguments": {"b": {"d": 3, "c": 2}, "a": 1}, "name": "orch.ask"}), &here)
    );
    for other in [
        json!({"name": "ask", "arguments": {"a": 2, "b": {"c": 2, "d": 3}}}),
        json!({"name": "launch", "arguments": {"a": 1, "b": {"c": 2, "d": 3}}}),
        json!({"name": "ask"}),
    ] {
        assert_ne!(a, of(other, &here));
    }
    assert_eq!(
        of(json!({"name": "ask"}), &here),
        of(json!({"name": "ask", "arguments": {}}), &here)
    );
}

//! Questions to the client, each era's way: by a request of our own, or by a result that says what is needed.

use std::collections::BTreeMap;

use rmcp::RoleServer;
use rmcp::model::{
    CustomRequest, ErrorData, InputRequest, InputRequiredResult, InputResponses, ProtocolVersion,
    ServerRequest,
};
use rmcp::service::RequestContext;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a question came to.
pub(crate) enum Asked {
    /// By the key that it was asked under.
    Answers(BTreeMap<String, Value>),
    /// The client is to come back with them.
    NotYet(InputRequiredResult),
}

/// One thing to be asked.
pub(crate) struct Question {
    pub(crate) key: &'static str,
    pub(crate) method: &'static str,
    pub(crate) params: Value,
}

/// What an earlier round of the same request left with the client.
#[derive(Default)]
pub(crate) struct Round {
    pub(crate) responses: Option<InputResponses>,
    pub(crate) state: Option<String>,
}

/// Reads JSON as one of the library's types.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|err| ErrorData::internal_error(err.to_string(), None))
}

/// Reads JSON as a result; the library takes the kind of it away again for clients of the earlier era.
pub(crate) fn complete<T: DeserializeOwned>(mut value: Value) -> Result<T, ErrorData> {
    value["resultType"] = json!("complete");
    typed(value)
}

pub(crate) fn is_modern(cx: &RequestContext<RoleServer>) -> bool {
    let version = cx.protocol_version();
    version.is_some_and(|it| ProtocolVersion::V_2026_07_28.as_str() <= it.as_str())
}

/// Whether the client has said that it answers requests of `method`.
pub(crate) fn is_declared(cx: &RequestContext<RoleServer>, method: &str) -> bool {
    let Some(capabilities) = cx.client_capabilities() else { return false };
    match method {
        "elicitation/create" => capabilities.elicitation.is_some(),
        "sampling/createMessage" => capabilities.sampling.is_some(),
        "roots/list" => capabilities.roots.is_some(),
        _ => false,
    }
}

/// A form with one text field.
pub(crate) fn form(key: &'static str, message: &str, field: &str) -> Question {
    let schema = json!({
        "type": "object", "properties": {field: {"type": "string"}}, "required": [field]
    });
    elicit(key, message, schema)
}

pub(crate) fn elicit(key: &'static str, message: &str, schema: Value) -> Question {
    let params = json!({"message": message, "requestedSchema": schema});
    Question { key, method: "elicitation/create", params }
}

pub(crate) fn sample(key: &'static str, prompt: &str, max_tokens: u32) -> Question {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    let params = json!({"messages": [message], "maxTokens": max_tokens});
    Question { key, method: "sampling/createMessage", params }
}

pub(crate) fn roots(key: &'static str) -> Question {
    Question { key, method: "roots/list", params: json!({}) }
}

/// Asks all of `questions`. `state` is what the client has to bring back with the answers.
pub(crate) async fn ask(
    cx: &RequestContext<RoleServer>,
    round: &Round,
    questions: Vec<Question>,
    state: Option<String>,
) -> Result<Asked, ErrorData> {
    if is_modern(cx) {
        let given = round.responses.clone().unwrap_or_default();
        let answers: BTreeMap<String, Value> = given
            .into_iter()
            .filter(|(key, it)| it.is_object() && questions.iter().any(|one| one.key == key))
            .collect();
        if answers.len() == questions.len() {
            return Ok(Asked::Answers(answers));
        }
        let mut requests = BTreeMap::new();
        for Question { key, method, params } in questions {
            let request: InputRequest = typed(json!({"method": method, "params": params}))?;
            requests.insert(key.to_owned(), request);
        }
        return Ok(Asked::NotYet(InputRequiredResult::new(Some(requests), state)));
    }
    let mut answers = BTreeMap::new();
    for Question { key, method, params } in questions {
        if !is_declared(cx, method) {
            let said = format!("the client does not answer `{method}`");
            return Err(ErrorData::invalid_request(said, None));
        }
        // Raw, so that keywords which the library's types do not know are sent too.
        let request = ServerRequest::CustomRequest(CustomRequest::new(method, Some(params)));
        let answer = cx.peer.send_request(request).await;
        let answer = answer.map_err(|err| ErrorData::internal_error(err.to_string(), None))?;
        let answer = serde_json::to_value(answer);
        let answer = answer.map_err(|err| ErrorData::internal_error(err.to_string(), None))?;
        answers.insert(key.to_owned(), answer);
    }
    Ok(Asked::Answers(answers))
}

fn seal(payload: &str) -> String {
    // Who can read this source can forge it; a test does not.
    let digest = Sha256::digest(format!("mcp-fixture:{payload}:mcp-fixture"));
    format!("{payload}.{}", hex(&digest))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

/// A state that the client cannot change unseen.
pub(crate) fn sealed(payload: &str) -> Option<String> {
    Some(seal(payload))
}

/// What was sealed, or the refusal of what was not sealed here.
pub(crate) fn opened(state: &str) -> Result<&str, ErrorData> {
    let payload = state.rsplit_once('.').map(|(payload, _)| payload);
    match payload {
        Some(payload) if seal(payload) == state => Ok(payload),
        _ => Err(ErrorData::invalid_params("`requestState` is not what was given", None)),
    }
}

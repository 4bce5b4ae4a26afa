//! What differs between the two eras of the protocol, carried over from one side to the other. Everything else passes as
//! it is.

use std::sync::Arc;

use super::Visitor;
use crate::frame::{Frame, Kind, Raw, raw};
use crate::members::Members;
use crate::upstream::handshake::{CAPABILITIES_KEY, INFO_KEY, VERSION_KEY};
use crate::upstream::pending::SUBSCRIPTION;
use crate::upstream::{Era, Link};

/// Members of `_meta` that belong to one side of the gateway.
const OF_ONE_SIDE: &str = "io.modelcontextprotocol/";
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// From the least to the most severe.
const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The parameters of a request of `visitor` as a server that speaks `version` is to have them.
pub fn cross(params: &mut Members, visitor: &Visitor, era: Era, version: &str) {
    let mut meta = params.object("_meta").unwrap_or_default();
    if era == Era::Session {
        let keys: Vec<String> = meta
            .iter()
            .map(|(key, _)| key)
            .filter(|it| it.starts_with(OF_ONE_SIDE))
            // Tasks and such are named so too, and are for the server.
            .filter(|it| [VERSION_KEY, CAPABILITIES_KEY, INFO_KEY, LOG_LEVEL].contains(it))
            .map(str::to_owned)
            .collect();
        if keys.is_empty() {
            return;
        }
        keys.iter().for_each(|it| meta.remove(it));
    } else {
        let client = visitor.client();
        meta.set(VERSION_KEY, version);
        meta.set(CAPABILITIES_KEY, &client.capabilities);
        // Nothing is made up for a client that did not say its name.
        if client.info.get() != "{}" {
            meta.set(INFO_KEY, &client.info);
        }
        if let Some(level) = visitor.log_level() {
            meta.set(LOG_LEVEL, &level);
        }
    }
    if meta.is_empty() {
        params.remove("_meta");
    } else {
        params.set("_meta", &meta);
    }
}

/// Adds what the client's era asks of every result, where the server's does not.
pub fn suit(frame: &mut Frame, method: &str, client: Era, server: Era) {
    if client == server {
        return;
    }
    if let Some(mut error) = frame.error.as_ref().and_then(Members::of) {
        // What is missing has another number in each era.
        let code = error.get("code").map(|it| it.get().to_owned()).unwrap_or_default();
        let other = match (client, code.as_str()) {
            (Era::Stateless, "-32002") => -32602,
            (Era::Session, "-32602") if method == "resources/read" => -32002,
            _ => return,
        };
        error.set("code", &other);
        frame.error = Some(error.to_raw());
        return;
    }
    if client == Era::Session {
        let complete = frame.result.as_ref().filter(|it| it.get().contains("resultType"));
        if let Some(mut result) = complete.and_then(Members::of)
            && result.text("resultType").is_some_and(|it| it == "complete")
        {
            result.remove("resultType");
            frame.result = Some(result.to_raw());
        }
        return;
    }
    let Some(mut result) = frame.result.as_ref().and_then(Members::of) else { return };
    let mut is_changed = false;
    if result.get("resultType").is_none() {
        result.set("resultType", "complete");
        is_changed = true;
    }
    let is_cached = matches!(
        method,
        "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    );
    if is_cached && result.get("ttlMs").is_none() {
        result.set("ttlMs", &0);
        result.set("cacheScope", "private");
        is_changed = true;
    }
    if is_changed {
        frame.result = Some(result.to_raw());
    }
}

/// What a server wants to know before it goes on.
pub struct InputRequired {
    /// Its questions, by the names that the answers are to have.
    pub requests: Vec<(String, Members)>,
    /// It wants this back as it is.
    pub state: Option<Raw>,
}

pub fn input_required(frame: &Frame) -> Option<InputRequired> {
    let result = frame.result.as_ref().filter(|it| it.get().contains("input_required"))?;
    let result = Members::of(result)?;
    if result.text("resultType")? != "input_required" {
        return None;
    }
    let requests = result.object("inputRequests").unwrap_or_default();
    let requests = requests
        .iter()
        .filter_map(|(name, request)| Some((name.to_owned(), Members::of(request)?)))
        .collect();
    Some(InputRequired { requests, state: result.get("requestState").cloned() })
}

/// The result that asks a client of the later era for its input.
pub fn ask_input(id: Raw, questions: &[(String, Frame)], state: &str) -> Frame {
    let mut requests = Members::default();
    for (name, question) in questions {
        let mut request = Members::default();
        request.set("method", question.method.as_deref().unwrap_or_default());
        if let Some(params) = &question.params {
            request.set("params", params);
        }
        requests.set(name, &request);
    }
    let mut result = Members::default();
    result.set("resultType", "input_required");
    result.set("inputRequests", &requests);
    result.set("requestState", state);
    Frame::result(id, result.to_raw())
}

/// Whether a log message is as severe as the client asked for. None: it asked for none.
pub fn is_wanted(message: &Frame, level: Option<&Raw>) -> bool {
    let rank = |it: &str| LEVELS.iter().position(|level| *level == it.trim_matches('"'));
    let Some(wanted) = level.and_then(|it| rank(it.get())) else { return false };
    let params = Members::of_params(message.params.as_ref());
    params.text("level").and_then(|it| rank(&it)).is_none_or(|it| wanted <= it)
}

/// The notification of a subscription under the id that the client gave its request.
pub fn retag(mut frame: Frame, id: &Raw) -> Frame {
    let mut params = Members::of_params(frame.params.as_ref());
    let Some(mut meta) = params.object("_meta") else { return frame };
    if meta.get(SUBSCRIPTION).is_none() {
        return frame;
    }
    meta.set(SUBSCRIPTION, id);
    params.set("_meta", &meta);
    frame.params = Some(params.to_raw());
    frame
}

/// The end of a subscription, likewise.
pub fn retag_result(mut frame: Frame, id: &Raw) -> Frame {
    let Some(mut result) = frame.result.as_ref().and_then(Members::of) else { return frame };
    let Some(mut meta) = result.object("_meta") else { return frame };
    if meta.get(SUBSCRIPTION).is_some() {
        meta.set(SUBSCRIPTION, id);
        result.set("_meta", &meta);
        frame.result = Some(result.to_raw());
    }
    frame
}

impl Visitor {
    /// What a server said on a connection of this client alone, as the client is to have it. None: it was not for it.
    pub async fn hear(&self, link: &Arc<dyn Link>, frame: Frame) -> Option<Frame> {
        match frame.kind() {
            Kind::Response => None,
            Kind::Notification if frame.is("notifications/cancelled") => {
                self.questions.withdraw(link, &frame)
            }
            Kind::Notification => Some(frame),
            Kind::Request => {
                let method = frame.method.clone().unwrap_or_default();
                if method == "ping" && !self.is_direct() {
                    link.tell(crate::server::answer(frame)).await.ok();
                    return None;
                }
                let id = frame.id.clone().unwrap_or_else(|| raw(&()));
                let question = if self.era == Era::Session && self.can_answer(&method) {
                    self.questions.relay(frame, link.clone())
                } else {
                    None
                };
                if question.is_none() {
                    link.tell(refusal(id, &method)).await.ok();
                }
                question.map(|(_, frame)| frame)
            }
        }
    }
}

/// The answer to a question that the client cannot be asked.
pub fn refusal(id: Raw, method: &str) -> Frame {
    let method = orch_domain::text::excerpt(method, 60);
    let message = format!("the client behind the gateway declared no capability for `{method}`");
    Frame::error(id, -32601, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Raw {
        serde_json::from_str(text).unwrap()
    }

    fn stateless(meta: &str) -> (Visitor, Members) {
        let params = format!(r#"{{"name":"a","_meta":{meta}}}"#);
        let frame = Frame::request(raw(&1), "tools/call", Some(json(&params)));
        (Visitor::of_request("u", &frame, false), Members::of_params(frame.params.as_ref()))
    }

    #[test]
    fn what_a_client_says_of_itself_goes_only_to_servers_that_are_told_so() {
        let meta = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"mine":1}"#;
        let (visitor, mut params) = stateless(meta);
        let mut same = params.clone();
        cross(&mut same, &visitor, Era::Stateless, "2026-07-28");
        assert_eq!(same.to_raw().get(), params.to_raw().get());
        cross(&mut params, &visitor, Era::Session, "2025-11-25");
        assert_eq!(params.to_raw().get(), r#"{"name":"a","_meta":{"mine":1}}"#);
    }

    #[test]
    fn a_result_gets_what_the_later_era_asks_for() {
        let mut frame = Frame::result(raw(&1), json(r#"{"contents":[{"priority":0.70}]}"#));
        suit(&mut frame, "resources/read", Era::Stateless, Era::Session);
        assert_eq!(
            frame.result.unwrap().get(),
            r#"{"contents":[{"priority":0.70}],"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#
        );
        let mut missing = Frame::error(raw(&1), -32002, "no such resource");
        suit(&mut missing, "resources/read", Era::Stateless, Era::Session);
        assert!(missing.error.unwrap().get().contains("-32602"));
        let mut frame = Frame::result(raw(&1), json(r#"{"a":0.70,"resultType":"complete"}"#));
        suit(&mut frame, "tools/call", Era::Session, Era::Stateless);
        assert_eq!(frame.result.unwrap().get(), r#"{"a":0.70}"#);
    }

    #[test]
    fn input_is_asked_for_and_found() {
        let question =
            Frame::request(raw(&9), "elicitation/create", Some(json(r#"{"message":"?"}"#)));
        let asked = ask_input(raw(&1), &[("q1".to_owned(), question)], "s");
        let InputRequired { requests, state } = input_required(&asked).unwrap();
        assert_eq!(requests[0].0, "q1");
        assert_eq!(
            requests[0].1.to_raw().get(),
            r#"{"method":"elicitation/create","params":{"message":"?"}}"#
        );
        assert_eq!(state.unwrap().get(), "\"s\"");
    }

    #[test]
    fn log_messages_come_when_they_were_asked_for_and_are_severe_enough() {
        let said = |level: &str| {
            Frame::notification(
                "notifications/message",
                Some(raw(&serde_json::json!({"level": level}))),
            )
        };
        assert!(!is_wanted(&said("error"), None));
        assert!(is_wanted(&said("error"), Some(&json("\"warning\""))));
        assert!(!is_wanted(&said("info"), Some(&json("\"warning\""))));
    }
}

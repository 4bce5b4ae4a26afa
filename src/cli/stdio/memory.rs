//! What of a conversation a server that comes late has to be told, and what its client still waits for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use orch_core::{Op, ops};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::socket::{CLOSING, NOT_BEGUN};

/// Only what is looked at; the rest of a message is passed on as it is.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params {
    uri: Option<String>,
    /// Of a tool.
    name: Option<String>,
    request_id: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct NotBegun {
    id: Box<RawValue>,
}

/// The state that the older protocol keeps in a session, and the calls under way. Ids are kept as written.
#[derive(Default)]
pub(super) struct Memory {
    initialize: Option<Sent>,
    initialized: Option<String>,
    log_level: Option<Sent>,
    subscriptions: BTreeMap<String, Sent>,
    waiting: BTreeMap<String, Waiting>,
    /// Answers to what is only repeated, which the client has already had.
    repeated: BTreeSet<String>,
    /// A new server has not yet answered the introduction.
    is_unintroduced: bool,
    /// The server begins nothing more.
    is_closing: bool,
}

struct Sent {
    id: String,
    line: String,
}

struct Waiting {
    line: String,
    /// What is called, when it is a tool.
    tool: Option<String>,
    /// No server has it: it was not sent, or was sent to one that had no more time for it.
    is_not_begun: bool,
}

impl Waiting {
    /// Whether it only looks at something, or listens: asking again does no harm. Anything else may have been done.
    fn is_repeatable(&self, reads: &BTreeSet<&str>) -> bool {
        self.is_not_begun || self.tool.as_deref().is_none_or(|it| reads.contains(it))
    }
}

/// Tools that change nothing.
fn reading_tools() -> BTreeSet<&'static str> {
    let reads = |it: &Op| it.spec.effect.is_read_only();
    ops::catalogue().into_iter().filter(reads).map(|it| it.spec.name).collect()
}

/// For the client and for the new server, at a change of servers.
pub(super) struct Handover {
    pub answers: Vec<String>,
    /// Has to be answered before anything else is said.
    pub introduction: Option<String>,
    pub replay: Vec<String>,
}

impl Memory {
    /// A line from the client.
    pub(super) fn note_sent(&mut self, line: &str) {
        let Ok(it) = serde_json::from_str::<Envelope>(line) else { return };
        let Some(method) = it.method.as_deref() else { return };
        let params = || -> Option<Params> { serde_json::from_str(it.params?.get()).ok() };
        let Some(id) = it.id.map(|it| it.get().to_owned()) else {
            match method {
                "notifications/initialized" => self.initialized = Some(line.to_owned()),
                "notifications/cancelled" => {
                    if let Some(cancelled) = params().and_then(|it| it.request_id) {
                        self.waiting.remove(cancelled.get());
                    }
                }
                _ => {}
            }
            return;
        };
        let sent = || Sent { id: id.clone(), line: line.to_owned() };
        match method {
            "initialize" => self.initialize = Some(sent()),
            "logging/setLevel" => self.log_level = Some(sent()),
            "resources/subscribe" => {
                if let Some(uri) = params().and_then(|it| it.uri) {
                    self.subscriptions.insert(uri, sent());
                }
            }
            "resources/unsubscribe" => {
                if let Some(uri) = params().and_then(|it| it.uri) {
                    self.subscriptions.remove(&uri);
                }
            }
            _ => {}
        }
        let tool =
            (method == "tools/call").then(|| params().and_then(|it| it.name).unwrap_or_default());
        self.waiting.insert(id, Waiting { line: line.to_owned(), tool, is_not_begun: false });
    }

    /// A line from the server; false when it is not for the client.
    pub(super) fn note_received(&mut self, line: &str) -> bool {
        let Ok(it) = serde_json::from_str::<Envelope>(line) else { return true };
        if it.method.as_deref() == Some(CLOSING) {
            self.is_closing = true;
            return false;
        }
        if it.method.as_deref() == Some(NOT_BEGUN) {
            let params: Option<NotBegun> =
                it.params.and_then(|it| serde_json::from_str(it.get()).ok());
            if let Some(waiting) = params.and_then(|it| self.waiting.get_mut(it.id.get())) {
                waiting.is_not_begun = true;
            }
            return false;
        }
        let (Some(id), None) = (it.id, it.method) else { return true };
        if self.is_initialize(id.get()) {
            self.is_unintroduced = false;
        }
        self.waiting.remove(id.get());
        !self.repeated.remove(id.get())
    }

    /// A line that was kept goes to a new server.
    pub(super) fn note_resent(&mut self, line: &str) {
        let Ok(it) = serde_json::from_str::<Envelope>(line) else { return };
        if let Some(waiting) = it.id.and_then(|id| self.waiting.get_mut(id.get())) {
            waiting.is_not_begun = false;
        }
    }

    /// A line from the client that could not be given to a server.
    pub(super) fn note_unsent(&mut self, line: &str) {
        let Ok(it) = serde_json::from_str::<Envelope>(line) else { return };
        if let Some(waiting) = it.id.and_then(|id| self.waiting.get_mut(id.get())) {
            waiting.is_not_begun = true;
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn is_unintroduced(&self) -> bool {
        self.is_unintroduced
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    fn is_initialize(&self, id: &str) -> bool {
        self.initialize.as_ref().is_some_and(|it| it.id == id)
    }

    /// What to say to whom when a new server takes over from one that is gone. Nothing, before there was one.
    pub(super) fn hand_over(&mut self) -> Handover {
        let waiting = std::mem::take(&mut self.waiting);
        self.repeated.clear();
        self.is_closing = false;
        let introduction = self.initialize.as_ref().map(|it| {
            if !waiting.contains_key(&it.id) {
                self.repeated.insert(it.id.clone());
            }
            it.line.clone()
        });
        self.is_unintroduced = introduction.is_some();
        let mut replay = Vec::from_iter(self.initialized.clone());
        for it in self.log_level.iter().chain(self.subscriptions.values()) {
            if !waiting.contains_key(&it.id) {
                replay.push(it.line.clone());
                self.repeated.insert(it.id.clone());
            }
        }
        let mut answers = Vec::new();
        let reads = if waiting.is_empty() { BTreeSet::new() } else { reading_tools() };
        for (id, it) in waiting {
            if !it.is_repeatable(&reads) {
                answers.push(lost(&id));
                continue;
            }
            if !self.is_initialize(&id) {
                replay.push(it.line.clone());
            }
            self.waiting.insert(id, Waiting { is_not_begun: true, ..it });
        }
        Handover { answers, introduction, replay }
    }
}

fn lost(id: &str) -> String {
    let error = json!({
        "code": -32603,
        "message": "the mcp-orch process that ran this call ended before it answered, and another has taken over; the \
                    call may have been done, so look first (with `list_instances`, for example) before repeating it",
        "data": { "error": "Unavailable" },
    });
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u32, method: &str, params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
    }

    fn answer(id: u32) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)
    }

    #[test]
    fn before_a_server_was_there_nothing_is_handed_over() {
        let handover = Memory::default().hand_over();
        assert!(handover.answers.is_empty() && handover.replay.is_empty());
    }

    #[test]
    fn a_session_is_replayed_and_its_answers_are_swallowed() {
        let mut memory = Memory::default();
        memory.note_sent(&request(0, "initialize", "{}"));
        assert!(memory.note_received(&answer(0)));
        memory.note_sent(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        memory.note_sent(&request(1, "resources/subscribe", r#"{"uri":"a"}"#));
        memory.note_sent(&request(2, "resources/subscribe", r#"{"uri":"b"}"#));
        assert!(memory.note_received(&answer(1)) && memory.note_received(&answer(2)));
        memory.note_sent(&request(3, "resources/unsubscribe", r#"{"uri":"a"}"#));
        assert!(memory.note_received(&answer(3)));

        let handover = memory.hand_over();
        assert!(handover.answers.is_empty());
        assert!(handover.introduction.unwrap().contains("\"initialize\""));
        assert_eq!(handover.replay.len(), 2, "{:?}", handover.replay);
        assert!(handover.replay[0].contains("notifications/initialized"));
        assert!(handover.replay[1].contains("\"b\""));
        assert!(memory.is_unintroduced());
        assert!(!memory.note_received(&answer(0)) && !memory.note_received(&answer(2)));
        assert!(!memory.is_unintroduced());
        assert!(memory.note_received(&answer(7)));
    }

    #[test]
    fn calls_under_way_are_answered_and_reads_asked_again() {
        let mut memory = Memory::default();
        memory.note_sent(&request(1, "tools/call", r#"{"name":"launch_instance"}"#));
        memory.note_sent(&request(2, "tools/list", "{}"));
        memory.note_sent(&request(4, "tools/call", r#"{"name":"list_instances"}"#));
        memory.note_sent(&request(3, "tools/call", "{}"));
        memory.note_sent(
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}"#,
        );
        let handover = memory.hand_over();
        let [lost] = &handover.answers[..] else { panic!("{:?}", handover.answers) };
        let lost: serde_json::Value = serde_json::from_str(lost).unwrap();
        assert_eq!((lost["id"].as_i64(), lost["error"]["code"].as_i64()), (Some(1), Some(-32603)));
        assert_eq!(handover.replay.len(), 2, "{:?}", handover.replay);
        assert!(memory.is_waiting());
        assert!(memory.note_received(&answer(2)), "the client waits for this one");
        assert!(memory.note_received(&answer(4)), "and for this one");
        assert!(!memory.is_waiting());
    }

    #[test]
    fn a_call_that_was_not_begun_is_given_to_the_next_server() {
        let mut memory = Memory::default();
        let call = request(1, "tools/call", r#"{"name":"create_user"}"#);
        memory.note_sent(&call);
        let word = format!(r#"{{"jsonrpc":"2.0","method":"{NOT_BEGUN}","params":{{"id":1}}}}"#);
        assert!(!memory.note_received(&word), "the client knows nothing of bridges");
        let handover = memory.hand_over();
        assert_eq!(
            (handover.answers.len(), &handover.replay[..]),
            (0, std::slice::from_ref(&call))
        );
        // That one goes away too, before it was told.
        assert_eq!(memory.hand_over().replay, std::slice::from_ref(&call));
        // And the next one after it was told: now nobody knows.
        memory.note_resent(&call);
        assert_eq!(memory.hand_over().answers.len(), 1);
    }

    #[test]
    fn an_initialize_without_answer_is_sent_again_once_and_answered() {
        let mut memory = Memory::default();
        memory.note_sent(&request(0, "initialize", "{}"));
        let handover = memory.hand_over();
        assert!(handover.introduction.is_some() && handover.replay.is_empty());
        assert!(memory.note_received(&answer(0)));
    }
}

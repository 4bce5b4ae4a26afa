//! A walk past everything that a server has, written down, so that two walks can be laid side by side: one that talks to
//! the server directly, and one with something in between.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::wire::{Step, Wire};

/// What was heard at each step, in words that do not change from one run to the next.
pub(crate) type Notes = Vec<(String, String)>;

pub(crate) struct Walker {
    pub(crate) wire: Wire,
    /// What stands before each name on this way, and is taken away again from what is written down.
    prefix: String,
    /// Whether the way crosses eras, where the same questions are asked in other messages.
    is_loose: bool,
    /// Whether others may be on the same connection.
    is_shared: bool,
    /// Requests that began to listen.
    listening: Vec<u64>,
    notes: Notes,
}

/// Longer than any step takes; what is missing then will not come, and the walk goes on.
const PATIENCE: Duration = Duration::from_secs(8);

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Resources that the gateway has itself.
const OWN: [&str; 4] = ["cluster://", "node://", "instance://", "events://"];

impl Walker {
    pub(crate) fn new(wire: Wire, prefix: &str) -> Walker {
        let wire = wire.patient_for(PATIENCE);
        Walker {
            wire,
            prefix: prefix.to_owned(),
            is_loose: false,
            is_shared: false,
            listening: Vec::new(),
            notes: Notes::new(),
        }
    }

    /// Leaves out what is told to a connection and not to a client: it is for a client with one of its own.
    pub(crate) fn among_others(mut self) -> Walker {
        self.is_shared = true;
        self
    }

    /// Writes down what was asked and what came of it, and not by which messages.
    pub(crate) fn loosely(mut self, is_loose: bool) -> Walker {
        self.is_loose = is_loose;
        self
    }

    /// Asks, and writes down all that comes of it.
    pub(crate) async fn ask(&mut self, label: &str, method: &str, params: Value) -> Step {
        self.see(label, method, params, &[]).await
    }

    /// The same, with notifications that may come after the answer.
    pub(crate) async fn see(
        &mut self,
        label: &str,
        method: &str,
        mut params: Value,
        awaited: &[&str],
    ) -> Step {
        let name = match method {
            "tools/call" | "prompts/get" => params.get_mut("name"),
            "completion/complete" => params["ref"].get_mut("name"),
            _ => None,
        };
        if let Some(name) = name {
            *name = json!(format!("{}{}", self.prefix, name.as_str().unwrap()));
        }
        let step = self.wire.ask_and_see(method, params, awaited).await;
        self.write(label, &step, awaited);
        step
    }

    /// Calls a tool, with all the metadata that may have to get there.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Step {
        self.call_and_see(tool, arguments, &[]).await
    }

    pub(crate) async fn call_and_see(
        &mut self,
        tool: &str,
        arguments: Value,
        awaited: &[&str],
    ) -> Step {
        let label = format!("tools/call {tool} {arguments}");
        let meta = json!({
            "progressToken": format!("token of {label}"),
            "vendor.example/trace": {"deep": [1, 0.7, null], "big": 9_007_199_254_740_993_u64},
        });
        let params = json!({
            "name": tool, "arguments": arguments, "_meta": meta, "vendorMember": {"x": 0.7},
        });
        self.see(&label, "tools/call", params, awaited).await
    }

    /// Begins to listen, which goes on until the walk ends.
    pub(crate) async fn listen(&mut self, label: &str, wanted: Value) {
        let params = json!({"notifications": wanted});
        let id = self.wire.begin("subscriptions/listen", params).await;
        self.listening.push(id);
        let said = self.wire.see(&["notifications/subscriptions/acknowledged"]).await;
        self.write(label, &said, &[]);
    }

    /// Notifications of the connection, where that is this client's alone.
    pub(crate) fn alone(&self, n: usize, method: &'static str) -> Vec<&'static str> {
        vec![method; if self.is_shared { 0 } else { n }]
    }

    pub(crate) fn write(&mut self, label: &str, step: &Step, awaited: &[&str]) {
        let mut notifications: Vec<Value> = Vec::new();
        let n_missing = awaited
            .iter()
            .filter(|method| !step.notifications.iter().any(|it| it["method"] == **method))
            .count();
        for it in &step.notifications {
            let method = it["method"].as_str().unwrap();
            // Changes may be told once for several, and at any time; whether they are told at all is what counts.
            let is_change = method.ends_with("list_changed");
            let is_of_others = method == "notifications/tasks/status" && self.is_shared;
            let is_stray = is_change && !awaited.contains(&method) || is_of_others;
            if !(is_stray || is_change && notifications.contains(&in_order(it))) {
                notifications.push(in_order(it));
            }
        }
        // Those of one kind stay in their order; different kinds may come on different streams.
        notifications.sort_by_key(|it| it["method"].as_str().unwrap().to_owned());
        let requests = step.requests.iter().map(|it| {
            let mut it = in_order(it);
            it["id"] = json!("<theirs>");
            it
        });
        let mut responses: Vec<Value> = step.responses.iter().map(in_order).collect();
        if !self.prefix.is_empty() {
            let results = responses.iter_mut().filter_map(|it| it.get_mut("result"));
            results.for_each(|it| self.without_others(it));
        }
        if self.is_loose {
            let asked = questions(step);
            let last = responses.pop().map(|mut last| {
                // The number of messages in between differs.
                last["id"] = json!("<id>");
                last
            });
            // A call that is made again says again how far it is.
            notifications.dedup();
            for it in &mut notifications {
                let meta = &mut it["params"]["_meta"];
                if let Some(id) = meta.get_mut(SUBSCRIPTION) {
                    let is_ours = id.as_u64().is_some_and(|it| self.listening.contains(&it));
                    *id = json!(is_ours);
                } else if it["params"]["_meta"].is_null() {
                    let params = it["params"].as_object_mut();
                    params.map(|it| it.remove("_meta"));
                }
            }
            let heard = json!({
                "response": last, "notifications": notifications, "missing": n_missing, "asked": asked,
            });
            // Two libraries write them.
            self.notes.push((label.to_owned(), sorted(settled(heard)).to_string()));
            return;
        }
        let heard = json!({
            "responses": responses, "notifications": notifications, "missing": n_missing,
            "requests": requests.collect::<Vec<_>>(),
        });
        let mut text = settled(heard).to_string();
        if !self.prefix.is_empty() {
            text = text.replace(&self.prefix, "");
        }
        self.notes.push((label.to_owned(), text));
    }

    /// Takes out of a list what other servers have, of which the gateway itself is one.
    fn without_others(&self, result: &mut Value) {
        let is_ours = |it: &Value| match it["name"].as_str() {
            Some(name) if it.get("uri").or(it.get("uriTemplate")).is_none() => {
                name.starts_with(&self.prefix)
            }
            _ => {
                let uri = it["uri"].as_str().or(it["uriTemplate"].as_str());
                !uri.is_some_and(|it| OWN.iter().any(|own| it.starts_with(own)))
            }
        };
        for list in ["tools", "prompts", "resources", "resourceTemplates"] {
            if let Some(items) = result.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(is_ours);
                // How long a list of several servers may be kept is for the gateway to say.
                let members = result.as_object_mut().unwrap();
                members.retain(|key, _| key != "ttlMs" && key != "cacheScope");
            }
        }
    }

    pub(crate) fn notes(self) -> Notes {
        self.notes
    }
}

/// All that the client was asked, by requests or by answers that need more, in an order of its own.
fn questions(step: &Step) -> Vec<String> {
    let of = |it: &Value| format!("{} {}", it["method"], it["params"]["message"]);
    let mut asked: Vec<String> = step.requests.iter().map(of).collect();
    for response in &step.responses {
        let needed = response["result"]["inputRequests"].as_object();
        asked.extend(needed.into_iter().flat_map(|it| it.values()).map(of));
    }
    asked.sort();
    asked
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Map<String, Value> =
                members.into_iter().map(|(key, it)| (key, sorted(it))).collect();
            members.sort_keys();
            Value::Object(members)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// The members around a message have no order of their own; those inside do.
fn in_order(frame: &Value) -> Value {
    let mut members = frame.as_object().cloned().unwrap_or_default();
    members.sort_keys();
    Value::Object(members)
}

/// The same walk taken twice on the same way. What differs from one time to the next, or is never heard, would hide what
/// something in between changes: nothing may.
pub(crate) fn assert_settled(once: &Notes, again: &Notes) {
    let noise = differences(once, again);
    assert!(noise.is_empty(), "it differs from itself:\n{}", noise.join("\n"));
    let unheard: Vec<_> = once
        .iter()
        .filter(|(_, it)| it.contains(r#""missing":"#) && !it.contains(r#""missing":0"#))
        .collect();
    assert!(unheard.is_empty(), "the server does not say what was waited for: {unheard:#?}");
}

/// What was heard on another way is what is heard directly.
pub(crate) fn assert_alike(direct: &Notes, through: &Notes) {
    let lost = differences(direct, through);
    let n = direct.len();
    assert!(lost.is_empty(), "{} of {n} steps differ:\n{}", lost.len(), lost.join("\n"));
}

/// Steps that differ, each with what was heard on either way.
fn differences(one: &Notes, other: &Notes) -> Vec<String> {
    let labels = |of: &Notes| of.iter().map(|(label, _)| label.clone()).collect::<Vec<_>>();
    assert_eq!(labels(one), labels(other), "not the same walk");
    let pairs = one.iter().zip(other).filter(|(one, other)| one.1 != other.1);
    let shown = |it: &str| orch_domain::text::excerpt(it, 1_500);
    let told = pairs.map(|(one, other)| {
        // From where they part.
        let same = one.1.bytes().zip(other.1.bytes()).take_while(|(a, b)| a == b).count();
        let mut from = same.saturating_sub(60);
        while !one.1.is_char_boundary(from) || !other.1.is_char_boundary(from) {
            from -= 1;
        }
        let (left, right) = (shown(&one.1[from..]), shown(&other.1[from..]));
        format!("{}\n  one:   …{left}\n  other: …{right}", one.0)
    });
    told.collect()
}

/// Without what is different each time: ids that were drawn, the clock, numbers of processes.
fn settled(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let settle = |(key, it): (String, Value)| {
                let it = match key.as_str() {
                    "pid" => json!("<pid>"),
                    // It may be sealed on the way.
                    "requestState" => json!("<state>"),
                    _ => settled(it),
                };
                (key, it)
            };
            Value::Object(members.into_iter().map(settle).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(settled).collect()),
        Value::String(text) => Value::String(settled_text(&text)),
        other => other,
    }
}

fn settled_text(text: &str) -> String {
    let is_time = text.len() >= 20 && text.as_bytes()[4] == b'-' && text.as_bytes()[10] == b'T';
    if is_time && text.is_ascii() && (text.ends_with('Z') || text.ends_with("+00:00")) {
        return "<time>".to_owned();
    }
    let is_word = |it: char| it.is_ascii_alphanumeric() || it == '-';
    let mut settled = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        settled.push_str(&rest[..start]);
        let word = &rest[start..];
        let end = word.find(|it| !is_word(it)).unwrap_or(word.len());
        settled.push_str(if is_drawn(&word[..end]) { "<id>" } else { &word[..end] });
        rest = &word[end..];
    }
    settled.push_str(rest);
    settled
}

/// A UUID, or sixteen random bytes.
fn is_drawn(word: &str) -> bool {
    let is_hex = |it: &str| it.bytes().all(|it| it.is_ascii_hexdigit());
    let groups: Vec<usize> = word.split('-').map(str::len).collect();
    let is_uuid = groups == [8, 4, 4, 4, 12] && is_hex(&word.replace('-', ""));
    is_uuid || word.len() == 32 && is_hex(word)
}

//! What an object of a model's reply says.

use orch_domain::plan::{Problem, Step};
use orch_domain::text;
use serde_json::{Map, Value};

use super::lines::Found;

/// Of what is wrong, in characters, as it is shown to the model again.
const LONGEST_TEXT: usize = 300;
const LONGEST_WHY: usize = 500;
/// Of one step; a step that is wrong all over needs to be written anew anyway.
const MAX_PROBLEMS: usize = 10;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Step(Box<Step>),
    /// The plan is complete.
    Done {
        output: Option<Value>,
    },
    Answer(String),
    Cannot(String),
    Replan,
    Wrong(Wrong),
    /// Nothing after it is worth reading.
    TooMuch(String),
}

/// Something that cannot be taken, for the model to mend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wrong {
    /// Id of the step, or the beginning of what was written.
    pub(super) what: String,
    pub(super) why: Vec<String>,
}

impl Wrong {
    pub(super) fn of_text(text: &str, why: impl Into<String>) -> Wrong {
        let words: Vec<&str> = text.split_whitespace().collect();
        let what = text::excerpt(&text::sanitize(&words.join(" ")), LONGEST_TEXT);
        Wrong { what, why: vec![text::excerpt(&why.into(), LONGEST_WHY)] }
    }

    pub(super) fn of_problems(what: &str, problems: &[Problem]) -> Wrong {
        let why = problems.iter().take(MAX_PROBLEMS);
        let why = why.map(|it| format!("{}: {}", it.place, it.message));
        let why = why.map(|it| text::excerpt(&it, LONGEST_WHY));
        Wrong { what: what.to_owned(), why: why.collect() }
    }

    /// A line for the model or a person.
    pub(super) fn line(&self) -> String {
        format!("`{}`: {}", self.what, self.why.join("; "))
    }
}

/// Most objects say one thing; a document whose steps came before may say two.
pub(super) fn read(found: Found) -> Vec<Said> {
    let mut object = match found {
        Found::Object(object) => object,
        Found::Broken { text, why } => return vec![Said::Wrong(Wrong::of_text(&text, why))],
        Found::TooMuch { why } => return vec![Said::TooMuch(why)],
    };
    if object.contains_key("tool") || object.contains_key("id") {
        return vec![step(object)];
    }
    if let Some(Value::Object(plan)) = object.remove("plan") {
        object.extend(plan);
    }
    let mut said = Vec::new();
    if let Some(why) = object.get("cannot") {
        return vec![Said::Cannot(words(why))];
    }
    if object.contains_key("replan") {
        said.push(Said::Replan);
    } else if let Some(answer) = object.get("answer") {
        said.push(Said::Answer(words(answer)));
    }
    let is_done = ["done", "steps", "output"].iter().any(|it| object.contains_key(*it));
    if is_done {
        said.push(Said::Done { output: object.remove("output").filter(|it| !it.is_null()) });
    }
    if said.is_empty() {
        let text = Value::Object(object).to_string();
        let why = "it is neither a step (`id`, `tool`, `arguments`) nor the end (`done`)";
        said.push(Said::Wrong(Wrong::of_text(&text, why)));
    }
    said
}

fn step(mut object: Map<String, Value>) -> Said {
    // Models write out what is not there.
    object.retain(|_, it| !it.is_null());
    let name = object.get("id").and_then(Value::as_str).map(str::to_owned);
    let object = Value::Object(object);
    match serde_path_to_error::deserialize::<_, Step>(&object) {
        Ok(step) => Said::Step(Box::new(step)),
        Err(err) => {
            let path = err.path().to_string();
            let said = err.into_inner().to_string();
            // Which member is unknown or missing, the message says itself.
            let is_named = path == "." || said.contains(&format!("field `{path}`"));
            let why = if is_named { said } else { format!("`{path}`: {said}") };
            let text = name.unwrap_or_else(|| object.to_string());
            Said::Wrong(Wrong::of_text(&text, why))
        }
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::String(it) => it.clone(),
        other => other.to_string(),
    }
}

/// An answer that was written as plain words, or with newlines in its string.
pub(super) fn loose_answer(reply: &str) -> Option<String> {
    let reply = reply.rsplit("</think>").next().unwrap_or_default();
    let reply = reply.rsplit("</thinking>").next().unwrap_or_default().trim();
    let Some(start) = reply.find('{') else {
        return (!reply.is_empty()).then(|| reply.to_owned());
    };
    let end = reply.rfind('}').filter(|end| start < *end)?;
    let object: Map<String, Value> = serde_json::from_str(&escaped(&reply[start..=end])).ok()?;
    object.get("answer").map(words)
}

/// With the newlines in its strings as JSON writes them.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut is_string, mut is_escaped) = (false, false);
    for it in json.chars() {
        match it {
            '\n' if is_string => out.push_str("\\n"),
            '\r' if is_string => {}
            '\t' if is_string => out.push_str("\\t"),
            _ => out.push(it),
        }
        if it == '"' && !is_escaped {
            is_string = !is_string;
        }
        is_escaped = it == '\\' && !is_escaped;
    }
    out
}

//! A plan: tool calls, what each needs of the others, and what is to happen when one fails.
//!
//! The same text is written by people, by the model that calls, and by the planner. Values are taken over by typed
//! references (RFC 6901 JSON Pointers into results of earlier steps) and never by patterns in text that is not meant
//! as one.

mod check;
mod condition;
mod graph;
mod near;
mod reference;
mod schema;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use check::{Limits, Problem, ToolFacts, Toolbox, check, check_step};
pub use condition::{Comparison, Condition, Ending};
pub use graph::{CriticalPath, StepNeeds, collect_needs, critical_path};
pub use reference::{Needs, Scope, Source, Unresolved, is_constant, resolve};
pub use schema::schema;

use crate::name::StepId;

/// Of the format. A plan that names another is refused.
pub const VERSION: u32 = 1;

/// Tool calls that run in parallel, each as soon as what it needs of the others is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Of the format: 1.
    #[serde(default = "version")]
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// At least one, in any order: what a step needs decides when it runs, and what needs nothing runs at once.
    #[schemars(length(min = 1))]
    pub steps: Vec<Step>,
    /// For steps that say nothing else: `fail` ends the batch, `continue` goes on with what does not need the step,
    /// `compensate` ends it and undoes what was done.
    #[serde(default)]
    pub on_error: OnError,
    /// What the batch answers when all has ended: any value with references in it, such as
    /// `{"urls": {"$ref": "launch#/structuredContent/items"}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
}

fn version() -> u32 {
    VERSION
}

impl Plan {
    pub fn of(steps: Vec<Step>) -> Plan {
        Plan { version: VERSION, steps, on_error: OnError::default(), output: None }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What others refer to it by; unique in the plan. `item` and `index` stand for an element of `for_each` and are no ids.
    pub id: StepId,
    /// Canonical name of the tool: `server.tool` as `list_tools` shows it, or the bare name of an own operation.
    pub tool: String,
    /// As the tool's input schema says, with references to results of other steps; a reference makes this step wait for that
    /// one. `{"$ref": "step#/structuredContent/id"}`, alone in its object, is the value at that JSON Pointer of the result, of
    /// whatever type. Inside a string, `${step#/structuredContent/id}` is its text: numbers and booleans as in JSON, objects
    /// and arrays as compact JSON. A result is `{structuredContent, content, isError}`; `/json` in it is `structuredContent`, or
    /// else the JSON in its first text block, and `step#` is all of it. Other text stays as it is (`$3`, `${HOME}`); write
    /// `$${` for `${` before an id and `#`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
    /// Steps that have to end well before this one begins, beside those that it refers to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<StepId>,
    /// Run only when this holds, else it is `skipped`. One of: `{"$ref": "step#/pointer"}` for a value that is neither null,
    /// false, 0 nor empty; `{"eq": [a, b]}`, or `ne`, and of two numbers or two strings `lt`, `le`, `gt`, `ge`;
    /// `{"in": [a, b]}` for an element of an array or a part of a string; `{"exists": {"$ref": "step#/pointer"}}`;
    /// `{"all": [conditions]}`, `{"any": [conditions]}`, `{"not": condition}`; `{"succeeded": "step"}`, or `failed`,
    /// `skipped`, `ended`, to run after a step that may have failed. Values may be references. It is looked at once, before
    /// `for_each`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Value>,
    /// Run once for each element of this array, given or `{"$ref": "step#/pointer"}`. In `arguments` and `compensate`,
    /// `item#/pointer` refers to the element and `index#` to its place from 0. The result of the step is
    /// `{"structuredContent": {"items", "count", "failed", "errors"}}`, with `items` in the order of the array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<Value>,
    /// Elements of `for_each` that run at the same time, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_parallel: Option<u32>,
    /// What of each element's result is gathered in `items`: a JSON Pointer, such as `/structuredContent/id`; all of it
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect: Option<String>,
    /// Seconds that one attempt may take, from 0.001 to 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 86400))]
    pub timeout: Option<f64>,
    /// Without it, only tools that say that repeating them is safe are tried again, and only after failures that pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Instead of the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// What undoes it, called when the batch ends with `compensate`, in the reverse order of what was done. It may refer to
    /// the step itself and to what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<Compensation>,
}

/// How often a step is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Times that it is tried again.
    #[schemars(range(max = 100))]
    pub max: u32,
    /// Before the first of them, in milliseconds; doubled for each further one, up to a minute, and jittered.
    #[serde(default = "backoff_ms")]
    #[schemars(range(max = 60_000))]
    pub backoff_ms: u64,
}

fn backoff_ms() -> u64 {
    500
}

/// What becomes of the batch when a step fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    #[default]
    Fail,
    Continue,
    Compensate,
}

/// A call that undoes a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compensation {
    /// As in a step.
    pub tool: String,
    /// As in a step.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
}

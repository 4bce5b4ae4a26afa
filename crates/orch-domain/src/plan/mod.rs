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

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use check::{Limits, Problem, ToolFacts, Toolbox, check, check_step};
pub use condition::{Comparison, Condition, Ending};
pub use graph::{CriticalPath, StepNeeds, collect_needs, critical_path};
pub use reference::{Needs, Scope, Source, Unresolved, is_constant, resolve};

use crate::name::StepId;

/// Of the format. A plan that names another is refused.
pub const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Of the format; 1.
    #[serde(default = "version")]
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// In any order: what a step needs decides when it runs.
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
    /// What others refer to it by; unique in the plan.
    pub id: StepId,
    /// Canonical name of the tool: `server.tool` as `list_tools` shows it, or the bare name of an own operation.
    pub tool: String,
    /// As the tool's input schema says. `{"$ref": "step#/pointer"}` stands for a value of an earlier result, and
    /// `${step#/pointer}` inside a string for its text (`$${` for a literal `${`).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
    /// Steps that have to end well before, beside those that it refers to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<StepId>,
    /// Run only when this holds, else it is `skipped`: `{"$ref": …}` for a value that is neither null, false, 0 nor empty;
    /// `{"eq": [a, b]}`, `ne`, `lt`, `le`, `gt`, `ge`, `in`; `{"exists": {"$ref": …}}`; `{"all": […]}`, `any`, `not`;
    /// `{"succeeded": "step"}`, `failed`, `skipped`, `ended`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Value>,
    /// Run once for each element of this array, given or referred to. In the step, `{"$ref": "item#/pointer"}` is the
    /// element and `index#` its place from 0. The result has `structuredContent.items`, in the order of the array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<Value>,
    /// Elements of `for_each` that run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_parallel: Option<u32>,
    /// What of each element's result is gathered in `items`: a JSON Pointer, such as `/structuredContent/id`; all of it
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect: Option<String>,
    /// Seconds that one attempt may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 86400))]
    pub timeout: Option<f64>,
    /// Without it, only tools that say that repeating them is safe are tried again, and only after failures that pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// What undoes it, called when the batch ends with `compensate`, in the reverse order of what was done. It may
    /// refer to the step itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<Compensation>,
}

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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    #[default]
    Fail,
    Continue,
    Compensate,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compensation {
    pub tool: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
}

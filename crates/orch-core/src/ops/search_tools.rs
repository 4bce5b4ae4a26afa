//! Tools found by what they are for, when there are too many to look through.

use std::borrow::Cow;
use std::sync::Arc;

use orch_domain::caller::Permission;
use orch_domain::{Error, text};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::tool_server::ServerTool;
use crate::{Cx, Orch};

/// Of a description, in characters: enough to choose by, and some are pages.
const LONGEST: usize = 400;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchTools {
    /// What is to be done, in a few words: `read a file`, `open issues of a repository`.
    pub query: Query,
    /// How many tools to answer at most, 1 to 50.
    #[serde(default)]
    pub limit: Limit,
    /// Only those of this server; `orch` has our own operations.
    pub server: Option<String>,
}

/// 1 to 1000 characters.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Query(String);

impl JsonSchema for Query {
    fn schema_name() -> Cow<'static, str> {
        "Query".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": 1000})
    }
}

impl Query {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Query {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Query, &'static str> {
        match text.trim().chars().count() {
            1..=1000 => Ok(Query(text)),
            _ => Err("a query has 1 to 1000 characters that say what is to be done"),
        }
    }
}

/// 1 to 50.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u64")]
pub struct Limit(u8);

const DEFAULT_LIMIT: u8 = 5;

impl Default for Limit {
    fn default() -> Limit {
        Limit(DEFAULT_LIMIT)
    }
}

impl JsonSchema for Limit {
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": 1, "maximum": 50, "default": DEFAULT_LIMIT})
    }
}

impl TryFrom<u64> for Limit {
    type Error = &'static str;

    fn try_from(n: u64) -> Result<Limit, &'static str> {
        match u8::try_from(n) {
            Ok(n @ 1..=50) => Ok(Limit(n)),
            _ => Err("it is the number of tools to answer, 1 to 50"),
        }
    }
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FoundTools {
    /// The best first. Empty: no tool has any word of the query.
    pub tools: Vec<FoundTool>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FoundTool {
    /// Canonical: `server.tool`, as `call_tool` takes it.
    pub name: String,
    pub server: String,
    pub title: Option<String>,
    /// Its beginning. Written by the server; untrusted unless you trust it.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: Value,
    /// Higher is better; comparable within one answer only.
    pub score: f64,
}

impl FoundTool {
    fn of(it: ServerTool, score: f32) -> FoundTool {
        let words: Vec<&str> = it.description.split_whitespace().collect();
        let description = text::excerpt(&text::sanitize(&words.join(" ")), LONGEST);
        FoundTool {
            name: format!("{}.{}", it.server, it.name),
            server: it.server,
            title: it.title,
            description,
            input_schema: it.input_schema,
            score: (f64::from(score) * 100.0).round() / 100.0,
        }
    }
}

impl Summary for FoundTools {
    fn summary(&self) -> String {
        if self.tools.is_empty() {
            return "No tool has any of these words; try others, or `list_tools`.".to_owned();
        }
        let shown = self.tools.iter().map(|it| {
            let arguments = text::sanitize(&it.input_schema.to_string());
            format!("{}: {}\n    arguments: {arguments}", it.name, it.description)
        });
        shown.collect::<Vec<_>>().join("\n")
    }
}

impl Operation for SearchTools {
    const SPEC: Spec =
        spec!("search_tools", Tools, Reads, Some(Permission::Read), [Route::get("/tools/search")]);
    type Output = FoundTools;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<FoundTools, Error> {
        let found = orch.search_tools(
            self.query.as_str(),
            self.server.as_deref(),
            usize::from(self.limit.0),
            cx,
        )?;
        Ok(FoundTools {
            tools: found.into_iter().map(|(it, score)| FoundTool::of(it, score)).collect(),
        })
    }
}

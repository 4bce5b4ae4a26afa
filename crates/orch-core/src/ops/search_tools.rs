//! Tools found by what they are for, when there are too many to look through.

use std::sync::Arc;

use orch_domain::caller::Permission;
use orch_domain::{Error, text};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::tool_server::ServerTool;
use crate::view::table::table;
use crate::{Cx, Orch};

/// Of a description, in characters: enough to choose by, and some are pages.
const LONGEST: usize = 400;
const LONGEST_LINE: usize = 80;

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
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Query(#[schemars(length(min = 1, max = 1000))] String);

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

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "u64")]
pub struct Limit(#[schemars(range(min = 1, max = 50))] u8);

impl Default for Limit {
    fn default() -> Limit {
        Limit(5)
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
        let description = text::excerpt(&text::sanitize(it.description.trim()), LONGEST);
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
        let row = |it: &FoundTool| {
            let line = it.description.lines().next().unwrap_or_default();
            [it.name.clone(), text::excerpt(line, LONGEST_LINE), it.input_schema.to_string()]
        };
        table(["NAME", "", "ARGUMENTS"], self.tools.iter().map(row))
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

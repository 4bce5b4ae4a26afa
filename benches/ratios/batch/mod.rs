//! What running a plan costs beside its calls, and how near it comes to the quickest way there is.

pub(crate) mod behind;
mod engine;
mod graphs;
mod planning;
mod schedule;
mod through;

use std::sync::Arc;

use orch_domain::plan::{ToolFacts, Toolbox};
use tokio::runtime::Runtime;

use crate::Figure;

pub(crate) fn measure(runtime: &Runtime) -> Vec<Figure> {
    let mut figures = runtime.block_on(engine::measure());
    figures.push(runtime.block_on(planning::measure()));
    figures.extend(schedule::measure());
    figures.extend(runtime.block_on(through::measure()));
    figures
}

/// Every name is a tool that may be called again and takes anything.
pub(super) struct AnyTool;

impl Toolbox for AnyTool {
    fn tool(&self, name: &str) -> Option<ToolFacts> {
        let (server, _) = name.split_once('.')?;
        Some(ToolFacts {
            name: name.into(),
            server: server.into(),
            input_schema: Arc::new(serde_json::json!({"type": "object"})),
            is_read_only: true,
            is_idempotent: true,
        })
    }

    fn nearest(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
}

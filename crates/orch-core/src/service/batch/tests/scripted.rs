//! Tools that do what a test wants, and remember what they were asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use orch_domain::Error;
use orch_domain::plan::{Plan, ToolFacts, Toolbox};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::bench::Record;
use super::super::calls::{StepCalls, Target};

/// What one call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Succeed {
        after_ms: u64,
    },
    /// The tool says that it failed.
    ToolError {
        after_ms: u64,
    },
    /// A failure that passes.
    Unavailable {
        after_ms: u64,
    },
    /// Never answers, and ends when it is withdrawn.
    Hang,
    /// In the call itself, before it waits for anything.
    Panic,
    /// Later on.
    PanicLater {
        after_ms: u64,
    },
}

/// One call as it came.
#[derive(Clone)]
pub(super) struct Call {
    /// The argument `step`, which every step of these tests has.
    pub(super) step: String,
    pub(super) tool: String,
    pub(super) is_repeatable: bool,
    pub(super) arguments: Map<String, Value>,
    pub(super) begun: Instant,
    pub(super) ended: Option<Instant>,
    /// Commits that were durable when it came.
    pub(super) n_commits: usize,
}

#[derive(Default)]
pub(super) struct Scripted {
    /// By the step, one for each call; the last one again and again.
    pub(super) acts: Mutex<HashMap<String, Vec<Act>>>,
    pub(super) calls: Mutex<Vec<Call>>,
    pub(super) record: Option<Arc<Record>>,
    /// No call may come any more.
    pub(super) is_over: std::sync::atomic::AtomicBool,
    /// What must never be.
    pub(super) wrongs: Mutex<Vec<String>>,
}

impl Scripted {
    pub(super) fn with(acts: &[(&str, &[Act])]) -> Arc<Scripted> {
        let acts = acts.iter().map(|(step, acts)| ((*step).to_owned(), acts.to_vec()));
        Arc::new(Scripted { acts: Mutex::new(acts.collect()), ..Scripted::default() })
    }

    pub(super) fn called(&self) -> Vec<String> {
        self.calls.lock().iter().map(|it| it.step.clone()).collect()
    }

    pub(super) fn n_called(&self, step: &str) -> usize {
        self.calls.lock().iter().filter(|it| it.step == step).count()
    }

    fn next_act(&self, step: &str, n_before: usize) -> Act {
        let acts = self.acts.lock();
        let of_step = acts.get(step).map_or(&[][..], |it| it);
        let act = of_step.get(n_before).or(of_step.last());
        act.copied().unwrap_or(Act::Succeed { after_ms: 1 })
    }
}

/// Ends the entry of a call however it ends, also when it is dropped.
struct Under(Arc<Scripted>, usize);

impl Drop for Under {
    fn drop(&mut self) {
        self.0.calls.lock()[self.1].ended = Some(Instant::now());
    }
}

/// The calls of one batch.
pub(super) struct Caller(pub(super) Arc<Scripted>);

impl StepCalls for Caller {
    fn call(
        &self,
        target: &Target,
        arguments: Map<String, Value>,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Result<Value, Error>> {
        let script = self.0.clone();
        let step = arguments["step"].as_str().unwrap().to_owned();
        if cancel.is_cancelled() {
            script.wrongs.lock().push(format!("`{step}` is called although it was withdrawn"));
        }
        if script.is_over.load(std::sync::atomic::Ordering::SeqCst) {
            script.wrongs.lock().push(format!("`{step}` is called after the end"));
        }
        let n_before = script.n_called(&step);
        let at = {
            let mut calls = script.calls.lock();
            calls.push(Call {
                step: step.clone(),
                tool: target.name.to_string(),
                is_repeatable: target.is_repeatable,
                arguments: arguments.clone(),
                begun: Instant::now(),
                ended: None,
                n_commits: script.record.as_ref().map_or(0, |it| it.n_commits()),
            });
            calls.len() - 1
        };
        let under = Under(script.clone(), at);
        let act = script.next_act(&step, n_before);
        if act == Act::Panic {
            std::panic::resume_unwind(Box::new("a tool that panics at once"));
        }
        async move {
            let _under = under;
            let wait = |ms| tokio::time::sleep(Duration::from_millis(ms));
            match act {
                Act::Succeed { after_ms } => wait(after_ms).await,
                Act::ToolError { after_ms } => {
                    wait(after_ms).await;
                    let content = json!([{"type": "text", "text": "it does not want to"}]);
                    return Ok(json!({"content": content, "isError": true}));
                }
                Act::Unavailable { after_ms } => {
                    wait(after_ms).await;
                    return Err(Error::Unavailable {
                        message: "not just now".to_owned(),
                        source: None,
                    });
                }
                Act::Hang => std::future::pending().await,
                Act::Panic => {}
                Act::PanicLater { after_ms } => {
                    wait(after_ms).await;
                    std::panic::resume_unwind(Box::new("a tool that panics"));
                }
            }
            let structured = json!({"step": step, "arguments": arguments});
            Ok(json!({"content": [], "structuredContent": structured, "isError": false}))
        }
        .boxed()
    }
}

/// Every name is a tool: one whose name contains `read` may be called twice.
pub(super) struct AnyTool;

impl Toolbox for AnyTool {
    fn tool(&self, name: &str) -> Option<ToolFacts> {
        let (server, tool) = name.split_once('.')?;
        Some(ToolFacts {
            name: name.into(),
            server: server.into(),
            input_schema: Arc::new(json!({"type": "object"})),
            is_read_only: tool.contains("read"),
            is_idempotent: tool.contains("read"),
        })
    }

    fn nearest(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
}

/// A plan as JSON has it; each step gets its id as the argument `step`, and so does what undoes it.
pub(super) fn plan(mut written: Value) -> Plan {
    for step in written["steps"].as_array_mut().unwrap() {
        let id = step["id"].as_str().unwrap().to_owned();
        if step["tool"].is_null() {
            step["tool"] = json!("s.write");
        }
        if step["arguments"]["step"].is_null() {
            step["arguments"]["step"] = json!(id);
        }
        if step.get("compensate").is_some() {
            step["compensate"]["arguments"]["step"] = json!(format!("undo-{id}"));
        }
    }
    let plan: Plan = serde_json::from_value(written).unwrap();
    let problems = orch_domain::plan::check(&plan, &AnyTool, &orch_domain::plan::Limits::DEFAULT);
    assert_eq!(problems, []);
    plan
}

//! How a step calls its tool: through the gate, as everybody who may call that tool.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use orch_domain::Error;
use orch_domain::batch::RunsFor;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::ops::CallTool;
use crate::service::tools::BUILT_IN;
use crate::{Orch, gate};

/// A tool as steps call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Canonical.
    pub name: Arc<str>,
    pub server: Arc<str>,
    /// Calling it twice is calling it once.
    pub is_repeatable: bool,
    /// It takes a `client_token`, by which a repeated call is known.
    pub takes_token: bool,
}

/// What runs a call. A fake stands here only in benches, which measure what is around it.
pub trait StepCalls: Send + Sync {
    /// The tool result object of the protocol. `cancel` withdraws the call where it runs.
    fn call(
        &self,
        target: &Target,
        arguments: Map<String, Value>,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Result<Value, Error>>;
}

pub(super) struct GateCalls {
    pub(super) orch: Arc<Orch>,
    pub(super) runs_for: RunsFor,
}

impl StepCalls for GateCalls {
    fn call(
        &self,
        target: &Target,
        arguments: Map<String, Value>,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Result<Value, Error>> {
        let cx = match self.orch.cx_now(&self.runs_for) {
            Ok(it) => it.with_cancel(cancel).taking_whole(),
            Err(err) => return futures::future::ready(Err(err)).boxed(),
        };
        let (orch, name, is_own) =
            (self.orch.clone(), target.name.to_string(), *target.server == *BUILT_IN);
        async move {
            if is_own {
                return orch.call_tool(&name, arguments, &cx).await;
            }
            gate::call::<CallTool>(&orch, &cx, CallTool { name, arguments }).await.map(|it| it.0)
        }
        .boxed()
    }
}

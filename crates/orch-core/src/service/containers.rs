//! What an instance's container says and does: its output, its use of the machine, commands run inside it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use orch_domain::Error;
use orch_domain::instance::{Instance, InstanceState};
use orch_domain::name::InstanceId;
use orch_domain::text;

use crate::ports::engine::{
    ContainerStats, Engine, EngineError, ExecOutcome, ExecRequest, LogLine, LogQuery, Terminal,
    TerminalSize,
};
use crate::service::engines::engine_error;
use crate::service::settle::limited;
use crate::{Cx, Orch};

/// Beyond the command's own limit, for an engine that does not keep to it.
const EXEC_SLACK: Duration = Duration::from_secs(15);

impl Orch {
    /// What the container wrote, oldest first, each line made safe to show.
    pub async fn logs(
        &self,
        cx: &Cx,
        id: &InstanceId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, Error>>, Error> {
        let (instance, engine) = self.container(cx, id)?;
        let lines = limited(engine.logs(&id.container_name(), query))
            .await
            .map_err(|err| container_error(&instance, err))?;
        let safe = move |line: Result<LogLine, EngineError>| match line {
            Ok(it) => Ok(LogLine { text: text::sanitize(&it.text), ..it }),
            Err(err) => Err(container_error(&instance, err)),
        };
        Ok(lines.map(safe).boxed())
    }

    pub async fn stats(
        &self,
        cx: &Cx,
        id: &InstanceId,
    ) -> Result<(Arc<Instance>, ContainerStats), Error> {
        let (instance, engine) = self.container(cx, id)?;
        must_run(&instance)?;
        let stats = limited(engine.stats(&id.container_name()))
            .await
            .map_err(|err| container_error(&instance, err))?;
        Ok((instance, stats))
    }

    /// Runs a command. Its audit entry is written first: what a command does cannot be undone or found out later.
    pub async fn exec(
        &self,
        cx: &Cx,
        id: &InstanceId,
        request: ExecRequest,
    ) -> Result<ExecOutcome, Error> {
        let (instance, engine) = self.container(cx, id)?;
        must_run(&instance)?;
        cx.audit_target(id);
        if let Some(entry) = cx.audit_for_commit() {
            self.ledger.audit(entry);
        }
        let limit = request.timeout + EXEC_SLACK;
        let name = id.container_name();
        let outcome = tokio::select! {
            it = tokio::time::timeout(limit, engine.exec(&name, request)) => {
                it.unwrap_or(Err(EngineError::Timeout { after: limit }))
            }
            () = cx.cancel.cancelled() => {
                let message = "the call was cancelled; the command may have done part of its work";
                return Err(Error::Cancelled { message: message.to_owned() });
            }
        };
        outcome.map_err(|err| container_error(&instance, err))
    }

    /// Where a terminal can be opened; refused before a face upgrades a connection or holds anything for it.
    pub fn terminal_place(&self, cx: &Cx, id: &InstanceId) -> Result<TerminalPlace, Error> {
        let (instance, engine) = self.container(cx, id)?;
        must_run(&instance)?;
        Ok(TerminalPlace { instance, engine })
    }

    /// The instance, and the engine that has its container.
    fn container(
        &self,
        cx: &Cx,
        id: &InstanceId,
    ) -> Result<(Arc<Instance>, Arc<dyn Engine>), Error> {
        let instance = self.instance(cx, id)?;
        if instance.state == InstanceState::Terminated {
            let message = format!("`{id}` is terminated: its container and what it wrote are gone");
            return Err(incorrect(&instance, message));
        }
        self.ledger.read(|book| self.refuse_if_lost(book, &instance))?;
        let engine = self.engine(&instance.node_id)?;
        Ok((instance, engine))
    }
}

/// A running instance, and the engine that may have terminals for it.
pub struct TerminalPlace {
    instance: Arc<Instance>,
    engine: Arc<dyn Engine>,
}

impl TerminalPlace {
    pub async fn open(&self, command: Vec<String>, size: TerminalSize) -> Result<Terminal, Error> {
        let Some(terminals) = self.engine.terminals() else {
            let node_id = &self.instance.node_id;
            let message = format!(
                "the engine of node `{node_id}` has no terminals; run single commands with `exec_in_instance`"
            );
            return Err(incorrect(&self.instance, message));
        };
        let name = self.instance.id.container_name();
        limited(terminals.open(&name, command, size))
            .await
            .map_err(|err| container_error(&self.instance, err))
    }
}

fn must_run(instance: &Instance) -> Result<(), Error> {
    let (id, state) = (&instance.id, instance.state);
    let advice = match state {
        InstanceState::Running => return Ok(()),
        InstanceState::Stopped => "start it with `start_instance` first",
        InstanceState::Pending => "wait until `get_instance` shows it `running`",
        _ => "it is on its way down",
    };
    Err(incorrect(instance, format!("`{id}` is {state}, and this needs a running one: {advice}")))
}

fn container_error(instance: &Instance, err: EngineError) -> Error {
    match err {
        EngineError::NoSuchContainer { .. } => {
            let (id, state) = (&instance.id, instance.state);
            let message = format!(
                "`{id}` is {state} and has no container at this moment; `get_instance` shows what becomes of it"
            );
            incorrect(instance, message)
        }
        err => engine_error(&instance.node_id, err),
    }
}

fn incorrect(instance: &Instance, message: String) -> Error {
    Error::IncorrectState {
        id: instance.id.to_string(),
        state: instance.state.to_string(),
        message,
    }
}

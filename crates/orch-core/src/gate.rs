//! The one way to call an operation: permission, audit, span and metrics, whatever the face.

use std::sync::Arc;
use std::time::Instant;

use orch_domain::audit::{AuditEntry, Outcome};
use orch_domain::caller::{Channel, Permission};
use orch_domain::{Error, ErrorCode};
use serde_json::{Value, json};
use tracing::Instrument;

use crate::operation::{Effect, Operation, Spec};
use crate::ops::CallTool;
use crate::service::tools::BUILT_IN;
use crate::{Cx, Orch};

/// Whether `cx` may use an operation at all. Faces ask this to show only what can be called.
pub fn authorise(spec: &Spec, cx: &Cx) -> Result<(), Error> {
    match spec.needs {
        None => Ok(()),
        Some(needs) => permit(spec.name, needs, cx),
    }
}

/// Whether an operation is listed as a tool for `cx`. What only leads to other tools may be called by more than those it
/// is listed for.
pub fn offers(spec: &Spec, cx: &Cx) -> bool {
    authorise(spec, cx).is_ok()
        && cx.maybe_caller().is_none_or(|it| it.tools.permits(BUILT_IN, spec.name))
}

/// `authorise` before the arguments are read, so that who may not call learns nothing from how they are judged. The
/// refusal of a known caller is audited and counted as one of `call` is.
pub fn admit(orch: &Orch, spec: &Spec, cx: &Cx) -> Result<(), Error> {
    let refusal = match authorise(spec, cx) {
        Ok(()) => return Ok(()),
        Err(err) => err,
    };
    refuse(orch, spec, cx, &refusal);
    Err(refusal)
}

/// Counts and audits a call that never came to be: its caller may not, or its arguments cannot be read.
pub fn refuse(orch: &Orch, spec: &Spec, cx: &Cx, refusal: &Error) {
    let code = refusal.code().as_str();
    metrics::counter!("mcp_orch_operations_total", "operation" => spec.name, "outcome" => code)
        .increment(1);
    if spec.effect != Effect::Reads && cx.maybe_caller().is_some() {
        orch.ledger.audit(AuditEntry {
            outcome: Outcome::Refused,
            error: Some(code.to_owned()),
            elapsed_ms: Some(0),
            ..draft(orch, cx, spec.name)
        });
    }
}

/// For the few faces that have no operation of their own, such as the terminal, and for requests of the protocol such as
/// `resources/list`, which are there unless all of our own is denied.
pub fn permit(operation: &'static str, needs: Permission, cx: &Cx) -> Result<(), Error> {
    let caller = cx.caller()?;
    if !caller.may(needs) {
        return Err(Error::Forbidden { operation, needs });
    }
    let is_there = if operation.contains('/') {
        caller.tools.shows_server(BUILT_IN)
    } else {
        caller.tools.permits_operation(operation)
    };
    if is_there { Ok(()) } else { Err(Error::ToolDenied { operation }) }
}

/// Whether `cx` may use tools of servers behind; which of them, its view says.
pub fn permit_upstream(cx: &Cx) -> Result<(), Error> {
    let (operation, needs) = (CallTool::SPEC.name, Permission::Execute);
    if cx.caller()?.may(needs) { Ok(()) } else { Err(Error::Forbidden { operation, needs }) }
}

/// Calls an operation. One that changes something runs to its end even when whoever called it goes away: half a
/// change is nobody's, and audit should say how it ended. Withdrawing a call is `Cx::cancel`, which operations heed.
pub async fn call<O: Operation>(orch: &Arc<Orch>, cx: &Cx, req: O) -> Result<O::Output, Error> {
    if O::SPEC.effect == Effect::Reads {
        return guarded::<O>(orch, cx, req).await;
    }
    let (orch, cx) = (orch.clone(), cx.clone());
    let tracker = orch.tracker.clone();
    let task = tracker.spawn(async move { guarded::<O>(&orch, &cx, req).await }.in_current_span());
    task.await.unwrap_or_else(|err| Err(Error::internal(err)))
}

async fn guarded<O: Operation>(orch: &Arc<Orch>, cx: &Cx, req: O) -> Result<O::Output, Error> {
    let spec = O::SPEC;
    let started = Instant::now();
    let is_audited = spec.effect != Effect::Reads;
    if is_audited {
        cx.begin_audit(draft(orch, cx, spec.name));
    }
    let user = cx.maybe_caller().map(|it| it.user.as_str());
    let span = tracing::info_span!("call", operation = spec.name, user);
    let result = async {
        authorise(&spec, cx)?;
        req.run(orch, cx).await
    }
    .instrument(span.clone())
    .await;

    let elapsed = started.elapsed();
    let code = result.as_ref().err().map(|it| it.code().as_str());
    metrics::counter!("mcp_orch_operations_total", "operation" => spec.name, "outcome" => code.unwrap_or("ok"))
        .increment(1);
    metrics::histogram!("mcp_orch_operation_seconds", "operation" => spec.name)
        .record(elapsed.as_secs_f64());
    if let Err(err) = &result {
        let _entered = span.enter();
        log(err);
    }
    // Whoever has no login must not be able to push what others did out of the audit.
    let is_nobody = cx.maybe_caller().is_none() && result.is_err();
    if is_audited
        && (!is_nobody || orch.identity.may_audit_nobody())
        && let Some((mut entry, is_written)) = cx.audit_entry()
    {
        entry.outcome = match &result {
            Ok(_) => Outcome::Succeeded,
            Err(_) if is_written => Outcome::Failed,
            Err(_) => Outcome::Refused,
        };
        if result.is_ok() {
            let _entered = span.enter();
            tracing::info!("done: {} {}", spec.name, entry.targets.join(" "));
        }
        entry.error = code.map(str::to_owned);
        entry.elapsed_ms = Some(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        orch.ledger.audit(entry);
    }
    result
}

/// Longer arguments are not read for the audit: nobody reads them there either, and every call would pay for it.
const MAX_ARGUMENTS: usize = 64 * 1024;

/// Admits a call that a face carries itself, because what is called answers in frames that go on as they are. Audit,
/// count and time are as of `call`. `arguments` is their JSON.
pub fn begin(
    orch: &Arc<Orch>,
    spec: &Spec,
    cx: &Cx,
    target: &str,
    arguments: Option<&str>,
) -> Result<Begun, Error> {
    permit_upstream(cx).inspect_err(|err| refuse(orch, spec, cx, err))?;
    let mut entry = draft(orch, cx, spec.name);
    entry.targets.push(target.to_owned());
    let arguments = arguments.map(|it| {
        let value = (it.len() <= MAX_ARGUMENTS).then(|| serde_json::from_str::<Value>(it).ok());
        value.flatten().unwrap_or_else(|| format!("… ({} bytes)", it.len()).into())
    });
    // As `call_tool` has them, which is what it is.
    entry.arguments = arguments.map(|it| orch.redacted(&json!({"name": target, "arguments": it})));
    Ok(Begun {
        orch: orch.clone(),
        operation: spec.name,
        started: Instant::now(),
        entry: Some(entry),
    })
}

/// A call under way. Dropped, it was withdrawn.
pub struct Begun {
    orch: Arc<Orch>,
    operation: &'static str,
    started: Instant,
    /// Invariant: there until it has ended.
    entry: Option<AuditEntry>,
}

impl Begun {
    pub fn end(mut self, failure: Option<ErrorCode>) {
        self.conclude(failure, Outcome::Failed);
    }

    /// It was not let through, and nothing has happened.
    pub fn refuse(mut self, refusal: &Error) {
        self.conclude(Some(refusal.code()), Outcome::Refused);
    }

    fn conclude(&mut self, failure: Option<ErrorCode>, bad: Outcome) {
        let Some(mut entry) = self.entry.take() else { return };
        let elapsed = self.started.elapsed();
        let code = failure.map(ErrorCode::as_str);
        let outcome = code.unwrap_or("ok");
        metrics::counter!("mcp_orch_operations_total", "operation" => self.operation, "outcome" => outcome)
            .increment(1);
        metrics::histogram!("mcp_orch_operation_seconds", "operation" => self.operation)
            .record(elapsed.as_secs_f64());
        entry.outcome = if failure.is_some() { bad } else { Outcome::Succeeded };
        entry.error = code.map(str::to_owned);
        entry.elapsed_ms = Some(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        self.orch.ledger.audit(entry);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.conclude(Some(ErrorCode::Cancelled), Outcome::Failed);
    }
}

fn draft(orch: &Orch, cx: &Cx, operation: &str) -> AuditEntry {
    let caller = cx.maybe_caller();
    AuditEntry {
        id: orch.ledger.next_audit_id(),
        at: orch.clock.now(),
        user: caller.map(|it| it.user.clone()),
        channel: caller.map_or(Channel::Rest, |it| it.channel),
        client: caller.and_then(|it| it.client.clone()),
        operation: operation.to_owned(),
        targets: Vec::new(),
        outcome: Outcome::Accepted,
        error: None,
        elapsed_ms: None,
        arguments: cx.arguments().cloned(),
    }
}

/// The whole chain, once. Refusals are the caller's business and not the operator's.
fn log(err: &Error) {
    let mut chain = String::new();
    let mut source = std::error::Error::source(err);
    while let Some(it) = source {
        chain.push_str(&format!(": {it}"));
        source = it.source();
    }
    match err.code() {
        ErrorCode::Internal => tracing::error!("{err}{chain}"),
        ErrorCode::EngineError
        | ErrorCode::NodeUnreachable
        | ErrorCode::Unavailable
        | ErrorCode::UpstreamError => {
            tracing::warn!("{err}{chain}");
        }
        _ => tracing::debug!("{err}{chain}"),
    }
}

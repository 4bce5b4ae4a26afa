//! The one way to call an operation: permission, audit, span and metrics, whatever the face.

use std::sync::Arc;
use std::time::Instant;

use orch_domain::audit::{AuditEntry, Outcome};
use orch_domain::caller::{Channel, Permission};
use orch_domain::{Error, ErrorCode};
use tracing::Instrument;

use crate::operation::{Effect, Operation, Spec};
use crate::{Cx, Orch};

/// Whether `cx` may use an operation at all. Faces ask this to show only what can be called.
pub fn authorise(spec: &Spec, cx: &Cx) -> Result<(), Error> {
    match spec.needs {
        None => Ok(()),
        Some(needs) => permit(spec.name, needs, cx),
    }
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

/// For the few streaming faces that have no operation of their own, such as the terminal.
pub fn permit(operation: &'static str, needs: Permission, cx: &Cx) -> Result<(), Error> {
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

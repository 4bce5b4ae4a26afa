//! Messages for the servers behind: admitted at the gate, sent as they are, and their answers as they are.

use std::sync::Arc;

use orch_core::gate::Begun;
use orch_core::operation::Operation;
use orch_core::ops::CallTool;
use orch_core::{Cx, gate};
use orch_domain::{Error, ErrorCode};
use orch_gateway::edge::{Answering, Claim, Forward, failed};
use orch_gateway::frame::{Frame, Raw, raw};
use orch_gateway::port::failure;
use orch_gateway::upstream::Era;
use orch_gateway::view::View;
use serde_json::Value;

use super::Face;

/// One request to a server behind, from its admission to its answer.
pub(super) struct Relay {
    answering: Answering,
    id: Raw,
    begun: Option<Begun>,
}

impl Face {
    /// What of a client's message is not ours to answer alone. Servers behind are for those who may call their tools.
    pub(super) fn claim(&self, frame: &Frame, cx: &Cx, view: &View) -> Claim {
        let Some(hub) = &self.hub else { return Claim::Own };
        match hub.claim(frame, view) {
            Claim::List(list) if gate::permit_upstream(cx).is_ok() => Claim::List(list),
            Claim::List(_) => Claim::Own,
            claim => claim,
        }
    }

    /// Sends a message on. The error is the frame to answer instead.
    pub(super) async fn relay(
        self: &Arc<Face>,
        forward: Forward,
        id: Raw,
        cx: &Cx,
    ) -> Result<Relay, Frame> {
        let (is_call, era, server) = (forward.is_tool_call, forward.era(), forward.server.clone());
        let refused =
            |err: &Error| failed(is_call, era, id.clone(), &Value::Object(err.describe()));
        let begun = if is_call {
            let arguments = forward.arguments().map(|it| it.get());
            Some(
                gate::begin(&self.orch, &CallTool::SPEC, cx, &forward.target, arguments)
                    .map_err(|err| refused(&err))?,
            )
        } else {
            gate::permit_upstream(cx).map_err(|err| refused(&err))?;
            None
        };
        if let Some(hub) = &self.hub
            && let Err(err) = hub.admit(&server, cx)
        {
            if let Some(it) = begun {
                it.refuse(&err);
            }
            return Err(refused(&err));
        }
        match forward.send(id.clone()).await {
            Ok(answering) => Ok(Relay { answering, id, begun }),
            Err(err) => {
                let err = failure(&server, err);
                if let Some(it) = begun {
                    it.end(Some(err.code()));
                }
                Err(refused(&err))
            }
        }
    }
}

impl Relay {
    /// Progress, and at last the answer; then none.
    pub(super) async fn next(&mut self) -> Frame {
        match self.answering.next().await {
            Ok(frame) => {
                if frame.method.is_none()
                    && let Some(begun) = self.begun.take()
                {
                    begun.end(frame.error.as_ref().map(|_| ErrorCode::UpstreamError));
                }
                frame
            }
            Err(err) => {
                let forward = &self.answering.forward;
                let err = failure(&forward.server, err);
                if let Some(begun) = self.begun.take() {
                    begun.end(Some(err.code()));
                }
                let described = Value::Object(err.describe());
                failed(forward.is_tool_call, forward.era(), self.id.clone(), &described)
            }
        }
    }

    pub(super) fn wants_progress(&self) -> bool {
        self.answering.forward.wants_progress()
    }
}

/// The id of the request that a client gives up.
pub(super) fn cancelled_id(frame: &Frame) -> Option<String> {
    if !frame.is("notifications/cancelled") {
        return None;
    }
    let params = orch_gateway::members::Members::of_params(frame.params.as_ref());
    params.get("requestId").map(|it| it.get().to_owned())
}

/// What a stateless client gets when headers and body do not say the same.
pub(super) fn header_mismatch(id: Option<&Raw>, message: &str) -> Frame {
    Frame::error(id.cloned().unwrap_or_else(|| raw(&())), -32020, message)
}

pub(super) fn is_stateless(frame: &Frame) -> bool {
    orch_gateway::edge::era_of(frame.params.as_ref()) == Era::Stateless
}

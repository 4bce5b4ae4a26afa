//! Messages for the servers behind: admitted at the gate, sent as they are, and their answers as they are.

use std::sync::Arc;

use orch_core::gate::Begun;
use orch_core::operation::Operation;
use orch_core::ops::CallTool;
use orch_core::ports::tool_server::no_server;
use orch_core::{Cx, gate};
use orch_domain::tool_access::ToolAccess;
use orch_domain::{Error, ErrorCode};
use orch_gateway::edge::Claim;
use orch_gateway::forward::{Answering, Forward, failed};
use orch_gateway::frame::{Frame, Raw};
use orch_gateway::members::Members;
use orch_gateway::names::parse_canonical;
use orch_gateway::port::failure;
use orch_gateway::session::Visitor;
use orch_gateway::view::View;
use serde_json::Value;

use super::Face;

/// One request to a server behind, from its admission to its answer.
pub(super) struct Relay {
    answering: Answering,
    id: Raw,
    begun: Option<Begun>,
    /// What the caller may use of the server's own list.
    access: ToolAccess,
}

impl Face {
    /// What of a client's message is not ours to answer alone. Servers behind are for those who may call their tools.
    pub(super) fn claim(
        &self,
        frame: &Frame,
        cx: &Cx,
        view: &View,
        visitor: &Arc<Visitor>,
    ) -> Claim {
        let Some(hub) = &self.hub else { return Claim::Own };
        // A session outlives what its caller may use.
        match hub.claim(frame, &view.for_caller(cx.maybe_caller()), visitor) {
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
        // Where one server is all there is, no view has looked at the message.
        let access = cx.maybe_caller().map(|it| it.tools.clone()).unwrap_or_default();
        if !access.shows_server(&server.name) {
            return Err(refused(&no_server(&server.name)));
        }
        if let Some((server, tool)) = parse_canonical(&forward.target).filter(|_| is_call)
            && !access.permits(server, tool)
        {
            return Err(Frame::error(id.clone(), -32602, &format!("Unknown tool: {tool}")));
        }
        let begun = if is_call {
            let arguments = forward.params().get("arguments").map(|it| it.get());
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
            Ok(answering) => Ok(Relay { answering, id, begun, access }),
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
            Ok(mut frame) => {
                self.permitted(&mut frame);
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
}

impl Relay {
    /// Leaves in a list of tools that comes from the server as it is those that the caller may use.
    fn permitted(&self, frame: &mut Frame) {
        let forward = &self.answering.forward;
        if !self.access.is_limited() || frame.method.is_some() || forward.method() != "tools/list" {
            return;
        }
        let Some(mut result) = frame.result.as_ref().and_then(Members::of) else { return };
        let Some(mut tools) = result.array("tools") else { return };
        tools.retain(|it| {
            let name = Members::of(it).and_then(|it| it.text("name"));
            name.is_some_and(|it| self.access.permits(&forward.server.name, &it))
        });
        result.set("tools", &tools);
        frame.result = Some(result.to_raw());
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

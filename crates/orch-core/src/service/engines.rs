//! The engine of each node, and what its errors mean to a caller.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::name::NodeId;

use crate::Orch;
use crate::ports::engine::{Engine, EngineError};

impl Orch {
    /// The engine of a registered node.
    pub fn engine(&self, node_id: &NodeId) -> Result<Arc<dyn Engine>, Error> {
        let node = self.ledger.read(|book| book.slot(node_id).map(|it| it.node.clone()));
        let node = node.ok_or_else(|| Error::no_node(node_id))?;
        self.engines.engine(&node).map_err(|err| engine_error(node_id, err))
    }
}

/// Translates what an engine said. Its words are kept where they help; addresses stay in the source.
pub fn engine_error(node_id: &NodeId, err: EngineError) -> Error {
    match err {
        EngineError::Unreachable { .. } | EngineError::Timeout { .. } => {
            Error::unreachable(node_id, err)
        }
        EngineError::NoConnection { .. }
        | EngineError::EngineDown { .. }
        | EngineError::HostKeyUnknown { .. }
        | EngineError::HostKeyChanged { .. } => Error::NodeUnreachable {
            node_id: node_id.clone(),
            hint: err.to_string(),
            source: Box::new(err),
        },
        EngineError::ImageNotFound { ref image, .. } => Error::NotFound {
            kind: "image",
            id: image.to_string(),
            hint: format!("{err}; `list_images` shows what the nodes have"),
        },
        EngineError::LoginRefused { ref image, .. } => {
            Error::NotFound { kind: "image", id: image.to_string(), hint: err.to_string() }
        }
        EngineError::InvalidCommand { ref message } => Error::invalid(
            "command",
            format!("it could not be started: {message}; check that the image has it"),
        ),
        EngineError::NotRunning { ref name } => Error::IncorrectState {
            id: name.trim_start_matches("mo-").to_owned(),
            state: "stopped".to_owned(),
            message: "its container does not run; start it with `start_instance` first".to_owned(),
        },
        EngineError::PortInUse { .. }
        | EngineError::NameTaken { .. }
        | EngineError::NoSuchContainer { .. }
        | EngineError::CutShort { .. }
        | EngineError::Refused { .. }
        | EngineError::Unsupported { .. } => Error::EngineError {
            node_id: node_id.clone(),
            message: format!("node `{node_id}`: {err}"),
            source: Box::new(err),
        },
    }
}

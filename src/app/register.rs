//! Registers the machines of the configured `nodes.json` that are not there yet.

use std::path::PathBuf;
use std::sync::Arc;

use orch_core::service::bootstrap::local_caller;
use orch_core::{Cx, Orch, ops};
use orch_domain::ErrorCode;
use orch_domain::caller::Channel;
use serde_json::Value;

use crate::config::nodes_file::{self, NodeEntry, Plan};

/// Says in the log what came of each.
pub(super) async fn all(orch: Arc<Orch>, file: PathBuf) {
    let shown = file.display().to_string();
    let entries = match nodes_file::read(&file, false) {
        Ok(it) => it,
        Err(err) => return tracing::warn!("no nodes were registered: {err:#}"),
    };
    let Some(register) = ops::catalogue().into_iter().find(|it| it.spec.name == "register_node")
    else {
        return;
    };
    for NodeEntry { id, plan } in entries {
        let arguments = match plan {
            Plan::Register(it) => Value::Object(it),
            Plan::Skip(why) => {
                tracing::warn!("`{shown}`: `{id}` was skipped: {why}");
                continue;
            }
        };
        let cx = Cx::new(Some(local_caller(Channel::System)));
        match (register.call)(orch.clone(), cx, arguments).await {
            Ok(_) => tracing::info!("`{shown}`: `{id}` was registered"),
            Err(err) if err.code() == ErrorCode::Conflict => {}
            Err(err) => tracing::warn!("`{shown}`: `{id}` was not registered: {err}"),
        }
    }
}

//! A login at a registry is forgotten.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::registry::RegistryHost;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::registry::RegistryCredentialView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteRegistryCredential {
    /// As `list_registry_credentials` names it.
    pub registry: RegistryHost,
}

/// The login as it was.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct DeletedRegistryCredential(pub RegistryCredentialView);

impl Summary for DeletedRegistryCredential {
    fn summary(&self) -> String {
        format!("The login of `{}` at `{}` is forgotten.", self.0.username, self.0.registry)
    }
}

impl Operation for DeleteRegistryCredential {
    const SPEC: Spec = spec!(
        "delete_registry_credential",
        Cluster,
        Destroys,
        Some(Permission::Admin),
        [Route::delete("/registry-credentials/{registry}")]
    );
    type Output = DeletedRegistryCredential;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<DeletedRegistryCredential, Error> {
        let credential = orch.remove_registry_credential(cx, &self.registry).await?;
        Ok(DeletedRegistryCredential(RegistryCredentialView::of(&credential)))
    }
}

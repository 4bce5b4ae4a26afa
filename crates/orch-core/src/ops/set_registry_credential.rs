//! A login at a registry is kept, and never shown again.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::password::Password;
use orch_domain::registry::RegistryHost;
use orch_domain::text::check_line;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::registry::RegistryCredentialView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRegistryCredential {
    /// As images name it, such as `ghcr.io`, `registry.example:5000`, or `docker.io` for Docker Hub.
    pub registry: RegistryHost,
    /// User name there; at most 256 characters, without `:`.
    pub username: String,
    /// Password or access token, at most 16 KiB. Kept encrypted and never shown again.
    pub password: Password,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct KeptRegistryCredential {
    #[serde(flatten)]
    pub credential: RegistryCredentialView,
    /// True when there was a login for this registry before.
    pub replaced: bool,
}

impl Summary for KeptRegistryCredential {
    fn summary(&self) -> String {
        let it = &self.credential;
        let replaced = if self.replaced { ", in place of the one before" } else { "" };
        format!("Pulls from `{}` log in as `{}`{replaced}.", it.registry, it.username)
    }
}

/// More than any token has, and less than any registry takes as a header.
const MAX_PASSWORD: usize = 16 * 1024;

impl Operation for SetRegistryCredential {
    const SPEC: Spec = spec!(
        "set_registry_credential",
        Cluster,
        Changes,
        Some(Permission::Admin),
        [Route::put("/registry-credentials/{registry}")]
    );
    type Output = KeptRegistryCredential;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<KeptRegistryCredential, Error> {
        check_line("username", &self.username, 256)?;
        if self.username.trim().is_empty() || self.username.contains(':') {
            let message = "it has to be the user name at the registry: not empty, and without `:`";
            return Err(Error::invalid("username", message));
        }
        if self.password.expose().is_empty() || MAX_PASSWORD < self.password.expose().len() {
            let message = "it is empty, or longer than 16 KiB";
            return Err(Error::invalid("password", message));
        }
        let (credential, replaced) =
            orch.set_registry_credential(cx, self.registry, self.username, &self.password).await?;
        let credential = RegistryCredentialView::of(&credential);
        Ok(KeptRegistryCredential { credential, replaced })
    }
}

//! A login at a registry as callers see it: everything but the password.

use orch_domain::name::UserId;
use orch_domain::registry::{RegistryCredential, RegistryHost};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RegistryCredentialView {
    /// Pulls of images whose names begin with it use this login.
    pub registry: RegistryHost,
    pub username: String,
    /// Who set it.
    pub set_by: UserId,
    pub set_at: Timestamp,
}

impl RegistryCredentialView {
    pub fn of(it: &RegistryCredential) -> RegistryCredentialView {
        RegistryCredentialView {
            registry: it.registry.clone(),
            username: it.username.clone(),
            set_by: it.set_by.clone(),
            set_at: it.set_at,
        }
    }
}

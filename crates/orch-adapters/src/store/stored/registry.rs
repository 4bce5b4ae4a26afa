//! Stored logins at registries; their passwords are encrypted before they come here.

use orch_domain::name::UserId;
use orch_domain::registry::{RegistryCredential, RegistryHost};
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::BadRow;

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct RegistryCredentialV1 {
    registry: String,
    username: String,
    /// Hexadecimal.
    sealed_password: String,
    set_by: String,
    set_at: i64,
}

impl From<&RegistryCredential> for RegistryCredentialV1 {
    fn from(it: &RegistryCredential) -> RegistryCredentialV1 {
        RegistryCredentialV1 {
            registry: it.registry.to_string(),
            username: it.username.clone(),
            sealed_password: hex::encode(&it.sealed_password),
            set_by: it.set_by.to_string(),
            set_at: it.set_at.as_millis(),
        }
    }
}

impl TryFrom<RegistryCredentialV1> for RegistryCredential {
    type Error = BadRow;
    fn try_from(it: RegistryCredentialV1) -> Result<RegistryCredential, BadRow> {
        Ok(RegistryCredential {
            registry: RegistryHost::try_new(it.registry)?,
            username: it.username,
            sealed_password: hex::decode(it.sealed_password)?,
            set_by: UserId::try_new(it.set_by)?,
            set_at: Timestamp::from_millis(it.set_at),
        })
    }
}

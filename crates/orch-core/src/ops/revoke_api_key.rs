//! A key opens nothing any more.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::ApiKeyId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::user::ApiKeyView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeApiKey {
    /// As `list_api_keys` names it.
    pub key_id: ApiKeyId,
}

/// The key as it was.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct RevokedApiKey(pub ApiKeyView);

impl Summary for RevokedApiKey {
    fn summary(&self) -> String {
        format!("API key {} `{}` of `{}` is revoked.", self.0.id, self.0.name, self.0.user)
    }
}

impl Operation for RevokeApiKey {
    const SPEC: Spec = spec!(
        "revoke_api_key",
        Identity,
        Destroys,
        Some(Permission::Admin),
        [Route::delete("/api-keys/{key_id}")]
    );
    type Output = RevokedApiKey;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<RevokedApiKey, Error> {
        cx.audit_target(&self.key_id);
        let key = orch.ledger.write(Some(cx), |book| book.remove_api_key(&self.key_id)).await?;
        Ok(RevokedApiKey(ApiKeyView::of(&key)))
    }
}

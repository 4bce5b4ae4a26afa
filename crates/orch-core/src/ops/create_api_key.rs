//! A key for a program, shown once.

use std::collections::BTreeSet;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::UserId;
use orch_domain::text::check_line;
use orch_domain::tool_access::ToolPatterns;
use orch_domain::user::{ApiKey, key_permissions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::identity::new_api_key;
use crate::view::user::ApiKeyView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// What it is for, such as `claude on ann's laptop`; one line, at most 100 characters.
    pub name: String,
    /// Whose key it will be, by id or name; your own unless given.
    pub user: Option<UserId>,
    /// What it may do; all that its user may unless given, and never more.
    pub permissions: Option<BTreeSet<Permission>>,
    /// It stops working after so many days, 1 to 3650; never unless given.
    #[schemars(range(min = 1, max = 3650))]
    pub expires_in_days: Option<u32>,
    /// Which tools it may use, by patterns over `server.tool`, such as `{"allow": ["github.*"], "deny": ["*.delete_*"]}`;
    /// own operations are of the server `orch`. All that its user may unless given.
    #[serde(default)]
    pub tools: ToolPatterns,
}

#[derive(Clone, Serialize, JsonSchema)]
pub struct NewApiKey {
    #[serde(flatten)]
    pub key: ApiKeyView,
    /// The key itself, shown this once. Send it as `Authorization: Bearer …`.
    pub api_key: String,
}

impl Summary for NewApiKey {
    fn summary(&self) -> String {
        let it = &self.key;
        format!(
            "API key {} `{}` of `{}`, shown this once and never again:\n{}",
            it.id, it.name, it.user, self.api_key
        )
    }
}

impl Operation for CreateApiKey {
    const SPEC: Spec = spec!(
        "create_api_key",
        Identity,
        Creates,
        Some(Permission::Admin),
        [Route::post("/api-keys")]
    );
    type Output = NewApiKey;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<NewApiKey, Error> {
        if self.name.trim().is_empty() {
            return Err(Error::invalid("name", "it is empty; say what the key is for"));
        }
        check_line("name", &self.name, 100)?;
        if let Some(days) = self.expires_in_days.filter(|it| !(1..=3650).contains(it)) {
            return Err(Error::invalid("expires_in_days", format!("{days} is not from 1 to 3650")));
        }
        let owner = match self.user {
            Some(it) => orch.user_id(&it)?,
            None => cx.caller()?.user.clone(),
        };
        let (id, api_key, secret_sha256) = new_api_key(orch.random())?;
        cx.audit_target(&id);
        cx.audit_target(&owner);
        let now = orch.clock.now();
        let lifetime = self.expires_in_days.map(|it| u64::from(it) * 24 * 3600 * 1000);
        let user = orch.user(&owner)?;
        let key = ApiKey {
            id,
            user: owner,
            name: self.name,
            secret_sha256,
            permissions: key_permissions(&user, self.permissions.as_ref())?,
            created_at: now,
            expires_at: lifetime.map(|it| now.plus_millis(it)),
            tools: self.tools,
        };
        let view = ApiKeyView::of(&key);
        orch.ledger.write(Some(cx), |book| book.add_api_key(key)).await?;
        Ok(NewApiKey { key: view, api_key })
    }
}

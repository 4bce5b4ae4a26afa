//! Logins at registries, without their passwords.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::page::{self, PageSize};
use orch_domain::registry::RegistryCredential;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::registry::RegistryCredentialView;
use crate::view::table::{more, table};
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListRegistryCredentials {
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RegistryCredentialList {
    /// By registry. Their passwords are never shown.
    pub registry_credentials: Vec<RegistryCredentialView>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

impl Summary for RegistryCredentialList {
    fn summary(&self) -> String {
        if self.registry_credentials.is_empty() {
            return "No logins are kept. `set_registry_credential` keeps one.".to_owned();
        }
        let row = |it: &RegistryCredentialView| {
            let (by, at) = (it.set_by.to_string(), it.set_at.to_string());
            [it.registry.to_string(), it.username.clone(), by, at]
        };
        let rows = self.registry_credentials.iter();
        let mut text = table(["REGISTRY", "USER NAME", "SET BY", "SET AT"], rows.clone().map(row));
        text.push_str(&more(rows.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for ListRegistryCredentials {
    const SPEC: Spec = spec!(
        "list_registry_credentials",
        Cluster,
        Reads,
        Some(Permission::Admin),
        [Route::get("/registry-credentials")]
    );
    type Output = RegistryCredentialList;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<RegistryCredentialList, Error> {
        orch.ledger.read(|book| {
            let kept: Vec<&Arc<RegistryCredential>> = book.registry_credentials().collect();
            let key = |it: &&Arc<RegistryCredential>| it.registry.to_string();
            let (page, next_page_token) =
                page::cut("registry-credentials", &kept, key, &self.page_token, self.page_size)?;
            Ok(RegistryCredentialList {
                registry_credentials: page
                    .iter()
                    .map(|it| RegistryCredentialView::of(it))
                    .collect(),
                next_page_token,
                total_count: kept.len(),
            })
        })
    }
}

//! API keys, without their secrets.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::UserId;
use orch_domain::page::{self, PageSize};
use orch_domain::user::ApiKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::table::{more, table};
use crate::view::user::{ApiKeyView, words};
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListApiKeys {
    /// Only those of this user, by id or name.
    pub user: Option<UserId>,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ApiKeyList {
    /// By id. Their secrets are not kept anywhere.
    pub api_keys: Vec<ApiKeyView>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

impl Summary for ApiKeyList {
    fn summary(&self) -> String {
        if self.api_keys.is_empty() {
            return "No API keys. `create_api_key` makes one.".to_owned();
        }
        let row = |it: &ApiKeyView| {
            [
                it.id.to_string(),
                it.name.clone(),
                it.user.to_string(),
                words(&it.permissions),
                it.expires_at.map_or_else(|| "never".to_owned(), |it| it.to_string()),
            ]
        };
        let mut text =
            table(["ID", "NAME", "USER", "PERMISSIONS", "EXPIRES"], self.api_keys.iter().map(row));
        text.push_str(&more(self.api_keys.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for ListApiKeys {
    const SPEC: Spec =
        spec!("list_api_keys", Identity, Reads, Some(Permission::Admin), [Route::get("/api-keys")]);
    type Output = ApiKeyList;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<ApiKeyList, Error> {
        let user = self.user.as_ref().map(|it| orch.user_id(it)).transpose()?;
        orch.ledger.read(|book| {
            let is_wanted = |it: &&Arc<ApiKey>| user.as_ref().is_none_or(|user| it.user == *user);
            let found: Vec<&Arc<ApiKey>> = book.api_keys().filter(is_wanted).collect();
            let (page, next_page_token) = page::cut(
                "api-keys",
                &found,
                |it| it.id.to_string(),
                &self.page_token,
                self.page_size,
            )?;
            Ok(ApiKeyList {
                api_keys: page.iter().map(|it| ApiKeyView::of(it)).collect(),
                next_page_token,
                total_count: found.len(),
            })
        })
    }
}

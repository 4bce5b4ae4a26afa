//! Users, their quotas and what they use.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::UserName;
use orch_domain::page::{self, PageSize};
use orch_domain::user::User;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::table::{more, table};
use crate::view::user::{UserView, words};
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListUsers {
    /// Only the one with this name.
    pub username: Option<UserName>,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct UserList {
    /// By id.
    pub users: Vec<UserView>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

impl Summary for UserList {
    fn summary(&self) -> String {
        let row = |it: &UserView| {
            [
                it.id.to_string(),
                it.username.to_string(),
                words(&it.permissions),
                format!("{} of {}", it.used.instances, it.quota.instances),
                format!("{} of {}", it.used.cpu.vcpu(), it.quota.cpu.vcpu()),
                format!("{} of {}", it.used.memory, it.quota.memory),
            ]
        };
        let header = ["ID", "NAME", "PERMISSIONS", "INSTANCES", "CPU", "MEMORY"];
        let mut text = table(header, self.users.iter().map(row));
        text.push_str(&more(self.users.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for ListUsers {
    const SPEC: Spec =
        spec!("list_users", Identity, Reads, Some(Permission::Admin), [Route::get("/users")]);
    type Output = UserList;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<UserList, Error> {
        orch.ledger.read(|book| {
            let is_wanted =
                |it: &&Arc<User>| self.username.as_ref().is_none_or(|name| it.name == *name);
            let found: Vec<&Arc<User>> = book.users().filter(is_wanted).collect();
            let (page, next_page_token) = page::cut(
                "users",
                &found,
                |it| it.id.to_string(),
                &self.page_token,
                self.page_size,
            )?;
            Ok(UserList {
                users: page.iter().map(|it| UserView::of(it, book)).collect(),
                next_page_token,
                total_count: found.len(),
            })
        })
    }
}

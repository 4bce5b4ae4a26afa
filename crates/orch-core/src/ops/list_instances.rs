//! Instances that the caller may see, oldest first.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::caller::Permission;
use orch_domain::instance::Instance;
use orch_domain::label::Labels;
use orch_domain::name::{InstanceId, InstanceName, NodeId, UserId};
use orch_domain::node_loss::SeenState;
use orch_domain::page::{self, PageSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::instance::{InstanceView, instance_table};
use crate::view::table::more;
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListInstances {
    /// Only in these states.
    pub state: Vec<SeenState>,
    pub name: Option<InstanceName>,
    pub node_id: Option<NodeId>,
    /// Only with all these labels and values.
    pub labels: Labels,
    /// Only of this user, by id or name; administrators see everybody's, others their own.
    pub owner: Option<UserId>,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InstanceList {
    /// Oldest first. Terminated instances stay for an hour.
    pub instances: Vec<InstanceView>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

impl Summary for InstanceList {
    fn summary(&self) -> String {
        if self.instances.is_empty() {
            return "No instances. `launch_instance` makes one.".to_owned();
        }
        let mut text = instance_table(&self.instances);
        text.push_str(&more(self.instances.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for ListInstances {
    const SPEC: Spec = spec!(
        "list_instances",
        Instances,
        Reads,
        Some(Permission::Read),
        [Route::get("/instances")]
    );
    type Output = InstanceList;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<InstanceList, Error> {
        let caller = cx.caller()?;
        let after: Option<InstanceId> = page::place_of("instances", &self.page_token)?;
        // Whom others may not know of sounds the same as whom there is not.
        let asked = self.owner.as_ref().map(|it| orch.user_id(it).unwrap_or_else(|_| it.clone()));
        let owner = if caller.is_admin() { asked.clone() } else { Some(caller.user.clone()) };
        if !caller.is_admin() && asked.is_some_and(|it| it != caller.user) {
            return Ok(InstanceList {
                instances: Vec::new(),
                next_page_token: String::new(),
                total_count: 0,
            });
        }
        orch.ledger.read(|book| {
            let owner = owner.as_ref();
            let rest =
                book.instances_from(owner, after.as_ref()).filter(|it| self.matches(it, book));
            let read: Vec<&Arc<Instance>> = rest.take(self.page_size.get() + 1).collect();
            // Counting what matches means looking at all of them; without a filter the book knows.
            let total_count = match self.has_filter() {
                true => {
                    book.instances_from(owner, None).filter(|it| self.matches(it, book)).count()
                }
                false => book.n_instances(owner),
            };
            let (page, next_page_token) =
                page::trim("instances", read, |it| it.id.to_string(), self.page_size);
            let instances = page.into_iter().map(|it| InstanceView::of(it, book)).collect();
            Ok(InstanceList { instances, next_page_token, total_count })
        })
    }
}

impl ListInstances {
    fn has_filter(&self) -> bool {
        !self.state.is_empty()
            || self.name.is_some()
            || self.node_id.is_some()
            || !self.labels.is_empty()
    }

    fn matches(&self, it: &Instance, book: &Book) -> bool {
        (self.state.is_empty() || self.state.contains(&book.seen_state(it)))
            && self.name.as_ref().is_none_or(|name| it.name == *name)
            && self.node_id.as_ref().is_none_or(|node_id| it.node_id == *node_id)
            && it.labels.contains_all(&self.labels)
    }
}

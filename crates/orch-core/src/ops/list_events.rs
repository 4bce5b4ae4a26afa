//! What happened, newest first.

use std::sync::Arc;
use std::time::Duration;

use orch_domain::Error;
use orch_domain::caller::{Caller, Permission};
use orch_domain::event::{Event, EventFilter};
use orch_domain::name::{InstanceId, NodeId};
use orch_domain::page::{self, PageSize};
use orch_domain::text::excerpt;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::event_log::Followed;
use crate::view::table::table;
use crate::{Cx, Orch};

const MAX_WAIT: u32 = 60;

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListEvents {
    /// Only what came after this revision: the `revision` of an earlier answer, to see what is new since then.
    pub since_revision: Option<u64>,
    /// With `since_revision`: when nothing of that kind came yet, wait up to so many seconds for it.
    #[schemars(range(max = 60))]
    pub wait_seconds: u32,
    /// Only from this time on.
    pub after: Option<Timestamp>,
    /// Only before this time.
    pub before: Option<Timestamp>,
    /// Only of this kind, such as `node.unreachable`, or of all kinds of a group: `instance`, `node`, `user`, `quota`,
    /// `api_key`, `registry_credential`, `image`, `container` or `cluster`.
    pub kind: Option<String>,
    /// Only about this id: of an instance, node, user or API key, or an image.
    pub subject: Option<String>,
    pub instance_id: Option<InstanceId>,
    /// Only what happened on this node or is about it.
    pub node_id: Option<NodeId>,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EventList {
    /// Newest first.
    pub events: Vec<Event>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// The newest there was when this was asked. Following after it, from the first page's, misses nothing.
    pub revision: u64,
    /// The oldest that is still kept. What came between `since_revision` and it is not known any more.
    pub oldest_revision: u64,
}

impl Summary for EventList {
    fn summary(&self) -> String {
        let mut text = match self.events.is_empty() {
            true => "Nothing of that kind happened.".to_owned(),
            false => {
                let row = |it: &Event| {
                    let actor = it.actor.as_ref().map_or("-", |it| it.as_str()).to_owned();
                    let at = it.at.to_string();
                    [it.revision.to_string(), at, it.kind.clone(), actor, excerpt(&it.message, 160)]
                };
                table(["REVISION", "AT", "KIND", "BY", "WHAT"], self.events.iter().map(row))
            }
        };
        if !self.next_page_token.is_empty() {
            text.push_str(&format!("\n`page_token={}` shows older ones", self.next_page_token));
        }
        text.push_str(&format!("\n`since_revision={}` shows what comes next", self.revision));
        text
    }
}

impl Operation for ListEvents {
    const SPEC: Spec =
        spec!("list_events", Cluster, Reads, Some(Permission::Read), [Route::get("/events")]);
    type Output = EventList;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<EventList, Error> {
        let caller = cx.caller()?;
        let filter = self.filter()?;
        if MAX_WAIT < self.wait_seconds {
            let message = format!("{} is more than {MAX_WAIT}", self.wait_seconds);
            return Err(Error::invalid("wait_seconds", message));
        }
        let up_to = page::place_of::<u64>("events", &self.page_token)?;
        if 0 < self.wait_seconds && up_to.is_none() {
            let Some(since) = self.since_revision else {
                let message =
                    "it goes with `since_revision` only: the `revision` of an earlier answer";
                return Err(Error::invalid("wait_seconds", message));
            };
            let wait = Duration::from_secs(self.wait_seconds.into());
            // Nothing came: the list is empty then.
            drop(
                tokio::time::timeout(wait, until_something(orch, cx, caller, &filter, since)).await,
            );
        }
        Ok(self.list(orch, caller, &filter, up_to.map(|it| it.saturating_sub(1))))
    }
}

impl ListEvents {
    pub fn filter(&self) -> Result<EventFilter, Error> {
        let filter = EventFilter {
            kind: self.kind.clone(),
            subject: self.subject.clone(),
            instance_id: self.instance_id.clone(),
            node_id: self.node_id.clone(),
            after: self.after,
            before: self.before,
        };
        filter.check().map(|()| filter)
    }

    fn list(
        &self,
        orch: &Orch,
        caller: &Caller,
        filter: &EventFilter,
        up_to: Option<u64>,
    ) -> EventList {
        let log = orch.ledger.log();
        let extent = log.extent();
        let since = self.since_revision.unwrap_or(0);
        let mut read = Vec::new();
        log.each_back(since, up_to.unwrap_or(extent.newest), |event| {
            if filter.matches(event) {
                read.extend(event.seen_by(caller));
            }
            // One more than shown, to know whether there are more.
            read.len() <= self.page_size.get()
        });
        let (events, next_page_token) =
            page::trim("events", read, |it| it.revision.to_string(), self.page_size);
        EventList {
            events,
            next_page_token,
            revision: extent.newest,
            oldest_revision: extent.oldest,
        }
    }
}

async fn until_something(orch: &Orch, cx: &Cx, caller: &Caller, filter: &EventFilter, since: u64) {
    let mut follower = orch.ledger.log().follow(since);
    loop {
        let followed = tokio::select! {
            it = follower.next() => it,
            () = cx.cancel.cancelled() => return,
            () = orch.shutdown.cancelled() => return,
        };
        match followed {
            Followed::Missed(_) => return,
            Followed::Events(events) => {
                if events.iter().any(|it| filter.matches(it) && it.seen_by(caller).is_some()) {
                    return;
                }
            }
        }
    }
}

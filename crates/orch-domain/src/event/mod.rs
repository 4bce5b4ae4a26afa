//! What happened: one numbered stream of everything that changes, for people and programs that follow it.
//!
//! What a change of the book says is worked out in `derive` from the rows before and after it, so that no operation has
//! to remember to tell. What is no change of the book (an image was pulled) is made here by name.

mod derive;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::audit::AuditId;
use crate::caller::Caller;
use crate::cluster::ClusterStatus;
use crate::image::ImageRef;
use crate::name::{InstanceId, NodeId, UserId};
use crate::time::Timestamp;

pub(crate) use derive::{api_key, instance, node, registry_credential, user};

/// What an event is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SubjectType {
    Instance,
    Node,
    User,
    ApiKey,
    RegistryCredential,
    Image,
    /// Of ours and without a record.
    Container,
    Cluster,
    /// An upstream MCP server.
    Server,
}

/// What the first half of a `kind` may be.
pub const GROUPS: [&str; 10] = [
    "instance",
    "node",
    "user",
    "quota",
    "api_key",
    "registry_credential",
    "image",
    "container",
    "cluster",
    "server",
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventSubject {
    #[serde(rename = "type")]
    pub kind: SubjectType,
    pub id: String,
    /// What people call it.
    pub name: String,
}

/// Something that happened, durable together with the change it tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Event {
    /// Grows by one with every event, over restarts too.
    pub revision: u64,
    pub at: Timestamp,
    /// Such as `instance.running`, `node.unreachable`, `quota.changed` or `image.pulled`.
    pub kind: String,
    pub subject: EventSubject,
    /// The node it happened on, or is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Whose it is; only they and administrators see it. Absent for what belongs to everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserId>,
    /// Who caused it with a call; absent for what the server did or found by itself. Others than administrators see only
    /// themselves here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<UserId>,
    /// The call in the audit that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_id: Option<AuditId>,
    /// One sentence for people.
    pub message: String,
    /// State before, where the subject has one and it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// State since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl Event {
    /// As this caller may see it: not at all when it is another's, and without who did it when that is not theirs to know.
    pub fn seen_by(&self, caller: &Caller) -> Option<Event> {
        if self.owner.as_ref().is_some_and(|it| !caller.sees(it)) {
            return None;
        }
        let mut seen = self.clone();
        if seen.actor.as_ref().is_none_or(|it| !caller.sees(it)) && !caller.is_admin() {
            seen.actor = None;
            seen.audit_id = None;
        }
        Some(seen)
    }
}

/// An event before it has its number and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub kind: String,
    pub subject: EventSubject,
    pub node_id: Option<NodeId>,
    pub owner: Option<UserId>,
    pub message: String,
    pub previous: Option<String>,
    pub state: Option<String>,
}

impl News {
    pub fn event(
        self,
        revision: u64,
        at: Timestamp,
        actor: Option<UserId>,
        audit_id: Option<AuditId>,
    ) -> Event {
        let News { kind, subject, node_id, owner, message, previous, state } = self;
        Event {
            revision,
            at,
            kind,
            subject,
            node_id,
            owner,
            actor,
            audit_id,
            message,
            previous,
            state,
        }
    }

    fn about(kind: &str, subject_type: SubjectType, id: &str, name: &str, message: String) -> News {
        News {
            kind: kind.to_owned(),
            subject: EventSubject { kind: subject_type, id: id.to_owned(), name: name.to_owned() },
            node_id: None,
            owner: None,
            // Reasons repeat what engines said.
            message: crate::text::excerpt(&crate::text::sanitize(&message), MAX_MESSAGE),
            previous: None,
            state: None,
        }
    }

    fn in_state(self, previous: Option<&dyn Display>, state: Option<&dyn Display>) -> News {
        let (previous, state) = (previous.map(|it| it.to_string()), state.map(|it| it.to_string()));
        News { previous, state, ..self }
    }

    /// A node has an image that it did not have before.
    pub fn image_pulled(image: &ImageRef, node_id: &NodeId) -> News {
        let message = format!("`{image}` was pulled by node `{node_id}`");
        let news = News::about(
            "image.pulled",
            SubjectType::Image,
            image.as_str(),
            image.as_str(),
            message,
        );
        News { node_id: Some(node_id.clone()), ..news }
    }

    /// A container with our labels and no live record was removed.
    pub fn orphan_removed(name: &str, of: &InstanceId, owner: &UserId, node_id: &NodeId) -> News {
        let message = format!(
            "the container `{name}` on node `{node_id}` had no live record of `{of}` and was removed"
        );
        let news = News::about("container.removed", SubjectType::Container, name, name, message);
        News { node_id: Some(node_id.clone()), owner: Some(owner.clone()), ..news }
    }

    /// A tool of an upstream server is not what it was when it was first seen: `changed` or `new`.
    pub fn tool_flagged(server: &str, tool: &str, differs: &str, is_quarantined: bool) -> News {
        let consequence = if is_quarantined {
            "and is quarantined until `approve_tools`"
        } else {
            "and goes on being offered"
        };
        let tool = crate::text::excerpt(tool, 100);
        let message = format!(
            "the tool `{server}.{tool}` is {differs} since it was first seen {consequence}"
        );
        let kind = format!("server.tool_{differs}");
        News::about(&kind, SubjectType::Server, server, server, message)
    }

    /// The cluster as a whole is in another state than after the sweep before; `line` says what its nodes are.
    pub fn cluster(previous: ClusterStatus, status: ClusterStatus, line: &str) -> News {
        let message = format!("the cluster is {status} (was {previous}): {line}");
        let kind = format!("cluster.{status}");
        News::about(&kind, SubjectType::Cluster, "cluster", "cluster", message)
            .in_state(Some(&previous), Some(&status))
    }
}

const MAX_MESSAGE: usize = 400;

/// Which events are asked for. Without anything set: all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// All of a kind, or of a group such as `node`.
    pub kind: Option<String>,
    pub subject: Option<String>,
    pub instance_id: Option<InstanceId>,
    pub node_id: Option<NodeId>,
    /// Not before.
    pub after: Option<Timestamp>,
    /// Earlier than.
    pub before: Option<Timestamp>,
}

impl EventFilter {
    /// Refuses a kind that no event can have, so that a typing error is not an empty answer.
    pub fn check(&self) -> Result<(), Error> {
        let Some(kind) = &self.kind else { return Ok(()) };
        let (group, _) = kind.split_once('.').unwrap_or((kind, ""));
        if GROUPS.contains(&group) {
            return Ok(());
        }
        let message = format!(
            "`{}` is no kind of event; a kind begins with one of `{}`, such as `instance.running`, or is that alone",
            crate::text::excerpt(kind, 60),
            GROUPS.join("`, `")
        );
        Err(Error::invalid("kind", message))
    }

    pub fn matches(&self, event: &Event) -> bool {
        let EventFilter { kind, subject, instance_id, node_id, after, before } = self;
        kind.as_ref().is_none_or(|it| is_of_kind(&event.kind, it))
            && subject.as_ref().is_none_or(|it| event.subject.id == *it)
            && instance_id.as_ref().is_none_or(|it| {
                event.subject.kind == SubjectType::Instance && event.subject.id == it.as_str()
            })
            && node_id.as_ref().is_none_or(|it| event.node_id.as_ref() == Some(it))
            && after.is_none_or(|it| it <= event.at)
            && before.is_none_or(|it| event.at < it)
    }
}

fn is_of_kind(kind: &str, asked: &str) -> bool {
    let Some(rest) = kind.strip_prefix(asked) else { return false };
    rest.is_empty() || rest.starts_with('.')
}

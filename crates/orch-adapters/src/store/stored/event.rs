//! Stored events.

use orch_domain::audit::AuditId;
use orch_domain::event::{Event, EventSubject, SubjectType};
use orch_domain::name::{NodeId, UserId};
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BadRow, stored_enum};

stored_enum!(SubjectTypeV1 is SubjectType {
    Instance = "instance",
    Node = "node",
    User = "user",
    ApiKey = "api-key",
    RegistryCredential = "registry-credential",
    Image = "image",
    Container = "container",
    Cluster = "cluster",
    Server = "server",
});

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct EventV1 {
    revision: u64,
    at: i64,
    kind: String,
    subject_type: SubjectTypeV1,
    subject_id: String,
    subject_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audit_id: Option<u64>,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

impl From<&Event> for EventV1 {
    fn from(it: &Event) -> EventV1 {
        EventV1 {
            revision: it.revision,
            at: it.at.as_millis(),
            kind: it.kind.clone(),
            subject_type: it.subject.kind.into(),
            subject_id: it.subject.id.clone(),
            subject_name: it.subject.name.clone(),
            node_id: it.node_id.as_ref().map(NodeId::to_string),
            owner: it.owner.as_ref().map(UserId::to_string),
            actor: it.actor.as_ref().map(UserId::to_string),
            audit_id: it.audit_id.map(|it| it.0),
            message: it.message.clone(),
            previous: it.previous.clone(),
            state: it.state.clone(),
        }
    }
}

impl TryFrom<EventV1> for Event {
    type Error = BadRow;
    fn try_from(it: EventV1) -> Result<Event, BadRow> {
        Ok(Event {
            revision: it.revision,
            at: Timestamp::from_millis(it.at),
            kind: it.kind,
            subject: EventSubject {
                kind: it.subject_type.into(),
                id: it.subject_id,
                name: it.subject_name,
            },
            node_id: it.node_id.map(NodeId::try_new).transpose()?,
            owner: it.owner.map(UserId::try_new).transpose()?,
            actor: it.actor.map(UserId::try_new).transpose()?,
            audit_id: it.audit_id.map(AuditId),
            message: it.message,
            previous: it.previous,
            state: it.state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand, as the first version stores it: it must load for ever.
    #[test]
    fn a_row_of_the_first_version_loads() {
        let row = r#"{"revision":7,"at":1763627400000,"kind":"node.cordoned","subject_type":"node","subject_id":"n1",
            "subject_name":"n1.example","node_id":"n1","message":"node `n1` takes no new instances"}"#;
        let event = Event::try_from(serde_json::from_str::<EventV1>(row).unwrap()).unwrap();
        assert_eq!((event.revision, event.kind.as_str()), (7, "node.cordoned"));
        assert_eq!(
            (event.owner, event.actor, event.audit_id, event.state),
            (None, None, None, None)
        );
    }
}

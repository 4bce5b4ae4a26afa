//! What lists, inspections and events of the engine say about a container.

use std::collections::HashMap;

use bollard::models::{
    ContainerInspectResponse, ContainerState as DockerState, ContainerStateStatusEnum as Status,
    ContainerSummary, ContainerSummaryStateEnum as SummaryState, EventMessage, PortMap,
};
use orch_core::ports::engine::{Container, ContainerLabels, ContainerState, EngineEvent};
use orch_domain::time::Timestamp;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::error::clean;
use super::spec::HOST_PORTS_LABEL;

/// RFC 3339, as the engine writes all its times.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
    Timestamp::deserialize(text).ok()
}

pub(super) fn inspected(it: ContainerInspectResponse) -> Container {
    let labels = it.config.and_then(|it| it.labels).unwrap_or_default();
    let bindings = it.host_config.and_then(|it| it.port_bindings).unwrap_or_default();
    Container {
        id: it.id.unwrap_or_default(),
        name: bare_name(it.name.as_deref().unwrap_or_default()),
        state: inspected_state(&it.state.unwrap_or_default()),
        labels: our_labels(&labels),
        created_at: it.created.as_deref().and_then(timestamp).unwrap_or_default(),
        host_ports: bound_ports(&bindings),
    }
}

/// The exit code comes from the status text, and whether memory ran out is not in a list at all: an inspection says.
pub(super) fn listed(it: ContainerSummary) -> Container {
    let labels = it.labels.unwrap_or_default();
    let name = it.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    let state = match it.state.unwrap_or(SummaryState::EMPTY) {
        SummaryState::CREATED | SummaryState::EMPTY => ContainerState::Created,
        SummaryState::RUNNING | SummaryState::RESTARTING | SummaryState::STOPPING => {
            ContainerState::Running
        }
        SummaryState::PAUSED => ContainerState::Paused,
        SummaryState::EXITED => ContainerState::Exited {
            exit_code: it.status.as_deref().and_then(exit_code_in).unwrap_or_default(),
            out_of_memory: false,
            error: String::new(),
        },
        SummaryState::REMOVING | SummaryState::DEAD => ContainerState::Removing,
    };
    let ports = labels.get(HOST_PORTS_LABEL).map(String::as_str).unwrap_or_default();
    Container {
        id: it.id.unwrap_or_default(),
        name: bare_name(&name),
        state,
        labels: our_labels(&labels),
        created_at: Timestamp::from_millis(it.created.unwrap_or_default().saturating_mul(1000)),
        host_ports: ports.split(',').filter_map(|it| it.parse().ok()).collect(),
    }
}

pub(super) fn happened(it: EventMessage) -> Option<EngineEvent> {
    let attributes = it.actor?.attributes?;
    Some(EngineEvent {
        container_name: attributes.get("name")?.clone(),
        instance_id: our_labels(&attributes).map(|it| it.instance_id),
        action: it.action?,
    })
}

fn inspected_state(it: &DockerState) -> ContainerState {
    match it.status.unwrap_or(Status::EMPTY) {
        Status::CREATED | Status::EMPTY => ContainerState::Created,
        Status::RUNNING | Status::RESTARTING | Status::STOPPING => ContainerState::Running,
        Status::PAUSED => ContainerState::Paused,
        Status::REMOVING | Status::DEAD => ContainerState::Removing,
        Status::EXITED => ContainerState::Exited {
            exit_code: it.exit_code.unwrap_or_default(),
            out_of_memory: it.oom_killed.unwrap_or_default(),
            error: clean(it.error.as_deref().unwrap_or_default()),
        },
    }
}

pub(super) fn our_labels(map: &HashMap<String, String>) -> Option<ContainerLabels> {
    ContainerLabels::from_map(|key| map.get(key).map(String::as_str))
}

fn bound_ports(bindings: &PortMap) -> Vec<u16> {
    let all = bindings.values().flatten().flatten();
    let mut ports: Vec<u16> =
        all.filter_map(|it| it.host_port.as_deref()?.parse().ok()).filter(|it| *it != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn bare_name(name: &str) -> String {
    name.trim_start_matches('/').to_owned()
}

/// `Exited (137) 3 seconds ago`
fn exit_code_in(status: &str) -> Option<i64> {
    let (_, rest) = status.split_once('(')?;
    rest.split_once(')')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_tell_exit_codes_in_words() {
        assert_eq!(exit_code_in("Exited (137) 3 seconds ago"), Some(137));
        assert_eq!(exit_code_in("Up 5 minutes"), None);
        assert_eq!(exit_code_in("Exited (-1"), None);
    }

    #[test]
    fn times_of_the_engine_are_read() {
        assert_eq!(
            timestamp("2025-11-20T08:30:00.042123456Z"),
            Some(Timestamp::from_millis(1_763_627_400_042))
        );
        assert_eq!(timestamp("yesterday"), None);
    }
}

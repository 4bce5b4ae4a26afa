//! The container we ask for: exactly what the specification names, with hardening that nobody can turn off.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, PortBinding, PortMap,
    RestartPolicy, RestartPolicyNameEnum,
};
use orch_core::ports::engine::ContainerSpec;

/// Published host ports, kept as a label because the engine forgets them in lists once the container ends.
pub(super) const HOST_PORTS_LABEL: &str = "mcp-orch.host-ports";

/// Room for a web server with its workers, and an end to fork bombs.
const MAX_PROCESSES: i64 = 512;

/// Dropped from the set that Docker gives by default. What is left (`CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `FSETID`,
/// `KILL`, `NET_BIND_SERVICE`, `SETGID`, `SETUID`) is what ordinary images need to start as root, hand their files to a
/// user and become that user, as nginx, postgres and redis do; none of it reaches beyond the container. Nothing is
/// ever added.
pub(super) const DROPPED_CAPABILITIES: [&str; 6] = [
    // Forges packets, so that one container can pose as another on the bridge.
    "NET_RAW",
    // Makes device nodes.
    "MKNOD",
    // Writes into the host's audit log.
    "AUDIT_WRITE",
    // Gives capabilities to files and processes.
    "SETFCAP",
    "SETPCAP",
    // A known step in ways out of a container.
    "SYS_CHROOT",
];

pub(super) fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let mut port_bindings = PortMap::new();
    let mut exposed_ports = Vec::with_capacity(spec.ports.len());
    for port in &spec.ports {
        let inside = format!("{}/{}", port.container_port, port.protocol.as_str());
        let outside = PortBinding {
            host_ip: Some(spec.publish_ip.to_string()),
            host_port: Some(port.host_port.to_string()),
        };
        port_bindings.entry(inside.clone()).or_default().get_or_insert_default().push(outside);
        if !exposed_ports.contains(&inside) {
            exposed_ports.push(inside);
        }
    }
    ContainerCreateBody {
        image: Some(spec.image.to_string()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        labels: Some(labels(spec)),
        exposed_ports: Some(exposed_ports),
        tty: Some(false),
        open_stdin: Some(false),
        host_config: Some(host_config(spec, port_bindings)),
        ..ContainerCreateBody::default()
    }
}

/// Ours last: a user's label cannot pass for one of them.
fn labels(spec: &ContainerSpec) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = spec.user_labels.clone().into_iter().collect();
    labels.extend(spec.labels.to_map());
    let ports: Vec<String> = spec.ports.iter().map(|it| it.host_port.to_string()).collect();
    labels.insert(HOST_PORTS_LABEL.to_owned(), ports.join(","));
    labels
}

fn host_config(spec: &ContainerSpec, port_bindings: PortMap) -> HostConfig {
    let memory = spec.resources.memory.bytes();
    let log_options = [("max-size", "10m"), ("max-file", "3")];
    HostConfig {
        nano_cpus: Some(spec.resources.cpu.nanos()),
        memory: Some(memory),
        // The sum of memory and swap: equal means no swap.
        memory_swap: Some(memory),
        pids_limit: Some(MAX_PROCESSES),
        // By name and not by number: the engine does not know which of them somebody else has.
        device_requests: (!spec.gpus.is_empty()).then(|| {
            vec![DeviceRequest {
                device_ids: Some(spec.gpus.iter().map(u32::to_string).collect()),
                capabilities: Some(vec![vec!["gpu".to_owned()]]),
                ..DeviceRequest::default()
            }]
        }),
        port_bindings: Some(port_bindings),
        publish_all_ports: Some(false),
        privileged: Some(false),
        cap_drop: Some(DROPPED_CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // Reaps orphans, and lets programs without signal handlers end when asked to.
        init: Some(true),
        // Whether it runs is decided by the record, not by the engine behind its back.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(log_options.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        }),
        ..HostConfig::default()
    }
}

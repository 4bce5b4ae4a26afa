//! Nodes, with all that there may be to their engines.

use orch_domain::node::{EngineConfig, Node, NodeStatus, Role, SimConfig};
use orch_domain::ssh::{Fingerprint, HostKey, SshEndpoint, SshHop, SshLogin};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn any_hop() -> impl Strategy<Value = SshHop> {
    let login = prop_oneof![
        Just(SshLogin::Usual),
        Just(SshLogin::Agent),
        text().prop_map(SshLogin::KeyFile),
        (vec(text(), 0..3), any::<bool>())
            .prop_map(|(paths, only_these)| SshLogin::Files { paths, only_these }),
    ];
    let host_key = ("[A-Za-z0-9+/]{43}", option::of(text())).prop_map(|(digits, algorithm)| {
        let fingerprint = Fingerprint::try_new(&format!("SHA256:{digits}")).unwrap();
        HostKey { fingerprint, algorithm }
    });
    (text(), any::<u16>(), text(), login, option::of(host_key)).prop_map(
        |(host, port, user, login, host_key)| SshHop { host, port, user, login, host_key },
    )
}

fn any_ssh() -> impl Strategy<Value = SshEndpoint> {
    (any_hop(), text(), vec(any_hop(), 0..3)).prop_map(|(hop, socket, jumps)| SshEndpoint {
        host: hop.host,
        port: hop.port,
        user: hop.user,
        login: hop.login,
        host_key: hop.host_key,
        socket,
        jumps,
    })
}

fn any_engine() -> impl Strategy<Value = EngineConfig> {
    let sim = (resources(), vec(any::<u64>(), 3), any::<u32>(), vec(any::<u16>(), 0..4));
    prop_oneof![
        text().prop_map(|endpoint| EngineConfig::Docker { endpoint }),
        any_ssh().prop_map(EngineConfig::DockerOverSsh),
        (sim, any::<bool>(), any::<bool>()).prop_map(
            |((resources, delays, fail_starts, foreign_ports), hung, unreachable)| {
                EngineConfig::Sim(SimConfig {
                    cpu: resources.cpu,
                    memory: resources.memory,
                    gpu: resources.gpu,
                    delay_ms: delays[0],
                    start_delay_ms: delays[1],
                    pull_delay_ms: delays[2],
                    fail_starts,
                    foreign_ports,
                    hung,
                    unreachable,
                })
            }
        ),
    ]
}

pub(super) fn any_node() -> impl Strategy<Value = Node> {
    let kinds = (
        select(vec![Role::Master, Role::Worker, Role::Storage]),
        select(NodeStatus::ALL.to_vec()),
        any_engine(),
        (any::<bool>(), any::<bool>()),
        any::<bool>(),
    );
    let change =
        (time(), select(NodeStatus::ALL.to_vec()), select(NodeStatus::ALL.to_vec()), text())
            .prop_map(|(at, from, to, reason)| StatusChange { at, from, to, reason });
    let since = (time(), vec(change, 0..3));
    let texts = (node_id(), text(), text(), text(), btree_set("[a-z]{1,9}", 0..3), labels());
    (kinds, texts, resources(), time(), since).prop_map(
        |(
            (role, status, engine, (capacity_is_fixed, gpu_is_fixed), cordoned),
            (id, hostname, address, description, tags, labels),
            capacity,
            created_at,
            (status_since, status_changes),
        )| Node {
            id,
            hostname,
            address,
            role,
            engine,
            tags: tags.into_iter().map(|it| Tag::try_new(it).unwrap()).collect::<BTreeSet<_>>(),
            labels,
            description,
            capacity,
            capacity_is_fixed,
            gpu_is_fixed,
            cordoned,
            created_at,
            status,
            status_since,
            status_changes,
        },
    )
}

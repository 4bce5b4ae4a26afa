//! Domain values: a plain launch by number, and random ones of every shape.

mod batch;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orch_core::ports::store::Commit;
use orch_domain::audit::{AuditEntry, AuditId, Outcome};
use orch_domain::book::Change;
use orch_domain::caller::{Channel, Permission};
use orch_domain::event::{Event, EventSubject, News, SubjectType};
use orch_domain::grant::{Grant, GrantKey};
use orch_domain::health::StatusChange;
use orch_domain::image::ImageRef;
use orch_domain::instance::{Goal, Instance, InstanceState, LaunchToken, ReasonCode};
use orch_domain::label::Labels;
use orch_domain::name::{
    ApiKeyId, ClientToken, InstanceId, InstanceName, NodeId, Tag, ToolPattern, UserId, UserName,
};
use orch_domain::node::Role;
use orch_domain::node_loss::{OnNodeLoss, Remnant, Wishes};
use orch_domain::placement::Strategy as Placing;
use orch_domain::port::{Holder, PortBinding, Protocol};
use orch_domain::registry::{RegistryCredential, RegistryHost};
use orch_domain::resource::{Cpu, Memory, Resources};
use orch_domain::time::Timestamp;
use orch_domain::tool_access::ToolPatterns;
use orch_domain::user::{ApiKey, Quota, User};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use self::batch::any_batch_change;
pub(super) use self::batch::{batch, progress_run};
use self::node::any_node;

pub(super) fn instance(n: u64) -> Instance {
    let binding = |container_port, host_port| PortBinding {
        container_port,
        host_port,
        protocol: Protocol::Tcp,
    };
    Instance {
        ports: vec![binding(80, port(n)), binding(443, port(n) + 1)],
        env: BTreeMap::from([("MODE".to_owned(), "production".to_owned())]),
        ..Instance::test(n as u32)
    }
}

fn port(n: u64) -> u16 {
    (2 * n % 60_000) as u16
}

/// What one launch commits: an instance, its two ports, a line of the audit, and a run of the one batch.
pub(super) fn launch(n: u64) -> Commit {
    let it = instance(n);
    let holder = Some(Holder::Instance(it.id.clone()));
    Commit {
        audit: vec![audit(n, &it.id)],
        changes: vec![
            Change::Port(it.node_id.clone(), port(n), holder.clone()),
            Change::Port(it.node_id.clone(), port(n) + 1, holder),
            Change::Instance(it.id.clone(), Some(Arc::new(it))),
        ],
        events: vec![Arc::new(event(n))],
        batches: batch::progress(n as u32),
    }
}

pub(super) fn event(n: u64) -> Event {
    let node_id = NodeId::try_new("local").unwrap();
    let news = News::image_pulled(&ImageRef::try_new("nginx:alpine").unwrap(), &node_id);
    news.event(n + 1, Timestamp::from_millis(n as i64), None, Some(AuditId(n + 1)))
}

pub(super) fn audit(n: u64, target: &InstanceId) -> AuditEntry {
    AuditEntry {
        id: AuditId(n + 1),
        at: Timestamp::from_millis(1_763_627_400_000 + n as i64),
        user: Some(UserId::try_new(if n.is_multiple_of(2) { "ann" } else { "bob" }).unwrap()),
        channel: Channel::Mcp,
        client: Some("claude-code 2.1".to_owned()),
        operation: "launch_instance".to_owned(),
        targets: vec![target.to_string()],
        outcome: Outcome::Accepted,
        error: None,
        elapsed_ms: None,
        arguments: Some(serde_json::json!({"image": "nginx", "env": {"KEY": "***"}})),
    }
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![any::<i64>(), 0..4_102_444_800_000i64].prop_map(Timestamp::from_millis)
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(|it| it.into_iter().collect())
}

fn word() -> impl Strategy<Value = String> {
    "[a-z0-9][A-Za-z0-9_.-]{0,20}"
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map("[a-z]{1,9}", "[ -~äß]{0,20}", 0..4).prop_map(|it| Labels::try_new(it).unwrap())
}

fn resources() -> impl Strategy<Value = Resources> {
    (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(cpu, memory, gpu)| {
        Resources::new(Cpu::from_millis(cpu), Memory::from_mib(memory), gpu)
    })
}

fn instance_id() -> impl Strategy<Value = InstanceId> {
    // Few, so that rows are replaced and deleted too.
    (0..12i64).prop_map(|it| InstanceId::new(Timestamp::from_millis(it), 7))
}

fn node_id() -> impl Strategy<Value = NodeId> {
    select(vec!["local", "n", "n.1", "a-very-long-node-name-0123456789"])
        .prop_map(|it| NodeId::try_new(it).unwrap())
}

fn user_id() -> impl Strategy<Value = UserId> {
    select(vec!["ann", "bob", "x@example.org"]).prop_map(|it| UserId::try_new(it).unwrap())
}

fn permissions() -> impl Strategy<Value = Vec<Permission>> {
    vec(select(Permission::ALL.to_vec()), 0..4)
}

const REASONS: [ReasonCode; 16] = [
    ReasonCode::UserInitiatedShutdown,
    ReasonCode::InstanceInitiatedShutdown,
    ReasonCode::CommandCompleted,
    ReasonCode::LaunchCancelled,
    ReasonCode::ImageNotFound,
    ReasonCode::InvalidCommand,
    ReasonCode::InsufficientInstanceCapacity,
    ReasonCode::PortsExhausted,
    ReasonCode::NodeLost,
    ReasonCode::NodeUnreachable,
    ReasonCode::Relocated,
    ReasonCode::OutOfMemory,
    ReasonCode::ContainerRemoved,
    ReasonCode::ContainerStopped,
    ReasonCode::NameTaken,
    ReasonCode::EngineError,
];

fn any_wishes() -> impl Strategy<Value = Wishes> {
    let role = option::of(select(vec![Role::Master, Role::Worker, Role::Storage]));
    let strategy = select(vec![Placing::Spread, Placing::Binpack]);
    (role, btree_set("[a-z]{1,9}", 0..3), strategy).prop_map(|(role, tags, strategy)| Wishes {
        role,
        tags: tags.into_iter().map(|it| Tag::try_new(it).unwrap()).collect(),
        strategy,
    })
}

fn any_remnant() -> impl Strategy<Value = Remnant> {
    let gpus = vec(any::<u32>(), 0..3);
    (node_id(), any::<u32>(), resources(), vec(any_binding(), 0..3), gpus, time()).prop_map(
        |(node_id, generation, resources, ports, gpus, since)| Remnant {
            node_id,
            generation,
            resources,
            ports,
            gpus,
            since,
        },
    )
}

fn any_binding() -> impl Strategy<Value = PortBinding> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp]);
    (any::<u16>(), any::<u16>(), protocol).prop_map(|(container_port, host_port, protocol)| {
        PortBinding { container_port, host_port, protocol }
    })
}

fn any_instance() -> impl Strategy<Value = Instance> {
    let reason = (select(REASONS.to_vec()), text()).prop_map(|(code, text)| code.because(text));
    let token =
        ("[!-~]{1,64}", any::<bool>(), "[0-9a-f]{64}").prop_map(|(token, is_derived, sha)| {
            let token = ClientToken::try_new(token).unwrap();
            LaunchToken { token, is_derived, arguments_sha256: sha }
        });
    let states = (
        select(InstanceState::ALL.to_vec()),
        option::of(reason),
        select(vec![Goal::Running, Goal::Stopped, Goal::Terminated]),
        any::<bool>(),
    );
    let times = (time(), time(), option::of(time()), option::of(time()));
    let names = (instance_id(), word(), "[a-z0-9]{1,9}(:[a-z0-9]{1,5})?", node_id(), user_id());
    let devices = (vec(any_binding(), 0..3), vec(any::<u32>(), 0..3));
    let maps = (btree_map(text(), text(), 0..4), vec(text(), 0..4), labels(), devices);
    let rest = (any::<u32>(), resources(), option::of(token), option::of("[0-9a-f]{64}"));
    let on_loss = select(vec![OnNodeLoss::Keep, OnNodeLoss::Reschedule]);
    let loss = (on_loss, any_wishes(), vec(any_remnant(), 0..3));
    (states, times, names, maps, rest, loss).prop_map(
        |(
            (state, state_reason, goal, termination_protection),
            (state_since, created_at, launched_at, terminated_at),
            (id, name, image, node_id, owner),
            (env, command, labels, (ports, gpus)),
            (generation, resources, token, container_id),
            (on_node_loss, wishes, remnants),
        )| Instance {
            id,
            name: InstanceName::try_new(name).unwrap(),
            image: ImageRef::try_new(image).unwrap(),
            state,
            state_reason,
            state_since,
            goal,
            node_id,
            generation,
            resources,
            ports,
            gpus,
            env,
            command,
            labels,
            owner,
            created_at,
            launched_at,
            terminated_at,
            token,
            termination_protection,
            container_id,
            on_node_loss,
            wishes,
            remnants,
        },
    )
}

fn any_user() -> impl Strategy<Value = User> {
    (user_id(), word(), text(), permissions(), resources(), time(), time(), tools()).prop_map(
        |(id, name, password_hash, permissions, sizes, created_at, tokens_valid_from, tools)| {
            User {
                id,
                name: UserName::try_new(name).unwrap(),
                password_hash,
                permissions,
                quota: Quota { instances: sizes.gpu, cpu: sizes.cpu, memory: sizes.memory },
                created_at,
                tokens_valid_from,
                tools,
            }
        },
    )
}

fn any_api_key() -> impl Strategy<Value = ApiKey> {
    let digest = any::<[u8; 32]>();
    let rest = (time(), option::of(time()), tools());
    (0..4u64, user_id(), text(), digest, permissions(), rest).prop_map(
        |(id, user, name, secret_sha256, permissions, (created_at, expires_at, tools))| ApiKey {
            id: ApiKeyId::new(id),
            user,
            name,
            secret_sha256,
            permissions,
            created_at,
            expires_at,
            tools,
        },
    )
}

fn tools() -> impl Strategy<Value = ToolPatterns> {
    let patterns = || {
        let one = select(vec!["*", "github.*", "orch.list_*", "a.b.c"]);
        vec(one.prop_map(|it| ToolPattern::try_new(it).unwrap()), 0..3)
    };
    (patterns(), patterns()).prop_map(|(allow, deny)| ToolPatterns { allow, deny })
}

fn registry() -> impl Strategy<Value = RegistryHost> {
    select(vec!["docker.io", "ghcr.io", "registry.example:5000"])
        .prop_map(|it| RegistryHost::try_new(it).unwrap())
}

fn any_registry_credential() -> impl Strategy<Value = RegistryCredential> {
    (registry(), text(), vec(any::<u8>(), 0..40), user_id(), time()).prop_map(
        |(registry, username, sealed_password, set_by, set_at)| RegistryCredential {
            registry,
            username,
            sealed_password,
            set_by,
            set_at,
        },
    )
}

fn grant_key() -> impl Strategy<Value = GrantKey> {
    let issuers = vec!["https://a.example", "https://b.example/tenant"];
    (select(vec!["notes", "mail"]), option::of(user_id()), select(issuers)).prop_map(
        |(server, user, issuer)| GrantKey {
            server: server.to_owned(),
            user,
            issuer: issuer.to_owned(),
        },
    )
}

fn any_grant() -> impl Strategy<Value = Grant> {
    (grant_key(), vec(any::<u8>(), 0..40), time(), option::of(text())).prop_map(
        |(key, sealed, logged_in_at, refused)| Grant { key, sealed, logged_in_at, refused },
    )
}

fn any_audit() -> impl Strategy<Value = AuditEntry> {
    let channels = vec![Channel::Mcp, Channel::Rest, Channel::Grpc, Channel::Cli, Channel::System];
    let outcomes = vec![Outcome::Accepted, Outcome::Succeeded, Outcome::Refused, Outcome::Failed];
    let texts = (option::of(text()), text(), vec(text(), 0..3), option::of(text()));
    let rest =
        (option::of(user_id()), select(channels), select(outcomes), option::of(any::<u64>()));
    // Few ids, so that entries are replaced; a huge one, because keys must sort as numbers.
    let id = prop_oneof![1..20u64, Just(1 << 40)];
    (id, time(), texts, rest).prop_map(
        |(id, at, (client, operation, targets, error), (user, channel, outcome, elapsed_ms))| {
            AuditEntry {
                id: AuditId(id),
                at,
                user,
                channel,
                client,
                operation,
                targets,
                outcome,
                error,
                elapsed_ms,
                arguments: elapsed_ms.map(|it| serde_json::json!({"n": it, "list": ["***"]})),
            }
        },
    )
}

fn any_change() -> impl Strategy<Value = Change> {
    let holder = prop_oneof![
        instance_id().prop_map(Holder::Instance),
        time().prop_map(|until| Holder::Quarantine { until }),
    ];
    prop_oneof![
        4 => any_instance().prop_map(|it| Change::Instance(it.id.clone(), Some(Arc::new(it)))),
        2 => instance_id().prop_map(|it| Change::Instance(it, None)),
        2 => any_node().prop_map(|it| Change::Node(it.id.clone(), Some(Arc::new(it)))),
        1 => node_id().prop_map(|it| Change::Node(it, None)),
        4 => (node_id(), select(vec![0u16, 80, 8000, 65_535]), option::of(holder))
            .prop_map(|(node_id, port, holder)| Change::Port(node_id, port, holder)),
        2 => any_user().prop_map(|it| Change::User(it.id.clone(), Some(Arc::new(it)))),
        1 => user_id().prop_map(|it| Change::User(it, None)),
        2 => any_api_key().prop_map(|it| Change::ApiKey(it.id.clone(), Some(Arc::new(it)))),
        1 => (0..4u64).prop_map(|it| Change::ApiKey(ApiKeyId::new(it), None)),
        1 => any_registry_credential()
            .prop_map(|it| Change::RegistryCredential(it.registry.clone(), Some(Arc::new(it)))),
        1 => registry().prop_map(|it| Change::RegistryCredential(it, None)),
        1 => any_grant().prop_map(|it| Change::Grant(it.key.clone(), Some(Arc::new(it)))),
        1 => grant_key().prop_map(|it| Change::Grant(it, None)),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let kinds = vec![
        SubjectType::Instance,
        SubjectType::Node,
        SubjectType::User,
        SubjectType::ApiKey,
        SubjectType::RegistryCredential,
        SubjectType::Image,
        SubjectType::Container,
        SubjectType::Cluster,
        SubjectType::Server,
    ];
    let subject = (select(kinds), text(), text()).prop_map(|(kind, id, name)| EventSubject {
        kind,
        id,
        name,
    });
    let texts = (text(), text(), option::of(text()), option::of(text()));
    let ids =
        (option::of(node_id()), option::of(user_id()), option::of(user_id()), option::of(1..9u64));
    // Few revisions, so that rows are replaced; a huge one, because keys must sort as numbers.
    (prop_oneof![1..20u64, Just(1 << 40)], time(), subject, texts, ids).prop_map(
        |(
            revision,
            at,
            subject,
            (kind, message, previous, state),
            (node_id, owner, actor, audit_id),
        )| {
            let audit_id = audit_id.map(AuditId);
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
        },
    )
}

pub(super) fn any_commit() -> impl Strategy<Value = Commit> {
    let events = vec(any_event().prop_map(Arc::new), 0..3);
    (vec(any_change(), 0..6), vec(any_audit(), 0..3), events, vec(any_batch_change(), 0..5))
        .prop_map(|(changes, audit, events, batches)| Commit { changes, audit, events, batches })
}

//! Every operation that changes something tells of it, durable with the change; one that is refused tells nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use orch_core::operation::Effect;
use orch_core::settings::Settings;
use orch_core::{Cx, ops};
use orch_domain::ErrorCode;
use orch_domain::caller::Permission;
use orch_domain::name::NodeId;
use orch_domain::node::SimConfig;
use serde_json::{Value, json};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::Cloud;
use crate::harness::eventually;
use crate::harness::lab::Lab;
use crate::harness::mcp::{self, Era, Heard, Way};
use crate::harness::ray::{RayServer, client};
use crate::harness::world::World;

use super::{list, revisions};

/// Change nothing that is kept here: jobs are kept by Ray.
const TELL_NOTHING: [&str; 6] =
    ["exec_in_instance", "login", "ray_submit_job", "ray_stop_job", "call_tool", "reload_servers"];

/// Of servers behind, of which there are none here: what is kept of them is in files and a vault of their own, and none of it
/// is told of.
const OF_SERVERS_BEHIND: [&str; 5] =
    ["add_server", "remove_server", "approve_tools", "login_server", "logout_server"];

/// Tell of themselves in a stream of their own.
const OF_BATCHES: [&str; 3] = ["batch_plan", "batch_execute", "batch_cancel"];

/// Calls an operation and asserts which events its call, and what followed from it, told.
struct Told<'a> {
    lab: &'a Lab,
    called: BTreeSet<String>,
}

impl Told<'_> {
    async fn by(&mut self, operation: &str, arguments: Value, kinds: &[&str]) -> Value {
        let since = self.lab.orch().ledger.log().extent().newest;
        let answer = self.lab.ok(ADMIN, operation, arguments).await;
        self.called.insert(operation.to_owned());
        let events = eventually(operation, || async {
            let arguments = json!({"since_revision": since});
            let listed = self.lab.ok(ADMIN, "list_events", arguments).await;
            let events = listed["events"].as_array().unwrap().clone();
            (kinds.len() <= events.len()).then_some(events)
        })
        .await;
        let told: Vec<&str> = events.iter().rev().map(|it| it["kind"].as_str().unwrap()).collect();
        assert_eq!(told, kinds, "{operation}: {events:#?}");
        // The first is the change itself, and the audit has the call that made it. Pulls are shared by all who ask.
        if let Some(first) = events.last()
            && operation != "pull_image"
        {
            assert_eq!(first["actor"], ADMIN, "{operation}: {first}");
            let audit = self.lab.audit();
            let entry = audit.iter().find(|it| json!(it.id) == first["audit_id"]).unwrap();
            assert_eq!(entry.operation, operation, "{first}");
            for event in &events {
                let message = event["message"].as_str().unwrap();
                assert!(!message.is_empty() && !message.contains('\n'), "{event}");
            }
        }
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_that_changes_something_tells_of_it() {
    let ray = RayServer::start().await;
    let ray_client = client(Duration::from_secs(30), &ray.url(), None);
    let cloud = Cloud::beside(ray_client, Settings::default().health_period).await;
    let lab: &Lab = &cloud;
    let mut told = Told { lab, called: BTreeSet::new() };
    let it = &mut told;

    let node = json!({"id": "n9", "hostname": "n9", "engine": "sim"});
    it.by("register_node", node, &["node.registered"]).await;
    it.by("update_node", json!({"node_id": "n9", "description": "rack 3"}), &["node.changed"])
        .await;
    it.by("cordon_node", json!({"node_id": "n9"}), &["node.cordoned"]).await;
    it.by("cordon_node", json!({"node_id": "n9"}), &[]).await;
    it.by("uncordon_node", json!({"node_id": "n9"}), &["node.uncordoned"]).await;
    it.by("drain_node", json!({"node_id": "n9"}), &["node.cordoned"]).await;
    it.by("remove_node", json!({"node_id": "n9"}), &["node.removed"]).await;

    // The image is not on the node, so it is pulled.
    let launch = json!({"image": "pull/app:1", "name": "web", "ports": [80]});
    let up = ["instance.pending", "image.pulled", "instance.running"];
    let id = it.by("launch_instance", launch, &up).await["id"].clone();
    let rename = json!({"id": id, "name": "shop"});
    it.by("update_instance", rename, &["instance.changed"]).await;
    it.by("stop_instance", json!({"id": id}), &["instance.stopping", "instance.stopped"]).await;
    it.by("start_instance", json!({"id": id}), &["instance.pending", "instance.running"]).await;
    let round = ["instance.stopping", "instance.pending", "instance.running"];
    it.by("restart_instance", json!({"id": id}), &round).await;
    it.by("exec_in_instance", json!({"id": id, "command": ["true"]}), &[]).await;
    let down = ["instance.shutting-down", "instance.terminated"];
    it.by("terminate_instance", json!({"id": id}), &down).await;

    let eve =
        json!({"username": "eve", "password": "correct horse battery", "permissions": ["read"]});
    let user_id = it.by("create_user", eve, &["user.created"]).await["id"].clone();
    let quota = json!({"user_id": user_id, "quota": {"instances": 3}});
    it.by("update_user", quota, &["quota.changed"]).await;
    let more = json!({"user_id": user_id, "permissions": ["read", "write"]});
    it.by("update_user", more, &["user.changed"]).await;
    let key = it.by("create_api_key", json!({"user": user_id, "name": "ci"}), &["api_key.created"]);
    let key_id = key.await["id"].clone();
    it.by("revoke_api_key", json!({"key_id": key_id}), &["api_key.revoked"]).await;
    it.by("delete_user", json!({"user_id": user_id}), &["user.removed"]).await;
    let password = json!({"current_password": "admin", "new_password": "correct horse battery"});
    it.by("change_password", password, &["user.changed"]).await;
    let pull = json!({"image": "pull/app:2", "all": true});
    it.by("pull_image", pull.clone(), &["image.pulled"]).await;
    it.by("pull_image", pull, &[]).await;
    let at = json!({"registry": "ghcr.io", "username": "robot", "password": "argon2 too"});
    for _ in 0..2 {
        it.by("set_registry_credential", at.clone(), &["registry_credential.set"]).await;
    }
    let at = json!({"registry": "ghcr.io"});
    it.by("delete_registry_credential", at, &["registry_credential.removed"]).await;
    let login = json!({"username": "demo", "password": "demo"});
    it.by("login", login, &[]).await;

    let job = it.by("ray_submit_job", json!({"entrypoint": "true"}), &[]).await["job_id"].clone();
    it.by("ray_stop_job", json!({"job_id": job}), &[]).await;
    it.by("call_tool", json!({"name": "orch.cluster_status"}), &[]).await;
    it.by("reload_servers", json!({}), &[]).await;

    let changing = ops::catalogue().into_iter().filter(|it| it.spec.effect != Effect::Reads);
    for name in changing.map(|it| it.spec.name) {
        assert!(
            told.called.contains(name)
                || OF_SERVERS_BEHIND.contains(&name)
                || OF_BATCHES.contains(&name),
            "say here what `{name}` tells, or why it tells nothing"
        );
    }
    assert!(TELL_NOTHING.iter().all(|it| told.called.contains(*it)));

    let all = list(&cloud, ADMIN, "?page_size=1000").await;
    let newest = all["revision"].as_u64().unwrap();
    assert_eq!(revisions(&all["events"]), (1..=newest).rev().collect::<Vec<_>>(), "without a gap");
    assert!(!all.to_string().contains("argon2"), "no secret is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_tells_nothing() {
    let cloud = Cloud::demo().await;
    let before = list(&cloud, ADMIN, "").await["revision"].clone();
    let too_much = json!({"image": "a", "count": 6, "cpu": 1});
    cloud.refused(DEMO, "launch_instance", too_much, ErrorCode::QuotaExceeded).await;
    cloud.refused(DEMO, "cordon_node", json!({"node_id": "sim-1"}), ErrorCode::Forbidden).await;
    let nowhere = json!({"node_id": "nowhere"});
    cloud.refused(ADMIN, "cordon_node", nowhere, ErrorCode::NotFound).await;
    cloud.ok(ADMIN, "launch_instance", json!({"image": "a", "dry_run": true})).await;
    assert_eq!(list(&cloud, ADMIN, "").await["revision"], before);
}

/// What nobody called for: a node that goes and comes, a container that is stopped and one that is removed by hand.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_by_itself_is_told_without_an_actor() {
    let cloud = Cloud::demo().await;
    let id = cloud.ok(DEMO, "launch_instance", json!({"image": "busybox"})).await["id"].clone();
    let name = format!("mo-{}", id.as_str().unwrap());
    let since = list(&cloud, ADMIN, "").await["revision"].as_u64().unwrap();
    cloud.control("sim-1").exit(&name, 3);
    let kinds_since = async |since: u64| {
        let listed = list(&cloud, ADMIN, &format!("?since_revision={since}")).await;
        listed["events"].as_array().unwrap().clone()
    };
    let told = eventually("it is told", || async {
        let events = kinds_since(since).await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert_eq!(told[0]["kind"], "instance.stopped");
    assert!(told[0].get("actor").is_none(), "{}", told[0]);
    assert!(told[0]["message"].as_str().unwrap().contains("exit code 3"), "{}", told[0]);

    let since = told[0]["revision"].as_u64().unwrap();
    cloud.control("sim-1").configure(|it| it.unreachable = true);
    for _ in 0..3 {
        cloud.orch().sweep().await;
    }
    cloud.control("sim-1").configure(|it| *it = SimConfig::default());
    // Healthy is who has been well for some seconds.
    let told = eventually("it is healthy again", || async {
        cloud.orch().sweep().await;
        let told = kinds_since(since).await;
        told.iter().any(|it| it["kind"] == "cluster.healthy").then_some(told)
    })
    .await;
    let kinds: Vec<&str> = told.iter().rev().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["node.unreachable", "cluster.down", "node.healthy", "cluster.healthy"],
        "{told:#?}"
    );
    let node: Vec<&Value> = told.iter().filter(|it| it["node_id"] == "sim-1").collect();
    assert_eq!(node.len(), 2);
    assert_eq!(
        (&node[1]["previous"], &node[1]["state"]),
        (&json!("healthy"), &json!("unreachable"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sees_what_is_theirs_and_what_is_everybodys() {
    let cloud = Cloud::demo().await;
    let of_admin = cloud.ok(ADMIN, "launch_instance", json!({"image": "busybox"})).await;
    let of_demo = cloud.ok(DEMO, "launch_instance", json!({"image": "busybox"})).await;
    cloud.ok(ADMIN, "cordon_node", json!({"node_id": "sim-1"})).await;
    let quota = json!({"user_id": DEMO, "quota": {"instances": 4}});
    cloud.ok(ADMIN, "update_user", quota).await;
    let quota = json!({"user_id": ADMIN, "quota": {"instances": 19}});
    cloud.ok(ADMIN, "update_user", quota).await;
    let subjects = async |user: &str, query: &str| -> Vec<(String, String)> {
        let listed = list(&cloud, user, query).await;
        let of = |it: &Value| {
            let text = |it: &Value| it.as_str().unwrap().to_owned();
            (text(&it["kind"]), text(&it["subject"]["id"]))
        };
        listed["events"].as_array().unwrap().iter().map(of).collect()
    };
    let (mine, foreign) = (of_demo["id"].as_str().unwrap(), of_admin["id"].as_str().unwrap());
    let seen = subjects(DEMO, "?page_size=1000").await;
    assert!(seen.contains(&("instance.running".to_owned(), mine.to_owned())), "{seen:?}");
    assert!(seen.contains(&("node.cordoned".to_owned(), "sim-1".to_owned())), "{seen:?}");
    assert!(seen.contains(&("quota.changed".to_owned(), DEMO.to_owned())), "{seen:?}");
    assert!(seen.iter().all(|(_, id)| id != foreign && id != ADMIN), "{seen:?}");
    // Not theirs looks like not there.
    for id in [foreign, "i-00000000000000000"] {
        assert!(subjects(DEMO, &format!("?instance_id={id}")).await.is_empty());
        assert!(subjects(DEMO, &format!("?subject={id}")).await.is_empty());
    }
    assert_eq!(subjects(ADMIN, &format!("?instance_id={foreign}")).await.len(), 2);
    // Who cordoned the node is the administrators' business.
    let cordoned = &list(&cloud, DEMO, "?kind=node.cordoned").await["events"][0];
    assert!(cordoned.get("actor").is_none() && cordoned.get("audit_id").is_none(), "{cordoned}");
    let cordoned = &list(&cloud, ADMIN, "?kind=node.cordoned").await["events"][0];
    assert_eq!(cordoned["actor"], ADMIN);
    let own =
        &list(&cloud, DEMO, &format!("?instance_id={mine}&kind=instance.pending")).await["events"];
    assert_eq!(own[0]["actor"], DEMO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_filtered_and_paged_and_says_where_to_follow() {
    let cloud = Cloud::demo().await;
    for n in 0..5 {
        let operation = if n % 2 == 0 { "cordon_node" } else { "uncordon_node" };
        cloud.ok(ADMIN, operation, json!({"node_id": "sim-1"})).await;
    }
    let whole = list(&cloud, ADMIN, "?page_size=1000").await;
    let (mut paged, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(&cloud, ADMIN, &format!("?page_size=2&page_token={token}")).await;
        paged.extend(page["events"].as_array().unwrap().clone());
        page["next_page_token"].as_str().unwrap().clone_into(&mut token);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(&paged, whole["events"].as_array().unwrap());
    let of_node = list(&cloud, ADMIN, "?kind=node&node_id=sim-1&page_size=1000").await;
    assert!(5 < of_node["events"].as_array().unwrap().len());
    assert_eq!(
        list(&cloud, ADMIN, "?kind=node.cordoned").await["events"].as_array().unwrap().len(),
        3
    );
    let first = whole["events"].as_array().unwrap().last().unwrap();
    let at = first["at"].as_str().unwrap();
    let older = list(&cloud, ADMIN, &format!("?before={at}")).await;
    assert!(older["events"].as_array().unwrap().is_empty());
    let newer = list(&cloud, ADMIN, &format!("?after={at}&page_size=1000")).await;
    assert_eq!(newer["events"], whole["events"]);
    for bad in [
        "?kind=nodes",
        "?after=yesterday",
        "?page_token=zz",
        "?since_revision=-1",
        "?wait_seconds=5",
        "?wait_seconds=61&since_revision=0",
    ] {
        super::asking(ADMIN, bad).of(&cloud).await.problem(400, "InvalidParameter");
    }
}

/// A call that waits is answered by what comes, and by nothing when nothing of that kind does.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_what_is_new() {
    let cloud = Cloud::demo().await;
    let since = list(&cloud, ADMIN, "").await["revision"].as_u64().unwrap();
    let waiting = format!("?since_revision={since}&wait_seconds=60&kind=node.cordoned");
    let cordoning = async {
        cloud.ok(ADMIN, "cordon_node", json!({"node_id": "sim-1"})).await;
    };
    let (listed, ()) = tokio::join!(list(&cloud, DEMO, &waiting), cordoning);
    assert_eq!(listed["events"][0]["kind"], "node.cordoned");
    let since = listed["revision"].as_u64().unwrap();
    let in_vain = format!("?since_revision={since}&wait_seconds=1&kind=image");
    assert_eq!(list(&cloud, DEMO, &in_vain).await["events"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mcp_client_hears_of_events_and_reads_them() {
    let world = World::with_nodes(1).await;
    let mut client = mcp::connect(&world, DEMO, Way::Stream, Era::Legacy).await;
    subscribe(&client, "events://latest").await;
    // Of a quota that is another's nothing is heard, so the first word is of the node.
    let quota = json!({"user_id": ADMIN, "quota": {"instances": 19}});
    world.ok(ADMIN, "update_user", quota).await;
    world.ok(ADMIN, "cordon_node", json!({"node_id": "n1"})).await;
    assert_eq!(client.hears().await, Heard::Updated("events://latest".to_owned()));
    let listed = client.answer("list_events", json!({"page_size": 1})).await;
    assert_eq!(listed["events"][0]["kind"], "node.cordoned");
    let request = rmcp::model::ReadResourceRequestParams::new("events://latest");
    let read = client.read_resource(request).await.unwrap();
    let rmcp::model::ResourceContents::TextResourceContents { text, .. } = &read.contents[0] else {
        panic!("events are text")
    };
    let read: Value = serde_json::from_str(text).unwrap();
    assert_eq!(read["events"][0], listed["events"][0]);
    // An event about a node is word about its resource too.
    subscribe(&client, "node://n1").await;
    world.ok(ADMIN, "uncordon_node", json!({"node_id": "n1"})).await;
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        if let Heard::Updated(uri) = client.hears().await {
            heard.insert(uri);
        }
    }
    assert!(heard.contains("events://latest") && heard.contains("node://n1"), "{heard:?}");
}

#[expect(deprecated, reason = "this is how clients up to 2025-11-25 subscribe")]
async fn subscribe(client: &mcp::Client, uri: &str) {
    client.subscribe(rmcp::model::SubscribeRequestParams::new(uri)).await.unwrap();
}

/// Whoever reads less than `read` is refused before anything is looked up.
#[tokio::test(flavor = "multi_thread")]
async fn events_need_the_permission_to_read() {
    let cloud = Cloud::start().await;
    super::ask("GET", "/events").of(&cloud).await.problem(401, "Unauthenticated");
    super::refused(&cloud, super::ask("GET", "/events")).await.problem(401, "Unauthenticated");
    let key = cloud.api_key(DEMO, &[Permission::Write]).await;
    let request = || super::ask("GET", "/events").bearer(&key);
    request().of(&cloud).await.problem(403, "Forbidden");
    super::refused(&cloud, request()).await.problem(403, "Forbidden");
}

/// Of orphans their owner hears: it was their container once.
#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_that_is_removed_is_told_of() {
    let lab = Lab::new(1).await;
    let launched = lab.ask("launch_instance", json!({"image": "busybox"})).await;
    let id: orch_domain::name::InstanceId = launched["id"].as_str().unwrap().parse().unwrap();
    // The record goes as it does when its node is given up, and the container stays.
    let now = lab.orch().clock.now();
    let gone = lab.orch().ledger.write(None, |book| {
        book.set_terminated(&id, None, now);
        Ok(())
    });
    gone.await.unwrap();
    let n1 = NodeId::try_new("n1").unwrap();
    let told = eventually("it is removed", || async {
        lab.orch().reconcile_node(&n1).await.unwrap();
        let cx = Cx::new(Some(lab.caller("ann")));
        let listed = lab.call_as(&cx, "list_events", json!({"kind": "container"})).await.unwrap();
        listed.value["events"].get(0).cloned()
    })
    .await;
    assert_eq!((&told["kind"], &told["owner"]), (&json!("container.removed"), &json!("ann")));
    assert_eq!(told["subject"]["id"], format!("mo-{id}"));
}

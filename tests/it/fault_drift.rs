//! What is done to containers behind our back on machines behind SSH, with and without the engine's events.

use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use orch_core::ports::engine::ContainerLabels;
use orch_core::settings::Settings;
use orch_domain::name::{InstanceId, UserId};
use orch_domain::time::Timestamp;
use serde_json::json;

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::fleet::{Fleet, impatient, machines, registration, sleeper};
use crate::harness::hosts::Hosts;
use crate::harness::invariants::Invariants;
use crate::harness::proxy::{Proxy, Streams};
use crate::harness::{eventually, image};

/// As `docker rm -f`.
async fn remove(hosts: &Hosts, id: &str) {
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    hosts.docker(1).remove_container(&format!("mo-{id}"), Some(options)).await.unwrap();
}

/// As `docker stop`.
async fn stop(hosts: &Hosts, id: &str) {
    let options = StopContainerOptionsBuilder::new().t(0).build();
    hosts.docker(1).stop_container(&format!("mo-{id}"), Some(options)).await.unwrap();
}

async fn start(hosts: &Hosts, id: &str) {
    let options = None::<StartContainerOptions>;
    hosts.docker(1).start_container(&format!("mo-{id}"), options).await.unwrap();
}

async fn seen(cloud: &Cloud, id: &str) -> (String, String) {
    let instance = cloud.ok(ADMIN, "get_instance", json!({"id": id})).await;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
    (text(&instance["state"]), text(&instance["state_reason"]["code"]))
}

fn expected(state: &str, code: &str) -> (String, String) {
    (state.to_owned(), code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_rm_and_docker_stop_behind_our_back_are_seen_and_explained() {
    let Some(mut fleet) = Fleet::start(1).await else { return };
    let ids = fleet.launched(1, 5).await;
    for id in &ids[2..4] {
        fleet.ask("stop_instance", id).await;
        fleet.becomes(id, "stopped").await;
    }
    remove(&fleet.hosts, &ids[0]).await;
    stop(&fleet.hosts, &ids[1]).await;
    remove(&fleet.hosts, &ids[2]).await;
    start(&fleet.hosts, &ids[3]).await;
    // Removed while it is being stopped on request.
    fleet.ask("stop_instance", &ids[4]).await;
    remove(&fleet.hosts, &ids[4]).await;
    fleet.converges("behind our back").await;
    for (id, (state, code)) in ids.iter().zip([
        ("terminated", "Server.ContainerRemoved"),
        ("stopped", "Server.ContainerStopped"),
        ("terminated", "Server.ContainerRemoved"),
        ("running", "-"),
        ("terminated", "Server.ContainerRemoved"),
    ]) {
        assert_eq!(seen(&fleet.cloud, id).await, expected(state, code));
    }
    // A launch whose container is taken away under its hands ends, and its port is free for the next.
    let torn = fleet.launch(1, 8).await;
    for id in &torn {
        eventually("its container, or its end", || async {
            let options = RemoveContainerOptionsBuilder::new().force(true).build();
            let docker = fleet.hosts.docker(1);
            let removed = docker.remove_container(&format!("mo-{id}"), Some(options)).await;
            removed.is_ok().then_some(())
        })
        .await;
    }
    fleet.converges("torn").await;
    for id in &torn {
        assert_eq!(seen(&fleet.cloud, id).await, expected("terminated", "Server.ContainerRemoved"));
    }
    fleet.ends("behind our back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_event_stream_is_gone_is_found_by_the_list() {
    let Some(hosts) = Hosts::start(1).await else { return };
    let path = hosts.socket(1).with_file_name("proxy.sock");
    let proxy = Proxy::start(&path, hosts.socket(1));
    let settings = impatient();
    let two_periods = settings.reconcile_period * 2;
    let cloud = Cloud::with(settings).await;
    let mut request = registration(&hosts, 1);
    request["ssh"]["socket"] = json!(path);
    cloud.ok(ADMIN, "register_node", request).await;
    let mut rules = Invariants::of(&cloud, machines(&hosts, 1)).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(rules.acknowledged(&cloud.ok(ADMIN, "launch_instance", sleeper(1)).await));
    }
    rules.converge(&cloud, two_periods, "launched").await;
    eventually("the event stream", || async { (0 < proxy.n_asked()).then_some(()) }).await;

    // Open, and dead: nothing tells that it is.
    proxy.set(Streams::Silent);
    remove(&hosts, &ids[0]).await;
    stop(&hosts, &ids[1]).await;
    rules.converge(&cloud, two_periods, "silent").await;
    assert_eq!(seen(&cloud, &ids[0]).await, expected("terminated", "Server.ContainerRemoved"));
    assert_eq!(seen(&cloud, &ids[1]).await, expected("stopped", "Server.ContainerStopped"));

    // Closed, and not given again.
    let n_asked = proxy.n_asked();
    proxy.set(Streams::Refused);
    remove(&hosts, &ids[2]).await;
    stop(&hosts, &ids[3]).await;
    rules.converge(&cloud, two_periods, "refused").await;
    assert_eq!(seen(&cloud, &ids[2]).await, expected("terminated", "Server.ContainerRemoved"));
    assert_eq!(seen(&cloud, &ids[3]).await, expected("stopped", "Server.ContainerStopped"));
    eventually("it is asked for again", || async { (n_asked < proxy.n_asked()).then_some(()) })
        .await;
    let node = cloud.ok(ADMIN, "get_node", json!({"node_id": "h1"})).await;
    assert_eq!(node["status"], "healthy", "the rest of the engine answers");

    let n_asked = proxy.n_asked();
    proxy.set(Streams::Pass);
    eventually("the next event stream", || async { (n_asked < proxy.n_asked()).then_some(()) })
        .await;
    remove(&hosts, &ids[4]).await;
    rules.converge(&cloud, two_periods, "heard again").await;
    rules.clear(&cloud, "heard again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_our_label_and_no_record_goes_after_the_grace_and_strangers_stay() {
    let Some(hosts) = Hosts::start(1).await else { return };
    let settings = Settings { reconcile_period: Duration::from_secs(3), ..impatient() };
    // Two looks, the grace apart, and one for whatever the first was too early for.
    let limit = settings.orphan_grace + settings.reconcile_period * 3;
    let mut fleet = Fleet::of(hosts, 1, settings).await;
    let docker = fleet.hosts.docker(1);
    let ours = fleet.cloud.orch().ledger.store().identity().controller_id.clone();
    let put = async |name: &str, controller_id: Option<&str>| {
        let labels = controller_id.map(|it| ContainerLabels {
            controller_id: it.to_owned(),
            instance_id: InstanceId::new(Timestamp::from_millis(1), 1),
            generation: 1,
            owner: UserId::try_new("ann").unwrap(),
        });
        let body = ContainerCreateBody {
            image: Some(image::IMAGE.to_owned()),
            cmd: Some(vec!["sleep".to_owned(), "3600".to_owned()]),
            labels: labels.map(|it| it.to_map().into_iter().collect()),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        docker.create_container(Some(options), body).await.unwrap();
        docker.start_container(name, None::<StartContainerOptions>).await.unwrap();
    };
    put("mo-orphan", Some(&ours)).await;
    put("somebody-elses", Some("another controller")).await;
    put("plain", None).await;
    fleet.launched(1, 1).await;
    fleet.rules.converge(&fleet.cloud, limit, "with an orphan").await;
    fleet.ends("with an orphan").await;
    let left: Vec<String> = fleet.hosts.containers(1).await.into_iter().map(|it| it.0).collect();
    assert_eq!(left, ["plain", "somebody-elses"]);
}

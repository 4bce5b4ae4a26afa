//! What changes behind our back: the record follows what the engine shows, and what is nobody's goes, late and only if
//! it is ours.

use std::sync::Arc;
use std::time::Duration;

use orch_adapters::engines::NodeEngines;
use orch_core::ports::engine::ContainerLabels;
use orch_core::ports::failpoint::{Failpoint, Failpoints};
use orch_domain::name::{InstanceId, NodeId, UserId};
use orch_domain::time::Timestamp;
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::lab::Lab;

async fn launched(lab: &Lab) -> (String, String) {
    let answer = lab.ask("launch_instance", json!({"image": "web:1", "ports": [80]})).await;
    let id = answer["id"].as_str().unwrap().to_owned();
    let container = format!("mo-{id}");
    (id, container)
}

async fn reconcile(lab: &Lab) -> orch_core::service::reconcile::Reconciled {
    // A list counts only for what rested before it was asked for.
    tokio::time::sleep(Duration::from_millis(2)).await;
    lab.orch().reconcile_node(&NodeId::try_new("n1").unwrap()).await.unwrap()
}

fn state(instance: &Value) -> (&str, &str) {
    (instance["state"].as_str().unwrap(), instance["state_reason"]["code"].as_str().unwrap_or("-"))
}

#[tokio::test]
async fn each_kind_of_drift_has_its_state_and_reason() {
    type Drift = fn(&orch_adapters::sim::SimControl, &str);
    let kinds: [(Drift, (&str, &str)); 4] = [
        (|node, name| node.remove_container(name), ("terminated", "Server.ContainerRemoved")),
        (|node, name| node.stop_container(name), ("stopped", "Server.ContainerStopped")),
        (|node, name| node.out_of_memory(name), ("stopped", "Server.OutOfMemory")),
        (|node, name| node.exit(name, 3), ("stopped", "Client.InstanceInitiatedShutdown")),
    ];
    for (drift, expected) in kinds {
        let lab = Lab::new(1).await;
        let (id, container) = launched(&lab).await;
        drift(&lab.control("n1"), &container);
        assert_eq!(reconcile(&lab).await.n_corrected, 1, "{expected:?}");
        assert_eq!(state(&lab.ask("get_instance", json!({"id": id})).await), expected);
        lab.check(expected.1);
        assert_eq!(reconcile(&lab).await.n_corrected, 0, "{expected:?} is corrected once");
    }
}

#[tokio::test]
async fn an_event_corrects_the_record_at_once() {
    let lab = Lab::new(1).await;
    let (id, container) = launched(&lab).await;
    let orch = lab.orch().clone();
    let following = lab.orch().tracker.spawn(async move {
        orch.follow_events(&NodeId::try_new("n1").unwrap()).await.ok();
    });
    eventually("the event stream", || async {
        (0 < lab.control("n1").n_calls("events")).then_some(())
    })
    .await;
    lab.control("n1").remove_container(&container);
    eventually("the record to follow", || async {
        (lab.ask("get_instance", json!({"id": id})).await["state"] == "terminated").then_some(())
    })
    .await;
    following.abort();
    lab.check("event");
}

#[tokio::test]
async fn an_orphan_of_ours_goes_after_a_second_look_and_decoys_stay() {
    let lab = Lab::new(1).await;
    let node = lab.control("n1");
    let labels = |controller_id: &str, n: u32| ContainerLabels {
        controller_id: controller_id.to_owned(),
        instance_id: InstanceId::new(Timestamp::from_millis(1), n),
        generation: 1,
        owner: UserId::try_new("ann").unwrap(),
    };
    let ours = lab.orch().ledger.store().identity().controller_id.clone();
    node.put_container("mo-orphan", Some(labels(&ours, 1)));
    for n in 0..10 {
        node.put_container(&format!("foreign-{n}"), Some(labels("somebody-else", n)));
        node.put_container(&format!("plain-{n}"), None);
    }
    let first = reconcile(&lab).await;
    assert_eq!((first.n_orphans_waiting, first.n_orphans_removed), (1, 0));
    tokio::time::sleep(lab.settings.orphan_grace).await;
    assert_eq!(reconcile(&lab).await.n_orphans_removed, 1);
    let left = node.containers();
    assert_eq!(left.len(), 20, "{left:?}");
    assert!(left.iter().all(|it| it.name != "mo-orphan"));
}

#[tokio::test]
async fn a_node_that_does_not_answer_loses_no_record() {
    let lab = Lab::new(1).await;
    let (id, _) = launched(&lab).await;
    lab.control("n1").configure(|it| it.unreachable = true);
    let err = lab.orch().reconcile_node(&NodeId::try_new("n1").unwrap()).await.unwrap_err();
    assert_eq!(err.code().as_str(), "NodeUnreachable");
    assert_eq!(lab.ask("get_instance", json!({"id": id})).await["state"], "running");
}

#[tokio::test]
async fn a_wiped_node_ends_its_instances_and_frees_what_they_held() {
    let lab = Lab::new(1).await;
    for n in 0..5 {
        lab.ask(
            "launch_instance",
            json!({"image": "web:1", "ports": [80], "name": format!("w{n}")}),
        )
        .await;
    }
    lab.control("n1").wipe();
    assert_eq!(reconcile(&lab).await.n_corrected, 5);
    assert!(
        lab.instances()
            .await
            .iter()
            .all(|it| state(it) == ("terminated", "Server.ContainerRemoved"))
    );
    lab.check("wiped");
    assert_eq!(
        lab.orch().ledger.read(|book| book.usage(&UserId::try_new("ann").unwrap()).instances),
        0
    );
}

/// Ends the container of a launch between its start and the record of it.
struct EndsAtOnce(Arc<NodeEngines>);

impl Failpoints for EndsAtOnce {
    fn reach(&self, at: Failpoint) {
        if at == Failpoint::LaunchStarted {
            let node = self.0.fleet().control(&NodeId::try_new("n1").unwrap()).unwrap();
            node.containers().iter().for_each(|it| node.exit(&it.name, 3));
        }
    }
}

#[tokio::test]
async fn a_command_that_ends_at_once_is_seen_at_once() {
    let mut lab = Lab::new(1).await;
    let failpoints = Arc::new(EndsAtOnce(lab.engines.clone()));
    lab.restart_with(failpoints).await;
    let orch = lab.orch().clone();
    let following = lab.orch().tracker.spawn(async move {
        orch.follow_events(&NodeId::try_new("n1").unwrap()).await.ok();
    });
    eventually("the event stream", || async {
        (0 < lab.control("n1").n_calls("events")).then_some(())
    })
    .await;
    let arguments = json!({"image": "web:1", "wait": false});
    let id = lab.ask("launch_instance", arguments).await["id"].clone();
    eventually("the record to follow", || async {
        let instance = lab.ask("get_instance", json!({"id": id})).await;
        (state(&instance) == ("stopped", "Client.InstanceInitiatedShutdown")).then_some(())
    })
    .await;
    following.abort();
    lab.check("ended at once");
}

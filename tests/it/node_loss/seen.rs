//! What callers see of the instances of a lost node, and what they are told when they want something of them.

use orch_core::event::Subject;
use orch_domain::ErrorCode;
use orch_domain::instance::InstanceState;
use serde_json::{Value, json};

use super::{becomes, get, heal, launch, lose, n_ports, used_cpu, used_instances};
use crate::harness::lab::Lab;
use crate::harness::{eventually, within};

#[tokio::test]
async fn instances_of_a_lost_node_are_unreachable_and_keep_all_they_hold() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    let stopped = launch(&lab, json!({"name": "second"})).await;
    lab.ask("stop_instance", json!({"id": stopped})).await;
    let held = (used_instances(&lab), used_cpu(&lab, "n1"), n_ports(&lab, "n1"));
    lose(&lab, "n1").await;
    lab.orch().reschedule_lost().await;

    for id in [&id, &stopped] {
        let it = get(&lab, id).await;
        assert_eq!(it["state"], "unreachable", "{it}");
        assert_eq!(it["state_reason"]["code"], "Server.NodeUnreachable", "{it}");
        let said = it["state_reason"]["message"].as_str().unwrap();
        assert!(said.contains("`n1`") && said.contains("since 20"), "{said}");
        assert_eq!((&it["node_id"], &it["generation"]), (&json!("n1"), &json!(1)), "{it}");
    }
    let said = get(&lab, &stopped).await["state_reason"]["message"].to_string();
    assert!(said.contains("it was stopped then"), "{said}");
    let listed = lab.ask("list_instances", json!({"state": ["unreachable"]})).await;
    assert_eq!(listed["total_count"], 2, "{listed}");
    let listed = lab.ask("list_instances", json!({"state": ["running", "stopped"]})).await;
    assert_eq!(listed["total_count"], 0, "{listed}");
    let cluster = lab.call("cluster_status", json!({})).await.unwrap();
    assert_eq!(cluster.value["instances"]["unreachable"], 2, "{}", cluster.value);
    assert!(cluster.text().contains("2 instances are unreachable"), "{}", cluster.text());
    let summary = lab.call("dashboard_summary", json!({})).await.unwrap();
    assert_eq!(summary.value["instances"]["unreachable"], 2, "{}", summary.value);
    assert!(summary.text().contains("2 unreachable"), "{}", summary.text());
    let shown = lab.call("get_instance", json!({"id": id})).await.unwrap().text();
    assert!(shown.contains("is unreachable on n1") && !shown.contains("reached at"), "{shown}");
    assert_eq!((used_instances(&lab), used_cpu(&lab, "n1"), n_ports(&lab, "n1")), held);

    heal(&lab, "n1").await;
    assert_eq!(get(&lab, &id).await["state"], "running");
    assert_eq!(get(&lab, &id).await["state_reason"], Value::Null);
    assert_eq!(get(&lab, &stopped).await["state"], "stopped");
    lab.check("back");
}

#[tokio::test]
async fn what_needs_the_lost_node_says_so_at_once_and_what_to_do() {
    let lab = Lab::new(1).await;
    let id = launch(&lab, json!({})).await;
    let stopped = launch(&lab, json!({"name": "second"})).await;
    lab.ask("stop_instance", json!({"id": stopped})).await;
    lose(&lab, "n1").await;
    // A node that hangs would hold a call for a minute; a lost one is not asked.
    lab.control("n1").configure(|it| it.hung = true);
    let calls = [
        ("stop_instance", json!({"id": id})),
        ("restart_instance", json!({"id": id})),
        ("start_instance", json!({"id": stopped})),
        ("exec_in_instance", json!({"id": id, "command": ["true"]})),
        ("instance_logs", json!({"id": id})),
        ("instance_stats", json!({"id": id})),
    ];
    for (name, arguments) in calls {
        let refusal = within(name, lab.call(name, arguments)).await.unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::NodeUnreachable, "{name}: {refusal}");
        let said = refusal.to_string();
        for word in
            ["`n1`", "since 20", "check_node", "terminate_instance", "on_node_loss=reschedule"]
        {
            assert!(said.contains(word), "{name}: {word}: {said}");
        }
    }
    assert_eq!(
        lab.orch().ledger.read(|it| it.instance(&id.parse().unwrap()).unwrap().state),
        InstanceState::Running
    );

    // To end is accepted: the answer comes at once and says what is left to happen.
    let ended = within("the answer", lab.ask("terminate_instance", json!({"id": id}))).await;
    assert_eq!(ended["state"], "shutting-down", "{ended}");
    assert_eq!(ended["state_reason"]["code"], "Client.UserInitiatedShutdown", "{ended}");
    let said = ended["state_reason"]["message"].as_str().unwrap();
    assert!(said.contains("`n1`") && said.contains("when that is back"), "{said}");
    assert_eq!(used_instances(&lab), 2, "its container was not seen to be gone");

    lab.control("n1").configure(|it| it.hung = false);
    heal(&lab, "n1").await;
    becomes(&lab, &id, "terminated").await;
    lab.ask("terminate_instance", json!({"id": stopped})).await;
    assert_eq!((used_instances(&lab), lab.n_containers(), n_ports(&lab, "n1")), (0, 0, 0));
    lab.check("ended");
}

#[tokio::test]
async fn whoever_listens_is_told_of_every_instance_when_its_node_goes_and_comes() {
    let lab = Lab::new(1).await;
    let id = launch(&lab, json!({})).await;
    let subject = Subject::Instance(id.parse().unwrap());
    let mut events = lab.orch().events.subscribe();
    let mut n_told = || {
        let told = std::iter::from_fn(|| events.try_recv().ok()).filter(|it| *it == subject);
        told.count()
    };
    lose(&lab, "n1").await;
    assert_eq!(n_told(), 1);
    lab.orch().sweep().await;
    assert_eq!(n_told(), 0);
    heal(&lab, "n1").await;
    assert_eq!(n_told(), 1);
}

#[tokio::test]
async fn a_caller_that_waits_is_told_when_the_node_is_lost() {
    let lab = Lab::new(1).await;
    let id = launch(&lab, json!({})).await;
    lab.control("n1").configure(|it| it.unreachable = true);
    let stop = lab.call("stop_instance", json!({"id": id}));
    let loss = async {
        eventually("the stop to be asked for", || async {
            (get(&lab, &id).await["state"] == "stopping").then_some(())
        })
        .await;
        lose(&lab, "n1").await;
    };
    let (answer, ()) = within("the answer", async { tokio::join!(stop, loss) }).await;
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::NodeUnreachable, "{refusal}");
    assert!(refusal.to_string().contains("goes on as soon as the node is back"), "{refusal}");
    heal(&lab, "n1").await;
    becomes(&lab, &id, "stopped").await;
    lab.check("stopped");
}

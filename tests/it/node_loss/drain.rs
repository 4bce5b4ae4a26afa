//! A drained node's instances move: one after the other place, with a report.

use serde_json::json;

use super::{becomes, get, heal, launch, lose, node, only_on, used_cpu};
use crate::harness::caller::ann;
use crate::harness::lab::Lab;
use crate::harness::{eventually, within};

#[tokio::test]
async fn a_drained_node_s_instances_move_and_the_report_says_where_or_why_not() {
    let lab = Lab::new(2).await;
    let small = launch(&lab, json!({"name": "small"})).await;
    let large = launch(&lab, json!({"name": "large", "cpu": 12})).await;
    let stopped = launch(&lab, json!({"name": "stopped"})).await;
    lab.ask("stop_instance", json!({"id": stopped})).await;
    lab.ask("launch_instance", json!({"image": "web:1", "cpu": 8, "node_id": "n2"})).await;
    let request = json!({"node_id": "n1", "action": "move"});
    let answer = lab.call_as(&ann(), "drain_node", request.clone()).await.unwrap();
    let drained = &answer.value;
    assert_eq!((&drained["n_left"], &drained["node"]["cordoned"]), (&json!(2), &json!(true)));
    let of = |id: &str| {
        drained["instances"].as_array().unwrap().iter().find(|it| it["id"] == id).unwrap()
    };
    let it = of(&small);
    assert_eq!(
        (&it["is_done"], &it["moved_to"], &it["state"]),
        (&json!(true), &json!("n2"), &json!("running")),
        "{it}"
    );
    let it = of(&large);
    assert_eq!(
        (&it["is_done"], &it["error"]),
        (&json!(false), &json!("InsufficientCapacity")),
        "{it}"
    );
    assert_eq!(it["state"], "running", "what finds no place goes on where it is: {it}");
    let it = of(&stopped);
    assert_eq!((&it["is_done"], &it["error"]), (&json!(false), &json!("IncorrectState")), "{it}");
    assert!(answer.text().contains("moved to n2"), "{}", answer.text());
    let moved = get(&lab, &small).await;
    assert_eq!((&moved["generation"], &moved["remnants"]), (&json!(2), &json!([])), "{moved}");
    assert_eq!(used_cpu(&lab, "n1"), 12_500, "what moved holds nothing here any more");
    assert_eq!(lab.control("n1").containers().len(), 2);
    lab.check("drained");
    let targets = &lab.audit()[0].targets;
    assert!(targets.contains(&small) && targets.contains(&"n1".to_owned()), "{targets:?}");
    // Again: nothing is left to move.
    let again = lab.ask("drain_node", request).await;
    assert_eq!(again["n_left"], 2, "{again}");
    assert_eq!(get(&lab, &small).await["generation"], 2);
}

#[tokio::test]
async fn never_do_two_generations_run_on_nodes_that_answer() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    // The old node answers, but does not stop anything yet.
    lab.control("n1").configure(|it| it.delay_ms = 200);
    let drain = lab.ask("drain_node", json!({"node_id": "n1", "action": "move"}));
    let watch = async {
        eventually("the new container to run", || async {
            let is_up = |on: &str| lab.control(on).containers().iter().any(|it| it.state.is_up());
            assert!(!(is_up("n1") && is_up("n2")), "both run");
            is_up("n2").then_some(())
        })
        .await;
    };
    let (drained, ()) = tokio::join!(drain, watch);
    assert_eq!(drained["n_left"], 0, "{drained}");
    only_on(&lab, "n2", &id, "moved").await;
}

#[tokio::test]
async fn a_drain_of_a_lost_node_waits_for_nothing_and_says_what_is_left() {
    let lab = Lab::new(1).await;
    let id = launch(&lab, json!({})).await;
    lose(&lab, "n1").await;
    let drain = |action: &str| lab.ask("drain_node", json!({"node_id": "n1", "action": action}));
    for (action, state) in [("stop", "unreachable"), ("terminate", "shutting-down")] {
        let drained = within(action, drain(action)).await;
        let it = &drained["instances"][0];
        let seen = (&drained["n_left"], &it["error"], &it["state"]);
        assert_eq!(seen, (&json!(1), &json!("NodeUnreachable"), &json!(state)), "{action}: {it}");
    }
    heal(&lab, "n1").await;
    becomes(&lab, &id, "terminated").await;
    assert_eq!(lab.n_containers(), 0);
    lab.check("drained");
}

#[tokio::test]
async fn a_drain_moves_what_a_lost_node_kept() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    lose(&lab, "n1").await;
    let drained = lab.ask("drain_node", json!({"node_id": "n1", "action": "move"})).await;
    assert_eq!(
        (&drained["n_left"], &drained["instances"][0]["moved_to"]),
        (&json!(0), &json!("n2")),
        "{drained}"
    );
    lab.check("moved");
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, "drained while lost").await;
}

#[tokio::test]
async fn a_move_whose_start_fails_stays_stopped_and_can_be_started() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    lab.control("n2").configure(|it| it.fail_starts = 1);
    let drained = lab.ask("drain_node", json!({"node_id": "n1", "action": "move"})).await;
    let it = &drained["instances"][0];
    assert_eq!(
        (&drained["n_left"], &it["error"], &it["state"]),
        (&json!(1), &json!("EngineError"), &json!("stopped")),
        "{it}"
    );
    // A look at the node does not take it for gone, even without a container.
    lab.control("n2").remove_container(&format!("mo-{id}"));
    lab.orch().reconcile_node(&node("n2")).await.unwrap();
    assert_eq!(get(&lab, &id).await["state"], "stopped");
    lab.ask("start_instance", json!({"id": id})).await;
    only_on(&lab, "n2", &id, "started by hand").await;
}

#[tokio::test]
async fn a_port_taken_on_the_new_node_is_passed() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    lab.control("n2").configure(|it| it.foreign_ports = vec![8000, 8001]);
    lab.ask("drain_node", json!({"node_id": "n1", "action": "move"})).await;
    only_on(&lab, "n2", &id, "ports").await;
    let port = get(&lab, &id).await["ports"][0]["host_port"].as_u64().unwrap();
    assert!(8001 < port, "{port}");
}

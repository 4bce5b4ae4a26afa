//! Engines that answer what is true no more: a list that is older than what happened since, and what is left of a start
//! that was cut short.

use std::sync::Arc;

use orch_core::ports::engine::Container;
use orch_core::service::reconcile::Reconciled;
use orch_domain::name::NodeId;
use serde_json::{Value, json};

use crate::harness::lab::Lab;
use crate::harness::replay::Replaying;

async fn launch(lab: &Lab) -> String {
    let answer = lab.ask("launch_instance", json!({"image": "web:1", "ports": [80]})).await;
    answer["id"].as_str().unwrap().to_owned()
}

fn n1() -> NodeId {
    NodeId::try_new("n1").unwrap()
}

async fn list(lab: &Lab) -> Vec<Container> {
    let engine = lab.orch().engine(&n1()).unwrap();
    engine.list(&lab.orch().ledger.store().identity().controller_id).await.unwrap()
}

/// Several passes over the node, further apart than what is nobody's is left alone.
async fn reconcile(lab: &Lab) -> Vec<Reconciled> {
    let mut reports = Vec::new();
    for _ in 0..3 {
        reports.push(lab.orch().reconcile_node(&n1()).await.unwrap());
        tokio::time::sleep(lab.settings.orphan_grace).await;
    }
    reports
}

async fn states(lab: &Lab, ids: &[&String]) -> Vec<String> {
    let mut states = Vec::new();
    for id in ids {
        let instance: Value = lab.ask("get_instance", json!({"id": id})).await;
        states.push(instance["state"].as_str().unwrap().to_owned());
    }
    states
}

#[tokio::test]
async fn an_old_list_deletes_ends_and_revives_nothing() {
    let mut lab = Lab::new(1).await;
    let engines = Arc::new(Replaying::new(lab.engines.clone()));
    lab.look_through(engines.clone()).await;
    let empty = list(&lab).await;
    assert!(empty.is_empty());
    let (running, stopped, ended) = (launch(&lab).await, launch(&lab).await, launch(&lab).await);
    lab.ask("stop_instance", json!({"id": stopped})).await;
    let old = list(&lab).await;
    assert_eq!(old.len(), 3);

    // All of them changed since, and one of the names went to somebody else.
    lab.ask("stop_instance", json!({"id": running})).await;
    lab.ask("start_instance", json!({"id": stopped})).await;
    lab.ask("terminate_instance", json!({"id": ended})).await;
    let new = launch(&lab).await;
    lab.control("n1").put_container(&format!("mo-{ended}"), None);
    let ids = [&running, &stopped, &ended, &new];
    let expected = ["stopped", "running", "terminated", "running"];
    assert_eq!(states(&lab, &ids).await, expected);
    let before = lab.control("n1").containers();
    let n_removed = lab.control("n1").n_calls("remove");

    for replayed in [old, empty] {
        let what = format!("a list of {}", replayed.len());
        engines.answer(Some(replayed));
        for report in reconcile(&lab).await {
            assert_eq!(
                (report.n_corrected, report.n_orphans_removed),
                (0, 0),
                "{what}: {report:?}"
            );
        }
        assert_eq!(states(&lab, &ids).await, expected, "{what}");
        assert_eq!(lab.control("n1").containers(), before, "{what}");
        assert_eq!(lab.control("n1").n_calls("remove"), n_removed, "{what}");
    }
    engines.answer(None);
    reconcile(&lab).await;
    lab.check("the true list");
    assert_eq!(lab.control("n1").containers().len(), 4, "the stranger is left alone");
}

#[tokio::test]
async fn a_start_that_was_cut_short_begins_anew_with_another_container() {
    let mut lab = Lab::new(1).await;
    let engines = Arc::new(Replaying::new(lab.engines.clone()));
    lab.look_through(engines.clone()).await;
    engines.cut_short(2);
    let id = launch(&lab).await;
    assert_eq!(states(&lab, &[&id]).await, ["running"]);
    let n_calls = |verb| lab.control("n1").n_calls(verb);
    assert_eq!((n_calls("create"), n_calls("remove"), n_calls("start")), (3, 2, 1));
    lab.check("begun anew");

    // What has run has data in it: it is not thrown away, and its user is told.
    lab.ask("stop_instance", json!({"id": id})).await;
    engines.cut_short(1);
    let refused = lab.call("start_instance", json!({"id": id})).await;
    assert!(refused.is_err(), "{refused:?}");
    let instance = lab.ask("get_instance", json!({"id": id})).await;
    assert_eq!(instance["state"], "stopped", "{instance}");
    assert_eq!(instance["state_reason"]["code"], "Server.EngineError", "{instance}");
    lab.check("told");

    // An engine that never gets over it does not keep a launch for ever.
    engines.cut_short(u32::MAX);
    let refused = lab.call("launch_instance", json!({"image": "web:1"})).await;
    assert!(refused.is_err(), "{refused:?}");
    lab.check("given up");
}

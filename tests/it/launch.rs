//! Launching: all or none, once per token, within quota, around ports of others, and without a trace when cancelled.

use std::collections::BTreeSet;

use futures::future::join_all;
use orch_core::Cx;
use orch_domain::Error;
use orch_domain::instance::InstanceState;
use orch_domain::node::SimConfig;
use serde_json::json;

use crate::harness::caller::{ann, bob, op};
use crate::harness::eventually;
use crate::harness::lab::Lab;

#[tokio::test]
async fn two_hundred_launches_with_one_token_are_one_instance() {
    let lab = Lab::new(3).await;
    let arguments = json!({"image": "web:1", "ports": [80], "client_token": "once"});
    let answers = join_all((0..200).map(|_| lab.call("launch_instance", arguments.clone()))).await;
    let ids: BTreeSet<String> = answers
        .into_iter()
        .map(|it| it.unwrap().value["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(lab.instances().await.len(), 1);
    lab.check("one token");
    let other = json!({"image": "web:2", "client_token": "once"});
    let err = lab.call("launch_instance", other).await.unwrap_err();
    assert!(matches!(err, Error::IdempotentParameterMismatch { .. }), "{err}");
}

#[tokio::test]
async fn two_hundred_launches_at_quota_ten_are_ten_and_a_hundred_and_ninety_refusals() {
    let lab = Lab::new(3).await;
    let answers = join_all((0..200).map(|n| {
        let (op, orch, cx) = (op("launch_instance"), lab.orch().clone(), bob());
        async move {
            (op.call)(orch, cx, json!({"image": "web:1", "ports": [80], "name": format!("w{n}")}))
                .await
        }
    }))
    .await;
    let n_launched = answers.iter().filter(|it| it.is_ok()).count();
    let n_refused = answers.iter().filter(|it| matches!(it, Err(Error::QuotaExceeded(_)))).count();
    assert_eq!((n_launched, n_refused), (10, 190));
    lab.check("quota");
}

#[tokio::test]
async fn a_count_is_all_or_none() {
    let lab = Lab::new(1).await;
    let err = lab
        .call("launch_instance", json!({"image": "web:1", "count": 5, "cpu": 4}))
        .await
        .unwrap_err();
    assert!(matches!(err, Error::InsufficientCapacity(_)), "{err}");
    assert!(lab.instances().await.is_empty());
    let four = lab
        .ask("launch_instance", json!({"image": "web:1", "count": 4, "cpu": 4, "name": "web"}))
        .await;
    let names: Vec<&str> = four["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["web-1", "web-2", "web-3", "web-4"]);
    lab.check("count");
}

#[tokio::test]
async fn a_dry_run_decides_and_leaves_nothing() {
    let lab = Lab::new(2).await;
    let answer =
        lab.ask("launch_instance", json!({"image": "web:1", "dry_run": true, "count": 3})).await;
    assert_eq!(answer["placement"].as_array().unwrap().len(), 3);
    assert_eq!(answer["instances"], json!([]));
    assert!(lab.instances().await.is_empty());
    lab.check("dry run");
}

#[tokio::test]
async fn fifty_ports_of_somebody_else_are_skipped_without_a_leftover() {
    let lab =
        Lab::with(1, SimConfig { foreign_ports: (8000..8050).collect(), ..SimConfig::default() })
            .await;
    let answer = lab.ask("launch_instance", json!({"image": "web:1", "ports": [80]})).await;
    let port = answer["ports"][0]["host_port"].as_u64().unwrap();
    assert!((8050..=9000).contains(&port), "{port}");
    lab.check("foreign ports");
    // What was found out is remembered: the next one does not run into the same ports.
    let before = lab.control("n1").n_calls("start");
    lab.ask("launch_instance", json!({"image": "web:1", "ports": [80], "name": "second"})).await;
    assert!(lab.control("n1").n_calls("start") - before <= 3);
}

#[tokio::test]
async fn a_launch_that_fails_leaves_only_its_record() {
    let lab = Lab::with(1, SimConfig { fail_starts: 1, ..SimConfig::default() }).await;
    let err =
        lab.call("launch_instance", json!({"image": "web:1", "ports": [80]})).await.unwrap_err();
    assert!(matches!(err, Error::EngineError { .. }), "{err}");
    let instances = lab.instances().await;
    assert_eq!(instances[0]["state"], "terminated");
    assert_eq!(instances[0]["state_reason"]["code"], "Server.EngineError");
    lab.check("failed start");
    let err = lab.call("launch_instance", json!({"image": "missing:1"})).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { kind: "image", .. }), "{err}");
}

#[tokio::test]
async fn a_cancelled_launch_leaves_nothing_behind() {
    for image in ["web:1", "pull/web:1"] {
        let lab = Lab::with(
            1,
            SimConfig { start_delay_ms: 400, pull_delay_ms: 60_000, ..SimConfig::default() },
        )
        .await;
        let cx: Cx = ann();
        let cancel = cx.cancel.clone();
        let launch = lab.call_as(&cx, "launch_instance", json!({"image": image, "ports": [80]}));
        let withdraw = async {
            eventually("the launch to be under way", || async {
                (!lab.instances().await.is_empty()).then_some(())
            })
            .await;
            cancel.cancel();
        };
        let (answer, ()) = tokio::join!(launch, withdraw);
        assert!(matches!(answer, Err(Error::Cancelled { .. })), "{answer:?}");
        eventually("the launch to be undone", || async {
            let all = lab.instances().await;
            all.iter().all(|it| it["state"] == "terminated").then_some(())
        })
        .await;
        assert_eq!(lab.instances().await[0]["state_reason"]["code"], "Client.LaunchCancelled");
        assert!(lab.control("n1").containers().is_empty());
        lab.check("cancelled");
    }
}

#[tokio::test]
async fn a_caller_that_is_dropped_after_cancelling_is_undone_too() {
    let lab = Lab::with(1, SimConfig { start_delay_ms: 300, ..SimConfig::default() }).await;
    let cx = ann();
    let mut launch = Box::pin(lab.call_as(&cx, "launch_instance", json!({"image": "web:1"})));
    tokio::select! {
        _ = &mut launch => panic!("it takes 300 ms"),
        () = eventually("a record", || async { (!lab.instances().await.is_empty()).then_some(()) }) => {}
    }
    cx.cancel.cancel();
    drop(launch);
    eventually("the undo", || async {
        (lab.instances().await[0]["state"] == "terminated").then_some(())
    })
    .await;
    lab.check("dropped");
}

#[tokio::test]
async fn a_node_that_does_not_answer_fails_the_launch_and_keeps_the_reservation_until_it_does() {
    let lab = Lab::new(1).await;
    lab.control("n1").configure(|it| it.unreachable = true);
    let launch = lab
        .call("launch_instance", json!({"image": "web:1", "ports": [80], "wait": false}))
        .await
        .unwrap();
    let id = launch.value["id"].as_str().unwrap().to_owned();
    eventually("the launch to be given up", || async {
        (lab.ask("get_instance", json!({"id": id})).await["state"] == "shutting-down").then_some(())
    })
    .await;
    // Nobody has seen that there is no container, so nothing is given back.
    assert_eq!(
        lab.orch()
            .ledger
            .read(|book| book.usage(&orch_domain::name::UserId::try_new("ann").unwrap()).instances),
        1
    );
    lab.control("n1").configure(|it| it.unreachable = false);
    lab.at_rest().await;
    let instance = lab.ask("get_instance", json!({"id": id})).await;
    assert_eq!(
        (&instance["state"], &instance["state_reason"]["code"]),
        (&json!("terminated"), &json!("Server.NodeUnreachable"))
    );
    lab.check("unreachable");
}

#[tokio::test]
async fn protection_holds_and_users_see_their_own() {
    let lab = Lab::new(1).await;
    let mine = lab
        .call_as(
            &bob(),
            "launch_instance",
            json!({"image": "web:1", "termination_protection": true}),
        )
        .await
        .unwrap();
    let id = mine.value["id"].clone();
    let carol = crate::harness::caller::caller(
        "carol",
        &[orch_domain::caller::Permission::Read, orch_domain::caller::Permission::Write],
    );
    for name in ["get_instance", "stop_instance", "terminate_instance"] {
        let err = lab.call_as(&carol, name, json!({"id": id})).await.unwrap_err();
        assert!(matches!(err, Error::NotFound { .. }), "{name}: {err}");
    }
    assert_eq!(
        lab.call_as(&carol, "list_instances", json!({})).await.unwrap().value["total_count"],
        0
    );
    assert_eq!(lab.call("list_instances", json!({})).await.unwrap().value["total_count"], 1);
    let err = lab.call_as(&bob(), "terminate_instance", json!({"id": id})).await.unwrap_err();
    assert!(matches!(err, Error::IncorrectState { .. }), "{err}");
    lab.call_as(&bob(), "update_instance", json!({"id": id, "termination_protection": false}))
        .await
        .unwrap();
    lab.call_as(&bob(), "terminate_instance", json!({"id": id})).await.unwrap();
    lab.check("protection");
}

#[tokio::test]
async fn pages_and_filters_find_each_instance_once() {
    let lab = Lab::new(2).await;
    lab.ask(
        "launch_instance",
        json!({"image": "web:1", "count": 4, "name": "web", "labels": {"tier": "web"}}),
    )
    .await;
    lab.ask(
        "launch_instance",
        json!({"image": "db:1", "count": 3, "name": "db", "labels": {"tier": "db"}}),
    )
    .await;
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page = lab.ask("list_instances", json!({"page_size": 3, "page_token": token})).await;
        assert_eq!(page["total_count"], 7);
        seen.extend(
            page["instances"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["id"].as_str().unwrap().to_owned()),
        );
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 7);
    assert_eq!(seen.len(), 7);
    let web = lab
        .ask(
            "list_instances",
            json!({"labels": {"tier": "web"}, "state": [InstanceState::Running]}),
        )
        .await;
    assert_eq!(web["total_count"], 4);
    let err = lab.call("list_instances", json!({"page_token": "nonsense"})).await.unwrap_err();
    assert!(matches!(err, Error::InvalidParameter { .. }), "{err}");
}

#[tokio::test]
async fn when_one_of_a_count_fails_the_others_do_not_stay() {
    let lab = Lab::with(1, SimConfig { fail_starts: 1, ..SimConfig::default() }).await;
    let err = lab.call("launch_instance", json!({"image": "web:1", "count": 3})).await.unwrap_err();
    assert!(matches!(err, Error::EngineError { .. }), "{err}");
    let left: Vec<_> =
        lab.instances().await.into_iter().filter(|it| it["state"] != "terminated").collect();
    assert!(left.is_empty(), "{left:?}");
    lab.check("one of three failed");
    lab.ask("launch_instance", json!({"image": "web:1", "count": 3})).await;
}

#[tokio::test]
async fn a_start_that_somebody_ends_or_a_lost_node_says_so() {
    let lab = Lab::with(1, SimConfig { start_delay_ms: 100, ..SimConfig::default() }).await;
    let id = lab.ask("launch_instance", json!({"image": "web:1"})).await["id"].clone();
    let one = json!({"id": id});
    lab.ask("stop_instance", one.clone()).await;
    lab.control("n1").configure(|it| it.unreachable = true);
    let err = lab.call("start_instance", one.clone()).await.unwrap_err();
    assert!(matches!(err, Error::NodeUnreachable { .. }), "{err}");
    lab.control("n1").configure(|it| it.unreachable = false);
    let start = lab.call("start_instance", one.clone());
    let terminate = async {
        let is_pending = || async {
            (lab.ask("get_instance", one.clone()).await["state"] == "pending").then_some(())
        };
        eventually("the start to be under way", is_pending).await;
        lab.ask("terminate_instance", one.clone()).await;
    };
    let (started, ()) = futures::future::join(start, terminate).await;
    let err = started.unwrap_err();
    assert!(matches!(err, Error::IncorrectState { .. }), "{err}");
    assert!(err.to_string().contains("terminated on request"), "{err}");
    lab.check("a start that was ended");
}

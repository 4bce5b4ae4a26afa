//! Answers as Ray 2.60 gives them, cut to what matters, and what else may come.

use serde_json::json;

use super::*;

const WORKER: &str = "5397a3aff57d36b1b4c1cb946824a154598caf3315cfc5e8dd743ffc";

fn v0_nodes() -> Value {
    json!({"result": true, "data": {"result": {"total": 2, "result": [
        {"node_id": WORKER, "node_ip": "10.0.0.12", "is_head_node": false, "state": "ALIVE",
         "state_message": null, "node_name": "10.0.0.12",
         "resources_total": {"GPU": 2.0, "memory": 3221225472.0, "CPU": 4.0, "node:10.0.0.12": 1.0, "accel_fake": 1.0},
         "labels": {"zone": "b"}, "start_time_ms": 1795219284175i64, "end_time_ms": 0},
        {"node_id": "be2d", "node_ip": "10.0.0.11", "is_head_node": true, "state": "DEAD",
         "state_message": "Unexpected termination: health check failed", "resources_total": {"CPU": 2.0}}
    ]}}})
}

/// Keys in camel case, as the dashboard makes them: also those that are names and ids.
fn cluster_status() -> Value {
    json!({"result": true, "data": {"clusterStatus": {
        "autoscalerReport": {"activeNodes": {"node5397A3Aff57D36B1": 1}},
        "loadMetricsReport": {
            "usage": {"CPU": [2.5, 6.0], "accelFake": [1.0, 1.0]},
            "resourceDemand": [[{"CPU": 1.0}, 3], [{"GPU": 1.0}, 2]], "pgDemand": [],
            "usageByNode": {WORKER: {"CPU": [2.5, 4.0], "GPU": [0.5, 2.0], "memory": [1073741824.0, 3221225472.0],
                                     "accelFake": [1.0, 1.0], "objectStoreMemory": [0.0, 1.0]}}
        }
    }}})
}

#[test]
fn nodes_take_names_and_totals_from_one_place_and_use_from_the_other() {
    let nodes = nodes(&v0_nodes(), &in_use(&cluster_status())).unwrap();
    let worker = &nodes[0];
    assert_eq!((worker.state, worker.is_head), (RayNodeState::Alive, false));
    assert_eq!(worker.resources, BTreeMap::from([("accel_fake".to_owned(), 1.0)]));
    assert_eq!(
        worker.usage,
        RayUse {
            cpu_used: Some(Cpu::from_millis(2500)),
            cpu_total: Cpu::from_millis(4000),
            gpu_used: Some(0.5),
            gpu_total: 2.0,
            memory_used: Some(Memory::from_mib(1024)),
            memory_total: Memory::from_mib(3072),
        }
    );
    assert_eq!(worker.ended_at, None, "0 is no time");
    let dead = &nodes[1];
    assert_eq!((dead.state, dead.usage.cpu_used), (RayNodeState::Dead, None));
    assert!(dead.message.as_ref().unwrap().contains("health check"));
    assert_eq!(in_use(&cluster_status()).n_pending, Some(5));
}

#[test]
fn use_is_read_from_the_text_where_there_is_nothing_better() {
    let summary = json!({"data": {"nodeLogicalResources": {
        WORKER.to_uppercase(): "2.0/4.0 CPU\n0.5/2.0 GPU\n512.5MiB/4.66GiB memory\n0B/95.37MiB object_store_memory\nnonsense"
    }}});
    let by_node = logical_resources(&summary);
    let taken = by_node[WORKER];
    assert_eq!((taken.cpu, taken.gpu), (Some(2.0), Some(0.5)));
    assert_eq!(taken.memory, Some(512.5 * f64::from(1 << 20)));
    for odd in [json!(null), json!([1]), json!({"data": {"nodeLogicalResources": {"a": 3}}})] {
        assert!(logical_resources(&odd).is_empty(), "{odd}");
    }
}

#[test]
fn what_is_missing_or_odd_is_absent_and_never_a_panic() {
    let odd = json!({"data": {"result": [
        {"node_id": "a", "state": "DRAINING", "resources_total": {"CPU": "many", "GPU": -1, "memory": 1e300},
         "start_time_ms": "1795219284175", "labels": 3},
        {"state": "ALIVE"}, 7, null
    ]}});
    let nodes = nodes(&odd, &InUse::default()).unwrap();
    assert_eq!(nodes.len(), 1, "what has no id is no node");
    let it = &nodes[0];
    assert_eq!((it.state, it.usage.cpu_total), (RayNodeState::Unknown, Cpu::ZERO));
    assert_eq!(it.usage.gpu_total, 0.0);
    assert_eq!(it.started_at, Some(Timestamp::from_millis(1_795_219_284_175)));
    for answer in [json!(null), json!([]), json!({"data": {"result": "x"}})] {
        assert!(super::nodes(&answer, &InUse::default()).is_err(), "{answer}");
        assert_eq!(in_use(&answer), InUse::default());
    }
    assert!(jobs(&json!({"detail": "no"})).is_err());
    assert_eq!(jobs(&json!([{"status": "RUNNING"}, 3, {"job_id": "02000000"}])).unwrap().len(), 1);
}

#[test]
fn a_job_hides_values_of_its_environment_and_escapes() {
    let job = job(&json!({
        "type": "SUBMISSION", "job_id": null, "submission_id": "mo_1", "driver_info": null, "status": "FAILED",
        "entrypoint": "python \u{1b}[31mjob.py", "message": "failed with exit code 1", "start_time": 1795219300885i64,
        "end_time": null, "metadata": {"mcp-orch.owner": "ann", "n": 3},
        "runtime_env": {"env_vars": {"TOKEN": "hunter2"}}, "driver_exit_code": 1, "new_in_3.0": {}
    }))
    .unwrap();
    assert_eq!(
        (job.status, job.exit_code, job.owner()),
        (RayJobStatus::Failed, Some(1), Some("ann"))
    );
    assert_eq!(job.entrypoint, "python job.py");
    assert_eq!(job.env_names, ["TOKEN"]);
    assert!(!format!("{job:?}").contains("hunter2"));
    let driver =
        super::job(&json!({"type": "DRIVER", "job_id": "01000000", "submission_id": null}))
            .unwrap();
    assert_eq!((driver.id.as_str(), driver.was_submitted), ("01000000", false));
}

#[test]
fn the_end_of_logs_is_read_from_a_whole_line_on() {
    let all = "first\nC:\\new\\\nthe \"end\"\u{e9}\n";
    let json = json!({ "logs": all }).to_string();
    assert_eq!(
        logs(json.as_bytes(), false).unwrap(),
        RayLogs { text: all.to_owned(), is_cut: false }
    );
    let mut n_read = 0;
    for at in 9..json.len() {
        let Ok(RayLogs { text, is_cut }) = logs(&json.as_bytes()[at..], true) else { continue };
        assert!(is_cut && all.ends_with(&text), "cut at {at}: {text:?}");
        // Whole lines only.
        assert!(
            ["", "the \"end\"\u{e9}\n", "C:\\new\\\nthe \"end\"\u{e9}\n"].contains(&text.as_str()),
            "{text:?}"
        );
        n_read += 1;
    }
    assert!(20 < n_read, "{n_read}");
    assert_eq!(logs(br#"{"logs": null}"#, false).unwrap(), RayLogs::default());
    assert!(logs(b"no newline\"}", true).is_err());
}

//! Jobs of Ray: submitted once, seen by those whose they are, read and stopped.

use std::sync::Arc;

use orch_core::Cx;
use orch_core::cx::Progress;
use orch_domain::ErrorCode::{Cancelled, IdempotentParameterMismatch, InvalidParameter, NotFound};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::eventually;
use crate::harness::ray::RayState;
use crate::ray::start;

fn job(entrypoint: &str) -> Value {
    json!({"entrypoint": entrypoint})
}

#[tokio::test]
async fn a_job_is_submitted_once_however_often_it_is_asked_for() {
    let (server, cloud) = start().await;
    let wanted = json!({
        "entrypoint": "python job.py", "client_token": "t-1", "metadata": {"team": "web"},
        "runtime_env": {"env_vars": {"SECRET": "hunter2"}}, "entrypoint_num_cpus": 1
    });
    let racing = (0..8).map(|_| cloud.ok(DEMO, "ray_submit_job", wanted.clone()));
    let answers = futures::future::join_all(racing).await;
    assert_eq!(server.change(|it| it.jobs.len()), 1);
    assert_eq!(answers.iter().filter(|it| it["existed"] == false).count(), 1);
    let first = &answers[0];
    assert!(answers.iter().all(|it| it["job_id"] == first["job_id"]));
    assert_eq!((&first["owner"], &first["status"]), (&json!(DEMO), &json!("running")));
    assert_eq!(
        (&first["metadata"], &first["env_names"]),
        (&json!({"team": "web"}), &json!(["SECRET"]))
    );
    assert!(!first.to_string().contains("hunter2"), "{first}");
    assert_eq!(server.change(|it| it.jobs[0]["entrypoint_num_cpus"].clone()), 1.0);

    let mut other = wanted.clone();
    other["entrypoint"] = "python other.py".into();
    cloud.refused(DEMO, "ray_submit_job", other, IdempotentParameterMismatch).await;
    // Another user's token of the same name is another job.
    let theirs = cloud.ok(ADMIN, "ray_submit_job", wanted.clone()).await;
    assert_ne!(theirs["job_id"], first["job_id"]);
    // Without a token each call is a job of its own.
    for _ in 0..2 {
        cloud.ok(DEMO, "ray_submit_job", job("true")).await;
    }
    assert_eq!(server.change(|it| it.jobs.len()), 4);
    let audited = cloud.audit().iter().any(|it| {
        it.operation == "ray_submit_job"
            && it.targets.contains(&first["job_id"].as_str().unwrap().to_owned())
    });
    assert!(audited);
}

#[tokio::test]
async fn a_job_whose_answer_was_lost_is_found_again() {
    let (server, cloud) = start().await;
    server.change(|it| it.loses_answers = true);
    let answer = cloud.ok(DEMO, "ray_submit_job", job("true")).await;
    assert_eq!((&answer["status"], server.change(|it| it.jobs.len())), (&json!("running"), 1));
}

#[tokio::test]
async fn jobs_are_seen_by_those_who_submitted_them_and_by_administrators() {
    let (server, cloud) = start().await;
    let mine = cloud.ok(DEMO, "ray_submit_job", job("mine")).await["job_id"].clone();
    let theirs = cloud.ok(ADMIN, "ray_submit_job", job("theirs")).await["job_id"].clone();
    server.change(|it| {
        it.jobs.push(json!({"type": "DRIVER", "job_id": "01000000", "submission_id": null, "status": "SUCCEEDED", "start_time": 1}));
        it.logs = "hello\n\u{1b}[31mred\u{1b}[0m\nlast \u{202e}line\n".to_owned();
    });
    let ids = |it: &Value| -> Vec<Value> {
        it["jobs"].as_array().unwrap().iter().map(|it| it["job_id"].clone()).collect()
    };
    assert_eq!(ids(&cloud.ok(DEMO, "ray_list_jobs", json!({})).await), vec![mine.clone()]);
    let all = cloud.ok(ADMIN, "ray_list_jobs", json!({})).await;
    assert_eq!(ids(&all), [theirs.clone(), mine.clone(), json!("01000000")], "newest first");
    let page = cloud.ok(ADMIN, "ray_list_jobs", json!({"page_size": 2})).await;
    let rest = json!({"page_size": 2, "page_token": page["next_page_token"]});
    assert_eq!(ids(&cloud.ok(ADMIN, "ray_list_jobs", rest).await), [json!("01000000")]);
    let running = json!({"status": ["running"], "job_id": mine});
    assert_eq!(ids(&cloud.ok(DEMO, "ray_list_jobs", running).await), vec![mine.clone()]);
    let hidden = cloud.ok(DEMO, "ray_list_jobs", json!({"job_id": theirs})).await;
    assert_eq!(hidden["total_count"], 0);

    for name in ["ray_job_logs", "ray_stop_job"] {
        for id in [theirs.clone(), json!("nobody")] {
            cloud.refused(DEMO, name, json!({"job_id": id}), NotFound).await;
        }
        // No way into other parts of the dashboard.
        for id in ["../v0/nodes", "a/b", "a?b", "", "a b", "%2e%2e"] {
            cloud.refused(DEMO, name, json!({"job_id": id}), InvalidParameter).await;
        }
    }
    let logs = cloud.ok(DEMO, "ray_job_logs", json!({"job_id": mine})).await;
    assert_eq!((&logs["text"], &logs["n_lines"]), (&json!("hello\nred\nlast line\n"), &json!(3)));
    assert!(logs["notice"].as_str().unwrap().starts_with("Untrusted"));
    let tail = cloud.ok(DEMO, "ray_job_logs", json!({"job_id": mine, "tail": 1})).await;
    assert_eq!((&tail["text"], &tail["truncated"]), (&json!("last line\n"), &json!(true)));

    let stopped = cloud.ok(DEMO, "ray_stop_job", json!({"job_id": mine})).await;
    assert_eq!((&stopped["stopped"], &stopped["status"]), (&json!(true), &json!("stopped")));
    let again = cloud.ok(DEMO, "ray_stop_job", json!({"job_id": mine})).await;
    assert_eq!(again["stopped"], false, "there is nothing to stop any more");
}

#[tokio::test]
async fn what_a_job_may_not_be_is_refused_before_ray_is_asked() {
    let (server, cloud) = start().await;
    let too_long = "x".repeat(40_000);
    for (parameter, arguments) in [
        ("entrypoint", json!({})),
        ("entrypoint", job("  ")),
        ("entrypoint", job(&too_long)),
        ("entrypoint", job("a\0b")),
        ("runtime_env", json!({"entrypoint": "a", "runtime_env": []})),
        ("runtime_env", json!({"entrypoint": "a", "runtime_env": {"a": too_long, "b": too_long}})),
        ("metadata", json!({"entrypoint": "a", "metadata": {"mcp-orch.owner": "user-admin-001"}})),
        ("entrypoint_num_cpus", json!({"entrypoint": "a", "entrypoint_num_cpus": -1})),
        ("submission_id", json!({"entrypoint": "a", "submission_id": "b"})),
    ] {
        let refusal = cloud.refused(DEMO, "ray_submit_job", arguments, InvalidParameter).await;
        assert_eq!(refusal["parameter"], parameter, "{refusal}");
    }
    cloud.refused(DEMO, "ray_list_jobs", json!({"page_token": "zz"}), InvalidParameter).await;
    let jobs_asked =
        server.change(|it| it.asked.iter().filter(|it| it.0.contains("/api/jobs")).count());
    assert_eq!(jobs_asked, 0);
}

#[tokio::test]
async fn waiting_for_a_job_ends_with_the_job() {
    let (server, cloud) = start().await;
    let waited = json!({"entrypoint": "true", "wait": true});
    let (answer, ()) = tokio::join!(cloud.ok(DEMO, "ray_submit_job", waited), async {
        eventually("the job is there", || async {
            let change =
                |it: &mut RayState| it.jobs.first_mut().map(|it| it["status"] = "SUCCEEDED".into());
            server.change(change)
        })
        .await;
    });
    assert_eq!(answer["status"], "succeeded");
}

#[tokio::test]
async fn of_endless_logs_the_end_is_shown() {
    let (server, cloud) = start().await;
    let id = cloud.ok(DEMO, "ray_submit_job", job("yes")).await["job_id"].clone();
    server.change(|it| it.logs = format!("{}the end\n", "yes \\\n".repeat(3 << 20)));
    let logs = json!({"job_id": id, "tail": 2});
    let logs = cloud.ok(DEMO, "ray_job_logs", logs).await;
    assert_eq!((&logs["text"], &logs["truncated"]), (&json!("yes \\\nthe end\n"), &json!(true)));
}

#[tokio::test]
async fn whoever_stops_waiting_leaves_the_job_as_it_is() {
    let (server, cloud) = start().await;
    let (cancel, told) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
    let listener = {
        let (cancel, told) = (cancel.clone(), told.clone());
        move |it: orch_core::cx::ProgressUpdate| {
            told.lock().push(it.message);
            cancel.cancel();
        }
    };
    let cx = Cx::new(Some(cloud.caller(DEMO)));
    let cx = cx.with_cancel(cancel).with_progress(Progress::to(listener));
    let waited = json!({"entrypoint": "sleep 600", "wait": true});
    let err = cloud.call_as(&cx, "ray_submit_job", waited).await.unwrap_err();
    let id = server.change(|it| it.jobs[0]["submission_id"].as_str().unwrap().to_owned());
    assert_eq!(err.code(), Cancelled);
    assert!(err.to_string().contains(&format!("`{id}` goes on")), "{err}");
    assert_eq!(*told.lock(), [format!("the job `{id}` is running")]);
    assert_eq!(server.change(|it| it.jobs[0]["status"].clone()), "RUNNING");
}

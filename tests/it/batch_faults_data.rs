//! Batches that are large, planners that fail, and disks that fill up.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use orch_core::ports::model::{End, Model, Piece, Prompt};
use orch_domain::Error;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::batches::{Site, plan, state, step};
use crate::harness::caller::ann;
use crate::harness::eventually;
use crate::harness::lab::Lab;

/// Kilobytes of a process that are in memory at most so far.
fn peak_kb(pid: u32) -> u64 {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_fifty_megabytes_is_kept_read_in_pieces_and_taken_over() {
    let site = Site::new().await;
    let before = peak_kb(site.server.pid());
    let big = json!({"arguments": {"do": "big", "mb": 50}});
    let takes = json!({"arguments": {"x": {"$ref": "big#/structuredContent/head"}}});
    let asks = json!({"when": {"eq": [{"$ref": "big#/structuredContent/head"}, "big"]}});
    let steps = vec![
        step("big", "work", big),
        step("takes", "work", takes),
        step("asks", "work", asks),
        step("undone", "work", json!({"depends_on": ["takes", "asks"]})),
    ];
    let id = site.execute(plan(steps)).await;
    let ended = site.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let taken = site.shop.calls().into_iter().find(|it| it.key == "takes").unwrap();
    assert_eq!((&taken.arguments["x"], state(&ended, "asks")), (&json!("big"), "succeeded"));

    let result = site.server.get(&format!("/batch/result/{id}?step=big")).await;
    let size = result["results"][0]["large"]["n_bytes"].as_u64().unwrap();
    assert!(50_000_000 < size && result["results"][0]["result"].is_null(), "{size}");
    let (mut whole, mut offset) = (String::new(), Some(0));
    while let Some(from) = offset {
        let path = format!("/batch/result/{id}?step=big&offset={from}");
        let piece = site.server.get(&path).await;
        whole.push_str(piece["piece"]["text"].as_str().unwrap());
        offset = piece["piece"]["next_offset"].as_u64();
    }
    assert_eq!(whole.len() as u64, size);
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["structuredContent"]["text"].as_str().unwrap().len(), 50_000_000);
    let grown = (peak_kb(site.server.pid()) - before) / 1000;
    println!("a result of 50 MB took at most {grown} MB");
    assert!(grown < 600, "{grown} MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_a_hundred_thousand_steps_runs_and_is_looked_at_meanwhile() {
    const N: usize = 100_000;
    let lab = Lab::new(1).await;
    // Chains of a thousand, so that there is something to wait for.
    let steps: Vec<Value> = (0..N)
        .map(|n| {
            let mut step = json!({"id": format!("s{n}"), "tool": "whoami", "arguments": {}});
            if n % 1000 != 0 {
                step["depends_on"] = json!([format!("s{}", n - 1)]);
            }
            step
        })
        .collect();
    let mut body = plan(steps);
    body["max_parallel_tasks"] = json!(1000);
    let before = peak_kb(std::process::id());
    let begun = Instant::now();
    let accepted = lab.ask("batch_execute", body).await;
    let id = accepted["task_id"].as_str().unwrap();
    let (taken, mut slowest) = (begun.elapsed(), Duration::ZERO);
    let page = json!({"task_id": id, "page_size": 10});
    let ended = loop {
        let asked = Instant::now();
        let seen = lab.ask("batch_status", page.clone()).await;
        slowest = slowest.max(asked.elapsed());
        if seen["state"] != "running" && seen["state"] != "queued" {
            break seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "{}", seen["steps"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let took = begun.elapsed();
    assert_eq!(ended["state"], "succeeded", "{}", ended["reason"]);
    assert_eq!((&ended["steps"]["succeeded"], &ended["steps"]["total"]), (&json!(N), &json!(N)));
    let page = lab.ask("batch_status", json!({"task_id": id, "page_size": 1000})).await;
    assert_eq!(page["step_list"].as_array().unwrap().len(), 1000);
    assert_ne!(page["next_page_token"], "");
    let grown = (peak_kb(std::process::id()) - before) / 1000;
    println!(
        "100,000 steps: accepted after {taken:?}, ended after {took:?}, at most {grown} MB more, slowest look {slowest:?}"
    );
    assert!(grown < 1500, "{grown} MB");
}

/// Writes what it is given, when it is given.
struct Author(Mutex<VecDeque<mpsc::UnboundedReceiver<Result<Piece, Error>>>>);

#[async_trait]
impl Model for Author {
    fn name(&self) -> String {
        "the author".to_owned()
    }

    async fn generate(
        &self,
        _: &Prompt,
    ) -> Result<BoxStream<'static, Result<Piece, Error>>, Error> {
        let Some(pieces) = self.0.lock().pop_front() else { return Err(gone()) };
        Ok(stream::unfold(pieces, |mut it| async move { Some((it.recv().await?, it)) }).boxed())
    }
}

fn gone() -> Error {
    Error::Unavailable { message: "the model is gone".to_owned(), source: None }
}

fn line(id: &str, after: &str) -> Result<Piece, Error> {
    let after: Vec<&str> = after.split_terminator(' ').collect();
    let step = json!({"id": id, "tool": "orch.list_nodes", "arguments": {}, "depends_on": after});
    Ok(Piece::Text(format!("{step}\n")))
}

/// A lab, the id of a batch that a model plans, and what writes its plan.
async fn planned() -> (Lab, String, mpsc::UnboundedSender<Result<Piece, Error>>) {
    let lab = Lab::new(1).await;
    let (write, pieces) = mpsc::unbounded_channel();
    let model = Arc::new(Author(Mutex::new(VecDeque::from([pieces]))));
    let cx = ann().with_model(model);
    let (orch, op) = (lab.orch().clone(), crate::harness::caller::op("batch_execute"));
    let arguments = json!({"request": "look at the nodes", "answer": false});
    let asked = (op.call)(orch, cx, arguments);
    #[expect(clippy::disallowed_methods, reason = "it ends with the plan")]
    tokio::spawn(asked);
    let id = eventually("the batch", || async {
        let listed = lab.ask("list_batches", json!({})).await;
        listed["batches"][0]["task_id"].as_str().map(str::to_owned)
    })
    .await;
    (lab, id, write)
}

async fn look(lab: &Lab, id: &str) -> Value {
    lab.ask("batch_status", json!({"task_id": id})).await
}

#[tokio::test]
async fn steps_run_to_their_end_while_the_planner_says_nothing() {
    let (lab, id, write) = planned().await;
    for it in [line("a", ""), line("b", "a"), line("c", "a b")] {
        write.send(it).unwrap();
    }
    // It is silent until all of this is seen, however long that takes.
    eventually("all steps to end", || async {
        (look(&lab, &id).await["steps"]["succeeded"] == 3).then_some(())
    })
    .await;
    assert_eq!(look(&lab, &id).await["state"], "planning");
    write.send(line("d", "c")).unwrap();
    write.send(Ok(Piece::Text("{\"done\": true}\n".to_owned()))).unwrap();
    let end = End { is_cut: false, input_tokens: None, output_tokens: None };
    write.send(Ok(Piece::End(end))).unwrap();
    eventually("the batch to end", || async {
        let seen = look(&lab, &id).await;
        (seen["state"] == "succeeded" && seen["steps"]["succeeded"] == 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_planner_that_dies_in_the_middle_ends_the_batch_with_its_reason() {
    let (mut lab, id, write) = planned().await;
    write.send(line("a", "")).unwrap();
    write.send(Err(gone())).unwrap();
    drop(write);
    let ended = eventually("the batch to end", || async {
        let seen = look(&lab, &id).await;
        (seen["state"] == "failed").then_some(seen)
    })
    .await;
    assert!(ended["reason"]["message"].as_str().unwrap().contains("gone"), "{}", ended["reason"]);
    assert_eq!(state(&ended, "a"), "succeeded", "what it had written was done");
    // Nothing of it is left that would keep the store from being opened again.
    lab.restart().await;
    lab.orch().load_batches().await.unwrap();
    assert_eq!(look(&lab, &id).await["state"], "failed");
}

#[tokio::test]
async fn a_silent_planner_is_left_when_its_batch_is_cancelled() {
    let (mut lab, id, write) = planned().await;
    write.send(line("a", "")).unwrap();
    eventually("the step", || async {
        (look(&lab, &id).await["steps"]["succeeded"] == 1).then_some(())
    })
    .await;
    lab.ask("batch_cancel", json!({"task_id": id})).await;
    let seen = look(&lab, &id).await;
    assert_eq!((&seen["state"], state(&seen, "a")), (&json!("cancelled"), "succeeded"));
    lab.restart().await;
    assert!(write.send(line("b", "")).is_err(), "nobody reads any more");
}

/// A small file system of its own, gone with the value. None: it cannot be mounted here.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs"]).arg(dir.path());
        if !mount.output().is_ok_and(|it| it.status.success()) {
            println!("skipped: a tmpfs cannot be mounted here");
            return None;
        }
        Some(SmallDisk(dir))
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.0.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a process that was killed may have files open for a moment.
        Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

/// As the list shows it, for which nothing is read: rows that wait for room cannot be.
async fn listed(site: &Site, id: &str) -> Value {
    eventually(&format!("the batch {id} to end"), || async {
        let all = site.server.get("/batch?page_size=1000").await;
        let all = all["batches"].as_array().unwrap();
        let it = all.iter().find(|it| it["task_id"] == *id).unwrap();
        it["ended_at"].is_string().then(|| it.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_batch_ends_and_calls_nothing_that_it_could_not_record() {
    let Some(disk) = SmallDisk::mount() else { return };
    let data_dir = disk.0.path().join("data");
    fs_err::create_dir(&data_dir).unwrap();
    let site = Site::at(Path::new(&data_dir), json!({})).await;
    // Each result takes a good part of the room that is left, one after the other.
    let steps: Vec<Value> = (0..400)
        .map(|n| {
            let bulk = "x".repeat(100);
            let mut it =
                step(&format!("s{n}"), "work", json!({"arguments": {"bulk": bulk, "ms": 10}}));
            if n != 0 {
                it["depends_on"] = json!([format!("s{}", n - 1)]);
            }
            it
        })
        .collect();
    let id = site.execute(plan(steps)).await;
    site.shop.until("some calls", |all| 5 <= all.len()).await;
    let full = fs_err::write(disk.ballast(), vec![0; 64 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let big = |n: usize| {
        let one = json!({"arguments": {"do": "big", "mb": 1}});
        plan(vec![step(&format!("big{n}"), "work", one)])
    };
    // What the store keeps for itself is used up soon; a batch that cannot be kept is refused, or ends with the reason.
    let mut n = 0;
    let refused = loop {
        let (status, said) = site.server.call("POST", "/batch/execute", Some(big(n))).await;
        if 300 <= status {
            break said;
        }
        let ended = listed(&site, said["task_id"].as_str().unwrap()).await;
        if ended["state"] == "failed" {
            break ended["reason"].clone();
        }
        n += 1;
        assert!(n < 200, "the disk is not full");
    };
    assert!(refused.to_string().contains("disk"), "{refused}");
    let ended = listed(&site, &id).await;
    println!("with a full disk the batch {}: {}", ended["state"], ended["reason"]);
    assert!(ended["state"] == "failed" || ended["state"] == "succeeded");
    fs_err::remove_file(disk.ballast()).unwrap();
    // There is room again, and what was shown stays so.
    let after = eventually("a batch is taken again", || async {
        let (status, said) = site.server.call("POST", "/batch/execute", Some(big(900))).await;
        (status < 300).then_some(said)
    })
    .await;
    assert_eq!(site.ended(after["task_id"].as_str().unwrap()).await["state"], "succeeded");
    let n_called = site.shop.calls().len();
    let site = site.kill_and_restart().await;
    let again = site.ended(&id).await;
    assert_eq!((&again["state"], &again["reason"]), (&ended["state"], &ended["reason"]));
    let open = ["waiting", "queued", "running"].map(|it| again["steps"][it].as_u64().unwrap());
    assert_eq!(open, [0, 0, 0], "what came while there was no room was recorded later");
    assert_eq!(site.shop.calls().len(), n_called, "what has ended calls nothing more");
    for (key, n) in site.shop.by_key() {
        assert_eq!(n, 1, "{key}");
    }
}

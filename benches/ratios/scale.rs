//! Decisions and lists at the sizes people will grow to: 5,000 nodes, 50,000 instances.

use std::time::{Duration, Instant};

use orch_core::operation::Operation as _;

use crate::fixture::{self, Fixture, cx, launch};
use crate::{Figure, floor, percentile, show};

const N_NODES: usize = 5_000;
const N_INSTANCES: usize = 50_000;

pub(crate) async fn measure() -> Vec<Figure> {
    // First, because what the launches begin goes on to the end of the process.
    let list = list().await;
    let nodes = (0..N_NODES).map(fixture::node).collect();
    let instances = (0..N_INSTANCES).map(|n| fixture::instance(n, N_NODES));
    let (dir, _) = fixture::stored(nodes, instances).await;
    let orch = fixture::open(dir.path());
    let fixture = Fixture { dir, orch };
    let mut figures = placement(&fixture).await;
    figures.push(throughput(&fixture).await);
    figures.push(list);
    figures
}

async fn placement(fixture: &Fixture) -> Vec<Figure> {
    let mut samples = Vec::new();
    for n in 0..2_000 {
        let request = launch(
            serde_json::json!({"image": "bench:1", "name": format!("p{n}"), "dry_run": true, "cpu": 1 + n % 4}),
        );
        let started = Instant::now();
        request.run(&fixture.orch, &cx()).await.expect("placed");
        samples.push(started.elapsed());
    }
    let p99 = percentile(&mut samples, 0.99);
    vec![Figure {
        name: "scale: placement over 5,000 nodes, with 50,000 instances, p99 of a whole dry run",
        measured: format!("{} (p50 {})", show(p99), show(percentile(&mut samples, 0.5))),
        floor: "-".to_owned(),
        limit: "0.5 ms".to_owned(),
        holds: p99 <= Duration::from_micros(500),
    }]
}

async fn throughput(fixture: &Fixture) -> Figure {
    const N_WRITERS: usize = 16;
    const N_EACH: usize = 1_000;
    let mut syncs = floor::fdatasync(fixture.dir.path(), 500);
    let sync = percentile(&mut syncs, 0.5);
    let started = Instant::now();
    let writers: Vec<_> = (0..N_WRITERS)
        .map(|writer| {
            let orch = fixture.orch.clone();
            orch.tracker.clone().spawn(async move {
                for n in 0..N_EACH {
                    let request = launch(serde_json::json!({
                        "image": "bench:1", "name": format!("t{writer}-{n}"), "ports": [80], "wait": false
                    }));
                    request.run(&orch, &cx()).await.expect("accepted");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    let rate = (N_WRITERS * N_EACH) as f64 / started.elapsed().as_secs_f64();
    Figure {
        name: "scale: durable reservations and placements, 5,000 nodes with 50,000 instances",
        measured: format!("{rate:.0}/s"),
        floor: format!("{:.0}/s (one fdatasync after the other)", 1.0 / sync.as_secs_f64()),
        limit: "at least 5,000/s".to_owned(),
        holds: 5_000.0 <= rate,
    }
}

async fn list() -> Figure {
    const N_NODES: usize = 50;
    let nodes = (0..N_NODES).map(fixture::node).collect();
    let instances = (0..N_INSTANCES).map(|n| fixture::instance(n, N_NODES));
    let (dir, _) = fixture::stored(nodes, instances).await;
    let orch = fixture::open(dir.path());
    let op = fixture::list_instances();
    let mut samples = Vec::new();
    let mut token = String::new();
    for _ in 0..100 {
        let started = Instant::now();
        let answer = fixture::list(&op, &orch, &token).await;
        samples.push(started.elapsed());
        token = answer.value["next_page_token"].as_str().unwrap_or_default().to_owned();
    }
    let p99 = percentile(&mut samples, 0.99);
    Figure {
        name: "scale: list 1,000 of 50,000 instances, p99",
        measured: format!("{} (p50 {})", show(p99), show(percentile(&mut samples, 0.5))),
        floor: "-".to_owned(),
        limit: "10 ms".to_owned(),
        holds: p99 <= Duration::from_millis(10),
    }
}

//! Decisions and lists at the sizes people will grow to: 5,000 nodes, 50,000 instances.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_core::operation::Operation as _;
use orch_core::ops;
use orch_core::ports::store::Commit;
use orch_domain::book::Change;
use orch_domain::instance::{Goal, Instance, InstanceState};
use orch_domain::port::{PortBinding, Protocol};
use orch_domain::resource::{Cpu, Memory, Resources};

use crate::fixture::{self, Fixture, cx, launch};
use crate::{Figure, percentile, show};

const N_NODES: usize = 5_000;
const N_INSTANCES: usize = 50_000;

pub(crate) async fn measure() -> Vec<Figure> {
    let fixture = Fixture::new(N_NODES).await;
    let mut figures = placement(&fixture).await;
    figures.push(throughput(&fixture).await);
    drop(fixture);
    figures.push(list().await);
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
        name: "scale: placement over 5,000 nodes, p99 of a whole dry run",
        measured: format!("{} (p50 {})", show(p99), show(percentile(&mut samples, 0.5))),
        floor: "-".to_owned(),
        limit: "0.5 ms".to_owned(),
        holds: p99 <= Duration::from_micros(500),
    }]
}

async fn throughput(fixture: &Fixture) -> Figure {
    const N_WRITERS: usize = 16;
    const N_EACH: usize = 400;
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
        name: "scale: durable reservations with placement over 5,000 nodes",
        measured: format!("{rate:.0}/s"),
        floor: "-".to_owned(),
        limit: "at least 2,000/s".to_owned(),
        holds: 2_000.0 <= rate,
    }
}

async fn list() -> Figure {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    {
        let store = orch_adapters::store::SledStore::open(dir.path()).expect("a store");
        let mut changes: Vec<Change> = (0..50)
            .map(|n| {
                let it = fixture::node(n);
                Change::Node(it.id.clone(), Some(Arc::new(it)))
            })
            .collect();
        let user = fixture::user();
        changes.push(Change::User(user.id.clone(), Some(Arc::new(user))));
        changes.extend((0..N_INSTANCES).map(|n| {
            let it = instance(n);
            Change::Instance(it.id.clone(), Some(Arc::new(it)))
        }));
        use orch_core::ports::store::Store as _;
        store
            .commit(Commit { changes, ..Commit::default() })
            .await
            .expect("answered")
            .expect("stored");
    }
    let orch = fixture::open(dir.path());
    let mut samples = Vec::new();
    let op = ops::catalogue()
        .into_iter()
        .find(|it| it.spec.name == "list_instances")
        .expect("the operation");
    let mut token = String::new();
    for _ in 0..100 {
        let started = Instant::now();
        let arguments = serde_json::json!({"page_size": 1000, "page_token": token});
        let answer = (op.call)(orch.clone(), cx(), arguments).await.expect("listed");
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

/// Stopped, so that nothing has to be done about it at start-up.
fn instance(n: usize) -> Instance {
    let plain = Instance::test(n as u32);
    Instance {
        name: format!("web-{n}").parse().expect("a name"),
        state: InstanceState::Stopped,
        goal: Goal::Stopped,
        node_id: fixture::node(n % 50).id,
        resources: Resources::new(Cpu::from_millis(50), Memory::from_mib(8), 0),
        ports: vec![PortBinding {
            container_port: 80,
            host_port: 8000 + (n / 50) as u16,
            protocol: Protocol::Tcp,
        }],
        owner: fixture::user().id,
        launched_at: Some(plain.created_at),
        container_id: Some("0".repeat(64)),
        ..plain
    }
}

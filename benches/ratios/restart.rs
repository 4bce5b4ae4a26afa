//! A restart in front of a fleet that went on without us: until it serves, until every node was compared with its
//! records, and from then on how soon a change behind our back is seen.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_adapters::engines::NodeEngines;
use orch_core::Orch;
use orch_core::ports::engine::{ContainerLabels, Engines as _};
use orch_core::service::event_log::Followed;
use orch_domain::instance::{Instance, InstanceState};
use orch_domain::node::{EngineConfig, Node, SimConfig};

use crate::fixture::{self, list, list_instances, open_with};
use crate::{Figure, percentile, show};

const N_NODES: usize = 1_000;
const N_INSTANCES: usize = 50_000;
/// Of every call of an engine.
const DELAY_MS: u64 = 50;
const N_DRIFTS: usize = 200;

fn node(n: usize) -> Node {
    let sim = SimConfig { delay_ms: DELAY_MS, ..SimConfig::default() };
    Node { engine: EngineConfig::Sim(sim), ..fixture::node(n) }
}

fn instance(n: usize) -> Instance {
    fixture::instance(n, N_NODES)
}

pub(crate) async fn measure() -> Vec<Figure> {
    let nodes: Vec<Node> = (0..N_NODES).map(node).collect();
    let (dir, controller_id) = fixture::stored(nodes.clone(), (0..N_INSTANCES).map(instance)).await;
    let engines = fixture::engines();
    for node in &nodes {
        engines.engine(node).expect("an engine");
    }
    // On every node one is missing, that the restart has to find out.
    for it in (N_NODES..N_INSTANCES).map(instance) {
        let labels = ContainerLabels {
            controller_id: controller_id.clone(),
            instance_id: it.id.clone(),
            generation: it.generation,
            owner: it.owner,
        };
        let fleet = engines.fleet().control(&it.node_id).expect("in use");
        fleet.put_container(&it.id.container_name(), Some(labels));
    }

    let (mut serving, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        floor.push(read_files(dir.path()));
        serving.push(serve(dir.path(), &engines).await.1);
    }
    let begun = Instant::now();
    let (orch, last) = serve(dir.path(), &engines).await;
    serving.push(last);
    orch.start_tasks();
    // Serving goes on beside it.
    let op = list_instances();
    let mut listed = Vec::new();
    while n_terminated(&orch) < N_NODES || !was_reconciled(&orch) {
        assert!(begun.elapsed() < Duration::from_secs(300), "it comes to an end");
        let started = Instant::now();
        list(&op, &orch, "").await;
        listed.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reconciled = begun.elapsed();
    assert_eq!(n_terminated(&orch), N_NODES, "what is there stays");
    let drift = drift(&orch, &engines).await;
    let longest = percentile(&mut serving, 1.0);
    vec![
        Figure {
            name: "restart: 50,000 instances on 1,000 nodes, until 1,000 of them are listed, max of 5",
            measured: format!("{} (p50 {})", show(longest), show(percentile(&mut serving, 0.5))),
            floor: format!("{} (reading its files)", show(percentile(&mut floor, 0.5))),
            limit: "2 s".to_owned(),
            holds: longest <= Duration::from_secs(2),
        },
        Figure {
            name: "restart: until all nodes are reconciled and 1,000 losses recorded, calls taking 50 ms",
            measured: format!(
                "{} (a list meanwhile: p50 {}, max {})",
                show(reconciled),
                show(percentile(&mut listed, 0.5)),
                show(percentile(&mut listed, 1.0))
            ),
            floor: "-".to_owned(),
            limit: "10 s".to_owned(),
            holds: reconciled <= Duration::from_secs(10),
        },
        drift,
    ]
}

/// Also until the answer to the first list is there.
async fn serve(dir: &Path, engines: &Arc<NodeEngines>) -> (Arc<Orch>, Duration) {
    let started = Instant::now();
    let orch = open_with(dir, engines.clone());
    let answer = list(&list_instances(), &orch, "").await;
    let elapsed = started.elapsed();
    assert_eq!(answer.value["total_count"], N_INSTANCES, "all of them are there");
    (orch, elapsed)
}

fn read_files(dir: &Path) -> Duration {
    let started = Instant::now();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).expect("listed") {
            let path = entry.expect("listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                std::hint::black_box(fs_err::read(path).expect("read"));
            }
        }
    }
    started.elapsed()
}

fn n_terminated(orch: &Orch) -> usize {
    let is_gone = |it: &&Arc<Instance>| it.state == InstanceState::Terminated;
    orch.ledger.read(|book| book.instances_after(None).filter(is_gone).count())
}

fn was_reconciled(orch: &Orch) -> bool {
    orch.tasks.all().iter().any(|it| it.name == "reconcile")
}

/// From a removal on a node until the event of its record, one after the other, on as many nodes.
async fn drift(orch: &Arc<Orch>, engines: &NodeEngines) -> Figure {
    // Each node is compared once more when its events begin to be followed; that is not what is measured.
    let fleet = |n: usize| engines.fleet().control(&node(n).id).expect("in use");
    let until = Instant::now() + Duration::from_secs(60);
    while (0..N_NODES).any(|n| fleet(n).n_calls("list") < 2) {
        assert!(Instant::now() < until, "all events are followed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut follower = orch.ledger.log().follow(orch.ledger.log().extent().newest);
    let mut samples = Vec::new();
    for n in 0..N_DRIFTS {
        let lost = instance(N_NODES + n);
        let started = Instant::now();
        fleet(n).remove_container(&lost.id.container_name());
        let is_told = |it: &Followed| match it {
            Followed::Events(events) => events
                .iter()
                .any(|it| it.kind == "instance.terminated" && it.subject.id == lost.id.as_str()),
            Followed::Missed(extent) => panic!("events are kept for longer: {extent:?}"),
        };
        while !is_told(&follower.next().await) {}
        samples.push(started.elapsed());
    }
    let p95 = percentile(&mut samples, 0.95);
    Figure {
        name: "restart: a removal behind our back on one of 1,000 nodes, until its event, p95",
        measured: format!("{} (p50 {})", show(p95), show(percentile(&mut samples, 0.5))),
        floor: format!("{DELAY_MS} ms (one call)"),
        limit: "250 ms".to_owned(),
        holds: p95 <= Duration::from_millis(250),
    }
}

//! A sweep of all nodes: how much longer it takes than one check, and what nodes that hang add to it.

use std::time::{Duration, Instant};

use orch_domain::node::{EngineConfig, Node, SimConfig};

use crate::fixture::{self, Fixture};
use crate::{Figure, percentile, show};

const N_NODES: usize = 1_000;
const DELAY_MS: u64 = 50;
const ROUNDS: usize = 9;

pub(crate) async fn measure() -> Vec<Figure> {
    vec![sweep().await, hung().await]
}

async fn nodes(n_hung: usize) -> Fixture {
    let fixture = Fixture::new(0).await;
    let node = |n: usize| {
        let sim = SimConfig { delay_ms: DELAY_MS, hung: n < n_hung, ..SimConfig::default() };
        Node { engine: EngineConfig::Sim(sim), ..fixture::node(n) }
    };
    let add =
        |book: &mut orch_domain::book::Book| (0..N_NODES).try_for_each(|n| book.add_node(node(n)));
    fixture.orch.ledger.write(None, add).await.expect("nodes");
    fixture
}

async fn timed<T>(work: impl Future<Output = T>) -> Duration {
    let started = Instant::now();
    work.await;
    started.elapsed()
}

/// Single checks of the same nodes in between are the floor.
async fn sweep() -> Figure {
    let fixture = nodes(0).await;
    let orch = &fixture.orch;
    let one = orch.ledger.read(|book| book.slots().next().expect("a node").node.clone());
    orch.sweep().await;
    let (mut sweeps, mut singles) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        singles.push(timed(orch.check(&one)).await);
        sweeps.push(timed(orch.sweep()).await);
    }
    let (sweep, single) = (percentile(&mut sweeps, 0.5), percentile(&mut singles, 0.5));
    let ratio = sweep.as_secs_f64() / single.as_secs_f64();
    Figure {
        name: "health: sweep of 1,000 nodes that take 50 ms each, p50",
        measured: format!(
            "{} (max {}), {ratio:.2}×",
            show(sweep),
            show(percentile(&mut sweeps, 1.0))
        ),
        floor: format!("{} (one check)", show(single)),
        limit: "2×".to_owned(),
        holds: ratio <= 2.0,
    }
}

async fn hung() -> Figure {
    let fixture = nodes(N_NODES / 20).await;
    let timeout = fixture.orch.settings.health_timeout;
    let taken = timed(fixture.orch.sweep()).await;
    let ratio = taken.as_secs_f64() / timeout.as_secs_f64();
    Figure {
        name: "health: sweep of 1,000 nodes of which 50 hang",
        measured: format!("{}, {ratio:.3}×", show(taken)),
        floor: format!("{} (the timeout)", show(timeout)),
        limit: "1.1×".to_owned(),
        holds: ratio <= 1.1,
    }
}

//! How long until a launch is accepted, which is when its reservation is durable.

use std::sync::Arc;
use std::time::Instant;

use orch_core::operation::Operation as _;

use crate::fixture::{Fixture, launch};
use crate::{Figure, floor, percentile, show};

const N_SERIAL: usize = 500;
const N_WRITERS: usize = 16;
const N_EACH: usize = 250;

pub(crate) async fn measure() -> Vec<Figure> {
    let fixture = Fixture::new(200).await;
    let orch = &fixture.orch;
    // A warm-up, so that neither side pays for first-time costs.
    for n in 0..50 {
        accept(orch, n).await;
    }
    // Floor and subject in turns, so that a busy moment meets both.
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for round in 0..10 {
        floor.extend(floor::fdatasync(fixture.dir.path(), N_SERIAL / 10));
        for n in 0..N_SERIAL / 10 {
            let started = Instant::now();
            accept(orch, 1000 + round * 100 + n).await;
            ours.push(started.elapsed());
        }
    }
    let serial_rate = ours.len() as f64 / ours.iter().sum::<std::time::Duration>().as_secs_f64();
    let (floor_p50, ours_p50) = (percentile(&mut floor, 0.5), percentile(&mut ours, 0.5));
    let ratio = ours_p50.as_secs_f64() / floor_p50.as_secs_f64();

    let started = Instant::now();
    let writers: Vec<_> = (0..N_WRITERS)
        .map(|writer| {
            let orch = orch.clone();
            orch.tracker.clone().spawn(async move {
                for n in 0..N_EACH {
                    accept(&orch, 10_000 + writer * N_EACH + n).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    let rate = (N_WRITERS * N_EACH) as f64 / started.elapsed().as_secs_f64();
    let speedup = rate / serial_rate;
    vec![
        Figure {
            name: "acceptance: launch with wait=false, p50, against one fdatasync",
            measured: format!("{} ({ratio:.2}×)", show(ours_p50)),
            floor: show(floor_p50),
            limit: "2×".to_owned(),
            holds: ratio <= 2.0,
        },
        Figure {
            name: "acceptance: 16 writers against 1",
            measured: format!("{rate:.0}/s ({speedup:.1}×)"),
            floor: format!("{serial_rate:.0}/s"),
            limit: "at least 10×".to_owned(),
            holds: 10.0 <= speedup,
        },
    ]
}

async fn accept(orch: &Arc<orch_core::Orch>, n: usize) {
    let request = launch(
        serde_json::json!({"image": "bench:1", "name": format!("b{n}"), "ports": [80], "wait": false}),
    );
    request.run(orch, &crate::fixture::cx()).await.expect("accepted");
}

//! What only the simulated engine can do; the rest is in the suite that all engines share.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use orch_core::ports::clock::SystemClock;
use orch_core::ports::engine::{ContainerLabels, ContainerSpec, EngineError};
use orch_domain::image::ImageRef;
use orch_domain::name::{InstanceId, UserId};
use orch_domain::port::{PortBinding, Protocol};
use orch_domain::resource::{Cpu, Memory, Resources};
use orch_domain::time::Timestamp;

use super::*;

fn engine(config: SimConfig) -> SimEngine {
    SimEngine::new("s", config, Arc::new(SystemClock))
}

fn spec(number: u32, image: &str) -> ContainerSpec {
    let instance_id = InstanceId::new(Timestamp::from_millis(1), number);
    ContainerSpec {
        name: instance_id.container_name(),
        image: ImageRef::try_new(image).unwrap(),
        command: Vec::new(),
        env: Default::default(),
        resources: Resources::new(Cpu::from_millis(100), Memory::from_mib(64), 0),
        gpus: Vec::new(),
        ports: vec![PortBinding { container_port: 80, host_port: 8000, protocol: Protocol::Tcp }],
        publish_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        labels: ContainerLabels {
            controller_id: "c".to_owned(),
            instance_id,
            generation: 1,
            owner: UserId::try_new("ann").unwrap(),
        },
        user_labels: Default::default(),
    }
}

#[tokio::test]
async fn a_hung_engine_answers_when_it_comes_back() {
    let engine = engine(SimConfig { hung: true, ..SimConfig::default() });
    let mut call = engine.describe();
    assert!(call.as_mut().now_or_never().is_none());
    engine.control().configure(|it| it.hung = false);
    assert!(call.await.is_ok());
    assert_eq!(engine.control().n_calls("describe"), 1);
}

#[tokio::test]
async fn so_many_starts_fail_and_the_next_succeeds() {
    let engine = engine(SimConfig { fail_starts: 2, ..SimConfig::default() });
    let spec = spec(1, "nginx");
    engine.create(&spec).await.unwrap();
    for _ in 0..2 {
        let err = engine.start(&spec.name).await.unwrap_err();
        assert!(matches!(err, EngineError::Refused { .. }), "{err:?}");
    }
    engine.start(&spec.name).await.unwrap();
    assert_eq!(engine.control().config().fail_starts, 0);
}

#[tokio::test]
async fn a_pull_takes_its_time_and_tells() {
    let engine = engine(SimConfig { pull_delay_ms: 50, ..SimConfig::default() });
    let spec = spec(1, "pull/app");
    assert!(matches!(engine.create(&spec).await, Err(EngineError::ImageNotFound { .. })));
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let begun = tokio::time::Instant::now();
    engine
        .pull(
            &spec.image,
            None,
            Arc::new(move |it| teller.lock().push((it.done_bytes, it.total_bytes))),
        )
        .await
        .unwrap();
    assert!(Duration::from_millis(50) <= begun.elapsed());
    let told = told.lock().clone();
    assert!(told.is_sorted() && told.last().is_some_and(|it| it.0 == it.1), "{told:?}");
    engine.create(&spec).await.unwrap();
}

#[tokio::test]
async fn two_containers_cannot_have_one_port_and_a_wiped_machine_has_none() {
    let engine = engine(SimConfig::default());
    let (first, second) = (spec(1, "nginx"), spec(2, "nginx"));
    for it in [&first, &second] {
        engine.create(it).await.unwrap();
    }
    engine.start(&first.name).await.unwrap();
    match engine.start(&second.name).await.unwrap_err() {
        EngineError::PortInUse { ports } => assert_eq!(ports, [8000]),
        other => panic!("{other:?}"),
    }
    let mut events = engine.events("c").await.unwrap();
    engine.control().wipe();
    assert!(events.next().await.is_none(), "a wiped machine has no connections");
    assert!(engine.list("c").await.unwrap().is_empty());
}

#[tokio::test]
async fn thousands_of_engines_need_no_tasks() {
    let fleet = SimFleet::new(Arc::new(SystemClock));
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for number in 0..5000 {
        let id = NodeId::try_new(format!("s{number}")).unwrap();
        fleet.engine(&id, &SimConfig::default()).describe().await.unwrap();
    }
    let after = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(before, after);
}

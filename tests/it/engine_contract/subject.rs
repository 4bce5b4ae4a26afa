//! An engine under test, and what a test does to it from outside: decoys, listeners, output and sudden ends.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use orch_adapters::docker::DockerEngine;
use orch_adapters::sim::{SimControl, SimEngine};
use orch_adapters::ssh::{Link, SshSettings};
use orch_core::ports::clock::SystemClock;
use orch_core::ports::engine::{ContainerLabels, ContainerSpec, Engine, ExecRequest, LogStream};
use orch_domain::image::ImageRef;
use orch_domain::name::{InstanceId, UserId};
use orch_domain::node::SimConfig;
use orch_domain::port::{PortBinding, Protocol};
use orch_domain::resource::{Cpu, Memory, Resources};
use orch_domain::time::Timestamp;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::harness::sshd::Sshd;
use crate::harness::{docker, image};

/// What the main process of a container does.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Life {
    Forever,
    ExitsWith(u8),
    EatsMemory,
}

#[derive(Clone)]
pub(super) struct Subject {
    pub(super) engine: Arc<dyn Engine>,
    outside: Outside,
    controller_id: String,
    n_specs: Arc<AtomicU32>,
    decoys: Arc<Mutex<Vec<String>>>,
    /// Ports given out in this test. Held listeners are not enough: a container's port has none of ours.
    ports: Arc<Mutex<Vec<u16>>>,
    /// What the engine is reached through.
    _sshd: Option<Arc<Sshd>>,
}

#[derive(Clone)]
pub(super) enum Outside {
    Sim(SimControl),
    Docker(Docker),
}

/// A port of the loopback interface that something else listens on.
pub(super) struct OccupiedPort {
    pub(super) port: u16,
    _listener: TcpListener,
}

impl Subject {
    pub(super) fn sim() -> Subject {
        let engine = SimEngine::new("sim-test", SimConfig::default(), Arc::new(SystemClock));
        Subject::new(Arc::new(engine.clone()), Outside::Sim(engine.control()))
    }

    pub(super) async fn docker() -> Option<Subject> {
        let docker = docker::connect().await?;
        let engine = DockerEngine::new(docker::ENDPOINT, TaskTracker::new()).unwrap();
        Some(Subject::new(Arc::new(engine), Outside::Docker(docker)))
    }

    /// The same engine, through an SSH server of this machine.
    pub(super) async fn docker_over_ssh() -> Option<Subject> {
        let docker = docker::connect().await?;
        let sshd = Sshd::start().await?;
        let link = Link::new(sshd.endpoint(docker::SOCKET).hop(), None, SshSettings::default());
        let engine = DockerEngine::over_ssh(link, docker::SOCKET.to_owned(), TaskTracker::new());
        let mut subject = Subject::new(Arc::new(engine), Outside::Docker(docker));
        subject._sshd = Some(Arc::new(sshd));
        Some(subject)
    }

    pub(super) fn new(engine: Arc<dyn Engine>, outside: Outside) -> Subject {
        Subject {
            engine,
            outside,
            controller_id: format!("contract-{:016x}", getrandom::u64().unwrap()),
            n_specs: Arc::default(),
            decoys: Arc::default(),
            ports: Arc::default(),
            _sshd: None,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.outside {
            Outside::Sim(_) => "sim",
            Outside::Docker(_) => "docker",
        }
    }

    pub(super) fn controller_id(&self) -> &str {
        &self.controller_id
    }

    pub(super) fn image(&self) -> ImageRef {
        let name = match self.outside {
            Outside::Sim(_) => "nginx:alpine",
            Outside::Docker(_) => image::IMAGE,
        };
        ImageRef::try_new(name).unwrap()
    }

    /// A container nobody else has, with a loopback address and no port.
    pub(super) fn spec(&self, life: Life) -> ContainerSpec {
        let n = self.n_specs.fetch_add(1, Ordering::Relaxed);
        let random = getrandom::u64().unwrap();
        let instance_id = InstanceId::new(Timestamp::from_millis((random >> 24) as i64), n);
        let exit = match life {
            Life::ExitsWith(code) => format!("exit {code}"),
            Life::Forever | Life::EatsMemory => String::new(),
        };
        let command: &[&str] = match life {
            Life::Forever => &["sleep", "3600"],
            Life::ExitsWith(_) => &["sh", "-c", &exit],
            Life::EatsMemory => &["tail", "/dev/zero"],
        };
        ContainerSpec {
            name: instance_id.container_name(),
            image: self.image(),
            command: command.iter().map(|it| (*it).to_owned()).collect(),
            env: BTreeMap::from([("FROM_SPEC".to_owned(), "1".to_owned())]),
            resources: Resources::new(Cpu::from_millis(500), Memory::from_mib(32), 0),
            ports: Vec::new(),
            gpus: Vec::new(),
            publish_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            labels: ContainerLabels {
                controller_id: self.controller_id.clone(),
                instance_id,
                generation: 1,
                owner: UserId::try_new("ann").unwrap(),
            },
            user_labels: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
        }
    }

    pub(super) async fn running(&self, life: Life) -> ContainerSpec {
        let spec = self.spec(life);
        self.engine.create(&spec).await.unwrap();
        self.engine.start(&spec.name).await.unwrap();
        if let Outside::Sim(control) = &self.outside {
            match life {
                Life::Forever => {}
                Life::ExitsWith(code) => control.exit(&spec.name, i64::from(code)),
                Life::EatsMemory => control.out_of_memory(&spec.name),
            }
        }
        spec
    }

    pub(super) fn publish(&self, spec: &mut ContainerSpec, host_ports: &[u16]) {
        let inside = (8080..).zip(host_ports);
        spec.ports = inside
            .map(|(container_port, host_port)| PortBinding {
                container_port,
                host_port: *host_port,
                protocol: Protocol::Tcp,
            })
            .collect();
    }

    /// A port that nobody listens on now.
    pub(super) fn free_port(&self) -> u16 {
        loop {
            let port = listen().port;
            let mut given = self.ports.lock();
            if !given.contains(&port) {
                given.push(port);
                return port;
            }
        }
    }

    pub(super) fn occupy_port(&self) -> OccupiedPort {
        let occupied = listen();
        self.ports.lock().push(occupied.port);
        if let Outside::Sim(control) = &self.outside {
            control.configure(|it| it.foreign_ports.push(occupied.port));
        }
        occupied
    }

    pub(super) fn release_port(&self, occupied: OccupiedPort) {
        if let Outside::Sim(control) = &self.outside {
            control.configure(|it| it.foreign_ports.retain(|it| *it != occupied.port));
        }
    }

    /// A running container that this suite's controller did not make.
    pub(super) async fn put_decoy(&self, name: &str, labels: Option<ContainerLabels>) {
        self.decoys.lock().push(name.to_owned());
        match &self.outside {
            Outside::Sim(control) => control.put_container(name, labels),
            Outside::Docker(docker) => {
                let options = CreateContainerOptionsBuilder::new().name(name).build();
                let body = ContainerCreateBody {
                    image: Some(image::IMAGE.to_owned()),
                    cmd: Some(vec!["sleep".to_owned(), "3600".to_owned()]),
                    labels: labels.map(|it| it.to_map().into_iter().collect()),
                    host_config: Some(HostConfig {
                        network_mode: Some("none".to_owned()),
                        ..HostConfig::default()
                    }),
                    ..ContainerCreateBody::default()
                };
                docker.create_container(Some(options), body).await.unwrap();
                docker.start_container(name, None).await.unwrap();
            }
        }
    }

    /// The main process writes a line.
    pub(super) async fn write_log(&self, name: &str, stream: LogStream, text: &str) {
        match &self.outside {
            Outside::Sim(control) => control.write_log(name, stream, text),
            Outside::Docker(_) => {
                let descriptor = match stream {
                    LogStream::Stdout => 1,
                    LogStream::Stderr => 2,
                };
                let script = format!(r#"printf '%s\n' "$0" >/proc/1/fd/{descriptor}"#);
                let request = ExecRequest {
                    command: ["sh", "-c", &script, text].map(str::to_owned).to_vec(),
                    env: BTreeMap::new(),
                    working_dir: None,
                    timeout: crate::harness::PATIENCE,
                    max_output_bytes: 1024,
                };
                let out = self.engine.exec(name, request).await.unwrap();
                assert_eq!(out.exit_code, Some(0), "{out:?}");
            }
        }
    }

    /// An engine of the same kind at an address where there is none.
    pub(super) fn nowhere(&self) -> Arc<dyn Engine> {
        match &self.outside {
            Outside::Sim(_) => {
                let config = SimConfig { unreachable: true, ..SimConfig::default() };
                Arc::new(SimEngine::new("nowhere", config, Arc::new(SystemClock)))
            }
            Outside::Docker(_) => {
                let endpoint = "unix:///nonexistent/docker.sock";
                Arc::new(DockerEngine::new(endpoint, TaskTracker::new()).unwrap())
            }
        }
    }

    pub(super) fn raw_docker(&self) -> &Docker {
        match &self.outside {
            Outside::Docker(docker) => docker,
            Outside::Sim(_) => panic!("this test is for Docker"),
        }
    }

    pub(super) async fn clean_up(&self) {
        let Outside::Docker(docker) = &self.outside else { return };
        let listed = self.engine.list(&self.controller_id).await.unwrap_or_default();
        let ours = listed.into_iter().map(|it| it.name);
        let decoys = std::mem::take(&mut *self.decoys.lock());
        for name in ours.chain(decoys) {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            // Some were removed by the test.
            docker.remove_container(&name, Some(options)).await.ok();
        }
    }
}

fn listen() -> OccupiedPort {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    OccupiedPort { port: listener.local_addr().unwrap().port(), _listener: listener }
}

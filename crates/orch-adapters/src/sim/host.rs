//! The simulated machine: its containers, images and listeners, and the rules that a real engine has.

use std::collections::{BTreeMap, BTreeSet};

use orch_core::ports::engine::{
    Container, ContainerLabels, ContainerSpec, ContainerState, EngineError, EngineEvent, LogLine,
    LogStream,
};
use orch_domain::image::ImageRef;
use orch_domain::metrics::{CpuReading, GpuMetrics, Sample};
use orch_domain::node::SimConfig;
use orch_domain::port::Protocol;
use orch_domain::resource::Cpu;
use orch_domain::time::Timestamp;
use tokio::sync::mpsc;

pub(super) const IMAGE_BYTES: u64 = 50 << 20;
/// Of one CPU, by a container that runs.
pub(super) const CPU_USED: f64 = 0.01;
const DISK_BYTES: u64 = 1 << 40;
const GPU_BYTES: u64 = 16 << 30;

/// Logs kept of one container.
const MAX_LOG_LINES: usize = 1000;

/// Invariant: `containers` is keyed by name, which is unique as on a real engine.
#[derive(Default)]
pub(super) struct Host {
    pub(super) containers: BTreeMap<String, SimContainer>,
    pub(super) pulled: BTreeSet<ImageRef>,
    pub(super) n_calls: BTreeMap<&'static str, u64>,
    listeners: Vec<Listener>,
    n_created: u64,
}

pub(super) struct SimContainer {
    pub(super) id: String,
    pub(super) image: ImageRef,
    pub(super) state: ContainerState,
    pub(super) labels: Option<ContainerLabels>,
    pub(super) created_at: Timestamp,
    pub(super) env: BTreeMap<String, String>,
    pub(super) memory_bytes: u64,
    pub(super) logs: Vec<LogLine>,
    /// Lines that were written before those in `logs`, and dropped.
    pub(super) n_dropped_logs: usize,
    command: Vec<String>,
    host_ports: Vec<(u16, Protocol)>,
    gpus: Vec<u32>,
}

struct Listener {
    controller_id: String,
    events: mpsc::UnboundedSender<EngineEvent>,
}

impl SimContainer {
    pub(super) fn memory_used_bytes(&self) -> u64 {
        self.memory_bytes / 8
    }

    pub(super) fn observed(&self, name: &str) -> Container {
        let mut host_ports: Vec<u16> = self.host_ports.iter().map(|it| it.0).collect();
        host_ports.sort_unstable();
        host_ports.dedup();
        Container {
            id: self.id.clone(),
            name: name.to_owned(),
            state: self.state.clone(),
            labels: self.labels.clone(),
            created_at: self.created_at,
            host_ports,
        }
    }

    pub(super) fn write(&mut self, at: Timestamp, stream: LogStream, text: impl Into<String>) {
        if self.logs.len() == MAX_LOG_LINES {
            self.logs.remove(0);
            self.n_dropped_logs += 1;
        }
        self.logs.push(LogLine { at: Some(at), stream, text: text.into() });
    }
}

impl Host {
    pub(super) fn find(&mut self, name: &str) -> Result<&mut SimContainer, EngineError> {
        self.containers
            .get_mut(name)
            .ok_or_else(|| EngineError::NoSuchContainer { name: name.to_owned() })
    }

    pub(super) fn find_running(&mut self, name: &str) -> Result<&mut SimContainer, EngineError> {
        let container = self.find(name)?;
        if container.state == ContainerState::Running {
            Ok(container)
        } else {
            Err(EngineError::NotRunning { name: name.to_owned() })
        }
    }

    /// As much as its containers would use.
    pub(super) fn sample(&self, config: &SimConfig) -> Sample {
        let running: Vec<&SimContainer> =
            self.containers.values().filter(|it| it.state.is_up()).collect();
        let memory: u64 = running.iter().map(|it| it.memory_used_bytes()).sum();
        let busy = running.len() as f64 * CPU_USED;
        let n_images = (self.pulled.len() + built_in().len()) as u64;
        let gpu = |index: u32| {
            let is_used = running.iter().any(|it| it.gpus.contains(&index));
            GpuMetrics {
                index,
                name: "simulated GPU".to_owned(),
                used: Some(if is_used { 1.0 } else { 0.0 }),
                memory_used_bytes: Some(if is_used { GPU_BYTES / 2 } else { 0 }),
                memory_total_bytes: Some(GPU_BYTES),
            }
        };
        Sample {
            cpu: (config.cpu != Cpu::ZERO).then(|| CpuReading::Share(busy / config.cpu.vcpu())),
            load_average: Some([busy; 3]),
            memory_used_bytes: Some(memory),
            memory_total_bytes: u64::try_from(config.memory.bytes()).ok(),
            disk_used_bytes: Some(n_images * IMAGE_BYTES),
            disk_total_bytes: Some(DISK_BYTES),
            gpus: Some((0..config.gpu).map(gpu).collect()),
        }
    }

    pub(super) fn has_image(&self, image: &ImageRef) -> bool {
        !is_missing(image) && (!needs_pull(image) || self.pulled.contains(image))
    }

    /// As a real engine: 409 for a name that is there, which adopts or refuses, and 404 for an image that is not.
    pub(super) fn create(
        &mut self,
        spec: &ContainerSpec,
        now: Timestamp,
    ) -> Result<String, EngineError> {
        if let Some(found) = self.containers.get(&spec.name) {
            return if found.labels.as_ref() == Some(&spec.labels) {
                Ok(found.id.clone())
            } else {
                Err(EngineError::NameTaken { name: spec.name.clone() })
            };
        }
        if !self.has_image(&spec.image) {
            return Err(EngineError::ImageNotFound {
                image: spec.image.clone(),
                message: "the node does not have it".to_owned(),
            });
        }
        self.pulled.insert(spec.image.clone());
        let container = SimContainer {
            id: self.next_id(),
            image: spec.image.clone(),
            state: ContainerState::Created,
            labels: Some(spec.labels.clone()),
            created_at: now,
            env: spec.env.clone(),
            memory_bytes: u64::try_from(spec.resources.memory.bytes()).unwrap_or_default(),
            logs: Vec::new(),
            n_dropped_logs: 0,
            command: spec.command.clone(),
            host_ports: spec.ports.iter().map(|it| (it.host_port, it.protocol)).collect(),
            gpus: spec.gpus.clone(),
        };
        let id = container.id.clone();
        self.containers.insert(spec.name.clone(), container);
        self.tell(&spec.name, "create");
        Ok(id)
    }

    /// A container of somebody else, or one that the labels say is ours.
    pub(super) fn put(&mut self, name: &str, labels: Option<ContainerLabels>, now: Timestamp) {
        let container = SimContainer {
            id: self.next_id(),
            image: built_in().swap_remove(0),
            state: ContainerState::Running,
            labels,
            created_at: now,
            env: BTreeMap::new(),
            memory_bytes: 64 << 20,
            logs: Vec::new(),
            n_dropped_logs: 0,
            command: Vec::new(),
            host_ports: Vec::new(),
            gpus: Vec::new(),
        };
        self.containers.insert(name.to_owned(), container);
        self.tell(name, "start");
    }

    pub(super) fn start(
        &mut self,
        name: &str,
        foreign_ports: &[u16],
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let container = self.find(name)?;
        if container.state.is_up() {
            return Ok(());
        }
        let (wanted, command) = (container.host_ports.clone(), container.command.clone());
        let is_bound = |port: &(u16, Protocol)| {
            self.containers.values().any(|it| it.state.is_up() && it.host_ports.contains(port))
        };
        // The first conflict ends it, as on a real engine.
        if let Some(port) = wanted.iter().find(|it| foreign_ports.contains(&it.0) || is_bound(it)) {
            return Err(EngineError::PortInUse { ports: vec![port.0] });
        }
        let container = self.find(name)?;
        container.state = ContainerState::Running;
        let image = container.image.clone();
        container.write(now, LogStream::Stdout, format!("{image} started"));
        if !command.is_empty() {
            container.write(now, LogStream::Stderr, format!("+ {}", command.join(" ")));
        }
        self.tell(name, "start");
        Ok(())
    }

    /// Does nothing to one that does not run.
    pub(super) fn end(&mut self, name: &str, exit_code: i64, out_of_memory: bool) {
        let Some(container) = self.containers.get_mut(name).filter(|it| it.state.is_up()) else {
            return;
        };
        container.state = ContainerState::Exited { exit_code, out_of_memory, error: String::new() };
        if out_of_memory {
            self.tell(name, "oom");
        }
        self.tell(name, "die");
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.end(name, 137, false);
        let Some(container) = self.containers.remove(name) else { return };
        self.tell_of(name, container.labels.as_ref(), "destroy");
    }

    pub(super) fn listen(&mut self, controller_id: &str) -> mpsc::UnboundedReceiver<EngineEvent> {
        let (events, receiver) = mpsc::unbounded_channel();
        self.listeners.retain(|it| !it.events.is_closed());
        self.listeners.push(Listener { controller_id: controller_id.to_owned(), events });
        receiver
    }

    pub(super) fn drop_listeners(&mut self) {
        self.listeners.clear();
    }

    pub(super) fn tell(&mut self, name: &str, action: &str) {
        let labels = self.containers.get(name).and_then(|it| it.labels.clone());
        self.tell_of(name, labels.as_ref(), action);
    }

    fn tell_of(&mut self, name: &str, labels: Option<&ContainerLabels>, action: &str) {
        let Some(labels) = labels else { return };
        self.listeners.retain(|it| {
            if it.controller_id != labels.controller_id {
                return !it.events.is_closed();
            }
            let event = EngineEvent {
                container_name: name.to_owned(),
                instance_id: Some(labels.instance_id.clone()),
                action: action.to_owned(),
            };
            it.events.send(event).is_ok()
        });
    }

    fn next_id(&mut self) -> String {
        self.n_created += 1;
        format!("{:064x}", self.n_created)
    }
}

pub(super) fn is_missing(image: &ImageRef) -> bool {
    image.as_str().contains("missing")
}

fn needs_pull(image: &ImageRef) -> bool {
    image.as_str().starts_with("pull/")
}

pub(super) fn built_in() -> Vec<ImageRef> {
    let names = ["mcp-orch-demo:latest", "nginx:alpine", "redis:7", "ubuntu:22.04"];
    names.into_iter().filter_map(|it| ImageRef::try_new(it).ok()).collect()
}

//! The port's verbs on a simulated machine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use orch_core::ports::clock::Clock;
use orch_core::ports::engine::{
    Container, ContainerSpec, ContainerStats, Engine, EngineError, EngineEvent, EngineImage,
    EngineInfo, ExecOutcome, ExecRequest, LogLine, LogQuery, PullProgress, PullReport, PulledImage,
    RegistryLogin,
};
use orch_domain::health::Level;
use orch_domain::image::ImageRef;
use orch_domain::metrics::Sample;
use orch_domain::node::SimConfig;
use orch_domain::resource::Resources;
use orch_domain::time::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::SimControl;
use super::command;
use super::host::{CPU_USED, Host, IMAGE_BYTES, SimContainer, built_in, is_missing};

/// A pull tells its progress so many times.
const PULL_STEPS: u32 = 10;

/// Cheap to clone; clones are the same machine.
#[derive(Clone)]
pub struct SimEngine {
    machine: Arc<Machine>,
}

struct Machine {
    hostname: String,
    clock: Arc<dyn Clock>,
    config: watch::Sender<SimConfig>,
    host: Mutex<Host>,
    /// Counts changes of `host`, for whoever follows logs.
    changes: watch::Sender<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("the simulated host is down")]
struct HostIsDown;

impl SimEngine {
    pub fn new(hostname: &str, config: SimConfig, clock: Arc<dyn Clock>) -> SimEngine {
        let machine = Machine {
            hostname: hostname.to_owned(),
            clock,
            config: watch::Sender::new(config),
            host: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        SimEngine { machine: Arc::new(machine) }
    }

    pub fn control(&self) -> SimControl {
        SimControl::new(self.clone())
    }

    pub(super) fn now(&self) -> Timestamp {
        self.machine.clock.now()
    }

    pub(super) fn config(&self) -> SimConfig {
        self.machine.config.borrow().clone()
    }

    pub(super) fn change_config(&self, change: impl FnOnce(&mut SimConfig)) {
        self.machine.config.send_modify(change);
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&mut Host) -> T) -> T {
        look(&mut self.machine.host.lock())
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Host) -> T) -> T {
        let out = change(&mut self.machine.host.lock());
        self.machine.changes.send_modify(|it| *it += 1);
        out
    }

    /// What every call goes through: counting, hanging, failing and the common delay.
    async fn enter(&self, verb: &'static str) -> Result<SimConfig, EngineError> {
        self.look(|host| *host.n_calls.entry(verb).or_default() += 1);
        let mut watched = self.machine.config.subscribe();
        let config = match watched.wait_for(|it| !it.hung).await {
            Ok(it) => it.clone(),
            // The sender is ours.
            Err(_) => return Err(host_is_down()),
        };
        if config.unreachable {
            return Err(host_is_down());
        }
        wait(config.delay_ms).await;
        Ok(config)
    }

    /// Counts one scripted failure down; false when there is none left.
    fn takes_a_failure(&self) -> bool {
        self.machine.config.send_if_modified(|it| {
            let is_left = 0 < it.fail_starts;
            it.fail_starts = it.fail_starts.saturating_sub(1);
            is_left
        })
    }
}

fn host_is_down() -> EngineError {
    EngineError::Unreachable { source: Box::new(HostIsDown) }
}

/// The same on every machine, as content is.
fn id_of(image: &ImageRef) -> String {
    let digest = hex::encode(Sha256::digest(image.as_str()));
    format!("sim:{}", &digest[..12])
}

async fn wait(millis: u64) {
    if 0 < millis {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

#[async_trait]
impl Engine for SimEngine {
    fn levels(&self) -> &'static [Level] {
        &[Level::Address, Level::Engine]
    }

    /// A machine that is there answers at once; how slow its engine is, is another matter.
    async fn reach(&self, _: Level) -> Result<(), EngineError> {
        if self.config().unreachable { Err(host_is_down()) } else { Ok(()) }
    }

    async fn sample(&self, _: &EngineInfo) -> Result<Sample, EngineError> {
        let config = self.config();
        Ok(self.look(|host| host.sample(&config)))
    }

    async fn describe(&self) -> Result<EngineInfo, EngineError> {
        let config = self.enter("describe").await?;
        let (n_containers, n_running) = self.look(|host| {
            let n_running = host.containers.values().filter(|it| it.state.is_up()).count();
            (host.containers.len(), n_running)
        });
        Ok(EngineInfo {
            version: "sim 1".to_owned(),
            capacity: Resources::new(config.cpu, config.memory, config.gpu),
            hostname: self.machine.hostname.clone(),
            n_containers: u32::try_from(n_containers).unwrap_or(u32::MAX),
            n_running: u32::try_from(n_running).unwrap_or(u32::MAX),
            data_root: None,
        })
    }

    async fn images(&self) -> Result<Vec<EngineImage>, EngineError> {
        self.enter("images").await?;
        let mut all = self.look(|host| host.pulled.clone());
        all.extend(built_in());
        let described = all.iter().map(|it| EngineImage {
            references: vec![it.to_string()],
            id: id_of(it),
            size_bytes: IMAGE_BYTES,
            created_at: Timestamp::ZERO,
        });
        Ok(described.collect())
    }

    async fn has_image(&self, image: &ImageRef) -> Result<bool, EngineError> {
        self.enter("has_image").await?;
        Ok(self.look(|host| host.has_image(image)))
    }

    async fn pull(
        &self,
        image: &ImageRef,
        _: Option<&RegistryLogin>,
        report: PullReport,
    ) -> Result<PulledImage, EngineError> {
        let config = self.enter("pull").await?;
        let pulled = |is_new| PulledImage {
            id: id_of(image),
            digest: Some(format!("sha256:{}", hex::encode(Sha256::digest(image.as_str())))),
            size_bytes: IMAGE_BYTES,
            is_new,
        };
        if is_missing(image) {
            return Err(EngineError::ImageNotFound {
                image: image.clone(),
                message: "the registry has no such image for this node, or it is private"
                    .to_owned(),
            });
        }
        if self.look(|host| host.has_image(image)) {
            self.change(|host| host.pulled.insert(image.clone()));
            return Ok(pulled(false));
        }
        for step in 1..=PULL_STEPS {
            wait(config.pull_delay_ms / u64::from(PULL_STEPS)).await;
            report(PullProgress {
                done_bytes: IMAGE_BYTES / u64::from(PULL_STEPS) * u64::from(step),
                total_bytes: IMAGE_BYTES,
                message: format!("downloading {image}"),
            });
        }
        self.change(|host| host.pulled.insert(image.clone()));
        Ok(pulled(true))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        self.enter("create").await?;
        let now = self.now();
        self.change(|host| host.create(spec, now))
    }

    async fn start(&self, name: &str) -> Result<(), EngineError> {
        let config = self.enter("start").await?;
        let is_up = self.look(|host| host.find(name).map(|it| it.state.is_up()))?;
        if is_up {
            return Ok(());
        }
        wait(config.start_delay_ms).await;
        if self.takes_a_failure() {
            return Err(EngineError::Refused { message: "this start was to fail".to_owned() });
        }
        let now = self.now();
        // Read anew: a port may have been taken during the delay.
        let foreign_ports = self.config().foreign_ports;
        self.change(|host| host.start(name, &foreign_ports, now))
    }

    async fn stop(&self, name: &str, _: Duration) -> Result<(), EngineError> {
        self.enter("stop").await?;
        self.change(|host| {
            let was_up = host.find(name)?.state.is_up();
            host.end(name, 143, false);
            if was_up {
                host.tell(name, "stop");
            }
            Ok(())
        })
    }

    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.enter("remove").await?;
        self.change(|host| host.remove(name));
        Ok(())
    }

    async fn inspect(&self, name: &str) -> Result<Option<Container>, EngineError> {
        self.enter("inspect").await?;
        Ok(self.look(|host| host.containers.get(name).map(|it| it.observed(name))))
    }

    async fn list(&self, controller_id: &str) -> Result<Vec<Container>, EngineError> {
        self.enter("list").await?;
        let is_ours = |it: &SimContainer| {
            it.labels.as_ref().is_some_and(|it| it.controller_id == controller_id)
        };
        Ok(self.look(|host| {
            let ours = host.containers.iter().filter(|(_, it)| is_ours(it));
            ours.map(|(name, it)| it.observed(name)).collect()
        }))
    }

    async fn events(
        &self,
        controller_id: &str,
    ) -> Result<BoxStream<'static, Result<EngineEvent, EngineError>>, EngineError> {
        self.enter("events").await?;
        let receiver = self.look(|host| host.listen(controller_id));
        let events = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|it| (Ok(it), receiver))
        });
        Ok(events.boxed())
    }

    async fn logs(
        &self,
        name: &str,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, EngineError> {
        self.enter("logs").await?;
        let at = self.look(|host| {
            let container = host.find(name)?;
            let skipped = query.tail.map_or(0, |it| {
                container.logs.len().saturating_sub(usize::try_from(it).unwrap_or(usize::MAX))
            });
            Ok::<usize, EngineError>(container.n_dropped_logs + skipped)
        })?;
        let follower = Follower {
            engine: self.clone(),
            name: name.to_owned(),
            since: query.since,
            follow: query.follow,
            at,
            changes: self.machine.changes.subscribe(),
        };
        let batches = futures::stream::unfold(follower, |mut it| async {
            it.next().await.map(|lines| (lines, it))
        });
        Ok(batches.flat_map(|it| futures::stream::iter(it.into_iter().map(Ok))).boxed())
    }

    async fn stats(&self, name: &str) -> Result<ContainerStats, EngineError> {
        self.enter("stats").await?;
        self.look(|host| {
            let container = host.find_running(name)?;
            Ok(ContainerStats {
                cpu_used: CPU_USED,
                memory_used_bytes: container.memory_used_bytes(),
                memory_limit_bytes: container.memory_bytes,
                n_processes: 1,
                ..ContainerStats::default()
            })
        })
    }

    async fn exec(&self, name: &str, request: ExecRequest) -> Result<ExecOutcome, EngineError> {
        self.enter("exec").await?;
        let env = self.look(|host| host.find_running(name).map(|it| it.env.clone()))?;
        let answer = command::run(&request, &env)?;
        if request.timeout < answer.after {
            tokio::time::sleep(request.timeout).await;
            return Ok(ExecOutcome {
                exit_code: None,
                stdout: Vec::new(),
                stderr: Vec::new(),
                is_truncated: false,
            });
        }
        tokio::time::sleep(answer.after).await;
        let (mut stdout, mut stderr) = (answer.stdout.into_bytes(), answer.stderr.into_bytes());
        let is_truncated = request.max_output_bytes < stdout.len() + stderr.len();
        stdout.truncate(request.max_output_bytes);
        stderr.truncate(request.max_output_bytes - stdout.len());
        Ok(ExecOutcome { exit_code: Some(answer.exit_code), stdout, stderr, is_truncated })
    }
}

/// Reads a container's lines from position `at` on, counted from the first it ever wrote.
struct Follower {
    engine: SimEngine,
    name: String,
    since: Option<Timestamp>,
    follow: bool,
    at: usize,
    changes: watch::Receiver<u64>,
}

impl Follower {
    /// None when the container is gone, or has ended or is not followed and all is read.
    async fn next(&mut self) -> Option<Vec<LogLine>> {
        loop {
            self.changes.mark_unchanged();
            let (lines, is_up) = self.engine.look(|host| {
                let container = host.containers.get(&self.name)?;
                let from = self.at.saturating_sub(container.n_dropped_logs);
                let lines = container.logs.get(from..).unwrap_or_default().to_vec();
                self.at = container.n_dropped_logs + container.logs.len();
                Some((lines, container.state.is_up()))
            })?;
            let is_late = |it: &LogLine| self.since.is_none_or(|since| Some(since) <= it.at);
            let lines: Vec<LogLine> = lines.into_iter().filter(is_late).collect();
            if !lines.is_empty() {
                return Some(lines);
            }
            if !self.follow || !is_up || self.changes.changed().await.is_err() {
                return None;
            }
        }
    }
}

//! The engine of a node that runs Docker, over its HTTP API.
//!
//! Docker keeps all state; this adapter keeps a connection and nothing else, so that any number of them may look at the
//! same engine.

mod connect;
mod error;
mod exec;
mod figures;
mod image;
mod logs;
mod observe;
mod over_ssh;
mod sample;
mod spec;
mod started;
mod stats;
mod terminal;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, ListImagesOptions, RemoveContainerOptionsBuilder,
    StatsOptionsBuilder, StopContainerOptionsBuilder,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use orch_core::ports::engine::{
    Container, ContainerLabels, ContainerSpec, ContainerState, ContainerStats, Engine, EngineError,
    EngineEvent, EngineImage, EngineInfo, ExecOutcome, ExecRequest, LogLine, LogQuery, PullReport,
    PulledImage, RegistryLogin, Terminals,
};
use orch_domain::health::Level;
use orch_domain::image::ImageRef;
use orch_domain::metrics::Sample;
use orch_domain::resource::{Cpu, Memory, Resources};
use orch_domain::trouble::Trouble;
use tokio_util::task::TaskTracker;

use self::connect::{Connection, Endpoint, PATIENT, QUICK, START};
use self::error::Failure;
use crate::ssh::Link;

/// What a container can go through that anybody waits for. Not asked for: `exec_…`, whose action carries the command
/// line.
const EVENTS: [&str; 12] = [
    "create", "start", "restart", "die", "oom", "kill", "stop", "pause", "unpause", "rename",
    "update", "destroy",
];

/// Between two looks at a container that somebody else is creating or removing.
const SETTLING_PERIOD: Duration = Duration::from_millis(50);

/// Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct DockerEngine {
    connection: Arc<Connection>,
    /// Runs what outlives a call: the end of a session that its user left.
    tracker: TaskTracker,
}

impl DockerEngine {
    /// Connects to nothing yet. The sentence says why `endpoint` cannot be one.
    pub fn new(endpoint: &str, tracker: TaskTracker) -> Result<DockerEngine, String> {
        let connection = Arc::new(Connection::new(Endpoint::parse(endpoint)?));
        Ok(DockerEngine { connection, tracker })
    }

    /// The engine that listens at `socket` of the machine behind `link`.
    pub fn over_ssh(link: Arc<Link>, socket: String, tracker: TaskTracker) -> DockerEngine {
        let connection = Arc::new(Connection::new(Endpoint::Ssh { link, socket }));
        DockerEngine { connection, tracker }
    }

    /// Whether `endpoint` can be one, as a sentence when not.
    pub fn check(endpoint: &str) -> Result<(), String> {
        Endpoint::parse(endpoint).map(|_| ())
    }

    /// What the engine has under that name.
    async fn image_of(&self, image: &ImageRef) -> Result<Option<ImageInspect>, EngineError> {
        let inspect = self
            .connection
            .call(QUICK, |docker| async move { docker.inspect_image(image.as_str()).await });
        match inspect.await {
            Ok(it) => Ok(Some(it)),
            Err(Failure::Said { status: 404, .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// The container of that name if it is exactly the one `labels` describe.
    async fn adopt(
        &self,
        name: &str,
        labels: &ContainerLabels,
    ) -> Result<Option<String>, EngineError> {
        let Some(found) = self.inspect(name).await? else { return Ok(None) };
        if found.labels.as_ref() != Some(labels) {
            return Err(EngineError::NameTaken { name: name.to_owned() });
        }
        if found.state == ContainerState::Removing {
            self.wait_until_gone(name).await?;
            return Ok(None);
        }
        Ok(Some(found.id))
    }

    async fn wait_until_gone(&self, name: &str) -> Result<(), EngineError> {
        let poll = async {
            while self.inspect(name).await?.is_some() {
                tokio::time::sleep(SETTLING_PERIOD).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENT, poll)
            .await
            .unwrap_or(Err(EngineError::Timeout { after: PATIENT }))
    }
}

#[async_trait]
impl Engine for DockerEngine {
    fn levels(&self) -> &'static [Level] {
        match self.connection.endpoint {
            Endpoint::Unix { .. } | Endpoint::Tcp { .. } => &[Level::Address, Level::Engine],
            Endpoint::Ssh { .. } => &[Level::Address, Level::Ssh, Level::Engine],
        }
    }

    async fn reach(&self, level: Level) -> Result<(), EngineError> {
        self.connection.endpoint.reach(level).await
    }

    async fn sample(&self, info: &EngineInfo) -> Result<Sample, EngineError> {
        sample::of(&self.connection.endpoint, info).await
    }

    async fn describe(&self) -> Result<EngineInfo, EngineError> {
        let info = self.connection.call(QUICK, |docker| async move { docker.info().await }).await?;
        let api = self.connection.docker().await?.client_version();
        let version = error::clean(info.server_version.as_deref().unwrap_or("of unknown version"));
        let cpus = u32::try_from(info.ncpu.unwrap_or_default()).unwrap_or_default();
        let memory = u64::try_from(info.mem_total.unwrap_or_default()).unwrap_or_default();
        Ok(EngineInfo {
            version: format!("docker {version} (API {api})"),
            capacity: Resources::new(
                Cpu::from_millis(cpus.saturating_mul(1000)),
                Memory::from_bytes(memory),
                // The engine does not say; a sample of its machine does, or an administrator.
                0,
            ),
            hostname: info.name.unwrap_or_default(),
            n_containers: u32::try_from(info.containers.unwrap_or_default()).unwrap_or_default(),
            n_running: u32::try_from(info.containers_running.unwrap_or_default())
                .unwrap_or_default(),
            data_root: info.docker_root_dir.filter(|it| it.starts_with('/')),
        })
    }

    fn waits_for(&self) -> Option<EngineError> {
        let connect::Endpoint::Ssh { link, .. } = &self.connection.endpoint else { return None };
        let (place, trouble) = link.waits_for()?;
        let message = match trouble {
            Trouble::Silent => {
                format!("`{place}` takes the connection and does not answer as an SSH server")
            }
            _ => format!("`{place}` does not answer at all"),
        };
        Some(EngineError::NoConnection { message, trouble })
    }

    async fn images(&self) -> Result<Vec<EngineImage>, EngineError> {
        let list = self.connection.call(PATIENT, |docker| async move {
            docker.list_images(None::<ListImagesOptions>).await
        });
        Ok(list.await?.into_iter().map(image::listed).collect())
    }

    async fn has_image(&self, image: &ImageRef) -> Result<bool, EngineError> {
        Ok(self.image_of(image).await?.is_some())
    }

    async fn pull(
        &self,
        image: &ImageRef,
        login: Option<&RegistryLogin>,
        report: PullReport,
    ) -> Result<PulledImage, EngineError> {
        let before = self.image_of(image).await?;
        let docker = self.connection.docker().await?;
        image::pull(&docker, image, login, &report).await?;
        let pulled = self.image_of(image).await?.ok_or_else(|| EngineError::ImageNotFound {
            image: image.clone(),
            message: "it was removed again while it was pulled".to_owned(),
        })?;
        Ok(image::pulled(image, before.as_ref(), pulled))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
        let body = spec::create_body(spec);
        let attempts = async {
            loop {
                let create = self.connection.call(PATIENT, |docker| {
                    let (options, body) = (options.clone(), body.clone());
                    async move { docker.create_container(Some(options), body).await }
                });
                match create.await {
                    Ok(it) => return Ok(it.id),
                    Err(Failure::Said { status: 409, .. }) => {
                        if let Some(id) = self.adopt(&spec.name, &spec.labels).await? {
                            return Ok(id);
                        }
                        // The name is reserved before there is a container to see, and for a while after.
                        tokio::time::sleep(SETTLING_PERIOD).await;
                    }
                    Err(other) => return Err(other.of_create(&spec.image)),
                }
            }
        };
        tokio::time::timeout(PATIENT, attempts)
            .await
            .unwrap_or(Err(EngineError::Timeout { after: PATIENT }))
    }

    async fn start(&self, name: &str) -> Result<(), EngineError> {
        let start = self
            .connection
            .call(START, |docker| async move { docker.start_container(name, None).await });
        start.await.map_err(|err| err.of_start(name))?;
        self.check_command(name).await
    }

    async fn stop(&self, name: &str, grace: Duration) -> Result<(), EngineError> {
        let seconds = grace.as_millis().div_ceil(1000);
        let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let stop = self.connection.call(PATIENT + grace, |docker| async move {
            docker.stop_container(name, Some(options)).await
        });
        stop.await.map_err(|err| err.of_container(name))
    }

    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        // With its anonymous volumes: an image may declare some, and nobody else could find them again.
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let remove = self.connection.call(PATIENT, |docker| async move {
            docker.remove_container(name, Some(options)).await
        });
        match remove.await {
            Ok(()) | Err(Failure::Said { status: 404, .. }) => Ok(()),
            Err(Failure::Said { status: 409, message })
                if message.contains("already in progress") =>
            {
                self.wait_until_gone(name).await
            }
            Err(other) => Err(other.into()),
        }
    }

    async fn inspect(&self, name: &str) -> Result<Option<Container>, EngineError> {
        let inspect = self.connection.call(PATIENT, |docker| async move {
            docker.inspect_container(name, None::<InspectContainerOptions>).await
        });
        match inspect.await {
            Ok(it) => Ok(Some(observe::inspected(it))),
            Err(Failure::Said { status: 404, .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    async fn list(&self, controller_id: &str) -> Result<Vec<Container>, EngineError> {
        let filters = HashMap::from([("label", vec![label_filter(controller_id)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let list = self
            .connection
            .call(PATIENT, |docker| async move { docker.list_containers(Some(options)).await });
        Ok(list.await?.into_iter().map(observe::listed).collect())
    }

    async fn events(
        &self,
        controller_id: &str,
    ) -> Result<BoxStream<'static, Result<EngineEvent, EngineError>>, EngineError> {
        // The engine's own time: the stream asks only when it is first polled, and must not miss what comes before.
        let info = self.connection.call(QUICK, |docker| async move { docker.info().await }).await?;
        let docker = self.connection.docker().await?;
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![label_filter(controller_id)]),
            ("event", EVENTS.map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::new().filters(&filters);
        let options = match info.system_time.as_deref().and_then(observe::timestamp) {
            Some(now) => {
                let (seconds, millis) = (now.as_millis() / 1000, now.as_millis() % 1000);
                options.since(&format!("{seconds}.{millis:03}000000"))
            }
            None => options,
        };
        let events = docker.events(Some(options.build())).filter_map(|it| async move {
            match it {
                Ok(message) => observe::happened(message).map(Ok),
                Err(cause) => Some(Err(EngineError::from(Failure::from(cause)))),
            }
        });
        Ok(events.boxed())
    }

    async fn logs(
        &self,
        name: &str,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, EngineError> {
        // Asked ahead, because a stream that follows says nothing until the container does.
        if self.inspect(name).await?.is_none() {
            return Err(EngineError::NoSuchContainer { name: name.to_owned() });
        }
        let docker = self.connection.docker().await?;
        Ok(logs::lines(docker.logs(name, Some(logs::options(&query))), query.since))
    }

    async fn stats(&self, name: &str) -> Result<ContainerStats, EngineError> {
        // Not `one_shot`: without the sample before it, the share of the CPU could not be told.
        let options = StatsOptionsBuilder::new().stream(false).one_shot(false).build();
        let read = self.connection.call(PATIENT, |docker| async move {
            docker.stats(name, Some(options)).next().await.transpose()
        });
        let read = read.await.map_err(|err| err.of_container(name))?;
        let not_running = || EngineError::NotRunning { name: name.to_owned() };
        read.as_ref().and_then(stats::read).ok_or_else(not_running)
    }

    async fn exec(&self, name: &str, request: ExecRequest) -> Result<ExecOutcome, EngineError> {
        self.run_exec(name, request).await
    }

    fn terminals(&self) -> Option<&dyn Terminals> {
        Some(self)
    }
}

fn label_filter(controller_id: &str) -> String {
    format!("{}={controller_id}", ContainerLabels::CONTROLLER_ID)
}

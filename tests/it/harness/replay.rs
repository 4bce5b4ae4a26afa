//! Engines that answer an old list, or were cut short in a start: everything else goes to the engine behind.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use orch_core::ports::engine::{
    Container, ContainerSpec, ContainerStats, Engine, EngineError, EngineEvent, EngineImage,
    EngineInfo, Engines, ExecOutcome, ExecRequest, LogLine, LogQuery, PullReport, PulledImage,
    RegistryLogin,
};
use orch_domain::health::Level;
use orch_domain::image::ImageRef;
use orch_domain::metrics::Sample;
use orch_domain::name::NodeId;
use orch_domain::node::{EngineConfig, Node};
use orch_domain::ssh::{SshEndpoint, SshWanted, Trust};
use parking_lot::Mutex;

#[derive(Default)]
struct Script {
    list: Option<Vec<Container>>,
    n_cut_short: u32,
}

pub(crate) struct Replaying {
    inner: Arc<dyn Engines>,
    script: Arc<Mutex<Script>>,
}

impl Replaying {
    pub(crate) fn new(inner: Arc<dyn Engines>) -> Replaying {
        Replaying { inner, script: Arc::default() }
    }

    /// From now on every list is this one; `None`: the true one.
    pub(crate) fn answer(&self, list: Option<Vec<Container>>) {
        self.script.lock().list = list;
    }

    /// The next `n` starts were begun before the engine went down.
    pub(crate) fn cut_short(&self, n: u32) {
        self.script.lock().n_cut_short = n;
    }
}

#[async_trait]
impl Engines for Replaying {
    fn engine(&self, node: &Node) -> Result<Arc<dyn Engine>, EngineError> {
        let inner = self.inner.engine(node)?;
        Ok(Arc::new(Replayed { inner, script: self.script.clone() }))
    }

    fn forget(&self, node_id: &NodeId) {
        self.inner.forget(node_id);
    }

    async fn resolve(&self, wanted: SshWanted) -> Result<SshEndpoint, String> {
        self.inner.resolve(wanted).await
    }

    fn check(&self, config: &EngineConfig) -> Result<(), String> {
        self.inner.check(config)
    }

    async fn identify(
        &self,
        config: &EngineConfig,
        trust: &Trust,
    ) -> Result<EngineConfig, EngineError> {
        self.inner.identify(config, trust).await
    }
}

struct Replayed {
    inner: Arc<dyn Engine>,
    script: Arc<Mutex<Script>>,
}

#[async_trait]
impl Engine for Replayed {
    fn levels(&self) -> &'static [Level] {
        self.inner.levels()
    }

    async fn reach(&self, level: Level) -> Result<(), EngineError> {
        self.inner.reach(level).await
    }

    async fn sample(&self, info: &EngineInfo) -> Result<Sample, EngineError> {
        self.inner.sample(info).await
    }

    async fn list(&self, controller_id: &str) -> Result<Vec<Container>, EngineError> {
        let list = self.script.lock().list.clone();
        match list {
            Some(it) => Ok(it),
            None => self.inner.list(controller_id).await,
        }
    }

    async fn describe(&self) -> Result<EngineInfo, EngineError> {
        self.inner.describe().await
    }

    async fn images(&self) -> Result<Vec<EngineImage>, EngineError> {
        self.inner.images().await
    }

    async fn has_image(&self, image: &ImageRef) -> Result<bool, EngineError> {
        self.inner.has_image(image).await
    }

    async fn pull(
        &self,
        image: &ImageRef,
        login: Option<&RegistryLogin>,
        report: PullReport,
    ) -> Result<PulledImage, EngineError> {
        self.inner.pull(image, login, report).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        self.inner.create(spec).await
    }

    async fn start(&self, name: &str) -> Result<(), EngineError> {
        {
            let mut script = self.script.lock();
            if let Some(left) = script.n_cut_short.checked_sub(1) {
                script.n_cut_short = left;
                return Err(EngineError::CutShort { name: name.to_owned() });
            }
        }
        self.inner.start(name).await
    }

    async fn stop(&self, name: &str, grace: Duration) -> Result<(), EngineError> {
        self.inner.stop(name, grace).await
    }

    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.inner.remove(name).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<Container>, EngineError> {
        self.inner.inspect(name).await
    }

    async fn events(
        &self,
        controller_id: &str,
    ) -> Result<BoxStream<'static, Result<EngineEvent, EngineError>>, EngineError> {
        self.inner.events(controller_id).await
    }

    async fn logs(
        &self,
        name: &str,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, EngineError> {
        self.inner.logs(name, query).await
    }

    async fn stats(&self, name: &str) -> Result<ContainerStats, EngineError> {
        self.inner.stats(name).await
    }

    async fn exec(&self, name: &str, request: ExecRequest) -> Result<ExecOutcome, EngineError> {
        self.inner.exec(name, request).await
    }
}

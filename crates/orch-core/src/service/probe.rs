//! One look at one node: level by level until something fails, and then what is in use on its machine.

use std::time::{Duration, Instant};

use orch_domain::health::{Check, Level, LevelCheck};
use orch_domain::metrics::Sample;
use orch_domain::node::{Node, NodeStatus};

use crate::Orch;
use crate::ports::engine::{Engine, EngineError, EngineInfo};

/// For a machine to tell what is in use on it.
const SAMPLING: Duration = Duration::from_secs(3);

/// What a look at a node came to; nothing of it is recorded yet.
pub(crate) struct Probed {
    pub(crate) check: Check,
    pub(crate) answer: Result<EngineInfo, EngineError>,
    /// What is left of the time that a check may take.
    left: Duration,
}

impl Orch {
    /// Goes through the levels of `node`, all of them within the limit of one check.
    pub(crate) async fn probe(&self, node: &Node) -> Probed {
        let (timeout, started) = (self.settings.health_timeout, Instant::now());
        let left = || timeout.saturating_sub(started.elapsed());
        let mut levels = Vec::new();
        let answer = self.climb(node, &left, &mut levels).await;
        let failed = answer.as_ref().err().map(|err| {
            let level = levels.last().map_or(Level::Engine, |it: &LevelCheck| it.level);
            let words = match err {
                EngineError::Timeout { .. } => format!("no answer within {timeout:?}"),
                err => err.to_string(),
            };
            // The connection may be lost between two levels.
            let status = if is_of_the_way(err) { NodeStatus::Unreachable } else { level.failed() };
            (status, level, words)
        });
        if let (Some((_, _, words)), Some(last)) = (&failed, levels.last_mut()) {
            last.message = Some(words.clone());
        }
        let check = Check {
            at: self.clock.now(),
            status: failed.as_ref().map_or(NodeStatus::Healthy, |it| it.0),
            latency_ms: answer.is_ok().then(|| millis(started)),
            message: failed.map(|(_, level, words)| format!("{level}: {words}")),
            trouble: answer.as_ref().err().map(EngineError::trouble),
            engine_version: answer.as_ref().ok().map(|it| it.version.clone()),
            levels,
        };
        Probed { check, answer, left: left() }
    }

    async fn climb(
        &self,
        node: &Node,
        left: impl Fn() -> Duration,
        levels: &mut Vec<LevelCheck>,
    ) -> Result<EngineInfo, EngineError> {
        let engine = self.engines.engine(node)?;
        for level in engine.levels().iter().copied().filter(|it| *it != Level::Engine) {
            timed(level, left(), engine.reach(level), levels)
                .await
                .map_err(|it| hung(&*engine, it))?;
        }
        timed(Level::Engine, left(), engine.describe(), levels)
            .await
            .map_err(|it| hung(&*engine, it))
    }

    /// What is in use on the machine of `node`, which has just answered. None: it did not say, which is no part of its
    /// health.
    pub(crate) async fn sample(
        &self,
        node: &Node,
        info: &EngineInfo,
        left: Duration,
    ) -> Option<Sample> {
        let limit = left.min(SAMPLING);
        let engine = self.engines.engine(node).ok()?;
        let sampled = tokio::time::timeout(limit, engine.sample(info))
            .await
            .unwrap_or(Err(EngineError::Timeout { after: limit }));
        sampled
            .inspect_err(|err| {
                tracing::debug!("what is in use on `{}` is not known: {err}", node.id)
            })
            .ok()
    }
}

impl Probed {
    pub(crate) fn left(&self) -> Duration {
        self.left
    }
}

async fn timed<T>(
    level: Level,
    limit: Duration,
    work: impl Future<Output = Result<T, EngineError>>,
    levels: &mut Vec<LevelCheck>,
) -> Result<T, EngineError> {
    let started = Instant::now();
    let out = tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(EngineError::Timeout { after: limit }));
    levels.push(LevelCheck { level, ok: out.is_ok(), latency_ms: millis(started), message: None });
    out
}

/// What did not answer in time, where the engine's way there knows it better than the clock.
fn hung(engine: &dyn Engine, err: EngineError) -> EngineError {
    match err {
        EngineError::Timeout { .. } => engine.waits_for().unwrap_or(err),
        err => err,
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Whether it says that the machine was not reached, whatever was asked of it.
fn is_of_the_way(err: &EngineError) -> bool {
    matches!(
        err,
        EngineError::NoConnection { .. }
            | EngineError::HostKeyUnknown { .. }
            | EngineError::HostKeyChanged { .. }
    )
}

//! Ray: looked at with every health sweep, and remembered, so that whoever reads a dashboard or places an instance
//! never waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::name::NodeId;
use orch_domain::node::Node;
use orch_domain::ray::{RayFigures, RayNode, RayNodeState, RayNodes, RayUse};
use orch_domain::time::Timestamp;
use parking_lot::RwLock;

use crate::Orch;
use crate::event::Subject;
use crate::ports::ray::{Ray, RayCluster, RayError, RayVersion};
use crate::view::ray::{RayNodeGlance, RayOnNode, RayUseView, RayView};

/// Figures that so many sweeps did not renew are not weighed any more.
const STALE_AFTER_SWEEPS: u32 = 3;

/// What was last seen of Ray, and whether it answers.
pub struct RayBoard {
    ray: Option<Arc<dyn Ray>>,
    state: RwLock<State>,
    /// One look at a time: a hundred readers are one question to Ray.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    asked: Option<(Timestamp, Instant)>,
    /// What is wrong since the last look.
    trouble: Option<Trouble>,
    seen: Option<Arc<RaySeen>>,
}

/// An error that several callers may get.
#[derive(Clone)]
enum Trouble {
    Timeout { timeout_ms: u64 },
    Other { message: String },
}

impl Trouble {
    fn error(self) -> Error {
        let server = SERVER.to_owned();
        match self {
            Trouble::Timeout { timeout_ms } => Error::UpstreamTimeout { server, timeout_ms },
            Trouble::Other { message } => Error::UpstreamError { server, message },
        }
    }
}

/// One answer of Ray.
pub struct RaySeen {
    pub at: Timestamp,
    pub version: RayVersion,
    pub nodes: Arc<RayNodes>,
    pub n_pending: Option<u64>,
}

impl RayBoard {
    pub fn new(ray: Option<Arc<dyn Ray>>) -> RayBoard {
        RayBoard { ray, state: RwLock::default(), looking: tokio::sync::Mutex::default() }
    }

    pub fn is_configured(&self) -> bool {
        self.ray.is_some()
    }

    fn seen(&self) -> Option<Arc<RaySeen>> {
        self.state.read().seen.clone()
    }
}

impl Orch {
    /// The cluster, or a refusal that says how to configure one.
    pub fn ray(&self) -> Result<&dyn Ray, Error> {
        self.ray
            .ray
            .as_deref()
            .ok_or_else(|| Error::Unavailable { message: NOT_CONFIGURED.to_owned(), source: None })
    }

    /// Asks Ray now, unless somebody did since this was called, and remembers the answer. However many call, each waits
    /// for two questions at most, also where Ray hangs.
    pub async fn look_at_ray(&self) -> Result<Arc<RaySeen>, Error> {
        let ray = self.ray()?;
        let called = Instant::now();
        let _looking = self.ray.looking.lock().await;
        {
            let state = self.ray.state.read();
            if state.asked.is_some_and(|(_, began)| called <= began) {
                match (&state.trouble, &state.seen) {
                    (Some(trouble), _) => return Err(trouble.clone().error()),
                    (None, Some(seen)) => return Ok(seen.clone()),
                    (None, None) => {}
                }
            }
        }
        let began = Instant::now();
        let answer = ray.cluster().await;
        let at = self.clock.now();
        let answer = answer.map(|it| Arc::new(seen(it, at)));
        let (result, was_well) = {
            let mut state = self.ray.state.write();
            let was_well = state.asked.map(|_| state.trouble.is_none());
            state.asked = Some((at, began));
            match answer {
                Ok(it) => {
                    state.trouble = None;
                    state.seen = Some(it.clone());
                    (Ok(it), was_well)
                }
                Err(err) => {
                    let trouble = trouble(ray, err);
                    state.trouble = Some(trouble.clone());
                    (Err(trouble.error()), was_well)
                }
            }
        };
        match (&result, was_well) {
            (Ok(_), Some(false)) => tracing::info!("Ray answers again"),
            (Err(err), None | Some(true)) => tracing::warn!("{err}"),
            _ => {}
        }
        self.events.publish(Subject::Cluster);
        result
    }

    /// For the background task: what it came to, in words.
    pub(crate) async fn sample_ray(&self) -> String {
        match self.look_at_ray().await {
            Ok(_) => self.ray_view().line(),
            Err(err) => err.to_string(),
        }
    }

    /// At a glance, from memory.
    pub fn ray_view(&self) -> RayView {
        let state = self.ray.state.read();
        let seen = state.seen.as_ref();
        let n_in = |wanted: RayNodeState| {
            seen.map_or(0, |it| it.nodes.iter().filter(|it| it.state == wanted).count())
        };
        let usage = seen.map(|it| {
            let alive = it.nodes.iter().filter(|it| it.state == RayNodeState::Alive);
            RayUseView::of(&alive.fold(RayUse::default(), |sum, it| sum.plus(&it.usage)))
        });
        let message = match (&self.ray.ray, &state.trouble) {
            (None, _) => Some(NOT_CONFIGURED.to_owned()),
            (Some(_), trouble) => trouble.clone().map(|it| it.error().to_string()),
        };
        RayView {
            configured: self.ray.is_configured(),
            reachable: match &self.ray.ray {
                None => Some(false),
                Some(_) => state.asked.map(|_| state.trouble.is_none()),
            },
            message,
            dashboard_url: self.ray.ray.as_ref().map(|it| it.dashboard_url().to_owned()),
            ray_version: seen.and_then(|it| it.version.ray.clone()),
            alive_nodes: n_in(RayNodeState::Alive),
            dead_nodes: n_in(RayNodeState::Dead),
            usage,
            pending_demands: seen.and_then(|it| it.n_pending),
            checked_at: state.asked.map(|(at, _)| at),
            seen_at: seen.map(|it| it.at),
            age_seconds: seen.map(|it| self.age_seconds(it.at)),
        }
    }

    /// The nodes that were last seen, the living first, at most so many.
    pub fn ray_glance(&self, book: &Book, n: usize) -> Vec<RayNodeGlance> {
        let Some(seen) = self.ray.seen() else { return Vec::new() };
        let registered = registered(&seen.nodes, book);
        let glance =
            |it: &RayNode| RayNodeGlance::of(it, registered.get(it.node_id.as_str()).cloned());
        seen.nodes.iter().rev().take(n).map(glance).collect()
    }

    /// What Ray last said of a node's machine; none when it is not in Ray.
    pub fn ray_on(&self, node: &Node) -> Option<RayOnNode> {
        let seen = self.ray.seen()?;
        let it = seen.nodes.at(&node.address)?;
        let age_ms = self.clock.now().since(seen.at);
        Some(RayOnNode::of(it, seen.at, age_ms, self.is_stale(age_ms)))
    }

    /// As placement weighs them.
    pub fn ray_figures(&self) -> RayFigures {
        if !self.ray.is_configured() {
            return RayFigures::NotConfigured;
        }
        let Some(seen) = self.ray.seen() else { return RayFigures::Stale { age_ms: None } };
        let age_ms = self.clock.now().since(seen.at);
        if self.is_stale(age_ms) {
            return RayFigures::Stale { age_ms: Some(age_ms) };
        }
        RayFigures::Fresh { age_ms, nodes: seen.nodes.clone() }
    }

    fn age_seconds(&self, at: Timestamp) -> f64 {
        self.clock.now().since(at) as f64 / 1000.0
    }

    fn is_stale(&self, age_ms: u64) -> bool {
        let limit = self.settings.health_period * STALE_AFTER_SWEEPS;
        limit.as_millis() < u128::from(age_ms)
    }
}

/// Which of our nodes each of Ray's is, by the rule that merges Ray into ours.
pub(crate) fn registered<'a>(nodes: &'a RayNodes, book: &Book) -> HashMap<&'a str, NodeId> {
    let ours = book.slots().filter_map(|it| {
        let of_ray = nodes.at(&it.node.address)?;
        Some((of_ray.node_id.as_str(), it.node.id.clone()))
    });
    ours.collect()
}

fn seen(cluster: RayCluster, at: Timestamp) -> RaySeen {
    let RayCluster { version, nodes, n_pending } = cluster;
    RaySeen { at, version, nodes: Arc::new(RayNodes::new(nodes)), n_pending }
}

const NOT_CONFIGURED: &str = "Ray is not configured: set `ray.dashboard_url` in the configuration, or the environment \
                              variable `RAY_DASHBOARD_URL`, to the URL of its dashboard such as `http://10.0.0.1:8265`, \
                              and start the server again";

/// With what to do about it.
pub(crate) fn ray_error(ray: &dyn Ray, err: RayError) -> Error {
    trouble(ray, err).error()
}

fn trouble(ray: &dyn Ray, err: RayError) -> Trouble {
    if let Some(source) = std::error::Error::source(&err) {
        tracing::debug!("Ray: {err}: {}", chain(source));
    }
    let url = ray.dashboard_url();
    let message = match err {
        RayError::Timeout { after } => {
            let timeout_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            return Trouble::Timeout { timeout_ms };
        }
        RayError::Unreachable { .. } => format!(
            "Ray's dashboard at `{url}` does not answer: check that its head runs (`ray start --head \
             --dashboard-host ADDRESS`), that this machine reaches it, and that `ray.dashboard_url` is right"
        ),
        RayError::Unauthenticated => format!(
            "Ray's dashboard at `{url}` refuses us: set `ray.token`, or the environment variable `RAY_AUTH_TOKEN`, to \
             the token of the cluster"
        ),
        RayError::Refused { .. } | RayError::TooLong { .. } => {
            format!("Ray's dashboard at `{url}` did not do it: {err}")
        }
        RayError::Garbage { .. } => format!(
            "what answers at `{url}` is not Ray's dashboard, or one of a version that is not known: {err}"
        ),
    };
    Trouble::Other { message }
}

const SERVER: &str = "ray";

fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(it) = source {
        text.push_str(&format!(": {it}"));
        source = it.source();
    }
    text
}

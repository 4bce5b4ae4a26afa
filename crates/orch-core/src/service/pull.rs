//! Pulling images: each at most once at a time on a node, whoever asks, and on many nodes side by side.
//!
//! A launch and `pull_image` come here alike. Who asks for what is being pulled already waits for the same pull; it ends
//! early when the last of those who wait has left.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use futures::{StreamExt, stream};
use orch_domain::Error;
use orch_domain::image::ImageRef;
use orch_domain::name::NodeId;
use orch_domain::node::Node;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::ports::engine::{EngineError, PullProgress, PulledImage};
use crate::{Cx, Orch};

/// Nodes that are looked at, or wait for their turn, at the same time.
const AT_ONCE: usize = 512;
/// Between two reports to the caller; a node that is done is reported at once.
const REPORT_PERIOD: Duration = Duration::from_millis(100);

type Outcome = Result<PulledImage, Arc<EngineError>>;
type Work = Shared<BoxFuture<'static, Outcome>>;
type UnderWay = HashMap<(NodeId, ImageRef), Pull>;

pub(crate) struct Pulls {
    /// Invariant: an entry whose work is alive is the only pull of that image on that node. Nothing that could end a pull
    /// is dropped under the lock, because its end takes the lock too.
    under_way: Arc<Mutex<UnderWay>>,
    n_begun: AtomicU64,
    /// Turns of those who pull for the fleet's sake; a launch, for which somebody waits, takes none.
    turns: Semaphore,
}

struct Pull {
    number: u64,
    /// Weak: those who wait keep it alive.
    work: WeakShared<BoxFuture<'static, Outcome>>,
    progress: watch::Receiver<PullProgress>,
}

/// Takes the entry out when its pull ends or is left.
struct Entry {
    under_way: Arc<Mutex<UnderWay>>,
    key: (NodeId, ImageRef),
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock();
        // Another may have begun since everybody left this one.
        if under_way.get(&self.key).is_some_and(|it| it.number == self.number) {
            under_way.remove(&self.key);
        }
    }
}

impl Pulls {
    pub(crate) fn new(at_once: usize) -> Pulls {
        Pulls {
            under_way: Arc::default(),
            n_begun: AtomicU64::new(0),
            turns: Semaphore::new(at_once),
        }
    }
}

/// What came of it on one node.
pub struct NodePull {
    pub node_id: NodeId,
    pub outcome: Result<PulledImage, EngineError>,
    pub elapsed: Duration,
}

impl Orch {
    /// Pulls `image` on a node, or waits for a pull of it that is under way there. Dropped by all who wait, it is ended.
    pub(crate) async fn pull(
        self: &Arc<Orch>,
        node_id: &NodeId,
        image: &ImageRef,
        report: impl Fn(PullProgress),
    ) -> Result<PulledImage, EngineError> {
        let (mut work, mut progress) = self.join_pull(node_id, image);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome.map_err(|err| err.again()),
                Ok(()) = progress.changed() => {
                    let seen = progress.borrow_and_update().clone();
                    report(seen);
                }
            }
        }
    }

    fn join_pull(
        self: &Arc<Orch>,
        node_id: &NodeId,
        image: &ImageRef,
    ) -> (Work, watch::Receiver<PullProgress>) {
        let key = (node_id.clone(), image.clone());
        let mut under_way = self.pulls.under_way.lock();
        if let Some(pull) = under_way.get(&key)
            && let Some(work) = pull.work.upgrade()
        {
            return (work, pull.progress.clone());
        }
        let number = self.pulls.n_begun.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { under_way: self.pulls.under_way.clone(), key: key.clone(), number };
        let (sender, progress) = watch::channel(PullProgress::default());
        let orch = self.clone();
        let work = async move {
            let outcome = orch.pull_alone(&entry.key.0, &entry.key.1, sender).await;
            drop(entry);
            outcome.map_err(Arc::new)
        };
        let work = work.boxed().shared();
        if let Some(weak) = work.downgrade() {
            under_way.insert(key, Pull { number, work: weak, progress: progress.clone() });
        }
        (work, progress)
    }

    async fn pull_alone(
        &self,
        node_id: &NodeId,
        image: &ImageRef,
        progress: watch::Sender<PullProgress>,
    ) -> Result<PulledImage, EngineError> {
        let node = self.ledger.read(|book| book.slot(node_id).map(|it| it.node.clone()));
        let node = node.ok_or_else(|| EngineError::Refused {
            message: format!("`{node_id}` is not a node any more"),
        })?;
        let engine = self.engines.engine(&node)?;
        let login = self.login_for(image)?;
        let report = Arc::new(move |it| {
            progress.send_replace(it);
        });
        let pulled = engine.pull(image, login.as_ref(), report).await;
        let outcome = match &pulled {
            Ok(it) if it.is_new => "pulled",
            Ok(_) => "up_to_date",
            Err(_) => "failed",
        };
        metrics::counter!("mcp_orch_pulls_total", "outcome" => outcome).increment(1);
        if let Ok(it) = &pulled
            && it.is_new
        {
            let digest = it.digest.as_deref();
            tracing::info!(node = %node_id, %image, digest, "pulled an image");
            self.tell_of_pull(image, node_id).await;
        }
        pulled
    }

    /// Pulls on many nodes side by side and tells of each how it went, in the order given. When the caller withdraws,
    /// what is not done by then is left.
    pub async fn pull_on(
        self: &Arc<Orch>,
        cx: &Cx,
        image: &ImageRef,
        nodes: Vec<Arc<Node>>,
    ) -> Result<Vec<NodePull>, Error> {
        let board = Board::new(&nodes);
        let each = nodes.iter().cloned().enumerate().map(|(at, node)| {
            let board = &board;
            async move {
                let began = Instant::now();
                let outcome = self.pull_in_turn(&node, image, |it| board.note(at, it)).await;
                board.done(at);
                let elapsed = began.elapsed();
                (at, NodePull { node_id: node.id.clone(), outcome, elapsed })
            }
        });
        let mut pulls = stream::iter(each).buffer_unordered(AT_ONCE);
        let mut done: Vec<Option<NodePull>> = nodes.iter().map(|_| None).collect();
        let mut period = tokio::time::interval(REPORT_PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cx.cancel.cancelled() => {
                    return Err(withdrawn(image, &nodes, &done));
                }
                () = self.shutdown.cancelled() => {
                    let message = "the server is shutting down; repeat the pull after its next start".to_owned();
                    return Err(Error::Unavailable { message, source: None });
                }
                pulled = pulls.next() => match pulled {
                    Some((at, pulled)) => {
                        done[at] = Some(pulled);
                        board.tell(cx, image);
                    }
                    None => return Ok(done.into_iter().flatten().collect()),
                },
                _ = period.tick(), if cx.progress.is_wanted() => board.tell(cx, image),
            }
        }
    }

    /// A node that does not answer at all is found out before it takes a turn.
    async fn pull_in_turn(
        self: &Arc<Orch>,
        node: &Node,
        image: &ImageRef,
        report: impl Fn(PullProgress),
    ) -> Result<PulledImage, EngineError> {
        let engine = self.engines.engine(node)?;
        let within = self.settings.health_timeout;
        tokio::time::timeout(within, engine.has_image(image))
            .await
            .unwrap_or(Err(EngineError::Timeout { after: within }))?;
        let _turn = self.pulls.turns.acquire().await;
        self.pull(&node.id, image, report).await
    }
}

fn withdrawn(image: &ImageRef, nodes: &[Arc<Node>], done: &[Option<NodePull>]) -> Error {
    let names = |is_done: bool| {
        let of = nodes.iter().zip(done).filter(|(_, it)| it.is_some() == is_done);
        let of: Vec<String> = of.map(|(node, _)| format!("`{}`", node.id)).collect();
        match of.len() {
            0 => "no node".to_owned(),
            1..=5 => of.join(", "),
            n => format!("{} and {} more", of[..5].join(", "), n - 5),
        }
    };
    Error::Cancelled {
        message: format!(
            "the pull of `{image}` was cancelled: it had ended on {} and was left on {}",
            names(true),
            names(false)
        ),
    }
}

/// How far each node is. What the caller hears is the part of the whole in percent, which never falls.
struct Board {
    nodes: Vec<NodeId>,
    state: Mutex<BoardState>,
}

struct BoardState {
    /// From 0 to 1 for each node.
    shares: Vec<f64>,
    n_done: usize,
    /// The node that was heard of last, and what it said.
    last: Option<(usize, PullProgress)>,
    told: f64,
}

impl Board {
    fn new(nodes: &[Arc<Node>]) -> Board {
        let state =
            BoardState { shares: vec![0.0; nodes.len()], n_done: 0, last: None, told: -1.0 };
        Board { nodes: nodes.iter().map(|it| it.id.clone()).collect(), state: Mutex::new(state) }
    }

    fn note(&self, at: usize, progress: PullProgress) {
        let mut state = self.state.lock();
        if progress.total_bytes != 0 {
            // The total grows while layers are found, and after the last byte come the unpacking and the answer.
            let share = progress.done_bytes as f64 / progress.total_bytes as f64;
            state.shares[at] = state.shares[at].max(share.min(1.0) * 0.99);
        }
        state.last = Some((at, progress));
    }

    fn done(&self, at: usize) {
        let mut state = self.state.lock();
        state.shares[at] = 1.0;
        state.n_done += 1;
        if state.last.as_ref().is_some_and(|(it, _)| *it == at) {
            state.last = None;
        }
    }

    fn tell(&self, cx: &Cx, image: &ImageRef) {
        if !cx.progress.is_wanted() {
            return;
        }
        let mut state = self.state.lock();
        let n_nodes = self.nodes.len();
        let percent = 100.0 * state.shares.iter().sum::<f64>() / n_nodes.max(1) as f64;
        if percent <= state.told {
            return;
        }
        state.told = percent;
        let mut message = match n_nodes {
            1 => format!("`{}`: pulling {image}", self.nodes[0]),
            n => format!("pulling {image}: {} of {n} nodes done", state.n_done),
        };
        if let Some((at, it)) = &state.last {
            if n_nodes != 1 {
                message.push_str(&format!("; `{}`", self.nodes[*at]));
            }
            message.push_str(&format!(": {}", it.message));
            if it.total_bytes != 0 {
                let mib = |it: u64| it as f64 / f64::from(1 << 20);
                let (done, total) = (mib(it.done_bytes), mib(it.total_bytes));
                message.push_str(&format!(" ({done:.1} of {total:.1} MiB)"));
            }
        }
        cx.progress.report(percent, Some(100.0), message);
    }
}

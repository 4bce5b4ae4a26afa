//! A Ray cluster as callers see it: sums, nodes and jobs. All text that Ray or a job wrote is cleaned and cut here.

use std::collections::BTreeMap;

use orch_domain::name::NodeId;
use orch_domain::ray::{RESERVED_METADATA, RayJob, RayJobStatus, RayNode, RayNodeState, RayUse};
use orch_domain::resource::{Cpu, Memory};
use orch_domain::text::{beginning, sanitize};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::view::table::table;

/// Ray's CPU, GPU and memory. What is used is null where Ray did not say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RayUseView {
    pub cpu_used: Option<Cpu>,
    pub cpu_total: Cpu,
    pub gpu_used: Option<f64>,
    pub gpu_total: f64,
    /// GiB.
    pub memory_used: Option<Memory>,
    /// GiB.
    pub memory_total: Memory,
}

impl RayUseView {
    pub fn of(it: &RayUse) -> RayUseView {
        RayUseView {
            cpu_used: it.cpu_used,
            cpu_total: it.cpu_total,
            gpu_used: it.gpu_used.map(rounded),
            gpu_total: rounded(it.gpu_total),
            memory_used: it.memory_used,
            memory_total: it.memory_total,
        }
    }

    pub fn cpu(&self) -> String {
        of(self.cpu_used.map(|it| it.vcpu()), self.cpu_total.vcpu())
    }

    pub fn gpu(&self) -> String {
        if self.gpu_total == 0.0 { "-".to_owned() } else { of(self.gpu_used, self.gpu_total) }
    }

    pub fn memory(&self) -> String {
        of(self.memory_used, self.memory_total)
    }

    /// Such as `2 of 6 CPU, 1 of 2 GPU and 512 MiB of 4 GiB in use`.
    pub fn line(&self) -> String {
        let gpu =
            if self.gpu_total == 0.0 { String::new() } else { format!(", {} GPU", self.gpu()) };
        format!("{} CPU{gpu} and {} in use", self.cpu(), self.memory())
    }
}

fn of<T: std::fmt::Display>(used: Option<T>, total: T) -> String {
    match used {
        Some(used) => format!("{used} of {total}"),
        None => format!("? of {total}"),
    }
}

/// Sums of parts of a GPU leave digits that mean nothing.
fn rounded(it: f64) -> f64 {
    (it * 1e4).round() / 1e4
}

/// What Ray says of a machine that is a node here as well.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RayOnNode {
    /// Ray's own id of it.
    pub node_id: String,
    pub state: RayNodeState,
    pub is_head: bool,
    #[serde(flatten)]
    pub usage: RayUseView,
    /// When Ray last said so.
    pub seen_at: Timestamp,
    /// Seconds since then.
    pub age_seconds: f64,
    /// True when that is too long ago to be weighed by placement.
    pub is_stale: bool,
}

impl RayOnNode {
    pub fn of(node: &RayNode, seen_at: Timestamp, age_ms: u64, is_stale: bool) -> RayOnNode {
        RayOnNode {
            node_id: clean(&node.node_id, 128),
            state: node.state,
            is_head: node.is_head,
            usage: RayUseView::of(&node.usage),
            seen_at,
            age_seconds: age_ms as f64 / 1000.0,
            is_stale,
        }
    }
}

/// The Ray cluster at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RayView {
    /// Whether `ray.dashboard_url` is set.
    pub configured: bool,
    /// Whether the dashboard answered when it was last asked; null before the first time.
    pub reachable: Option<bool>,
    /// What is wrong and what to do about it; null when all is well.
    pub message: Option<String>,
    /// To look at it in a browser.
    pub dashboard_url: Option<String>,
    pub ray_version: Option<String>,
    pub alive_nodes: usize,
    pub dead_nodes: usize,
    /// Of the living nodes together, when last seen; null when never seen.
    pub usage: Option<RayUseView>,
    /// Tasks and actors that wait for resources; null where Ray did not say.
    pub pending_demands: Option<u64>,
    /// When the dashboard was last asked.
    pub checked_at: Option<Timestamp>,
    /// When it last answered; what is said of nodes and use is from then.
    pub seen_at: Option<Timestamp>,
    /// Seconds since `seen_at`.
    pub age_seconds: Option<f64>,
}

impl RayView {
    pub fn line(&self) -> String {
        let Some(url) = &self.dashboard_url else {
            return self.message.clone().unwrap_or_default();
        };
        let mut text = match (self.reachable, &self.message) {
            (Some(false), Some(message)) => message.clone(),
            (None, _) => format!("Ray at {url} has not been asked yet."),
            _ => format!(
                "Ray {} at {url}",
                self.ray_version.as_deref().unwrap_or("(version unknown)")
            ),
        };
        if let Some(usage) = &self.usage {
            let dead = if self.dead_nodes == 0 {
                String::new()
            } else {
                format!(", {} dead", self.dead_nodes)
            };
            let (alive, age) = (self.alive_nodes, self.age_seconds.unwrap_or(0.0));
            let sep = if self.reachable == Some(true) { ":" } else { ". Last seen:" };
            text.push_str(&format!(
                "{sep} {alive} nodes alive{dead}; {}, {age:.0} s ago.",
                usage.line()
            ));
        }
        text
    }
}

/// One node of Ray on a dashboard.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RayNodeGlance {
    /// Ray's own id of it.
    pub node_id: String,
    pub address: String,
    /// The node here that has the same address; null when it is not registered.
    pub registered_as: Option<NodeId>,
    pub state: RayNodeState,
    pub is_head: bool,
    #[serde(flatten)]
    pub usage: RayUseView,
}

impl RayNodeGlance {
    pub fn of(node: &RayNode, registered_as: Option<NodeId>) -> RayNodeGlance {
        RayNodeGlance {
            node_id: clean(&node.node_id, 128),
            address: clean(&node.address, 253),
            registered_as,
            state: node.state,
            is_head: node.is_head,
            usage: RayUseView::of(&node.usage),
        }
    }
}

/// One node of Ray.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RayNodeView {
    /// Ray's own id of it.
    pub node_id: String,
    pub address: String,
    /// The node here that has the same address; null when it is not registered.
    pub registered_as: Option<NodeId>,
    pub state: RayNodeState,
    /// Why it is in this state.
    pub message: Option<String>,
    pub is_head: bool,
    #[serde(flatten)]
    pub usage: RayUseView,
    /// Totals of other resources, by the names they were started with.
    pub resources: BTreeMap<String, f64>,
    pub labels: BTreeMap<String, String>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

impl RayNodeView {
    pub fn of(node: &RayNode, registered_as: Option<NodeId>) -> RayNodeView {
        RayNodeView {
            node_id: clean(&node.node_id, 128),
            address: clean(&node.address, 253),
            registered_as,
            state: node.state,
            message: node.message.as_deref().map(|it| clean(it, MAX_MESSAGE)),
            is_head: node.is_head,
            usage: RayUseView::of(&node.usage),
            resources: node
                .resources
                .iter()
                .take(MAX_ENTRIES)
                .map(|(name, it)| (clean(name, 128), rounded(*it)))
                .collect(),
            labels: clean_map(&node.labels),
            started_at: node.started_at,
            ended_at: node.ended_at,
        }
    }
}

pub fn ray_node_table(nodes: &[RayNodeView]) -> String {
    let row = |it: &RayNodeView| {
        [
            it.node_id.chars().take(12).collect(),
            it.address.clone(),
            it.registered_as.as_ref().map_or("-".to_owned(), ToString::to_string),
            if it.is_head { format!("{} (head)", it.state) } else { it.state.to_string() },
            it.usage.cpu(),
            it.usage.gpu(),
            it.usage.memory(),
        ]
    };
    table(
        ["RAY NODE", "ADDRESS", "NODE", "STATE", "USED CPU", "USED GPU", "USED MEMORY"],
        nodes.iter().map(row),
    )
}

/// One job of Ray. Its texts were written by whoever submitted it, or by the job itself.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RayJobView {
    /// As the other operations take it.
    pub job_id: String,
    pub status: RayJobStatus,
    /// Who submitted it through this server; null when it came by another way.
    pub owner: Option<String>,
    /// What it runs.
    pub entrypoint: String,
    /// What Ray says of its state, the first line of it.
    pub message: Option<String>,
    pub error_type: Option<String>,
    pub exit_code: Option<i64>,
    pub metadata: BTreeMap<String, String>,
    /// Names of the environment variables that were set; their values are not shown.
    pub env_names: Vec<String>,
    /// Where its driver runs.
    pub driver_address: Option<String>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Whether `ray_job_logs` and `ray_stop_job` work on it: not on a driver that nobody submitted.
    pub was_submitted: bool,
}

const MAX_MESSAGE: usize = 300;
const MAX_ENTRYPOINT: usize = 1000;
const MAX_ENTRIES: usize = 64;

impl RayJobView {
    pub fn of(job: &RayJob) -> RayJobView {
        let short = |it: &String| clean(it, 128);
        RayJobView {
            job_id: clean(&job.id, 128),
            status: job.status,
            owner: job.owner().map(|it| clean(it, 63)),
            entrypoint: clean(&job.entrypoint, MAX_ENTRYPOINT),
            message: job
                .message
                .as_deref()
                .map(|it| clean(it.lines().next().unwrap_or_default(), MAX_MESSAGE)),
            error_type: job.error_type.as_ref().map(short),
            exit_code: job.exit_code,
            metadata: clean_map(&job.metadata)
                .into_iter()
                .filter(|(name, _)| !name.starts_with(RESERVED_METADATA))
                .collect(),
            env_names: job.env_names.iter().take(MAX_ENTRIES).map(short).collect(),
            driver_address: job.driver_address.as_ref().map(short),
            started_at: job.started_at,
            ended_at: job.ended_at,
            was_submitted: job.was_submitted,
        }
    }

    pub fn line(&self) -> String {
        let mut text = format!("Ray job `{}` is {}", self.job_id, self.status);
        if let Some(message) = self.message.as_ref().filter(|_| self.status == RayJobStatus::Failed)
        {
            text.push_str(&format!(": {message}"));
        }
        text
    }
}

pub fn ray_job_table(jobs: &[RayJobView]) -> String {
    let time = |it: Option<Timestamp>| it.map_or("-".to_owned(), |it| it.to_string());
    let row = |it: &RayJobView| {
        [
            it.job_id.clone(),
            it.status.to_string(),
            it.owner.clone().unwrap_or_else(|| "-".to_owned()),
            time(it.started_at),
            time(it.ended_at),
            it.entrypoint.replace('\n', " ").chars().take(60).collect(),
        ]
    };
    table(["JOB", "STATUS", "OWNER", "STARTED", "ENDED", "ENTRYPOINT"], jobs.iter().map(row))
}

fn clean(text: &str, max_bytes: usize) -> String {
    // Cut before it is cleaned as well: a message may have megabytes.
    let clean = sanitize(beginning(text, 4 * max_bytes));
    let kept = beginning(&clean, max_bytes);
    if kept.len() < clean.len() { format!("{kept}…") } else { kept.to_owned() }
}

fn clean_map(map: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    map.iter()
        .take(MAX_ENTRIES)
        .map(|(name, value)| (clean(name, 128), clean(value, MAX_MESSAGE)))
        .collect()
}

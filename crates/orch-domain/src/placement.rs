//! Which node gets an instance: a pure function from what is free to a decision with its reasons.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Shortage;
use crate::name::{NodeId, Tag};
use crate::node::{Node, Role};
use crate::ray::RayFigures;
use crate::resource::{Cpu, Memory, Resources};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The node that stays least loaded.
    #[default]
    Spread,
    /// The node that becomes fullest, keeping others empty.
    Binpack,
    /// The node that stays least loaded by instances and by what Ray has in use there.
    #[serde(rename = "ray-aware")]
    RayAware,
}

impl Strategy {
    pub fn as_str(self) -> &'static str {
        match self {
            Strategy::Spread => "spread",
            Strategy::Binpack => "binpack",
            Strategy::RayAware => "ray-aware",
        }
    }
}

/// What an instance needs of a node.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    pub resources: Resources,
    pub n_ports: usize,
    /// Only this node; role and tags then do not matter.
    pub node_id: Option<NodeId>,
    pub role: Option<Role>,
    pub tags: BTreeSet<Tag>,
    pub strategy: Strategy,
    /// Looked at by `Strategy::RayAware` alone.
    pub ray: RayFigures,
}

/// A node as placement sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub node: &'a Node,
    pub used: Resources,
    pub n_instances: u32,
    pub n_free_ports: usize,
}

/// The chosen node, and why.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Decision {
    pub node_id: NodeId,
    pub strategy: Strategy,
    /// Share of the fuller of CPU and memory that will be reserved on the node, 0 to 1.
    pub load_after: f64,
    /// Share that Ray has in use on the node, 0 to 1; null unless the strategy weighed it.
    pub ray_load: Option<f64>,
    /// How many nodes had room.
    pub n_feasible: usize,
    /// How many nodes there are.
    pub n_considered: usize,
    /// In words: what was preferred, and what was passed over.
    pub reasons: Vec<String>,
}

/// Why a node is passed over before its free resources are looked at.
#[derive(Clone, Copy, PartialEq)]
enum Skip {
    OtherNode,
    Cordoned,
    NotHealthy,
    OtherRole,
    MissingTag,
    Simulated,
    NoPorts,
    NoRoom,
}

const N_SKIPS: usize = 8;

impl Skip {
    fn words(self) -> &'static str {
        match self {
            Skip::OtherNode => "were not asked for",
            Skip::Cordoned => "are cordoned",
            Skip::NotHealthy => "are not healthy",
            Skip::OtherRole => "have another role",
            Skip::MissingTag => "lack a tag",
            Skip::Simulated => {
                "are simulated, and taken only when asked for by `node_id` or by a tag"
            }
            Skip::NoPorts => "have too few free ports",
            Skip::NoRoom => "have too little CPU, memory or GPU free",
        }
    }
}

const SKIPS: [Skip; N_SKIPS] = [
    Skip::OtherNode,
    Skip::Cordoned,
    Skip::NotHealthy,
    Skip::OtherRole,
    Skip::MissingTag,
    Skip::Simulated,
    Skip::NoPorts,
    Skip::NoRoom,
];

/// A node with room, and what it is judged by.
struct Feasible<'a> {
    /// Less is better.
    score: f64,
    n_instances: u32,
    node_id: &'a NodeId,
    load_after: f64,
    ray_load: Option<f64>,
}

impl Feasible<'_> {
    fn is_before(&self, other: &Feasible<'_>) -> bool {
        self.score
            .total_cmp(&other.score)
            .then(self.load_after.total_cmp(&other.load_after))
            .then(self.n_instances.cmp(&other.n_instances))
            .then(self.node_id.cmp(other.node_id))
            .is_lt()
    }
}

/// Chooses a node for `demand`. Where any node is real, simulated ones are for those who ask for them: a launch must not
/// seem to run while the only real node is down. Equal nodes are told apart by what is reserved, then by fewer instances,
/// then by id, so that the same input always gives the same answer.
pub fn place<'a>(
    candidates: impl Iterator<Item = Candidate<'a>> + Clone,
    demand: &Demand,
) -> Result<Decision, Shortage> {
    let only_real = demand.node_id.is_none()
        && demand.tags.is_empty()
        && candidates.clone().any(|it| !it.node.is_simulated());
    let mut n_skipped = [0usize; N_SKIPS];
    let mut n_considered = 0;
    let mut n_feasible = 0;
    let mut n_known_to_ray = 0;
    let mut best: Option<Feasible<'_>> = None;
    let mut refusal = Refusal::default();

    for candidate in candidates.clone() {
        n_considered += 1;
        let node = candidate.node;
        if let Some(skip) = skip(&candidate, demand, only_real) {
            n_skipped[skip as usize] += 1;
            continue;
        }
        let free = node.capacity.minus(&candidate.used);
        if !demand.resources.fits_in(&free) {
            n_skipped[Skip::NoRoom as usize] += 1;
            refusal.note(&free, &demand.resources);
            continue;
        }
        n_feasible += 1;
        let load_after = load(&candidate.used.plus(&demand.resources), &node.capacity);
        let ray_load = match demand.strategy {
            Strategy::RayAware => demand.ray.share_at(&node.address, demand.resources.gpu != 0),
            Strategy::Spread | Strategy::Binpack => None,
        };
        n_known_to_ray += usize::from(ray_load.is_some());
        let score = match demand.strategy {
            Strategy::Spread => load_after,
            Strategy::Binpack => -load_after,
            Strategy::RayAware => load_after.max(ray_load.unwrap_or(0.0)),
        };
        let n_instances = candidate.n_instances;
        let it = Feasible { score, n_instances, node_id: &node.id, load_after, ray_load };
        if best.as_ref().is_none_or(|best| it.is_before(best)) {
            best = Some(it);
        }
    }

    let passed_over = SKIPS
        .iter()
        .filter(|it| **it != Skip::OtherNode && n_skipped[**it as usize] != 0)
        .map(|it| format!("{} of {n_considered} nodes {}", n_skipped[*it as usize], it.words()));
    match best {
        Some(best) => {
            let weighed = (demand.strategy == Strategy::RayAware && demand.node_id.is_none())
                .then(|| weighed(&demand.ray, n_known_to_ray, n_feasible));
            Ok(Decision {
                node_id: best.node_id.clone(),
                strategy: demand.strategy,
                load_after: best.load_after,
                ray_load: best.ray_load,
                n_feasible,
                n_considered,
                reasons: std::iter::once(choice(&best, demand, n_feasible))
                    .chain(weighed)
                    .chain(passed_over)
                    .collect(),
            })
        }
        None => {
            let reasons = if n_considered == 0 {
                vec!["no node is registered; `register_node` adds one".to_owned()]
            } else {
                passed_over.collect()
            };
            let asks_for_what_is_not_there = 0 < n_considered
                && n_skipped[Skip::OtherRole as usize] + n_skipped[Skip::MissingTag as usize]
                    == n_considered;
            let on_offer =
                asks_for_what_is_not_there.then(|| on_offer(candidates.map(|it| it.node), demand));
            Err(refusal.shortage(demand.resources, on_offer, reasons))
        }
    }
}

/// Why it was this one.
fn choice(best: &Feasible<'_>, demand: &Demand, n_feasible: usize) -> String {
    let node_id = best.node_id;
    let percent = |it: f64| format!("{:.0} %", it * 100.0);
    let load = percent(best.load_after);
    if demand.node_id.is_some() {
        return format!("`{node_id}` was asked for and has room");
    }
    match demand.strategy {
        Strategy::Spread => {
            format!(
                "spread: of {n_feasible} nodes with room, `{node_id}` stays least loaded ({load})"
            )
        }
        Strategy::Binpack => {
            format!(
                "binpack: of {n_feasible} nodes with room, `{node_id}` becomes fullest ({load})"
            )
        }
        Strategy::RayAware => {
            let ray = best.ray_load.map_or("nothing known of Ray there".to_owned(), |it| {
                format!("{} in use by Ray", percent(it))
            });
            format!(
                "ray-aware: of {n_feasible} nodes with room, `{node_id}` stays least loaded ({load} reserved, {ray})"
            )
        }
    }
}

/// What was known of Ray when it was weighed.
fn weighed(ray: &RayFigures, n_known: usize, n_feasible: usize) -> String {
    match ray {
        RayFigures::NotConfigured => {
            "Ray is not configured, so only reservations were weighed".to_owned()
        }
        RayFigures::Stale { age_ms: None } => {
            "Ray has not answered yet, so only reservations were weighed".to_owned()
        }
        RayFigures::Stale { age_ms: Some(age_ms) } => format!(
            "Ray's figures are {} s old, too old to be weighed, so only reservations were",
            age_ms / 1000
        ),
        RayFigures::Fresh { age_ms, .. } => format!(
            "Ray's figures, {} s old, were weighed for {n_known} of {n_feasible} nodes with room; the others count by \
             their reservations",
            age_ms / 1000
        ),
    }
}

fn skip(candidate: &Candidate<'_>, demand: &Demand, only_real: bool) -> Option<Skip> {
    let node = candidate.node;
    match &demand.node_id {
        Some(wanted) if *wanted != node.id => return Some(Skip::OtherNode),
        Some(_) => {}
        None => {
            if node.role != demand.role.unwrap_or_default() {
                return Some(Skip::OtherRole);
            }
            if !demand.tags.is_subset(&node.tags) {
                return Some(Skip::MissingTag);
            }
            if only_real && node.is_simulated() {
                return Some(Skip::Simulated);
            }
        }
    }
    if node.cordoned {
        return Some(Skip::Cordoned);
    }
    if !node.status.may_take_instances() {
        return Some(Skip::NotHealthy);
    }
    (candidate.n_free_ports < demand.n_ports).then_some(Skip::NoPorts)
}

/// What nodes there are to ask for, where no node is of the role and has the tags that were asked for.
fn on_offer<'a>(nodes: impl Iterator<Item = &'a Node> + Clone, demand: &Demand) -> String {
    const N_TAGS_SHOWN: usize = 20;
    let wanted = demand.role.unwrap_or_default();
    let roles: BTreeSet<_> = nodes.clone().map(|it| it.role).collect();
    if !roles.contains(&wanted) {
        let roles: Vec<String> = roles.iter().map(|it| format!("`{it}`")).collect();
        return format!(
            "there is no node of the role `{wanted}`; there are nodes of the role {}",
            roles.join(", ")
        );
    }
    let tags: Vec<String> = demand.tags.iter().map(|it| format!("`{it}`")).collect();
    let of_role = nodes.filter(|it| it.role == wanted);
    let known: BTreeSet<_> = of_role.flat_map(|it| &it.tags).collect();
    let known: Vec<String> = known.iter().take(N_TAGS_SHOWN).map(|it| format!("`{it}`")).collect();
    let known = match known.is_empty() {
        true => "none has any tag".to_owned(),
        false => format!("they have the tags {}", known.join(", ")),
    };
    let all = if tags.len() == 1 { "the tag" } else { "all of the tags" };
    format!("no node of the role `{wanted}` has {all} {}; {known}", tags.join(", "))
}

/// Share of the fuller of CPU and memory.
pub fn load(used: &Resources, capacity: &Resources) -> f64 {
    let share = |used: u32, all: u32| if all == 0 { 1.0 } else { f64::from(used) / f64::from(all) };
    share(used.cpu.millis(), capacity.cpu.millis())
        .max(share(used.memory.mib(), capacity.memory.mib()))
}

/// What is collected on the way to a refusal.
#[derive(Default)]
struct Refusal {
    max_cpu: Cpu,
    max_memory: Memory,
    max_gpu: u32,
    feasible: Vec<Resources>,
}

const N_FEASIBLE_SHOWN: usize = 3;

impl Refusal {
    fn note(&mut self, free: &Resources, requested: &Resources) {
        self.max_cpu = self.max_cpu.max(free.cpu);
        self.max_memory = self.max_memory.max(free.memory);
        self.max_gpu = self.max_gpu.max(free.gpu);
        let size = Resources::new(
            requested.cpu.min(free.cpu),
            requested.memory.min(free.memory),
            requested.gpu.min(free.gpu),
        );
        if size.cpu == Cpu::ZERO || size.memory == Memory::ZERO || self.feasible.contains(&size) {
            return;
        }
        let distance = |it: &Resources| 2.0 - load_ratio(it, requested);
        let at = self.feasible.partition_point(|it| distance(it) <= distance(&size));
        if at < N_FEASIBLE_SHOWN {
            self.feasible.insert(at, size);
            self.feasible.truncate(N_FEASIBLE_SHOWN);
        }
    }

    fn shortage(
        self,
        requested: Resources,
        on_offer: Option<String>,
        reasons: Vec<String>,
    ) -> Shortage {
        Shortage {
            requested,
            max_cpu_available: self.max_cpu,
            max_memory_available: self.max_memory,
            max_gpu_available: self.max_gpu,
            feasible: self.feasible,
            on_offer,
            reasons,
        }
    }
}

/// How much of the request a size keeps: 2 when all of CPU and memory.
fn load_ratio(size: &Resources, requested: &Resources) -> f64 {
    let share = |a: u32, b: u32| if b == 0 { 1.0 } else { f64::from(a) / f64::from(b) };
    share(size.cpu.millis(), requested.cpu.millis())
        + share(size.memory.mib(), requested.memory.mib())
}

#[cfg(test)]
mod tests;

//! Reservation: instance record, quota, ports and capacity in one transaction, or nothing.

use std::collections::BTreeMap;

use super::Book;
use crate::Error;
use crate::error::OverQuota;
use crate::image::ImageRef;
use crate::instance::{Goal, Instance, InstanceState, LaunchToken};
use crate::label::Labels;
use crate::name::{InstanceId, InstanceName, NodeId, UserId};
use crate::node_loss::{OnNodeLoss, Wishes};
use crate::placement::{self, Decision, Demand};
use crate::port::{self, Holder, PortBinding, PortRequest};
use crate::time::Timestamp;
use crate::user::Quota;

/// A launch as checked at the edge.
#[derive(Clone, Debug)]
pub struct Launch {
    pub name: InstanceName,
    pub image: ImageRef,
    pub count: u32,
    pub ports: Vec<PortRequest>,
    pub env: BTreeMap<String, String>,
    pub command: Vec<String>,
    pub labels: Labels,
    pub owner: UserId,
    pub termination_protection: bool,
    pub on_node_loss: OnNodeLoss,
    /// Sizes, strategy and wishes about the node; its `n_ports` is taken from `ports`.
    pub demand: Demand,
    pub token: Option<LaunchToken>,
}

/// Instances that hold their reservation now.
#[derive(Clone, Debug)]
pub struct Reserved {
    pub ids: Vec<InstanceId>,
    /// Where each went; empty when they existed already.
    pub decisions: Vec<Decision>,
    /// The token named a launch that was made before.
    pub existed: bool,
}

/// A repeated launch without a token of its own counts as the same launch for so long.
const DERIVED_TOKEN_WINDOW_MS: u64 = 10 * 60 * 1000;

impl Book {
    /// Reserves all `count` instances or none. `random` parts the ids made in one millisecond.
    pub fn reserve(
        &mut self,
        launch: &Launch,
        now: Timestamp,
        mut random: impl FnMut() -> u32,
    ) -> Result<Reserved, Error> {
        if let Some(ids) = self.launched_before(launch, now)? {
            return Ok(Reserved { ids, decisions: Vec::new(), existed: true });
        }
        if let Some(node_id) = &launch.demand.node_id
            && self.slot(node_id).is_none()
        {
            return Err(Error::no_node(node_id));
        }
        let quota =
            self.user(&launch.owner).map(|it| it.quota).ok_or_else(|| Error::Unauthenticated {
                message: if launch.owner.is_external() {
                    format!(
                        "`{}` is known to its issuer alone and has no quota here; an administrator can make it a user",
                        launch.owner
                    )
                } else {
                    format!("the user `{}` does not exist any more", launch.owner)
                },
            })?;
        self.check_quota(launch, &quota)?;
        let mut reserved = Reserved { ids: Vec::new(), decisions: Vec::new(), existed: false };
        for n in 0..launch.count {
            let (id, decision) = self.reserve_one(launch, n, now, &mut random)?;
            reserved.ids.push(id);
            reserved.decisions.push(decision);
        }
        Ok(reserved)
    }

    /// A refusal for the most pressing limit that `launch` would pass.
    fn check_quota(&self, launch: &Launch, quota: &Quota) -> Result<(), Error> {
        let usage = self.usage(&launch.owner);
        let count = launch.count;
        let sizes = launch.demand.resources;
        let limits = [
            (
                "instances",
                u64::from(quota.instances),
                u64::from(usage.instances),
                u64::from(count),
                1.0,
            ),
            (
                "cpu",
                quota.cpu.millis().into(),
                usage.cpu.millis().into(),
                u64::from(count) * u64::from(sizes.cpu.millis()),
                1000.0,
            ),
            (
                "memory",
                quota.memory.mib().into(),
                usage.memory.mib().into(),
                u64::from(count) * u64::from(sizes.memory.mib()),
                1024.0,
            ),
        ];
        for (resource, limit, used, requested, unit) in limits {
            if limit < used + requested {
                let show = |it: u64| it as f64 / unit;
                let over = OverQuota {
                    resource,
                    limit: show(limit),
                    used: show(used),
                    requested: show(requested),
                };
                return Err(Error::QuotaExceeded(Box::new(over)));
            }
        }
        Ok(())
    }

    fn reserve_one(
        &mut self,
        launch: &Launch,
        n: u32,
        now: Timestamp,
        random: &mut impl FnMut() -> u32,
    ) -> Result<(InstanceId, Decision), Error> {
        let demand = Demand { n_ports: launch.ports.len(), ..launch.demand.clone() };
        let decision = placement::place(self.candidates(demand.n_ports), &demand)
            .map_err(|it| Error::InsufficientCapacity(Box::new(it)))?;
        let ports = self.choose_ports(
            &decision.node_id,
            &launch.ports,
            self.first_to_try(&decision.node_id),
            now,
        )?;
        let gpus = self.choose_gpus(&decision.node_id, launch.demand.resources.gpu)?;
        let id = loop {
            let id = InstanceId::new(now, random());
            if !self.instances.contains_key(&id) {
                break id;
            }
        };
        let name = match launch.count {
            1 => launch.name.clone(),
            _ => numbered(&launch.name, n + 1),
        };
        self.put_instance(Instance {
            id: id.clone(),
            name,
            image: launch.image.clone(),
            state: InstanceState::Pending,
            state_reason: None,
            state_since: now,
            goal: Goal::Running,
            node_id: decision.node_id.clone(),
            generation: 1,
            resources: launch.demand.resources,
            ports,
            gpus,
            env: launch.env.clone(),
            command: launch.command.clone(),
            labels: launch.labels.clone(),
            owner: launch.owner.clone(),
            created_at: now,
            launched_at: None,
            terminated_at: None,
            token: launch.token.clone(),
            termination_protection: launch.termination_protection,
            container_id: None,
            on_node_loss: launch.on_node_loss,
            wishes: Wishes {
                role: launch.demand.role,
                tags: launch.demand.tags.clone(),
                strategy: launch.demand.strategy,
            },
            remnants: Vec::new(),
        });
        Ok((id, decision))
    }

    /// The lowest port, until one turned out to be somebody else's: such ports come in runs, so from then on the search
    /// goes on above all that is held.
    pub(super) fn first_to_try(&self, node_id: &NodeId) -> u16 {
        let held = self.slot(node_id).map(|it| &it.ports).into_iter().flatten();
        let (mut highest, mut is_shared) = (0, false);
        for (port, holder) in held {
            highest = *port;
            is_shared |= matches!(holder, Holder::Quarantine { .. });
        }
        if is_shared { highest.saturating_add(1) } else { self.port_range.first() }
    }

    /// The lowest GPUs of the node that nobody holds.
    pub(super) fn choose_gpus(&self, node_id: &NodeId, n: u32) -> Result<Vec<u32>, Error> {
        let slot = self.slot(node_id).ok_or_else(|| Error::no_node(node_id))?;
        let chosen: Vec<u32> = slot.free_gpus(slot.node.capacity.gpu).take(n as usize).collect();
        if chosen.len() < n as usize {
            return Err(Error::conflict(format!(
                "node `{node_id}` has {} free GPUs and {n} are needed; terminate an instance there or launch elsewhere",
                chosen.len()
            )));
        }
        Ok(chosen)
    }

    pub(super) fn choose_ports(
        &self,
        node_id: &NodeId,
        wanted: &[PortRequest],
        start: u16,
        now: Timestamp,
    ) -> Result<Vec<PortBinding>, Error> {
        let slot = self.slot(node_id).ok_or_else(|| Error::no_node(node_id))?;
        let chosen = port::choose(self.port_range, &slot.ports, wanted.len(), start, now).ok_or_else(|| {
            Error::conflict(format!("node `{node_id}` has fewer than {} free ports; terminate an instance there or launch elsewhere", wanted.len()))
        })?;
        let bind = |(it, host_port): (&PortRequest, u16)| PortBinding {
            container_port: it.container_port,
            host_port,
            protocol: it.protocol,
        };
        Ok(wanted.iter().zip(chosen).map(bind).collect())
    }

    /// The instances of an earlier launch with the same token.
    fn launched_before(
        &self,
        launch: &Launch,
        now: Timestamp,
    ) -> Result<Option<Vec<InstanceId>>, Error> {
        let Some(token) = &launch.token else { return Ok(None) };
        let Some(ids) = self.by_token.get(&(launch.owner.clone(), token.token.clone())) else {
            return Ok(None);
        };
        let earlier: Vec<_> = ids.iter().filter_map(|it| self.instances.get(it)).collect();
        if !token.is_derived {
            let same = earlier.iter().all(|it| {
                it.token.as_ref().is_some_and(|it| it.arguments_sha256 == token.arguments_sha256)
            });
            if !same {
                return Err(Error::IdempotentParameterMismatch {
                    client_token: token.token.to_string(),
                });
            }
            return Ok(Some(ids.iter().cloned().collect()));
        }
        // Nobody asked for this token: it only guards against a repeated call, and must not bring back the dead.
        let is_repeat = |it: &Instance| {
            now.since(it.created_at) < DERIVED_TOKEN_WINDOW_MS
                && it.goal != Goal::Terminated
                && it.state.holds_reservation()
        };
        let alive: Vec<InstanceId> =
            earlier.iter().filter(|it| is_repeat(it)).map(|it| it.id.clone()).collect();
        // Several launches may share the token when one is older than the window; the latest is the one repeated. Where
        // fewer are left than are asked for, some of it is among the dead, and it is not the same launch any more.
        let latest = alive.len().checked_sub(launch.count as usize);
        Ok(latest.map(|it| alive[it..].to_vec()))
    }
}

/// `web` becomes `web-2`; a long name is cut so that the number fits.
fn numbered(name: &InstanceName, n: u32) -> InstanceName {
    let suffix = format!("-{n}");
    let kept = &name.as_str()[..name.as_str().len().min(63 - suffix.len())];
    InstanceName::try_new(format!("{kept}{suffix}")).expect("a cut name and a number keep the rule")
}

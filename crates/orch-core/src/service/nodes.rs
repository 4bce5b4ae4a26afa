//! Registering nodes, emptying them and giving them up.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, stream};
use orch_domain::Error;
use orch_domain::instance::{Action, InstanceState};
use orch_domain::label::Labels;
use orch_domain::name::{InstanceId, NodeId, Tag};
use orch_domain::node::{EngineConfig, Node, NodeStatus, Role};
use orch_domain::resource::{Cpu, Memory, Resources};
use orch_domain::ssh::{HostKey, HostTrust, Trust};

use crate::ports::engine::EngineError;
use crate::service::engines::engine_error;
use crate::service::health::n_gpus;
use crate::view::node::NodeView;
use crate::{Cx, Orch};

/// A node as somebody wants it registered.
#[derive(Clone, Debug)]
pub struct Enrolment {
    pub id: NodeId,
    pub hostname: String,
    pub address: String,
    pub role: Role,
    pub engine: EngineConfig,
    /// Which host keys it and those on the way may show, where it is behind SSH.
    pub trust: Trust,
    pub tags: BTreeSet<Tag>,
    pub labels: Labels,
    pub description: String,
    /// What may be given out; asked of the engine where `None`.
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub gpu: Option<u32>,
    /// Register it although its engine does not answer.
    pub force: bool,
}

/// Instances of a node dealt with at the same time.
const AT_ONCE: usize = 16;

impl Orch {
    /// Registers a node after asking its engine once, so that a wrong address is found out here and not by a launch.
    pub async fn enrol(
        self: &Arc<Orch>,
        cx: Option<&Cx>,
        enrolment: Enrolment,
    ) -> Result<NodeView, Error> {
        self.engines
            .check(&enrolment.engine)
            .map_err(|message| Error::invalid(engine_parameter(&enrolment.engine), message))?;
        let now = self.clock.now();
        let mut node = Node {
            id: enrolment.id,
            hostname: enrolment.hostname,
            address: enrolment.address,
            role: enrolment.role,
            engine: enrolment.engine,
            tags: enrolment.tags,
            labels: enrolment.labels,
            description: enrolment.description,
            capacity: Resources::default(),
            capacity_is_fixed: enrolment.cpu.is_some() || enrolment.memory.is_some(),
            gpu_is_fixed: enrolment.gpu.is_some(),
            cordoned: false,
            created_at: now,
            status: NodeStatus::Unknown,
            status_since: now,
            status_changes: Vec::new(),
        };
        // A taken id is refused before a foreign machine is asked anything.
        self.ledger.rehearse(|book| book.add_node(node.clone()))?;
        node.engine = self.identify(&node, &enrolment.trust, enrolment.force).await?;
        let probed = self.probe(&node).await;
        let left = probed.left();
        let mut sampled = None;
        let engine_has = match probed.answer {
            Ok(info) => {
                let sample = self.sample(&node, &info, left).await;
                let gpu = n_gpus(sample.as_ref()).unwrap_or_default();
                let capacity = Resources { gpu, ..info.capacity };
                sampled = Some((info, sample));
                capacity
            }
            Err(err) if !enrolment.force => return Err(not_enrolled(&node, err)),
            Err(_) if enrolment.cpu.is_some() != enrolment.memory.is_some() => {
                return Err(Error::invalid(
                    if enrolment.cpu.is_none() { "cpu_cores" } else { "memory_gb" },
                    "the engine does not answer and cannot tell it: give both `cpu_cores` and `memory_gb`, or neither",
                ));
            }
            Err(_) => Resources::default(),
        };
        node.capacity = Resources {
            cpu: enrolment.cpu.unwrap_or(engine_has.cpu),
            memory: enrolment.memory.unwrap_or(engine_has.memory),
            gpu: enrolment.gpu.unwrap_or(engine_has.gpu),
        };
        let check = probed.check;
        node.status = check.status;
        node.status_since = check.at;
        self.ledger.write(cx, |book| book.add_node(node.clone())).await?;
        let at = check.at;
        self.health.enter(&node, check);
        if let Some((info, sample)) = sampled {
            self.health.note(&node.id, at, &info, sample);
        }
        tracing::info!("node `{}` is registered and {}", node.id, node.status);
        crate::task::follow(self, &node.id);
        if node.status == NodeStatus::Healthy {
            self.reconcile_soon(&node.id);
        }
        self.node_view(&node.id)
    }

    /// The engine of `node` with the key by which its machine is recognised from now on. A machine that does not
    /// answer is taken at its word only with `force`, and only when that key was told.
    pub(crate) async fn identify(
        &self,
        node: &Node,
        trust: &Trust,
        force: bool,
    ) -> Result<EngineConfig, Error> {
        const PARAMETER: &str = "ssh.accept_host_key";
        const JUMP_PARAMETER: &str = "ssh.accept_jump_host_key";
        let within = self.settings.health_timeout;
        let met = tokio::time::timeout(within, self.engines.identify(&node.engine, trust))
            .await
            .unwrap_or(Err(EngineError::Timeout { after: within }));
        let err = match met {
            Ok(engine) => return Ok(engine),
            Err(err) => err,
        };
        match (err, &node.engine, &trust.host) {
            (EngineError::HostKeyUnknown { place, found }, _, _) => {
                let (who, parameter) = match is_jump(node, &place) {
                    true => ("jump", JUMP_PARAMETER),
                    false => ("machine", PARAMETER),
                };
                let message = format!(
                    "the {who} at `{place}` is not known yet; its host key is {found}. Compare it with what \
                     `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on that machine, and repeat the call \
                     with `{}` set to `{}`",
                    parameter.trim_start_matches("ssh."),
                    found.fingerprint
                );
                let parameter = parameter.to_owned();
                Err(Error::HostKeyUnknown { parameter, message, place, found })
            }
            (EngineError::HostKeyChanged { place, expected, found }, _, _) => {
                let found =
                    found.map_or_else(|| "no key of that kind".to_owned(), |it| it.to_string());
                let parameter = if is_jump(node, &place) { JUMP_PARAMETER } else { PARAMETER };
                Err(Error::invalid(
                    parameter,
                    format!(
                        "the machine at `{place}` shows {found} and not {expected}, which is the one expected: \
                         somebody may answer in its place; find out why before accepting it"
                    ),
                ))
            }
            (err, EngineConfig::DockerOverSsh(ssh), HostTrust::Exactly(fingerprint))
                if force && err.is_transient() && ssh.jumps.is_empty() =>
            {
                let mut ssh = ssh.clone();
                ssh.host_key = Some(HostKey { fingerprint: fingerprint.clone(), algorithm: None });
                Ok(EngineConfig::DockerOverSsh(ssh))
            }
            (err, _, _) if force && err.is_transient() => Err(Error::invalid(
                PARAMETER,
                "the machine does not answer and its host key is not known: give the key's fingerprint to register it \
                 all the same; behind a jump it has to answer",
            )),
            (err, _, _) => Err(not_enrolled(node, err)),
        }
    }

    pub fn node_view(&self, id: &NodeId) -> Result<NodeView, Error> {
        self.ledger.read(|book| {
            let slot = book.slot(id).ok_or_else(|| Error::no_node(id))?;
            Ok(NodeView::of(slot, &self.health).with_ray(self.ray_on(&slot.node)))
        })
    }

    /// Takes a node out of placement, or back in.
    pub async fn set_cordon(
        &self,
        cx: &Cx,
        id: &NodeId,
        is_cordoned: bool,
    ) -> Result<NodeView, Error> {
        cx.audit_target(id);
        self.ledger
            .write(Some(cx), |book| {
                let slot = book.slot(id).ok_or_else(|| Error::no_node(id))?;
                // Asked twice, nothing changes and nothing is written.
                if slot.node.cordoned != is_cordoned {
                    book.change_node(id, |it| it.cordoned = is_cordoned)?;
                }
                Ok(())
            })
            .await?;
        self.node_view(id)
    }

    /// Does `action` to every instance of a node and tells what became of each, oldest first.
    pub async fn empty_node(
        self: &Arc<Orch>,
        cx: &Cx,
        id: &NodeId,
        action: Action,
        wait: bool,
    ) -> Result<Vec<Emptied>, Error> {
        let held: Vec<InstanceId> = self.ledger.read(|book| {
            book.slot(id).map(|it| it.instances.iter().cloned().collect()).unwrap_or_default()
        });
        let empty = |it: InstanceId| async move {
            let refusal = self.empty_one(cx, &it, action, wait).await.err();
            Emptied { id: it, refusal }
        };
        let emptied: Vec<Emptied> =
            stream::iter(held.into_iter().map(empty)).buffered(AT_ONCE).collect().await;
        if cx.cancel.is_cancelled() {
            return Err(Error::Cancelled {
                message: format!(
                    "the call was cancelled; `{id}` stays cordoned, and instances that were already asked to {} go on",
                    if action == Action::Stop { "stop" } else { "end" }
                ),
            });
        }
        Ok(emptied)
    }

    async fn empty_one(
        self: &Arc<Orch>,
        cx: &Cx,
        id: &InstanceId,
        action: Action,
        wait: bool,
    ) -> Result<(), Error> {
        let ids = std::slice::from_ref(id);
        let mut requested = self.request(cx, id, action).await;
        // One that is being launched or restarted cannot be stopped yet: it is waited for.
        if let (Err(Error::IncorrectState { state, .. }), true) = (&requested, wait)
            && InstanceState::ALL.iter().any(|it| it.is_transitional() && it.as_str() == state)
        {
            self.wait_for(cx, ids).await?;
            requested = self.request(cx, id, action).await;
        }
        match requested {
            // It ended by itself meanwhile, which is all that was wanted.
            Err(Error::NotFound { .. }) => return Ok(()),
            it => it?,
        }
        if wait {
            self.wait_for(cx, ids).await?;
        }
        Ok(())
    }
}

/// What became of one instance of a drained node.
pub struct Emptied {
    pub id: InstanceId,
    /// None: it was done, or is under way.
    pub refusal: Option<Error>,
}

/// Whether `place` is a machine on the way to the node, and not the node itself.
fn is_jump(node: &Node, place: &str) -> bool {
    match &node.engine {
        EngineConfig::DockerOverSsh(ssh) => ssh.jumps.iter().any(|it| it.place() == place),
        EngineConfig::Docker { .. } | EngineConfig::Sim(_) => false,
    }
}

/// The parameter of `register_node` that says where the engine is.
pub fn engine_parameter(engine: &EngineConfig) -> &'static str {
    match engine {
        EngineConfig::Docker { .. } => "endpoint",
        EngineConfig::DockerOverSsh(_) => "ssh",
        EngineConfig::Sim(_) => "sim",
    }
}

fn not_enrolled(node: &Node, err: EngineError) -> Error {
    if !err.is_transient() {
        return engine_error(&node.id, err);
    }
    let place = match &node.engine {
        EngineConfig::Docker { endpoint } => format!(" at `{endpoint}`"),
        EngineConfig::DockerOverSsh(ssh) => {
            return Error::NodeUnreachable {
                node_id: node.id.clone(),
                hint: format!(
                    "nothing was registered: {err} (as `{}`, socket `{}`); `force=true` registers it all the same",
                    ssh.place(),
                    ssh.socket
                ),
                source: Box::new(err),
            };
        }
        EngineConfig::Sim(_) => String::new(),
    };
    Error::NodeUnreachable {
        node_id: node.id.clone(),
        hint: format!(
            "nothing was registered: check that its engine runs{place} and that this server may use it, or repeat the \
             call with `force=true` to register it all the same"
        ),
        source: Box::new(err),
    }
}

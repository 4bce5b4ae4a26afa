//! New instances: reserved in one piece, all or none, then started.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::book::{Launch, Reserved};
use orch_domain::caller::{Channel, Permission};
use orch_domain::image::ImageRef;
use orch_domain::instance::LaunchToken;
use orch_domain::label::Labels;
use orch_domain::name::{ClientToken, InstanceName, NodeId, Tag};
use orch_domain::node::Role;
use orch_domain::node_loss::OnNodeLoss;
use orch_domain::placement::{Decision, Demand, Strategy};
use orch_domain::port::PortRequest;
use orch_domain::ray::RayFigures;
use orch_domain::resource::{Cpu, Memory, Resources};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::instance::{InstanceView, instance_table};
use crate::{Cx, Orch};

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaunchInstance {
    /// What to call it; made from the image when left out. Not unique.
    pub name: Option<InstanceName>,
    /// Image to run, such as `nginx:alpine`. Pulled when the node does not have it.
    pub image: ImageRef,
    /// vCPU, from 0.05; 0.5 unless given. A hard limit, and reserved on the node.
    pub cpu: Option<Cpu>,
    /// GiB, from 0.0078125 (8 MiB); 0.25 unless given. A hard limit, and reserved on the node.
    pub memory: Option<Memory>,
    /// Whole GPUs.
    #[serde(default)]
    #[schemars(range(max = 64))]
    pub gpu: u32,
    /// How many to launch, 1 to 100; all or none. Several get `-1`, `-2` … after their name.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub count: u32,
    /// Container ports to publish, at most 16. Each gets a port of the node between 8000 and 9000, shown in `address`
    /// and `ports` of the answer.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub ports: Vec<PortRequest>,
    /// Environment variables, at most 128.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Program and arguments that replace the image's own command.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,
    /// Run it on this node, as `list_nodes` names it.
    pub node_id: Option<NodeId>,
    /// Only on nodes of this role; `worker` unless given.
    pub role: Option<Role>,
    /// Only on nodes that carry all these tags.
    #[serde(default)]
    pub tags: BTreeSet<Tag>,
    /// Labels to find it by in `list_instances`.
    #[serde(default)]
    pub labels: Labels,
    /// `spread` to the least loaded node, `binpack` onto the fullest that has room, or `ray-aware`: spread, with what
    /// Ray has in use on the nodes counted as well.
    #[serde(default)]
    pub strategy: Strategy,
    /// Refuse to terminate it until that is lifted with `update_instance`.
    #[serde(default)]
    pub termination_protection: bool,
    /// When its node stays unreachable: `keep` waits for the node; `reschedule` starts it anew on another node that
    /// `role` and `tags` allow, without the files it wrote. `node_id` then only says where it runs first.
    #[serde(default, skip_serializing_if = "OnNodeLoss::is_default")]
    pub on_node_loss: OnNodeLoss,
    /// Names this launch: repeating it with the same token and arguments answers the same instance instead of
    /// launching another. Choose a new one for each launch you mean. Over MCP, a launch without one counts as a repeat
    /// when the same arguments were launched less than 10 minutes ago.
    pub client_token: Option<ClientToken>,
    /// Say where it would go, and launch nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Answer when it runs (or has failed); false answers as soon as it is reserved.
    #[serde(default = "super::yes")]
    pub wait: bool,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LaunchedInstances {
    /// The first instance, with all its fields at the top, as most launches make one. Absent in a dry run.
    #[serde(flatten)]
    pub first: Option<InstanceView>,
    /// All instances of the launch.
    pub instances: Vec<InstanceView>,
    /// Where each goes and why; empty when the launch had been made before.
    pub placement: Vec<Decision>,
    /// True when nothing was launched.
    pub dry_run: bool,
    /// The token of this launch; over MCP, made from caller and arguments when none was given.
    pub client_token: Option<ClientToken>,
    /// True when an earlier launch with this token was found and nothing new was launched.
    pub existed: bool,
    /// What to know about this answer.
    pub note: Option<String>,
}

impl Summary for LaunchedInstances {
    fn summary(&self) -> String {
        let mut text = match (&self.instances[..], self.dry_run) {
            (_, true) => {
                let chosen = self.placement.iter().map(|it| it.reasons.join("; "));
                format!("Dry run, nothing launched. {}", chosen.collect::<Vec<_>>().join("\n"))
            }
            ([one], _) => one.line(),
            (many, _) => instance_table(many),
        };
        if let Some(note) = &self.note {
            text.push_str(&format!("\n{note}"));
        }
        text
    }
}

impl Operation for LaunchInstance {
    const SPEC: Spec = spec!(
        "launch_instance",
        Instances,
        Creates,
        Some(Permission::Write),
        [Route::post("/instances")]
    );
    type Output = LaunchedInstances;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<LaunchedInstances, Error> {
        let (dry_run, wait) = (self.dry_run, self.wait);
        let launch = self.check(orch, cx)?;
        if dry_run {
            let reserved = orch.try_launch(&launch)?;
            return answer(orch, &launch, reserved, true);
        }
        let reserved = orch.launch(cx, launch.clone()).await?;
        if wait {
            orch.wait_for_launch(cx, &reserved).await?;
        }
        answer(orch, &launch, reserved, false)
    }
}

fn answer(
    orch: &Orch,
    launch: &Launch,
    reserved: Reserved,
    dry_run: bool,
) -> Result<LaunchedInstances, Error> {
    let instances: Vec<InstanceView> = orch.ledger.read(|book| {
        reserved
            .ids
            .iter()
            .filter_map(|id| book.instance(id))
            .map(|it| InstanceView::of(it, book))
            .collect()
    });
    let token = launch.token.as_ref();
    let note = (reserved.existed && token.is_some_and(|it| it.is_derived)).then(|| {
        "The same launch was made less than 10 minutes ago, so this is that instance and nothing new was launched. To \
         launch another, change an argument or give a `client_token` of your own."
            .to_owned()
    });
    Ok(LaunchedInstances {
        first: instances.first().cloned(),
        instances,
        placement: reserved.decisions,
        dry_run,
        client_token: token.map(|it| it.token.clone()),
        existed: reserved.existed,
        note,
    })
}

const MIN_CPU: Cpu = Cpu::from_millis(50);
/// Docker refuses less than 6 MiB.
const MIN_MEMORY: Memory = Memory::from_mib(8);
const MAX_ENV: usize = 128;
const MAX_TEXT: usize = 32 * 1024;

impl LaunchInstance {
    /// The rules that types alone do not carry.
    fn check(self, orch: &Orch, cx: &Cx) -> Result<Launch, Error> {
        let caller = cx.caller()?;
        let arguments_sha256 = self.digest()?;
        let resources = Resources::new(
            self.cpu.unwrap_or(orch.settings.default_cpu),
            self.memory.unwrap_or(orch.settings.default_memory),
            self.gpu,
        );
        if resources.cpu < MIN_CPU {
            return Err(Error::invalid(
                "cpu",
                format!("{} is less than the smallest size, 0.05 vCPU", resources.cpu.vcpu()),
            ));
        }
        if resources.memory < MIN_MEMORY {
            return Err(Error::invalid(
                "memory",
                format!(
                    "{} GiB is less than the smallest size, 0.0078125 GiB (8 MiB)",
                    resources.memory.gib()
                ),
            ));
        }
        if 64 < self.gpu {
            return Err(Error::invalid("gpu", format!("{} is more than 64", self.gpu)));
        }
        if !(1..=100).contains(&self.count) {
            return Err(Error::invalid("count", format!("{} is not from 1 to 100", self.count)));
        }
        if 16 < self.ports.len() {
            return Err(Error::invalid(
                "ports",
                format!("{} ports; at most 16 can be published", self.ports.len()),
            ));
        }
        let distinct: BTreeSet<_> = self.ports.iter().collect();
        if distinct.len() != self.ports.len() {
            return Err(Error::invalid("ports", "a container port is named twice"));
        }
        check_env(&self.env)?;
        check_command(&self.command)?;
        let token = match self.client_token {
            Some(token) => Some(LaunchToken { token, is_derived: false, arguments_sha256 }),
            // A model repeats a call that it believes lost, and rarely means two of the same. A person or a script that
            // asks twice wants two.
            None if caller.channel == Channel::Mcp => {
                Some(derived_token(caller.user.as_str(), arguments_sha256))
            }
            None => None,
        };
        Ok(Launch {
            name: self.name.unwrap_or_else(|| name_of(&self.image)),
            image: self.image,
            count: self.count,
            ports: self.ports,
            env: self.env,
            command: self.command,
            labels: self.labels,
            owner: caller.user.clone(),
            termination_protection: self.termination_protection,
            on_node_loss: self.on_node_loss,
            demand: Demand {
                resources,
                n_ports: 0,
                node_id: self.node_id,
                role: self.role,
                tags: self.tags,
                strategy: self.strategy,
                ray: match self.strategy {
                    Strategy::RayAware => orch.ray_figures(),
                    Strategy::Spread | Strategy::Binpack => RayFigures::NotConfigured,
                },
            },
            token,
        })
    }

    /// Over everything that makes the launch what it is; how the caller wants to be answered does not count.
    fn digest(&self) -> Result<String, Error> {
        let meant =
            LaunchInstance { client_token: None, dry_run: false, wait: true, ..self.clone() };
        let json = serde_json::to_vec(&meant).map_err(Error::internal)?;
        Ok(hex::encode(Sha256::digest(json)))
    }
}

pub(super) fn check_env(env: &BTreeMap<String, String>) -> Result<(), Error> {
    if MAX_ENV < env.len() {
        return Err(Error::invalid(
            "env",
            format!("{} variables; at most {MAX_ENV} are allowed", env.len()),
        ));
    }
    for (name, value) in env {
        let name_is_good =
            name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && name.len() <= 255
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !name_is_good {
            let shown = orch_domain::text::excerpt(name, 40);
            return Err(Error::invalid(
                "env",
                format!(
                    "`{shown}` is not a variable name: letters, digits and `_`, not starting with a digit"
                ),
            ));
        }
        // The value may be a secret, so only its name is told.
        if MAX_TEXT < value.len() || value.contains('\0') {
            return Err(Error::invalid(
                format!("env.{name}"),
                "its value is longer than 32 KiB or has a zero byte",
            ));
        }
    }
    Ok(())
}

pub(super) fn check_command(command: &[String]) -> Result<(), Error> {
    if 64 < command.len() {
        return Err(Error::invalid(
            "command",
            format!("{} words; at most 64 are allowed", command.len()),
        ));
    }
    if command.first().is_some_and(String::is_empty) {
        return Err(Error::invalid("command", "its first word, the program, is empty"));
    }
    if command.iter().any(|it| MAX_TEXT < it.len() || it.contains('\0')) {
        return Err(Error::invalid("command", "a word is longer than 32 KiB or has a zero byte"));
    }
    Ok(())
}

fn derived_token(user: &str, arguments_sha256: String) -> LaunchToken {
    let digest = hex::encode(Sha256::digest(format!("{user}\n{arguments_sha256}")));
    let token = ClientToken::try_new(format!("derived-{}", &digest[..40]))
        .expect("hexadecimal digits keep the rule");
    LaunchToken { token, is_derived: true, arguments_sha256 }
}

/// `registry/team/web-app:1.2` becomes `web-app`.
fn name_of(image: &ImageRef) -> InstanceName {
    let last = image.as_str().rsplit('/').next().unwrap_or_default();
    let name = last.split([':', '@']).next().unwrap_or_default();
    InstanceName::try_new(&name[..name.len().min(63)])
        .unwrap_or_else(|_| InstanceName::try_new("instance").expect("a plain word keeps the rule"))
}

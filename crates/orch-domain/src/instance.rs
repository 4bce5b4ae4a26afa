//! What an instance is, the states it goes through, and which requests each state allows.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::image::ImageRef;
use crate::label::Labels;
use crate::name::{ClientToken, InstanceId, InstanceName, NodeId, UserId};
use crate::node_loss::{OnNodeLoss, Remnant, Wishes};
use crate::port::PortBinding;
use crate::resource::Resources;
use crate::time::Timestamp;

/// As EC2's: `pending → running → stopping → stopped → (pending …)`, `shutting-down → terminated`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Pending,
    Running,
    Stopping,
    Stopped,
    ShuttingDown,
    Terminated,
}

impl InstanceState {
    pub const ALL: [InstanceState; 6] = [
        InstanceState::Pending,
        InstanceState::Running,
        InstanceState::Stopping,
        InstanceState::Stopped,
        InstanceState::ShuttingDown,
        InstanceState::Terminated,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            InstanceState::Pending => "pending",
            InstanceState::Running => "running",
            InstanceState::Stopping => "stopping",
            InstanceState::Stopped => "stopped",
            InstanceState::ShuttingDown => "shutting-down",
            InstanceState::Terminated => "terminated",
        }
    }

    /// On the way to another state: somebody has to act before it rests.
    pub fn is_transitional(self) -> bool {
        matches!(
            self,
            InstanceState::Pending | InstanceState::Stopping | InstanceState::ShuttingDown
        )
    }

    /// Whether it holds its quota, capacity and ports. It does until its container is seen to be gone.
    pub fn holds_reservation(self) -> bool {
        self != InstanceState::Terminated
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the instance should come to rest. Recorded before anything is done about it, so that whoever finds the record
/// after a crash knows what to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    Running,
    Stopped,
    Terminated,
}

/// Why an instance is in its state, as a code for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StateReason {
    /// `Client.…` when the caller's side caused it, `Server.…` when ours did.
    pub code: ReasonCode,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ReasonCode {
    #[serde(rename = "Client.UserInitiatedShutdown")]
    UserInitiatedShutdown,
    #[serde(rename = "Client.InstanceInitiatedShutdown")]
    InstanceInitiatedShutdown,
    /// Its command ended by itself, and well.
    #[serde(rename = "Client.CommandCompleted")]
    CommandCompleted,
    #[serde(rename = "Client.LaunchCancelled")]
    LaunchCancelled,
    #[serde(rename = "Client.ImageNotFound")]
    ImageNotFound,
    #[serde(rename = "Client.InvalidCommand")]
    InvalidCommand,
    #[serde(rename = "Server.InsufficientInstanceCapacity")]
    InsufficientInstanceCapacity,
    #[serde(rename = "Server.PortsExhausted")]
    PortsExhausted,
    #[serde(rename = "Server.NodeLost")]
    NodeLost,
    #[serde(rename = "Server.NodeUnreachable")]
    NodeUnreachable,
    #[serde(rename = "Server.Relocated")]
    Relocated,
    #[serde(rename = "Server.OutOfMemory")]
    OutOfMemory,
    #[serde(rename = "Server.ContainerRemoved")]
    ContainerRemoved,
    #[serde(rename = "Server.ContainerStopped")]
    ContainerStopped,
    #[serde(rename = "Server.NameTaken")]
    NameTaken,
    #[serde(rename = "Server.EngineError")]
    EngineError,
}

impl ReasonCode {
    pub fn because(self, message: impl Into<String>) -> StateReason {
        StateReason { code: self, message: message.into() }
    }
}

/// The token a launch was made with, so that repeating it finds this instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchToken {
    pub token: ClientToken,
    /// Made by us from caller and arguments because the caller gave none.
    pub is_derived: bool,
    /// SHA-256 of the arguments, in hexadecimal.
    pub arguments_sha256: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    pub id: InstanceId,
    pub name: InstanceName,
    pub image: ImageRef,
    pub state: InstanceState,
    pub state_reason: Option<StateReason>,
    pub state_since: Timestamp,
    pub goal: Goal,
    pub node_id: NodeId,
    /// Grows when the instance is started anew elsewhere; the container of an older generation is not ours any more.
    pub generation: u32,
    pub resources: Resources,
    pub ports: Vec<PortBinding>,
    /// The GPUs of the node that are its own, by index: as many as `resources.gpu`.
    pub gpus: Vec<u32>,
    pub env: BTreeMap<String, String>,
    /// Replaces the image's command when not empty.
    pub command: Vec<String>,
    pub labels: Labels,
    pub owner: UserId,
    pub created_at: Timestamp,
    /// First time it ran. None: its launch is not finished, and a failure undoes it.
    pub launched_at: Option<Timestamp>,
    pub terminated_at: Option<Timestamp>,
    pub token: Option<LaunchToken>,
    pub termination_protection: bool,
    /// None: no container of this generation has run yet.
    pub container_id: Option<String>,
    pub on_node_loss: OnNodeLoss,
    /// Kept for when it has to go to another node.
    pub wishes: Wishes,
    /// Of earlier generations, each on a node of its own and none on the present one.
    pub remnants: Vec<Remnant>,
}

/// What a user may ask of an instance that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Stop,
    Start,
    Restart,
    Terminate,
}

impl Action {
    pub const ALL: [Action; 4] = [Action::Stop, Action::Start, Action::Restart, Action::Terminate];

    fn verb(self) -> &'static str {
        match self {
            Action::Stop => "stop",
            Action::Start => "start",
            Action::Restart => "restart",
            Action::Terminate => "terminate",
        }
    }
}

impl Instance {
    /// It was placed anew and has not run there yet: there is no container to go back to.
    pub fn is_moving(&self) -> bool {
        self.launched_at.is_some() && self.container_id.is_none()
    }

    pub fn enter(&mut self, state: InstanceState, reason: Option<StateReason>, now: Timestamp) {
        if self.state != state {
            self.state = state;
            self.state_since = now;
        }
        self.state_reason = reason;
    }

    /// The state and goal that `action` leads to. `Ok(None)`: it is already there or on its way, so that asking twice
    /// is not an error.
    pub fn after(&self, action: Action) -> Result<Option<(InstanceState, Goal)>, Error> {
        use InstanceState::{Pending, Running, ShuttingDown, Stopped, Stopping, Terminated};
        match (action, self.state) {
            (Action::Terminate, ShuttingDown | Terminated) => Ok(None),
            (Action::Terminate, _) if self.termination_protection => Err(self.refuse(
                action,
                "it is protected from termination; lift that first with `update_instance` and \
                 `termination_protection=false`",
            )),
            (Action::Terminate, _) => Ok(Some((ShuttingDown, Goal::Terminated))),
            (_, ShuttingDown | Terminated) => {
                Err(self.refuse(action, "it is terminated or about to be; launch a new one"))
            }
            (Action::Stop, Running) => Ok(Some((Stopping, Goal::Stopped))),
            (Action::Stop, Stopped) => Ok(None),
            (Action::Stop, Stopping) if self.goal == Goal::Stopped => Ok(None),
            (Action::Start, Stopped) => Ok(Some((Pending, Goal::Running))),
            (Action::Start, Running | Pending) => Ok(None),
            (Action::Restart, Running) => Ok(Some((Stopping, Goal::Running))),
            (Action::Restart, Stopped) => {
                Err(self.refuse(action, "only a running instance restarts; use `start_instance`"))
            }
            (Action::Restart, Stopping) if self.goal == Goal::Running => Ok(None),
            (_, Pending | Stopping) => Err(self.refuse(
                action,
                "wait until `get_instance` shows it `running` or `stopped`, then try again",
            )),
        }
    }

    fn refuse(&self, action: Action, advice: &str) -> Error {
        Error::IncorrectState {
            id: self.id.to_string(),
            state: self.state.to_string(),
            message: format!(
                "cannot {} `{}`, which is {}: {advice}",
                action.verb(),
                self.id,
                self.state
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(state: InstanceState, goal: Goal) -> Instance {
        Instance { state, goal, ..Instance::test(1) }
    }

    #[test]
    fn no_action_leaves_a_terminated_instance() {
        for action in Action::ALL {
            let it = instance(InstanceState::Terminated, Goal::Terminated);
            assert!(!matches!(it.after(action), Ok(Some(_))), "{action:?}");
        }
    }

    #[test]
    fn asking_twice_is_asking_once() {
        for action in Action::ALL {
            for state in InstanceState::ALL {
                let before = instance(state, Goal::Running);
                if let Ok(Some((state, goal))) = before.after(action) {
                    assert_eq!(
                        instance(state, goal).after(action).unwrap(),
                        None,
                        "{action:?} from {}",
                        before.state
                    );
                }
            }
        }
    }

    #[test]
    fn protection_holds_until_lifted() {
        let mut it = instance(InstanceState::Running, Goal::Running);
        it.termination_protection = true;
        assert!(matches!(it.after(Action::Terminate), Err(Error::IncorrectState { .. })));
        it.termination_protection = false;
        assert_eq!(
            it.after(Action::Terminate).unwrap(),
            Some((InstanceState::ShuttingDown, Goal::Terminated))
        );
    }
}

//! One of each record for tests: plain and valid, so that a test says only what it is about, as in
//! `Node { cordoned: true, ..Node::test("n1") }`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Map;

use crate::batch::{Batch, BatchState, Part, RunsFor, StepRun, StepState, Terms};
use crate::caller::{Caller, Channel, Permission};
use crate::image::ImageRef;
use crate::instance::{Goal, Instance, InstanceState};
use crate::label::Labels;
use crate::name::{BatchId, InstanceId, InstanceName, NodeId, StepId, UserId, UserName};
use crate::node::{EngineConfig, Node, NodeStatus, Role, SimConfig};
use crate::node_loss::{OnNodeLoss, Wishes};
use crate::plan::{OnError, Step};
use crate::resource::{Cpu, Memory, Resources};
use crate::time::Timestamp;
use crate::tool_access::ToolPatterns;
use crate::user::{Quota, User};

impl Node {
    /// A healthy simulated worker of 16 vCPU and 64 GiB.
    pub fn test(id: &str) -> Node {
        let sim = SimConfig::default();
        let capacity = Resources::new(sim.cpu, sim.memory, sim.gpu);
        Node {
            id: NodeId::try_new(id).expect("a valid id"),
            hostname: id.to_owned(),
            address: "127.0.0.1".to_owned(),
            role: Role::Worker,
            engine: EngineConfig::Sim(sim),
            tags: BTreeSet::new(),
            labels: Labels::default(),
            description: String::new(),
            capacity,
            capacity_is_fixed: false,
            gpu_is_fixed: false,
            cordoned: false,
            created_at: Timestamp::ZERO,
            status: NodeStatus::Healthy,
            status_since: Timestamp::ZERO,
            status_changes: Vec::new(),
        }
    }

    /// On a simulated engine like this, and as large.
    pub fn simulated(self, sim: SimConfig) -> Node {
        let capacity = Resources::new(sim.cpu, sim.memory, sim.gpu);
        Node { capacity, engine: EngineConfig::Sim(sim), ..self }
    }
}

impl User {
    /// Who may do everything, within a quota that nothing fills but a number of instances.
    pub fn test(name: &str) -> User {
        User {
            id: UserId::try_new(name).expect("a valid id"),
            name: UserName::try_new(name).expect("a valid name"),
            password_hash: String::new(),
            permissions: Permission::ALL.to_vec(),
            quota: Quota {
                instances: 10,
                cpu: Cpu::from_millis(1_000_000),
                memory: Memory::from_mib(1 << 20),
            },
            created_at: Timestamp::ZERO,
            tokens_valid_from: Timestamp::ZERO,
            tools: ToolPatterns::default(),
        }
    }
}

impl Instance {
    /// The `n`th launch of `ann` on node `local`: one vCPU, no ports, just reserved.
    pub fn test(n: u32) -> Instance {
        let now = Timestamp::from_millis(1_763_627_400_000 + i64::from(n));
        Instance {
            id: InstanceId::new(now, n),
            name: InstanceName::try_new("web").expect("a valid name"),
            image: ImageRef::try_new("nginx:alpine").expect("a valid image"),
            state: InstanceState::Pending,
            state_reason: None,
            state_since: now,
            goal: Goal::Running,
            node_id: NodeId::try_new("local").expect("a valid id"),
            generation: 1,
            resources: Resources::new(Cpu::from_millis(1000), Memory::from_mib(1024), 0),
            ports: Vec::new(),
            gpus: Vec::new(),
            env: BTreeMap::new(),
            command: Vec::new(),
            labels: Labels::default(),
            owner: UserId::try_new("ann").expect("a valid id"),
            created_at: now,
            launched_at: None,
            terminated_at: None,
            token: None,
            termination_protection: false,
            container_id: None,
            on_node_loss: OnNodeLoss::Keep,
            wishes: Wishes::default(),
            remnants: Vec::new(),
        }
    }
}

impl Batch {
    /// The `n`th batch of `ann`, accepted and not begun.
    pub fn test(n: u32) -> Batch {
        let now = Timestamp::from_millis(1_763_627_400_000 + i64::from(n));
        let caller = Caller::new(
            UserId::try_new("ann").expect("a valid id"),
            Permission::ALL.to_vec(),
            Channel::Mcp,
        );
        Batch {
            id: BatchId::new(now, n),
            runs_for: RunsFor::of(&caller, None),
            state: BatchState::Queued,
            reason: None,
            request: None,
            client_token: None,
            arguments_hash: None,
            terms: Terms {
                max_parallel: 10,
                step_timeout_ms: 30_000,
                retries: 0,
                deadline: now.plus_millis(3_600_000),
                on_error: OnError::Fail,
            },
            output: None,
            answer: None,
            n_steps: 0,
            created_at: now,
            started_at: None,
            ended_at: None,
        }
    }
}

impl StepRun {
    /// The step at that place, waiting.
    pub fn test(place: u32) -> StepRun {
        StepRun {
            part: Part { step: place, element: None, is_compensation: false },
            state: StepState::Waiting,
            attempt: 0,
            reason: None,
            result: None,
            started_at: None,
            ended_at: None,
        }
    }
}

impl Step {
    /// A call of `tool` without arguments that needs nothing.
    pub fn test(id: &str, tool: &str) -> Step {
        Step {
            id: StepId::try_new(id).expect("a valid id"),
            tool: tool.to_owned(),
            arguments: Map::new(),
            depends_on: Vec::new(),
            when: None,
            for_each: None,
            max_parallel: None,
            collect: None,
            timeout: None,
            retry: None,
            on_error: None,
            compensate: None,
        }
    }
}

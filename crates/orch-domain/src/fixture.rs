//! One of each record for tests: plain and valid, so that a test says only what it is about, as in
//! `Node { cordoned: true, ..Node::test("n1") }`.

use std::collections::{BTreeMap, BTreeSet};

use crate::caller::Permission;
use crate::image::ImageRef;
use crate::instance::{Goal, Instance, InstanceState};
use crate::label::Labels;
use crate::name::{InstanceId, InstanceName, NodeId, UserId, UserName};
use crate::node::{EngineConfig, Node, NodeStatus, Role, SimConfig};
use crate::node_loss::{OnNodeLoss, Wishes};
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

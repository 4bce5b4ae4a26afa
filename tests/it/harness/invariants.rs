//! What holds whatever happened, checked against what every engine really has.
//!
//! Some rules hold at every moment ([`Invariants::at_any_time`]), the others when things have come to rest
//! ([`Invariants::converge`]). That nobody holds more than a quota, and no port is held twice, is looked at in every
//! commit by [`super::watched::Watched`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use orch_core::ports::engine::ContainerLabels;
use serde_json::{Value, json};

use super::PATIENCE;
use super::caller::ADMIN;
use super::cloud::Cloud;
use super::server::Server;

/// A server, in this process or in its own, as these rules ask it. They ask as the administrator.
pub(crate) trait Asked {
    async fn controller_id(&self) -> String;
    /// All instances, the terminated too.
    async fn records(&self) -> Vec<Value>;
    /// Begins to terminate one.
    async fn end(&self, id: &str);
    /// Instances, vCPU and memory that count against quotas, over all users.
    async fn reserved(&self) -> f64;
}

/// An engine, and the nodes that it is registered as.
pub(crate) struct Machine {
    pub(crate) nodes: Vec<String>,
    pub(crate) docker: Docker,
}

pub(crate) struct Invariants {
    controller_id: String,
    machines: Vec<Machine>,
    acknowledged: BTreeSet<String>,
}

/// A container of ours, as its engine shows it.
#[derive(Clone, Debug)]
struct Found {
    machine: usize,
    instance: String,
    generation: u32,
    state: String,
    ports: BTreeSet<u64>,
}

/// For an engine to list its containers.
const LISTING: Duration = Duration::from_secs(10);

impl Invariants {
    pub(crate) async fn of(asked: &impl Asked, machines: Vec<Machine>) -> Invariants {
        let controller_id = asked.controller_id().await;
        Invariants { controller_id, machines, acknowledged: BTreeSet::new() }
    }

    /// From now on there is a record of this instance. Answers its id.
    pub(crate) fn acknowledged(&mut self, instance: &Value) -> String {
        let id = instance["id"].as_str().unwrap_or_else(|| panic!("no instance: {instance}"));
        self.acknowledged.insert(id.to_owned());
        id.to_owned()
    }

    /// What holds even while something is broken. Engines that do not answer now are left out.
    pub(crate) async fn at_any_time(&self, asked: &impl Asked, when: &str) {
        let (containers, _) = self.containers(Duration::from_secs(1)).await;
        let broken = self.broken(&asked.records().await, &containers);
        assert!(broken.is_empty(), "{when}: {broken:#?}");
    }

    /// Waits until records and containers agree and all rest, for as long as `limit`, and says how long it took.
    pub(crate) async fn converge(
        &self,
        asked: &impl Asked,
        limit: Duration,
        when: &str,
    ) -> Duration {
        let started = Instant::now();
        loop {
            let (containers, mut left) = self.containers(LISTING).await;
            let records = asked.records().await;
            let broken = self.broken(&records, &containers);
            assert!(broken.is_empty(), "{when}: {broken:#?}");
            left.extend(self.unsettled(&records, &containers));
            if left.is_empty() {
                println!("{when}: converged after {:?}", started.elapsed());
                return started.elapsed();
            }
            assert!(started.elapsed() < limit, "{when}: not within {limit:?}: {left:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Terminates everything: then no engine has a container of ours, and nothing is held.
    pub(crate) async fn clear(&self, asked: &impl Asked, when: &str) {
        for record in asked.records().await.iter().filter(|it| it["state"] != "terminated") {
            asked.end(text(&record["id"])).await;
        }
        self.converge(asked, PATIENCE, &format!("{when}, everything terminated")).await;
        let (containers, silent) = self.containers(LISTING).await;
        assert!(silent.is_empty(), "{when}: {silent:?}");
        assert!(containers.is_empty(), "{when}: left behind: {containers:#?}");
        assert_eq!(asked.reserved().await, 0.0, "{when}: nothing is reserved any more");
    }

    /// All containers of ours, as `docker ps -a` shows them, and the engines that did not.
    async fn containers(&self, patience: Duration) -> (Vec<Found>, Vec<String>) {
        let label = format!("{}={}", ContainerLabels::CONTROLLER_ID, self.controller_id);
        let filters = HashMap::from([("label", vec![label.as_str()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let (mut found, mut silent) = (Vec::new(), Vec::new());
        for (machine, it) in self.machines.iter().enumerate() {
            let list = it.docker.list_containers(Some(options.clone()));
            let listed = match tokio::time::timeout(patience, list).await {
                Ok(Ok(listed)) => listed,
                Ok(Err(err)) => {
                    silent.push(format!("the engine of {:?} does not answer: {err}", it.nodes));
                    continue;
                }
                Err(_) => {
                    silent.push(format!("the engine of {:?} does not answer", it.nodes));
                    continue;
                }
            };
            for container in listed {
                let labels = container.labels.unwrap_or_default();
                let labels = ContainerLabels::from_map(|key| labels.get(key).map(String::as_str));
                let labels = labels.expect("it was listed by its label");
                let ports = container.ports.unwrap_or_default();
                found.push(Found {
                    machine,
                    instance: labels.instance_id.to_string(),
                    generation: labels.generation,
                    state: container.state.map(|it| it.to_string()).unwrap_or_default(),
                    ports: ports.iter().filter_map(|it| it.public_port).map(u64::from).collect(),
                });
            }
        }
        (found, silent)
    }

    /// What may not be seen at any moment.
    fn broken(&self, records: &[Value], containers: &[Found]) -> Vec<String> {
        let mut broken = Vec::new();
        let mut by_generation: BTreeMap<(&str, u32), Vec<usize>> = BTreeMap::new();
        for it in containers {
            by_generation.entry((&it.instance, it.generation)).or_default().push(it.machine);
        }
        for ((id, generation), machines) in by_generation {
            if 1 < machines.len() {
                broken.push(format!(
                    "generation {generation} of {id} has containers on {machines:?}"
                ));
            }
        }
        let ids: Vec<&str> = records.iter().map(|it| text(&it["id"])).collect();
        for id in &self.acknowledged {
            let n = ids.iter().filter(|it| *it == id).count();
            if n != 1 {
                broken.push(format!("{id} was acknowledged and has {n} records"));
            }
        }
        let mut held: BTreeMap<(&str, u64), &str> = BTreeMap::new();
        for record in records.iter().filter(|it| it["state"] != "terminated") {
            for port in host_ports(record) {
                let other = held.insert((text(&record["node_id"]), port), text(&record["id"]));
                if let Some(other) = other {
                    broken.push(format!("{other} and {} hold {port}", text(&record["id"])));
                }
            }
        }
        broken
    }

    /// What keeps records and containers from agreeing and resting.
    fn unsettled(&self, records: &[Value], containers: &[Found]) -> Vec<String> {
        let mut left = Vec::new();
        for record in records {
            let id = text(&record["id"]);
            let theirs: Vec<&Found> = containers.iter().filter(|it| it.instance == id).collect();
            let has_reason = !text(&record["state_reason"]["code"]).is_empty()
                && !text(&record["state_reason"]["message"]).is_empty();
            match (text(&record["state"]), &theirs[..]) {
                ("terminated", []) => {}
                ("running", [it]) if it.state == "running" => {
                    if it.ports != host_ports(record) {
                        left.push(format!(
                            "{id} publishes {:?}, by its record otherwise",
                            it.ports
                        ));
                    }
                }
                ("stopped", [it]) if it.state != "running" => {}
                (_, found) => left.push(format!("{record} has {found:?}")),
            }
            if text(&record["state"]) == "terminated" && !has_reason {
                left.push(format!("{id} was terminated for no reason"));
            }
            let node = text(&record["node_id"]);
            for it in theirs {
                if !self.machines[it.machine].nodes.iter().any(|it| it == node) {
                    left.push(format!(
                        "{id} is on machine {}, by its record on {node}",
                        it.machine
                    ));
                }
            }
        }
        for it in containers {
            if !records.iter().any(|record| text(&record["id"]) == it.instance) {
                left.push(format!("{it:?} has no record"));
            }
        }
        left
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn host_ports(record: &Value) -> BTreeSet<u64> {
    let ports = record["ports"].as_array().into_iter().flatten();
    ports.filter_map(|it| it["host_port"].as_u64()).collect()
}

fn sum(used: &Value) -> f64 {
    ["instances", "cpu", "memory"].iter().map(|it| used[it].as_f64().expect("a number")).sum()
}

impl Asked for Cloud {
    async fn controller_id(&self) -> String {
        self.orch().ledger.store().identity().controller_id.clone()
    }

    async fn records(&self) -> Vec<Value> {
        let listed = self.ok(ADMIN, "list_instances", json!({"page_size": 1000})).await;
        listed["instances"].as_array().unwrap().clone()
    }

    async fn end(&self, id: &str) {
        self.ok(ADMIN, "terminate_instance", json!({"id": id, "wait": false})).await;
    }

    async fn reserved(&self) -> f64 {
        self.orch().ledger.read(|book| book.check()).unwrap();
        let users = self.ok(ADMIN, "list_users", json!({})).await;
        users["users"].as_array().unwrap().iter().map(|it| sum(&it["used"])).sum()
    }
}

impl Asked for Server {
    async fn controller_id(&self) -> String {
        self.get("/cluster/status").await["controller_id"].as_str().unwrap().to_owned()
    }

    async fn records(&self) -> Vec<Value> {
        self.instances().await
    }

    async fn end(&self, id: &str) {
        let (status, body) =
            self.call("DELETE", &format!("/instances/{id}?wait=false"), None).await;
        assert!([200, 202].contains(&status), "{status}: {body}");
    }

    async fn reserved(&self) -> f64 {
        let users = self.get("/users").await;
        users["users"].as_array().unwrap().iter().map(|it| sum(&it["used"])).sum()
    }
}

/// Rules with one acknowledged instance, its record and its container.
fn example(state: &str) -> (Invariants, Vec<Value>, Vec<Found>) {
    let rules = Invariants {
        controller_id: "c".to_owned(),
        machines: Vec::new(),
        acknowledged: BTreeSet::from(["i-1".to_owned()]),
    };
    let record =
        json!({"id": "i-1", "node_id": "h1", "state": state, "ports": [{"host_port": 8000}]});
    let container = Found {
        machine: 0,
        instance: "i-1".to_owned(),
        generation: 1,
        state: "running".to_owned(),
        ports: BTreeSet::from([8000]),
    };
    (rules, vec![record], vec![container])
}

fn on_one_machine(rules: &mut Invariants) {
    // Never asked.
    let docker = Docker::connect_with_http("tcp://127.0.0.1:1", 1, bollard::API_DEFAULT_VERSION);
    let docker = docker.unwrap();
    rules.machines.push(Machine { nodes: vec!["h1".to_owned()], docker });
}

#[tokio::test]
async fn what_agrees_breaks_no_rule() {
    let (mut rules, records, containers) = example("running");
    on_one_machine(&mut rules);
    assert!(rules.broken(&records, &containers).is_empty());
    assert!(rules.unsettled(&records, &containers).is_empty());
}

#[tokio::test]
async fn each_rule_can_be_broken() {
    type Harm = fn(&mut Vec<Value>, &mut Vec<Found>);
    let at_once: [(Harm, &str); 3] = [
        (|_, it| it.push(Found { machine: 1, ..it[0].clone() }), "containers on [0, 1]"),
        (|it, _| it.clear(), "has 0 records"),
        (
            |it, _| {
                it.push(json!({"id": "i-2", "node_id": "h1", "state": "stopped", "ports": it[0]["ports"]}))
            },
            "hold 8000",
        ),
    ];
    for (harm, says) in at_once {
        let (rules, mut records, mut containers) = example("running");
        harm(&mut records, &mut containers);
        let broken = rules.broken(&records, &containers);
        assert!(broken.len() == 1 && broken[0].contains(says), "{broken:?}");
    }
    let at_rest: [(Harm, &str); 7] = [
        (|it, _| it[0]["state"] = json!("pending"), "pending"),
        (|it, _| it[0]["state"] = json!("stopped"), "stopped"),
        (|_, it| it.clear(), "has []"),
        (|_, it| it[0].ports.clear(), "publishes {}"),
        (|it, _| it[0]["node_id"] = json!("h2"), "by its record on h2"),
        (|it, _| it.clear(), "has no record"),
        (
            |it, found| {
                it[0]["state"] = json!("terminated");
                found.clear();
            },
            "for no reason",
        ),
    ];
    for (harm, says) in at_rest {
        let (mut rules, mut records, mut containers) = example("running");
        on_one_machine(&mut rules);
        harm(&mut records, &mut containers);
        let left = rules.unsettled(&records, &containers);
        assert!(left.len() == 1 && left[0].contains(says), "{left:?}");
    }
}

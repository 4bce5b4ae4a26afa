//! A store that looks at every commit on its way to the disk: nobody takes more than a quota, and no host port of a node
//! is held twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use orch_core::ports::store::{AuditQuery, Commit, Store, StoreError, StoreIdentity};
use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::batch::{Batch, Part, StepRun, StoredBatch};
use orch_domain::book::{Change, Rows};
use orch_domain::instance::Instance;
use orch_domain::name::{BatchId, InstanceId, NodeId, UserId};
use orch_domain::plan::Step;
use orch_domain::port::{PortBinding, Protocol};
use orch_domain::resource::Resources;
use orch_domain::user::User;
use parking_lot::Mutex;
use tokio::sync::oneshot;

pub(crate) struct Watched {
    inner: Arc<dyn Store>,
    state: Mutex<State>,
}

/// The rules that commits broke; there are none when it is dropped, or the test fails. Outlives the stores.
#[derive(Default)]
pub(crate) struct Broken(Arc<Mutex<Vec<String>>>);

impl Drop for Broken {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let broken = self.0.lock();
            assert!(broken.is_empty(), "commits that break a rule: {broken:#?}");
        }
    }
}

/// Kept apart from the book, and by other means.
#[derive(Default)]
struct State {
    users: HashMap<UserId, Arc<User>>,
    live: HashMap<InstanceId, Arc<Instance>>,
    held: HashMap<UserId, Resources>,
    n_held: HashMap<UserId, u32>,
    ports: HashMap<(NodeId, u16), InstanceId>,
    broken: Arc<Mutex<Vec<String>>>,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn Store>, broken: &Broken) -> Watched {
        let state = State { broken: broken.0.clone(), ..State::default() };
        Watched { inner, state: Mutex::new(state) }
    }
}

impl State {
    fn apply(&mut self, changes: &[Change]) {
        let mut more: Vec<UserId> = Vec::new();
        // A commit is one step: what it frees may be taken in it, whatever the order of its rows.
        let mut old: HashSet<&InstanceId> = HashSet::new();
        for change in changes {
            if let Change::Instance(id, _) = change
                && self.leave(id)
            {
                old.insert(id);
            }
        }
        for change in changes {
            match change {
                Change::User(id, Some(user)) => drop(self.users.insert(id.clone(), user.clone())),
                Change::User(id, None) => drop(self.users.remove(id)),
                Change::Instance(id, Some(it)) if it.state.holds_reservation() => {
                    self.enter(it.clone());
                    if !old.contains(id) {
                        more.push(it.owner.clone());
                    }
                }
                _ => {}
            }
        }
        // A quota may be lowered below what is held; then nothing more is taken.
        for owner in more {
            let Some(user) = self.users.get(&owner) else { continue };
            let (held, n) = (self.held[&owner], self.n_held[&owner]);
            let quota = &user.quota;
            if quota.instances < n || quota.cpu < held.cpu || quota.memory < held.memory {
                self.broken
                    .lock()
                    .push(format!("{owner} holds {n} instances and {held:?} of {quota:?}"));
            }
        }
    }

    fn enter(&mut self, it: Arc<Instance>) {
        let held = self.held.entry(it.owner.clone()).or_default();
        *held = held.plus(&it.resources);
        *self.n_held.entry(it.owner.clone()).or_default() += 1;
        for port in &it.ports {
            let key = (it.node_id.clone(), port.host_port);
            if let Some(other) = self.ports.insert(key, it.id.clone()) {
                let (id, node, port) = (&it.id, &it.node_id, port.host_port);
                self.broken
                    .lock()
                    .push(format!("{other} and {id} both hold port {port} of {node}"));
            }
        }
        self.live.insert(it.id.clone(), it);
    }

    /// Whether it was there.
    fn leave(&mut self, id: &InstanceId) -> bool {
        let Some(it) = self.live.remove(id) else { return false };
        if let Some(held) = self.held.get_mut(&it.owner) {
            *held = held.minus(&it.resources);
        }
        *self.n_held.entry(it.owner.clone()).or_default() -= 1;
        for port in &it.ports {
            self.ports.remove(&(it.node_id.clone(), port.host_port));
        }
        true
    }
}

impl Store for Watched {
    fn identity(&self) -> &StoreIdentity {
        self.inner.identity()
    }

    fn load(&self) -> Result<Rows, StoreError> {
        let rows = self.inner.load()?;
        let mut state = self.state.lock();
        *state = State { broken: state.broken.clone(), ..State::default() };
        for it in rows.users.iter().cloned() {
            state.users.insert(it.id.clone(), it.into());
        }
        for it in rows.instances.iter().filter(|it| it.state.holds_reservation()) {
            state.enter(it.clone().into());
        }
        Ok(rows)
    }

    fn commit(&self, commit: Commit) -> oneshot::Receiver<Result<(), StoreError>> {
        self.state.lock().apply(&commit.changes);
        self.inner.commit(commit)
    }

    fn last_audit_id(&self) -> AuditId {
        self.inner.last_audit_id()
    }

    fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        self.inner.audit(query)
    }

    fn trim_audit(&self, last: AuditId) -> Result<usize, StoreError> {
        self.inner.trim_audit(last)
    }

    fn trim_events(&self, last: u64) -> Result<usize, StoreError> {
        self.inner.trim_events(last)
    }

    fn batches(&self) -> Result<Vec<Batch>, StoreError> {
        self.inner.batches()
    }

    fn batch(&self, id: &BatchId) -> Result<Option<StoredBatch>, StoreError> {
        self.inner.batch(id)
    }

    fn batch_steps(
        &self,
        id: &BatchId,
        from: u32,
        limit: usize,
    ) -> Result<Vec<(u32, Arc<Step>)>, StoreError> {
        self.inner.batch_steps(id, from, limit)
    }

    fn batch_runs(
        &self,
        id: &BatchId,
        from: Option<Part>,
        limit: usize,
    ) -> Result<Vec<StepRun>, StoreError> {
        self.inner.batch_runs(id, from, limit)
    }

    fn batch_run(&self, id: &BatchId, part: Part) -> Result<Option<StepRun>, StoreError> {
        self.inner.batch_run(id, part)
    }
}

#[test]
fn a_commit_that_breaks_a_rule_is_told() {
    let broken = Broken::default();
    let mut state = State { broken: broken.0.clone(), ..State::default() };
    let mut user = User::test("ann");
    user.quota.instances = 2;
    state.apply(&[Change::User(user.id.clone(), Some(user.into()))]);
    let launch = |n: u32, host_port: u16| {
        let ports = vec![PortBinding { container_port: 80, host_port, protocol: Protocol::Tcp }];
        let it = Instance { ports, ..Instance::test(n) };
        Change::Instance(it.id.clone(), Some(it.into()))
    };
    let first = launch(1, 8000);
    state.apply(std::slice::from_ref(&first));
    // Written again, it is the same one.
    state.apply(&[first, launch(2, 8001)]);
    assert!(broken.0.lock().is_empty());
    state.apply(&[launch(3, 8001)]);
    let told = std::mem::take(&mut *broken.0.lock());
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("both hold port 8001") && told[1].contains("holds 3"), "{told:?}");
}

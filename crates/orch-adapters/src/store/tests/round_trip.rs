//! What was committed is what is loaded, backed up and restored, whatever it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orch_core::ports::store::{AuditQuery, Commit, Store};
use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::batch::{Batch, BatchChange, Part, StepRun};
use orch_domain::book::{Change, Rows};
use orch_domain::grant::{Grant, GrantKey};
use orch_domain::name::{ApiKeyId, BatchId, InstanceId, NodeId, UserId};
use orch_domain::plan::Step;
use orch_domain::port::Holder;
use orch_domain::registry::{RegistryCredential, RegistryHost};
use orch_domain::time::Timestamp;
use proptest::prelude::*;

use super::super::SledStore;
use super::sample::any_commit;
use super::{commit, shown};

/// The same in memory.
#[derive(Default)]
struct Model {
    instances: BTreeMap<InstanceId, orch_domain::instance::Instance>,
    nodes: BTreeMap<NodeId, orch_domain::node::Node>,
    ports: BTreeMap<(NodeId, u16), Holder>,
    users: BTreeMap<UserId, orch_domain::user::User>,
    api_keys: BTreeMap<ApiKeyId, orch_domain::user::ApiKey>,
    registry_credentials: BTreeMap<RegistryHost, RegistryCredential>,
    grants: BTreeMap<GrantKey, Grant>,
    audit: BTreeMap<AuditId, AuditEntry>,
    last_audit: AuditId,
    events: BTreeMap<u64, orch_domain::event::Event>,
    batches: BTreeMap<BatchId, BatchModel>,
    forgotten: BTreeSet<BatchId>,
}

#[derive(Clone, Default)]
struct BatchModel {
    header: Option<Batch>,
    steps: BTreeMap<u32, Arc<Step>>,
    runs: BTreeMap<Part, StepRun>,
}

fn put<K: Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(it) => map.insert(key, it),
        None => map.remove(&key),
    };
}

impl Model {
    fn apply(&mut self, commit: &Commit) {
        for change in commit.changes.clone() {
            match change {
                Change::Instance(id, it) => {
                    put(&mut self.instances, id, it.map(|it| (*it).clone()))
                }
                Change::Node(id, it) => put(&mut self.nodes, id, it.map(|it| (*it).clone())),
                Change::Port(id, port, it) => put(&mut self.ports, (id, port), it),
                Change::User(id, it) => put(&mut self.users, id, it.map(|it| (*it).clone())),
                Change::ApiKey(id, it) => put(&mut self.api_keys, id, it.map(|it| (*it).clone())),
                Change::Grant(key, it) => put(&mut self.grants, key, it.map(|it| (*it).clone())),
                Change::RegistryCredential(registry, it) => {
                    put(&mut self.registry_credentials, registry, it.map(|it| (*it).clone()));
                }
            }
        }
        for entry in &commit.audit {
            self.audit.insert(entry.id, entry.clone());
            self.last_audit = self.last_audit.max(entry.id);
        }
        for event in &commit.events {
            self.events.insert(event.revision, (**event).clone());
        }
        for change in commit.batches.clone() {
            match change {
                BatchChange::Put(it) => {
                    self.batches.entry(it.id.clone()).or_default().header = Some((*it).clone());
                }
                BatchChange::Define { batch, place, step } => {
                    self.batches.entry(batch).or_default().steps.insert(place, step);
                }
                BatchChange::Run { batch, run } => {
                    let runs = &mut self.batches.entry(batch).or_default().runs;
                    runs.insert(run.part, (*run).clone());
                }
                BatchChange::Forget(id) => drop(self.forgotten.insert(id)),
            }
        }
    }

    /// The commit without changes of batches that were forgotten: nobody makes such.
    fn sane(&self, mut commit: Commit) -> Commit {
        let mut forgotten = self.forgotten.clone();
        commit.batches.retain(|it| match it {
            BatchChange::Put(it) => !forgotten.contains(&it.id),
            BatchChange::Define { batch, .. } | BatchChange::Run { batch, .. } => {
                !forgotten.contains(batch)
            }
            BatchChange::Forget(id) => forgotten.insert(id.clone()),
        });
        commit
    }

    /// Those that are answered.
    fn known(&self, id: &BatchId) -> Option<(&Batch, &BatchModel)> {
        let it = self.batches.get(id).filter(|_| !self.forgotten.contains(id))?;
        Some((it.header.as_ref()?, it))
    }

    fn check_batches(&self, store: &SledStore) -> Result<(), TestCaseError> {
        let headers: Vec<Batch> =
            self.batches.keys().filter_map(|it| Some(self.known(it)?.0.clone())).collect();
        prop_assert_eq!(store.batches().unwrap(), headers);
        for id in self.batches.keys() {
            let known = self.known(id);
            let steps: Vec<(u32, Arc<Step>)> = known
                .map(|it| it.1.steps.iter().map(|(place, it)| (*place, it.clone())).collect())
                .unwrap_or_default();
            prop_assert_eq!(store.batch_steps(id, 0, usize::MAX).unwrap(), steps);
            let runs: Vec<StepRun> =
                known.map(|it| it.1.runs.values().cloned().collect()).unwrap_or_default();
            prop_assert_eq!(&store.batch_runs(id, None, usize::MAX).unwrap(), &runs);
            for (n, run) in runs.iter().enumerate() {
                prop_assert_eq!(store.batch_run(id, run.part).unwrap(), Some(run.clone()));
                let page = store.batch_runs(id, Some(run.part), 2).unwrap();
                prop_assert_eq!(&page[..], &runs[n..runs.len().min(n + 2)]);
            }
        }
        Ok(())
    }

    fn shown(&self) -> String {
        shown(Rows {
            instances: self.instances.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            ports: self
                .ports
                .iter()
                .map(|((id, port), it)| (id.clone(), *port, it.clone()))
                .collect(),
            users: self.users.values().cloned().collect(),
            api_keys: self.api_keys.values().cloned().collect(),
            events: self.events.values().cloned().collect(),
            registry_credentials: self.registry_credentials.values().cloned().collect(),
            grants: self.grants.values().cloned().collect(),
        })
    }

    fn check(&self, store: &SledStore) -> Result<(), TestCaseError> {
        prop_assert_eq!(shown(store.load().unwrap()), self.shown());
        let audit = store.audit(&AuditQuery { limit: 1000, ..AuditQuery::default() }).unwrap();
        prop_assert_eq!(audit, self.audit.values().rev().cloned().collect::<Vec<_>>());
        prop_assert_eq!(store.last_audit_id(), self.last_audit);
        self.check_batches(store)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_loads_again(commits in proptest::collection::vec(any_commit(), 1..12), cut in 0usize..12, trimmed in 0u64..20) {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let mut model = Model::default();
        let store = SledStore::open(&first).unwrap();
        for (n, it) in commits.into_iter().enumerate() {
            let it = model.sane(it);
            commit(&store, it.clone()).unwrap();
            model.apply(&it);
            if n == cut {
                model.check(&store)?;
            }
        }
        let n_before = model.audit.len();
        model.audit.retain(|id, _| trimmed < id.0);
        prop_assert_eq!(store.trim_audit(AuditId(trimmed)).unwrap(), n_before - model.audit.len());
        let n_before = model.events.len();
        model.events.retain(|revision, _| trimmed < *revision);
        prop_assert_eq!(store.trim_events(trimmed).unwrap(), n_before - model.events.len());
        model.check(&store)?;
        let identity = store.identity().clone();
        drop(store);

        let store = SledStore::open(&first).unwrap();
        model.check(&store)?;
        let file = dir.path().join("backup");
        let written = store.backup(&file, Timestamp::from_millis(5)).unwrap();
        let restored = SledStore::restore(&file, &second).unwrap();
        prop_assert_eq!(restored, written);
        let restored = SledStore::open(&second).unwrap();
        model.check(&restored)?;
        prop_assert_eq!(&restored.identity().controller_id, &identity.controller_id);
        prop_assert_eq!(restored.identity().token_secret, identity.token_secret);
    }
}

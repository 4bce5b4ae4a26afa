//! What a new data directory needs before anybody can use it: an administrator, and the machine itself as a node.
//!
//! Runs at every start and changes only what is missing, so that a crash in the middle is mended by the next start.

use std::collections::BTreeMap;

use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::label::Labels;
use orch_domain::name::{NodeId, UserId, UserName};
use orch_domain::node::{EngineConfig, Node, NodeStatus, Role};
use orch_domain::resource::Resources;
use orch_domain::time::Timestamp;
use orch_domain::tool_access::{ToolAccess, ToolPatterns};
use orch_domain::user::{ApiKey, Quota, User};

use crate::Orch;
use crate::service::identity::{hash_password, new_api_key};

pub const ADMIN_ID: &str = "user-admin-001";
pub const DEMO_ID: &str = "user-demo-001";
pub const LOCAL_NODE: &str = "local";

/// `admin` and `demo` under a salt that no other password gets: whatever start is not a demo recognises what a demo
/// left behind by comparing text, and takes it away.
const DEMO_ADMIN_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$bWNwLW9yY2gtLWRlbW8tLQ$bqJj8FmvIXZ/Qbzkgpp4Rjq4JOTNwDDNctPubYKi17o";
const DEMO_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$bWNwLW9yY2gtLWRlbW8tLQ$BGcE7W4J7cK5gABuP4dDZ4L3Jfukf9eYXRSzRJyLKDA";
/// Matches no password.
const NO_PASSWORD: &str = "";

/// Who can log in after a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// The administrator exists, and is reached over the local socket only until a server sets a password.
    Local,
    /// The administrator has a password.
    Administrator,
    /// `demo` with password `demo`, and `admin` with `admin` unless it already has another.
    Demo,
}

/// Shown once, to the person who started the first server.
pub struct Credentials {
    pub username: UserName,
    pub password: String,
    pub api_key: String,
}

/// This machine as a node.
pub struct LocalNode {
    pub endpoint: String,
    pub hostname: String,
    /// What the machine has; the first health check corrects it to what its engine says.
    pub capacity: Resources,
}

/// Whoever is at the machine itself, over a channel that only its user can open.
pub fn local_caller(channel: Channel) -> Caller {
    Caller::new(admin_id(), Permission::ALL.to_vec(), channel)
}

pub(super) fn admin_id() -> UserId {
    UserId::try_new(ADMIN_ID).expect("the constant keeps the rule")
}

impl Orch {
    /// Whoever is at the machine itself, with the tools that the configuration leaves them.
    pub fn local_caller(&self, channel: Channel) -> Caller {
        let tools = ToolAccess::default().and(&self.settings.local_tools);
        Caller { tools, ..local_caller(channel) }
    }

    /// Makes the built-in users. The answer is there when the administrator got a new password.
    pub async fn bootstrap_users(&self, users: Users) -> Result<Option<Credentials>, Error> {
        let now = self.clock.now();
        let admin = admin_id();
        let has_password = self.ledger.read(|book| {
            book.user(&admin).is_some_and(|it| {
                it.password_hash != NO_PASSWORD && it.password_hash != DEMO_ADMIN_HASH
            })
        });
        let fresh = match users {
            Users::Administrator if !has_password => Some(Fresh::make(self.random(), now)?),
            _ => None,
        };
        let (credentials, key) = match fresh {
            Some(it) => (Some(it.credentials), Some((it.hash, it.key))),
            None => (None, None),
        };
        self.ledger
            .write(None, |book| {
                set_admin(book, &admin, now, users, key)?;
                set_demo(book, now, users == Users::Demo)
            })
            .await?;
        Ok(credentials)
    }

    /// Sets the quotas that the configuration gives to users by name. Users who are not there are told of.
    pub async fn apply_quotas(
        &self,
        quotas: &BTreeMap<UserName, Quota>,
    ) -> Result<Vec<UserName>, Error> {
        self.ledger
            .write(None, |book| {
                let mut missing = Vec::new();
                for (name, quota) in quotas {
                    match book.user_named(name).cloned() {
                        None => missing.push(name.clone()),
                        Some(user) if user.quota != *quota => {
                            book.change_user(&user.id, |it| it.quota = *quota)?;
                        }
                        Some(_) => {}
                    }
                }
                Ok(missing)
            })
            .await
    }

    /// Registers this machine as node `local`, or follows its engine to another endpoint.
    pub async fn register_local(&self, local: LocalNode) -> Result<(), Error> {
        let id = NodeId::try_new(LOCAL_NODE).expect("the constant keeps the rule");
        let engine = EngineConfig::Docker { endpoint: local.endpoint };
        let now = self.clock.now();
        let registered = self
            .ledger
            .write(None, |book| {
                match book.slot(&id).map(|it| it.node.clone()) {
                    // Somebody gave this id to a node of theirs; it is not ours to change.
                    Some(node) if !matches!(node.engine, EngineConfig::Docker { .. }) => Ok(()),
                    Some(node) if node.engine == engine => Ok(()),
                    Some(_) => book.change_node(&id, |it| it.engine = engine).map(drop),
                    None => book.add_node(Node {
                        id,
                        hostname: local.hostname,
                        address: "127.0.0.1".to_owned(),
                        role: Role::Worker,
                        engine,
                        tags: Default::default(),
                        labels: Labels::default(),
                        description: "this machine".to_owned(),
                        capacity: local.capacity,
                        capacity_is_fixed: false,
                        gpu_is_fixed: false,
                        cordoned: false,
                        created_at: now,
                        status: NodeStatus::Unknown,
                        status_since: now,
                        status_changes: Vec::new(),
                    }),
                }
            })
            .await;
        match registered {
            // It has a node of another name, or instances that are still where the engine was.
            Err(Error::Conflict { message }) => {
                tracing::warn!(
                    "this machine's engine is not registered as `{LOCAL_NODE}`: {message}"
                );
                Ok(())
            }
            it => it,
        }
    }
}

struct Fresh {
    credentials: Credentials,
    hash: String,
    key: ApiKey,
}

impl Fresh {
    fn make(random: u64, now: Timestamp) -> Result<Fresh, Error> {
        let mut secret = [0; 12];
        getrandom::fill(&mut secret).map_err(Error::internal)?;
        let password = hex::encode(secret);
        let (id, text, secret_sha256) = new_api_key(random)?;
        let username = UserName::try_new("admin").expect("a plain word keeps the rule");
        let key = ApiKey {
            id,
            user: admin_id(),
            name: "first-start".to_owned(),
            secret_sha256,
            permissions: Permission::ALL.to_vec(),
            created_at: now,
            expires_at: None,
            tools: ToolPatterns::default(),
        };
        let hash = hash_password(&password)?;
        Ok(Fresh { credentials: Credentials { username, password, api_key: text }, hash, key })
    }
}

fn set_admin(
    book: &mut Book,
    id: &UserId,
    now: Timestamp,
    users: Users,
    fresh: Option<(String, ApiKey)>,
) -> Result<(), Error> {
    if book.user(id).is_none() {
        book.add_user(User {
            id: id.clone(),
            name: UserName::try_new("admin").expect("a plain word keeps the rule"),
            password_hash: NO_PASSWORD.to_owned(),
            permissions: Permission::ALL.to_vec(),
            quota: Quota::ADMIN,
            created_at: now,
            tokens_valid_from: now,
            tools: ToolPatterns::default(),
        })?;
    }
    let hash = book.user(id).map(|it| it.password_hash.clone()).unwrap_or_default();
    match (fresh, users) {
        (Some((hash, key)), _) => {
            set_password(book, id, hash, now)?;
            book.add_api_key(key)
        }
        (None, Users::Demo) if hash == NO_PASSWORD => {
            set_password(book, id, DEMO_ADMIN_HASH.to_owned(), now)
        }
        (None, Users::Local | Users::Administrator) if hash == DEMO_ADMIN_HASH => {
            set_password(book, id, NO_PASSWORD.to_owned(), now)
        }
        _ => Ok(()),
    }
}

/// The demo user keeps what it has, but nobody can log in as it outside a demo.
fn set_demo(book: &mut Book, now: Timestamp, is_demo: bool) -> Result<(), Error> {
    let id = UserId::try_new(DEMO_ID).expect("the constant keeps the rule");
    match (book.user(&id).map(|it| it.password_hash.clone()), is_demo) {
        (None, true) => book.add_user(User {
            id,
            name: UserName::try_new("demo").expect("a plain word keeps the rule"),
            password_hash: DEMO_HASH.to_owned(),
            permissions: vec![Permission::Read, Permission::Write, Permission::Execute],
            quota: Quota::DEMO,
            created_at: now,
            tokens_valid_from: now,
            tools: ToolPatterns::default(),
        }),
        (Some(hash), true) if hash == NO_PASSWORD => {
            set_password(book, &id, DEMO_HASH.to_owned(), now)
        }
        (Some(hash), false) if hash == DEMO_HASH => {
            set_password(book, &id, NO_PASSWORD.to_owned(), now)
        }
        _ => Ok(()),
    }
}

fn set_password(book: &mut Book, id: &UserId, hash: String, now: Timestamp) -> Result<(), Error> {
    book.change_user(id, |it| {
        it.password_hash = hash;
        it.tokens_valid_from = now;
    })
    .map(drop)
}

#[cfg(test)]
mod tests;

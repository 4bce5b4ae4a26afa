//! One checked configuration out of flags, environment, `config.yaml` and defaults, in this order of weight.
//!
//! Each source is laid over the ones below it as plain values, and the result is decoded once: there is one set of
//! rules, and an error can still say which source gave the bad value.

pub mod docker_contexts;
mod env;
mod error;
mod layers;
mod llm;
pub mod nodes_file;
mod sections;
mod table;
mod value;

use orch_core::service::batch::SlotLimits;
use orch_core::settings::{self, BatchSettings, Settings};
use orch_domain::caller::Permission;
use orch_domain::health::Damping;
use orch_domain::redact::SecretValues;
use orch_domain::tool_access::ToolPatterns as ToolLimits;
use orch_gateway::profile::{Profile, Profiles};
use sha2::{Digest, Sha256};
use wildmatch::WildMatch;

pub use env::{Env, ProcessEnv};
pub use error::ConfigError;
pub use layers::{Flag, Sources, load};
pub use llm::*;
pub use nodes_file::Plan;
pub use sections::*;
pub use table::{environment_table, example_file, key_table};
pub use value::{LogLevel, Ports, Seconds};

impl Config {
    /// The part that the services need.
    pub fn settings(&self) -> Settings {
        Settings {
            port_range: self.compute.port_range.0,
            default_cpu: self.compute.default_cpu,
            default_memory: self.compute.default_memory,
            stop_grace: self.compute.stop_grace.duration(),
            starts_per_node: self.compute.starts_per_node,
            pulls_at_once: self.compute.pulls_at_once,
            wait_timeout: self.compute.wait_timeout.duration(),
            launch_retry: self.compute.launch_retry.duration(),
            reconcile_period: self.compute.reconcile_period.duration(),
            orphan_grace: self.compute.orphan_grace.duration(),
            port_quarantine: self.compute.port_quarantine.duration(),
            health_period: self.cluster.health_check_period.duration(),
            health_timeout: self.cluster.health_check_timeout.duration(),
            damping: Damping {
                failures_to_fall: self.cluster.failures_to_fall,
                successes_to_rise: self.cluster.successes_to_rise,
                ..Damping::DEFAULT
            },
            reschedule_grace: self.cluster.reschedule_grace.duration(),
            default_quota: self.compute.default_quota,
            token_lifetime: self.security.token_lifetime.duration(),
            token_secret: self
                .security
                .jwt_secret
                .as_ref()
                .map(|it| it.expose().clone().into_bytes()),
            configured_keys: self.configured_keys(),
            local_tools: self.security.local_tools.clone(),
            secrets: self.secrets(),
            audit_kept: self.store.audit_kept,
            events_kept: self.store.events_kept,
            heartbeat: self.server.heartbeat.duration(),
            batch: self.batch_settings(),
        }
    }

    fn batch_settings(&self) -> BatchSettings {
        let it = &self.execution;
        BatchSettings {
            max_parallel: it.max_parallel_tasks,
            step_timeout: it.task_timeout.duration(),
            retries: it.retry_count,
            deadline: it.deadline.duration(),
            slots: SlotLimits {
                total: it.max_parallel_total,
                per_server: it.max_parallel_per_server,
                named: it.limits.clone().into_iter().collect(),
            },
            max_open_per_user: it.max_open_per_user,
            kept: it.batches_kept,
        }
    }

    /// The endpoints beside the one of everything.
    pub fn profiles(&self) -> Profiles {
        let patterns =
            |them: &[String]| them.iter().map(|it| WildMatch::new(it)).collect::<Vec<_>>();
        let mut sections = self.gateway.profiles.clone();
        if !self.gateway.publish.is_empty() {
            let name = self.gateway.publish_as.clone();
            let alone = ProfileSection { transparent: Some(name.clone()), ..Default::default() };
            sections.entry(name).or_insert(alone);
        }
        Profiles::new(sections.iter().map(|(name, it)| Profile {
            name: name.clone(),
            description: it.description.trim().to_owned(),
            servers: patterns(&it.servers),
            allow: patterns(&it.tools.allow),
            deny: patterns(&it.tools.deny),
            own: it.own,
            lazy: it.lazy,
            transparent: it.transparent.clone(),
            dialect: it.names,
            permissions: it.permissions.clone(),
        }))
    }

    /// Keys that are set and checked, and that nothing in this version looks at.
    pub fn unused(&self) -> Vec<&'static str> {
        let set = [
            ("alerts.webhook_url", self.alerts.webhook_url.is_some()),
            ("server.mode", self.server.mode != Mode::All),
        ];
        set.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key).collect()
    }

    /// Everything here that must not be shown.
    fn secrets(&self) -> SecretValues {
        let Config { security, llm, ray, .. } = self;
        let keys = security.api_keys.iter().map(|it| &it.key);
        let single = [
            &security.api_key,
            &security.jwt_secret,
            &llm.azure.api_key,
            &llm.bedrock.access_key_id,
            &llm.bedrock.secret_access_key,
            &llm.bedrock.session_token,
            &llm.bedrock.api_key,
            &llm.openai.api_key,
            &llm.anthropic.api_key,
            &ray.token,
        ];
        SecretValues::new(keys.chain(single.into_iter().flatten()))
    }

    fn configured_keys(&self) -> Vec<settings::ConfiguredKey> {
        let one = self.security.api_key.iter();
        let one = one.map(|it| (it, Permission::ALL.to_vec(), ToolLimits::default()));
        let named = self.security.api_keys.iter();
        let named = named.map(|it| (&it.key, it.permissions.clone(), it.tools.clone()));
        one.chain(named)
            .map(|(key, permissions, tools)| settings::ConfiguredKey {
                sha256: Sha256::digest(key.expose()).into(),
                permissions,
                tools,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;

//! The strings behind a simulated engine: what happens to it and its containers behind the back of its user.

use orch_core::ports::engine::{Container, ContainerLabels, LogStream};
use orch_domain::node::SimConfig;

use super::SimEngine;

/// Cheap to clone. None of its calls is delayed, refused or counted.
#[derive(Clone)]
pub struct SimControl(SimEngine);

impl SimControl {
    pub(super) fn new(engine: SimEngine) -> SimControl {
        SimControl(engine)
    }

    pub fn config(&self) -> SimConfig {
        self.0.config()
    }

    /// Takes effect at once, also for calls that hang.
    pub fn configure(&self, change: impl FnOnce(&mut SimConfig)) {
        self.0.change_config(change);
    }

    /// Puts a running container there, by default one of somebody else: without labels it is in no list.
    pub fn put_container(&self, name: &str, labels: Option<ContainerLabels>) {
        let now = self.0.now();
        self.0.change(|host| host.put(name, labels, now));
    }

    /// As `docker rm -f`.
    pub fn remove_container(&self, name: &str) {
        self.0.change(|host| host.remove(name));
    }

    /// As `docker stop`.
    pub fn stop_container(&self, name: &str) {
        self.0.change(|host| host.end(name, 143, false));
    }

    /// Its main process ends by itself.
    pub fn exit(&self, name: &str, exit_code: i64) {
        self.0.change(|host| host.end(name, exit_code, false));
    }

    /// The kernel ends it for want of memory.
    pub fn out_of_memory(&self, name: &str) {
        self.0.change(|host| host.end(name, 137, true));
    }

    /// Its main process writes a line.
    pub fn write_log(&self, name: &str, stream: LogStream, text: &str) {
        let now = self.0.now();
        self.0.change(|host| {
            if let Some(it) = host.containers.get_mut(name) {
                it.write(now, stream, text);
            }
        });
    }

    /// The machine loses all it had, as after a new installation.
    pub fn wipe(&self) {
        self.0.change(|host| {
            host.containers.clear();
            host.pulled.clear();
            host.drop_listeners();
        });
    }

    /// Event streams end, as when a connection is lost.
    pub fn drop_event_streams(&self) {
        self.0.change(|host| host.drop_listeners());
    }

    /// Everything on the machine, whoever it belongs to.
    pub fn containers(&self) -> Vec<Container> {
        self.0.look(|host| host.containers.iter().map(|(name, it)| it.observed(name)).collect())
    }

    /// How often a verb of the engine was called, such as `create`.
    pub fn n_calls(&self, verb: &str) -> u64 {
        self.0.look(|host| host.n_calls.get(verb).copied().unwrap_or_default())
    }
}

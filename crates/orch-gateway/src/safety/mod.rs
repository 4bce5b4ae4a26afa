//! What keeps this process, its callers and its disk safe from the servers behind, and their lists at hand when they are
//! not: what is kept between two runs, and what a server may use, change and say.

pub mod children;
pub mod disk;
pub mod limits;
pub mod metric;
pub mod pass;
pub mod pin;
mod proc;
pub mod redact;
pub mod remembered;
pub mod results;
pub mod trim;
pub(crate) mod turn;

use std::path::PathBuf;
use std::sync::Arc;

use children::Children;
use limits::Guard;
use pin::PinMode;
use redact::Patterns;
use results::Results;

/// What is configured for all servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Where catalogs, pins, results and the list of children are kept. None: nothing outlives the process.
    pub dir: Option<PathBuf>,
    /// Of servers that say nothing else.
    pub pin: PinMode,
    /// Beside those of each server.
    pub redact: Patterns,
    /// Bytes of a tool's result that are passed on whole. None: any.
    pub max_result_bytes: Option<usize>,
    /// Children of all servers together. None: any.
    pub max_children: Option<usize>,
}

/// Shared by all servers.
pub struct Safety {
    pub settings: Settings,
    pub children: Arc<Children>,
    pub results: Results,
}

impl Safety {
    /// Reads what the last run left. Only whoever holds the data directory may.
    pub fn new(settings: Settings) -> Arc<Safety> {
        let part = |name: &str| settings.dir.as_ref().map(|it| it.join(name));
        Arc::new(Safety {
            children: Children::new(part("children"), settings.max_children),
            results: Results::open(part("results")),
            settings,
        })
    }

    pub fn dir_of(&self, part: &str) -> Option<PathBuf> {
        self.settings.dir.as_ref().map(|it| it.join(part))
    }

    pub fn pin_of(&self, guard: &Guard) -> PinMode {
        guard.pin.unwrap_or(self.settings.pin)
    }

    /// Bytes of a result of this server that are passed on whole. None: any.
    pub fn result_limit(&self, guard: &Guard) -> Option<usize> {
        match guard.limits.result_bytes {
            Some(0) => None,
            Some(it) => Some(it),
            None => self.settings.max_result_bytes,
        }
    }
}

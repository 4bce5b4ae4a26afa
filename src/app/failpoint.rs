//! Ends the process at a chosen step, as a power cut would. Only in builds with debug assertions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use orch_core::ports::failpoint::{Failpoint, Failpoints, NoFailpoints};

use crate::config::Env;

const VARIABLE: &str = "MCP_ORCH_FAILPOINT";

/// What the environment asks for: `name`, or `name:nth` for the nth time it is reached.
pub(super) fn from_env(env: &dyn Env) -> anyhow::Result<Arc<dyn Failpoints>> {
    let Some(text) = env.get(VARIABLE) else { return Ok(Arc::new(NoFailpoints)) };
    if !cfg!(debug_assertions) {
        bail!("`{VARIABLE}` is set, but this build has no failpoints");
    }
    Ok(Arc::new(Crash::parse(&text)?))
}

struct Crash {
    at: Failpoint,
    /// Times it is still passed before the process ends.
    n_left: AtomicU32,
}

impl Crash {
    fn parse(text: &str) -> anyhow::Result<Crash> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        let at = Failpoint::ALL.into_iter().find(|it| it.as_str() == name);
        let at = at.with_context(|| format!("`{VARIABLE}`: there is no failpoint `{name}`"))?;
        let nth: u32 =
            nth.parse().with_context(|| format!("`{VARIABLE}`: `{nth}` is no number"))?;
        Ok(Crash { at, n_left: AtomicU32::new(nth.max(1)) })
    }
}

impl Failpoints for Crash {
    fn reach(&self, at: Failpoint) {
        if at != self.at || self.n_left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        let this = rustix::process::getpid();
        if rustix::process::kill_process(this, rustix::process::Signal::KILL).is_ok() {
            // The signal takes this thread too; nothing behind the failpoint may run until it does.
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_port_and_anything_else_is_refused() {
        for it in Failpoint::ALL {
            assert_eq!(Crash::parse(it.as_str()).unwrap().at, it);
        }
        let second = Crash::parse("launch.created:2").unwrap();
        second.reach(Failpoint::LaunchCreated);
        assert_eq!(second.n_left.load(Ordering::SeqCst), 1);
        assert!(Crash::parse("launch.nowhere").is_err());
        assert!(Crash::parse("launch.created:x").is_err());
    }
}

//! How long calls of a tool take, learnt from those that were made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// The weight of the newest call: old ones are forgotten after about ten.
const ALPHA: f64 = 0.2;
/// For tools that were never called, in milliseconds.
const UNKNOWN_MS: f64 = 100.0;
/// Tools that are remembered; beyond, none is added.
const MAX_TOOLS: usize = 10_000;

/// An exponentially weighted moving average for each tool.
#[derive(Default)]
pub(super) struct Durations(Mutex<HashMap<Arc<str>, f64>>);

impl Durations {
    /// In milliseconds. None: it was never called.
    pub(super) fn known(&self, tool: &str) -> Option<f64> {
        self.0.lock().get(tool).copied()
    }

    pub(super) fn expected(&self, tool: &str) -> f64 {
        self.known(tool).unwrap_or(UNKNOWN_MS)
    }

    pub(super) fn learn(&self, tool: &Arc<str>, took: Duration) {
        let ms = took.as_secs_f64() * 1000.0;
        let mut known = self.0.lock();
        if let Some(it) = known.get_mut(tool) {
            *it += ALPHA * (ms - *it);
        } else if known.len() < MAX_TOOLS {
            known.insert(tool.clone(), ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_calls_count_most() {
        let (durations, tool): (_, Arc<str>) = (Durations::default(), "s.t".into());
        assert_eq!((durations.known("s.t"), durations.expected("s.t")), (None, UNKNOWN_MS));
        durations.learn(&tool, Duration::from_millis(10));
        assert_eq!(durations.known("s.t"), Some(10.0));
        for _ in 0..30 {
            durations.learn(&tool, Duration::from_millis(50));
        }
        assert!((durations.expected("s.t") - 50.0).abs() < 0.1);
    }
}

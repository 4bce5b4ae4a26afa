//! What was found, and no more of it than somebody reads.

use super::Problem;
use crate::name::StepId;

const MOST: usize = 100;

#[derive(Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
    n_more: usize,
}

impl Problems {
    /// `what` is asked for the place and the message only when they are shown.
    pub(super) fn add(&mut self, step: Option<&StepId>, what: impl FnOnce() -> (String, String)) {
        if MOST <= self.found.len() {
            self.n_more += 1;
            return;
        }
        let (place, message) = what();
        self.found.push(Problem { place, step: step.cloned(), message });
    }

    /// With a last one that says how many are not shown.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        if self.n_more != 0 {
            let message = format!("and {} more; mend these first", self.n_more);
            self.found.push(Problem { place: String::new(), step: None, message });
        }
        self.found
    }
}

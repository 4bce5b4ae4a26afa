//! Graphs to measure with, the same ones in every run.

use orch_domain::name::StepId;
use orch_domain::plan::{Plan, Step};

/// SplitMix64: small, and even enough for graphs.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.share() * n as f64) as usize
    }

    /// Of a standard normal distribution, after Box and Muller.
    pub(super) fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.share(), self.share());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

pub(super) fn id(at: usize) -> StepId {
    StepId::try_new(format!("s{at}")).expect("a step's id")
}

pub(super) fn step(at: usize, tool: &str, needs: impl IntoIterator<Item = usize>) -> Step {
    let step = serde_json::json!({"id": id(at), "tool": tool});
    let step: Step = serde_json::from_value(step).expect("a step");
    Step { depends_on: needs.into_iter().map(id).collect(), ..step }
}

/// `n` steps, each behind at most `most` of the `reach` before it. `tool` names theirs.
pub(super) fn random(
    n: usize,
    most: usize,
    reach: usize,
    random: &mut Random,
    tool: &mut dyn FnMut(usize, &mut Random) -> String,
) -> Plan {
    let steps = (0..n).map(|at| {
        let mut needs: Vec<usize> = (0..random.below(most + 1).min(at))
            .map(|_| at - 1 - random.below(at.min(reach)))
            .collect();
        needs.sort_unstable();
        needs.dedup();
        let tool = tool(at, random);
        step(at, &tool, needs)
    });
    Plan::of(steps.collect())
}

//! What the product costs over the floor under it, both measured in this run: `cargo bench --bench ratios`.
//!
//! These machines are noisy, so every figure is a ratio to something simpler done at the same time on the same disk
//! and engine. `-- WORD` runs only the measurements whose name contains the word.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod batch;
mod docker;
mod fixture;
mod floor;
mod health;
mod process;
mod restart;
mod scale;
mod ssh;
mod store;

use std::time::Duration;

/// One line of the report.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) measured: String,
    pub(crate) floor: String,
    /// What the ratio (or the figure itself, where there is no floor) must not pass.
    pub(crate) limit: String,
    pub(crate) holds: bool,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(batch::behind::ROLE) {
        return batch::behind::serve();
    }
    let filter = std::env::args().skip(1).find(|it| !it.starts_with('-'));
    let wanted = |name: &str| filter.as_ref().is_none_or(|it| name.contains(it.as_str()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut figures = Vec::new();
    if wanted("acceptance") {
        figures.extend(runtime.block_on(store::measure()));
    }
    if wanted("scale") {
        figures.extend(runtime.block_on(scale::measure()));
    }
    if wanted("health") {
        figures.extend(runtime.block_on(health::measure()));
    }
    if wanted("restart") {
        figures.extend(runtime.block_on(restart::measure()));
    }
    if wanted("memory") {
        figures.extend(runtime.block_on(process::loaded()));
    }
    if wanted("process") {
        figures.extend(process::measure());
    }
    if wanted("docker") {
        figures.extend(runtime.block_on(docker::measure()));
    }
    if wanted("ssh") {
        figures.extend(runtime.block_on(ssh::measure()));
    }
    if wanted("batch") {
        figures.extend(batch::measure(&runtime));
    }
    println!("\n| figure | measured | floor | limit | holds |\n|---|---|---|---|---|");
    for it in figures {
        println!(
            "| {} | {} | {} | {} | {} |",
            it.name,
            it.measured,
            it.floor,
            it.limit,
            if it.holds { "yes" } else { "NO" }
        );
    }
}

/// The value below which `share` of the samples lie.
pub(crate) fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let at = ((samples.len() as f64 * share).ceil() as usize).clamp(1, samples.len()) - 1;
    samples[at]
}

pub(crate) fn show(it: Duration) -> String {
    match it.as_micros() {
        us @ 0..10_000 => format!("{us} µs"),
        us => format!("{:.1} ms", us as f64 / 1000.0),
    }
}

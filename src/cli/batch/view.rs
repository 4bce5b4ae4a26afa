//! How a batch looks while it runs: on a terminal a line per step that changes in its place, elsewhere a line for each
//! change. Of many steps, only those that run or fail, and how far it is altogether.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use orch_domain::text::{excerpt, sanitize};
use serde_json::Value;

use super::say;

/// More steps than these have no lines of their own.
const MAX_LINES: u64 = 30;
const MAX_REASON: usize = 300;
/// Between two lines about the whole, where lines stay.
const PERIOD: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);

pub(super) struct View {
    /// State by id.
    steps: HashMap<String, String>,
    n_steps: u64,
    knows_end: bool,
    shown: Shown,
}

enum Shown {
    /// `all`: however many there are, and each element of `for_each`.
    Lines {
        all: bool,
        told_at: Option<Instant>,
        told: String,
    },
    Bars {
        all: MultiProgress,
        of: HashMap<String, ProgressBar>,
        total: ProgressBar,
    },
}

/// One change of one step.
struct Change<'a> {
    id: &'a str,
    tool: &'a str,
    state: &'a str,
    element: Option<u64>,
    is_undoing: bool,
    elapsed_ms: Option<u64>,
    reason: Option<&'a str>,
}

impl View {
    pub(super) fn of_stderr() -> View {
        if !std::io::stderr().is_terminal() {
            return View::new(Shown::Lines { all: false, told_at: None, told: String::new() });
        }
        let all = MultiProgress::new();
        let total = all.add(ProgressBar::new_spinner());
        total.set_style(style("{spinner} {wide_msg}"));
        total.enable_steady_tick(TICK);
        View::new(Shown::Bars { all, of: HashMap::new(), total })
    }

    /// For one who wants to read it later.
    pub(super) fn plain_of_all() -> View {
        View::new(Shown::Lines { all: true, told_at: None, told: String::new() })
    }

    fn new(shown: Shown) -> View {
        View { steps: HashMap::new(), n_steps: 0, knows_end: false, shown }
    }

    pub(super) fn is_lines(&self) -> bool {
        matches!(self.shown, Shown::Lines { .. })
    }

    /// So many steps are known to the server.
    pub(super) fn expect(&mut self, n_steps: u64) {
        self.n_steps = n_steps;
    }

    /// Whether the end of the batch itself was told.
    pub(super) fn knows_end(&self) -> bool {
        self.knows_end
    }

    /// As `batch_status` lists transitions.
    pub(super) fn transition(&mut self, it: &Value) {
        if it["of"] == "batch" {
            self.knows_end =
                matches!(it["state"].as_str(), Some("succeeded" | "failed" | "cancelled"));
            return;
        }
        let change = Change {
            id: it["id"].as_str().unwrap_or_default(),
            tool: it["tool"].as_str().unwrap_or_default(),
            state: it["state"].as_str().unwrap_or_default(),
            element: it["element"].as_u64(),
            is_undoing: it["compensation"] == true,
            elapsed_ms: it["elapsed_ms"].as_u64(),
            reason: it["reason"]["message"].as_str(),
        };
        self.change(&change);
    }

    /// As `batch_status` lists steps.
    pub(super) fn step(&mut self, it: &Value) {
        let change = Change {
            id: it["id"].as_str().unwrap_or_default(),
            tool: it["tool"].as_str().unwrap_or_default(),
            state: it["state"].as_str().unwrap_or_default(),
            element: None,
            is_undoing: false,
            elapsed_ms: it["elapsed_ms"].as_u64(),
            reason: it["reason"]["message"].as_str(),
        };
        if self.steps.get(change.id).is_none_or(|it| it != change.state) {
            self.change(&change);
        }
    }

    fn change(&mut self, it: &Change) {
        if it.element.is_none() && !it.is_undoing {
            self.steps.insert(it.id.to_owned(), it.state.to_owned());
            self.n_steps = self.n_steps.max(self.steps.len() as u64);
        }
        let is_many = MAX_LINES < self.n_steps;
        match &mut self.shown {
            Shown::Lines { all, .. } => {
                if let Some(line) = line_of(it, is_many && !*all, *all) {
                    say(line);
                }
            }
            Shown::Bars { all, of, total } if it.element.is_none() && !it.is_undoing => {
                if is_many && (it.state != "running" || of.len() as u64 > MAX_LINES) {
                    if let Some(bar) = of.remove(it.id) {
                        bar.finish_and_clear();
                    }
                    if is_bad(it.state) {
                        drop(all.println(words_of(it)));
                    }
                    return;
                }
                let bar = of
                    .entry(it.id.to_owned())
                    .or_insert_with(|| all.insert_before(total, ProgressBar::new_spinner()));
                let words = words_of(it);
                match it.state {
                    "running" => {
                        bar.set_style(style("{spinner} {wide_msg} {elapsed:>4}"));
                        bar.reset_elapsed();
                        bar.enable_steady_tick(TICK);
                        bar.set_message(words);
                    }
                    "waiting" | "queued" => {
                        bar.set_style(style("  {wide_msg}"));
                        bar.set_message(words);
                        bar.tick();
                    }
                    _ => {
                        bar.disable_steady_tick();
                        bar.set_style(style("  {wide_msg}"));
                        bar.set_message(words);
                        bar.tick();
                    }
                }
            }
            Shown::Bars { all, .. } => {
                if is_bad(it.state) || (it.is_undoing && it.element.is_none()) {
                    drop(all.println(words_of(it)));
                }
            }
        }
    }

    /// As `batch_status` says it, after its transitions or steps.
    pub(super) fn batch(&mut self, batch: &Value) {
        let is_many = MAX_LINES < self.n_steps;
        let words = total_of(batch);
        match &mut self.shown {
            Shown::Lines { all, told_at, told } => {
                let is_due = told_at.is_none_or(|it| PERIOD <= it.elapsed());
                if is_many && !*all && is_due && *told != words {
                    say(&words);
                    *told_at = Some(Instant::now());
                    *told = words;
                }
            }
            Shown::Bars { of, total, .. } => {
                if is_many {
                    // There were few, and a model has added to them.
                    let steps = &self.steps;
                    of.retain(|id, bar| {
                        let runs = steps.get(id).is_some_and(|it| it == "running");
                        if !runs {
                            bar.finish_and_clear();
                        }
                        runs
                    });
                }
                total.set_message(words);
            }
        }
    }

    /// What is shown stays as it is.
    pub(super) fn close(&mut self) {
        if let Shown::Bars { of, total, .. } = &mut self.shown {
            total.finish_and_clear();
            for (_, bar) in of.drain() {
                bar.abandon();
            }
        }
    }

    /// Beside what is shown.
    pub(super) fn say(&self, text: &str) {
        match &self.shown {
            Shown::Lines { .. } => say(text),
            Shown::Bars { all, .. } => all.suspend(|| say(text)),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn is_bad(state: &str) -> bool {
    matches!(state, "failed" | "unknown")
}

/// The line that a change is worth. `is_brief`: there are many.
fn line_of(it: &Change, is_brief: bool, with_elements: bool) -> Option<String> {
    let is_worth_it = match it.state {
        "waiting" | "queued" => false,
        state if is_bad(state) => true,
        _ if it.element.is_some() => with_elements,
        _ => !is_brief,
    };
    is_worth_it.then(|| words_of(it))
}

fn words_of(it: &Change) -> String {
    let state = match (it.state, it.is_undoing) {
        ("running", true) => "undoing",
        ("succeeded", true) => "undone",
        ("succeeded", false) => "done",
        (state, _) => state,
    };
    let element = it.element.map_or_else(String::new, |it| format!("[{it}]"));
    let id = format!("{}{element}", it.id);
    let took = it.elapsed_ms.map_or_else(String::new, |it| format!("  {}", time(it)));
    let why = it.reason.map_or_else(String::new, |it| format!(": {it}"));
    let text = format!("{state:<9} {id:<24} {}{took}{why}", it.tool);
    excerpt(&sanitize(&text).replace('\n', " "), MAX_REASON)
}

pub(super) fn time(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => format!("{} min", ms / 60_000),
    }
}

fn total_of(batch: &Value) -> String {
    let count = |name: &str| batch["steps"][name].as_u64().unwrap_or(0);
    let total = count("total");
    let ended = total - count("waiting").min(total) - count("queued") - count("running");
    let mut text = format!(
        "{}: {ended} of {total} steps have ended, {} run",
        batch["state"].as_str().unwrap_or_default(),
        count("running")
    );
    for (name, word) in
        [("failed", "failed"), ("skipped", "were skipped"), ("unknown", "are unknown")]
    {
        if count(name) != 0 {
            text.push_str(&format!(", {} {word}", count(name)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(state: &'static str) -> Change<'static> {
        Change {
            id: "web",
            tool: "orch.launch_instance",
            state,
            element: None,
            is_undoing: false,
            elapsed_ms: None,
            reason: None,
        }
    }

    #[test]
    fn a_change_is_a_line_that_misleads_nobody() {
        let done = Change { elapsed_ms: Some(812), ..change("succeeded") };
        assert_eq!(
            line_of(&done, false, false).unwrap(),
            "done      web                      orch.launch_instance  812 ms"
        );
        let failed =
            Change { element: Some(3), reason: Some("no\nroom \u{1b}[31m"), ..change("failed") };
        let line = line_of(&failed, true, false).unwrap();
        assert!(line.starts_with("failed    web[3] ") && line.ends_with(": no room "), "{line:?}");
        let undone = Change { is_undoing: true, ..change("succeeded") };
        assert!(line_of(&undone, false, false).unwrap().starts_with("undone    web"));
    }

    #[test]
    fn of_many_only_what_fails_has_a_line() {
        assert!(line_of(&change("succeeded"), true, false).is_none());
        assert!(line_of(&change("failed"), true, false).is_some());
        assert!(line_of(&change("queued"), false, true).is_none());
        let element = Change { element: Some(0), ..change("succeeded") };
        assert!(
            line_of(&element, false, false).is_none() && line_of(&element, false, true).is_some()
        );
        let batch = json!({"state": "running", "steps": {"total": 40, "waiting": 20, "queued": 1, "running": 3, "failed": 2}});
        assert_eq!(total_of(&batch), "running: 16 of 40 steps have ended, 3 run, 2 failed");
    }
}

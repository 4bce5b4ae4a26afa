//! A plan as a tree of text: each step below the one of its needs that it waits for longest, with the others named.

use std::collections::HashMap;

use serde_json::Value;

use super::view::time;

/// Of a plan with more steps, the rest is counted.
const MAX_DRAWN: usize = 300;

struct Node<'a> {
    id: &'a str,
    step: &'a Value,
    /// Its other needs.
    also: Vec<&'a str>,
    below: Vec<usize>,
}

/// Of an answer of `batch_plan`.
pub(super) fn draw(ahead: &Value) -> String {
    let steps: Vec<&Value> = ahead["steps"].as_array().into_iter().flatten().collect();
    let places: HashMap<&str, usize> =
        steps.iter().enumerate().filter_map(|(at, it)| Some((it["id"].as_str()?, at))).collect();
    let ends = |at: usize| number(steps[at], "starts_ms") + number(steps[at], "expected_ms");
    let mut nodes: Vec<Node> = steps
        .iter()
        .map(|it| Node {
            id: it["id"].as_str().unwrap_or_default(),
            step: it,
            also: Vec::new(),
            below: Vec::new(),
        })
        .collect();
    let mut roots = Vec::new();
    let mut parents: Vec<Option<usize>> = vec![None; steps.len()];
    for (at, step) in steps.iter().enumerate() {
        let needs: Vec<usize> = step["needs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| places.get(it.as_str()?).copied())
            .collect();
        let Some(last) = needs.iter().copied().max_by(|a, b| ends(*a).total_cmp(&ends(*b))) else {
            roots.push(at);
            continue;
        };
        parents[at] = Some(last);
        let is_shown = |need: usize| {
            // Above it already, within what a person looks at.
            let above = std::iter::successors(Some(last), |it| parents[*it]).take(100);
            above.into_iter().any(|it| it == need)
        };
        let also = needs.iter().filter(|it| !is_shown(**it));
        nodes[at].also = also.map(|it| steps[*it]["id"].as_str().unwrap_or_default()).collect();
        nodes[last].below.push(at);
    }
    let mut lines = Vec::new();
    // (step, what stands before its name, what stands before those below it)
    let mut open: Vec<(usize, String, String)> =
        roots.iter().rev().map(|it| (*it, String::new(), String::new())).collect();
    let width = width_of(&nodes, &roots);
    while let Some((at, before, indent)) = open.pop() {
        if lines.len() == MAX_DRAWN {
            lines.push(format!("  … and {} more steps", nodes.len() - MAX_DRAWN));
            break;
        }
        let node = &nodes[at];
        lines.push(line_of(node, &before, width));
        for (n, below) in node.below.iter().enumerate().rev() {
            let is_last = n + 1 == node.below.len();
            let (branch, on) = match (node.below.len(), is_last) {
                // A chain goes straight down, or a long one would walk off to the right.
                (1, _) => ("↓ ", ""),
                (_, true) => ("└─ ", "   "),
                (_, false) => ("├─ ", "│  "),
            };
            open.push((*below, format!("{indent}{branch}"), format!("{indent}{on}")));
        }
    }
    let n = nodes.len();
    lines.push(format!(
        "{n} step{}, about {}; the longest way (*) takes {}, one after the other {}. Nothing was run.",
        if n == 1 { "" } else { "s" },
        millis(number(ahead, "expected_ms")),
        millis(number(ahead, "critical_path_ms")),
        millis(number(ahead, "work_ms")),
    ));
    lines.join("\n")
}

fn line_of(node: &Node, before: &str, width: usize) -> String {
    let step = node.step;
    let mark = if step["is_critical"] == true { '*' } else { ' ' };
    let name = format!("{before}{}", node.id);
    // Times that were never measured are guesses.
    let guess = if step["is_learnt"] == true { "" } else { "~" };
    let also = match node.also.is_empty() {
        true => String::new(),
        false => format!("  after {}", node.also.join(", ")),
    };
    format!(
        "{mark} {name:<width$}  at {:>8}  {:>9}  {}{also}",
        millis(number(step, "starts_ms")),
        format!("{guess}{}", millis(number(step, "expected_ms"))),
        step["tool"].as_str().unwrap_or_default(),
    )
}

/// Of the widest name with its branches, within bounds.
fn width_of(nodes: &[Node], roots: &[usize]) -> usize {
    let mut widest = 0;
    let mut open: Vec<(usize, usize)> = roots.iter().map(|it| (*it, 0)).collect();
    while let Some((at, depth)) = open.pop() {
        widest = widest.max(nodes[at].id.chars().count() + 3 * (depth + 1));
        let is_chain = nodes[at].below.len() == 1;
        open.extend(nodes[at].below.iter().map(|it| (*it, depth + usize::from(!is_chain))));
    }
    widest.clamp(10, 60)
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or(0.0)
}

fn millis(ms: f64) -> String {
    time(ms.round().max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_hangs_below_what_it_waits_for_longest() {
        let step = |id: &str, needs: &[&str], starts: f64, takes: f64, is_critical: bool| {
            json!({"id": id, "tool": format!("s.{id}"), "needs": needs, "starts_ms": starts, "expected_ms": takes,
                "is_learnt": id != "b", "is_critical": is_critical})
        };
        let ahead = json!({
            "expected_ms": 350.0, "critical_path_ms": 350.0, "work_ms": 480.0,
            "steps": [
                step("a", &[], 0.0, 200.0, true), step("b", &[], 0.0, 100.0, false),
                step("join", &["a", "b"], 200.0, 100.0, true), step("c", &["a"], 200.0, 30.0, false),
                step("end", &["join", "a"], 300.0, 50.0, true),
            ],
        });
        assert_eq!(
            draw(&ahead),
            "* a           at     0 ms     200 ms  s.a\n\
             * ├─ join     at   200 ms     100 ms  s.join  after b\n\
             * │  ↓ end    at   300 ms      50 ms  s.end\n  \
               └─ c        at   200 ms      30 ms  s.c\n  \
               b           at     0 ms    ~100 ms  s.b\n\
             5 steps, about 350 ms; the longest way (*) takes 350 ms, one after the other 480 ms. Nothing was run."
        );
    }

    #[test]
    fn a_chain_of_ten_thousand_is_drawn_in_part() {
        let step = |n: usize| {
            let needs: Vec<String> =
                n.checked_sub(1).map(|it| format!("s{it}")).into_iter().collect();
            json!({"id": format!("s{n}"), "tool": "t", "needs": needs, "starts_ms": n, "expected_ms": 1})
        };
        let steps: Vec<Value> = (0..10_000).map(step).collect();
        let drawn = draw(&json!({"steps": steps}));
        assert_eq!(drawn.lines().count(), MAX_DRAWN + 2);
        assert!(drawn.contains("… and 9700 more steps"), "{drawn}");
    }
}

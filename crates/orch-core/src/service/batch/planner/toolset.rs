//! Which tools the model plans with, and what it is told of them.

use std::collections::HashSet;
use std::sync::Arc;

use orch_domain::{Error, text};

use super::signature::{Detail, signature};
use crate::ports::tool_server::ServerTool;
use crate::service::tools::BUILT_IN;
use crate::{Cx, Orch};

/// Own operations that are no steps of a plan that a model writes, beside those that are about batches. They make or
/// show credentials, decide whom to trust, start programs, or lead to other tools by a name that nobody checked.
pub const WITHHELD: [&str; 14] = [
    "add_server",
    "approve_tools",
    "call_tool",
    "change_password",
    "create_api_key",
    "create_user",
    "delete_registry_credential",
    "delete_user",
    "login",
    "login_server",
    "logout_server",
    "revoke_api_key",
    "set_registry_credential",
    "update_user",
];
const OF_BATCHES: [&str; 2] = ["batch_", "list_batches"];

/// Own operations that many plans need; those that a request has any word of come before all but its best hits.
const BASICS: [&str; 8] = [
    "launch_instance",
    "get_instance",
    "list_instances",
    "exec_in_instance",
    "instance_logs",
    "terminate_instance",
    "list_nodes",
    "cluster_status",
];
const BEST_HITS: usize = 8;
/// Hits of one query that are looked at.
const MAX_HITS: usize = 40;
/// Parts of a request that are searched for by themselves.
const MAX_PARTS: usize = 12;
const BYTES_PER_TOKEN: usize = 4;
/// Of one tool, in bytes; what is longer is said in fewer words.
const MAX_TOOL: usize = 2_500;
const LONGEST_NAME: usize = 240;

/// Whether a plan that a model writes may not have it as a step.
pub(super) fn is_withheld(tool: &str) -> bool {
    let own = match tool.split_once('.') {
        Some((server, name)) if server == BUILT_IN => name,
        Some(_) => return false,
        None => tool,
    };
    OF_BATCHES.iter().any(|it| own.starts_with(it)) || WITHHELD.contains(&own)
}

/// What the model is told.
#[derive(Debug, PartialEq)]
pub(super) struct Toolset {
    /// One block for each tool. Foreign words, to be fenced.
    pub(super) text: String,
    pub(super) n_shown: usize,
    /// Tools that the caller may use and that had no room.
    pub(super) n_left_out: usize,
    /// Those that were chosen are guesses: hardly any has a word of the request.
    pub(super) is_vague: bool,
}

/// Chooses from all that `cx` may use, by what is asked for in `request` and in `queries`.
pub(super) fn choose(
    orch: &Arc<Orch>,
    cx: &Cx,
    request: &str,
    queries: &[String],
    budget_tokens: usize,
) -> Result<Toolset, Error> {
    let all = usable(orch.tools(None, cx)?);
    let budget = budget_tokens.saturating_mul(BYTES_PER_TOKEN);
    if let Some(toolset) = all_of(&all, budget) {
        return Ok(toolset);
    }
    let parts: Vec<&str> = match queries {
        [] => std::iter::once(request).chain(parts(request)).collect(),
        // Made of the request by somebody who understands it.
        queries => queries.iter().map(String::as_str).collect(),
    };
    let mut found = Vec::new();
    for part in parts {
        let hits = orch.search_tools(part, None, MAX_HITS, cx)?.into_iter().map(|it| it.0);
        found.push(usable(hits.collect()));
    }
    Ok(best_of(all, found, budget))
}

fn usable(mut tools: Vec<ServerTool>) -> Vec<ServerTool> {
    tools.retain(|it| it.server != BUILT_IN || !is_withheld(&it.name));
    tools
}

/// Clauses of a request: each may need a tool of its own, which would drown among the words of all.
fn parts(request: &str) -> impl Iterator<Item = &str> {
    let ends = |it: char| matches!(it, '.' | ',' | ';' | '\n' | '。' | '、' | '，');
    let clauses =
        request.split(ends).flat_map(|it| it.split(" and ")).flat_map(|it| it.split(" then "));
    clauses.map(str::trim).filter(|it| !it.is_empty()).take(MAX_PARTS)
}

/// All of them, if they fit.
fn all_of(all: &[ServerTool], budget: usize) -> Option<Toolset> {
    let mut text = String::new();
    for tool in all {
        text.push_str(&described(tool, Words::Many));
        if budget < text.len() {
            return None;
        }
    }
    Some(Toolset { text, n_shown: all.len(), n_left_out: 0, is_vague: false })
}

/// The best hits of each query in turn, then what else there is, until the budget is used up.
fn best_of(all: Vec<ServerTool>, found: Vec<Vec<ServerTool>>, budget: usize) -> Toolset {
    const FEW: usize = 5;
    // One after the other that had no room; smaller ones behind them are hardly worth the search.
    const MAX_MISSED: usize = 50;
    let n_all = all.len();
    let longest = found.iter().map(Vec::len).max().unwrap_or_default();
    let in_turn = (0..longest).flat_map(|at| found.iter().filter_map(move |it| it.get(at)));
    let mut seen = HashSet::new();
    let mut hits: Vec<&ServerTool> =
        in_turn.filter(|it| seen.insert((it.server.as_str(), it.name.as_str()))).collect();
    let is_vague = hits.len() < FEW;
    if BEST_HITS < hits.len() {
        // Stable: each of both keeps its order.
        hits[BEST_HITS..]
            .sort_by_key(|it| !(it.server == BUILT_IN && BASICS.contains(&it.name.as_str())));
    }
    let rest = all.iter().filter(|it| !seen.contains(&(it.server.as_str(), it.name.as_str())));
    let (mut text, mut n_shown, mut n_missed) = (String::new(), 0, 0);
    let n_hits = hits.len();
    for (at, tool) in hits.into_iter().chain(rest).enumerate() {
        // What is likely to be used needs its details; of the others more fit with fewer words.
        let is_likely = at < n_hits.min(2 * BEST_HITS) && text.len() < budget / 2;
        let described = described(tool, if is_likely { Words::Many } else { Words::Few });
        if text.len() + described.len() <= budget {
            text.push_str(&described);
            (n_shown, n_missed) = (n_shown + 1, 0);
        } else {
            n_missed += 1;
        }
        if MAX_MISSED < n_missed {
            break;
        }
    }
    Toolset { text, n_shown, n_left_out: n_all - n_shown, is_vague }
}

#[derive(Clone, Copy)]
enum Words {
    Many,
    Few,
}

/// How much is said of a tool.
struct Level {
    /// Of its description, in characters.
    purpose: usize,
    arguments: Detail,
    result: Detail,
}

const LEVELS: [Level; 3] = [
    Level {
        purpose: 400,
        arguments: Detail { depth: 5, comment: 120, members: 60 },
        result: Detail { depth: 3, comment: 0, members: 30 },
    },
    Level {
        purpose: 200,
        arguments: Detail { depth: 3, comment: 40, members: 40 },
        result: Detail { depth: 3, comment: 0, members: 20 },
    },
    Level {
        purpose: 140,
        arguments: Detail { depth: 2, comment: 0, members: 15 },
        result: Detail { depth: 1, comment: 0, members: 8 },
    },
];

/// Name, what it does, what it takes and, if known, what it answers; in fewer words where it is long.
fn described(tool: &ServerTool, words: Words) -> String {
    let levels = match words {
        Words::Many => &LEVELS[..],
        Words::Few => &LEVELS[2..],
    };
    let mut described = String::new();
    for level in levels {
        described = at_level(tool, level);
        if described.len() <= MAX_TOOL {
            return described;
        }
    }
    text::beginning(&described, MAX_TOOL).to_owned() + "…\n"
}

fn at_level(tool: &ServerTool, level: &Level) -> String {
    let name = format!("{}.{}", tool.server, tool.name);
    let mut out = format!("# {}\n", text::excerpt(&name, LONGEST_NAME));
    if tool.pin.is_some() {
        out.push_str("(not what it was when it was first seen)\n");
    }
    let purpose = first_words(&tool.description, level.purpose);
    if !purpose.is_empty() {
        out.push_str(&purpose);
        out.push('\n');
    }
    out.push_str(&format!("arguments: {}\n", signature(&tool.input_schema, level.arguments)));
    if let Some(schema) = &tool.output_schema {
        out.push_str(&format!("structuredContent: {}\n", signature(schema, level.result)));
    }
    out
}

/// The first paragraph, and more where that is only a heading.
fn first_words(description: &str, max: usize) -> String {
    const HEADING: usize = 80;
    let mut words = String::new();
    for paragraph in description.split("\n\n").map(str::trim).filter(|it| !it.is_empty()) {
        if HEADING < words.len() {
            break;
        }
        if words.ends_with(char::is_alphanumeric) {
            words.push('.');
        }
        for word in paragraph.split_whitespace() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(word);
        }
    }
    text::excerpt(&words, max)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(server: &str, name: &str, description: &str) -> ServerTool {
        ServerTool {
            server: server.to_owned(),
            name: name.to_owned(),
            title: None,
            description: description.to_owned(),
            input_schema: json!({"type": "object", "required": ["id"], "properties": {
                "id": {"type": "string", "description": "Which one"},
            }}),
            output_schema: Some(
                json!({"type": "object", "properties": {"url": {"type": "string"}}}),
            ),
            annotations: None,
            pin: None,
        }
    }

    #[test]
    fn what_is_withheld_is_there_and_is_never_a_step() {
        let own: Vec<&str> =
            crate::service::tools::own_tools().iter().map(|it| it.name.as_str()).collect();
        for name in WITHHELD.iter().chain(&BASICS) {
            assert!(own.contains(name), "there is no `{name}`");
        }
        assert!(BASICS.iter().all(|it| !is_withheld(it)));
        for name in [
            "login",
            "orch.create_api_key",
            "batch_execute",
            "orch.batch_plan",
            "list_batches",
            "call_tool",
        ] {
            assert!(is_withheld(name), "{name}");
        }
        assert!(!is_withheld("github.login") && !is_withheld("orch.launch_instance"));
    }

    #[test]
    fn a_tool_is_told_in_a_few_lines() {
        assert_eq!(
            described(
                &tool("files", "find", "Finds it\n\nReads all. Slowly.\n\nSee the manual."),
                Words::Many
            ),
            "# files.find\nFinds it. Reads all. Slowly. See the manual.\narguments: {id: string /* Which one */}\n\
             structuredContent: {url?: string}\n"
        );
        let mut long = tool("files", "long", &"word ".repeat(10_000));
        let properties =
            (0..2_000).map(|i| (format!("parameter_{i}"), json!({"description": "x".repeat(500)})));
        long.input_schema = json!({"properties": properties.collect::<serde_json::Map<_, _>>()});
        assert!(described(&long, Words::Many).len() <= MAX_TOOL + 10);
    }

    #[test]
    fn a_thousand_tools_fill_the_budget_and_no_more_with_the_hits_first() {
        let all: Vec<ServerTool> =
            (0..1_000).map(|i| tool("many", &format!("tool_{i}"), &"word ".repeat(40))).collect();
        let budget = 8_000 * BYTES_PER_TOKEN;
        assert_eq!(all_of(&all, budget), None);
        let found = vec![vec![all[900].clone(), all[901].clone()], vec![all[950].clone()]];
        let chosen = best_of(all, found, budget);
        assert!(chosen.text.len() <= budget && budget - 400 < chosen.text.len());
        assert_eq!(chosen.n_shown + chosen.n_left_out, 1_000);
        assert!(chosen.is_vague, "three hits are few");
        let names: Vec<&str> =
            chosen.text.lines().filter(|it| it.starts_with('#')).take(4).collect();
        assert_eq!(
            names,
            ["# many.tool_900", "# many.tool_950", "# many.tool_901", "# many.tool_0"],
            "of each query in turn, then the others"
        );
    }

    #[test]
    fn few_tools_are_all_shown() {
        let all = [tool("a", "one", "x"), tool("b", "two", "y")];
        let chosen = all_of(&all, 1_000).unwrap();
        assert_eq!((chosen.n_shown, chosen.n_left_out, chosen.is_vague), (2, 0, false));
    }

    #[test]
    fn each_clause_is_looked_for_by_itself() {
        let request = "List the nodes, then launch nginx and call it; 노드를 확인하고";
        let found: Vec<&str> = parts(request).collect();
        assert_eq!(found, ["List the nodes", "launch nginx", "call it", "노드를 확인하고"]);
    }
}

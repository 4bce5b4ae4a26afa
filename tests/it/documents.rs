//! What the documents say is so: generated parts are current, examples are valid, and every command line parses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mcp_orch::config::{self, Plan, Sources, nodes_file};
use orch_core::operation::{Method, Op};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs_err::read_to_string(root().join(path)).unwrap()
}

/// Compares a file with what it should be; `UPDATE=1` writes it instead.
fn is_current(path: &str, wanted: &str) {
    let path = root().join(path);
    let found = fs_err::read_to_string(&path).unwrap_or_default();
    if found == wanted {
        return;
    }
    if std::env::vars().any(|(name, _)| name == "UPDATE") {
        fs_err::write(&path, wanted).unwrap();
        return;
    }
    panic!("{} is out of date: run `just update` and look at the diff", path.display());
}

fn operations() -> String {
    let mut out = String::from("| operation | REST | needs | |\n|---|---|---|---|\n");
    for Op { spec, .. } in orch_core::ops::catalogue() {
        let routes: Vec<String> = spec
            .routes
            .iter()
            .map(|it| {
                let method = match it.method {
                    Method::Get => "GET",
                    Method::Post => "POST",
                    Method::Put => "PUT",
                    Method::Delete => "DELETE",
                };
                format!("`{method} {}`", it.path)
            })
            .collect();
        let needs = spec.needs.map_or("–", |it| it.as_str());
        out.push_str(&format!(
            "| `{}` | {} | {needs} | {} |\n",
            spec.name,
            routes.join(", "),
            spec.title()
        ));
    }
    out
}

/// `text` with what is between the markers of `section` replaced.
fn with_section(text: &str, section: &str, content: &str) -> String {
    let begin = format!("<!-- {section}: generated, see `just update` -->\n");
    let end = format!("<!-- /{section} -->");
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
    format!("{before}{begin}{content}{end}{after}")
}

#[test]
fn the_tables_of_the_readme_are_current() {
    let mut text = read("README.md");
    text = with_section(&text, "operations", &operations());
    text = with_section(&text, "keys", &config::key_table());
    text = with_section(&text, "environment", &config::environment_table());
    is_current("README.md", &text);
}

#[test]
fn the_example_of_the_configuration_is_current() {
    is_current("examples/config.yaml", &config::example_file());
}

#[test]
fn the_schema_of_plans_is_current() {
    let schema = serde_json::to_string_pretty(&orch_domain::plan::schema()).unwrap();
    is_current("schemas/batch-plan.json", &format!("{schema}\n"));
}

#[test]
fn every_example_is_valid() {
    let env = BTreeMap::new();
    let mut n_checked = 0;
    for path in files_under(&root().join("examples")) {
        let shown = path.display().to_string();
        match path.file_name().and_then(|it| it.to_str()).unwrap() {
            "config.yaml" => {
                let sources = Sources { env: &env, file: Some(path), flags: Vec::new() };
                config::load(sources).unwrap_or_else(|err| panic!("{err}"));
            }
            "nodes.json" => {
                for node in nodes_file::read(&path, true).unwrap_or_else(|err| panic!("{err:#}")) {
                    assert!(matches!(node.plan, Plan::Register(_)), "{shown}: {}", node.id);
                }
            }
            "mcp-config.json" => upstreams_are_valid(&path),
            name if name.ends_with(".md") => {}
            "package.json" | "package-lock.json" => {
                let text = fs_err::read_to_string(&path).unwrap();
                serde_json::from_str::<serde_json::Value>(&text)
                    .unwrap_or_else(|err| panic!("{shown}: {err}"));
                // Whoever installs it says where from.
                assert!(!text.contains("\"resolved\""), "{shown} names a registry");
            }
            "requirements.txt" => {
                let text = fs_err::read_to_string(&path).unwrap();
                assert!(text.lines().all(|it| it.contains("==")), "{shown}: pin all of them");
            }
            // Played to their end by the gate of every change, or by what is.
            name if name.ends_with(".py") || name.ends_with(".mjs") => {}
            // By `batch_examples`.
            _ if crate::batch_examples::is_plan(&path) => {}
            "run" | "install" => {
                let parsed =
                    std::process::Command::new("bash").arg("-n").arg(&path).status().unwrap();
                assert!(parsed.success(), "{shown}");
            }
            other => panic!("{shown}: nothing checks a file of the name {other}"),
        }
        n_checked += 1;
    }
    assert!(4 <= n_checked, "{n_checked} examples");
    upstreams_are_valid(&root().join("mcp-config.json"));
}

fn upstreams_are_valid(path: &Path) {
    let text = fs_err::read_to_string(path).unwrap();
    orch_gateway::config::McpConfig::parse(&text, &|_| None)
        .unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(found) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|it| *it != "```").collect();
            if found == language {
                blocks.push(block.join("\n"));
            }
        }
    }
    blocks
}

#[test]
fn every_json_of_the_readme_is_json() {
    let blocks = blocks(&read("README.md"), "json");
    assert!(3 <= blocks.len());
    for block in blocks {
        let value: serde_json::Value =
            serde_json::from_str(&block).unwrap_or_else(|err| panic!("{err}: {block}"));
        let servers = value.get("mcpServers").or(value.get("servers")).unwrap();
        if !servers["mcp-orch"].is_object() {
            // Then it is one of ours.
            // Variables are the reader's.
            orch_gateway::config::McpConfig::parse(&block, &|name| Some(name.to_owned()))
                .unwrap_or_else(|err| panic!("{err}: {block}"));
        }
    }
}

#[test]
fn every_command_line_of_the_documents_is_understood() {
    let operations: Vec<&str> = orch_core::ops::catalogue().iter().map(|it| it.spec.name).collect();
    let mut n_checked = 0;
    for document in [
        "README.md",
        "examples/main-job/README.md",
        "examples/fleet/README.md",
        "examples/gateway/README.md",
        "examples/batch/README.md",
    ] {
        let lines: Vec<String> =
            blocks(&read(document), "sh").join("\n").lines().map(str::to_owned).collect();
        for line in lines.iter().filter(|it| it.starts_with("mcp-orch ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            mcp_orch::cli::check(&words).unwrap_or_else(|err| panic!("{document}: {line}: {err}"));
            if words[1] == "call" {
                assert!(operations.contains(&words[2]), "{document}: {line}");
            }
            n_checked += 1;
        }
    }
    assert!(15 <= n_checked, "{n_checked} command lines");
}

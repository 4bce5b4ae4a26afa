//! The rules between the floors: what each crate may depend on, what each folder may name, how long a file may be.
//! Read from manifests and sources, so that a shortcut fails here and not in review.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file below `root`, with its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Its lines that are code: comments may name anything.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim).filter(|it| !it.starts_with("//"))
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs_err::read_to_string(&path).unwrap();
                found.push(Source { path: relative(&path), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

/// Names in `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = fs_err::read_to_string(root().join(manifest)).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let name = |line: &str| line.split(['.', '=', ' ']).next().unwrap_or_default().to_owned();
    section.lines().map(name).filter(|it| !it.is_empty() && !it.starts_with('#')).collect()
}

/// Asserts that no file of `folder`, but those that `but` names, has one of `words` as a whole word in its code.
#[track_caller]
fn nobody_names(folder: &str, words: &[&str], but: &[&str]) {
    let sources = sources(folder);
    assert!(!sources.is_empty(), "{folder} has no sources");
    let mut found = Vec::new();
    for source in &sources {
        if but.iter().any(|it| source.path.starts_with(it)) {
            continue;
        }
        for line in source.code() {
            if words.iter().any(|it| has_word(line, it)) {
                found.push(format!("{}: {line}", source.path));
            }
        }
    }
    assert!(found.is_empty(), "{folder} may not name {words:?}:\n{}", found.join("\n"));
    // An exception that nobody needs any more is taken off the list.
    for it in but {
        let is_used = |source: &&Source| {
            source.path.starts_with(it)
                && source.code().any(|line| words.iter().any(|word| has_word(line, word)))
        };
        assert!(sources.iter().any(|source| is_used(&source)), "`{it}` needs no exception");
    }
}

/// `word` as an identifier or the beginning of a path, not inside another word or a text.
fn has_word(line: &str, word: &str) -> bool {
    let is_inner = |it: char| it.is_alphanumeric() || it == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_inner)
            && !after.is_some_and(is_inner)
            && line[..at].matches('"').count().is_multiple_of(2)
    })
}

#[test]
fn a_word_is_found_as_a_word_only() {
    assert!(has_word("use bollard::Docker;", "bollard"));
    assert!(has_word("fn at(it: rmcp::Error)", "rmcp"));
    assert!(!has_word("let rmcp_like = 1;", "rmcp"));
    assert!(!has_word(r#"level("rmcp=warn")"#, "rmcp"));
}

#[test]
fn every_crate_depends_on_lower_floors_only() {
    let ours = |manifest: &str| -> Vec<String> {
        dependencies(manifest).into_iter().filter(|it| it.starts_with("orch-")).collect()
    };
    assert_eq!(ours("crates/orch-domain/Cargo.toml"), [""; 0]);
    assert_eq!(ours("crates/orch-core/Cargo.toml"), ["orch-domain"]);
    for (floor_2, allowed) in [
        ("orch-adapters", &["orch-domain", "orch-core"][..]),
        ("orch-gateway", &["orch-domain", "orch-core"]),
        ("orch-proto", &[]),
    ] {
        let named = ours(&format!("crates/{floor_2}/Cargo.toml"));
        assert!(named.iter().all(|it| allowed.contains(&it.as_str())), "{floor_2}: {named:?}");
    }
    let crates = fs_err::read_dir(root().join("crates")).unwrap();
    assert_eq!(crates.count(), 5, "a new crate gets its floor here");
}

/// Runtimes, clients and servers.
const WORLD: [&str; 14] = [
    "tokio", "axum", "hyper", "reqwest", "tonic", "rmcp", "bollard", "russh", "kube", "sled",
    "tower", "futures", "rustix", "fs-err",
];

#[test]
fn the_domain_knows_no_runtime_no_world_and_no_clock() {
    let named = dependencies("crates/orch-domain/Cargo.toml");
    let forbidden: Vec<_> = named.iter().filter(|it| WORLD.contains(&it.as_str())).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
    let folder = "crates/orch-domain/src";
    nobody_names(folder, &["async", "std::fs", "std::net::TcpStream", "std::process"], &[]);
    nobody_names(folder, &["SystemTime", "Instant", "std::env"], &[]);
}

#[test]
fn the_core_names_no_adapter_and_no_protocol() {
    let outside = ["bollard", "kube", "russh", "sled", "axum", "tonic", "rmcp", "hyper", "reqwest"];
    let named = dependencies("crates/orch-core/Cargo.toml");
    let forbidden: Vec<_> = named.iter().filter(|it| outside.contains(&it.as_str())).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
    nobody_names("crates/orch-core/src", &outside, &[]);
    nobody_names("crates/orch-core/src", &["orch_adapters", "orch_gateway", "orch_proto"], &[]);
}

#[test]
fn adapters_do_not_know_each_other() {
    let folder = root().join("crates/orch-adapters/src");
    let mut names = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // `engines` is the table of engines: it makes the one that a node names, and is no adapter itself.
        if !["lib", "engines"].contains(&name.as_str()) {
            names.push(name);
        }
    }
    assert!(3 <= names.len(), "{names:?}");
    for name in &names {
        let others = names.iter().filter(|it| *it != name);
        // Docker is reached over SSH, when a node says so.
        let others = others.filter(|it| !(name == "docker" && *it == "ssh"));
        let paths: Vec<String> = others.map(|it| format!("crate::{it}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        nobody_names(&format!("crates/orch-adapters/src/{name}"), &paths, &[]);
    }
    let store = ["crates/orch-adapters/src/store"];
    nobody_names("crates/orch-adapters/src", &["sled"], &store);
    nobody_names("crates/orch-adapters/src", &["bollard"], &["crates/orch-adapters/src/docker"]);
    nobody_names("crates/orch-adapters/src", &["russh"], &["crates/orch-adapters/src/ssh"]);
}

#[test]
fn faces_name_no_adapter_and_only_the_wiring_does() {
    nobody_names("src", &["orch_adapters"], &["src/app"]);
    // Clients of the protocol and servers behind are two ends of one thing.
    nobody_names("src", &["orch_gateway::upstream"], &["src/app", "src/face/mcp"]);
    nobody_names("src", &["bollard", "sled", "russh", "kube"], &[]);
}

#[test]
fn each_protocol_is_known_in_one_place() {
    // The bridge of `stdio` hands on frames that the SDK reads and writes, and `call` is an MCP client.
    nobody_names("src", &["rmcp"], &["src/face/mcp", "src/cli/stdio", "src/cli/client.rs"]);
    nobody_names("crates", &["rmcp"], &[]);
    // MCP over HTTP answers with statuses of its own.
    nobody_names(
        "src",
        &["StatusCode"],
        &["src/face/rest", "src/face/mcp/http", "src/face/mcp/profile.rs"],
    );
    // Those of others that adapters ask over HTTP are no statuses of ours.
    let clients = [
        "crates/orch-adapters/src/docker",
        "crates/orch-adapters/src/tailscale",
        "crates/orch-gateway/src/upstream",
        "crates/orch-gateway/src/oauth",
    ];
    nobody_names("crates", &["StatusCode"], &clients);
}

#[test]
fn what_is_stored_is_a_type_of_its_own() {
    // A domain type that could be written as it is would change what is on disk whenever it changes.
    for (file, of) in
        [("instance", "Instance"), ("node", "Node"), ("user", "User"), ("user", "ApiKey")]
    {
        let path = format!("crates/orch-domain/src/{file}.rs");
        let text = fs_err::read_to_string(root().join(&path)).unwrap();
        let (before, _) = text.split_once(&format!("pub struct {of} {{")).unwrap();
        let derive = before.lines().next_back().unwrap();
        assert!(
            derive.starts_with("#[derive(") && !derive.contains("Serialize"),
            "{path}: {derive}"
        );
    }
}

/// Where tests and benchmarks live; what is asserted of them is only their length.
const FOLDERS: [&str; 4] = ["src", "crates", "tests", "benches"];

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for folder in FOLDERS {
        for source in sources(folder) {
            let n_lines = source.text.lines().count();
            assert!(n_lines <= 500, "{} has {n_lines} lines", source.path);
        }
    }
    // An operation is described by its text in `tools`, and a file of tests by what it tests.
    let is_exempt = |path: &str| {
        path.starts_with("crates/orch-core/src/ops/") && !path.ends_with("mod.rs")
            || path.ends_with("tests.rs")
            || path.contains("/tests/")
    };
    let silent: Vec<String> = ["src", "crates"]
        .into_iter()
        .flat_map(sources)
        .filter(|it| !is_exempt(&it.path) && !it.text.starts_with("//!"))
        .map(|it| it.path)
        .collect();
    assert!(silent.is_empty(), "without a sentence on top: {silent:?}");
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let empty_names = ["util", "utils", "helper", "helpers", "manager", "common", "misc"];
    for source in FOLDERS.into_iter().flat_map(sources) {
        let path = PathBuf::from(&source.path);
        let parts = path.iter().map(|it| it.to_str().unwrap().trim_end_matches(".rs"));
        let bad: Vec<_> = parts.filter(|it| empty_names.contains(it)).collect();
        assert!(bad.is_empty(), "{}", source.path);
    }
}

#[test]
fn every_operation_is_a_file_and_a_line_in_the_catalogue() {
    let folder = root().join("crates/orch-core/src/ops");
    let mut files: Vec<String> = fs_err::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|it| it != "mod")
        .collect();
    let mut listed: Vec<String> =
        orch_core::ops::catalogue().iter().map(|it| it.spec.name.to_owned()).collect();
    files.sort();
    listed.sort();
    assert_eq!(files, listed);
}

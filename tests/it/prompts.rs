//! The texts of prompts: the folder and the registry name the same, and each renders to its golden file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mcp_orch::face::mcp::{Prompts, REGISTRY};
use orch_core::ops;
use orch_core::service::batch::planner::PROMPTS;
use orch_domain::plan::{Plan, Step};

use crate::tools::{words_in, words_of};

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn stems(path: &Path) -> BTreeSet<String> {
    let entries = fs_err::read_dir(path).unwrap().map(|it| it.unwrap().path());
    entries.map(|it| it.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Reading them all also checks that placeholders, arguments and registry agree, which a prompt that is read must.
#[test]
fn the_folder_and_the_registry_name_the_same_prompts() {
    let registered: BTreeSet<String> = REGISTRY.iter().map(|it| it.name.to_owned()).collect();
    assert_eq!(stems(&folder("prompts/mcp")), registered);
    assert_eq!(Prompts::overridden_by(&folder("prompts/mcp")).unwrap().len(), REGISTRY.len());
}

fn sample(argument: &str) -> &'static str {
    match argument {
        "purpose" => "a web server to try a page",
        "image" => "nginx:alpine",
        "port" => "80",
        "path" => "/health",
        "expect" => "the word ok",
        "node_id" => "n1",
        "symptom" => "launches time out since noon",
        "goal" => "20 more workers of 1 vCPU and 2 GiB",
        other => panic!("add a sample for `{other}`"),
    }
}

#[test]
fn each_prompt_renders_to_its_golden_file() {
    let (prompts, golden) = (Prompts::built_in(), folder("tests/golden/prompts"));
    let update = std::env::var_os("UPDATE").is_some();
    for registered in &REGISTRY {
        let prompt = prompts.get(registered.name).unwrap();
        let given: BTreeMap<&str, String> =
            registered.arguments.iter().map(|(name, _)| (*name, sample(name).to_owned())).collect();
        let text = prompt.render(&given).unwrap() + "\n";
        assert!(!text.contains("{{"), "{}: a placeholder is left", registered.name);
        let file = golden.join(format!("{}.md", registered.name));
        if update {
            fs_err::write(&file, &text).unwrap();
        }
        let expected = fs_err::read_to_string(&file).unwrap();
        assert_eq!(text, expected, "{}: UPDATE=1 rewrites it", registered.name);
    }
    assert_eq!(stems(&golden), REGISTRY.iter().map(|it| it.name.to_owned()).collect());
}

/// A prompt that names a tool or a field which is not there sends the model astray.
#[test]
fn every_tool_that_a_text_names_exists() {
    let catalogue = ops::catalogue();
    let mut known: BTreeSet<String> = catalogue.iter().flat_map(words_of).collect();
    known.extend(catalogue.iter().map(|it| it.spec.name.to_owned()));
    known.extend(words_in(&schemars::schema_for!(Plan).into()));
    let mut files: Vec<PathBuf> = ["prompts/mcp", "prompts/planner"]
        .iter()
        .flat_map(|it| fs_err::read_dir(folder(it)).unwrap())
        .map(|it| it.unwrap().path())
        .collect();
    files.push(folder("prompts/instructions.md"));
    for file in files {
        let text = fs_err::read_to_string(&file).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        let names = quoted.map(|it| it.split([' ', ':']).next().unwrap_or_default());
        for name in names.filter(|it| it.contains('_')) {
            assert!(known.contains(name), "{}: `{name}`", file.display());
        }
    }
}

/// The front matter documents the blanks of a text; the program knows them, and the text has them.
#[test]
fn the_planners_texts_are_those_of_the_folder_with_the_blanks_they_document() {
    let registered: BTreeSet<String> = PROMPTS.iter().map(|it| it.name.to_owned()).collect();
    assert_eq!(stems(&folder("prompts/planner")), registered);
    for prompt in PROMPTS {
        let file = folder("prompts/planner").join(format!("{}.md", prompt.name));
        assert_eq!(fs_err::read_to_string(&file).unwrap(), prompt.file);
        let front = prompt.file.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap().0;
        let front: serde_json::Value = serde_saphyr::from_str(front).unwrap();
        assert_eq!(front["name"], prompt.name);
        assert!(
            front["description"].as_str().is_some_and(|it| it.ends_with('.')),
            "{}",
            prompt.name
        );
        let documented: Vec<&str> = front["arguments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| {
                assert!(it["description"].is_string(), "{}: {it}", prompt.name);
                it["name"].as_str().unwrap()
            })
            .collect();
        assert_eq!(documented, prompt.arguments, "{}", prompt.name);
        let blanks = prompt.body().split("{{").skip(1).map(|it| it.split_once("}}").unwrap().0);
        assert_eq!(blanks.collect::<Vec<_>>(), prompt.arguments, "{}", prompt.name);
    }
}

#[test]
fn each_text_of_the_planner_renders_to_its_golden_file() {
    let golden = folder("tests/golden/planner");
    let update = std::env::var_os("UPDATE").is_some();
    for prompt in PROMPTS {
        let given: Vec<(&str, String)> =
            prompt.arguments.iter().map(|it| (*it, format!("<{it}>"))).collect();
        let given: Vec<(&str, &str)> = given.iter().map(|it| (it.0, it.1.as_str())).collect();
        let (file, text) =
            (golden.join(format!("{}.md", prompt.name)), prompt.render(&given) + "\n");
        if update {
            fs_err::write(&file, &text).unwrap();
        }
        assert_eq!(
            text,
            fs_err::read_to_string(&file).unwrap(),
            "{}: UPDATE=1 rewrites it",
            file.display()
        );
    }
    assert_eq!(stems(&golden), PROMPTS.iter().map(|it| it.name.to_owned()).collect());
}

/// A model copies what it is shown: the examples are steps, their tools are there, and so are the arguments.
#[test]
fn the_examples_of_the_planner_are_plans_of_tools_that_exist() {
    let plan = PROMPTS.iter().find(|it| it.name == "plan").unwrap().body();
    let (_, examples) = plan.split_once("# Two examples").unwrap();
    let catalogue = ops::catalogue();
    let (mut n_steps, mut n_ends) = (0, 0);
    for line in examples.lines().filter(|it| it.starts_with('{')) {
        if line.starts_with("{\"done\"") {
            n_ends += 1;
            continue;
        }
        let step: Step = serde_json::from_str(line).unwrap_or_else(|err| panic!("{line}: {err}"));
        let name = step.tool.strip_prefix("orch.").unwrap();
        let op = catalogue.iter().find(|it| it.spec.name == name);
        let op = op.unwrap_or_else(|| panic!("there is no `{name}`"));
        let known = op.input["properties"].as_object().unwrap();
        for argument in step.arguments.keys() {
            assert!(known.contains_key(argument), "`{name}` has no `{argument}`");
        }
        n_steps += 1;
    }
    assert_eq!((n_steps, n_ends), (6, 2));
}

#[test]
fn a_folder_of_ones_own_replaces_by_name() {
    let own = tempfile::tempdir().unwrap();
    let text = "---\nname: review_capacity\ntitle: Ours\ndescription: Ours\narguments:\n  - name: goal\n    description: \
                What for\n---\nOur way, for {{goal}}.\n";
    fs_err::write(own.path().join("review_capacity.md"), text).unwrap();
    fs_err::write(own.path().join("notes.txt"), "not a prompt").unwrap();
    let prompts = Prompts::overridden_by(own.path()).unwrap();
    let given = BTreeMap::from([("goal", "growth".to_owned())]);
    let prompt = prompts.get("review_capacity").unwrap();
    assert_eq!(prompt.render(&given).unwrap(), "Our way, for growth.");
    let err = prompt.render(&BTreeMap::new()).unwrap_err().to_string();
    assert!(err.contains("needs it: What for"), "{err}");
    assert!(prompts.get("diagnose_node").is_some(), "the others stay");

    fs_err::write(own.path().join("unheard_of.md"), text).unwrap();
    let err = Prompts::overridden_by(own.path()).unwrap_err().to_string();
    assert!(err.contains("unheard_of.md") && err.contains("hint: launch_instance"), "{err}");
}

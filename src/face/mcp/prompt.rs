//! Prompts offered to clients: texts in `prompts/mcp/`, each with a registered list of arguments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use orch_core::{Cx, gate};
use orch_domain::caller::Permission;
use orch_domain::{Error, text};
use rmcp::model::{
    GetPromptResult, JsonObject, ListPromptsResult, PromptArgument, PromptMessage, Role,
};
use serde::Deserialize;
use serde_json::Value;

static FOLDER: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/prompts/mcp");

/// What a person may give as one argument.
const MAX_ARGUMENT: usize = 2000;

/// What completes an argument of a prompt or of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completes {
    Nodes,
    Instances,
    Images,
    Nothing,
}

/// What the program knows about a prompt; the words are in its file.
#[derive(Debug)]
pub struct Registered {
    pub name: &'static str,
    /// What the tools that the text speaks of need.
    pub needs: Permission,
    pub arguments: &'static [(&'static str, Completes)],
}

/// Adding a prompt: its file, and its line here. A test holds both together.
pub const REGISTRY: [Registered; 4] = [
    Registered {
        name: "launch_instance",
        needs: Permission::Write,
        arguments: &[("purpose", Completes::Nothing), ("image", Completes::Images)],
    },
    Registered {
        name: "deploy_and_verify",
        needs: Permission::Write,
        arguments: &[
            ("image", Completes::Images),
            ("port", Completes::Nothing),
            ("path", Completes::Nothing),
            ("expect", Completes::Nothing),
        ],
    },
    Registered {
        name: "diagnose_node",
        needs: Permission::Read,
        arguments: &[("node_id", Completes::Nodes), ("symptom", Completes::Nothing)],
    },
    Registered {
        name: "review_capacity",
        needs: Permission::Read,
        arguments: &[("goal", Completes::Nothing)],
    },
];

#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    #[error("the prompt {} cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the prompt {} has no front matter: it must begin with a line `---`, then YAML, then a line `---`", path.display())]
    NoFrontMatter { path: PathBuf },
    #[error("the front matter of the prompt {} is not as expected", path.display())]
    FrontMatter { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("the prompt {}: {rule}", path.display())]
    Rule { path: PathBuf, rule: String },
    #[error("the prompt {} is none of those there are; hint: {known}", path.display())]
    Unknown { path: PathBuf, known: String },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FrontMatter {
    name: String,
    title: String,
    description: String,
    #[serde(default)]
    arguments: Vec<Argument>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Argument {
    name: String,
    description: String,
    /// What stands in its place when it is not given; without it the argument is required.
    default: Option<String>,
}

/// A prompt with its words.
#[derive(Clone, Debug)]
pub struct Prompt {
    registered: &'static Registered,
    front: FrontMatter,
    body: String,
}

/// All prompts, in the order of the registry.
#[derive(Clone, Debug)]
pub struct Prompts(Vec<Prompt>);

impl Prompts {
    pub fn built_in() -> Prompts {
        let prompts = REGISTRY.iter().map(|registered| {
            let path = format!("{}.md", registered.name);
            let text = FOLDER.get_file(&path).and_then(|it| it.contents_utf8());
            let text = text.expect("a test compares the folder with the registry");
            Prompt::parse(registered, Path::new(&path), text).expect("a test parses every file")
        });
        Prompts(prompts.collect())
    }

    /// The built-in ones, each replaced by the file of the same name in `dir`, if there is one.
    pub fn overridden_by(dir: &Path) -> Result<Prompts, PromptError> {
        let mut prompts = Prompts::built_in();
        let read = |path: &Path, source| PromptError::Read { path: path.to_owned(), source };
        let entries = fs_err::read_dir(dir).map_err(|err| read(dir, err))?;
        for entry in entries {
            let path = entry.map_err(|err| read(dir, err))?.path();
            if path.extension().is_none_or(|it| it != "md") {
                continue;
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let Some(own) = prompts.0.iter_mut().find(|it| it.registered.name == stem) else {
                let known: Vec<&str> = REGISTRY.iter().map(|it| it.name).collect();
                return Err(PromptError::Unknown { path, known: known.join(", ") });
            };
            let text = fs_err::read_to_string(&path).map_err(|err| read(&path, err))?;
            *own = Prompt::parse(own.registered, &path, &text)?;
        }
        Ok(prompts)
    }

    pub fn get(&self, name: &str) -> Option<&Prompt> {
        self.0.iter().find(|it| it.registered.name == name)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those whose tools `cx` may call.
    pub(super) fn list(&self, cx: &Cx) -> ListPromptsResult {
        let allowed = self.0.iter().filter(|it| it.permit(cx).is_ok());
        ListPromptsResult::with_all_items(allowed.map(Prompt::describe).collect())
    }
}

impl Prompt {
    fn parse(
        registered: &'static Registered,
        path: &Path,
        text: &str,
    ) -> Result<Prompt, PromptError> {
        let path = || path.to_owned();
        let rest = text
            .strip_prefix("---\n")
            .ok_or_else(|| PromptError::NoFrontMatter { path: path() })?;
        let (front, body) = rest
            .split_once("\n---\n")
            .ok_or_else(|| PromptError::NoFrontMatter { path: path() })?;
        let front: FrontMatter = serde_saphyr::from_str(front)
            .map_err(|err| PromptError::FrontMatter { path: path(), source: Box::new(err) })?;
        let prompt = Prompt { registered, front, body: body.trim().to_owned() };
        match prompt.broken_rule() {
            Some(rule) => Err(PromptError::Rule { path: path(), rule }),
            None => Ok(prompt),
        }
    }

    fn broken_rule(&self) -> Option<String> {
        if self.front.name != self.registered.name {
            let (given, expected) = (&self.front.name, self.registered.name);
            return Some(format!("its name is `{given}`, and its file is for `{expected}`"));
        }
        let known: Vec<&str> = self.registered.arguments.iter().map(|(name, _)| *name).collect();
        let given: Vec<&str> = self.front.arguments.iter().map(|it| it.name.as_str()).collect();
        if known != given {
            return Some(format!(
                "its arguments must be {}, in this order; it has {}",
                known.join(", "),
                given.join(", ")
            ));
        }
        let placeholders = placeholders(&self.body);
        if let Some(unknown) = placeholders.iter().find(|it| !known.contains(it)) {
            return Some(format!("`{{{{{unknown}}}}}` is not an argument of it"));
        }
        let unused = known.iter().find(|it| !placeholders.contains(it));
        unused.map(|it| format!("the argument `{it}` does not occur in its text"))
    }

    pub fn name(&self) -> &'static str {
        self.registered.name
    }

    pub(super) fn permit(&self, cx: &Cx) -> Result<(), Error> {
        gate::permit(self.registered.name, self.registered.needs, cx)
    }

    pub(super) fn completes(&self, argument: &str) -> Option<Completes> {
        self.registered.arguments.iter().find(|(name, _)| *name == argument).map(|(_, it)| *it)
    }

    fn describe(&self) -> rmcp::model::Prompt {
        let arguments = self.front.arguments.iter().map(|it| {
            PromptArgument::new(it.name.as_str())
                .with_description(it.description.as_str())
                .with_required(it.default.is_none())
        });
        rmcp::model::Prompt::new(
            self.front.name.as_str(),
            Some(self.front.description.as_str()),
            Some(arguments.collect()),
        )
        .with_title(self.front.title.as_str())
    }

    pub(super) fn answer(&self, arguments: &JsonObject) -> Result<GetPromptResult, Error> {
        let mut given = BTreeMap::new();
        for (name, value) in arguments {
            if self.completes(name).is_none() {
                let name = text::excerpt(name, 60);
                return Err(Error::invalid(
                    name,
                    format!("the prompt `{}` has no such argument", self.name()),
                ));
            }
            let value = match value {
                Value::String(it) => it.clone(),
                other => other.to_string(),
            };
            given.insert(name.as_str(), value);
        }
        let text = self.render(&given)?;
        let message = PromptMessage::new_text(Role::User, text);
        Ok(GetPromptResult::new(vec![message]).with_description(self.front.description.as_str()))
    }

    /// The text with every placeholder filled in, once: what is filled in is not looked at again.
    pub fn render(&self, given: &BTreeMap<&str, String>) -> Result<String, Error> {
        let mut values = BTreeMap::new();
        for argument in &self.front.arguments {
            let value = match given.get(argument.name.as_str()).map(|it| it.trim()) {
                Some(it) if MAX_ARGUMENT < it.chars().count() => {
                    return Err(Error::invalid(
                        &argument.name,
                        format!("it is longer than {MAX_ARGUMENT} characters"),
                    ));
                }
                Some(it) if !it.is_empty() => text::sanitize(it),
                _ => argument.default.clone().ok_or_else(|| {
                    Error::invalid(
                        &argument.name,
                        format!("the prompt `{}` needs it: {}", self.name(), argument.description),
                    )
                })?,
            };
            values.insert(argument.name.as_str(), value);
        }
        let mut out = String::with_capacity(self.body.len() + 100);
        for piece in pieces(&self.body) {
            match piece {
                Piece::Text(it) => out.push_str(it),
                Piece::Placeholder(name) => {
                    out.push_str(values.get(name).map_or("", String::as_str));
                }
            }
        }
        Ok(out)
    }
}

enum Piece<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

fn pieces(body: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = body;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { break };
        pieces.push(Piece::Text(before));
        pieces.push(Piece::Placeholder(name.trim()));
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    pieces
}

fn placeholders(body: &str) -> Vec<&str> {
    let names = pieces(body).into_iter().filter_map(|it| match it {
        Piece::Placeholder(name) => Some(name),
        Piece::Text(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> Result<Prompt, PromptError> {
        Prompt::parse(&REGISTRY[3], Path::new("review_capacity.md"), text)
    }

    const FRONT: &str = "---\nname: review_capacity\ntitle: T\ndescription: D\narguments:\n  - name: goal\n    \
                         description: G\n    default: any\n---\n";

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        let prompt = own(&format!("{FRONT}For {{{{goal}}}}.")).unwrap();
        let given = BTreeMap::from([("goal", "{{goal}}\u{1b}[31m!".to_owned())]);
        assert_eq!(prompt.render(&given).unwrap(), "For {{goal}}!.");
        assert_eq!(prompt.render(&BTreeMap::new()).unwrap(), "For any.");
    }

    #[test]
    fn a_file_that_breaks_a_rule_is_refused_in_words() {
        let rule = |text: &str| own(text).unwrap_err().to_string();
        assert!(rule("no front").contains("no front matter"));
        assert!(rule(&format!("{FRONT}nothing")).contains("`goal` does not occur"));
        assert!(rule(&format!("{FRONT}{{{{goal}}}} {{{{other}}}}")).contains("`{{other}}` is not"));
        assert!(rule(&FRONT.replace("name: goal", "name: aim")).contains("arguments must be goal"));
        assert!(rule(&FRONT.replace("title", "titel")).contains("front matter"));
    }
}

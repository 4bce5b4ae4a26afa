//! What is sent to the model: texts in `prompts/planner/` with the blanks filled in, and foreign text in fences.

use orch_domain::text;

/// A text with blanks such as `{{request}}`.
pub struct PlannerPrompt {
    pub name: &'static str,
    /// The file, front matter included.
    pub file: &'static str,
    /// Its blanks.
    pub arguments: &'static [&'static str],
}

macro_rules! prompt {
    ($name:literal, [$($argument:literal),*]) => {
        PlannerPrompt {
            name: $name,
            file: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/../../prompts/planner/", $name, ".md"
            )),
            arguments: &[$($argument),*],
        }
    };
}

/// How plans are written; the system prompt of every round.
pub(super) const PLAN: PlannerPrompt = prompt!("plan", []);
/// The first message: what there is to plan with, and what for.
pub(super) const REQUEST: PlannerPrompt = prompt!("request", ["tools", "request"]);
/// What to search tools for, as a system prompt.
pub(super) const SEARCH: PlannerPrompt = prompt!("search", []);
/// What was wrong with a reply.
pub(super) const REPAIR: PlannerPrompt = prompt!("repair", ["problems", "taken"]);
/// How the steps ended, and what to write then.
pub(super) const JOIN: PlannerPrompt = prompt!("join", ["results", "next"]);

/// All of them; a test compares them with the folder.
pub const PROMPTS: [&PlannerPrompt; 5] = [&PLAN, &REQUEST, &SEARCH, &REPAIR, &JOIN];

impl PlannerPrompt {
    /// The text without its front matter.
    pub fn body(&self) -> &'static str {
        let rest = self.file.strip_prefix("---\n").unwrap_or(self.file);
        rest.split_once("\n---\n").map_or(rest, |it| it.1).trim()
    }

    /// The text with every blank filled in, once: what is filled in is not looked at again. A blank that is not given
    /// stays.
    pub fn render(&self, given: &[(&str, &str)]) -> String {
        let mut out = String::new();
        let mut rest = self.body();
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else { break };
            out.push_str(before);
            match given.iter().find(|it| it.0 == name.trim()) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("{{{{{name}}}}}")),
            }
            rest = after;
        }
        out + rest
    }
}

/// Text of others between two lines that they could not know.
pub(super) struct Fence(pub(super) u64);

impl Fence {
    /// Control characters and those that hide text are gone from it.
    pub(super) fn around(&self, title: &str, notice: &str, text: &str) -> String {
        crate::view::untrusted::fenced_after(title, notice, self.0, &text::sanitize(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_the_registered_ones_and_are_filled_in_once() {
        for prompt in PROMPTS {
            let given: Vec<(&str, &str)> =
                prompt.arguments.iter().map(|it| (*it, "{{request}}")).collect();
            let bare = prompt.render(&given.iter().map(|it| (it.0, "")).collect::<Vec<_>>());
            assert!(!bare.contains("{{"), "{}: a blank is left", prompt.name);
            for argument in prompt.arguments {
                assert!(
                    prompt.body().contains(&format!("{{{{{argument}}}}}")),
                    "{}: `{argument}` is not in the text",
                    prompt.name
                );
            }
            let n_filled = prompt.render(&given).matches("{{request}}").count();
            assert_eq!(n_filled, prompt.body().matches("{{").count(), "{}", prompt.name);
        }
    }
}

//! Which tools somebody may use: patterns over canonical names (`server.tool`), beside the permissions and never more than
//! those. Own operations are tools of the server `orch`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::name::ToolPattern;

/// The server that our own operations are tools of.
pub const BUILT_IN: &str = "orch";

/// Own operations that lead to other tools. What they reach is checked tool by tool, so that `deny: [orch.*]` leaves the
/// tools of other servers within reach; a pattern that is just their name denies them.
const WAYS: [&str; 5] = ["list_servers", "list_tools", "search_tools", "call_tool", "get_result"];

/// Own operations that make other credentials, and with those could undo any limit.
const MAKES_CREDENTIALS: [&str; 3] = ["create_api_key", "create_user", "update_user"];

/// As given for one key, user or token. Nothing given is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolPatterns {
    /// Only what one of these stands for, such as `github.*` or `orch.list_*`; everything when it is left out.
    #[serde(deserialize_with = "some", skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<ToolPattern>,
    /// Never what one of these stands for, whatever `allow` says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<ToolPattern>,
}

/// An empty list could be read as "nothing" and as "no limit", and a limit must not be a matter of reading.
fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ToolPattern>, D::Error> {
    let patterns = Vec::deserialize(from)?;
    if patterns.is_empty() {
        let message = "`allow` is empty; leave it out to allow all, or `deny` what is not wanted";
        return Err(serde::de::Error::custom(message));
    }
    Ok(patterns)
}

impl ToolPatterns {
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    fn permits(&self, server: &str, tool: &str) -> bool {
        let is_in = |patterns: &[ToolPattern]| patterns.iter().any(|it| covers(it, server, tool));
        (self.allow.is_empty() || is_in(&self.allow)) && !is_in(&self.deny)
    }

    fn shows_server(&self, server: &str) -> bool {
        let is_wholly_denied = self.deny.iter().any(|it| {
            let (of_server, of_tool) = halves(it);
            of_tool == "*" && fits(of_server, server)
        });
        let is_allowed =
            self.allow.is_empty() || self.allow.iter().any(|it| fits(halves(it).0, server));
        is_allowed && !is_wholly_denied
    }
}

/// What a caller may use: what all of its patterns permit, those of its user and those of its credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ToolAccess(Vec<ToolPatterns>);

impl ToolAccess {
    /// Narrowed by more patterns; never widened.
    pub fn and(mut self, patterns: &ToolPatterns) -> ToolAccess {
        if !patterns.is_empty() && !self.0.contains(patterns) {
            self.0.push(patterns.clone());
        }
        self
    }

    /// What it is made of, to be kept; `and` makes it anew.
    pub fn patterns(&self) -> &[ToolPatterns] {
        &self.0
    }

    pub fn is_limited(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether the tool is there for this caller at all.
    pub fn permits(&self, server: &str, tool: &str) -> bool {
        self.0.iter().all(|it| it.permits(server, tool))
    }

    /// Whether anything of the server is there: its resources and prompts are then.
    pub fn shows_server(&self, server: &str) -> bool {
        self.0.iter().all(|it| it.shows_server(server))
    }

    /// Whether an own operation may be called. Wider than `permits` for what only leads to other tools, and narrower for
    /// what makes credentials: a limited caller needs it named in so many words.
    pub fn permits_operation(&self, operation: &str) -> bool {
        if !self.is_limited() {
            return true;
        }
        let is_named = |patterns: &[ToolPattern]| {
            patterns.iter().any(|it| halves(it) == (BUILT_IN, operation))
        };
        if WAYS.contains(&operation) {
            return !self.0.iter().any(|it| is_named(&it.deny));
        }
        let is_safe = !MAKES_CREDENTIALS.contains(&operation);
        self.permits(BUILT_IN, operation)
            && (is_safe || self.0.iter().all(|it| is_named(&it.allow)))
    }
}

fn halves(pattern: &ToolPattern) -> (&str, &str) {
    // `*` alone is every tool of every server.
    pattern.as_str().split_once('.').unwrap_or(("*", "*"))
}

fn covers(pattern: &ToolPattern, server: &str, tool: &str) -> bool {
    let (of_server, of_tool) = halves(pattern);
    fits(of_server, server) && fits(of_tool, tool)
}

/// Whether `text` is `pattern` with some text, perhaps none, in place of each `*`.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|it| text.strip_prefix(it)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The earliest place leaves the most for the parts after it.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns(allow: &[&str], deny: &[&str]) -> ToolPatterns {
        let all =
            |given: &[&str]| given.iter().map(|it| ToolPattern::try_new(it).unwrap()).collect();
        ToolPatterns { allow: all(allow), deny: all(deny) }
    }

    fn access(allow: &[&str], deny: &[&str]) -> ToolAccess {
        ToolAccess::default().and(&patterns(allow, deny))
    }

    #[test]
    fn nothing_given_is_everything() {
        let it = ToolAccess::default();
        assert!(it.permits("any", "tool") && it.shows_server("any") && !it.is_limited());
        assert!(it.permits_operation("create_user"));
        assert_eq!(it.clone().and(&ToolPatterns::default()), it);
    }

    #[test]
    fn deny_wins_over_allow() {
        let it = access(&["github.*", "files.read_*"], &["github.delete_*", "*.*secret*"]);
        assert!(it.permits("github", "get_issue") && it.permits("files", "read_file"));
        assert!(!it.permits("github", "delete_repo"), "denied");
        assert!(!it.permits("files", "write_file") && !it.permits("other", "x"), "not allowed");
        assert!(!it.permits("files", "read_secrets"), "denied for every server");
        assert!(!it.permits("github2", "get_issue"), "a whole name, not its beginning");
    }

    #[test]
    fn dots_of_a_tool_belong_to_the_tool() {
        let it = access(&["a*.x"], &[]);
        assert!(it.permits("ab", "x"));
        assert!(!it.permits("ab", "c.x"), "no star crosses from the server into the tool");
        assert!(access(&["a.*"], &[]).permits("a", "b.c"));
        assert!(access(&["a.b.*"], &[]).permits("a", "b.c"));
    }

    #[test]
    fn a_server_is_there_unless_it_is_wholly_denied() {
        let it = access(&[], &["github.*", "files.write"]);
        assert!(!it.shows_server("github") && it.shows_server("files") && it.shows_server("x"));
        let it = access(&["github.get_issue"], &[]);
        assert!(it.shows_server("github") && !it.shows_server("files"));
        assert!(!access(&[], &["*"]).shows_server("github"));
    }

    #[test]
    fn all_patterns_have_to_permit() {
        let it = access(&["a.*"], &[]).and(&patterns(&["*.x"], &[]));
        assert!(it.permits("a", "x") && !it.permits("a", "y") && !it.permits("b", "x"));
    }

    #[test]
    fn ways_to_tools_stay_open_and_ways_out_are_shut() {
        let it = access(&[], &["orch.*"]);
        assert!(it.permits_operation("call_tool") && it.permits_operation("list_tools"));
        assert!(!it.permits_operation("launch_instance"));
        assert!(!access(&[], &["orch.call_tool"]).permits_operation("call_tool"));
        let it = access(&["orch.*"], &[]);
        assert!(it.permits_operation("launch_instance") && it.permits_operation("list_api_keys"));
        assert!(
            !it.permits_operation("create_api_key"),
            "it could make itself a key without limits"
        );
        assert!(access(&["orch.create_api_key"], &[]).permits_operation("create_api_key"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in
            ["", "github", ".x", "github.", "git hub.x", "a.b\n", &format!("{}.x", "a".repeat(41))]
        {
            assert!(ToolPattern::try_new(bad).is_err(), "{bad:?}");
        }
        let read = |text: &str| serde_json::from_str::<ToolPatterns>(text);
        assert!(read(r#"{"allow": []}"#).unwrap_err().to_string().contains("`allow` is empty"));
        assert!(read(r#"{"alow": ["*"]}"#).is_err());
        assert!(read("{}").unwrap().is_empty());
        let it = patterns(&["a.*"], &["*"]);
        assert_eq!(read(&serde_json::to_string(&it).unwrap()).unwrap(), it);
    }

    /// The plain definition, exponential and obvious.
    fn fits_plainly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((b'*', after)), None) => fits_plainly(after, text),
            (Some((b'*', after)), Some((_, rest))) => {
                fits_plainly(after, text) || fits_plainly(pattern, rest)
            }
            (Some((a, after)), Some((b, rest))) => a == b && fits_plainly(after, rest),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn stars_stand_for_any_text(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(fits(&pattern, &text), fits_plainly(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn more_patterns_never_permit_more(
            allow in proptest::collection::vec("[ab*]{1,3}\\.[ab*]{1,3}", 0..3),
            deny in proptest::collection::vec("[ab*]{1,3}\\.[ab*]{1,3}", 0..3),
            more in "[ab*]{1,3}\\.[ab*]{1,3}", server in "[ab]{1,3}", tool in "[ab.]{1,4}",
        ) {
            let all = |given: &[String]| given.iter().map(|it| ToolPattern::try_new(it).unwrap()).collect();
            let given = ToolPatterns { allow: all(&allow), deny: all(&deny) };
            let first = ToolAccess::default().and(&given);
            let mut stricter = given.clone();
            stricter.deny.push(ToolPattern::try_new(&more).unwrap());
            prop_assert!(!ToolAccess::default().and(&stricter).permits(&server, &tool) || first.permits(&server, &tool));
            let narrowed = first.clone().and(&ToolPatterns { allow: all(&[more]), deny: Vec::new() });
            prop_assert!(!narrowed.permits(&server, &tool) || first.permits(&server, &tool));
            // A permitted tool is of a server that is shown.
            prop_assert!(!first.permits(&server, &tool) || first.shows_server(&server));
        }
    }
}

//! Takes secrets out of what is kept for people to read: by the names of keys, by values known to be secret, and by what
//! looks like a secret. What remains is cut to a size.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use crate::secret::Secret;
use crate::text;

const MASK: &str = "***";
/// Bytes of one text that are kept.
const MAX_TEXT: usize = 500;
/// Bytes that all of it may have, about.
const MAX_ALL: usize = 2048;
const MAX_DEPTH: usize = 16;
/// How far behind the end of what is kept a secret may reach that begins in it.
const LOOK_AHEAD: usize = 4096;
/// Shorter values are words such as `true`, which would be masked wherever they occur.
const SHORTEST: usize = 6;

/// Values that must not be shown, wherever they occur.
#[derive(Clone, Default)]
pub struct SecretValues(Vec<String>);

impl std::fmt::Debug for SecretValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secret values", self.0.len())
    }
}

impl SecretValues {
    /// Also each value without a scheme before it, as in `Bearer x`. Values shorter than 6 bytes are left out.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a Secret<String>>) -> SecretValues {
        let mut all: Vec<String> = values
            .into_iter()
            .map(|it| it.expose().trim())
            .flat_map(|it| [Some(it), it.split_once(' ').map(|(_, rest)| rest.trim())])
            .flatten()
            .filter(|it| SHORTEST <= it.len())
            .map(str::to_owned)
            .collect();
        // One that is part of another must not leave the rest of that in sight.
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        SecretValues(all)
    }

    fn longest(&self) -> usize {
        self.0.first().map_or(0, String::len)
    }
}

/// `value` as it may be shown.
pub fn redacted(value: &Value, secrets: &[&SecretValues]) -> Value {
    Walk { secrets, left: MAX_ALL }.value(value, MAX_DEPTH)
}

/// Whether what a key names is secret, however it is written.
pub fn is_secret_name(name: &str) -> bool {
    const PARTS: [&str; 14] = [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "apikey",
        "authorization",
        "credential",
        "privatekey",
        "accesskey",
        "signingkey",
        "cookie",
        "bearer",
    ];
    // Tokens of a model and of a page are none.
    const HARMLESS: [&str; 5] =
        ["maxtokens", "pagetoken", "nextpagetoken", "clienttoken", "progresstoken"];
    let plain: String =
        name.chars().filter(|it| it.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    !HARMLESS.contains(&plain.as_str()) && PARTS.iter().any(|it| plain.contains(it))
}

/// Under these, every value is taken for a secret and only the names are kept.
fn holds_secrets(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "env" | "environment" | "headers" | "cookies")
}

struct Walk<'a> {
    secrets: &'a [&'a SecretValues],
    left: usize,
}

impl Walk<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Value {
        match value {
            Value::String(it) => Value::String(self.text(it)),
            Value::Array(_) | Value::Object(_) if depth == 0 => "…".into(),
            Value::Array(items) => self.array(items, depth),
            Value::Object(members) => self.object(members, depth),
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                // A number may be a PIN that is configured as a secret.
                let text = value.to_string();
                self.left = self.left.saturating_sub(text.len());
                if self.masked(&text) == text { value.clone() } else { MASK.into() }
            }
        }
    }

    fn array(&mut self, items: &[Value], depth: usize) -> Value {
        let mut out = Vec::new();
        let mut is_after_flag = false;
        for item in items {
            if self.left == 0 {
                out.push(format!("… {} more", items.len() - out.len()).into());
                break;
            }
            let text = item.as_str();
            out.push(match text {
                Some(_) if is_after_flag => MASK.into(),
                _ => self.value(item, depth - 1),
            });
            // As in `["--token", "…"]`.
            is_after_flag = text
                .is_some_and(|it| it.starts_with('-') && !it.contains('=') && is_secret_name(it));
        }
        Value::Array(out)
    }

    fn object(&mut self, members: &Map<String, Value>, depth: usize) -> Value {
        let mut out = Map::new();
        for (i, (name, value)) in members.iter().enumerate() {
            if self.left == 0 {
                out.insert("…".to_owned(), format!("{} more", members.len() - i).into());
                break;
            }
            let shown = if is_secret_name(name) && !value.is_null() {
                MASK.into()
            } else if holds_secrets(name) {
                self.names_only(value)
            } else {
                self.value(value, depth - 1)
            };
            let name = self.text(name);
            out.insert(name, shown);
        }
        Value::Object(out)
    }

    /// `{"A": "x"}`, `["A=x"]` or `[{"name": "A", "value": "x"}]` without the values.
    fn names_only(&mut self, value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let names = members.keys().map(|it| (self.text(it), MASK.into()));
                Value::Object(names.collect())
            }
            Value::Array(items) => {
                let shown = items.iter().map(|it| match it {
                    Value::String(it) => match it.split_once('=') {
                        Some((name, _)) => format!("{}={MASK}", self.text(name)).into(),
                        None => MASK.into(),
                    },
                    _ => MASK.into(),
                });
                Value::Array(shown.collect())
            }
            Value::Null => Value::Null,
            _ => MASK.into(),
        }
    }

    fn text(&mut self, text: &str) -> String {
        let kept = MAX_TEXT.min(self.left);
        let longest = self.secrets.iter().map(|it| it.longest()).max().unwrap_or(0);
        // Secrets are found before the cut, so that none is left in half.
        let window = &text[..text.floor_char_boundary(kept + longest.max(LOOK_AHEAD))];
        let mut shown = self.masked(window);
        if kept < shown.len() || window.len() < text.len() {
            shown.truncate(shown.floor_char_boundary(kept));
            shown.push_str(&format!("… ({} bytes)", text.len()));
        }
        self.left = self.left.saturating_sub(shown.len());
        text::sanitize(&shown)
    }

    fn masked(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for secret in self.secrets.iter().flat_map(|it| &it.0) {
            if out.contains(secret.as_str()) {
                out = out.replace(secret.as_str(), MASK);
            }
        }
        // Most texts look like nothing, and every call of a tool comes by here.
        if !ANY_LOOKS.is_match(&out) {
            return out;
        }
        for (looks, keeps) in LOOKS.iter() {
            let masked = looks.replace_all(&out, |found: &Captures<'_>| {
                let before = if *keeps { found.get(1).map_or("", |it| it.as_str()) } else { "" };
                format!("{before}{MASK}")
            });
            if let std::borrow::Cow::Owned(masked) = masked {
                out = masked;
            }
        }
        out
    }
}

/// What looks like a secret, and whether its first group stays in sight.
static LOOKS: LazyLock<Vec<(Regex, bool)>> = LazyLock::new(|| {
    let names = r"(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|authorization|credential)";
    let looks = [
        (r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)".to_owned(), false),
        // `Authorization: Bearer x`, and `Basic` likewise.
        (r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}".to_owned(), true),
        // JWTs.
        (r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?".to_owned(), false),
        // API keys of our own.
        (r"\bmo-[0-9a-f]{12}-[0-9a-f]{8,}".to_owned(), false),
        // Tokens of well-known services, which say what they are.
        (r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|sk-[\w-]{16,}|xox[a-z]-[\w-]{10,}|AKIA[0-9A-Z]{16}|glpat-[\w-]{16,}|npm_[A-Za-z0-9]{20,}|AIza[\w-]{30,})".to_owned(), false),
        // `user:password@` in a URL.
        (r"(://[^\s/:@]*:)[^\s/@]+@".to_owned(), true),
        // `API_TOKEN=x`, `"password": "x"`, `--token x`.
        (format!(r#"(?i)([\w.-]*{names}\w*["']?\s*[=:]\s*["']?)[^\s"'&;,]{{3,}}"#), true),
        (format!(r"(?i)(\B--?[a-z-]*{names}[a-z-]*\s+)[^\s-]\S+"), true),
    ];
    let compile = |(pattern, keeps): (String, bool)| {
        (Regex::new(&pattern).expect("the constant is a regular expression"), keeps)
    };
    looks.into_iter().map(compile).collect()
});

/// A part of whatever one of `LOOKS` finds; one automaton over bytes, where those need several.
static ANY_LOOKS: LazyLock<Regex> = LazyLock::new(|| {
    let parts = r"(?i-u)password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|authorization|credential|bearer|basic|-----BEGIN|eyJ|mo-|gh[pousr]_|github_pat_|sk-|xox|AKIA|glpat-|npm_|AIza|://";
    Regex::new(parts).expect("the constant is a regular expression")
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(value: Value) -> Value {
        let secrets =
            [Secret::new("Bearer hunter2-canary".to_owned()), Secret::new("on".to_owned())];
        redacted(&value, &[&SecretValues::new(&secrets)])
    }

    #[test]
    fn names_of_secrets_hide_whatever_they_name() {
        let shown = of(json!({
            "Password": "a", "new_password": 5, "apiKey": {"a": ["b"]}, "X-Api-Key": "c", "AUTHORIZATION": "d",
            "nested": [{"client_secret": "e"}], "token": null, "name": "web", "max_tokens": 5, "page_token": "p"
        }));
        assert_eq!(
            shown,
            json!({
                "Password": "***", "new_password": "***", "apiKey": "***", "X-Api-Key": "***", "AUTHORIZATION": "***",
                "nested": [{"client_secret": "***"}], "token": null, "name": "web", "max_tokens": 5, "page_token": "p"
            })
        );
    }

    #[test]
    fn environments_and_headers_keep_their_names_alone() {
        let shown = of(json!({
            "env": {"MODE": "x"}, "headers": ["A=b", "c"], "environment": "x", "spec": {"ENV": {"A": 1}}
        }));
        assert_eq!(
            shown,
            json!({
                "env": {"MODE": "***"}, "headers": ["A=***", "***"], "environment": "***", "spec": {"ENV": {"A": "***"}}
            })
        );
    }

    #[test]
    fn known_values_are_hidden_wherever_they_are() {
        let shown = of(
            json!({"text": "say hunter2-canary twice: hunter2-canary", "hunter2-canary": 1, "mode": "on"}),
        );
        assert_eq!(shown, json!({"text": "say *** twice: ***", "***": 1, "mode": "on"}));
        let pin = [Secret::new("123456".to_owned())];
        assert_eq!(
            redacted(&json!({"n": 123456}), &[&SecretValues::new(&pin)]),
            json!({"n": "***"})
        );
    }

    #[test]
    fn what_looks_like_a_secret_is_one() {
        for (text, shown) in [
            ("curl -H 'Authorization: Bearer abc.def-123'", "curl -H 'Authorization: ***"),
            ("Basic dXNlcjpwYXNz", "Basic ***"),
            ("a eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln b", "a *** b"),
            ("key mo-0123456789ab-00112233445566778899aabb", "key ***"),
            ("ghp_0123456789abcdefghij", "***"),
            ("https://ann:pa55@example.org/x", "https://ann:***example.org/x"),
            ("DB_PASSWORD=abc run", "DB_PASSWORD=*** run"),
            (r#"{"api_key": "abcdef"}"#, r#"{"api_key": "***"}"#),
            ("login --token abcdef --verbose", "login --token *** --verbose"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nrest",
                "***\nrest",
            ),
            ("-----BEGIN PRIVATE KEY-----\nabc", "***"),
            (
                "plain words about a password and a token",
                "plain words about a password and a token",
            ),
        ] {
            let got = of(json!(text));
            assert!(got.as_str().unwrap().starts_with(shown), "{text}: {got}");
            let looks_alike = LOOKS.iter().any(|(it, _)| it.is_match(text));
            assert!(!looks_alike || ANY_LOOKS.is_match(text), "{text}");
        }
        assert_eq!(
            of(json!(["run", "--token", "abc", "x"])),
            json!(["run", "--token", "***", "x"])
        );
    }

    #[test]
    fn much_is_cut_short() {
        let shown = of(json!({"text": "x".repeat(100_000), "list": vec!["y".repeat(400); 1000]}));
        assert!(shown.to_string().len() < 6000, "{}", shown.to_string().len());
        assert!(shown["text"].as_str().unwrap().ends_with("… (100000 bytes)"));
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        assert!(of(deep).to_string().contains('…'));
    }

    proptest! {
        #[test]
        fn no_cut_leaves_a_part_of_a_secret(before in 0usize..600, n in 1usize..4) {
            let text = format!("{}{}", "x".repeat(before), "hunter2-canary".repeat(n));
            let shown = of(json!({"a": [text]})).to_string();
            prop_assert!(!shown.contains("hunt"), "{}", shown);
        }

        #[test]
        fn anything_is_walked(text in "\\PC{0,80}", key in "\\PC{0,20}") {
            of(json!({key: [text]}));
        }
    }
}

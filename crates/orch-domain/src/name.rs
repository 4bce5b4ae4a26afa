//! Identifiers and names: what characters they have and how long they are. Checked once, at the edge.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A string with a rule. The rule's sentence is what a caller reads when it is broken.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $pattern:literal, $rule:literal, $check:expr $(, but $reserved:tt)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Box<str>);

        impl $name {
            pub const RULE: &'static str = $rule;

            pub fn try_new(text: impl AsRef<str>) -> Result<$name, BrokenRule> {
                let text = text.as_ref();
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok($name(text.into())) } else { Err(BrokenRule::new(text, $rule)) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BrokenRule;
            fn try_from(text: String) -> Result<$name, BrokenRule> {
                $name::try_new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BrokenRule;
            fn from_str(text: &str) -> Result<$name, BrokenRule> {
                $name::try_new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": $pattern
                    $(, "not": {"enum": $reserved})?
                })
            }
        }
    };
}

/// What was given, cut short and free of control characters, and the rule it breaks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{given}` is not {rule}")]
pub struct BrokenRule {
    pub given: String,
    pub rule: String,
}

impl BrokenRule {
    pub fn new(given: &str, rule: &str) -> BrokenRule {
        BrokenRule { given: crate::text::excerpt(given, 60), rule: rule.to_owned() }
    }
}

fn is_word(text: &str, max: usize, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= max
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|it| it.is_ascii_alphanumeric() || inner(*it))
}

fn is_hex_id(text: &str, prefix: &str, digits: usize) -> bool {
    text.strip_prefix(prefix).is_some_and(|it| {
        it.len() == digits && it.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

named!(
    /// `i-` and 17 hexadecimal digits: 11 of the creation time in milliseconds, 6 random. Ids sort by age.
    InstanceId,
    "^i-[0-9a-f]{17}$",
    "an instance id (`i-` and 17 hexadecimal digits)",
    |it| is_hex_id(it, "i-", 17)
);

named!(
    /// What people call an instance. Not unique.
    InstanceName,
    "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
    "a name of 1 to 63 letters, digits, `-`, `_` or `.`, starting with a letter or digit",
    |it| is_word(it, 63, |b| matches!(b, b'-' | b'_' | b'.'))
);

named!(
    NodeId,
    "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
    "a node id of 1 to 63 letters, digits, `-`, `_` or `.`, starting with a letter or digit",
    |it| is_word(it, 63, |b| matches!(b, b'-' | b'_' | b'.'))
);

named!(
    /// Stable identity of a user, as audit and ownership keep it.
    UserId,
    "^[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}$",
    "a user id of 1 to 63 letters, digits, `-`, `_`, `.` or `@`, starting with a letter or digit",
    |it| is_word(it, 63, |b| matches!(b, b'-' | b'_' | b'.' | b'@'))
);

named!(
    /// What a user logs in with; unique.
    UserName,
    "^[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}$",
    "a user name of 1 to 63 letters, digits, `-`, `_`, `.` or `@`, starting with a letter or digit",
    |it| is_word(it, 63, |b| matches!(b, b'-' | b'_' | b'.' | b'@'))
);

named!(
    /// `k-` and 12 hexadecimal digits; the public half of an API key.
    ApiKeyId,
    "^k-[0-9a-f]{12}$",
    "an API key id (`k-` and 12 hexadecimal digits)",
    |it| is_hex_id(it, "k-", 12)
);

named!(
    /// Names one launch, so that repeating it does not launch twice. Chosen by the caller.
    ClientToken,
    "^[!-~]{1,64}$",
    "a client token of 1 to 64 printable ASCII characters without spaces",
    |it| !it.is_empty() && it.len() <= 64 && it.bytes().all(|b| b.is_ascii_graphic())
);

named!(
    /// `b-` and 17 hexadecimal digits: 11 of the creation time in milliseconds, 6 random. Ids sort by age.
    BatchId,
    "^b-[0-9a-f]{17}$",
    "a batch's task id (`b-` and 17 hexadecimal digits)",
    |it| is_hex_id(it, "b-", 17)
);

named!(
    /// What a step of a plan is called in references. Not `item` and not `index`, which stand for an element of `for_each`.
    StepId,
    // Look-aheads are unknown to many that read schemas.
    "^[A-Za-z_][A-Za-z0-9_-]{0,63}$",
    "a step id of 1 to 64 letters, digits, `_` or `-`, starting with a letter or `_`, and neither `item` nor `index`",
    |it| {
        !it.starts_with(|c: char| c.is_ascii_digit() || c == '-')
            && !matches!(it, "" | "item" | "index")
            && it.len() <= 64
            && it.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    },
    but ["item", "index"]
);

named!(
    /// A submission id of Ray, as its Jobs API takes it in a path.
    RayJobId,
    "^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$",
    "a Ray job id of 1 to 128 letters, digits, `-`, `_` or `.`, starting with a letter or digit",
    |it| is_word(it, 128, |b| matches!(b, b'-' | b'_' | b'.'))
);

named!(
    /// Groups nodes for placement, such as `gpu` or `production`.
    Tag,
    "^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,62}$",
    "a tag of 1 to 63 letters, digits, `-`, `_`, `.`, `:` or `/`, starting with a letter or digit",
    |it| is_word(it, 63, |b| matches!(b, b'-' | b'_' | b'.' | b':' | b'/'))
);

named!(
    /// Stands for tools by their canonical names: `*` for any text, within the server's name or within the tool's.
    ToolPattern,
    "^(\\*|[A-Za-z0-9_*-]{1,40}\\.[^\\x00-\\x1f]{1,200})$",
    "a pattern over `server.tool`, such as `*`, `github.*` or `github.get_*`; own operations are of the server `orch`",
    |it| it == "*" || it.split_once('.').is_some_and(|(server, tool)| {
        (1..=40).contains(&server.len())
            && server.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*'))
            && (1..=200).contains(&tool.len())
            && !tool.chars().any(char::is_control)
    })
);

impl InstanceId {
    /// The name of the container: it fences against a second create.
    pub fn container_name(&self) -> String {
        format!("mo-{self}")
    }

    /// Makes the id of an instance created at `now`; 24 random bits part those of one millisecond.
    pub fn new(now: crate::time::Timestamp, random: u32) -> InstanceId {
        let millis = now.as_millis().max(0) & 0xfff_ffff_ffff;
        InstanceId(format!("i-{millis:011x}{:06x}", random & 0xff_ffff).into())
    }
}

impl BatchId {
    /// Made as an instance's id is.
    pub fn new(now: crate::time::Timestamp, random: u32) -> BatchId {
        let millis = now.as_millis().max(0) & 0xfff_ffff_ffff;
        BatchId(format!("b-{millis:011x}{:06x}", random & 0xff_ffff).into())
    }
}

impl UserId {
    /// How ids begin that stand for somebody whom another issuer vouches for, and of whom nothing is stored.
    pub const EXTERNAL: &str = "oauth-";

    pub fn is_external(&self) -> bool {
        self.0.starts_with(UserId::EXTERNAL)
    }
}

impl ApiKeyId {
    pub fn new(random: u64) -> ApiKeyId {
        ApiKeyId(format!("k-{:012x}", random & 0xffff_ffff_ffff).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_a_shell_or_a_terminal_would_misread() {
        for bad in ["", " web", "-web", "a b", "a\u{1b}[31m", "a/b", "ä", &"x".repeat(64)] {
            assert!(InstanceName::try_new(bad).is_err(), "{bad:?}");
        }
        assert!(InstanceName::try_new("web-1.prod_2").is_ok());
    }

    #[test]
    fn a_broken_rule_does_not_repeat_control_characters() {
        let err = InstanceName::try_new("a\u{1b}[31mb\n").unwrap_err();
        assert!(!err.to_string().chars().any(char::is_control), "{err:?}");
    }

    #[test]
    fn instance_ids_sort_by_age() {
        let at = |ms| InstanceId::new(crate::time::Timestamp::from_millis(ms), 0xff_ffff);
        assert!(at(1_763_627_400_000) < at(1_763_627_400_001));
        assert!(InstanceId::try_new(at(1).as_str()).is_ok());
    }
}

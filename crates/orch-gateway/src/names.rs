//! Names of tools and prompts at the edge: unique, and in characters that every client takes.
//!
//! Canonical is `server.tool`. Several clients reject a whole list over one dot or one long name, so the edge says
//! `server__tool`, at most 64 characters of `[A-Za-z0-9_-]`; a name that had to be bent for that ends in a hash of what it
//! stands for, so that two never become one.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub const MAX_EDGE_NAME: usize = 64;
const SEPARATOR: &str = "__";
/// Hexadecimal digits of the hash. 64 bits: a server that chooses its names to be taken for another's finds none.
const N_HASH: usize = 16;

/// How names are written at one endpoint.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// `server__tool`.
    #[default]
    Underscores,
    /// `server.tool`, as REST, batches and policies say.
    Dot,
}

impl Dialect {
    /// As it is written in addresses, flags and the configuration.
    pub fn parse(text: &str) -> Option<Dialect> {
        match text {
            "underscores" => Some(Dialect::Underscores),
            "dot" => Some(Dialect::Dot),
            _ => None,
        }
    }

    pub fn name(self, server: &str, tool: &str) -> String {
        match self {
            Dialect::Underscores => edge_name(server, tool),
            Dialect::Dot => canonical(server, tool),
        }
    }
}

pub fn canonical(server: &str, tool: &str) -> String {
    format!("{server}.{tool}")
}

/// Servers have no dot in their names, so the first one parts the two.
pub fn parse_canonical(name: &str) -> Option<(&str, &str)> {
    name.split_once('.').filter(|(server, tool)| !server.is_empty() && !tool.is_empty())
}

pub fn edge_name(server: &str, tool: &str) -> String {
    let plain = format!("{server}{SEPARATOR}{tool}");
    let is_allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-');
    // Where the first separator would not part it into the two it came from, another pair could give the same name.
    let is_unambiguous = plain.split_once(SEPARATOR) == Some((server, tool));
    let is_plain = plain.len() <= MAX_EDGE_NAME && plain.chars().all(is_allowed);
    // What looks like a bent name might be that of another pair.
    if is_plain && is_unambiguous && !ends_as_bent(&plain) {
        return plain;
    }
    let mut name: String = plain.chars().map(|it| if is_allowed(it) { it } else { '_' }).collect();
    name.truncate(MAX_EDGE_NAME - N_HASH - 1);
    name.push('_');
    let digest = Sha256::digest(format!("{server}\0{tool}"));
    for byte in &digest[..N_HASH / 2] {
        write!(name, "{byte:02x}").expect("text can be written to");
    }
    name
}

fn ends_as_bent(name: &str) -> bool {
    let Some((_, end)) = name.rsplit_once('_') else { return false };
    end.len() == N_HASH && end.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name of our own operation or prompt, which may be said as that of the server `orch`.
pub fn own_name(name: &str) -> &str {
    let rest = name.strip_prefix("orch.").or_else(|| name.strip_prefix("orch__"));
    rest.unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn most_names_are_plain() {
        assert_eq!(edge_name("github", "create_issue"), "github__create_issue");
        assert_eq!(Dialect::Dot.name("github", "a.b"), "github.a.b");
        assert_eq!(parse_canonical("github.a.b"), Some(("github", "a.b")));
        assert_eq!(parse_canonical("github"), None);
    }

    #[test]
    fn pairs_that_would_read_the_same_do_not() {
        let pairs =
            [("a", "b__c"), ("a__b", "c"), ("a_", "b"), ("a", "_b"), ("a", "b.c"), ("a", "b_c")];
        let names: HashMap<String, _> =
            pairs.iter().map(|(server, tool)| (edge_name(server, tool), (server, tool))).collect();
        assert_eq!(names.len(), pairs.len(), "{names:?}");
    }

    #[test]
    fn a_name_made_to_be_taken_for_another_is_not() {
        let wanted = edge_name("a__b", "c");
        let forged = wanted.strip_prefix("a__").unwrap();
        assert_ne!(edge_name("a", forged), wanted);
        let wanted = edge_name("a", "x.");
        assert_ne!(edge_name("a", wanted.strip_prefix("a__").unwrap()), wanted);
        // What folds to the same stays apart.
        assert_ne!(edge_name("a", "é"), edge_name("a", "è"));
        assert_ne!(edge_name("a", "b.c"), edge_name("a", "b/c"));
    }

    proptest! {
        #[test]
        fn names_near_each_other_stay_apart(
            a in "[ab_]{1,4}", b in "[ab_.é]{1,6}", c in "[ab_]{1,4}", d in "[ab_.é]{1,6}"
        ) {
            let (first, second) = (edge_name(&a, &b), edge_name(&c, &d));
            prop_assert_eq!(first == second, (&a, &b) == (&c, &d));
            // Nor is what was made of a name, taken for a name, the same again.
            if let Some(forged) = first.strip_prefix(&format!("{c}__"))
                && (c.as_str(), forged) != (a.as_str(), b.as_str())
            {
                prop_assert_ne!(edge_name(&c, forged), first);
            }
        }


        #[test]
        fn every_name_fits_and_stands_for_one_tool(
            a in "[a-zA-Z0-9_-]{1,40}", b in "\\PC{1,150}", c in "[a-zA-Z0-9_-]{1,40}", d in "\\PC{1,150}"
        ) {
            let (first, second) = (edge_name(&a, &b), edge_name(&c, &d));
            for name in [&first, &second] {
                prop_assert!(name.len() <= MAX_EDGE_NAME);
                prop_assert!(name.chars().all(|it| it.is_ascii_alphanumeric() || "_-".contains(it)));
            }
            prop_assert_eq!(first == second, (a, b) == (c, d));
        }
    }
}

//! Names of tools and prompts at the edge: unique, and in characters that every client takes.
//!
//! Canonical is `server.tool`. Several clients reject a whole list over one dot or one long name, so the edge says
//! `server__tool`, at most 64 characters of `[A-Za-z0-9_-]`; a name that had to be bent for that ends in a hash of what it
//! stands for, so that two never become one.

use std::fmt::Write;

use sha2::{Digest, Sha256};

pub const MAX_EDGE_NAME: usize = 64;
const SEPARATOR: &str = "__";
/// Hexadecimal digits of the hash: 40 bits for a few thousand names.
const N_HASH: usize = 10;

/// How names are written at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `server__tool`.
    #[default]
    Underscores,
    /// `server.tool`, as REST, batches and policies say.
    Dot,
}

impl Dialect {
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
    if plain.len() <= MAX_EDGE_NAME && plain.chars().all(is_allowed) && is_unambiguous {
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

    proptest! {
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

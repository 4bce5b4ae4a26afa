//! Labels: a small map of strings that users put on instances and nodes, and filters over it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::BrokenRule;

pub const MAX_LABELS: usize = 64;
pub const MAX_KEY: usize = 63;
pub const MAX_VALUE: usize = 255;
/// Ours on the container; users may not set them.
pub const RESERVED_PREFIX: &str = "mcp-orch.";

const RULE: &str = "a map of at most 64 labels, each with a key of 1 to 63 letters, digits, `-`, `_`, `.` or `/` \
                    that does not start with `mcp-orch.`, and a value of at most 255 printable characters";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    pub fn try_new(map: BTreeMap<String, String>) -> Result<Labels, BrokenRule> {
        if MAX_LABELS < map.len() {
            return Err(BrokenRule::new(&format!("{} labels", map.len()), RULE));
        }
        for (key, value) in &map {
            let key_is_good = !key.is_empty()
                && key.len() <= MAX_KEY
                && !key.starts_with(RESERVED_PREFIX)
                && key
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
            if !key_is_good {
                return Err(BrokenRule::new(key, RULE));
            }
            if MAX_VALUE < value.len() || value.chars().any(char::is_control) {
                return Err(BrokenRule::new(value, RULE));
            }
        }
        Ok(Labels(map))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every pair of `wanted` is here.
    pub fn contains_all(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = BrokenRule;
    fn try_from(map: BTreeMap<String, String>) -> Result<Labels, BrokenRule> {
        Labels::try_new(map)
    }
}

impl JsonSchema for Labels {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Labels".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "maxProperties": MAX_LABELS,
            "additionalProperties": {"type": "string", "maxLength": MAX_VALUE}
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Result<Labels, BrokenRule> {
        Labels::try_new(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn our_own_prefix_and_control_characters_are_refused() {
        assert!(labels(&[("mcp-orch.owner", "eve")]).is_err());
        assert!(labels(&[("team", "a\nb")]).is_err());
        assert!(labels(&[("team", "web")]).is_ok());
    }

    #[test]
    fn a_filter_matches_a_subset() {
        let it = labels(&[("team", "web"), ("tier", "1")]).unwrap();
        assert!(it.contains_all(&labels(&[("team", "web")]).unwrap()));
        assert!(!it.contains_all(&labels(&[("team", "db")]).unwrap()));
    }
}

//! Words that people and the authors of tools use for the same thing.
//!
//! Only what is common in talk about programs and files; a rare word stands for itself. A word may be in several groups.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::words::stem;

const GROUPS: [&str; 79] = [
    "create add make new insert",
    "delete remove erase destroy terminate drop forget uninstall rid",
    "get show view see display read retrieve fetch look",
    "find search lookup locate query",
    "update change edit modify alter set patch replace",
    "start launch run spin boot execute exec begin",
    "stop halt pause end kill shutdown",
    "restart reboot",
    "send post publish",
    "move rename relocate",
    "copy duplicate clone",
    "download pull fetch",
    "upload attach push",
    "check test verify validate",
    "go navigate visit open",
    "click press tap",
    "type fill enter input",
    "choose select pick",
    "approve accept",
    "cancel abort withdraw",
    "install deploy",
    "reply answer respond",
    "compress zip gzip archive",
    "folder directory dir",
    "file document",
    "picture image photo screenshot media",
    "page website site web url",
    "user account person member people colleague",
    "machine node host server computer",
    "container instance box vm",
    "repository repo project",
    "issue bug ticket",
    "pr pull",
    "log output print",
    "memory ram",
    "key token credential password secret",
    "quota limit",
    "status state health healthy",
    "metric stat usage statistic",
    "error exception failure crash",
    "database db sql table",
    "address location place",
    "documentation docs doc manual",
    "setting configuration config option",
    "phone mobile device",
    "distance far",
    "elevation altitude height high",
    "reaction emoji thumb",
    "javascript js script",
    "video recording screencast",
    "remember memory knowledge",
    "note observation memo",
    "repeat echo",
    "link relation connect",
    "watch monitor observe follow",
    "message say talk chat",
    "compare diff difference",
    "undo revert rollback reset",
    "save write store keep",
    "several multiple many",
    "audit history trail",
    "limit allow allowance",
    "schedule periodic cron",
    "email mail",
    "size big large small",
    "dialog popup alert modal",
    "window viewport",
    "dropdown combobox select option",
    "row record",
    "sum add plus total",
    "recent latest last",
    "performance speed fast slow",
    "direction route way",
    "login sign session",
    "key button",
    "library package module",
    "cluster fleet",
    "job task",
    "secret password login",
];

static BY_STEM: LazyLock<HashMap<String, Vec<String>>> = LazyLock::new(|| {
    let mut by_stem: HashMap<String, Vec<String>> = HashMap::new();
    for (i, group) in GROUPS.iter().enumerate() {
        for word in group.split(' ') {
            // No word has such a mark.
            by_stem.entry(stem(word)).or_default().push(format!("≈{i}"));
        }
    }
    by_stem
});

/// What stands for all words of a group that the stem is in.
pub(super) fn senses(stem: &str) -> &'static [String] {
    BY_STEM.get(stem).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_same_share_a_sense_and_others_have_none() {
        assert_eq!(senses(&stem("folders")), senses(&stem("directory")));
        assert_ne!(senses(&stem("folder")), senses(&stem("file")));
        assert!(senses("zebra").is_empty());
        assert_eq!(senses(&stem("pull")).len(), 2);
    }
}

//! Regular expressions of schemas, each read once.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

/// Reading one, in looks at a schema.
pub(super) const COST: usize = 500;

/// Bytes of a compiled one.
const LARGEST: usize = 256 << 10;

/// None: it is of another dialect, or too large.
#[derive(Default)]
pub(super) struct Patterns(HashMap<String, Option<Regex>>);

impl Patterns {
    pub(super) fn knows(&self, pattern: &str) -> bool {
        self.0.contains_key(pattern)
    }

    pub(super) fn read(&mut self, pattern: &str) {
        let read = RegexBuilder::new(pattern).size_limit(LARGEST).dfa_size_limit(LARGEST).build();
        self.0.insert(pattern.to_owned(), read.ok());
    }

    /// None: nobody can say. The dialects differ in what a digit or a letter is beyond ASCII.
    pub(super) fn is_match(&self, pattern: &str, text: &str) -> Option<bool> {
        let regex = self.0.get(pattern)?.as_ref()?;
        (text.is_ascii() && pattern.is_ascii()).then(|| regex.is_match(text))
    }
}

//! Arguments against a tool's input schema, as far as they are known before anything runs.
//!
//! No validator can be told "this value is not known yet", and schemas of servers behind are not to be trusted with our time:
//! a short one of nested `allOf` keeps a validator busy for years. So this reads schemas itself, with three answers (it
//! fits, it does not, nobody can say) and with a budget. It never refuses what fits; what it does not understand, or has
//! no budget left for, it does not judge. Tests hold it to a real validator.

mod given;
mod keywords;
mod kinds;
mod patterns;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use self::given::Given;
use self::patterns::Patterns;
use super::ToolFacts;
use crate::plan::reference::Place;

/// Looks at a schema, roughly, in one step of a plan and in all of it: about a second.
const MOST_OF_A_STEP: usize = 50_000;
const MOST_OF_A_PLAN: usize = 20_000_000;

/// A tool whose schema took all of that in so many steps is not looked at again. Large arguments may do it once.
const MOST_EXHAUSTED: u32 = 20;

/// Schemas and references inside one another.
const DEEPEST: usize = 48;

/// Of one step.
const MOST_FAULTS: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Fits,
    Unknown,
    Wrong,
}

use Verdict::{Fits, Unknown, Wrong};

pub(super) struct Fault {
    /// A JSON Pointer into the plan.
    pub place: String,
    pub message: String,
}

/// For all steps of one plan.
pub(super) struct Schemas {
    n_left: usize,
    patterns: Patterns,
    /// How often a tool's schema took all that a step may take.
    n_exhausted: HashMap<Arc<str>, u32>,
}

impl Default for Schemas {
    fn default() -> Schemas {
        Schemas {
            n_left: MOST_OF_A_PLAN,
            patterns: Patterns::default(),
            n_exhausted: HashMap::new(),
        }
    }
}

impl Schemas {
    /// What is wrong for certain. `place` is where `arguments` are.
    pub(super) fn faults<'a>(
        &mut self,
        tool: &ToolFacts,
        arguments: &'a Map<String, Value>,
        place: &mut Place<'a>,
    ) -> Vec<Fault> {
        if self.n_exhausted.get(&tool.name).is_some_and(|it| MOST_EXHAUSTED <= *it) {
            return Vec::new();
        }
        let root = &*tool.input_schema;
        let n_given = self.n_left.min(MOST_OF_A_STEP);
        let old = ["draft-03", "draft-04", "draft-06", "draft-07"];
        let dialect = root.get("$schema").and_then(Value::as_str).unwrap_or_default();
        let mut looking = Looking {
            n_left: n_given,
            is_exhausted: false,
            is_silent: false,
            refs_stand_alone: old.iter().any(|it| dialect.contains(it)),
            depth: 0,
            place,
            faults: Vec::new(),
            patterns: &mut self.patterns,
        };
        looking.fit(root, root, Given::Object(arguments));
        let (n_left, is_exhausted) = (looking.n_left, looking.is_exhausted);
        let faults = looking.faults;
        self.n_left -= n_given - n_left;
        if is_exhausted {
            *self.n_exhausted.entry(Arc::clone(&tool.name)).or_default() += 1;
        }
        faults
    }
}

struct Looking<'a, 'p> {
    n_left: usize,
    is_exhausted: bool,
    /// Only the verdict is wanted.
    is_silent: bool,
    /// In older dialects nothing beside a `$ref` counts.
    refs_stand_alone: bool,
    depth: usize,
    place: &'p mut Place<'a>,
    faults: Vec<Fault>,
    patterns: &'p mut Patterns,
}

impl<'a> Looking<'a, '_> {
    /// Whether there was so much left.
    fn spend(&mut self, n: usize) -> bool {
        match self.n_left.checked_sub(n) {
            Some(left) => self.n_left = left,
            None => (self.n_left, self.is_exhausted) = (0, true),
        }
        !self.is_exhausted
    }

    fn wrong(&mut self, message: impl FnOnce() -> String) -> Verdict {
        if !self.is_silent && self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault { place: self.place.to_string(), message: message() });
        }
        Wrong
    }

    fn silently<T>(&mut self, look: impl FnOnce(&mut Self) -> T) -> T {
        let was_silent = std::mem::replace(&mut self.is_silent, true);
        let result = look(self);
        self.is_silent = was_silent;
        result
    }

    /// `root` is what `#` means in `schema`.
    fn fit(&mut self, schema: &Value, root: &Value, given: Given<'a>) -> Verdict {
        let keywords = match schema {
            Value::Bool(true) => return Fits,
            Value::Bool(false) => return self.wrong(|| "nothing may be given here".to_owned()),
            Value::Object(keywords) => keywords,
            _ => return Unknown,
        };
        if keywords.is_empty() {
            return Fits;
        }
        if matches!(given, Given::Unknown)
            || DEEPEST <= self.depth
            || !self.spend(1 + keywords.len())
        {
            return Unknown;
        }
        // Part of the schema with an address of its own: `#` is itself.
        let is_resource =
            keywords.get("$id").and_then(Value::as_str).is_some_and(|it| !it.starts_with('#'));
        let root = if is_resource { schema } else { root };
        self.depth += 1;
        let verdict = match keywords.get("$ref") {
            Some(to) if self.refs_stand_alone => self.follow(to, root, given),
            _ => self.keywords(keywords, root, given),
        };
        self.depth -= 1;
        verdict
    }

    fn follow(&mut self, to: &Value, root: &Value, given: Given<'a>) -> Verdict {
        let target = to.as_str().and_then(|it| it.strip_prefix('#'));
        let Some(pointer) = target.filter(|it| it.is_empty() || it.starts_with('/')) else {
            return Unknown;
        };
        // Percent-encoded pointers are not worth the trouble.
        if pointer.contains('%') || !self.spend(1 + pointer.len() / 8) {
            return Unknown;
        }
        match root.pointer(pointer) {
            Some(schema) => self.fit(schema, root, given),
            None => Unknown,
        }
    }
}

//! Keywords of JSON Schema that ask something of any value, and those that put schemas together.

use serde_json::{Map, Value};

use super::given::Given;
use super::{Fits, Looking, Unknown, Verdict, Wrong};
use crate::plan::near;

/// They ask for nothing, or are looked at beside another.
const SILENT: [&str; 24] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "$anchor",
    "$vocabulary",
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "nullable",
    "then",
    "else",
    "additionalItems",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "id",
    "type",
];

impl<'a> Looking<'a, '_> {
    pub(super) fn keywords(
        &mut self,
        keywords: &Map<String, Value>,
        root: &Value,
        given: Given<'a>,
    ) -> Verdict {
        let of_type = keywords.get("type").map_or(Fits, |it| self.type_(it, keywords, given));
        if of_type == Wrong {
            return Wrong;
        }
        let mut verdict = of_type;
        for (keyword, asked) in keywords {
            let next = match keyword.as_str() {
                it if SILENT.contains(&it) || it.starts_with("x-") => Fits,
                "$ref" => self.follow(asked, root, given),
                "enum" => match asked.as_array() {
                    Some(options) => self.one_of(options, given),
                    None => Unknown,
                },
                "const" => self.one_of(std::slice::from_ref(asked), given),
                "allOf" => self.all_of(asked, root, given),
                "anyOf" => self.any_of(asked, root, given, false),
                "oneOf" => self.any_of(asked, root, given, true),
                "not" => match self.silently(|it| it.fit(asked, root, given)) {
                    Fits => self.wrong(|| "what is given here is excluded".to_owned()),
                    Wrong => Fits,
                    Unknown => Unknown,
                },
                "if" => self.if_then_else(keywords, asked, root, given),
                it => self.of_kind(it, asked, keywords, root, given),
            };
            verdict = verdict.max(next);
        }
        verdict
    }

    fn type_(&mut self, asked: &Value, keywords: &Map<String, Value>, given: Given<'a>) -> Verdict {
        let names: Vec<&str> = match asked {
            Value::String(name) => vec![name],
            Value::Array(names) if names.len() <= 10 => {
                names.iter().filter_map(Value::as_str).collect()
            }
            _ => return Unknown,
        };
        let answers: Vec<Option<bool>> = names.iter().map(|it| given.is_of_type(it)).collect();
        if answers.contains(&Some(true)) {
            return Fits;
        }
        let may_be_null = matches!(given, Given::Null) && keywords.contains_key("nullable");
        if answers.is_empty() || answers.contains(&None) || may_be_null {
            return Unknown;
        }
        self.wrong(|| {
            let wanted = near::list(names.iter().copied(), 10);
            match given {
                Given::Text(None) => format!(
                    "text with a reference in it is always a string; wanted: {wanted}. `{{\"$ref\": \"…\"}}` alone has the \
                     type of what it refers to"
                ),
                _ => format!("{} is given; wanted: {wanted}", given.kind()),
            }
        })
    }

    fn one_of(&mut self, options: &[Value], given: Given<'a>) -> Verdict {
        if !self.spend(options.len()) {
            return Unknown;
        }
        let is_known = match given {
            Given::Unknown => false,
            Given::Text(None) => !options.iter().any(Value::is_string),
            Given::Array(items) => items.iter().all(|it| self.is_known(it)),
            Given::Object(members) => members.values().all(|it| self.is_known(it)),
            _ => true,
        };
        if !is_known {
            return Unknown;
        }
        if options.iter().any(|it| given.is(it)) {
            return Fits;
        }
        self.wrong(|| {
            let text = |it: &Value| it.as_str().map_or_else(|| it.to_string(), str::to_owned);
            let shown: Vec<String> = options.iter().take(200).map(text).collect();
            let shown = near::list(shown.iter().map(String::as_str), 12);
            let meant = match given {
                Given::Text(Some(text)) => {
                    near::hint(text, options.iter().filter_map(Value::as_str).take(1000))
                }
                _ => String::new(),
            };
            match options.len() {
                1 => format!("only {shown} is allowed here"),
                _ => format!("it is not among what is allowed: {shown}{meant}"),
            }
        })
    }

    /// Whether there is no reference in it. False, too, when there is no budget left to look.
    pub(super) fn is_known(&mut self, value: &'a Value) -> bool {
        self.spend(1)
            && match Given::of(value) {
                Given::Unknown | Given::Text(None) => false,
                Given::Array(items) => items.iter().all(|it| self.is_known(it)),
                Given::Object(members) => members.values().all(|it| self.is_known(it)),
                _ => true,
            }
    }

    fn all_of(&mut self, asked: &Value, root: &Value, given: Given<'a>) -> Verdict {
        let Some(schemas) = asked.as_array() else { return Unknown };
        schemas.iter().map(|it| self.fit(it, root, given)).max().unwrap_or(Fits)
    }

    fn any_of(
        &mut self,
        asked: &Value,
        root: &Value,
        given: Given<'a>,
        is_only_one: bool,
    ) -> Verdict {
        let Some(schemas) = asked.as_array().filter(|it| !it.is_empty()) else { return Unknown };
        let verdicts: Vec<Verdict> = self
            .silently(|looking| schemas.iter().map(|it| looking.fit(it, root, given)).collect());
        let n_fit = verdicts.iter().filter(|it| **it == Fits).count();
        match n_fit {
            2.. if is_only_one => {
                return self.wrong(|| {
                    format!("it fits {n_fit} of the forms that are allowed, and may fit one only")
                });
            }
            1.. if !is_only_one => return Fits,
            _ if verdicts.contains(&Unknown) => return Unknown,
            1 => return Fits,
            _ => {}
        }
        if self.is_silent {
            return Wrong;
        }
        // The one that can be meant says best what is wrong.
        let can_be_meant = |it: &&Value| {
            let is = |name: &str| given.is_of_type(name) != Some(false);
            match it.get("type") {
                Some(Value::String(name)) => is(name),
                Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is),
                _ => true,
            }
        };
        let mut meant = schemas.iter().filter(can_be_meant);
        match (meant.next(), meant.next()) {
            (Some(only), None) => {
                self.fit(only, root, given);
                Wrong
            }
            (None, _) => self.wrong(|| {
                let types = schemas.iter().filter_map(|it| it.get("type")?.as_str());
                format!("{} is given; wanted: {}", given.kind(), near::list(types, 8))
            }),
            _ => self
                .wrong(|| format!("it fits none of the {} forms that are allowed", schemas.len())),
        }
    }

    fn if_then_else(
        &mut self,
        keywords: &Map<String, Value>,
        asked: &Value,
        root: &Value,
        given: Given<'a>,
    ) -> Verdict {
        let next = match self.silently(|it| it.fit(asked, root, given)) {
            Fits => keywords.get("then"),
            Wrong => keywords.get("else"),
            Unknown => return Unknown,
        };
        next.map_or(Fits, |it| self.fit(it, root, given))
    }
}

//! Keywords of JSON Schema that ask something of numbers, strings, arrays or objects.

use serde_json::{Map, Number, Value};

use super::given::Given;
use super::patterns::COST;
use super::{Fits, Looking, Unknown, Verdict};
use crate::plan::condition::{is_equal, order_of_numbers};
use crate::plan::near;
use crate::plan::reference::Segment;
use crate::text::excerpt;

/// The kind of value that a keyword is about. Of others it asks nothing.
#[derive(PartialEq)]
enum Kind {
    Number,
    Text,
    Array,
    Object,
}

fn about(keyword: &str) -> Option<Kind> {
    Some(match keyword {
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
            Kind::Number
        }
        "minLength" | "maxLength" | "pattern" => Kind::Text,
        "items" | "prefixItems" | "minItems" | "maxItems" | "uniqueItems" | "contains"
        | "minContains" | "maxContains" | "unevaluatedItems" => Kind::Array,
        "properties"
        | "patternProperties"
        | "additionalProperties"
        | "propertyNames"
        | "required"
        | "minProperties"
        | "maxProperties"
        | "dependentRequired"
        | "dependentSchemas"
        | "dependencies"
        | "unevaluatedProperties" => Kind::Object,
        _ => return None,
    })
}

/// Also one that is written with a point, as far as those are exact.
fn whole(number: &Number) -> Option<i64> {
    let exact = |it: &f64| it.fract() == 0.0 && it.abs() < 9e15;
    number.as_i64().or_else(|| number.as_f64().filter(exact).map(|it| it as i64))
}

impl<'a> Looking<'a, '_> {
    /// What one keyword says. What it is not known to say is unknown.
    pub(super) fn of_kind(
        &mut self,
        keyword: &str,
        asked: &Value,
        keywords: &Map<String, Value>,
        root: &Value,
        given: Given<'a>,
    ) -> Verdict {
        match (about(keyword), given) {
            (None, _) | (_, Given::Unknown) => Unknown,
            (Some(Kind::Number), Given::Number(it)) => self.number(keyword, asked, keywords, it),
            (Some(Kind::Text), Given::Text(it)) => self.text(keyword, asked, it),
            (Some(Kind::Array), Given::Array(it)) => self.array(keyword, asked, keywords, root, it),
            (Some(Kind::Object), Given::Object(it)) => {
                self.object(keyword, asked, keywords, root, it)
            }
            _ => Fits,
        }
    }

    fn number(
        &mut self,
        keyword: &str,
        asked: &Value,
        keywords: &Map<String, Value>,
        given: &Number,
    ) -> Verdict {
        let limit = match (keyword, asked) {
            (_, Value::Number(limit)) => limit,
            // A flag of the oldest dialects, looked at beside the limit that it is about.
            ("exclusiveMinimum" | "exclusiveMaximum", Value::Bool(_)) => return Fits,
            _ => return Unknown,
        };
        let order = order_of_numbers(given, limit);
        let is_flagged = |flag: &str| keywords.get(flag) == Some(&Value::Bool(true));
        let (fits, said) = match keyword {
            "minimum" if is_flagged("exclusiveMinimum") => (order.is_gt(), "more than"),
            "maximum" if is_flagged("exclusiveMaximum") => (order.is_lt(), "less than"),
            "minimum" => (order.is_ge(), "at least"),
            "maximum" => (order.is_le(), "at most"),
            "exclusiveMinimum" => (order.is_gt(), "more than"),
            "exclusiveMaximum" => (order.is_lt(), "less than"),
            "multipleOf" => match (whole(given), whole(limit)) {
                (Some(given), Some(limit)) if 0 < limit => (given % limit == 0, "a multiple of"),
                (None, Some(_)) if given.as_f64().is_some_and(|it| it.fract() != 0.0) => {
                    (false, "a multiple of")
                }
                // Of fractions anything is a multiple, nearly.
                _ => return Unknown,
            },
            _ => return Unknown,
        };
        match fits {
            true => Fits,
            false => self.wrong(|| format!("{given} is given; wanted: {said} {limit}")),
        }
    }

    fn text(&mut self, keyword: &str, asked: &Value, given: Option<&'a str>) -> Verdict {
        let Some(given) = given else { return Unknown };
        if keyword == "pattern" {
            let Some(pattern) = asked.as_str() else { return Unknown };
            return match self.matches(pattern, given) {
                Some(true) => Fits,
                Some(false) => {
                    self.wrong(|| format!("it does not match `{}`", excerpt(pattern, 200)))
                }
                None => Unknown,
            };
        }
        match self.spend(given.len() / 16) {
            true => self.size(keyword, asked, given.chars().count(), "characters"),
            false => Unknown,
        }
    }

    /// None: nobody can say.
    fn matches(&mut self, pattern: &str, text: &str) -> Option<bool> {
        if !self.patterns.knows(pattern) {
            if !self.spend(COST + pattern.len()) {
                return None;
            }
            self.patterns.read(pattern);
        }
        // A nasty one takes microseconds for each byte. A long text is then not looked at, and the rest of the step is.
        self.n_left = self.n_left.checked_sub(1 + 16 * text.len())?;
        self.patterns.is_match(pattern, text)
    }

    /// `min…` and `max…` of what is counted.
    fn size(&mut self, keyword: &str, asked: &Value, n: usize, what: &str) -> Verdict {
        let Some(limit) = asked.as_u64() else { return Unknown };
        let (fits, said) = match keyword.starts_with("min") {
            true => (limit <= n as u64, "at least"),
            false => (n as u64 <= limit, "at most"),
        };
        match fits {
            true => Fits,
            false => self.wrong(|| format!("here are {n} {what}; wanted: {said} {limit}")),
        }
    }

    fn array(
        &mut self,
        keyword: &str,
        asked: &Value,
        keywords: &Map<String, Value>,
        root: &Value,
        items: &'a [Value],
    ) -> Verdict {
        match keyword {
            "minItems" | "maxItems" => self.size(keyword, asked, items.len(), "elements"),
            "prefixItems" => self.tuple(asked, None, root, items),
            "items" if asked.is_array() => {
                self.tuple(asked, keywords.get("additionalItems"), root, items)
            }
            "items" => {
                let before = keywords.get("prefixItems").and_then(Value::as_array);
                self.items(asked, root, items, before.map_or(0, Vec::len))
            }
            "uniqueItems" if *asked == Value::Bool(true) => self.unique(items),
            "uniqueItems" if *asked == Value::Bool(false) => Fits,
            _ => Unknown,
        }
    }

    fn tuple(
        &mut self,
        asked: &Value,
        rest: Option<&Value>,
        root: &Value,
        items: &'a [Value],
    ) -> Verdict {
        let Some(schemas) = asked.as_array() else { return Unknown };
        let mut verdict = Fits;
        for (index, (schema, item)) in schemas.iter().zip(items).enumerate() {
            verdict = verdict.max(self.inner(Segment::Index(index), schema, root, item));
        }
        match rest {
            Some(rest) => verdict.max(self.items(rest, root, items, schemas.len())),
            None => verdict,
        }
    }

    fn items(&mut self, schema: &Value, root: &Value, items: &'a [Value], from: usize) -> Verdict {
        let mut verdict = Fits;
        for (index, item) in items.iter().enumerate().skip(from) {
            if !self.spend(1) {
                return verdict.max(Unknown);
            }
            verdict = verdict.max(self.inner(Segment::Index(index), schema, root, item));
        }
        verdict
    }

    fn unique(&mut self, items: &'a [Value]) -> Verdict {
        if items.len() < 2 {
            return Fits;
        }
        let before = self.n_left;
        if !items.iter().all(|it| self.is_known(it)) {
            return Unknown;
        }
        // Each is compared with all before it, and comparing looks at no more than there is.
        let Some(left) = self.n_left.checked_sub(items.len() * (before - self.n_left)) else {
            return Unknown;
        };
        self.n_left = left;
        for (index, item) in items.iter().enumerate() {
            if let Some(first) = items[..index].iter().position(|it| is_equal(it, item)) {
                return self.wrong(|| {
                    format!(
                        "the elements {first} and {index} are the same, and each may be there once"
                    )
                });
            }
        }
        Fits
    }

    fn object(
        &mut self,
        keyword: &str,
        asked: &Value,
        keywords: &Map<String, Value>,
        root: &Value,
        members: &'a Map<String, Value>,
    ) -> Verdict {
        match (keyword, asked) {
            ("minProperties" | "maxProperties", _) => {
                self.size(keyword, asked, members.len(), "members")
            }
            ("required", _) => self.required(asked, members),
            ("additionalProperties", _) => self.additional(asked, keywords, root, members),
            ("properties", Value::Object(properties)) => {
                self.each(members.iter(), |it, (name, member)| match properties.get(name) {
                    Some(schema) => it.inner(Segment::Key(name), schema, root, member),
                    None => Fits,
                })
            }
            ("patternProperties", Value::Object(patterns)) => {
                self.each(members.iter(), |it, (name, member)| {
                    it.each(patterns.iter(), |it, (pattern, schema)| {
                        match it.matches(pattern, name) {
                            Some(true) => it.inner(Segment::Key(name), schema, root, member),
                            Some(false) => Fits,
                            None => Unknown,
                        }
                    })
                })
            }
            ("dependentRequired", Value::Object(rules)) => {
                self.each(rules.iter(), |it, (name, required)| match members.contains_key(name) {
                    true => it.required(required, members),
                    false => Fits,
                })
            }
            ("dependentSchemas", Value::Object(rules)) => {
                self.each(rules.iter(), |it, (name, schema)| match members.contains_key(name) {
                    true => it.fit(schema, root, Given::Object(members)),
                    false => Fits,
                })
            }
            _ => Unknown,
        }
    }

    /// The worst of all, as far as the budget goes.
    fn each<T>(
        &mut self,
        all: impl Iterator<Item = T>,
        mut look: impl FnMut(&mut Self, T) -> Verdict,
    ) -> Verdict {
        let mut verdict = Fits;
        for it in all {
            if !self.spend(1) {
                return verdict.max(Unknown);
            }
            verdict = verdict.max(look(self, it));
        }
        verdict
    }

    fn required(&mut self, asked: &Value, members: &Map<String, Value>) -> Verdict {
        let Some(names) = asked.as_array() else { return Unknown };
        if !self.spend(names.len()) {
            return Unknown;
        }
        let mut verdict = Fits;
        for name in names.iter().filter_map(Value::as_str) {
            if !members.contains_key(name) {
                verdict = self.wrong(|| {
                    let needed = near::list(names.iter().filter_map(Value::as_str), 12);
                    format!("`{}` is missing; needed: {needed}", excerpt(name, 60))
                });
            }
        }
        verdict
    }

    /// What neither `properties` nor `patternProperties` speaks of.
    fn additional(
        &mut self,
        asked: &Value,
        keywords: &Map<String, Value>,
        root: &Value,
        members: &'a Map<String, Value>,
    ) -> Verdict {
        let properties = keywords.get("properties").and_then(Value::as_object);
        let patterns = keywords.get("patternProperties").and_then(Value::as_object);
        self.each(members.iter(), |it, (name, member)| {
            if properties.is_some_and(|it| it.contains_key(name)) {
                return Fits;
            }
            let mut is_spoken_of = Some(false);
            for pattern in patterns.into_iter().flat_map(Map::keys) {
                match it.matches(pattern, name) {
                    Some(true) => return Fits,
                    Some(false) => {}
                    None => is_spoken_of = None,
                }
            }
            match (is_spoken_of, asked) {
                (None, _) => Unknown,
                (_, Value::Bool(false)) => it.is_extra(name, properties),
                _ => it.inner(Segment::Key(name), asked, root, member),
            }
        })
    }

    fn is_extra(&mut self, name: &'a str, properties: Option<&Map<String, Value>>) -> Verdict {
        let allowed = || properties.into_iter().flat_map(Map::keys).map(String::as_str);
        self.place.0.push(Segment::Key(name));
        let verdict = self.wrong(|| {
            let name = excerpt(name, 60);
            let meant = near::hint(&name, allowed().take(1000));
            match allowed().next() {
                None => format!("there is no `{name}`; nothing is taken here"),
                Some(_) => {
                    format!("there is no `{name}`{meant}; taken: {}", near::list(allowed(), 20))
                }
            }
        });
        self.place.0.pop();
        verdict
    }

    fn inner(
        &mut self,
        at: Segment<'a>,
        schema: &Value,
        root: &Value,
        value: &'a Value,
    ) -> Verdict {
        self.place.0.push(at);
        let verdict = self.fit(schema, root, Given::of(value));
        self.place.0.pop();
        verdict
    }
}

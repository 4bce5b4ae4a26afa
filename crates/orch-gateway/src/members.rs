//! A JSON object of which a few members are looked at or replaced, and the others stay as they were written, in their order.

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::frame::{Raw, raw};

#[derive(Clone, Debug, Default)]
pub struct Members(Vec<(String, Raw)>);

impl Members {
    /// None: it is no object.
    pub fn of(json: &Raw) -> Option<Members> {
        serde_json::from_str(json.get()).ok()
    }

    /// Those of `params`, or none of them.
    pub fn of_params(params: Option<&Raw>) -> Members {
        params.and_then(Members::of).unwrap_or_default()
    }

    pub fn get(&self, key: &str) -> Option<&Raw> {
        // The last one counts, as for every other reader of JSON.
        self.0.iter().rev().find(|(it, _)| it == key).map(|(_, value)| value)
    }

    /// A member that is text.
    pub fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    pub fn object(&self, key: &str) -> Option<Members> {
        Members::of(self.get(key)?)
    }

    pub fn array(&self, key: &str) -> Option<Vec<Raw>> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    /// Replaces a member where it stands, or adds it at the end.
    pub fn set<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        let value = raw(value);
        match self.0.iter_mut().rev().find(|(it, _)| it == key) {
            Some((_, place)) => *place = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(it, _)| it != key);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Raw)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn to_raw(&self) -> Raw {
        raw(self)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Members, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some(entry) = map.next_entry()? {
                    members.push(entry);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Raw {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_not_touched_stays_as_written() {
        let before = json(r#"{"z":0.70,"name":"a","_meta":{"x":1e3},"list":[1,  2]}"#);
        let mut it = Members::of(&before).unwrap();
        assert_eq!(it.to_raw().get(), before.get());
        it.set("name", "server.a");
        it.set("new", &1);
        it.remove("list");
        assert_eq!(it.to_raw().get(), r#"{"z":0.70,"name":"server.a","_meta":{"x":1e3},"new":1}"#);
        assert_eq!(it.text("name").as_deref(), Some("server.a"));
        assert_eq!(it.object("_meta").unwrap().get("x").unwrap().get(), "1e3");
    }

    #[test]
    fn only_an_object_has_members() {
        for text in ["1", "[]", "null", "\"{}\""] {
            assert!(Members::of(&json(text)).is_none(), "{text}");
        }
    }
}

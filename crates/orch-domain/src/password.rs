//! Passwords on their way in: which may be chosen, and that no error or log repeats one.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::Error;

/// As a person gave it. Where it is set anew it is checked with `may_be_chosen` first.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

const MIN_CHARACTERS: usize = 8;
/// A longer one only costs time to hash.
const MAX_BYTES: usize = 256;

impl Password {
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A refusal names `parameter`.
    pub fn may_be_chosen(&self, parameter: &str) -> Result<(), Error> {
        let n_characters = self.0.chars().count();
        if n_characters < MIN_CHARACTERS {
            let message =
                format!("it has {n_characters} characters; at least {MIN_CHARACTERS} are needed");
            return Err(Error::invalid(parameter, message));
        }
        if MAX_BYTES < self.0.len() {
            let message = format!("it is longer than {MAX_BYTES} bytes, the most there may be");
            return Err(Error::invalid(parameter, message));
        }
        Ok(())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Password, D::Error> {
        // The usual error of a wrong type repeats the value.
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Password(text)),
            _ => Err(serde::de::Error::custom("it must be a string")),
        }
    }
}

impl JsonSchema for Password {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Password".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "writeOnly": true})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_debug_nor_an_error_shows_it() {
        assert_eq!(format!("{:?}", Password::new("hunter22")), "***");
        let err = serde_json::from_str::<Password>("12345678").unwrap_err();
        assert!(!err.to_string().contains("12345678"), "{err}");
        for bad in ["sevench", &"x".repeat(257)] {
            let err = Password::new(bad).may_be_chosen("password").unwrap_err();
            assert!(!err.to_string().contains(bad), "{err}");
        }
        assert!(Password::new("eight ch").may_be_chosen("password").is_ok());
    }
}

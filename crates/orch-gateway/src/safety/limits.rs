//! `limits`, `pin`, `redact` and `cache_ttl` of a server's entry: what it may use, change and say.

use std::time::Duration;

use orch_domain::rate::{Rate, RateWritten};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::pin::{PinMode, canonical};
use super::redact::Patterns;

/// Of one server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guard {
    /// Its lists are read again when they are older. None: when it says that they changed, and when it is connected to.
    pub cache_ttl: Option<Duration>,
    /// None: as for all servers.
    pub pin: Option<PinMode>,
    pub redact: Patterns,
    pub limits: Limits,
    /// Of how it is reached, with its secrets: what one server offered is not another's.
    pub fingerprint: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes that the process group of one child may have resident.
    pub memory: Option<u64>,
    /// Children of this server at the same time.
    pub max_children: Option<usize>,
    /// Calls under way at the same time; further ones wait in their order.
    pub concurrency: Option<usize>,
    /// Bytes of a tool's result that are passed on whole; 0: any.
    pub result_bytes: Option<usize>,
}

/// As written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsEntry {
    /// How often all callers together may call it.
    rate: RateWritten,
    memory: Option<Size>,
    max_children: Option<usize>,
    concurrency: Option<usize>,
    result_bytes: Option<Size>,
}

/// A number of bytes, or text such as `512MB`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
    #[expect(dead_code, reason = "it is only told from the others")]
    Other(Value),
}

/// The key under the entry, and what is wrong with it.
pub(crate) type Refusal = (String, String);

impl LimitsEntry {
    pub(crate) fn check(self) -> Result<(Limits, Option<Rate>), Refusal> {
        let rate = self.rate.rate();
        let rate = rate.map_err(|err| ("limits.rate".to_owned(), err.to_string()))?;
        let at_least_one = |key: &str, it: Option<usize>| match it {
            Some(0) => Err((format!("limits.{key}"), "it is a whole number from 1".to_owned())),
            it => Ok(it),
        };
        let memory = self.memory.map(|it| size("memory", &it)).transpose()?;
        if memory.is_some_and(|it| it < 1_000_000) {
            let message =
                "no program runs in less than `1MB`; it is text such as `512MB` or `2GiB`";
            return Err(("limits.memory".to_owned(), message.to_owned()));
        }
        let result_bytes = self.result_bytes.map(|it| size("result_bytes", &it)).transpose()?;
        if result_bytes.is_some_and(|it| (1..MIN_RESULT).contains(&it)) {
            let message = format!(
                "it is 0 for results of any size, or at least {MIN_RESULT}, such as `100KB`"
            );
            return Err(("limits.result_bytes".to_owned(), message));
        }
        let limits = Limits {
            memory,
            max_children: at_least_one("max_children", self.max_children)?,
            concurrency: at_least_one("concurrency", self.concurrency)?,
            result_bytes: result_bytes.map(|it| usize::try_from(it).unwrap_or(usize::MAX)),
        };
        Ok((limits, rate))
    }
}

/// Less would leave no room for what tells of the rest.
pub const MIN_RESULT: u64 = 1000;

fn size(key: &str, it: &Size) -> Result<u64, Refusal> {
    let bytes = match it {
        Size::Bytes(it) => Some(*it),
        Size::Text(it) => parse_size(it),
        Size::Other(_) => None,
    };
    bytes.ok_or_else(|| {
        let message = "it is a number of bytes, or text such as `512MB` or `2GiB`";
        (format!("limits.{key}"), message.to_owned())
    })
}

/// `512MB` (millions of bytes), `2GiB` (powers of two), `1000`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let factor: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1_000,
        "mb" | "m" => 1_000_000,
        "gb" | "g" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    let bytes = number * factor as f64;
    (bytes.is_finite() && bytes <= 1e15).then_some(bytes as u64)
}

pub(crate) fn cache_ttl(seconds: Option<f64>) -> Result<Option<Duration>, Refusal> {
    match seconds {
        None => Ok(None),
        Some(it) if (1.0..=86_400.0).contains(&it) => Ok(Some(Duration::from_secs_f64(it))),
        Some(_) => Err((
            "cache_ttl".to_owned(),
            "it is the seconds after which its lists are read again, 1 to 86400".to_owned(),
        )),
    }
}

/// Keys of an entry that do not say which server it is.
const NOT_THE_SERVER: [&str; 11] = [
    "tools",
    "timeout",
    "disabled",
    "enabled",
    "pin",
    "redact",
    "limits",
    "cache_ttl",
    "lifecycle",
    "autoApprove",
    "alwaysAllow",
];

pub(crate) fn fingerprint(entry: &Value) -> String {
    let mut entry = entry.clone();
    if let Value::Object(entry) = &mut entry {
        NOT_THE_SERVER.iter().for_each(|it| drop(entry.remove(*it)));
    }
    super::pin::hex(&Sha256::digest(canonical(&entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("512MB"), Some(512_000_000));
        assert_eq!(parse_size(" 1.5 GiB "), Some(3 << 29));
        assert_eq!(parse_size("1000"), Some(1000));
        for bad in ["", "MB", "-1MB", "5 parsecs", "1e3", "9999999999GB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_fingerprint_is_of_the_server_and_not_of_its_treatment() {
        let of = |text: &str| fingerprint(&serde_json::from_str(text).unwrap());
        let plain = of(r#"{"command":"a","env":{"X":"1","Y":"2"}}"#);
        assert_eq!(plain, of(r#"{"env":{"Y":"2","X":"1"},"command":"a","pin":"off","timeout":3}"#));
        assert_ne!(plain, of(r#"{"command":"a","env":{"X":"1","Y":"3"}}"#));
        assert_ne!(plain, of(r#"{"command":"b","env":{"X":"1","Y":"2"}}"#));
    }
}

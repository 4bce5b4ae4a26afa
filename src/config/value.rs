//! Kinds of values that only the configuration has: durations in seconds, log levels.

use std::time::Duration;

use orch_domain::port::PortRange;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration, written as a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Seconds(f64);

impl Seconds {
    /// A day: what lasts longer is a mistake in the unit.
    const MAX: f64 = 86_400.0;

    pub const fn new(seconds: f64) -> Seconds {
        Seconds(seconds)
    }

    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if (0.001..=Self::MAX).contains(&seconds) {
            return Ok(Seconds(seconds));
        }
        Err(serde::de::Error::custom(format!(
            "{seconds} is not a number of seconds from 0.001 to 86400"
        )))
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seconds".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0.001, "maximum": 86400, "x-kind": "seconds"})
    }
}

/// Ports to publish instances in, written as `8000-9000`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ports(pub PortRange);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ports, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parse = |text: &str| -> Option<PortRange> {
            let (first, last) = text.split_once('-')?;
            PortRange::try_new(first.trim().parse().ok()?, last.trim().parse().ok()?).ok()
        };
        parse(&text).map(Ports).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{}` is not a port range such as `8000-9000`",
                orch_domain::text::excerpt(&text, 40)
            ))
        })
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}-{}", self.0.first(), self.0.last()))
    }
}

impl JsonSchema for Ports {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ports".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]+-[0-9]+$"})
    }
}

/// How much is logged. Read without regard to case, as `INFO` is as common as `info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LogLevel, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.to_ascii_lowercase().as_str() {
            "error" | "critical" => LogLevel::Error,
            "warn" | "warning" => LogLevel::Warn,
            "info" => LogLevel::Info,
            "debug" => LogLevel::Debug,
            "trace" => LogLevel::Trace,
            _ => {
                return Err(serde::de::Error::custom(format!(
                    "`{}` is not a log level",
                    orch_domain::text::excerpt(&text, 40)
                )));
            }
        })
    }
}

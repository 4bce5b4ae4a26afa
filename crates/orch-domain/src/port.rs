//! Host ports: which range instances publish in, and how the next one is chosen.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{BrokenRule, InstanceId};
use crate::time::Timestamp;

/// Inclusive on both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// 8000 to 9000.
    pub const DEFAULT: PortRange = PortRange { first: 8000, last: 9000 };

    pub fn try_new(first: u16, last: u16) -> Result<PortRange, BrokenRule> {
        if first == 0 || last < first {
            return Err(BrokenRule::new(
                &format!("{first}-{last}"),
                "a port range such as `8000-9000`",
            ));
        }
        Ok(PortRange { first, last })
    }

    pub fn first(self) -> u16 {
        self.first
    }

    pub fn last(self) -> u16 {
        self.last
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    pub fn len(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    pub fn is_empty(self) -> bool {
        false
    }

    /// Every port of the range once, starting at `start` and wrapping around.
    pub fn from(self, start: u16) -> impl Iterator<Item = u16> {
        let start = if self.contains(start) { start } else { self.first };
        (start..=self.last).chain(self.first..start)
    }
}

#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A container port to publish. Written as a number (`80`) or as `{"container_port": 53, "protocol": "udp"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortRequest {
    pub container_port: u16,
    pub protocol: Protocol,
}

/// A container port and the host port it is published on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortBinding {
    #[schemars(range(min = 1, max = 65535))]
    pub container_port: u16,
    /// On the node, from its range (8000 to 9000).
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: u16,
    pub protocol: Protocol,
}

/// Who has a host port of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Instance(InstanceId),
    /// Something else on the host was found listening there; not offered again before `until`.
    Quarantine {
        until: Timestamp,
    },
}

/// The next `n` free ports of `range`, searching from `start`; none when there are fewer.
pub fn choose(
    range: PortRange,
    held: &BTreeMap<u16, Holder>,
    n: usize,
    start: u16,
    now: Timestamp,
) -> Option<Vec<u16>> {
    let is_free = |port: &u16| match held.get(port) {
        None => true,
        Some(Holder::Quarantine { until }) => *until <= now,
        Some(Holder::Instance(_)) => false,
    };
    let chosen: Vec<u16> = range.from(start).filter(is_free).take(n).collect();
    (chosen.len() == n).then_some(chosen)
}

impl<'de> Deserialize<'de> for PortRequest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PortRequest, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            container_port: u16,
            #[serde(default)]
            protocol: Protocol,
        }
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = PortRequest;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a container port from 1 to 65535, or `{\"container_port\": 80, \"protocol\": \"tcp\"}`")
            }
            fn visit_u64<E: serde::de::Error>(self, port: u64) -> Result<PortRequest, E> {
                match u16::try_from(port) {
                    Ok(port) if port != 0 => {
                        Ok(PortRequest { container_port: port, protocol: Protocol::Tcp })
                    }
                    _ => Err(E::invalid_value(serde::de::Unexpected::Unsigned(port), &self)),
                }
            }
            fn visit_i64<E: serde::de::Error>(self, port: i64) -> Result<PortRequest, E> {
                u64::try_from(port)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(port), &self))
                    .and_then(|it| self.visit_u64(it))
            }
            /// `80` or `53/udp`, as command lines write it.
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PortRequest, E> {
                let (port, protocol) = match text.split_once('/') {
                    None => (text, Protocol::Tcp),
                    Some((port, "tcp")) => (port, Protocol::Tcp),
                    Some((port, "udp")) => (port, Protocol::Udp),
                    Some(_) => {
                        return Err(E::invalid_value(serde::de::Unexpected::Str(text), &self));
                    }
                };
                let container_port = port.parse().ok().filter(|it| *it != 0u16);
                let container_port = container_port
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
                Ok(PortRequest { container_port, protocol })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<PortRequest, A::Error> {
                let it = Written::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                if it.container_port == 0 {
                    return Err(serde::de::Error::invalid_value(
                        serde::de::Unexpected::Unsigned(0),
                        &self,
                    ));
                }
                Ok(PortRequest { container_port: it.container_port, protocol: it.protocol })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for PortRequest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PortRequest".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": "^[0-9]{1,5}(/(tcp|udp))?$"},
                {
                    "type": "object",
                    "properties": {
                        "container_port": {"type": "integer", "minimum": 1, "maximum": 65535},
                        "protocol": {"type": "string", "enum": ["tcp", "udp"], "default": "tcp"}
                    },
                    "required": ["container_port"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(ports: &[u16]) -> BTreeMap<u16, Holder> {
        let until = Timestamp::from_millis(100);
        ports.iter().map(|it| (*it, Holder::Quarantine { until })).collect()
    }

    #[test]
    fn search_wraps_and_skips_what_is_held() {
        let range = PortRange::try_new(8000, 8003).unwrap();
        let now = Timestamp::from_millis(0);
        assert_eq!(choose(range, &held(&[8003, 8000]), 2, 8002, now), Some(vec![8002, 8001]));
        assert_eq!(choose(range, &held(&[8003, 8000]), 3, 8002, now), None);
        assert_eq!(
            choose(range, &held(&[8003, 8000]), 4, 8002, Timestamp::from_millis(100))
                .map(|it| it.len()),
            Some(4)
        );
    }

    #[test]
    fn a_port_is_a_number_a_text_or_an_object() {
        for good in ["80", "\"80/tcp\"", r#"{"container_port": 80}"#] {
            let it: PortRequest = serde_json::from_str(good).unwrap();
            assert_eq!(it, PortRequest { container_port: 80, protocol: Protocol::Tcp });
        }
        for bad in
            ["0", "65536", "-1", "\"80/sctp\"", r#"{"container_port": 80, "host_port": 22}"#, "1.5"]
        {
            assert!(serde_json::from_str::<PortRequest>(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn chosen_ports_are_distinct_free_and_in_range(taken in proptest::collection::btree_set(8000u16..=8050, 0..51), n in 0usize..10, start in 7990u16..8060) {
            let range = PortRange::try_new(8000, 8050).unwrap();
            let taken: Vec<u16> = taken.into_iter().collect();
            match choose(range, &held(&taken), n, start, Timestamp::from_millis(0)) {
                Some(ports) => {
                    let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
                    proptest::prop_assert_eq!(distinct.len(), n);
                    proptest::prop_assert!(ports.iter().all(|it| range.contains(*it) && !taken.contains(it)));
                }
                None => proptest::prop_assert!(range.len() - taken.len() < n),
            }
        }
    }
}

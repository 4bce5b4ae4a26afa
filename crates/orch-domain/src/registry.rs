//! Image registries and what is kept of a login at one.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::is_domain;
use crate::name::{BrokenRule, UserId};
use crate::time::Timestamp;

const RULE: &str = "a registry such as `ghcr.io`, `registry.example:5000` or `docker.io`: a host name with a dot or a \
                    port, or `localhost`, without `https://` and without a path";

/// Host and port of a registry as image references begin with it, in lower case; `docker.io` for those that name none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RegistryHost(Box<str>);

impl RegistryHost {
    pub fn try_new(text: impl AsRef<str>) -> Result<RegistryHost, BrokenRule> {
        let text = text.as_ref();
        if 255 < text.len() || !is_domain(text) || !is_named_in_images(text) {
            return Err(BrokenRule::new(text, RULE));
        }
        Ok(RegistryHost::folded(text))
    }

    /// What images without a registry are pulled from.
    pub fn docker_hub() -> RegistryHost {
        RegistryHost("docker.io".into())
    }

    /// Of a checked image reference.
    pub(crate) fn folded(text: &str) -> RegistryHost {
        match text.to_ascii_lowercase() {
            // All of them are Docker Hub.
            it if it == "index.docker.io" || it == "registry-1.docker.io" => {
                RegistryHost::docker_hub()
            }
            it => RegistryHost(it.into()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether the first part of an image's name, written so, is taken for a registry.
pub(crate) fn is_named_in_images(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost"
}

impl TryFrom<String> for RegistryHost {
    type Error = BrokenRule;
    fn try_from(text: String) -> Result<RegistryHost, BrokenRule> {
        RegistryHost::try_new(text)
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for RegistryHost {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RegistryHost".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[^\\s/]+$"})
    }
}

/// A login at a registry. The password is kept encrypted, in memory too.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryCredential {
    pub registry: RegistryHost,
    pub username: String,
    /// Only the service that made it can open it.
    pub sealed_password: Vec<u8>,
    pub set_by: UserId,
    pub set_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_people_write_are_read() {
        for (given, kept) in [
            ("ghcr.io", "ghcr.io"),
            ("Registry.Example:5000", "registry.example:5000"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("localhost", "localhost"),
            ("index.docker.io", "docker.io"),
        ] {
            assert_eq!(RegistryHost::try_new(given).unwrap().as_str(), kept);
        }
        for bad in
            ["", "ghcr", "https://ghcr.io", "ghcr.io/team", "a b.c", "user:pw@ghcr.io", "x:y"]
        {
            let err = RegistryHost::try_new(bad).unwrap_err().to_string();
            assert!(err.contains("ghcr.io"), "{bad}: {err}");
        }
    }
}

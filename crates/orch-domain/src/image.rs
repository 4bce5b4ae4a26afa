//! Image references: `name[:tag][@digest]`, as the distribution specification writes them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::BrokenRule;
use crate::registry::{RegistryHost, is_named_in_images};

const RULE: &str = "an image reference such as `nginx:alpine` or `registry.example:5000/team/app@sha256:…` \
                    (lower-case name, at most 255 characters, no spaces)";

/// A checked reference; without tag and digest it means `:latest`, and is kept that way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ImageRef(Box<str>);

impl ImageRef {
    pub fn try_new(text: impl AsRef<str>) -> Result<ImageRef, BrokenRule> {
        let text = text.as_ref();
        if !is_reference(text) {
            return Err(BrokenRule::new(text, RULE));
        }
        let has_tag =
            text.contains('@') || text.rsplit('/').next().is_some_and(|it| it.contains(':'));
        Ok(ImageRef(if has_tag { text.into() } else { format!("{text}:latest").into() }))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it is pulled from.
    pub fn registry(&self) -> RegistryHost {
        match self.0.split_once('/') {
            Some((first, _)) if is_named_in_images(first) => RegistryHost::folded(first),
            _ => RegistryHost::docker_hub(),
        }
    }

    /// Its shortest name, under which engines list it: without the registry and the `library` that are understood.
    pub fn familiar(&self) -> &str {
        let text = &*self.0;
        let text = ["docker.io/", "index.docker.io/"]
            .iter()
            .find_map(|it| text.strip_prefix(it))
            .unwrap_or(text);
        match text.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest,
            _ => text,
        }
    }
}

/// Grammar of `distribution/reference`: `[domain[:port]/]path[:tag][@digest]`.
fn is_reference(text: &str) -> bool {
    if text.is_empty() || 255 < text.len() {
        return false;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|it| !is_digest(it)) {
        return false;
    }
    let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[last_slash..].find(':') {
        Some(at) => (&rest[..last_slash + at], Some(&rest[last_slash + at + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|it| !is_tag(it)) {
        return false;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let has_domain = 1 < parts.len() && is_named_in_images(parts[0]);
    let (domain, path) =
        if has_domain { (Some(parts[0]), &parts[1..]) } else { (None, &parts[..]) };
    domain.is_none_or(is_domain) && path.iter().all(|it| is_path_component(it))
}

pub(crate) fn is_domain(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    !host.is_empty()
        && host.split('.').all(|it| {
            !it.is_empty()
                && !it.starts_with('-')
                && !it.ends_with('-')
                && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
        && port.is_none_or(|it| it.parse::<u16>().is_ok())
}

fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'))
        && !text.contains("..")
}

fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'.' | b'_' | b'-'))
            && 32 <= hex.len()
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

impl TryFrom<String> for ImageRef {
    type Error = BrokenRule;
    fn try_from(text: String) -> Result<ImageRef, BrokenRule> {
        ImageRef::try_new(text)
    }
}

impl std::str::FromStr for ImageRef {
    type Err = BrokenRule;
    fn from_str(text: &str) -> Result<ImageRef, BrokenRule> {
        ImageRef::try_new(text)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for ImageRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ImageRef".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^\\S+$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_people_write_are_read() {
        for (given, kept) in [
            ("nginx", "nginx:latest"),
            ("nginx:alpine", "nginx:alpine"),
            ("library/ubuntu:22.04", "library/ubuntu:22.04"),
            ("127.0.0.1:5000/lib/busybox:1", "127.0.0.1:5000/lib/busybox:1"),
            ("localhost/a", "localhost/a:latest"),
        ] {
            assert_eq!(ImageRef::try_new(given).unwrap().as_str(), kept);
        }
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert_eq!(ImageRef::try_new(&digest).unwrap().as_str(), digest);
    }

    #[test]
    fn a_registry_is_the_first_part_when_it_looks_like_one() {
        for (image, registry, familiar) in [
            ("nginx", "docker.io", "nginx:latest"),
            ("team/app:1", "docker.io", "team/app:1"),
            ("docker.io/library/nginx:1", "docker.io", "nginx:1"),
            ("index.docker.io/team/app:1", "docker.io", "team/app:1"),
            ("GHCR.io/team/app:1", "ghcr.io", "GHCR.io/team/app:1"),
            ("127.0.0.1:5000/lib/a:1", "127.0.0.1:5000", "127.0.0.1:5000/lib/a:1"),
            ("localhost/a:1", "localhost", "localhost/a:1"),
            ("library/a/b:1", "docker.io", "library/a/b:1"),
        ] {
            let image = ImageRef::try_new(image).unwrap();
            assert_eq!((image.registry().as_str(), image.familiar()), (registry, familiar));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "my image",
            "Nginx",
            "nginx:",
            "nginx:a b",
            "/nginx",
            "a//b",
            "-x",
            "a:b:c",
            "a@sha256:1",
            "--privileged",
            "a\n",
        ] {
            assert!(ImageRef::try_new(bad).is_err(), "{bad:?}");
        }
    }
}

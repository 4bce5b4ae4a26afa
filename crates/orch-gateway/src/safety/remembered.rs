//! What a server last offered, as it said it, for the time until it says it again.
//!
//! The file is a cache: what cannot be read is as if it were not there. It belongs to the configuration that it came
//! from, so that another server under the same name does not inherit it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::disk::{self, Durability};
use crate::catalog::{Catalog, Item, List};
use crate::frame::Raw;
use crate::upstream::handshake::{self, Welcome};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct RememberedV1 {
    version: u32,
    /// Of the configuration it came from.
    fingerprint: String,
    protocol_version: String,
    /// The answer to the handshake.
    welcome: Raw,
    ttl_ms: Option<u64>,
    tools: Vec<Raw>,
    prompts: Vec<Raw>,
    resources: Vec<Raw>,
    templates: Vec<Raw>,
}

/// The lists, what the server said about itself, and how long it said that they hold.
#[derive(Clone, Debug)]
pub struct Remembered {
    pub catalog: Catalog,
    pub welcome: Welcome,
    pub ttl: Option<Duration>,
}

pub fn file_of(dir: &Path, server: &str) -> PathBuf {
    dir.join(format!("{server}.json"))
}

pub fn load(file: &Path, fingerprint: &str) -> Option<Remembered> {
    let stored: RememberedV1 = match disk::read(file) {
        Ok(it) => it?,
        Err(err) => {
            tracing::debug!("what a server offered cannot be read, and is asked for again: {err}");
            return None;
        }
    };
    if stored.version != VERSION || stored.fingerprint != fingerprint {
        return None;
    }
    let mut catalog = Catalog::default();
    for (list, entries) in [
        (List::Tools, stored.tools),
        (List::Prompts, stored.prompts),
        (List::Resources, stored.resources),
        (List::Templates, stored.templates),
    ] {
        catalog.set(list, entries.into_iter().filter_map(|it| Item::of(list, it)).collect());
    }
    let welcome = handshake::remembered(&stored.protocol_version, stored.welcome)?;
    Some(Remembered { catalog, welcome, ttl: stored.ttl_ms.map(Duration::from_millis) })
}

/// As it is written to the file.
pub fn to_bytes(it: &Remembered, fingerprint: &str) -> Vec<u8> {
    let entries = |list: List| it.catalog.of(list).iter().map(|it| it.json.clone()).collect();
    let stored = RememberedV1 {
        version: VERSION,
        fingerprint: fingerprint.to_owned(),
        protocol_version: it.welcome.terms.version.clone(),
        welcome: it.welcome.answer.clone(),
        ttl_ms: it.ttl.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        tools: entries(List::Tools),
        prompts: entries(List::Prompts),
        resources: entries(List::Resources),
        templates: entries(List::Templates),
    };
    serde_json::to_vec(&stored).expect("raw JSON and text can be written")
}

pub fn save(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // Lost with the machine, it is asked for again.
    disk::replace(file, bytes, Durability::Process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_comes_back_as_it_was_and_only_to_whom_it_belongs() {
        let dir = tempfile::tempdir().unwrap();
        let file = file_of(dir.path(), "s");
        let json = r#"{"z":0.70,"name":"a","n":123456789012345678901234567890}"#;
        let answer = r#"{"capabilities":{"tools":{}},"serverInfo":{"name":"x","version":"1"}}"#;
        let mut catalog = Catalog::default();
        let tool = Item::of(List::Tools, serde_json::from_str(json).unwrap()).unwrap();
        catalog.set(List::Tools, vec![tool]);
        let welcome =
            handshake::remembered("2025-11-25", serde_json::from_str(answer).unwrap()).unwrap();
        let it = Remembered { catalog, welcome, ttl: Some(Duration::from_secs(3)) };
        save(&file, &to_bytes(&it, "key")).unwrap();

        assert!(load(&file, "another").is_none());
        assert!(load(&file_of(dir.path(), "t"), "key").is_none());
        let back = load(&file, "key").unwrap();
        assert_eq!(back.catalog.tools[0].json.get(), json);
        assert_eq!(back.welcome.answer.get(), answer);
        assert_eq!(back.ttl, it.ttl);
        for broken in ["", "{", r#"{"version":2}"#] {
            fs_err::write(&file, broken).unwrap();
            assert!(load(&file, "key").is_none(), "{broken}");
        }
    }
}

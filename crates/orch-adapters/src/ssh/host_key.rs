//! The one question that decides whether a machine is talked to: which key does it show.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orch_domain::ssh::{Fingerprint, HostKey, HostTrust, SshEndpoint, SshHop};
use orch_domain::trouble::Trouble;
use parking_lot::Mutex;
use russh::client;
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate};

use super::{Link, SshError, SshSettings};

/// Accepts the one expected key. Without one it accepts nothing and keeps what it saw.
pub(super) struct Verifier {
    place: String,
    expected: Option<Fingerprint>,
    seen: Arc<Mutex<Option<PublicKey>>>,
}

impl Verifier {
    pub(super) fn new(endpoint: &SshHop) -> Verifier {
        Verifier {
            place: endpoint.place(),
            expected: endpoint.host_key.as_ref().map(|it| it.fingerprint.clone()),
            seen: Arc::default(),
        }
    }
}

impl client::Handler for Verifier {
    type Error = SshError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, SshError> {
        let key = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.clone(),
            // Not asked for, as no authority is known.
            PublicKeyOrCertificate::Certificate(_) => return Ok(false),
        };
        let found = described(&key);
        *self.seen.lock() = Some(key);
        match &self.expected {
            Some(expected) if *expected == found.fingerprint => Ok(true),
            Some(expected) => Err(SshError::HostKeyChanged {
                place: self.place.clone(),
                expected: expected.clone(),
                found: Some(found),
            }),
            None => Err(SshError::HostKeyUnknown { place: self.place.clone(), found }),
        }
    }
}

fn described(key: &PublicKey) -> HostKey {
    let text = key.fingerprint(HashAlg::Sha256).to_string();
    HostKey {
        fingerprint: Fingerprint::try_new(&text).expect("the library prints them as `ssh` does"),
        algorithm: Some(key.algorithm().as_str().to_owned()),
    }
}

/// Keys of the kinds in `names`, or of all kinds when there is none.
pub(super) fn only<'a>(
    names: impl IntoIterator<Item = &'a str> + Clone,
) -> Cow<'static, [Algorithm]> {
    let is_wanted = |it: &Algorithm| {
        names
            .clone()
            .into_iter()
            .any(|name| it.as_str() == name || (it.clone().is_rsa() && name == "ssh-rsa"))
    };
    let all = russh::Preferred::DEFAULT.key;
    let some: Vec<Algorithm> = all.iter().filter(|it| is_wanted(it)).cloned().collect();
    if some.is_empty() { all } else { Cow::Owned(some) }
}

/// Meets a machine that is reached from here, and pins its key if `trust` allows it. Nobody logs in.
pub async fn identify(
    endpoint: &SshEndpoint,
    trust: &HostTrust,
    settings: &SshSettings,
    within: Duration,
) -> Result<SshEndpoint, SshError> {
    let key = meet(&endpoint.hop(), None, trust, settings, within).await?;
    Ok(SshEndpoint { host_key: Some(key), ..endpoint.clone() })
}

/// Meets the machine, behind `via` if there is one, just far enough to see its key, which `trust` has to allow.
pub(super) async fn meet(
    endpoint: &SshHop,
    via: Option<Arc<Link>>,
    trust: &HostTrust,
    settings: &SshSettings,
    within: Duration,
) -> Result<HostKey, SshError> {
    let listed = known_hosts(endpoint, settings).await?;
    let kinds: Vec<String> = match trust {
        HostTrust::Known => listed.iter().map(|it| it.algorithm().as_str().to_owned()).collect(),
        HostTrust::Any | HostTrust::Exactly(_) | HostTrust::OneOf(_) => Vec::new(),
    };
    let unknown = SshHop { host_key: None, ..endpoint.clone() };
    let verifier = Verifier::new(&unknown);
    let seen = Arc::clone(&verifier.seen);
    let keys = only(kinds.iter().map(String::as_str));
    let met = super::dial::handshake(&unknown, via.as_ref(), verifier, keys, || ());
    let outcome = tokio::time::timeout(within, met).await;
    let Some(key) = seen.lock().clone() else {
        let place = endpoint.place();
        return Err(match outcome {
            Err(_) => SshError::Slow { place, after: within },
            Ok(Err(err)) => err,
            Ok(Ok(_)) => SshError::Lost { place },
        });
    };
    let found = described(&key);
    let refuse = || SshError::HostKeyUnknown { place: endpoint.place(), found: found.clone() };
    match trust {
        HostTrust::Any => {}
        HostTrust::Exactly(expected) if *expected == found.fingerprint => {}
        HostTrust::Exactly(expected) => {
            return Err(SshError::HostKeyChanged {
                place: endpoint.place(),
                expected: expected.clone(),
                found: Some(found),
            });
        }
        HostTrust::Known | HostTrust::OneOf(_) if listed.contains(&key) => {}
        HostTrust::OneOf(these) if these.contains(&found.fingerprint) => {}
        HostTrust::Known | HostTrust::OneOf(_) => {
            let changed = listed.iter().find(|it| it.algorithm() == key.algorithm());
            return Err(changed.map_or_else(refuse, |it| SshError::HostKeyChanged {
                place: endpoint.place(),
                expected: described(it).fingerprint,
                found: Some(found.clone()),
            }));
        }
    }
    Ok(found)
}

/// What the user's `known_hosts` lists for the machine, under plain and hashed names.
async fn known_hosts(
    endpoint: &SshHop,
    settings: &SshSettings,
) -> Result<Vec<PublicKey>, SshError> {
    let Some(path) = settings.dot_ssh("known_hosts") else { return Ok(Vec::new()) };
    let (host, port) = (endpoint.host.clone(), endpoint.port);
    let read = move || listed_in(&path, &host, port);
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|_| Ok(Vec::new())).map_err(|err| SshError::NoIdentity {
        place: endpoint.place(),
        why: format!("`~/.ssh/known_hosts` cannot be read: {err}"),
        trouble: Trouble::KeyUnreadable,
    })
}

fn listed_in(path: &Path, host: &str, port: u16) -> Result<Vec<PublicKey>, russh::keys::Error> {
    let keys = russh::keys::known_hosts::known_host_keys_path(host, port, path)?;
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAILagOJFgwaMNhBWQINinKOXmqS4Gh5NgxgriXwdOoINJ";

    #[test]
    fn machines_are_found_in_known_hosts_by_name_port_and_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        let hashed = "|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak=";
        let text = format!(
            "# a\n10.0.0.7 ssh-ed25519 {KEY}\n[h]:2222 ssh-ed25519 {KEY}\n{hashed} ssh-ed25519 {KEY}\n"
        );
        fs_err::write(&path, text).unwrap();
        let n_keys = |host: &str, port: u16| listed_in(&path, host, port).unwrap().len();
        assert_eq!(n_keys("10.0.0.7", 22), 1);
        assert_eq!(n_keys("10.0.0.7", 2222), 0);
        assert_eq!(n_keys("h", 2222), 1);
        assert_eq!(n_keys("example.com", 22), 1);
        assert_eq!(n_keys("other", 22), 0);
    }

    #[test]
    fn only_the_pinned_kind_of_key_is_asked_for() {
        assert_eq!(only(["ssh-ed25519"]).as_ref(), [Algorithm::Ed25519]);
        assert!(
            only(["ssh-rsa"])
                .iter()
                .all(|it| it.as_str().starts_with("rsa-sha2") || it.as_str() == "ssh-rsa")
                && !only(["ssh-rsa"]).is_empty()
        );
        assert_eq!(only([]).len(), russh::Preferred::DEFAULT.key.len());
    }
}

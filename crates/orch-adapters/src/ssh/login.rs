//! Proving to a machine who we are, with a key file or the SSH agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_domain::ssh::{SshHop, SshLogin};
use orch_domain::trouble::Trouble;
use russh::client::Handle;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKey};

use super::host_key::Verifier;
use super::{SshError, SshSettings};

/// What `ssh` looks for by itself, best first.
const USUAL_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// Servers close the connection after six refused keys.
const MOST_TRIES: usize = 5;

pub(super) async fn log_in(
    handle: &mut Handle<Verifier>,
    endpoint: &SshHop,
    settings: &SshSettings,
) -> Result<(), SshError> {
    let mut attempt = Attempt { handle, endpoint, tried: Vec::new() };
    let is_in = match &endpoint.login {
        SshLogin::KeyFile(path) => attempt.key_file(&settings.expand(path), path).await?,
        SshLogin::Agent => match &settings.agent_socket {
            Some(socket) => attempt.agent(socket, |_| true).await?,
            None => {
                return Err(attempt.no_identity(
                    Trouble::AgentMissing,
                    "no SSH agent is known: start this server with `SSH_AUTH_SOCK` set, or give a `key`",
                ));
            }
        },
        SshLogin::Usual => attempt.usual(settings).await?,
        SshLogin::Files { paths, only_these } => {
            attempt.files(paths, *only_these, settings).await?
        }
    };
    match is_in {
        true => Ok(()),
        false => {
            Err(SshError::LoginRefused { place: endpoint.place(), tried: attempt.tried.join(", ") })
        }
    }
}

struct Attempt<'a> {
    handle: &'a mut Handle<Verifier>,
    endpoint: &'a SshHop,
    /// What was refused, for people.
    tried: Vec<String>,
}

impl Attempt<'_> {
    async fn usual(&mut self, settings: &SshSettings) -> Result<bool, SshError> {
        let mut last = None;
        if let Some(socket) = &settings.agent_socket {
            match self.agent(socket, |_| true).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(err) => last = Some(err),
            }
        }
        let files: Vec<PathBuf> = USUAL_KEYS.iter().filter_map(|it| settings.dot_ssh(it)).collect();
        for file in files {
            let is_there = tokio::fs::try_exists(&file).await.unwrap_or(false);
            if !is_there || MOST_TRIES <= self.tried.len() {
                continue;
            }
            match self.key_file(&file, &file.display().to_string()).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(err) => last = Some(err),
            }
        }
        match last {
            _ if !self.tried.is_empty() => Ok(false),
            Some(err) => Err(err),
            None => Err(self.no_identity(
                Trouble::KeyMissing,
                "no SSH agent runs and there is no key in `~/.ssh`; give a `key`",
            )),
        }
    }

    /// What the SSH configuration names. The agent comes first, as it has those with a passphrase.
    async fn files(
        &mut self,
        paths: &[String],
        only_these: bool,
        settings: &SshSettings,
    ) -> Result<bool, SshError> {
        let mut last = None;
        let mut named = Vec::new();
        for path in paths {
            // Without the comment, which the agent may have otherwise.
            named.extend(public_key(&settings.expand(path)).await.map(|it| it.key_data().clone()));
        }
        if let Some(socket) = &settings.agent_socket {
            match self.agent(socket, |it| named.contains(it.key_data())).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(err) => last = Some(err),
            }
        }
        for path in paths {
            let file = settings.expand(path);
            let is_there = tokio::fs::try_exists(&file).await.unwrap_or(true);
            if !is_there || MOST_TRIES <= self.tried.len() {
                continue;
            }
            match self.key_file(&file, path).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(err) => last = Some(err),
            }
        }
        if !only_these && let Some(socket) = &settings.agent_socket {
            match self.agent(socket, |it| !named.contains(it.key_data())).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(err) => last = last.or(Some(err)),
            }
        }
        match last {
            _ if !self.tried.is_empty() => Ok(false),
            Some(err) => Err(err),
            None => Err(self.no_identity(
                Trouble::KeyMissing,
                &format!("none of the keys {} is there; give a `key`", paths.join(", ")),
            )),
        }
    }

    async fn key_file(&mut self, path: &Path, shown: &str) -> Result<bool, SshError> {
        let text = tokio::fs::read_to_string(path).await.map_err(|err| {
            let trouble = match err.kind() {
                std::io::ErrorKind::NotFound => Trouble::KeyMissing,
                _ => Trouble::KeyUnreadable,
            };
            self.no_identity(trouble, &format!("the key `{shown}` cannot be read: {err}"))
        })?;
        let key = match russh::keys::decode_secret_key(&text, None) {
            Ok(it) => it,
            Err(russh::keys::Error::KeyIsEncrypted) => {
                return Err(self.no_identity(
                    Trouble::KeyEncrypted,
                    &format!(
                        "the key `{shown}` has a passphrase; add it to the SSH agent and use that"
                    ),
                ));
            }
            Err(err) => {
                return Err(self.no_identity(
                    Trouble::KeyMalformed,
                    &format!("`{shown}` is not a private key: {err}"),
                ));
            }
        };
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let outcome = self.handle.authenticate_publickey(&self.endpoint.user, key).await;
        let is_in = outcome.map_err(|err| self.failed(err))?.success();
        if !is_in {
            self.tried.push(format!("the key `{shown}`"));
        }
        Ok(is_in)
    }

    /// Offers the agent's keys that are `wanted`.
    async fn agent(
        &mut self,
        socket: &Path,
        wanted: impl Fn(&PublicKey) -> bool,
    ) -> Result<bool, SshError> {
        let silent = |this: &Attempt<'_>, err: russh::keys::Error| {
            this.no_identity(
                Trouble::AgentMissing,
                &format!("the SSH agent does not answer: {err}"),
            )
        };
        let mut agent = AgentClient::connect_uds(socket).await.map_err(|err| silent(self, err))?;
        let identities = agent.request_identities().await.map_err(|err| silent(self, err))?;
        if identities.is_empty() {
            return Err(self.no_identity(
                Trouble::AgentEmpty,
                "the SSH agent holds no key; `ssh-add` adds one",
            ));
        }
        let keys = identities.iter().map(|it| it.public_key().into_owned());
        let keys: Vec<PublicKey> = keys.filter(wanted).collect();
        for key in keys {
            if MOST_TRIES <= self.tried.len() {
                break;
            }
            let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
            let shown = key.fingerprint(HashAlg::Sha256).to_string();
            let user = &self.endpoint.user;
            match self.handle.authenticate_publickey_with(user, key, hash, &mut agent).await {
                Ok(it) if it.success() => return Ok(true),
                Ok(_) => self.tried.push(format!("the agent's key {shown}")),
                Err(err) => self.tried.push(format!("the agent's key {shown} ({err})")),
            }
        }
        Ok(false)
    }

    /// The best the server takes; only keys of RSA leave a choice.
    async fn rsa_hash(&self, is_rsa: bool) -> Result<Option<HashAlg>, SshError> {
        if !is_rsa {
            return Ok(None);
        }
        let best = self.handle.best_supported_rsa_hash().await.map_err(|err| self.failed(err))?;
        Ok(best.unwrap_or(Some(HashAlg::Sha512)))
    }

    fn no_identity(&self, trouble: Trouble, why: &str) -> SshError {
        SshError::NoIdentity { place: self.endpoint.place(), why: why.to_owned(), trouble }
    }

    fn failed(&self, err: russh::Error) -> SshError {
        SshError::from(err).at(&self.endpoint.place(), None)
    }
}

/// Of the key in a file, from the `.pub` beside it or, without a passphrase, from the key itself.
async fn public_key(file: &Path) -> Option<PublicKey> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".pub");
    if let Ok(text) = tokio::fs::read_to_string(PathBuf::from(beside)).await {
        return PublicKey::from_openssh(&text).ok();
    }
    let text = tokio::fs::read_to_string(file).await.ok()?;
    let key = russh::keys::decode_secret_key(&text, None).ok()?;
    Some(key.public_key().clone())
}

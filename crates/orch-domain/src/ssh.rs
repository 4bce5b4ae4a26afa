//! How a machine is reached over SSH, and by what it is known to be the right one. Private keys are named, never kept.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::node::check_host;
use crate::text::excerpt;

pub const DEFAULT_PORT: u16 = 22;
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// A Unix socket on a machine behind SSH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshEndpoint {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub login: SshLogin,
    /// Path of the socket on that machine.
    pub socket: String,
    /// None until the machine was met: nothing but its key is then asked for.
    pub host_key: Option<HostKey>,
}

/// What proves to the machine who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SshLogin {
    /// The agent if one runs, else the key files that `ssh` looks for.
    #[default]
    Usual,
    Agent,
    /// A private key without passphrase, in a file of the machine that this server runs on.
    KeyFile(String),
}

/// The key by which a machine is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostKey {
    pub fingerprint: Fingerprint,
    /// Such as `ssh-ed25519`. A machine has a key of each kind, so that only this kind is asked for; None: any.
    pub algorithm: Option<String>,
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.algorithm {
            Some(algorithm) => write!(f, "{} ({algorithm})", self.fingerprint),
            None => write!(f, "{}", self.fingerprint),
        }
    }
}

/// `SHA256:` and 43 characters of base64, as `ssh-keygen -l` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    pub fn try_new(text: &str) -> Result<Fingerprint, String> {
        let is_base64 = |it: &str| {
            it.len() == 43
                && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        };
        // Some tools pad it.
        let digits = text.strip_prefix("SHA256:").map(|it| it.trim_end_matches('='));
        match digits {
            Some(digits) if is_base64(digits) => Ok(Fingerprint(format!("SHA256:{digits}"))),
            _ => Err(format!(
                "`{}` is not a fingerprint: `SHA256:` and 43 more characters, as `ssh-keygen -lf` prints it",
                excerpt(text, 80)
            )),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;
    fn try_from(text: String) -> Result<Fingerprint, String> {
        Fingerprint::try_new(&text)
    }
}

impl From<Fingerprint> for String {
    fn from(it: Fingerprint) -> String {
        it.0
    }
}

/// Which key a machine may show when it is met for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostTrust {
    /// One that `known_hosts` of this server's user lists.
    Known,
    /// Whatever it shows.
    Any,
    Exactly(Fingerprint),
}

impl SshEndpoint {
    /// `ssh://USER@HOST:PORT`, for people.
    pub fn place(&self) -> String {
        match self.host.contains(':') {
            true => format!("ssh://{}@[{}]:{}", self.user, self.host, self.port),
            false => format!("ssh://{}@{}:{}", self.user, self.host, self.port),
        }
    }

    /// Whether both lead to one socket of one machine, whoever logs in.
    pub fn is_same_engine(&self, other: &SshEndpoint) -> bool {
        let place = |it: &SshEndpoint| {
            let socket = match it.socket.strip_prefix("/var/run/") {
                Some(rest) => format!("/run/{rest}"),
                None => it.socket.clone(),
            };
            (it.host.to_ascii_lowercase(), it.port, socket)
        };
        place(self) == place(other)
    }

    /// The rules that types alone do not carry.
    pub fn check(&self) -> Result<(), Error> {
        check_host("ssh.host", &self.host)?;
        if self.port == 0 {
            return Err(Error::invalid("ssh.port", "`0` is not a port to connect to"));
        }
        let is_name = |it: &str| {
            (1..=64).contains(&it.len())
                && it.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b))
                && !it.starts_with('-')
        };
        if !is_name(&self.user) {
            let shown = excerpt(&self.user, 60);
            return Err(Error::invalid(
                "ssh.user",
                format!("`{shown}` is not a name to log in as"),
            ));
        }
        check_path("ssh.socket", &self.socket, "/var/run/docker.sock", &["/"])?;
        match &self.login {
            SshLogin::KeyFile(path) => {
                check_path("ssh.key", path, "~/.ssh/id_ed25519", &["/", "~/"])
            }
            SshLogin::Usual | SshLogin::Agent => Ok(()),
        }
    }
}

fn check_path(parameter: &str, path: &str, example: &str, roots: &[&str]) -> Result<(), Error> {
    // More does not fit into a Unix socket's address, and nobody's keys are that deep.
    let is_short = path.len() <= 255;
    let is_whole = roots.iter().any(|it| path.starts_with(it) && it.len() < path.len());
    if is_short && is_whole && !path.ends_with('/') && !path.chars().any(char::is_control) {
        return Ok(());
    }
    let shown = excerpt(path, 80);
    Err(Error::invalid(parameter, format!("`{shown}` is not a whole path such as `{example}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> SshEndpoint {
        SshEndpoint {
            host: "10.0.0.7".to_owned(),
            port: DEFAULT_PORT,
            user: "root".to_owned(),
            login: SshLogin::Usual,
            socket: DOCKER_SOCKET.to_owned(),
            host_key: None,
        }
    }

    #[test]
    fn fingerprints_are_what_ssh_keygen_prints() {
        let text = "SHA256:uNiVztksCsDhcc0u9e8BrwDyEKVJ8rZJ1oRwYvPY3xI";
        assert_eq!(Fingerprint::try_new(text).unwrap().as_str(), text);
        assert_eq!(Fingerprint::try_new(&format!("{text}=")).unwrap().as_str(), text);
        for bad in ["", "SHA256:", "MD5:aa:bb", &text[7..], &text[..49], "yes"] {
            assert!(Fingerprint::try_new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_socket_of_one_machine_is_one_engine_whoever_logs_in() {
        let other = SshEndpoint {
            user: "web".to_owned(),
            socket: "/run/docker.sock".to_owned(),
            ..endpoint()
        };
        assert!(endpoint().is_same_engine(&other));
        assert!(!endpoint().is_same_engine(&SshEndpoint { port: 2222, ..endpoint() }));
        let rootless = "/run/user/1000/docker.sock".to_owned();
        assert!(!endpoint().is_same_engine(&SshEndpoint { socket: rootless, ..endpoint() }));
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_the_field() {
        assert!(endpoint().check().is_ok());
        let home = SshLogin::KeyFile("~/.ssh/id_rsa".to_owned());
        assert!(SshEndpoint { login: home, ..endpoint() }.check().is_ok());
        for (bad, field) in [
            (SshEndpoint { host: "-oProxyCommand=x".to_owned(), ..endpoint() }, "ssh.host"),
            (SshEndpoint { port: 0, ..endpoint() }, "ssh.port"),
            (SshEndpoint { user: "-l".to_owned(), ..endpoint() }, "ssh.user"),
            (SshEndpoint { user: String::new(), ..endpoint() }, "ssh.user"),
            (SshEndpoint { socket: "docker.sock".to_owned(), ..endpoint() }, "ssh.socket"),
            (SshEndpoint { socket: "/a\nb".to_owned(), ..endpoint() }, "ssh.socket"),
            (SshEndpoint { login: SshLogin::KeyFile("id".to_owned()), ..endpoint() }, "ssh.key"),
        ] {
            match bad.check() {
                Err(Error::InvalidParameter { parameter, .. }) => assert_eq!(parameter, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }
}

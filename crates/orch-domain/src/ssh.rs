//! How a machine is reached over SSH, and by what it is known to be the right one. Private keys are named, never kept.

mod wanted;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::node::check_host;
use crate::text::excerpt;

pub use wanted::{JumpName, MOST_JUMPS, SshWanted};

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
    /// The machines on the way there, the first of which is reached from here; empty: it is reached from here itself.
    #[serde(default)]
    pub jumps: Vec<SshHop>,
}

/// One SSH server, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshHop {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub login: SshLogin,
    /// None until the machine was met.
    pub host_key: Option<HostKey>,
}

/// What proves to the machine who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SshLogin {
    /// The agent if one runs, else the key files that `ssh` looks for.
    #[default]
    Usual,
    Agent,
    /// A private key without passphrase, in a file of the machine that this server runs on.
    KeyFile(String),
    /// What the SSH configuration names: these files in this order, each by the agent if that has it. One that is not
    /// there is passed over. Unless `only_these`, the agent's other keys are tried as well.
    Files {
        paths: Vec<String>,
        only_these: bool,
    },
}

impl fmt::Display for SshLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SshLogin::Usual => f.write_str("SSH agent or usual keys"),
            SshLogin::Agent => f.write_str("SSH agent"),
            SshLogin::KeyFile(path) => write!(f, "key {path}"),
            SshLogin::Files { paths, only_these: true } => write!(f, "keys {}", paths.join(", ")),
            SshLogin::Files { paths, only_these: false } => {
                write!(f, "keys {} or SSH agent", paths.join(", "))
            }
        }
    }
}

/// The key by which a machine is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostTrust {
    /// One that `known_hosts` of this server's user lists.
    #[default]
    Known,
    /// Whatever it shows.
    Any,
    Exactly(Fingerprint),
    /// One that `known_hosts` lists, or one of these.
    OneOf(Vec<Fingerprint>),
}

/// Which keys the machine itself may show, and those on the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    pub host: HostTrust,
    pub jumps: HostTrust,
}

impl SshHop {
    /// `ssh://USER@HOST:PORT`, for people.
    pub fn place(&self) -> String {
        place(&self.user, &self.host, self.port)
    }

    /// Whether both are one server, whoever logs in.
    pub fn is_same_machine(&self, other: &SshHop) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }

    fn check(&self) -> Result<(), Error> {
        check_host("ssh.jump", &self.host)?;
        if self.port == 0 {
            return Err(Error::invalid("ssh.jump", "`0` is not a port to connect to"));
        }
        check_user("ssh.jump", &self.user)?;
        self.login.check()
    }
}

fn place(user: &str, host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("ssh://{user}@[{host}]:{port}"),
        false => format!("ssh://{user}@{host}:{port}"),
    }
}

impl SshEndpoint {
    /// `ssh://USER@HOST:PORT`, for people.
    pub fn place(&self) -> String {
        place(&self.user, &self.host, self.port)
    }

    /// The last machine of the way.
    pub fn hop(&self) -> SshHop {
        SshHop {
            host: self.host.clone(),
            port: self.port,
            user: self.user.clone(),
            login: self.login.clone(),
            host_key: self.host_key.clone(),
        }
    }

    /// Whether it and all on the way are recognised by their keys.
    pub fn is_met(&self) -> bool {
        self.host_key.is_some() && self.jumps.iter().all(|it| it.host_key.is_some())
    }

    /// Whether both lead to one socket of one machine, whoever logs in. Behind other jumps, the same address may be
    /// another machine.
    pub fn is_same_engine(&self, other: &SshEndpoint) -> bool {
        let socket = |it: &SshEndpoint| match it.socket.strip_prefix("/var/run/") {
            Some(rest) => format!("/run/{rest}"),
            None => it.socket.clone(),
        };
        self.hop().is_same_machine(&other.hop())
            && socket(self) == socket(other)
            && self.jumps.len() == other.jumps.len()
            && self.jumps.iter().zip(&other.jumps).all(|(a, b)| a.is_same_machine(b))
    }

    /// The rules that types alone do not carry.
    pub fn check(&self) -> Result<(), Error> {
        check_host("ssh.host", &self.host)?;
        if self.port == 0 {
            return Err(Error::invalid("ssh.port", "`0` is not a port to connect to"));
        }
        check_user("ssh.user", &self.user)?;
        check_path("ssh.socket", &self.socket, "/var/run/docker.sock", &["/"])?;
        self.login.check()?;
        self.jumps.iter().try_for_each(SshHop::check)
    }
}

impl SshLogin {
    fn check(&self) -> Result<(), Error> {
        let check = |path: &String| check_path("ssh.key", path, "~/.ssh/id_ed25519", &["/", "~/"]);
        match self {
            SshLogin::KeyFile(path) => check(path),
            SshLogin::Files { paths, .. } => paths.iter().try_for_each(check),
            SshLogin::Usual | SshLogin::Agent => Ok(()),
        }
    }
}

fn check_user(parameter: &str, user: &str) -> Result<(), Error> {
    let is_name = (1..=64).contains(&user.len())
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b))
        && !user.starts_with('-');
    if is_name {
        return Ok(());
    }
    let shown = excerpt(user, 60);
    Err(Error::invalid(parameter, format!("`{shown}` is not a name to log in as")))
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
            jumps: Vec::new(),
        }
    }

    #[test]
    fn the_same_address_behind_another_jump_is_another_machine() {
        let jump = |host: &str| SshHop { host: host.to_owned(), ..endpoint().hop() };
        let behind = |host: &str| SshEndpoint { jumps: vec![jump(host)], ..endpoint() };
        assert!(behind("a").is_same_engine(&behind("A")));
        assert!(!behind("a").is_same_engine(&behind("b")));
        assert!(!behind("a").is_same_engine(&endpoint()));
        let key = HostKey {
            fingerprint: Fingerprint::try_new(&format!("SHA256:{}", "A".repeat(43))).unwrap(),
            algorithm: None,
        };
        let half = SshEndpoint { host_key: Some(key.clone()), ..behind("a") };
        assert!(!half.is_met());
        let jumps = vec![SshHop { host_key: Some(key), ..jump("a") }];
        assert!(SshEndpoint { jumps, ..half }.is_met());
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
            (
                SshEndpoint {
                    jumps: vec![SshHop { user: "-l".to_owned(), ..endpoint().hop() }],
                    ..endpoint()
                },
                "ssh.jump",
            ),
        ] {
            match bad.check() {
                Err(Error::InvalidParameter { parameter, .. }) => assert_eq!(parameter, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }
}

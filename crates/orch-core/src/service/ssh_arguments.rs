//! How a machine behind SSH is asked for, in `register_node` and `update_node` alike.

use orch_domain::Error;
use orch_domain::ssh::{
    Fingerprint, HostTrust, JumpName, SshEndpoint, SshHop, SshLogin, SshWanted, Trust,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Orch;

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshArguments {
    /// Who to log in as; what the SSH configuration says, or `root`, unless given.
    pub user: Option<String>,
    /// What the SSH configuration says, or 22, unless given.
    pub port: Option<u16>,
    /// Where its SSH server is, when that is not the node's `address`; may be a name that only the SSH configuration
    /// knows.
    pub host: Option<String>,
    /// Path of a private key without passphrase, on the machine that this server runs on; it is read when needed and
    /// never kept. Without it: what the SSH configuration names, the SSH agent, then the usual files in `~/.ssh`.
    pub key: Option<String>,
    /// Use the SSH agent and nothing else.
    pub agent: Option<bool>,
    /// Which host key the machine may show, unless `known_hosts` lists it: its fingerprint (`SHA256:…`), or `true` for
    /// whatever it shows now. It is strictly compared from then on.
    pub accept_host_key: Option<AcceptHostKey>,
    /// Path of the engine's socket on that machine; `/var/run/docker.sock` unless given.
    pub socket: Option<String>,
    /// Machines to pass on the way, the nearest first, such as `bastion` or `admin@10.0.0.1:2222,inner`; `none` for none,
    /// whatever the SSH configuration says. They are logged in to as the SSH configuration says, else like the machine
    /// itself.
    pub jump: Option<String>,
    /// Which host keys the machines on the way may show, unless `known_hosts` lists them: their fingerprints with commas
    /// between, or `true` for whatever they show now.
    pub accept_jump_host_key: Option<AcceptHostKey>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AcceptHostKey {
    Whatever(bool),
    Fingerprint(String),
}

impl SshArguments {
    /// Which keys the machine and those on the way to it may show.
    pub fn trust(&self) -> Result<Trust, Error> {
        Ok(Trust {
            host: trust("ssh.accept_host_key", self.accept_host_key.as_ref(), false)?,
            jumps: trust("ssh.accept_jump_host_key", self.accept_jump_host_key.as_ref(), true)?,
        })
    }

    fn login(&self) -> Result<Option<SshLogin>, Error> {
        match (&self.key, self.agent) {
            (Some(_), Some(true)) => {
                let message = "either a `key` or the `agent` proves who this server is; give one";
                Err(Error::invalid("ssh.key", message))
            }
            (Some(path), _) => Ok(Some(SshLogin::KeyFile(path.clone()))),
            (None, Some(true)) => Ok(Some(SshLogin::Agent)),
            (None, Some(false)) => Ok(Some(SshLogin::Usual)),
            (None, None) => Ok(None),
        }
    }

    fn jumps(&self) -> Result<Option<Vec<JumpName>>, Error> {
        let invalid = |message| Error::invalid("ssh.jump", message);
        self.jump.as_deref().map(JumpName::parse_list).transpose().map_err(invalid)
    }

    /// The machine `host`, unless another is named here, with what the SSH configuration knows of it.
    pub async fn resolve(self, orch: &Orch, host: String) -> Result<SshEndpoint, Error> {
        let (login, jumps) = (self.login()?, self.jumps()?);
        let wanted = SshWanted {
            host: self.host.unwrap_or(host),
            port: self.port,
            user: self.user,
            login,
            socket: self.socket,
            jumps,
        };
        // What the configuration cannot have said, so that an error names the argument.
        orch_domain::node::check_host("ssh.host", &wanted.host)?;
        resolved(orch, wanted).await
    }

    /// `endpoint` with what is given here in place of what it had. Another machine has to be met anew.
    pub async fn change(self, orch: &Orch, endpoint: SshEndpoint) -> Result<SshEndpoint, Error> {
        let forget = self.accept_host_key.is_some();
        let forget_jumps = self.accept_jump_host_key.is_some();
        let old = endpoint.clone();
        let mut changed = match &self.host {
            Some(host) => {
                let (host, socket) = (host.clone(), Some(endpoint.socket));
                let kept = SshArguments { socket: self.socket.clone().or(socket), ..self };
                kept.resolve(orch, host).await?
            }
            None => {
                let jumps = match self.jumps()? {
                    Some(jumps) => {
                        let wanted = SshWanted {
                            host: endpoint.host.clone(),
                            port: Some(endpoint.port),
                            user: Some(endpoint.user.clone()),
                            login: Some(endpoint.login.clone()),
                            socket: None,
                            jumps: Some(jumps),
                        };
                        resolved(orch, wanted).await?.jumps
                    }
                    None => endpoint.jumps,
                };
                SshEndpoint {
                    login: self.login()?.unwrap_or(endpoint.login),
                    host: endpoint.host,
                    port: self.port.unwrap_or(endpoint.port),
                    user: self.user.unwrap_or(endpoint.user),
                    socket: self.socket.unwrap_or(endpoint.socket),
                    host_key: None,
                    jumps,
                }
            }
        };
        let is_same = changed.hop().is_same_machine(&old.hop());
        changed.host_key = old.host_key.clone().filter(|_| is_same && !forget);
        for jump in &mut changed.jumps {
            let before = old.jumps.iter().find(|it| it.is_same_machine(jump));
            jump.host_key =
                before.and_then(|it: &SshHop| it.host_key.clone()).filter(|_| !forget_jumps);
        }
        changed.check()?;
        Ok(changed)
    }
}

async fn resolved(orch: &Orch, wanted: SshWanted) -> Result<SshEndpoint, Error> {
    let endpoint =
        orch.engines.resolve(wanted).await.map_err(|message| Error::invalid("ssh", message))?;
    endpoint.check()?;
    Ok(endpoint)
}

fn trust(
    parameter: &str,
    accepted: Option<&AcceptHostKey>,
    several: bool,
) -> Result<HostTrust, Error> {
    let invalid = |message| Error::invalid(parameter, message);
    let text = match accepted {
        None | Some(AcceptHostKey::Whatever(false)) => return Ok(HostTrust::Known),
        Some(AcceptHostKey::Whatever(true)) => return Ok(HostTrust::Any),
        Some(AcceptHostKey::Fingerprint(text)) => text,
    };
    match text.as_str() {
        // From a command line or a form, where all is text.
        "true" => Ok(HostTrust::Any),
        "false" => Ok(HostTrust::Known),
        _ if several => {
            let each = text.split(',').map(|it| Fingerprint::try_new(it.trim()));
            each.collect::<Result<_, _>>().map(HostTrust::OneOf).map_err(invalid)
        }
        _ => Fingerprint::try_new(text).map(HostTrust::Exactly).map_err(invalid),
    }
}

//! What kept us from a node's engine, by name: at which level it is, and what somebody can do about it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::health::Level;

/// Declares the kinds once: name on the wire, level, what to do.
macro_rules! troubles {
    ($($(#[$doc:meta])* $variant:ident = $name:literal at $level:ident: $hint:expr;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Trouble {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl Trouble {
            pub const ALL: &[Trouble] = &[$(Trouble::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Trouble::$variant => $name,)+ }
            }

            /// The first level that does not work.
            pub fn level(self) -> Level {
                match self { $(Trouble::$variant => Level::$level,)+ }
            }

            /// What to do about it, for a person.
            pub fn hint(self) -> &'static str {
                match self { $(Trouble::$variant => $hint,)+ }
            }
        }
    };
}

troubles! {
    /// The name is not one that can be resolved.
    NameUnknown = "name-unknown" at Address:
        "check the name for a typing error and that DNS (or `/etc/hosts`) knows it, or give an IP address; \
         `update_node` changes it";
    /// The machine says that nobody listens on that port.
    NothingListens = "nothing-listens" at Address:
        "start the server there (`systemctl start ssh`; for an engine on TCP, `systemctl start docker`), or correct the port";
    /// No packet comes back.
    NoAnswer = "no-answer" at Address:
        "check that the machine is on, that the network or VPN (`tailscale status`) leads there, and that no firewall drops it";
    /// The port is open and the SSH server says nothing.
    Silent = "ssh-silent" at Ssh:
        "the machine takes connections and does nothing with them: it is overloaded, frozen or out of memory; look at its \
         console or restart it";
    /// The connection is closed before anything was agreed on.
    Closed = "ssh-closed" at Ssh:
        "the SSH server drops new connections: too many log in at once (raise `MaxStartups` in its sshd_config), or it refuses \
         this address (`hosts.deny`, fail2ban); its own log says which";
    /// Something answers that is no SSH server, or none that we can talk to.
    NotSsh = "not-ssh" at Ssh:
        "something else than an SSH server may listen there: check the port; an SSH server that old has to be updated";
    HostKeyUnknown = "host-key-unknown" at Ssh:
        "compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on that machine, and give \
         it as `ssh.accept_host_key` (a jump's as `ssh.accept_jump_host_key`)";
    /// Another key than the pinned one.
    HostKeyChanged = "host-key-changed" at Ssh:
        "find out why before anything else: was the machine set up anew, or does somebody answer in its place? Only then \
         accept the new key with `update_node` and `ssh.accept_host_key`";
    LoginRefused = "login-refused" at Ssh:
        "add the public key to `~/.ssh/authorized_keys` of that user on the machine (`ssh-copy-id`), or name another user or \
         key with `update_node`";
    /// There is no agent to ask.
    AgentMissing = "agent-missing" at Ssh:
        "start the server with `SSH_AUTH_SOCK` of a running `ssh-agent`, or name a key file with `ssh.key`";
    AgentEmpty = "agent-empty" at Ssh:
        "give the agent a key with `ssh-add`, or name a key file with `ssh.key`";
    /// No agent, and none of the usual files.
    KeyMissing = "key-missing" at Ssh:
        "make a key with `ssh-keygen` and copy it with `ssh-copy-id`, or correct the path in `ssh.key`; `~/` is the home of \
         whoever runs the server";
    KeyUnreadable = "key-unreadable" at Ssh:
        "let the user that runs the server read the file (`chown`, `chmod 600`)";
    KeyEncrypted = "key-encrypted" at Ssh:
        "the server cannot type a passphrase: add the key to an agent with `ssh-add` and use that, or take a key without one";
    KeyMalformed = "key-malformed" at Ssh:
        "name the private key, not the `.pub` beside it nor a certificate";
    /// The jump is there, and cannot reach the machine behind it.
    JumpCannotReach = "jump-cannot-reach" at Address:
        "check from the jump that the machine answers there (`ssh JUMP nc -vz HOST PORT`)";
    JumpForbids = "jump-forbids" at Ssh:
        "set `AllowTcpForwarding yes` in sshd_config of the jump, and check `PermitOpen`";
    /// The connection ended while it was in use.
    Lost = "ssh-lost" at Ssh:
        "it is made anew by itself; if it is lost again and again, look at the network and at the log of the SSH server";
    SocketMissing = "socket-missing" at Engine:
        "install the engine (`apt-get install docker.io`) and start it (`systemctl start docker`), or name its socket in \
         `ssh.socket` or `endpoint`";
    SocketForbidden = "socket-forbidden" at Engine:
        "let that user use the engine: `sudo usermod -aG docker USER`, then log in anew; the group `docker` is as mighty as root";
    /// The socket is there and nobody listens.
    EngineStopped = "engine-stopped" at Engine:
        "start the engine (`systemctl start docker`, or `dockerd &` as root) and look at its log";
    ForwardingForbidden = "forwarding-forbidden" at Engine:
        "set `AllowStreamLocalForwarding yes` (and not `DisableForwarding`) in sshd_config of the machine";
    /// Reached, and it does not answer in time.
    EngineSilent = "engine-silent" at Engine:
        "the engine, or the way to it, hangs: restart it (`systemctl restart docker`) and look at the machine's load, memory \
         and disk";
    EngineTooOld = "engine-too-old" at Engine:
        "update the engine: Docker 20.10 or later";
    NotDocker = "not-docker" at Engine:
        "something else than Docker listens there: check the socket or the port";
    DiskFull = "disk-full" at Engine:
        "free some space on the machine (`docker system df` shows what takes it)";
    Other = "other" at Engine:
        "look at the log of this server (`--log-level debug`) and of the machine";
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_a_hint() {
        let names: std::collections::HashSet<_> =
            Trouble::ALL.iter().map(|it| it.as_str()).collect();
        assert_eq!(names.len(), Trouble::ALL.len());
        for it in Trouble::ALL {
            assert!(20 < it.hint().len(), "{it}");
            assert_eq!(serde_json::to_value(it).unwrap(), it.as_str());
        }
    }
}

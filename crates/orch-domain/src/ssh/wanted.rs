//! A machine as somebody asked for it: by a name that an SSH configuration may know more about.

use super::SshLogin;
use crate::node::check_host;
use crate::text::excerpt;

/// More machines on the way than anybody has; a configuration that names more refers to itself.
pub const MOST_JUMPS: usize = 8;

/// What is `None` is left to the SSH configuration, and then to the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshWanted {
    /// An address, a name, or a name that only the SSH configuration knows.
    pub host: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub login: Option<SshLogin>,
    pub socket: Option<String>,
    /// Empty: there are none, whatever the configuration says.
    pub jumps: Option<Vec<JumpName>>,
}

/// A machine on the way, as `ProxyJump` of an SSH configuration writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JumpName {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
}

impl JumpName {
    /// `[USER@]HOST[:PORT]` or `ssh://[USER@]HOST[:PORT]`.
    pub fn parse(text: &str) -> Result<JumpName, String> {
        let refuse = || {
            let shown = excerpt(text, 80);
            format!("`{shown}` is not a machine such as `bastion` or `user@10.0.0.1:2222`")
        };
        let rest = text.trim();
        let rest = rest.strip_prefix("ssh://").unwrap_or(rest).trim_end_matches('/');
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, rest),
        };
        let bracketed = rest.strip_prefix('[').and_then(|it| it.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(refuse)?)),
            // A bare address with several colons is one of IPv6 and has no port.
            None if 1 < rest.matches(':').count() => (rest, None),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = port.map(str::parse::<u16>).transpose().map_err(|_| refuse())?;
        check_host("ssh.jump", host).map_err(|_| refuse())?;
        if port == Some(0) || user.as_ref().is_some_and(String::is_empty) {
            return Err(refuse());
        }
        Ok(JumpName { user, host: host.to_owned(), port })
    }

    /// Several with commas between, in the order they are passed; `none` and nothing at all are none.
    pub fn parse_list(text: &str) -> Result<Vec<JumpName>, String> {
        if text.trim().is_empty() || text.trim().eq_ignore_ascii_case("none") {
            return Ok(Vec::new());
        }
        let jumps: Vec<JumpName> =
            text.split(',').map(JumpName::parse).collect::<Result<_, _>>()?;
        match jumps.len() {
            0..=MOST_JUMPS => Ok(jumps),
            n => Err(format!("{n} jumps; at most {MOST_JUMPS} are allowed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_written_as_ssh_has_them() {
        let jump = |user: Option<&str>, host: &str, port| JumpName {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
        };
        for (text, wanted) in [
            ("bastion", jump(None, "bastion", None)),
            ("a@b:2222", jump(Some("a"), "b", Some(2222))),
            ("ssh://a@b:22/", jump(Some("a"), "b", Some(22))),
            ("a@[fd00::1]:22", jump(Some("a"), "fd00::1", Some(22))),
            ("[fd00::1]", jump(None, "fd00::1", None)),
            ("fd00::1", jump(None, "fd00::1", None)),
            ("a@corp@b", jump(Some("a@corp"), "b", None)),
        ] {
            assert_eq!(JumpName::parse(text), Ok(wanted), "{text}");
        }
        for bad in
            ["", "@b", "a@", "b:0", "b:x", "b:99999", "-oProxyCommand=x", "a b", "[fd00::1]2"]
        {
            assert!(JumpName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(JumpName::parse_list("a, b@c:1").unwrap().len(), 2);
        for none in ["", "none", " None "] {
            assert_eq!(JumpName::parse_list(none), Ok(Vec::new()));
        }
        assert!(JumpName::parse_list("a,,b").is_err());
        assert!(JumpName::parse_list(&["a"; 9].join(",")).unwrap_err().contains("at most 8"));
    }
}

//! Named sets of servers and tools, each an endpoint of its own, so that a client sees ten tools and not three hundred.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::{Caller, Permission};
use orch_domain::text;
use wildmatch::WildMatch;

use crate::names::{Dialect, canonical};

/// The server that our own operations are tools of.
pub const OWN: &str = "orch";

/// What a client of a lazy profile is shown. By them it finds and calls all the rest.
pub const LAZY_TOOLS: [&str; 2] = ["search_tools", "call_tool"];

#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The last segment of its path.
    pub name: String,
    /// What it is for; clients are told.
    pub description: String,
    /// Patterns with `*` and `?`, of servers.
    pub servers: Vec<WildMatch>,
    /// Patterns of canonical names. Empty: all tools.
    pub allow: Vec<WildMatch>,
    /// Taken from those.
    pub deny: Vec<WildMatch>,
    /// Whether our own operations are there too, as far as the patterns go.
    pub own: bool,
    /// Whether clients find tools instead of having them listed.
    pub lazy: bool,
    /// The one server whose endpoint it is as if there were nothing between.
    pub transparent: Option<String>,
    pub dialect: Dialect,
    /// The most that anybody may do here. None: what the caller may.
    pub permissions: Option<Vec<Permission>>,
}

impl Profile {
    pub fn shows_server(&self, server: &str) -> bool {
        match &self.transparent {
            Some(only) => only == server,
            None => self.servers.iter().any(|it| it.matches(server)),
        }
    }

    /// Of a server behind, or of our own.
    pub fn shows_tool(&self, server: &str, tool: &str) -> bool {
        let has_server = if server == OWN { self.own } else { self.shows_server(server) };
        if !has_server || (self.allow.is_empty() && self.deny.is_empty()) {
            return has_server;
        }
        let name = canonical(server, tool);
        let is_in = |patterns: &[WildMatch]| patterns.iter().any(|it| it.matches(&name));
        (self.allow.is_empty() || is_in(&self.allow)) && !is_in(&self.deny)
    }

    /// The caller with what it may do here.
    pub fn admit(&self, mut caller: Caller) -> Caller {
        if let Some(most) = &self.permissions {
            caller.permissions = most.iter().copied().filter(|it| caller.may(*it)).collect();
        }
        caller
    }
}

/// By name. They do not change while the process runs.
#[derive(Clone, Debug, Default)]
pub struct Profiles(BTreeMap<String, Arc<Profile>>);

impl Profiles {
    pub fn new(profiles: impl IntoIterator<Item = Profile>) -> Profiles {
        Profiles(profiles.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Result<&Arc<Profile>, Error> {
        self.0.get(name).ok_or_else(|| {
            let names: Vec<String> = self.names().map(|it| format!("`{it}`")).collect();
            let hint = match &names[..] {
                [] => "no profiles are configured; `gateway.profiles` in the configuration file has them".to_owned(),
                _ => format!("there is {}", names.join(", ")),
            };
            Error::NotFound { kind: "profile", id: text::excerpt(name, 60), hint }
        })
    }
}

/// Whether it can be the segment of a path and a flag of the command line.
pub fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use orch_domain::caller::Channel;
    use orch_domain::name::UserId;

    use super::*;

    fn patterns(them: &[&str]) -> Vec<WildMatch> {
        them.iter().map(|it| WildMatch::new(it)).collect()
    }

    #[test]
    fn patterns_choose_servers_and_tools() {
        let profile = Profile {
            servers: patterns(&["git*"]),
            allow: patterns(&["github.*", "orch.list_*"]),
            deny: patterns(&["*.delete_*", "*secret*"]),
            ..Profile::default()
        };
        assert!(profile.shows_tool("github", "create_issue"));
        assert!(!profile.shows_tool("github", "delete_repository"));
        assert!(!profile.shows_tool("github", "list_secrets"));
        assert!(!profile.shows_tool("gitlab", "create_issue"), "not allowed");
        assert!(!profile.shows_tool("slack", "github.x"), "not its server");
        assert!(!profile.shows_tool(OWN, "list_nodes"));
        let profile = Profile { own: true, ..profile };
        assert!(profile.shows_tool(OWN, "list_nodes"));
        assert!(!profile.shows_tool(OWN, "launch_instance"));
        let profile = Profile { transparent: Some("slack".to_owned()), ..Profile::default() };
        assert!(profile.shows_server("slack") && !profile.shows_server("github"));
    }

    #[test]
    fn permissions_are_an_upper_bound() {
        let caller = |permissions: &[Permission]| {
            let user = UserId::try_new("user-a").unwrap();
            Caller::new(user, permissions.to_vec(), Channel::Mcp)
        };
        let bound = Profile {
            permissions: Some(vec![Permission::Read, Permission::Execute]),
            ..Profile::default()
        };
        let admin = bound.admit(caller(&[Permission::Admin]));
        assert!(admin.may(Permission::Execute) && !admin.may(Permission::Write));
        assert!(!admin.is_admin());
        assert_eq!(bound.admit(caller(&[Permission::Read])).permissions, [Permission::Read]);
        let writer = caller(&[Permission::Write]);
        assert_eq!(Profile::default().admit(writer.clone()), writer);
    }

    #[test]
    fn an_unknown_profile_is_told_the_known_ones() {
        let named = |name: &str| Profile { name: name.to_owned(), ..Profile::default() };
        let err = Profiles::new([named("b"), named("a")]).get("c").unwrap_err().to_string();
        assert!(err.contains("`c`") && err.contains("`a`, `b`"), "{err}");
        assert!(is_name("web-1_x") && !is_name("a/b") && !is_name(""));
    }
}

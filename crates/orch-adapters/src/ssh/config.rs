//! What the SSH configuration of this server's user says of a machine, so that it is reached as `ssh` reaches it.
//!
//! The library does not know `Match` and is strict with values that are of no use here. So the file is sifted before it
//! reads it: only the keywords below, `Match` as a `Host` where it can be one and as a block for nobody where not. The
//! files of `Include` it reads itself.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use orch_domain::ssh::{
    DEFAULT_PORT, DOCKER_SOCKET, JumpName, MOST_JUMPS, SshEndpoint, SshHop, SshLogin, SshWanted,
};
use ssh2_config::{HostParams, ParseRule, SshConfig};

use super::SshSettings;

const KEYWORDS: [&str; 9] = [
    "host",
    "include",
    "hostname",
    "user",
    "port",
    "identityfile",
    "identitiesonly",
    "proxyjump",
    "proxycommand",
];

/// `wanted` with what the configuration adds where it is silent. The error is a sentence for whoever asked.
pub fn resolve(wanted: SshWanted, settings: &SshSettings) -> Result<SshEndpoint, String> {
    let config = read(settings)?;
    let said = config.of(&wanted.host)?;
    let host = said.host_name.clone();
    let user = wanted.user.or(said.user.clone()).unwrap_or_else(|| "root".to_owned());
    let others = Others { user: &user, login: wanted.login.as_ref() };
    let jumps = match &wanted.jumps {
        Some(names) => config.way(names, &others, 0)?,
        None => config.way(&said.jumps()?, &others, 0)?,
    };
    let login = wanted.login.clone().or_else(|| said.login(&user, settings)).unwrap_or_default();
    Ok(SshEndpoint {
        host,
        port: wanted.port.or(said.params.port).unwrap_or(DEFAULT_PORT),
        login,
        socket: wanted.socket.unwrap_or_else(|| DOCKER_SOCKET.to_owned()),
        host_key: None,
        jumps,
        user,
    })
}

/// What a machine on the way is logged in with when the configuration does not say.
struct Others<'a> {
    user: &'a str,
    login: Option<&'a SshLogin>,
}

struct Config<'a> {
    parsed: SshConfig,
    shown: String,
    settings: &'a SshSettings,
}

/// What it says of one name.
struct Said {
    name: String,
    host_name: String,
    user: Option<String>,
    params: HostParams,
}

fn read(settings: &SshSettings) -> Result<Config<'_>, String> {
    let path = settings.config.clone().or_else(|| settings.dot_ssh("config"));
    let shown = path.as_ref().map_or_else(String::new, |it| it.display().to_string());
    let text = match path.as_deref().map(fs_err::read) {
        None => String::new(),
        Some(Ok(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        Some(Err(err))
            if err.kind() == std::io::ErrorKind::NotFound && settings.config.is_none() =>
        {
            String::new()
        }
        Some(Err(err)) => return Err(format!("the SSH configuration cannot be read: {err}")),
    };
    let home = settings.home.clone().unwrap_or_else(|| PathBuf::from("/"));
    let rules = ParseRule::ALLOW_UNKNOWN_FIELDS | ParseRule::ALLOW_UNSUPPORTED_FIELDS;
    let parsed = SshConfig::default().home_dir(home).parse(&mut sifted(&text).as_bytes(), rules);
    let parsed = parsed.map_err(|err| {
        format!(
            "the SSH configuration `{shown}`, or a file that it includes, is not understood: {err}"
        )
    })?;
    Ok(Config { parsed, shown, settings })
}

/// The lines that matter, each keyword once per block: of several values `ssh` takes the first.
fn sifted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut given = HashSet::new();
    for line in text.lines().map(str::trim) {
        let end = line.find(|it: char| it.is_whitespace() || it == '=').unwrap_or(line.len());
        let (keyword, rest) = (line[..end].to_ascii_lowercase(), &line[end..]);
        let value = rest.trim_start().trim_start_matches('=').trim();
        match keyword.as_str() {
            "match" => {
                given.clear();
                out.push_str(&format!("Host {}\n", as_host(value)));
            }
            "host" | "include" => {
                given.clear();
                out.push_str(&format!("{keyword} {value}\n"));
            }
            "identityfile" => out.push_str(&format!("{keyword} {value}\n")),
            // A list with blanks would end at the first.
            "proxyjump" if given.insert(keyword.clone()) => {
                let value = value.split('#').next().unwrap_or_default().replace(' ', "");
                out.push_str(&format!("{keyword} {value}\n"));
            }
            it if KEYWORDS.contains(&it) && given.insert(keyword.clone()) => {
                out.push_str(&format!("{keyword} {value}\n"));
            }
            _ => {}
        }
    }
    out
}

/// The patterns of a `Match` that asks for nothing but the name; a pattern that nobody has for any other.
fn as_host(criteria: &str) -> String {
    let words: Vec<&str> = criteria.split_whitespace().collect();
    match words.as_slice() {
        [all] if all.eq_ignore_ascii_case("all") => "*".to_owned(),
        [kind, patterns]
            if ["host", "originalhost"].contains(&kind.to_ascii_lowercase().as_str()) =>
        {
            patterns.trim_matches('"').replace(',', " ")
        }
        _ => "!*".to_owned(),
    }
}

impl Config<'_> {
    fn of(&self, name: &str) -> Result<Said, String> {
        let has_match = |it: &&ssh2_config::Host| {
            it.params.ignored_fields.keys().any(|key| key.eq_ignore_ascii_case("match"))
        };
        if self.parsed.intersecting_hosts(name).any(|it| has_match(&it)) {
            return Err(format!(
                "a file that the SSH configuration `{}` includes has a `Match`, which is understood in that file itself \
                 only; move it there, or make it a `Host`",
                self.shown
            ));
        }
        let params = self.parsed.query(name);
        let host_name = params
            .host_name
            .as_deref()
            .map_or_else(|| name.to_owned(), |it| it.replace("%h", name).replace("%%", "%"));
        Ok(Said { name: name.to_owned(), host_name, user: params.user.clone(), params })
    }

    /// The machines of `names`, and before the first those that it is itself behind.
    fn way(
        &self,
        names: &[JumpName],
        others: &Others<'_>,
        depth: usize,
    ) -> Result<Vec<SshHop>, String> {
        let mut way = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let said = self.of(&name.host)?;
            if i == 0 {
                let before = said.jumps()?;
                if !before.is_empty() && MOST_JUMPS <= depth {
                    return Err(format!(
                        "`ProxyJump` of `{}` in the SSH configuration `{}` leads in a circle",
                        name.host, self.shown
                    ));
                }
                way = self.way(&before, others, depth + 1)?;
            }
            let user = name.user.clone().or(said.user.clone());
            let user = user.unwrap_or_else(|| others.user.to_owned());
            let login = said.login(&user, self.settings).or_else(|| others.login.cloned());
            way.push(SshHop {
                host: said.host_name,
                port: name.port.or(said.params.port).unwrap_or(DEFAULT_PORT),
                login: login.unwrap_or_default(),
                host_key: None,
                user,
            });
        }
        match way.len() {
            0..=MOST_JUMPS => Ok(way),
            n => Err(format!("{n} machines on the way; at most {MOST_JUMPS} are allowed")),
        }
    }
}

impl Said {
    /// Those of `ProxyJump`. One through itself is none: it comes from a `Host *` that means all others.
    fn jumps(&self) -> Result<Vec<JumpName>, String> {
        let written = self.params.proxy_jump.clone().unwrap_or_default().join(",");
        let names = JumpName::parse_list(&written)?;
        if names.iter().any(|it| it.host == self.name || it.host == self.host_name) {
            return Ok(Vec::new());
        }
        let command = self.params.unsupported_fields.iter();
        let mut command = command.filter(|(key, _)| key.eq_ignore_ascii_case("proxycommand"));
        if names.is_empty()
            && self.params.proxy_jump.is_none()
            && command
                .any(|(_, words)| !words.first().is_none_or(|it| it.eq_ignore_ascii_case("none")))
        {
            return Err(format!(
                "the SSH configuration reaches `{}` by a `ProxyCommand`, which is not run here; name the machines on the \
                 way in `ProxyJump` or `ssh.jump` (`none` for none)",
                self.name
            ));
        }
        Ok(names)
    }

    fn login(&self, user: &str, settings: &SshSettings) -> Option<SshLogin> {
        let home = settings.home.as_deref().unwrap_or(Path::new("/")).display().to_string();
        let files = self.params.identity_file.iter().flatten();
        let paths: Vec<String> = files
            .map(|it| it.display().to_string())
            .filter(|it| !it.eq_ignore_ascii_case("none"))
            .map(|it| it.replace("%d", &home).replace("%h", &self.host_name).replace("%r", user))
            .map(|it| it.replace("%%", "%"))
            .collect();
        let only = self.params.unsupported_fields.iter();
        let only_these = only
            .filter(|(key, _)| key.eq_ignore_ascii_case("identitiesonly"))
            .any(|(_, words)| words.first().is_some_and(|it| it.eq_ignore_ascii_case("yes")));
        (!paths.is_empty()).then_some(SshLogin::Files { paths, only_these })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(config: &str) -> Home {
            let home = Home(tempfile::tempdir().unwrap());
            home.write("config", config);
            home
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(".ssh").join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }

        fn settings(&self) -> SshSettings {
            SshSettings { home: Some(self.0.path().to_owned()), ..SshSettings::default() }
        }

        fn ask(&self, wanted: SshWanted) -> Result<SshEndpoint, String> {
            resolve(wanted, &self.settings())
        }

        fn of(&self, host: &str) -> Result<SshEndpoint, String> {
            self.ask(SshWanted { host: host.to_owned(), ..SshWanted::default() })
        }

        fn way(&self, host: &str) -> Vec<String> {
            self.of(host).unwrap().jumps.iter().map(SshHop::place).collect()
        }
    }

    #[test]
    fn a_name_stands_for_what_the_configuration_says() {
        let home = Home::new(
            "# mine\nHost gpu-* !gpu-old\n  HostName %h.example\n\tUser=ann\n  Port 2222\n  Port 9\n\
             \tIdentityFile ~/.ssh/one\n  IdentityFile \"%d/two words\"\n  IdentitiesOnly yes\n\
               AddKeysToAgent confirm\n  ServerAliveInterval 1m\n\nHost *\n  User bob\n",
        );
        let gpu = home.of("gpu-1").unwrap();
        assert_eq!(gpu.place(), "ssh://ann@gpu-1.example:2222");
        let dir = home.0.path().display();
        let paths = vec![format!("{dir}/.ssh/one"), format!("{dir}/two words")];
        assert_eq!(gpu.login, SshLogin::Files { paths, only_these: true });
        let old = home.of("gpu-old").unwrap();
        assert_eq!((old.place(), old.login), ("ssh://bob@gpu-old:22".to_owned(), SshLogin::Usual));

        // What is asked for weighs more.
        let asked = SshWanted {
            host: "gpu-1".to_owned(),
            port: Some(22),
            user: Some("root".to_owned()),
            login: Some(SshLogin::Agent),
            ..SshWanted::default()
        };
        let asked = home.ask(asked).unwrap();
        assert_eq!(asked.place(), "ssh://root@gpu-1.example:22");
        assert_eq!(asked.login, SshLogin::Agent);
    }

    #[test]
    fn without_a_configuration_the_name_is_the_host() {
        let home = Home(tempfile::tempdir().unwrap());
        let plain = home.of("10.0.0.7").unwrap();
        assert_eq!(plain.place(), "ssh://root@10.0.0.7:22");
        assert_eq!((plain.login, plain.jumps), (SshLogin::Usual, Vec::new()));
        let named = SshSettings { config: Some(home.0.path().join("none")), ..home.settings() };
        let wanted = SshWanted { host: "a".to_owned(), ..SshWanted::default() };
        assert!(resolve(wanted, &named).unwrap_err().contains("cannot be read"));
        assert!(resolve(SshWanted::default(), &SshSettings::default()).is_ok());
    }

    #[test]
    fn included_files_count_where_they_are_included() {
        let home = Home::new("Include conf.d/*\nHost late\n  User late\n");
        home.write("conf.d/one", "Host inner\n  HostName 10.0.0.1\n  User first\n");
        home.write("conf.d/two", "Host inner\n  User second\n  Port 2\n");
        assert_eq!(home.of("inner").unwrap().place(), "ssh://first@10.0.0.1:2");
        assert_eq!(home.of("late").unwrap().user, "late");
        home.write("conf.d/three", "Match user x\n  Port 3\n");
        assert!(home.of("late").unwrap_err().contains("`Match`"));
        home.write("conf.d/three", "Port three\n");
        assert!(home.of("late").unwrap_err().contains("expected port"));
    }

    #[test]
    fn a_match_is_a_host_or_nobody() {
        let home = Home::new(
            "Match exec \"true\" host *\n  ProxyJump evil\nMatch host a,b\n  User ab\nMatch all\n  Port 7\n",
        );
        assert_eq!(home.of("a").unwrap().place(), "ssh://ab@a:7");
        assert_eq!(home.of("c").unwrap().place(), "ssh://root@c:7");
        assert_eq!(home.way("a"), [""; 0]);
    }

    #[test]
    fn the_way_is_what_proxy_jump_says() {
        let home = Home::new(
            "Host inner\n  ProxyJump far, ann@near2:2222\nHost far\n  HostName 10.0.0.9\n  ProxyJump near\n\
             Host near\n  User ned\n  IdentityFile /keys/near\nHost direct\n  ProxyJump none\nHost *\n  ProxyJump near\n",
        );
        let way = ["ssh://ned@near:22", "ssh://root@10.0.0.9:22", "ssh://ann@near2:2222"];
        assert_eq!(home.way("inner"), way);
        assert_eq!(home.way("direct"), [""; 0]);
        assert_eq!(home.way("near"), [""; 0], "nobody is behind itself");
        let wanted = SshWanted {
            host: "inner".to_owned(),
            login: Some(SshLogin::KeyFile("/k".to_owned())),
            jumps: Some(JumpName::parse_list("direct").unwrap()),
            ..SshWanted::default()
        };
        let asked = home.ask(wanted.clone()).unwrap();
        assert_eq!(asked.jumps.len(), 1);
        assert_eq!(asked.jumps[0].login, SshLogin::KeyFile("/k".to_owned()));
        let none = SshWanted { jumps: Some(Vec::new()), ..wanted };
        assert_eq!(home.ask(none).unwrap().jumps, []);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let home = Home::new(
            "Host a\n  ProxyCommand ssh -W %h:%p b\nHost b\n  ProxyCommand none\n\
             Host c\n  ProxyJump d\nHost d\n  ProxyJump c\n",
        );
        assert!(home.of("a").unwrap_err().contains("`ProxyCommand`"));
        assert!(home.of("b").is_ok());
        assert!(home.of("c").unwrap_err().contains("in a circle"));
        let direct =
            SshWanted { host: "a".to_owned(), jumps: Some(Vec::new()), ..SshWanted::default() };
        assert!(home.ask(direct).is_ok());
    }
}

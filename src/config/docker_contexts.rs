//! Engines that Docker's own client knows: its contexts, and `DOCKER_HOST`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use orch_domain::name::NodeId;
use orch_domain::ssh::JumpName;
use orch_domain::text::excerpt;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Env;
use super::nodes_file::{NodeEntry, Plan};

const NO_TLS: &str = "it wants TLS with client certificates, which is not supported; reach it as `ssh://USER@HOST`, or over \
                      plain TCP on a network you trust";

/// `meta.json` of a context; only what is used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    name: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Metadata {
    description: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(default)]
    host: String,
}

/// The contexts of this user, by name. None at all is an error, as somebody asked for them.
pub fn read(env: &dyn Env) -> anyhow::Result<Vec<NodeEntry>> {
    let folder = folder(env)?.join("contexts/meta");
    let mut entries = Vec::new();
    if folder.is_dir() {
        for context in fs_err::read_dir(&folder)? {
            let path = context?.path();
            if path.join("meta.json").is_file() {
                entries.push(context_in(&path));
            }
        }
    }
    if entries.is_empty() {
        bail!(
            "Docker has no contexts in `{}`\n\
             hint: `docker context ls` lists them; `DOCKER_CONFIG` says where they are, when that is not `~/.docker`",
            folder.display()
        );
    }
    entries.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(entries)
}

/// The engine of `DOCKER_HOST`.
pub fn docker_host(env: &dyn Env) -> anyhow::Result<NodeEntry> {
    let set = |name: &str| env.get(name).filter(|it| !it.is_empty());
    let host = set("DOCKER_HOST").context(
        "`DOCKER_HOST` is not set\nhint: it is such as `ssh://root@10.0.0.7` or `tcp://10.0.0.7:2375`",
    )?;
    let is_tls = set("DOCKER_TLS_VERIFY").is_some() || set("DOCKER_TLS").is_some();
    let id = match host.split_once("://") {
        Some(("unix", _)) => "docker-host".to_owned(),
        Some((_, rest)) => {
            let place = rest.split('/').next().unwrap_or_default();
            let name =
                JumpName::parse(place).map_or_else(|_| "docker-host".to_owned(), |it| it.host);
            node_id(&name)
        }
        None => "docker-host".to_owned(),
    };
    let plan = plan(&id, &host, is_tls, "");
    Ok(NodeEntry { id, plan })
}

fn folder(env: &dyn Env) -> anyhow::Result<PathBuf> {
    let set = |name: &str| env.get(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG").or_else(|| set("HOME").map(|it| it.join(".docker"))).context(
        "neither `DOCKER_CONFIG` nor `HOME` is set, so nobody knows where Docker's contexts are",
    )
}

fn context_in(path: &Path) -> NodeEntry {
    let read = || -> anyhow::Result<Meta> {
        Ok(serde_json::from_str(&fs_err::read_to_string(path.join("meta.json"))?)?)
    };
    let hash = path.file_name().map_or_else(String::new, |it| it.to_string_lossy().into_owned());
    let meta = match read() {
        Ok(it) => it,
        Err(err) => {
            let why = format!("`{}` cannot be read: {err}", path.join("meta.json").display());
            return NodeEntry { id: excerpt(&hash, 12), plan: Plan::Skip(why) };
        }
    };
    // Beside `meta`, under the same name.
    let tls = path.ancestors().nth(2).map(|it| it.join("tls").join(&hash).join("docker"));
    let has_tls = tls.is_some_and(|it| it.is_dir());
    let id = node_id(&meta.name);
    let plan = match meta.endpoints.docker.filter(|it| !it.host.is_empty()) {
        Some(it) => plan(&id, &it.host, has_tls, &meta.metadata.description),
        None => Plan::Skip("it has no Docker endpoint".to_owned()),
    };
    NodeEntry { id, plan }
}

/// What a node may be called, as near to `name` as can be.
fn node_id(name: &str) -> String {
    if NodeId::try_new(name).is_ok() {
        return name.to_owned();
    }
    let plain: String = name
        .chars()
        .map(|it| if it.is_ascii_alphanumeric() { it.to_ascii_lowercase() } else { '-' })
        .take(60)
        .collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "docker".to_owned() } else { plain.to_owned() }
}

/// What becomes of an endpoint as Docker's client writes it.
fn plan(id: &str, host: &str, is_tls: bool, description: &str) -> Plan {
    let mut arguments =
        Map::from_iter([("id".to_owned(), json!(id)), ("engine".to_owned(), json!("docker"))]);
    let description = excerpt(&orch_domain::text::sanitize(description).replace('\n', " "), 190);
    if !description.trim().is_empty() {
        arguments.insert("description".to_owned(), description.trim().into());
    }
    let mut set = |name: &str, value: Value| drop(arguments.insert(name.to_owned(), value));
    let shown = excerpt(host, 80);
    match host.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => {
            set("hostname", json!("localhost"));
            set("endpoint", json!(host));
        }
        Some(("tcp", _)) if is_tls => return Plan::Skip(NO_TLS.to_owned()),
        Some(("tcp", place)) => match JumpName::parse(place.trim_end_matches('/')) {
            Ok(JumpName { user: None, host: name, port: Some(_) }) => {
                set("hostname", json!(name));
                set("endpoint", json!(format!("tcp://{}", place.trim_end_matches('/'))));
            }
            _ => return Plan::Skip(format!("`{shown}` is not such as `tcp://10.0.0.7:2375`")),
        },
        Some(("https", _)) => return Plan::Skip(NO_TLS.to_owned()),
        Some(("ssh", rest)) => {
            let (place, path) = match rest.split_once('/') {
                Some((place, path)) if !path.is_empty() => (place, Some(format!("/{path}"))),
                Some((place, _)) => (place, None),
                None => (rest, None),
            };
            let Ok(place) = JumpName::parse(place) else {
                return Plan::Skip(format!("`{shown}` is not such as `ssh://root@10.0.0.7:22`"));
            };
            let mut ssh = Map::new();
            ssh.extend(place.user.map(|it| ("user".to_owned(), json!(it))));
            ssh.extend(place.port.map(|it| ("port".to_owned(), json!(it))));
            ssh.extend(path.map(|it| ("socket".to_owned(), json!(it))));
            set("hostname", json!(place.host));
            set("address", json!(place.host));
            set("ssh", Value::Object(ssh));
        }
        Some((scheme @ ("npipe" | "fd"), _)) => {
            return Plan::Skip(format!(
                "an engine at `{scheme}://` is reached by its own machine only"
            ));
        }
        _ => {
            return Plan::Skip(format!("`{shown}` is neither `unix://` nor `tcp://` nor `ssh://`"));
        }
    }
    Plan::Register(arguments)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn planned(host: &str, is_tls: bool) -> Result<Value, String> {
        match plan("n", host, is_tls, "") {
            Plan::Register(mut it) => {
                it.remove("id");
                it.remove("engine");
                Ok(Value::Object(it))
            }
            Plan::Skip(why) => Err(why),
        }
    }

    #[test]
    fn endpoints_of_docker_become_arguments() {
        let unix = json!({"hostname": "localhost", "endpoint": "unix:///run/d.sock"});
        assert_eq!(planned("unix:///run/d.sock", false), Ok(unix));
        let tcp = json!({"hostname": "10.0.0.7", "endpoint": "tcp://10.0.0.7:2375"});
        assert_eq!(planned("tcp://10.0.0.7:2375/", false), Ok(tcp));
        let ssh = json!({"hostname": "h", "address": "h", "ssh": {}});
        assert_eq!(planned("ssh://h", false), Ok(ssh.clone()));
        assert_eq!(planned("ssh://h/", false), Ok(ssh));
        let ssh = json!({
            "hostname": "h", "address": "h", "ssh": {"user": "ann", "port": 2222, "socket": "/run/user/1/docker.sock"}
        });
        assert_eq!(planned("ssh://ann@h:2222/run/user/1/docker.sock", true), Ok(ssh));
    }

    #[test]
    fn what_cannot_be_reached_is_skipped_with_the_reason() {
        for (host, is_tls, why) in [
            ("tcp://10.0.0.7:2376", true, "TLS"),
            ("https://10.0.0.7:2376", false, "TLS"),
            ("tcp://10.0.0.7", false, "2375"),
            ("npipe:////./pipe/docker_engine", false, "its own machine"),
            ("ssh://", false, "ssh://root@"),
            ("ssh://a b", false, "ssh://root@"),
            ("gopher://x", false, "neither"),
            ("", false, "neither"),
        ] {
            let said = planned(host, is_tls).unwrap_err();
            assert!(said.contains(why), "{host}: {said}");
        }
    }

    #[test]
    fn contexts_are_read_where_docker_keeps_them() {
        let home = tempfile::tempdir().unwrap();
        let env = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let write = |path: &str, text: &str| {
            let path = home.path().join(".docker/contexts").join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        let user = env(&[("HOME", home.path().to_str().unwrap())]);
        assert!(read(&user).err().unwrap().to_string().contains("no contexts"));
        let ssh = r#"{"Name": "Lab 1", "Metadata": {"Description": "under\nthe desk"},
                      "Endpoints": {"docker": {"Host": "ssh://ann@lab", "SkipTLSVerify": false}}}"#;
        write("meta/aa/meta.json", ssh);
        write(
            "meta/bb/meta.json",
            r#"{"Name": "prod", "Endpoints": {"docker": {"Host": "tcp://p:2376"}}}"#,
        );
        write("tls/bb/docker/ca.pem", "");
        write("meta/cc/meta.json", r#"{"Name": "k8s", "Endpoints": {"kubernetes": {}}}"#);
        write("meta/dd/meta.json", "{");
        let entries = read(&user).unwrap();
        let ids: Vec<&str> = entries.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["dd", "k8s", "lab-1", "prod"]);
        let Plan::Register(lab) = &entries[2].plan else { panic!("it is behind SSH") };
        assert_eq!(
            (&lab["description"], &lab["ssh"]),
            (&json!("under the desk"), &json!({"user": "ann"}))
        );
        for (i, part) in [(0, "cannot be read"), (1, "no Docker endpoint"), (3, "TLS")] {
            let Plan::Skip(why) = &entries[i].plan else { panic!("{}", entries[i].id) };
            assert!(why.contains(part), "{why}");
        }

        assert!(docker_host(&user).err().unwrap().to_string().contains("is not set"));
        let set = env(&[("DOCKER_HOST", "ssh://root@10.0.0.7:2222")]);
        let entry = docker_host(&set).unwrap();
        assert_eq!(
            entry.id,
            "10.0.0.7".replace('.', if NodeId::try_new("10.0.0.7").is_ok() { "." } else { "-" })
        );
        let tls = env(&[("DOCKER_HOST", "tcp://h:2376"), ("DOCKER_TLS_VERIFY", "1")]);
        assert!(matches!(docker_host(&tls).unwrap().plan, Plan::Skip(_)));
    }
}

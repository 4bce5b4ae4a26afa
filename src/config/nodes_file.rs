//! `nodes.json`: machines as the registry before this one kept them, `{"nodes": {ID: {…}}}` or a list.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// One machine of the file.
pub struct NodeEntry {
    pub id: String,
    pub plan: Plan,
}

/// What can be done with it.
pub enum Plan {
    /// These are the arguments of `register_node`.
    Register(Map<String, Value>),
    /// It cannot be registered, for this reason.
    Skip(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Nodes {
    ById(Map<String, Value>),
    Listed(Vec<Value>),
}

#[derive(Deserialize)]
struct File {
    nodes: Nodes,
}

/// As written; what is only of interest elsewhere (a status, a last check) is left out.
#[derive(Deserialize)]
struct Written {
    id: Option<String>,
    hostname: Option<String>,
    #[serde(alias = "tailscale_ip", alias = "ip")]
    address: Option<String>,
    role: Option<String>,
    #[serde(default)]
    description: String,
    cpu_cores: Option<f64>,
    memory_gb: Option<f64>,
    #[serde(default)]
    tags: Vec<String>,
    engine: Option<String>,
    endpoint: Option<String>,
    /// The same object as the argument of `register_node`.
    ssh: Option<Map<String, Value>>,
    #[serde(alias = "user")]
    ssh_user: Option<String>,
    #[serde(alias = "port")]
    ssh_port: Option<u16>,
}

/// Reads the file. With `simulate`, machines that name no engine are simulated.
pub fn read(path: &Path, simulate: bool) -> anyhow::Result<Vec<NodeEntry>> {
    let text = fs_err::read_to_string(path)?;
    parse(&text, simulate).with_context(|| format!("`{}`", path.display()))
}

fn parse(text: &str, simulate: bool) -> anyhow::Result<Vec<NodeEntry>> {
    let file: File = serde_json::from_str(text)
        .context("it has to be `{\"nodes\": {ID: {…}}}`, or `{\"nodes\": [{…}]}`")?;
    let entries: Vec<(Option<String>, Value)> = match file.nodes {
        Nodes::ById(map) => map.into_iter().map(|(id, it)| (Some(id), it)).collect(),
        Nodes::Listed(list) => list.into_iter().map(|it| (None, it)).collect(),
    };
    entries.into_iter().map(|(id, value)| entry(id, value, simulate)).collect()
}

fn entry(id: Option<String>, value: Value, simulate: bool) -> anyhow::Result<NodeEntry> {
    let shown = id.clone().unwrap_or_else(|| "a node".to_owned());
    let node: Written =
        serde_json::from_value(value).with_context(|| format!("`nodes.{shown}`"))?;
    let Some(id) = id.or(node.id).or(node.hostname.clone()) else {
        bail!("a node has neither `id` nor `hostname`")
    };
    let mut arguments = json!({
        "id": id,
        "hostname": node.hostname.as_deref().unwrap_or(&id),
        "description": node.description,
        "tags": node.tags,
    });
    if let Some(role) = &node.role {
        arguments["role"] = json!(role);
    }
    if let Some(address) = &node.address {
        arguments["address"] = json!(address);
    }
    let engine = node.engine.as_deref().or(simulate.then_some("sim"));
    let plan = match (engine, &node.endpoint) {
        (Some("sim"), _) => {
            arguments["engine"] = json!("sim");
            let mut sim = Map::new();
            sim.extend(node.cpu_cores.map(|it| ("cpu".to_owned(), json!(it))));
            sim.extend(node.memory_gb.map(|it| ("memory".to_owned(), json!(it))));
            arguments["sim"] = Value::Object(sim);
            Ok(())
        }
        (Some("docker") | None, Some(endpoint)) => {
            arguments["engine"] = json!("docker");
            arguments["endpoint"] = json!(endpoint);
            Ok(())
        }
        (Some("docker") | None, None) => {
            let mut ssh = node.ssh.unwrap_or_default();
            let mut set = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    ssh.entry(name).or_insert(value);
                }
            };
            set("user", node.ssh_user.map(Value::from));
            set("port", node.ssh_port.map(Value::from));
            arguments["engine"] = json!("docker");
            arguments["ssh"] = Value::Object(ssh);
            Ok(())
        }
        (Some(other), _) => Err(format!("its engine `{other}` is neither `docker` nor `sim`")),
    };
    let plan = match (plan, arguments) {
        (Ok(()), Value::Object(arguments)) => Plan::Register(arguments),
        (Err(why), _) => Plan::Skip(why),
        (Ok(()), _) => bail!("arguments are an object"),
    };
    Ok(NodeEntry { id, plan })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = r#"{"nodes": {
        "node-01": {"id": "node-01", "hostname": "camp-1", "tailscale_ip": "100.1.2.3", "role": "master",
                    "description": "d", "cpu_cores": 16, "memory_gb": 64.0, "tags": ["production"], "status": "online"},
        "node-02": {"hostname": "camp-2", "engine": "docker", "endpoint": "unix:///run/docker.sock"}
    }}"#;

    #[test]
    fn machines_without_an_endpoint_are_reached_over_ssh() {
        let nodes = parse(SEED, false).unwrap();
        let Plan::Register(arguments) = &nodes[0].plan else { panic!("it is a machine") };
        assert_eq!(arguments["ssh"], json!({}));
        assert_eq!(arguments["address"], "100.1.2.3");
        let text = r#"{"nodes": [{"hostname": "a", "ssh_user": "web", "ssh_port": 2222, "ssh": {"agent": true}}]}"#;
        let nodes = parse(text, false).unwrap();
        let Plan::Register(arguments) = &nodes[0].plan else { panic!("it is a machine") };
        assert_eq!(arguments["ssh"], json!({"user": "web", "port": 2222, "agent": true}));
        let nodes = parse(SEED, false).unwrap();
        let Plan::Register(arguments) = &nodes[1].plan else { panic!("it has an endpoint") };
        assert_eq!(arguments["endpoint"], "unix:///run/docker.sock");
    }

    #[test]
    fn simulated_they_keep_what_they_are() {
        let nodes = parse(SEED, true).unwrap();
        let Plan::Register(arguments) = &nodes[0].plan else { panic!("it is simulated") };
        assert_eq!(arguments["sim"], json!({"cpu": 16.0, "memory": 64.0}));
        assert_eq!(
            (&arguments["role"], &arguments["address"]),
            (&json!("master"), &json!("100.1.2.3"))
        );
        assert_eq!(arguments["tags"], json!(["production"]));
    }

    #[test]
    fn lists_are_read_and_other_files_refused() {
        let nodes = parse(r#"{"nodes": [{"hostname": "a", "engine": "sim"}]}"#, false).unwrap();
        assert_eq!(nodes[0].id, "a");
        for text in ["[]", "{}", r#"{"nodes": 1}"#, r#"{"nodes": [{"engine": "sim"}]}"#] {
            assert!(parse(text, false).is_err(), "{text}");
        }
    }
}

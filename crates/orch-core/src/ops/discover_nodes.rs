//! Machines of the Tailscale network that could become nodes.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::{NodeId, Tag};
use orch_domain::node::{EngineConfig, Node, check_host};
use orch_domain::page::{self, PageSize};
use orch_domain::text::{excerpt, sanitize};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::peers::Peer;
use crate::view::table::{more, table};
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoverNodes {
    /// Only machines with this tag of Tailscale, such as `tag:docker` or `docker`; all that run Linux unless given.
    pub tag: Option<String>,
    /// Those that are not connected now as well.
    pub include_offline: bool,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DiscoveredNodes {
    /// By host name. The machine that was asked is not among them.
    pub machines: Vec<DiscoveredMachine>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DiscoveredMachine {
    pub hostname: String,
    /// Whole name in the network's DNS; empty when it has none.
    pub dns_name: String,
    /// In the Tailscale network.
    pub addresses: Vec<String>,
    pub online: bool,
    pub os: String,
    pub tags: Vec<String>,
    pub last_seen: Option<Timestamp>,
    /// The node that this machine is already.
    pub node_id: Option<NodeId>,
    /// Arguments for `register_node`; add how to log in to `ssh`. Absent when it is a node, or has no address.
    pub register_node: Option<Value>,
}

impl Summary for DiscoveredNodes {
    fn summary(&self) -> String {
        if self.machines.is_empty() {
            return "No such machines in the Tailscale network.".to_owned();
        }
        let row = |it: &DiscoveredMachine| {
            let next = match (&it.node_id, &it.register_node) {
                (Some(id), _) => format!("is node `{id}`"),
                (None, Some(arguments)) => format!("register_node {arguments}"),
                (None, None) => "has no address".to_owned(),
            };
            let online = if it.online { "online" } else { "offline" };
            [it.hostname.clone(), online.to_owned(), it.os.clone(), it.tags.join(","), next]
        };
        let rows = self.machines.iter().map(row);
        let mut text = table(["HOSTNAME", "STATE", "OS", "TAGS", "NEXT"], rows);
        text.push_str(&more(self.machines.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for DiscoverNodes {
    const SPEC: Spec = spec!(
        "discover_nodes",
        Nodes,
        Reads,
        Some(Permission::Admin),
        [Route::post("/cluster/nodes/discover")]
    );
    type Output = DiscoveredNodes;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<DiscoveredNodes, Error> {
        let peers = orch.peers.peers().await.map_err(|err| Error::Unavailable {
            message: err.to_string(),
            source: Some(Box::new(err)),
        })?;
        let nodes: Vec<Arc<Node>> =
            orch.ledger.read(|book| book.slots().map(|it| it.node.clone()).collect());
        let mut machines: Vec<DiscoveredMachine> = peers
            .into_iter()
            .filter(|it| !it.is_self && self.wants(it))
            .map(|it| describe(it, &nodes))
            .collect();
        let key = |it: &DiscoveredMachine| {
            format!("{}\n{}\n{}", it.hostname, it.dns_name, it.addresses.join(","))
        };
        machines.sort_by_key(key);
        let (page, next_page_token) =
            page::cut("machines", &machines, key, &self.page_token, self.page_size)?;
        Ok(DiscoveredNodes {
            machines: page.to_vec(),
            next_page_token,
            total_count: machines.len(),
        })
    }
}

impl DiscoverNodes {
    fn wants(&self, peer: &Peer) -> bool {
        let bare = |it: &str| it.strip_prefix("tag:").unwrap_or(it).to_owned();
        let is_meant = match &self.tag {
            Some(tag) => peer.tags.iter().any(|it| bare(it) == bare(tag)),
            None => peer.os.eq_ignore_ascii_case("linux"),
        };
        is_meant && (peer.is_online || self.include_offline)
    }
}

fn describe(peer: Peer, nodes: &[Arc<Node>]) -> DiscoveredMachine {
    let line = |text: &str| excerpt(&sanitize(text), 253);
    let node_id = nodes.iter().find(|it| is_machine(&peer, it)).map(|it| it.id.clone());
    let register_node = match &node_id {
        Some(_) => None,
        None => proposal(&peer),
    };
    DiscoveredMachine {
        hostname: line(&peer.hostname),
        dns_name: line(&peer.dns_name),
        addresses: peer.addresses.iter().map(ToString::to_string).collect(),
        online: peer.is_online,
        os: line(&peer.os),
        tags: peer.tags.iter().map(|it| line(it)).collect(),
        last_seen: peer.last_seen,
        node_id,
        register_node,
    }
}

/// Whether the node is reached at one of the machine's addresses or names.
fn is_machine(peer: &Peer, node: &Node) -> bool {
    let is_its = |place: &str| match place.parse() {
        Ok(address) => peer.addresses.contains(&address),
        Err(_) => {
            let short = peer.dns_name.split('.').next().unwrap_or_default();
            [peer.dns_name.as_str(), short, peer.hostname.as_str()]
                .iter()
                .any(|it| !it.is_empty() && it.eq_ignore_ascii_case(place))
        }
    };
    let is_behind_ssh = match &node.engine {
        EngineConfig::DockerOverSsh(ssh) => is_its(&ssh.host),
        EngineConfig::Docker { .. } => false,
        // Not a machine at all, whatever it is called.
        EngineConfig::Sim(_) => return false,
    };
    is_behind_ssh || is_its(&node.address) || is_its(&node.hostname)
}

/// None: there is no address to reach it at.
fn proposal(peer: &Peer) -> Option<Value> {
    let address = peer.addresses.iter().find(|it| it.is_ipv4()).or(peer.addresses.first())?;
    let short = peer.dns_name.split('.').next().unwrap_or_default();
    // People give their machines names that no DNS takes.
    let names = [short, peer.hostname.as_str()];
    let hostname = names.iter().find(|it| check_host("hostname", it).is_ok());
    let hostname = hostname.map_or_else(|| address.to_string(), |it| (*it).to_owned());
    let tags: Vec<Tag> = peer
        .tags
        .iter()
        .filter_map(|it| Tag::try_new(it.strip_prefix("tag:").unwrap_or(it)).ok())
        .collect();
    let mut arguments = json!({
        "hostname": hostname, "address": address, "ssh": {}, "tags": tags,
    });
    let id = NodeId::try_new(&hostname)
        .or_else(|_| NodeId::try_new(format!("node-{}", hostname.replace(['.', ':', '_'], "-"))));
    if let Ok(id) = id {
        arguments["id"] = json!(id);
    }
    Some(arguments)
}

//! On the real server: each revision once and in order, over cut connections, restarts and `kill -9`.

use std::collections::HashMap;
use std::path::Path;

use futures::StreamExt;
use futures::future::join_all;
use orch_core::settings::Settings;
use orch_domain::name::NodeId;
use orch_domain::node::Node;
use serde_json::{Value, json};

use crate::harness::lab::Lab;
use crate::harness::program::Home;
use crate::harness::server::{Server, Setup};
use crate::harness::{eventually, http, within};

use crate::harness::blocks::{Block, Blocks};

const N_WRITERS: usize = 20;
const N_EACH: usize = 50;

async fn open(url: &str, last: u64) -> Option<Blocks> {
    let request = http()
        .get(format!("{url}/events"))
        .header("accept", "text/event-stream")
        .header("last-event-id", last.to_string());
    let response = request.send().await.ok()?;
    assert_eq!(response.status(), 200);
    // A cut is the end, as for a client.
    let chunks = response.bytes_stream().take_while(|it| futures::future::ready(it.is_ok()));
    Some(Blocks::new(chunks.map(|it| it.unwrap().to_vec()).boxed()))
}

async fn serve(data_dir: &Path) -> Server {
    let config = data_dir.join("config.yaml");
    fs_err::write(&config, "cluster: {register_local: false}\n").unwrap();
    Setup::no_auth(data_dir).argument("--config").argument(config.to_str().unwrap()).start().await
}

async fn with_nodes(data_dir: &Path) -> Server {
    let server = serve(data_dir).await;
    for n in 0..N_WRITERS {
        let node = json!({"id": format!("n{n}"), "hostname": format!("n{n}"), "engine": "sim"});
        let (status, body) = server.call("POST", "/cluster/nodes", Some(node)).await;
        assert_eq!(status, 201, "{body}");
    }
    server
}

/// Cordons and uncordons one node again and again, each one event, and counts what was acknowledged, until there were
/// enough or the server is gone.
async fn write(server: &Server, n: usize) -> usize {
    for done in 0..N_EACH {
        let verb = if done % 2 == 0 { "cordon" } else { "uncordon" };
        let path = format!("/cluster/nodes/n{n}/{verb}");
        match server.try_call("POST", &path, None).await {
            Some((200, _)) => {}
            Some(other) => panic!("{other:?}"),
            None => return done,
        }
    }
    N_EACH
}

/// All that is kept after `since`, oldest first.
async fn listed(server: &Server, since: u64) -> Vec<Value> {
    let (mut events, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/events?since_revision={since}&page_size=1000&page_token={token}");
        let page = server.get(&path).await;
        events.extend(page["events"].as_array().unwrap().clone());
        page["next_page_token"].as_str().unwrap().clone_into(&mut token);
        if token.is_empty() {
            events.reverse();
            return events;
        }
    }
}

async fn newest(server: &Server) -> u64 {
    server.get("/events?page_size=1").await["revision"].as_u64().unwrap()
}

/// Puts a block to those seen; its revision is the next one.
fn take(seen: &mut Vec<Value>, since: u64, block: Block) {
    assert_eq!(block.id, Some(since + 1 + seen.len() as u64), "each once and in order: {block:?}");
    seen.push(block.data);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_cut_connections_each_comes_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_nodes(dir.path()).await;
    let since = newest(&server).await;
    let writing = join_all((0..N_WRITERS).map(|n| write(&server, n)));
    let following = async {
        let (mut seen, mut n_cuts) = (Vec::new(), 0);
        // Cut after more and more events, so that cuts fall everywhere.
        for n in 1.. {
            let mut blocks = open(&server.url, since + seen.len() as u64).await.unwrap();
            for _ in 0..n * 3 {
                if N_WRITERS * N_EACH <= seen.len() {
                    return (seen, n_cuts);
                }
                let block = blocks.told().await.unwrap();
                take(&mut seen, since, block);
            }
            n_cuts += 1;
        }
        unreachable!("it goes on for ever")
    };
    let (acknowledged, (seen, n_cuts)) =
        within("1,000 changes", async { tokio::join!(writing, following) }).await;
    assert_eq!(acknowledged.iter().sum::<usize>(), N_WRITERS * N_EACH);
    assert!(20 < n_cuts, "{n_cuts}");
    assert_eq!(listed(&server, since).await, seen, "the list says the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_nothing_acknowledged_is_missing_and_nothing_told_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_nodes(dir.path()).await;
    let since = newest(&server).await;
    let writing = join_all((0..N_WRITERS).map(|n| write(&server, n)));
    let pid = server.pid();
    let following = async {
        let mut blocks = open(&server.url, since).await.unwrap();
        let mut seen = Vec::new();
        while let Some(block) = blocks.told().await {
            take(&mut seen, since, block);
            if seen.len() == 300 {
                let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        }
        seen
    };
    let (acknowledged, mut seen) =
        within("the crash", async { tokio::join!(writing, following) }).await;
    assert!(acknowledged.iter().sum::<usize>() < N_WRITERS * N_EACH, "it died under way");
    server.wait();

    let server = serve(dir.path()).await;
    let events = listed(&server, since).await;
    assert_eq!(events[..seen.len()], seen[..], "what was told stays told");
    let mut of_node: HashMap<&str, usize> = HashMap::new();
    for it in &events {
        if it["kind"].as_str().unwrap().ends_with("cordoned") {
            *of_node.entry(it["node_id"].as_str().unwrap()).or_default() += 1;
        }
    }
    for (n, acknowledged) in acknowledged.into_iter().enumerate() {
        let told = of_node.get(format!("n{n}").as_str()).copied().unwrap_or(0);
        // The one that was under way may have become durable without an answer.
        assert!((acknowledged..=acknowledged + 1).contains(&told), "n{n}: {acknowledged}, {told}");
        let node = server.get(&format!("/cluster/nodes/n{n}")).await;
        assert_eq!(node["cordoned"], told % 2 == 1, "the last event says how it is: {node}");
    }
    // The stream goes on where it broke off, and numbers go on where they were.
    let mut blocks = open(&server.url, since + seen.len() as u64).await.unwrap();
    while seen.len() < events.len() {
        let block = blocks.told().await.unwrap();
        take(&mut seen, since, block);
    }
    assert_eq!(seen, events);
    write(&server, 0).await;
    for _ in 0..10 {
        let block = blocks.told().await.unwrap();
        take(&mut seen, since, block);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_are_kept_in_memory_and_on_disk() {
    let settings = Settings { events_kept: 10, ..Settings::default() };
    let mut lab = Lab::empty(settings).await;
    for n in 0..30 {
        lab.add_node(Node::test(&format!("n{n}"))).await;
    }
    let extent = lab.orch().ledger.log().extent();
    assert_eq!((extent.oldest, extent.newest), (21, 30));
    lab.restart().await;
    assert_eq!(lab.orch().ledger.log().extent(), extent);
    lab.orch().start_tasks();
    let on_disk = eventually("old ones are deleted", || async {
        let events = lab.orch().ledger.store().load().unwrap().events;
        (events.len() <= 10).then_some(events)
    })
    .await;
    assert_eq!(on_disk[0].revision, 21);
    lab.restart().await;
    lab.orch()
        .ledger
        .write(None, |book| book.remove_node(&NodeId::try_new("n0").unwrap()))
        .await
        .unwrap();
    assert_eq!(lab.orch().ledger.log().extent().newest, 31, "numbers do not return");
}

/// The command line shows them one to a line, and follows.
#[test]
fn the_command_line_shows_and_follows() {
    use std::io::{BufRead, BufReader};
    let home = Home::new();
    home.add_simulated_node();
    let shown = home.done(&["events", "--since", "0", "--kind", "node"]);
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.contains("node.registered") && shown.contains("`sim-1`"), "{shown}");
    let mut following = home
        .command(&["events", "--follow", "--since", "0", "--kind", "node"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("node.registered"));
    home.call(&["cordon_node", "node_id=sim-1"]);
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("node.cordoned") && line.contains("takes no new instances"), "{line}");
    following.kill().unwrap();
    following.wait().unwrap();
    let refused = home.run(&["events", "--kind", "nonsense"]);
    assert_eq!(refused.status, 3, "{}{}", refused.stdout, refused.stderr);
}

//! What an agent feels when it spawns us: time to the first answer, and memory while idle.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orch_domain::node::{EngineConfig, Node, NodeStatus, SimConfig};

use crate::docker::Server;
use crate::{Figure, fixture, percentile, show};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;

pub(crate) fn measure() -> Vec<Figure> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (mut samples, mut floor, mut rss_kib) = (Vec::new(), Vec::new(), 0);
    for _ in 0..21 {
        let started = Instant::now();
        let cat = Command::new("cat")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .expect("cat runs");
        assert!(cat.success());
        floor.push(started.elapsed());
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mcp-orch"))
            .args(["stdio", "--data-dir"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut stdin = child.stdin.take().expect("piped");
        writeln!(stdin, "{INITIALIZE}").expect("written");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("an answer");
        samples.push(started.elapsed());
        assert!(line.contains("\"result\""), "{line}");
        std::thread::sleep(Duration::from_millis(300));
        rss_kib = rss_kib.max(rss(child.id()));
        drop(stdin);
        child.wait().expect("it ends with its input");
    }
    let p50 = percentile(&mut samples[1..], 0.5);
    vec![
        Figure {
            name: "process: start to answered `initialize` over stdio, p50",
            measured: show(p50),
            floor: format!("{} (`cat`)", show(percentile(&mut floor, 0.5))),
            limit: "30 ms".to_owned(),
            holds: p50 <= Duration::from_millis(30),
        },
        Figure {
            name: "process: idle resident memory, largest of 21",
            measured: format!("{:.1} MB", rss_kib as f64 / 1000.0),
            floor: "-".to_owned(),
            limit: "40 MB".to_owned(),
            holds: rss_kib <= 40_000,
        },
    ]
}

/// A server of 5,000 nodes with 50,000 instances, by itself: the nodes are down, so that nothing else is simulated in
/// its process. It sweeps every second, so that the history of checks is soon as long as it gets.
pub(crate) async fn loaded() -> Vec<Figure> {
    const N_NODES: usize = 5_000;
    const N_INSTANCES: usize = 50_000;
    let node = |n| {
        let sim = SimConfig { unreachable: true, ..SimConfig::default() };
        let status = NodeStatus::Unreachable;
        Node { engine: EngineConfig::Sim(sim), status, ..fixture::node(n) }
    };
    let instances = (0..N_INSTANCES).map(|n| fixture::instance(n, N_NODES));
    let (dir, _) = fixture::stored((0..N_NODES).map(node).collect(), instances).await;
    let config = dir.path().join("bench.yaml");
    fs_err::write(&config, "cluster:\n  health_check_period: 1\n").expect("written");
    let started = Instant::now();
    let server = Server::start(dir, &["--config", &config.display().to_string()]).await;
    let page = server.get("/instances?page_size=1000").await;
    let serving = started.elapsed();
    assert_eq!(page["total_count"], N_INSTANCES, "all of them are there");
    let mut largest = 0;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.get("/instances?page_size=1000").await;
        largest = largest.max(status_kib(server.pid(), "VmRSS:"));
    }
    let peak = status_kib(server.pid(), "VmHWM:");
    vec![
        Figure {
            name: "memory: resident with 5,000 nodes and 50,000 instances, largest of 30 s",
            measured: format!("{:.0} MB (peak {:.0} MB)", largest as f64 / 1e3, peak as f64 / 1e3),
            floor: "-".to_owned(),
            limit: "300 MB".to_owned(),
            holds: largest <= 300_000,
        },
        Figure {
            name: "memory: that process, from spawn to 1,000 instances over REST",
            measured: show(serving),
            floor: "-".to_owned(),
            limit: "2 s".to_owned(),
            holds: serving <= Duration::from_secs(2),
        },
    ]
}

fn rss(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|it| it.strip_prefix(name)).expect("the line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

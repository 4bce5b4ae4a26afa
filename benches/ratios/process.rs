//! What an agent feels when it spawns us: time to the first answer, and memory while idle.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Figure, percentile, show};

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

fn rss(pid: u32) -> u64 {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

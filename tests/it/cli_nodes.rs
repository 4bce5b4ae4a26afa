//! Nodes from the command line: `nodes add`, the question about a host key, and imports from Docker's own client.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::PATIENCE;
use crate::harness::program::{Home, ran};
use crate::harness::sshd::Sshd;

/// A program with a person at its terminal.
struct Typist {
    terminal: File,
    child: Child,
    /// What the terminal showed.
    shown: String,
}

impl Typist {
    fn start(mut command: Command) -> Typist {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs =
            || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        command.stdin(theirs()).stdout(theirs()).stderr(theirs());
        let child = command.spawn().unwrap();
        Typist { terminal: File::from(ours), child, shown: String::new() }
    }

    /// Reads on until `wanted` was shown, or all was.
    fn sees(&mut self, wanted: &str) {
        let mut bytes = [0; 4096];
        let until = std::time::Instant::now() + PATIENCE;
        while !self.shown.contains(wanted) {
            assert!(std::time::Instant::now() < until, "{wanted}: {}", self.shown);
            match self.terminal.read(&mut bytes) {
                Ok(n) if n != 0 => self.shown.push_str(&String::from_utf8_lossy(&bytes[..n])),
                // Nobody has it open any more.
                _ => panic!("{wanted} is not in: {}", self.shown),
            }
        }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.terminal, "{line}").unwrap();
    }

    fn ends(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

/// As if its engine were down; it is registered by force.
fn add<'a>(sshd: &Sshd, place: &'a str, key: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    assert!(place.ends_with(&sshd.port.to_string()));
    let words = [
        "nodes",
        "add",
        place,
        "--id",
        "h1",
        "--key",
        key,
        "--socket",
        "/none.sock",
        "--force",
        "--tag",
        "lab",
    ];
    [&words, more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_key_is_asked_about_at_a_terminal() {
    let Some(sshd) = Sshd::start().await else { return };
    let home = Home::new();
    let place = format!("root@127.0.0.1:{}", sshd.port);
    let key = sshd.path("id").display().to_string();
    let fingerprint = sshd.fingerprint().to_string();
    tokio::task::block_in_place(|| {
        let mut typist = Typist::start(home.command(&add(&sshd, &place, &key, &[])));
        typist.sees("(yes/no/[fingerprint])?");
        assert!(
            typist.shown.contains(&format!("key fingerprint is {fingerprint}.")),
            "{}",
            typist.shown
        );
        typist.types("maybe");
        typist.sees("Please type 'yes', 'no' or the fingerprint");
        typist.types("no");
        typist.sees("was not accepted");
        assert_eq!(typist.ends(), 3);
        assert_eq!(home.call(&["list_nodes"])["total_count"], 0);

        let mut typist = Typist::start(home.command(&add(&sshd, &place, &key, &[])));
        typist.sees("(yes/no/[fingerprint])?");
        typist.types("yes");
        typist.sees("node `h1`");
        assert_eq!(typist.ends(), 0);
        let node = home.call(&["get_node", "node_id=h1"]);
        assert_eq!(node["ssh"]["host_key"]["fingerprint"], fingerprint, "{node}");
        assert_eq!(node["ssh"]["login"], format!("key {key}"));
        assert_eq!(node["tags"], serde_json::json!(["lab"]));

        // The same question of `call`.
        home.call(&["remove_node", "node_id=h1"]);
        let port = format!("ssh.port={}", sshd.port);
        let key = format!("ssh.key={key}");
        let words = [
            "call",
            "register_node",
            "hostname=h1",
            "address=127.0.0.1",
            &port,
            &key,
            "ssh.socket=/none.sock",
            "force=true",
        ];
        let mut typist = Typist::start(home.command(&words));
        typist.sees("(yes/no/[fingerprint])?");
        typist.types(&fingerprint);
        typist.sees("node `h1`");
        assert_eq!(typist.ends(), 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_the_refusal_says_what_to_repeat_with() {
    let Some(sshd) = Sshd::start().await else { return };
    let home = Home::new();
    let place = format!("root@127.0.0.1:{}", sshd.port);
    let key = sshd.path("id").display().to_string();
    let fingerprint = sshd.fingerprint().to_string();
    tokio::task::block_in_place(|| {
        let refused = home.run(&add(&sshd, &place, &key, &["--jump", &place]));
        assert_eq!(refused.status, 3, "{}", refused.stderr);
        let flag = format!("--accept-jump-host-key {fingerprint}");
        assert!(refused.stderr.contains(&flag), "{}", refused.stderr);
        let refused = home.run(&add(&sshd, &place, &key, &[]));
        let flag = format!("--accept-host-key {fingerprint}");
        assert!(refused.stderr.contains(&flag), "{}", refused.stderr);

        // As a machine behind itself: both keys are asked for, and the words that are given are taken.
        let accepted = [
            "--jump",
            &place,
            "--accept-jump-host-key",
            &fingerprint,
            "--accept-host-key",
            &fingerprint,
        ];
        let ran = ran(&mut home.command(&add(&sshd, &place, &key, &accepted)));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let node = home.call(&["get_node", "node_id=h1"]);
        assert_eq!(node["ssh"]["jumps"][0]["host_key"]["fingerprint"], fingerprint, "{node}");

        // A file that is imported: the whole command to repeat is there, and works.
        let text = format!(
            r#"{{"nodes": {{"h2": {{"hostname": "h2", "ip": "127.0.0.2", "ssh": {{"host": "127.0.0.1", "port": {}, "key": "{key}", "socket": "/other.sock"}}}}}}}}"#,
            sshd.port
        );
        let file = home.write("nodes.json", &text);
        let ran = home.run(&["nodes", "import", file.to_str().unwrap()]);
        assert_eq!(ran.status, 1);
        let (_, json) = ran
            .stdout
            .split_once("call register_node --json '")
            .unwrap_or_else(|| panic!("{}", ran.stdout));
        let (json, _) = json.split_once("'`").unwrap();
        let mut arguments: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(arguments["ssh"]["accept_host_key"], fingerprint);
        arguments["force"] = true.into();
        home.done(&["call", "register_node", "--json", &arguments.to_string()]);
    });
}

#[test]
fn what_docker_knows_is_imported() {
    let home = Home::new();
    let ran = home.run(&["nodes", "import", "--docker-contexts"]);
    assert!(ran.status == 1 && ran.stderr.contains("docker context ls"), "{}", ran.stderr);
    let meta = |name: &str, host: &str| {
        format!(
            r#"{{"Name": "{name}", "Metadata": {{}}, "Endpoints": {{"docker": {{"Host": "{host}"}}}}}}"#
        )
    };
    home.write(
        ".docker/contexts/meta/aa/meta.json",
        &meta("lab", "ssh://ann@127.0.0.1:1/run/d.sock"),
    );
    home.write(".docker/contexts/meta/bb/meta.json", &meta("tls", "tcp://127.0.0.1:2"));
    home.write(".docker/contexts/tls/bb/docker/ca.pem", "");
    let shown = home.done(&["nodes", "import", "--docker-contexts", "--docker-host", "--dry-run"]);
    assert!(
        shown.contains("lab: would be registered:") && shown.contains(r#""user":"ann""#),
        "{shown}"
    );
    assert!(shown.contains("tls: would be skipped: it wants TLS"), "{shown}");
    assert!(
        shown.contains("docker-host: would be registered:") && shown.contains("no-docker.sock"),
        "{shown}"
    );
    assert!(shown.contains("2 to register, 1 to skip; nothing was changed"), "{shown}");
    assert_eq!(home.call(&["list_nodes"])["total_count"], 0);

    // Nobody listens on port 1 of this machine.
    let ran = home.run(&["nodes", "import", "--docker-contexts"]);
    assert!(ran.stdout.contains("lab: failed: NodeUnreachable"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("0 registered, 0 already there, 1 skipped, 1 failed"),
        "{}",
        ran.stdout
    );
    let ran = home.run(&["nodes", "import"]);
    assert_eq!(ran.status, 2, "a source is needed: {}", ran.stderr);
}

#[test]
fn the_doctor_makes_nothing() {
    let home = Home::new();
    let place = home.path("not/there");
    let mut command = home.command(&["doctor"]);
    let ran = ran(command.env("MCP_ORCH_DATA_DIR", &place));
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(!home.path("not").exists());
    assert!(ran.stdout.contains("none yet") && ran.stdout.contains("nodes add"), "{}", ran.stdout);
    // Nor in one that is there.
    let empty = home.data_dir();
    home.done(&["doctor"]);
    assert_eq!(fs_err::read_dir(empty).unwrap().count(), 0);
}

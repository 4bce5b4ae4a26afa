//! Every trouble with a machine or its engine that can be had here, by the name and the words it gets.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use orch_adapters::engines::NodeEngines;
use orch_adapters::ssh::SshSettings;
use orch_core::ports::clock::SystemClock;
use orch_core::ports::engine::{EngineError, Engines};
use orch_domain::node::{EngineConfig, Node};
use orch_domain::ssh::{Fingerprint, HostKey, SshEndpoint, SshHop, SshLogin};
use orch_domain::trouble::Trouble;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::task::TaskTracker;

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::eventually;
use crate::harness::hosts::Hosts;
use crate::harness::program::Home;
use crate::harness::sshd::{Sshd, keygen};
use crate::ssh_login::Agent;
use crate::ssh_nodes::registration;

async fn failure(engine: EngineConfig, ssh: SshSettings) -> EngineError {
    let engines = NodeEngines::new(Arc::new(SystemClock), TaskTracker::new()).with_ssh(ssh);
    let node = Node { engine, ..Node::test("n") };
    let asked = engines.engine(&node).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(30), asked.describe()).await;
    answer.expect("every step has its limit").unwrap_err()
}

async fn is(endpoint: SshEndpoint, ssh: SshSettings, trouble: Trouble, words: &str) {
    let err = failure(EngineConfig::DockerOverSsh(endpoint), ssh).await;
    assert_eq!(err.trouble(), trouble, "{err}");
    assert!(err.to_string().contains(words), "{words}: {err}");
}

fn none() -> SshSettings {
    SshSettings::default()
}

/// A port where nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn the_address_and_the_ssh_server() {
    let Some(sshd) = Sshd::start().await else { return };
    let at = |port| SshEndpoint { port, ..sshd.endpoint("/none.sock") };
    // Refused by the resolver itself, which then asks nobody.
    let unknown = SshEndpoint { host: "no..name".to_owned(), ..at(22) };
    is(unknown, none(), Trouble::NameUnknown, "is not known here").await;
    is(at(closed_port()), none(), Trouble::NothingListens, "no SSH server listens there").await;

    // As a machine that is frozen: its kernel takes the connection.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = frozen.local_addr().unwrap().port();
    is(at(port), none(), Trouble::Silent, "did not finish the SSH handshake").await;

    let web = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = web.local_addr().unwrap().port();
    let _web = tokio_util::task::AbortOnDropHandle::new(TaskTracker::new().spawn(async move {
        loop {
            let (mut stream, _) = web.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok();
        }
    }));
    is(at(port), none(), Trouble::Closed, "closed the connection").await;

    let other = Fingerprint::try_new(&format!("SHA256:{}", "A".repeat(43))).unwrap();
    let key = HostKey { fingerprint: other, algorithm: None };
    let changed = SshEndpoint { host_key: Some(key), ..at(sshd.port) };
    is(changed, none(), Trouble::HostKeyChanged, "ALARM").await;
    let unknown = SshEndpoint { host_key: None, ..at(sshd.port) };
    is(unknown, none(), Trouble::HostKeyUnknown, "is not known").await;
}

#[tokio::test]
async fn a_server_that_takes_no_more_logins_closes() {
    let Some(sshd) = Sshd::start_with("MaxStartups 1:100:1\nLoginGraceTime 60\n").await else {
        return;
    };
    let held = parking_lot::Mutex::new(Vec::new());
    let endpoint = || sshd.endpoint("/none.sock");
    // One that says nothing and never logs in is allowed; which of them it is, the server decides.
    eventually("the drop", || async {
        held.lock().push(std::net::TcpStream::connect(("127.0.0.1", sshd.port)).unwrap());
        let err = failure(EngineConfig::DockerOverSsh(endpoint()), none()).await;
        (err.trouble() == Trouble::Closed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_login() {
    let Some(sshd) = Sshd::start().await else { return };
    let with = |login| SshEndpoint { login, ..sshd.endpoint("/none.sock") };
    let file = |name: &str| SshLogin::KeyFile(sshd.path(name).display().to_string());
    keygen(&sshd.path("other"), &["-t", "ed25519", "-N", ""]);
    keygen(&sshd.path("locked"), &["-t", "ed25519", "-N", "secret"]);
    fs_err::create_dir(sshd.path("folder")).unwrap();
    let tried = format!("tried the key `{}`", sshd.path("other").display());
    is(with(file("other")), none(), Trouble::LoginRefused, &tried).await;
    is(with(file("locked")), none(), Trouble::KeyEncrypted, "passphrase").await;
    is(with(file("none")), none(), Trouble::KeyMissing, "cannot be read").await;
    is(with(file("folder")), none(), Trouble::KeyUnreadable, "cannot be read").await;
    is(with(file("id.pub")), none(), Trouble::KeyMalformed, "not a private key").await;
    is(with(SshLogin::Agent), none(), Trouble::AgentMissing, "SSH_AUTH_SOCK").await;
    let gone = SshSettings { agent_socket: Some(sshd.path("gone.sock")), ..none() };
    is(with(SshLogin::Agent), gone.clone(), Trouble::AgentMissing, "does not answer").await;
    let home = SshSettings { home: Some(sshd.path("empty")), ..none() };
    is(with(SshLogin::Usual), home, Trouble::KeyMissing, "no key in `~/.ssh`").await;
    let paths = ["none", "other"].map(|it| sshd.path(it).display().to_string()).to_vec();
    let files = SshLogin::Files { paths, only_these: true };
    is(with(files), gone, Trouble::LoginRefused, &tried).await;

    let socket = sshd.path("agent.sock");
    let mut agent = Command::new("ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket).stdout(std::process::Stdio::null());
    let _agent = Agent(agent.spawn().unwrap());
    eventually("the agent", || async { socket.exists().then_some(()) }).await;
    let empty = SshSettings { agent_socket: Some(socket.clone()), ..none() };
    is(with(SshLogin::Agent), empty.clone(), Trouble::AgentEmpty, "ssh-add").await;

    // One with a passphrase that the agent has opened, named by its file.
    let add = format!(
        "echo echo secret > {0}/ask; chmod +x {0}/ask; ssh-add -q {0}/locked",
        sshd.dir.path().display()
    );
    let mut added = Command::new("sh");
    added.args(["-c", &add]).env("SSH_AUTH_SOCK", &socket);
    added.env("SSH_ASKPASS", sshd.path("ask")).env("SSH_ASKPASS_REQUIRE", "force");
    let added = added.stdin(std::process::Stdio::null()).output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let public = fs_err::read_to_string(sshd.path("locked.pub")).unwrap();
    fs_err::write(sshd.path("authorized_keys"), public).unwrap();
    let paths = vec![sshd.path("locked").display().to_string()];
    let files = SshLogin::Files { paths, only_these: true };
    is(with(files), empty, Trouble::SocketMissing, "no such socket").await;
}

#[tokio::test]
async fn the_socket_behind_ssh_and_the_way_there() {
    let Some(sshd) = Sshd::start().await else { return };
    let socket = sshd.path("engine.sock").display().to_string();
    let endpoint = || sshd.endpoint(&socket);
    is(endpoint(), none(), Trouble::SocketMissing, "there is no such socket").await;
    drop(UnixListener::bind(&socket).unwrap());
    is(endpoint(), none(), Trouble::EngineStopped, "nothing listens there").await;
    let folder = SshEndpoint { socket: sshd.path("id").display().to_string(), ..endpoint() };
    is(folder, none(), Trouble::SocketMissing, "there is no such socket").await;

    let forbids = "AllowStreamLocalForwarding no\nAllowTcpForwarding no\n";
    let Some(strict) = Sshd::start_with(forbids).await else { return };
    let strict_endpoint = strict.endpoint(&socket);
    fs_err::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let words = "AllowStreamLocalForwarding";
    is(strict_endpoint.clone(), none(), Trouble::ForwardingForbidden, words).await;
    drop(listener);

    // The same at the end of a way.
    let behind = |jump: SshHop| SshEndpoint { jumps: vec![jump], ..endpoint() };
    let jump = || sshd.endpoint("").hop();
    is(behind(jump()), none(), Trouble::EngineStopped, "nothing listens there").await;
    let nowhere = SshEndpoint { port: closed_port(), ..behind(jump()) };
    is(nowhere, none(), Trouble::JumpCannotReach, "as seen from the jump").await;
    is(behind(strict_endpoint.hop()), none(), Trouble::JumpForbids, "AllowTcpForwarding").await;
    let down = SshHop { port: closed_port(), ..jump() };
    is(behind(down), none(), Trouble::NothingListens, "on the way to").await;
    let refused = SshHop { login: SshLogin::Agent, ..jump() };
    is(behind(refused), none(), Trouble::AgentMissing, "on the way to").await;
}

/// Answers every request with the same words; with none, never.
fn engine_that_says(path: &Path, words: String) -> tokio_util::task::AbortOnDropHandle<()> {
    fs_err::remove_file(path).ok();
    let listener = UnixListener::bind(path).unwrap();
    tokio_util::task::AbortOnDropHandle::new(TaskTracker::new().spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = [0; 4096];
            if stream.read(&mut heard).await.unwrap_or(0) == 0 {
                continue;
            }
            if words.is_empty() {
                held.push(stream);
            } else {
                stream.write_all(words.as_bytes()).await.ok();
            }
        }
    }))
}

#[tokio::test]
async fn the_engine_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine.sock");
    let at = async || {
        let endpoint = format!("unix://{}", path.display());
        failure(EngineConfig::Docker { endpoint }, none()).await.trouble()
    };
    assert_eq!(at().await, Trouble::SocketMissing);
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(at().await, Trouble::EngineStopped);
    let http = |status: &str, body: &str| {
        let n = body.len();
        let kind = "Content-Type: application/json\r\nConnection: close";
        format!("HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {n}\r\n\r\n{body}")
    };
    let too_new =
        r#"{"message":"client version 1.52 is too new. Maximum supported API version is 1.12"}"#;
    for (words, trouble) in [
        (http("200 OK", "hello"), Trouble::NotDocker),
        (http("400 Bad Request", too_new), Trouble::EngineTooOld),
        (String::new(), Trouble::EngineSilent),
    ] {
        let _engine = engine_that_says(&path, words.clone());
        assert_eq!(at().await, trouble, "{words}");
    }
    let endpoint = format!("tcp://127.0.0.1:{}", closed_port());
    let err = failure(EngineConfig::Docker { endpoint }, none()).await;
    assert_eq!(err.trouble(), Trouble::NothingListens, "{err:?}");
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let denied = EngineError::Unreachable { source: Box::new(denied) };
    assert_eq!(denied.trouble(), Trouble::SocketForbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_of_every_node_what_works_with_a_server_and_without() {
    let Some(hosts) = Hosts::start(2).await else { return };
    let home = Home::new();
    let doctor = |arguments: &[&str]| {
        let ran = tokio::task::block_in_place(|| home.run(&[&["doctor"], arguments].concat()));
        (ran.status, ran.stdout)
    };
    let register = |arguments: &serde_json::Value| {
        let json = arguments.to_string();
        tokio::task::block_in_place(|| {
            home.done(&["call", "register_node", "--json", &json]);
        });
    };
    register(&registration(&hosts, &json!(hosts.fingerprint(1))));
    let ssh = json!({"key": hosts.key(), "accept_host_key": true});
    register(&json!({"id": "h2", "hostname": "h2", "address": hosts.address(2), "ssh": ssh}));
    let (_, said) = doctor(&["--node", "h1"]);
    assert!(said.contains("ok   node h1     address ok, ssh ok, engine ok: docker"), "{said}");
    assert!(!said.contains("h2"), "{said}");
    let (status, said) = doctor(&["--node", "h9"]);
    assert!(status == 1 && said.contains("there is no node `h9`"), "{said}");

    // What is the matter, and what to do about it.
    hosts.dockerd(1, "stop");
    hosts.sshd(2, "stop");
    let expect = |said: &str| {
        assert!(said.contains("FAIL node h1     address ok, ssh ok, engine FAILS: "), "{said}");
        assert!(said.contains(Trouble::SocketMissing.hint()), "{said}");
        assert!(said.contains("FAIL node h2     address FAILS: "), "{said}");
        assert!(said.contains(Trouble::NothingListens.hint()), "{said}");
    };
    let (status, said) = doctor(&[]);
    assert_eq!(status, 1, "{said}");
    expect(&said);
    let server = crate::harness::server::Setup::demo(&home.data_dir()).start().await;
    let (status, said) = doctor(&[]);
    assert!(status == 1 && said.contains("running: http://"), "{said}");
    expect(&said);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_names_the_trouble_for_programs() {
    let Some(hosts) = Hosts::start(1).await else { return };
    let cloud = Cloud::watchful().await;
    cloud.ok(ADMIN, "register_node", registration(&hosts, &json!(true))).await;
    hosts.dockerd(1, "stop");
    let checked = eventually("it is noticed", || async {
        let checked = cloud.ok(ADMIN, "check_node", json!({"node_id": "h1"})).await;
        (checked["check"]["status"] == "degraded").then_some(checked)
    })
    .await;
    assert_eq!(checked["check"]["trouble"], "socket-missing", "{checked}");
    hosts.dockerd(1, "start");
    let checked = eventually("it is back", || async {
        let checked = cloud.ok(ADMIN, "check_node", json!({"node_id": "h1"})).await;
        (checked["check"]["status"] == "healthy").then_some(checked)
    })
    .await;
    assert_eq!(checked["check"]["trouble"], serde_json::Value::Null);

    // Its limit is shorter than that of each step; what hangs is named all the same.
    hosts.cut(1);
    eventually("the link is missed", || async {
        let checked = cloud.ok(ADMIN, "check_node", json!({"node_id": "h1"})).await;
        (checked["check"]["trouble"] == "no-answer").then_some(())
    })
    .await;
    hosts.heal(1);
}

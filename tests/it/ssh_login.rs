//! Who logs in with what, and which machines are recognised.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use orch_adapters::ssh::{Lane, Link, SshError, SshSettings, identify};
use orch_domain::ssh::{HostTrust, SshEndpoint, SshLogin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::task::TaskTracker;

use crate::harness::sshd::{Sshd, keygen};
use crate::harness::{eventually, within};

/// Answers every connection with what it was told, and its end with its own.
fn echo(path: &Path) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    TaskTracker::new().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
        }
    })
}

async fn try_it(endpoint: SshEndpoint, settings: SshSettings) -> Result<(), SshError> {
    let socket = endpoint.socket.clone();
    let link = Link::new(endpoint.hop(), None, settings);
    let mut channel = within("a channel", link.open(&socket, Lane::Call)).await?;
    channel.write_all(b"over there").await.unwrap();
    channel.shutdown().await.unwrap();
    let mut back = String::new();
    within("its echo", channel.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, "over there");
    Ok(())
}

pub(crate) struct Agent(pub(crate) Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn key_files_of_every_kind_are_used_and_refusals_explained() {
    let Some(sshd) = Sshd::start().await else { return };
    let socket = sshd.path("echo.sock");
    let _echo = echo(&socket);
    let endpoint = sshd.endpoint(&socket.display().to_string());
    let with = |key: &str| SshEndpoint {
        login: SshLogin::KeyFile(sshd.path(key).display().to_string()),
        ..endpoint.clone()
    };
    try_it(with("id"), SshSettings::default()).await.unwrap();

    for kind in ["rsa", "ecdsa"] {
        keygen(&sshd.path(kind), &["-t", kind, "-N", ""]);
        let refused = try_it(with(kind), SshSettings::default()).await.unwrap_err();
        assert!(matches!(refused, SshError::LoginRefused { .. }), "{refused:?}");
        assert!(refused.to_string().contains("authorized_keys"), "{refused}");
        let public = fs_err::read_to_string(sshd.path(&format!("{kind}.pub"))).unwrap();
        fs_err::write(sshd.path("authorized_keys"), public).unwrap();
        try_it(with(kind), SshSettings::default()).await.unwrap();
    }

    keygen(&sshd.path("locked"), &["-t", "ed25519", "-N", "secret"]);
    for (key, part) in
        [("locked", "passphrase"), ("none", "cannot be read"), ("id.pub", "not a private key")]
    {
        let err = try_it(with(key), SshSettings::default()).await.unwrap_err().to_string();
        assert!(err.contains(part), "{err}");
    }
    let closed = sshd.path("nothing.sock").display().to_string();
    let err = try_it(SshEndpoint { socket: closed, ..with("ecdsa") }, SshSettings::default()).await;
    assert!(matches!(err, Err(SshError::SocketRefused { .. })), "{err:?}");
}

#[tokio::test]
async fn the_agent_and_the_usual_files_are_tried() {
    let Some(sshd) = Sshd::start().await else { return };
    let socket = sshd.path("echo.sock");
    let _echo = echo(&socket);
    let agent_socket = sshd.path("agent.sock");
    let mut agent = Command::new("ssh-agent");
    agent.arg("-D").arg("-a").arg(&agent_socket).stdout(Stdio::null());
    let _agent = Agent(agent.spawn().unwrap());
    eventually("the agent", || async { agent_socket.exists().then_some(()) }).await;
    let endpoint = |login| SshEndpoint { login, ..sshd.endpoint(&socket.display().to_string()) };
    let with_agent =
        SshSettings { agent_socket: Some(agent_socket.clone()), ..SshSettings::default() };

    let empty = try_it(endpoint(SshLogin::Agent), with_agent.clone()).await.unwrap_err();
    assert!(empty.to_string().contains("ssh-add"), "{empty}");
    let missing = try_it(endpoint(SshLogin::Agent), SshSettings::default()).await.unwrap_err();
    assert!(missing.to_string().contains("SSH_AUTH_SOCK"), "{missing}");
    let added = Command::new("ssh-add")
        .arg("-q")
        .arg(sshd.path("id"))
        .env("SSH_AUTH_SOCK", &agent_socket)
        .status()
        .unwrap();
    assert!(added.success());
    try_it(endpoint(SshLogin::Agent), with_agent.clone()).await.unwrap();
    try_it(endpoint(SshLogin::Usual), with_agent).await.unwrap();

    let home = tempfile::tempdir().unwrap();
    let settings = SshSettings { home: Some(home.path().to_owned()), ..SshSettings::default() };
    let none = try_it(endpoint(SshLogin::Usual), settings.clone()).await.unwrap_err();
    assert!(none.to_string().contains("no key in `~/.ssh`"), "{none}");
    fs_err::create_dir(home.path().join(".ssh")).unwrap();
    fs_err::copy(sshd.path("id"), home.path().join(".ssh/id_ed25519")).unwrap();
    try_it(endpoint(SshLogin::Usual), settings.clone()).await.unwrap();
    let tilde = endpoint(SshLogin::KeyFile("~/.ssh/id_ed25519".to_owned()));
    try_it(tilde, settings).await.unwrap();
}

#[tokio::test]
async fn machines_that_known_hosts_lists_need_no_word() {
    let Some(sshd) = Sshd::start().await else { return };
    let home = tempfile::tempdir().unwrap();
    fs_err::create_dir(home.path().join(".ssh")).unwrap();
    let file = home.path().join(".ssh/known_hosts");
    let settings = SshSettings { home: Some(home.path().to_owned()), ..SshSettings::default() };
    let endpoint = SshEndpoint { host_key: None, ..sshd.endpoint("/x.sock") };
    let meet = async |trust: HostTrust| {
        identify(&endpoint, &trust, &settings, Duration::from_secs(10)).await
    };

    let unknown = meet(HostTrust::Known).await.unwrap_err();
    let SshError::HostKeyUnknown { found, .. } = unknown else { panic!("{unknown:?}") };
    assert_eq!(found.fingerprint, sshd.fingerprint());
    assert_eq!(meet(HostTrust::Any).await.unwrap().host_key.unwrap(), found);

    let list = |key: &str| {
        let public = fs_err::read_to_string(sshd.path(key)).unwrap();
        fs_err::write(&file, format!("[127.0.0.1]:{} {public}", sshd.port)).unwrap();
    };
    list("host_key.pub");
    assert_eq!(meet(HostTrust::Known).await.unwrap().host_key.unwrap(), found);
    let hashed = Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file).output().unwrap();
    assert!(hashed.status.success());
    assert!(fs_err::read_to_string(&file).unwrap().starts_with("|1|"));
    assert_eq!(meet(HostTrust::Known).await.unwrap().host_key.unwrap(), found);

    list("id.pub");
    let changed = meet(HostTrust::Known).await.unwrap_err();
    assert!(matches!(changed, SshError::HostKeyChanged { .. }), "{changed:?}");
}

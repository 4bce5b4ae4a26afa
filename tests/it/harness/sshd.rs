//! An SSH server of this machine for one test, on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use orch_domain::ssh::{Fingerprint, HostKey, SshEndpoint, SshLogin};

use super::eventually;

pub(crate) struct Sshd {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    server: Child,
}

impl Sshd {
    /// Lets `root` in with the key `id` in its folder. None, with the reason printed, where there is no server.
    pub(crate) async fn start() -> Option<Sshd> {
        Sshd::start_with("").await
    }

    /// With `more` lines in its configuration, which weigh more than the usual ones.
    pub(crate) async fn start_with(more: &str) -> Option<Sshd> {
        const PROGRAM: &str = "/usr/sbin/sshd";
        if !rustix::process::geteuid().is_root() || !Path::new(PROGRAM).exists() {
            println!("skipped: no SSH server: it wants root and {PROGRAM}");
            return None;
        }
        fs_err::create_dir_all("/run/sshd").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        keygen(&dir.path().join("host_key"), &["-t", "ed25519", "-N", ""]);
        keygen(&dir.path().join("id"), &["-t", "ed25519", "-N", ""]);
        fs_err::copy(dir.path().join("id.pub"), dir.path().join("authorized_keys")).unwrap();
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let config = format!(
            "{more}Port {port}\nListenAddress 127.0.0.1\nHostKey {path}/host_key\nAuthorizedKeysFile {path}/authorized_keys\n\
             PidFile none\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nUsePAM no\nUseDNS no\nSetEnv HOME={path}\n"
        );
        fs_err::write(dir.path().join("config"), config).unwrap();
        let server = Command::new(PROGRAM)
            .args(["-D", "-f", &format!("{path}/config"), "-E", &format!("{path}/log")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the SSH server", || async {
            TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok().map(drop)
        })
        .await;
        Some(Sshd { dir, port, server })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn endpoint(&self, socket: &str) -> SshEndpoint {
        SshEndpoint {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: "root".to_owned(),
            login: SshLogin::KeyFile(self.path("id").display().to_string()),
            socket: socket.to_owned(),
            host_key: Some(HostKey { fingerprint: self.fingerprint(), algorithm: None }),
            jumps: Vec::new(),
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let out = Command::new("ssh-keygen").arg("-lf").arg(self.path("host_key.pub")).output();
        let out = String::from_utf8(out.unwrap().stdout).unwrap();
        Fingerprint::try_new(out.split_whitespace().nth(1).unwrap()).unwrap()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

pub(crate) fn keygen(path: &Path, arguments: &[&str]) {
    let made = Command::new("ssh-keygen").arg("-q").args(arguments).arg("-f").arg(path).status();
    assert!(made.unwrap().success());
}

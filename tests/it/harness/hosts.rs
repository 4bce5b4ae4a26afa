//! Machines with SSH and Docker, made of namespaces of this one. They go with the value, or with the test's process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;

use super::image;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/hosts.sh");
const NEEDED: [&str; 8] =
    ["/usr/sbin/sshd", "dockerd", "containerd", "ssh-keygen", "nsenter", "unshare", "ip", "pgrep"];

pub(crate) struct Hosts {
    dir: PathBuf,
    prefix: String,
    net: String,
    sshd_config: String,
}

impl Hosts {
    /// Starts `n` machines with the test image on each. None, with the reason printed, where that cannot be.
    pub(crate) async fn start(n: usize) -> Option<Hosts> {
        Hosts::start_with(n, "").await
    }

    /// The same, with lines that come first in the configuration of their SSH servers.
    pub(crate) async fn start_with(n: usize, sshd_config: &str) -> Option<Hosts> {
        if !rustix::process::geteuid().is_root() {
            return skip("only root may make namespaces");
        }
        for program in NEEDED {
            if run(Command::new("sh").args(["-c", &format!("command -v {program}")])).is_none() {
                return skip(&format!("`{program}` is not installed"));
            }
        }
        if run(Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]))
            .is_none()
        {
            return skip("this machine does not let go of namespaces");
        }
        let pid = std::process::id();
        // Of its own, so that two test runs on one machine do not meet.
        let free = (0..200).map(|it| 20 + (pid + it) % 200).find(|number| {
            let net = format!("10.214.{number}.0/24");
            run(Command::new("ip").args(["route", "show", &net]))
                .is_some_and(|it| it.stdout.is_empty())
        });
        let Some(number) = free else { return skip("no network is free") };
        let hosts = Hosts {
            dir: std::env::temp_dir().join(format!("mo-hosts-{number}")),
            prefix: format!("mo{number}"),
            net: format!("10.214.{number}"),
            sshd_config: sshd_config.to_owned(),
        };
        hosts.run(&["up", &n.to_string(), &pid.to_string()]);
        for host in 1..=n {
            image::ensure(&hosts.docker(host)).await;
        }
        Some(hosts)
    }

    pub(crate) fn address(&self, host: usize) -> String {
        format!("{}.{}", self.net, 10 + host)
    }

    /// This machine, as the others reach it.
    pub(crate) fn gateway(&self) -> String {
        format!("{}.1", self.net)
    }

    /// The private key that every machine lets in.
    pub(crate) fn key(&self) -> String {
        self.dir.join("id_ed25519").display().to_string()
    }

    pub(crate) fn socket(&self, host: usize) -> PathBuf {
        self.dir(host).join("docker.sock")
    }

    /// Another name of that socket, so that one engine passes for many.
    pub(crate) fn alias(&self, host: usize, name: &str) -> String {
        let alias = self.dir(host).join(name);
        fs_err::os::unix::fs::symlink("docker.sock", &alias).unwrap();
        alias.display().to_string()
    }

    /// The machine's engine, past SSH.
    pub(crate) fn docker(&self, host: usize) -> Docker {
        let socket = self.socket(host).display().to_string();
        Docker::connect_with_unix(&socket, 120, bollard::API_DEFAULT_VERSION).unwrap()
    }

    /// As a line of `known_hosts` has it after the name.
    pub(crate) fn public_key(&self, host: usize) -> String {
        fs_err::read_to_string(self.dir(host).join("host_key.pub")).unwrap()
    }

    /// As `ssh-keygen -l` prints it.
    pub(crate) fn fingerprint(&self, host: usize) -> String {
        let key = self.dir(host).join("host_key.pub");
        let out = run(Command::new("ssh-keygen").arg("-lf").arg(key)).unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        out.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// What its SSH server wrote.
    pub(crate) fn sshd_log(&self, host: usize) -> String {
        fs_err::read_to_string(self.dir(host).join("sshd.log")).unwrap_or_default()
    }

    pub(crate) fn cut(&self, host: usize) {
        self.run(&["cut", &host.to_string()]);
    }

    pub(crate) fn heal(&self, host: usize) {
        self.run(&["heal", &host.to_string()]);
    }

    /// From then on only the other machines reach it.
    pub(crate) fn hide(&self, host: usize) {
        self.run(&["hide", &host.to_string()]);
    }

    /// Runs a program on the machine, without SSH. What it leaves in the background stays until the machine goes.
    pub(crate) fn inside(&self, host: usize, command: &[&str]) {
        self.run(&[&["in", &host.to_string()], command].concat());
    }

    /// A folder on the machine's own disk.
    pub(crate) fn folder(&self, host: usize, name: &str) -> String {
        self.dir(host).join(name).display().to_string()
    }

    /// `stop` ends its connections as well, `drop` only those.
    pub(crate) fn sshd(&self, host: usize, verb: &str) {
        self.run(&["sshd", &host.to_string(), verb]);
    }

    /// `stop` kills it.
    pub(crate) fn dockerd(&self, host: usize, verb: &str) {
        self.run(&["dockerd", &host.to_string(), verb]);
    }

    /// The engine stops where it is, its connections open.
    pub(crate) fn freeze(&self, host: usize) {
        self.run(&["freeze", &host.to_string()]);
    }

    pub(crate) fn thaw(&self, host: usize) {
        self.run(&["thaw", &host.to_string()]);
    }

    /// Its engine loses every container and image.
    pub(crate) fn wipe(&self, host: usize) {
        self.run(&["wipe", &host.to_string()]);
    }

    /// Runs a command on the machine, past SSH.
    pub(crate) fn on(&self, host: usize, command: &str) {
        self.run(&["in", &host.to_string(), "sh", "-c", command]);
    }

    /// As when it was set up anew.
    pub(crate) fn change_host_key(&self, host: usize) {
        let key = self.dir(host).join("host_key");
        fs_err::remove_file(&key).unwrap();
        keygen(&key);
    }

    /// Puts a new host key in place of the old one, and the old one back when it is called again.
    pub(crate) fn exchange_host_key(&self, host: usize) {
        let dir = self.dir(host);
        for name in ["host_key", "host_key.pub"] {
            let (current, other) = (dir.join(name), dir.join(format!("other_{name}")));
            let swap = dir.join("swap");
            fs_err::rename(&current, &swap).unwrap();
            if other.exists() {
                fs_err::rename(&other, &current).unwrap();
            }
            fs_err::rename(&swap, &other).unwrap();
        }
        if !dir.join("host_key").exists() {
            keygen(&dir.join("host_key"));
        }
    }

    /// Names and whether they run, of all containers the machine has.
    pub(crate) async fn containers(&self, host: usize) -> Vec<(String, bool)> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = self.docker(host).list_containers(Some(options)).await.unwrap();
        let mut containers: Vec<_> = listed
            .into_iter()
            .map(|it| {
                let name = it.names.unwrap_or_default().first().cloned().unwrap_or_default();
                let is_up = it.state.is_some_and(|it| it.to_string() == "running");
                (name.trim_start_matches('/').to_owned(), is_up)
            })
            .collect();
        containers.sort();
        containers
    }

    fn dir(&self, host: usize) -> PathBuf {
        self.dir.join(format!("h{host}"))
    }

    fn script(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("bash");
        command
            .arg(SCRIPT)
            .arg(Path::new(&self.dir))
            .args([&self.prefix, &self.net])
            .args(arguments)
            .env("HOSTS_SSHD_CONFIG", &self.sshd_config);
        // What stays in the background must not hold our pipes open.
        let log = self.dir.with_extension("log");
        let file = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let mut output = command.output().unwrap();
        output.stderr = fs_err::read(&log).unwrap_or_default();
        fs_err::remove_file(&log).ok();
        output
    }

    fn run(&self, arguments: &[&str]) {
        let output = self.script(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "hosts.sh {arguments:?}: {said}");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.script(&["down"]);
    }
}

fn run(command: &mut Command) -> Option<Output> {
    command.stdin(Stdio::null()).output().ok().filter(|it| it.status.success())
}

fn keygen(path: &Path) {
    let path = path.display().to_string();
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path])).unwrap();
}

fn skip(why: &str) -> Option<Hosts> {
    println!("skipped: no machines behind SSH: {why}");
    None
}

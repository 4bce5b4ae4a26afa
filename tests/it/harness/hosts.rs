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
}

impl Hosts {
    /// Starts `n` machines with the test image on each. None, with the reason printed, where that cannot be.
    pub(crate) async fn start(n: usize) -> Option<Hosts> {
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

    /// The private key that every machine lets in.
    pub(crate) fn key(&self) -> String {
        self.dir.join("id_ed25519").display().to_string()
    }

    pub(crate) fn socket(&self, host: usize) -> PathBuf {
        self.dir(host).join("docker.sock")
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

    /// `stop` ends its connections as well.
    pub(crate) fn sshd(&self, host: usize, verb: &str) {
        self.run(&["sshd", &host.to_string(), verb]);
    }

    pub(crate) fn dockerd(&self, host: usize, verb: &str) {
        self.run(&["dockerd", &host.to_string(), verb]);
    }

    /// Its engine loses every container and image.
    pub(crate) fn wipe(&self, host: usize) {
        self.run(&["wipe", &host.to_string()]);
    }

    /// As when it was set up anew.
    pub(crate) fn change_host_key(&self, host: usize) {
        let key = self.dir(host).join("host_key");
        fs_err::remove_file(&key).unwrap();
        let key = key.display().to_string();
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]))
            .unwrap();
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
            .args(arguments);
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

fn skip(why: &str) -> Option<Hosts> {
    println!("skipped: no machines behind SSH: {why}");
    None
}

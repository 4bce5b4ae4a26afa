//! A real image registry (Debian's `docker-registry`), for pulls that really download.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, PushImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures::TryStreamExt as _;

use super::{docker, image};

/// Who may push where a login is wanted.
const PUSHER: (&str, &str) = ("pusher", "pushes0nly");

/// Runs until it is dropped.
pub(crate) struct Registry {
    process: Child,
    _dir: tempfile::TempDir,
    /// `host:port`; engines take loopback registries without TLS.
    pub(crate) address: String,
    wants_login: bool,
}

impl Registry {
    /// On loopback, for everybody. `None`, with a printed reason, where the program is not installed.
    pub(crate) async fn start() -> Option<Registry> {
        Registry::start_at("127.0.0.1", &[]).await
    }

    /// For these users and passwords only, or for everybody when there are none.
    pub(crate) async fn start_at(host: &str, users: &[(&str, &str)]) -> Option<Registry> {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let mut text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.display()
        );
        if !users.is_empty() {
            let passwords = dir.path().join("htpasswd");
            let lines: Option<Vec<String>> =
                users.iter().chain(&[PUSHER]).map(|(user, word)| line(user, word)).collect();
            fs_err::write(&passwords, lines?.join("")).unwrap();
            text.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                passwords.display()
            ));
        }
        fs_err::write(&config, text).unwrap();
        let spawned = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = match spawned {
            Ok(it) => it,
            Err(err) => {
                println!("skipped: `docker-registry` is not installed ({err})");
                return None;
            }
        };
        let registry = Registry { process, _dir: dir, address, wants_login: !users.is_empty() };
        let deadline = Instant::now() + Duration::from_secs(10);
        let http = crate::harness::http();
        let wanted = if registry.wants_login { 401 } else { 200 };
        while !http
            .get(format!("http://{}/v2/", registry.address))
            .send()
            .await
            .is_ok_and(|it| it.status() == wanted)
        {
            assert!(Instant::now() < deadline, "the registry does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(registry)
    }

    /// Pushes an image with 8 MiB of noise from an engine, which forgets it afterwards; answers its reference.
    pub(crate) async fn publish(&self, docker: &Docker, path: &str) -> String {
        let repository = format!("{}/{path}", self.address);
        // Noise, so that it is not compressed away, and of its own, so that no layer of it is there already.
        let mut noise = vec![0; 8 << 20];
        getrandom::fill(&mut noise).unwrap();
        let port = self.address.rsplit(':').next().unwrap();
        let local = format!("mcp-orch-pulled-{port}-{}", path.replace('/', "-"));
        let options = CreateImageOptionsBuilder::new().from_src("-").repo(&local).tag("1").build();
        let tar = bytes::Bytes::from(image::root_file_system_with("noise", &noise));
        docker
            .create_image(Some(options), Some(bollard::body_full(tar)), None)
            .try_collect::<Vec<_>>()
            .await
            .unwrap();
        let local = format!("{local}:1");
        let options = TagImageOptionsBuilder::new().repo(&repository).tag("1").build();
        docker.tag_image(&local, Some(options)).await.unwrap();
        let options = PushImageOptionsBuilder::new().tag("1").build();
        let login = self.wants_login.then(|| DockerCredentials {
            username: Some(PUSHER.0.to_owned()),
            password: Some(PUSHER.1.to_owned()),
            ..DockerCredentials::default()
        });
        let pushed = docker.push_image(&repository, Some(options), login);
        pushed.try_collect::<Vec<_>>().await.unwrap();
        let reference = format!("{repository}:1");
        docker::forget_image(docker, &reference).await;
        docker::forget_image(docker, &local).await;
        reference
    }

    /// What the registry itself says of a tag.
    pub(crate) async fn digest(&self, path: &str, tag: &str) -> String {
        let mut request = crate::harness::http()
            .get(format!("http://{}/v2/{path}/manifests/{tag}", self.address))
            .header("accept", "application/vnd.docker.distribution.manifest.v2+json");
        if self.wants_login {
            request = request.basic_auth(PUSHER.0, Some(PUSHER.1));
        }
        let answer = request.send().await.unwrap();
        answer.headers()["docker-content-digest"].to_str().unwrap().to_owned()
    }
}

/// A line of an htpasswd file, with the hash that the registry reads.
fn line(user: &str, password: &str) -> Option<String> {
    let out = Command::new("perl")
        .args(["-e", "print crypt($ARGV[0], q($2y$05$0123456789012345678901))", password])
        .stdin(Stdio::null())
        .output();
    let hash = out.ok().and_then(|it| String::from_utf8(it.stdout).ok()).unwrap_or_default();
    if !hash.starts_with("$2y$") {
        println!("skipped: no `perl` that hashes with bcrypt");
        return None;
    }
    Some(format!("{user}:{hash}\n"))
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

//! A real image registry on loopback (Debian's `docker-registry`), for pulls that really download.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs until it is dropped.
pub(crate) struct Registry {
    process: Child,
    _dir: tempfile::TempDir,
    /// `127.0.0.1:port`; the engine takes loopback registries without TLS.
    pub(crate) address: String,
}

impl Registry {
    /// `None`, with a printed reason, where the program is not installed.
    pub(crate) async fn start() -> Option<Registry> {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.display()
        );
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
        let registry = Registry { process, _dir: dir, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        let http = crate::harness::http();
        while !http
            .get(format!("http://{}/v2/", registry.address))
            .send()
            .await
            .is_ok_and(|it| it.status().is_success())
        {
            assert!(Instant::now() < deadline, "the registry does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

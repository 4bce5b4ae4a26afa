//! Whether this machine's Docker engine can be used.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Finding, bad, good, poor};

const PATIENCE: Duration = Duration::from_secs(5);
const SUBJECT: &str = "docker";

pub(super) async fn look(socket: &Path) -> Vec<Finding> {
    let shown = socket.display();
    let mut stream = match UnixStream::connect(socket).await {
        Ok(it) => it,
        Err(err) => return vec![unreachable(&shown.to_string(), &err)],
    };
    let asked = tokio::time::timeout(PATIENCE, ask(&mut stream, "/version")).await;
    let version = match asked {
        Ok(Ok(it)) => it,
        Ok(Err(err)) => return vec![bad(SUBJECT, format!("`{shown}` answers nonsense: {err}"))],
        Err(_) => {
            let text = format!(
                "`{shown}` does not answer\nhint: restart the engine (`systemctl restart docker`)"
            );
            return vec![bad(SUBJECT, text)];
        }
    };
    let text = |key: &str| version[key].as_str().unwrap_or("?").to_owned();
    let engine = format!("{} (API {}) at `{shown}`", text("Version"), text("ApiVersion"));
    let is_docker = version["ApiVersion"].is_string();
    if !is_docker {
        let text = format!("what answers at `{shown}` is not Docker\nhint: check `DOCKER_HOST`");
        return vec![bad(SUBJECT, text)];
    }
    vec![good(SUBJECT, engine), images(socket).await]
}

fn unreachable(shown: &str, err: &std::io::Error) -> Finding {
    match err.kind() {
        ErrorKind::NotFound => poor(
            SUBJECT,
            format!(
                "there is no engine at `{shown}`\n\
                 hint: install one (`apt-get install docker.io`), start it (`systemctl start docker`, or `dockerd &` as \
                 root), name its socket in `DOCKER_HOST`, or register a simulated node (`register_node` with engine `sim`)"
            ),
        ),
        ErrorKind::PermissionDenied => bad(
            SUBJECT,
            format!(
                "you may not use `{shown}`\n\
                 hint: `sudo usermod -aG docker $USER`, then log in again; the group `docker` is as mighty as root"
            ),
        ),
        ErrorKind::ConnectionRefused => bad(
            SUBJECT,
            format!(
                "nobody listens at `{shown}`\nhint: start the engine (`systemctl start docker`, or `dockerd &` as root)"
            ),
        ),
        _ => bad(SUBJECT, format!("`{shown}`: {err}")),
    }
}

async fn images(socket: &Path) -> Finding {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        ask(&mut stream, "/images/json").await
    };
    let n = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(Value::Array(it))) => it.len(),
        _ => return poor("images", "the engine does not say which images it has"),
    };
    match n {
        0 => poor(
            "images",
            "none yet\nhint: a launch pulls what it needs; without a registry make one with `docker import` or `docker load`",
        ),
        n => good("images", format!("{n} at hand")),
    }
}

/// One question in the plainest HTTP, whose answer ends with the connection.
async fn ask(stream: &mut UnixStream, path: &str) -> anyhow::Result<Value> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(serde_json::from_str(body)?)
}

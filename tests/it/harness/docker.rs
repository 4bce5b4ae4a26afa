//! The Docker engine of this machine, with the test image on it.

use bollard::Docker;

use super::image;

pub(crate) const SOCKET: &str = "/var/run/docker.sock";
pub(crate) const ENDPOINT: &str = "unix:///var/run/docker.sock";

/// None, with the reason printed, when this machine has no engine that could be asked. An engine that is there and
/// misbehaves is a failure.
pub(crate) async fn connect() -> Option<Docker> {
    let docker = match Docker::connect_with_unix(SOCKET, 120, bollard::API_DEFAULT_VERSION) {
        Ok(it) => it,
        Err(err) => return skip(&err),
    };
    if let Err(err) = docker.ping().await {
        return skip(&err);
    }
    image::ensure(&docker).await;
    Some(docker)
}

fn skip(why: &dyn std::error::Error) -> Option<Docker> {
    println!("skipped: no Docker engine at {SOCKET}: {why}");
    None
}

//! The Docker engine of this machine, with the test image on it.

use std::collections::HashMap;

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveImageOptionsBuilder};

use super::image;
use super::registry::Registry;
use super::server::Server;

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

/// What `docker ps -a` shows of the containers of `server`, and its instances there, are the same set in the same states.
pub(crate) async fn agrees_with(docker: &Docker, server: &Server, when: &str) {
    let controller_id =
        server.get("/cluster/status").await["controller_id"].as_str().unwrap().to_owned();
    let label = format!("mcp-orch.controller-id={controller_id}");
    let filters = HashMap::from([("label", vec![label.as_str()])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let containers = docker.list_containers(Some(options)).await.unwrap();
    let mut containers: Vec<(String, bool)> = containers
        .into_iter()
        .map(|it| {
            let name = it.names.unwrap_or_default().first().cloned().unwrap_or_default();
            let is_up = it.state.is_some_and(|it| it.to_string() == "running");
            (name.trim_start_matches('/').to_owned(), is_up)
        })
        .collect();
    let mut records: Vec<(String, bool)> = server
        .instances()
        .await
        .into_iter()
        .filter(|it| it["state"] != "terminated" && it["node_id"] == "local")
        .map(|it| (format!("mo-{}", it["id"].as_str().unwrap()), it["state"] == "running"))
        .collect();
    containers.sort();
    records.sort();
    assert_eq!(containers, records, "{when}: containers and instances\n{}", server.log());
}

/// A registry that has an image of 8 MiB which the engine has not, and the image's name. `None` where there is none.
pub(crate) async fn pullable_image(docker: &Docker) -> Option<(Registry, String)> {
    let registry = Registry::start().await?;
    let reference = registry.publish(docker, "lib/pulled").await;
    Some((registry, reference))
}

pub(crate) async fn forget_image(docker: &Docker, reference: &str) {
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    docker.remove_image(reference, Some(options), None).await.ok();
}

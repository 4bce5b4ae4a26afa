//! What an engine's answers mean, and its words made fit to show: no control characters, no addresses, no sockets.
//!
//! Docker tells many causes apart by text alone. All of that reading is here, next to the texts it was written for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bollard::errors::Error as Cause;
use orch_core::ports::engine::EngineError;
use orch_domain::image::ImageRef;

use crate::ssh::SshError;

/// A call that did not work out: either the engine said why, which each verb reads in its own way, or there was no
/// answer to read.
#[derive(Debug)]
pub(super) enum Failure {
    Said { status: u16, message: String },
    Engine(EngineError),
}

const NO_GPU_DRIVER: &str = "it cannot give GPUs to containers: the NVIDIA container toolkit is missing on the node; an \
     administrator installs `nvidia-container-toolkit` there and runs `nvidia-ctk runtime configure`, or sets `gpu=0` \
     with `update_node`";

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Failure {
        if let Cause::IOError { err } = &cause
            && let Some(ssh) = err.get_ref().and_then(|it| it.downcast_ref::<SshError>())
        {
            return Failure::Engine(ssh.into());
        }
        match cause {
            // Sent while it shuts down or starts up.
            Cause::DockerResponseServerError { status_code: 502..=504, .. } => {
                Failure::Engine(EngineError::Unreachable { source: Box::new(cause) })
            }
            Cause::DockerResponseServerError { status_code, message } => {
                Failure::Said { status: status_code, message }
            }
            Cause::DockerStreamError { error } => Failure::Said { status: 500, message: error },
            Cause::SocketNotFoundError(_)
            | Cause::IOError { .. }
            | Cause::HyperResponseError { .. }
            | Cause::HyperLegacyError { .. }
            | Cause::RequestTimeoutError => {
                Failure::Engine(EngineError::Unreachable { source: Box::new(cause) })
            }
            _ => Failure::Engine(EngineError::Refused {
                message: "its answer is not one of Docker's; something else may listen there"
                    .to_owned(),
            }),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(err: EngineError) -> Failure {
        Failure::Engine(err)
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> EngineError {
        match failure {
            Failure::Said { message, .. } => EngineError::Refused { message: clean(&message) },
            Failure::Engine(err) => err,
        }
    }
}

impl Failure {
    /// For every verb that names a container.
    pub(super) fn of_container(self, name: &str) -> EngineError {
        match self {
            Failure::Said { status: 404, .. } => {
                EngineError::NoSuchContainer { name: name.to_owned() }
            }
            Failure::Said { status: 409, message }
                if has_any(&message, &["is not running", "is paused"]) =>
            {
                EngineError::NotRunning { name: name.to_owned() }
            }
            other => other.into(),
        }
    }

    pub(super) fn of_create(self, image: &ImageRef) -> EngineError {
        match self {
            Failure::Said { status: 404, .. } => EngineError::ImageNotFound {
                image: image.clone(),
                message: "the node does not have it".to_owned(),
            },
            Failure::Said { status: 400, message }
                if has_any(&message, &["No command specified", "no command specified"]) =>
            {
                EngineError::InvalidCommand {
                    message: format!(
                        "the image `{image}` has no command of its own; give `command`"
                    ),
                }
            }
            other => other.into(),
        }
    }

    pub(super) fn of_start(self, name: &str) -> EngineError {
        let Failure::Said { message, .. } = &self else { return self.into() };
        // Both come from the same step: a port held by a container, and one held by anything else.
        if has_any(message, &["port is already allocated", "address already in use"]) {
            return EngineError::PortInUse { ports: port_in(message).into_iter().collect() };
        }
        if has_any(message, &["could not select device driver"]) {
            return EngineError::Refused { message: NO_GPU_DRIVER.to_owned() };
        }
        if is_about_the_command(message) {
            return EngineError::InvalidCommand { message: of_runtime(message) };
        }
        if is_cut_short(message) {
            return EngineError::CutShort { name: name.to_owned() };
        }
        if has_any(message, &["marked for removal"]) {
            return EngineError::NoSuchContainer { name: name.to_owned() };
        }
        self.of_container(name)
    }

    /// `username`: whom the pull logged in as.
    pub(super) fn of_pull(self, image: &ImageRef, username: Option<&str>) -> EngineError {
        let Failure::Said { message, .. } = self else { return self.into() };
        let told = |message: &str| EngineError::ImageNotFound {
            image: image.clone(),
            message: message.to_owned(),
        };
        if has_any(&message, &["no space left"]) {
            return EngineError::Refused {
                message: format!("the node's disk is full while pulling `{image}`"),
            };
        }
        if has_any(&message, &["toomanyrequests", "rate limit"]) {
            return told(
                "the registry limits how much is pulled; try again later or use another registry",
            );
        }
        if has_any(
            &message,
            &[
                "no such host",
                "dial tcp",
                "i/o timeout",
                "connection refused",
                "Client.Timeout",
                "TLS handshake",
                "server misbehaving",
                "network is unreachable",
                "x509",
                "HTTP response to HTTPS client",
            ],
        ) {
            return told(
                "the node cannot reach the registry; use an image that `list_images` shows, or load it on the node \
                 with `docker load` or `docker import`",
            );
        }
        // Docker Hub, and registries like it, say so of what is not there as well, which the next group is about.
        let is_either = has_any(&message, &["may require 'docker login'"]);
        let wants_login = ["unauthorized", "authentication required", "no basic auth", "denied: "];
        if has_any(&message, &wants_login) && !(is_either && username.is_none()) {
            return EngineError::LoginRefused {
                image: image.clone(),
                username: username.map(str::to_owned),
            };
        }
        if has_any(
            &message,
            &[
                "not found",
                "manifest unknown",
                "does not exist",
                "access denied",
                "no matching manifest",
            ],
        ) {
            return told(
                "the registry has no such image for this node, or it is private; for a private one an administrator \
                 keeps a login with `set_registry_credential`",
            );
        }
        told(&clean(&message))
    }
}

/// containerd has a task of that name from before the engine went down, and the engine does not know it.
fn is_cut_short(message: &str) -> bool {
    (message.starts_with("task ") && message.ends_with(": already exists"))
        || message.contains("container with given ID already exists")
        // The same of its shim.
        || message.trim_end_matches(": unknown").ends_with("id already in use")
}

fn has_any(message: &str, texts: &[&str]) -> bool {
    texts.iter().any(|it| message.contains(it))
}

/// `OCI runtime create failed: … exec: "nope": executable file not found in $PATH: unknown`
pub(super) fn is_about_the_command(message: &str) -> bool {
    has_any(message, &["OCI runtime", "unable to start container process", "starting container process"])
        && has_any(
            message,
            &[
                "executable file not found",
                "no such file or directory",
                "permission denied",
                "is a directory",
                "exec format error",
            ],
        )
        // These are the engine's own parts, which no command of a user names.
        && !has_any(message, &["docker-init", "rootfs_linux", "error mounting", "cgroup"])
}

/// The part after the last `exec:`, without the layers of the runtime around it.
pub(super) fn of_runtime(message: &str) -> String {
    let message = message.rsplit_once("exec: ").map_or(message, |(_, it)| it);
    clean(message.trim_end().trim_end_matches(": unknown"))
}

/// The host port a message complains about:
/// `Bind for 127.0.0.1:8000 failed: port is already allocated`,
/// `listen tcp4 127.0.0.1:8000: bind: address already in use`,
/// `failed to bind host port for [::]:8000:172.17.0.2:80/tcp: address already in use`.
fn port_in(message: &str) -> Option<u16> {
    message.split_whitespace().find_map(|word| {
        // Old engines write the IPv6 wildcard without brackets.
        let rest = if let Some(rest) = word.strip_prefix(":::") {
            rest
        } else if let Some((_, rest)) = word.strip_prefix('[').and_then(|it| it.split_once("]:")) {
            rest
        } else {
            let (address, rest) = word.split_once(':')?;
            address.parse::<Ipv4Addr>().ok()?;
            rest
        };
        let digits = rest.find(|it: char| !it.is_ascii_digit()).map_or(rest, |at| &rest[..at]);
        digits.parse().ok()
    })
}

/// The engine's words as anybody may read them: at most 400 characters, free of control characters, and with
/// addresses, URLs and socket paths replaced by `…`.
pub(super) fn clean(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(512));
    for word in orch_domain::text::sanitize(message).split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(if is_an_address(word) { "…" } else { word });
    }
    orch_domain::text::excerpt(&out, 400)
}

fn is_an_address(word: &str) -> bool {
    let bare = word.trim_matches(|it: char| {
        matches!(it, '"' | '\'' | '`' | '(' | ')' | ',' | ';' | '.' | ':')
    });
    let is_ip = |it: &str| it.parse::<IpAddr>().is_ok() || it.parse::<SocketAddr>().is_ok();
    bare.contains("://") || bare.contains(".sock") || bare.split("->").any(is_ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, message: &str) -> Failure {
        Failure::Said { status, message: message.to_owned() }
    }

    #[test]
    fn a_port_in_use_is_read_from_every_wording() {
        for (text, ports) in [
            (
                "driver failed programming external connectivity on endpoint mo-x (0fb1a2): Bind for 127.0.0.1:8000 \
                 failed: port is already allocated",
                vec![8000],
            ),
            (
                "driver failed programming external connectivity on endpoint mo-x (0fb1a2): Error starting userland \
                 proxy: listen tcp4 0.0.0.0:8001: bind: address already in use",
                vec![8001],
            ),
            (
                "Error starting userland proxy: listen tcp6 [::]:8002: bind: address already in use",
                vec![8002],
            ),
            ("Bind for :::8003 failed: port is already allocated", vec![8003]),
            (
                "failed to set up container networking: driver failed programming external connectivity on endpoint x: \
                 failed to bind host port for 127.0.0.1:8004:172.17.0.2:80/tcp: address already in use",
                vec![8004],
            ),
            ("failed to bind host port 127.0.0.1:8005/tcp: address already in use", vec![8005]),
            ("address already in use", vec![]),
        ] {
            match said(500, text).of_start("mo-x") {
                EngineError::PortInUse { ports: found } => assert_eq!(found, ports, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_start_that_was_cut_short_is_told_from_what_else_exists_already() {
        for text in [
            "task 3abfa6e3efd2b88a9f125a521e047b040de244eda029bef148a0bd92a4829186: already exists",
            "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
             failed: container with given ID already exists: unknown",
            "failed to create task for container: id already in use",
        ] {
            let err = said(500, text).of_start("mo-x");
            assert!(matches!(err, EngineError::CutShort { .. }), "{text}: {err:?}");
        }
        for text in ["endpoint with name mo-x already exists in network bridge", "task is busy"] {
            let err = said(500, text).of_start("mo-x");
            assert!(matches!(err, EngineError::Refused { .. }), "{text}: {err:?}");
        }
    }

    #[test]
    fn a_command_that_cannot_start_is_the_callers_matter() {
        let text = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
                    container process: exec: \"nope\": executable file not found in $PATH: unknown";
        match said(400, text).of_start("mo-x") {
            EngineError::InvalidCommand { message } => {
                assert_eq!(message, "\"nope\": executable file not found in $PATH");
            }
            other => panic!("{other:?}"),
        }
        for engines_own in [
            "OCI runtime create failed: exec: \"docker-init\": executable file not found in $PATH",
            "OCI runtime create failed: error mounting \"cgroup\" to rootfs: no such file or directory",
            "listen tcp4 127.0.0.1:80: bind: permission denied",
        ] {
            let err = said(500, engines_own).of_start("mo-x");
            assert!(matches!(err, EngineError::Refused { .. }), "{err:?}");
        }
    }

    #[test]
    fn an_image_without_a_command_is_the_callers_matter() {
        let image = ImageRef::try_new("bare:1").unwrap();
        match said(400, "No command specified").of_create(&image) {
            EngineError::InvalidCommand { message } => assert!(message.contains("`command`")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_gpu_that_the_engine_cannot_give_names_what_is_missing() {
        let text = "could not select device driver \"\" with capabilities: [[gpu]]";
        let err = said(500, text).of_start("mo-x");
        assert!(err.to_string().contains("NVIDIA container toolkit is missing"), "{err}");
    }

    #[test]
    fn pulls_say_what_to_do() {
        let image = ImageRef::try_new("registry.example/a:1").unwrap();
        for (text, part) in [
            (
                "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io on 10.0.0.2:53: no such host",
                "list_images",
            ),
            ("manifest for a:1 not found: manifest unknown: manifest unknown", "no such image"),
            (
                "pull access denied for a, repository does not exist or may require 'docker login'",
                "no such image",
            ),
        ] {
            match said(500, text).of_pull(&image, None) {
                EngineError::ImageNotFound { message, .. } => {
                    assert!(message.contains(part), "{text}: {message}");
                    assert!(!message.contains("10.0.0.2"), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
        for text in [
            "unauthorized: authentication required",
            "Head \"http://h:5000/v2/a/manifests/1\": no basic auth credentials",
            "unauthorized: incorrect username or password",
            "denied: requested access to the resource is denied",
        ] {
            for username in [None, Some("ann")] {
                let err = said(500, text).of_pull(&image, username);
                assert!(matches!(err, EngineError::LoginRefused { .. }), "{text}: {err:?}");
                let said = err.to_string();
                assert!(
                    said.contains("registry.example") && said.contains("set_registry"),
                    "{said}"
                );
                assert_eq!(said.contains("ann"), username.is_some(), "{said}");
            }
        }
    }

    #[test]
    fn words_to_show_have_no_addresses_and_no_control_characters() {
        assert_eq!(
            clean(
                "dial unix /var/run/docker.sock: \u{1b}[31mno\u{7} route to 10.1.2.3:2375 via http://h:1/x"
            ),
            "dial unix … no route to … via …"
        );
        assert_eq!(
            clean("Minimum memory limit allowed is 6MB"),
            "Minimum memory limit allowed is 6MB"
        );
        assert!(clean(&"x".repeat(9999)).chars().count() <= 401);
    }
}

//! What this machine is: its name, its size, and where its Docker engine listens.

use std::path::{Path, PathBuf};

use orch_core::service::bootstrap::LocalNode;
use orch_domain::resource::{Cpu, Memory, Resources};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Env;

const SOCKET: &str = "/var/run/docker.sock";

/// The Unix socket of this machine's Docker engine, whether or not it is there.
pub fn docker_socket(env: &dyn Env) -> PathBuf {
    let named = env.get("DOCKER_HOST");
    PathBuf::from(named.as_deref().and_then(|it| it.strip_prefix("unix://")).unwrap_or(SOCKET))
}

/// This machine as a node, when it has a Docker socket.
pub fn local_node(env: &dyn Env) -> Option<LocalNode> {
    let socket = docker_socket(env);
    is_socket(&socket).then(|| LocalNode {
        endpoint: format!("unix://{}", socket.display()),
        hostname: hostname(),
        capacity: capacity(),
    })
}

/// Takes as many open files as this process may have: every node that is checked or connected to needs one.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(err) = raised {
        tracing::debug!("the limit of open files stays as it is: {err}");
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs_err::metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn capacity() -> Resources {
    let n_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu = Cpu::from_millis(u32::try_from(n_cpus).unwrap_or(1) * 1000);
    Resources::new(cpu, memory(), 0)
}

#[cfg(target_os = "linux")]
fn memory() -> Memory {
    let info = rustix::system::sysinfo();
    Memory::from_bytes(info.totalram as u64 * u64::from(info.mem_unit))
}

/// Elsewhere Docker runs in a virtual machine of another size, which the first health check tells.
#[cfg(not(target_os = "linux"))]
fn memory() -> Memory {
    Memory::ZERO
}

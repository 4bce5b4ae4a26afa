//! The program as a shell runs it: arguments in, status and texts out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A user's home with nothing in it, and no Docker engine.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        let path = self.path("data");
        fs_err::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, text).unwrap();
        path
    }

    /// Not started yet; its working directory is the home.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-orch"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("MCP_ORCH_DATA_DIR", self.data_dir())
            .env("DOCKER_HOST", format!("unix://{}", self.path("no-docker.sock").display()))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(&mut self.command(arguments))
    }

    /// Runs what has to succeed, and returns its stdout.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Calls an operation that has to succeed, and returns its structured answer.
    pub(crate) fn call(&self, arguments: &[&str]) -> Value {
        let stdout = self.done(&[&["call"], arguments, &["--output", "json", "--yes"]].concat());
        serde_json::from_str(&stdout).unwrap()
    }

    pub(crate) fn add_simulated_node(&self) {
        self.call(&["register_node", "hostname=sim-1", "engine=sim"]);
    }
}

pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        // By a signal: no status of its own.
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What a data directory's lock file says of its holder.
pub(crate) fn holder(data_dir: &Path) -> Option<Value> {
    serde_json::from_str(&fs_err::read_to_string(data_dir.join("lock")).ok()?).ok()
}

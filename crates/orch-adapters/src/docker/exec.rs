//! Runs a command inside a container, to its end or its timeout.
//!
//! The engine has no call that ends a command, and closing the connection does not end it either. So each command
//! carries a mark in its environment, which its children inherit, and a second command ends every process that has the
//! mark. That needs a shell in the image; in an image without one, a command that outlives its timeout goes on until
//! the container stops.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures::StreamExt;
use orch_core::ports::engine::{EngineError, ExecOutcome, ExecRequest};

use super::DockerEngine;
use super::connect::{PATIENT, QUICK};
use super::error::{Failure, is_about_the_command, of_runtime};

const MARK: &str = "MCP_ORCH_EXEC";

/// Twice over, as a process may fork between being seen and being ended.
const END_MARKED: &str = r#"
for round in 1 2; do
  for it in /proc/[0-9]*; do
    if grep -qs "$0" "$it/environ"; then kill -9 "${it#/proc/}"; fi
  done
done
exit 0
"#;

/// The engine reports the end of a command a moment after its output ends.
const EXIT_CODE_PERIOD: Duration = Duration::from_millis(20);
const EXIT_CODE_WAIT: Duration = Duration::from_secs(5);

impl DockerEngine {
    pub(super) async fn run_exec(
        &self,
        name: &str,
        request: ExecRequest,
    ) -> Result<ExecOutcome, EngineError> {
        let mark = Mark::new();
        let mut env: Vec<String> =
            request.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        env.push(mark.variable());
        let config = ExecConfig {
            cmd: Some(request.command),
            env: Some(env),
            working_dir: request.working_dir,
            ..attached()
        };
        let id = self.create_exec(name, config).await?;
        let mut output = Output::new(request.max_output_bytes);
        let timeout = request.timeout;
        let is_over = tokio::time::timeout(timeout, self.attach(name, &id, &mut output)).await;
        if let Ok(result) = is_over {
            result?;
            let exit_code = self.exit_code(&id).await?;
            return output.finish(Some(exit_code));
        }
        // A command that left a child behind on its output has ended all the same.
        if let Ok(Some(exit_code)) = self.exit_code_now(&id).await {
            return output.finish(Some(exit_code));
        }
        self.end_marked(name, &mark).await;
        output.finish(None)
    }

    pub(super) async fn create_exec(
        &self,
        name: &str,
        config: ExecConfig,
    ) -> Result<String, EngineError> {
        let create = self
            .connection
            .call(PATIENT, |docker| async move { docker.create_exec(name, config).await });
        create.await.map(|it| it.id).map_err(|err| err.of_container(name))
    }

    async fn attach(&self, name: &str, id: &str, output: &mut Output) -> Result<(), EngineError> {
        let start = self.connection.call(PATIENT, |docker| async move {
            docker.start_exec(id, None::<StartExecOptions>).await
        });
        let started = start.await.map_err(|failure| match failure {
            Failure::Said { message, .. } if is_about_the_command(&message) => {
                EngineError::InvalidCommand { message: of_runtime(&message) }
            }
            other => other.of_container(name),
        })?;
        let StartExecResults::Attached { output: mut frames, .. } = started else { return Ok(()) };
        while let Some(frame) = frames.next().await {
            output.take(frame.map_err(Failure::from)?);
        }
        Ok(())
    }

    async fn exit_code(&self, id: &str) -> Result<i64, EngineError> {
        let poll = async {
            loop {
                if let Some(exit_code) = self.exit_code_now(id).await? {
                    return Ok(exit_code);
                }
                tokio::time::sleep(EXIT_CODE_PERIOD).await;
            }
        };
        tokio::time::timeout(EXIT_CODE_WAIT, poll)
            .await
            .unwrap_or(Err(EngineError::Timeout { after: EXIT_CODE_WAIT }))
    }

    async fn exit_code_now(&self, id: &str) -> Result<Option<i64>, EngineError> {
        let inspect =
            self.connection.call(QUICK, |docker| async move { docker.inspect_exec(id).await });
        let it = inspect.await?;
        Ok(if it.running.unwrap_or_default() { None } else { it.exit_code })
    }

    pub(super) async fn end_marked(&self, name: &str, mark: &Mark) {
        let command = ["sh", "-c", END_MARKED, &mark.variable()];
        let config = ExecConfig { cmd: Some(command.map(str::to_owned).to_vec()), ..attached() };
        let mut output = Output::new(400);
        let end = async {
            let id = self.create_exec(name, config).await?;
            self.attach(name, &id, &mut output).await?;
            self.exit_code(&id).await
        };
        match tokio::time::timeout(PATIENT, end).await {
            Ok(Ok(0)) => {}
            // Ended with its container.
            Ok(Err(EngineError::NotRunning { .. } | EngineError::NoSuchContainer { .. })) => {}
            Ok(Ok(exit_code)) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                tracing::warn!(container = name, exit_code, said, "a command outlives its timeout");
            }
            Ok(Err(err)) => {
                tracing::warn!(container = name, %err, "a command outlives its timeout");
            }
            Err(_) => tracing::warn!(container = name, "ending a command took too long"),
        }
    }
}

fn attached() -> ExecConfig {
    ExecConfig {
        attach_stdin: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(false),
        ..ExecConfig::default()
    }
}

/// Tells one command of ours from all others.
pub(super) struct Mark(String);

impl Mark {
    pub(super) fn new() -> Mark {
        let id = getrandom::u64().unwrap_or_default();
        Mark(format!("{id:016x}"))
    }

    pub(super) fn variable(&self) -> String {
        format!("{MARK}={}", self.0)
    }
}

/// The first bytes of both streams together; the rest is counted out.
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    room: usize,
    is_truncated: bool,
}

impl Output {
    fn new(max_bytes: usize) -> Output {
        Output { stdout: Vec::new(), stderr: Vec::new(), room: max_bytes, is_truncated: false }
    }

    fn take(&mut self, frame: LogOutput) {
        let (into, message) = match frame {
            LogOutput::StdErr { message } => (&mut self.stderr, message),
            LogOutput::StdOut { message }
            | LogOutput::StdIn { message }
            | LogOutput::Console { message } => (&mut self.stdout, message),
        };
        let kept = message.len().min(self.room);
        into.extend_from_slice(&message[..kept]);
        self.room -= kept;
        self.is_truncated |= kept < message.len();
    }

    fn finish(self, exit_code: Option<i64>) -> Result<ExecOutcome, EngineError> {
        // Old engines have already accepted the call when the runtime refuses, and say so in the output.
        if matches!(exit_code, Some(126 | 127))
            && self.stdout.starts_with(b"OCI runtime exec failed")
        {
            let message = of_runtime(&String::from_utf8_lossy(&self.stdout));
            return Err(EngineError::InvalidCommand { message });
        }
        let Output { stdout, stderr, is_truncated, .. } = self;
        Ok(ExecOutcome { exit_code, stdout, stderr, is_truncated })
    }
}

//! Whether a container that was started got as far as its own command.
//!
//! With an init process in the container the engine answers a start before the command has been tried. The init process
//! then ends with 126 or 127, a moment later, when there is no such program. So the processes of the container are looked
//! at: as soon as one of them is not the init process, the command runs. Normally that is one look.

use std::time::{Duration, Instant};

use bollard::models::ContainerTopResponse;
use bollard::query_parameters::TopOptions;
use futures::StreamExt;
use orch_core::ports::engine::{ContainerState, Engine, EngineError, LogQuery};

use super::DockerEngine;
use super::connect::QUICK;
use super::error::clean;

/// Between two looks at a container that has not come to its command, or whose end is not recorded yet.
const PERIOD: Duration = Duration::from_millis(3);

#[derive(Debug, PartialEq)]
enum Progress {
    /// Only the init process is there.
    Begins,
    Runs,
    /// There is no process left.
    Ended,
}

impl DockerEngine {
    /// Waits until the command of a started container runs or has ended, and refuses one that could not be run.
    pub(super) async fn check_command(&self, name: &str) -> Result<(), EngineError> {
        let deadline = Instant::now() + QUICK;
        while Instant::now() < deadline {
            let look = self.connection.call(QUICK, |docker| async move {
                docker.top_processes(name, None::<TopOptions>).await
            });
            match look.await.as_ref().map(progress) {
                Ok(Progress::Runs) => return Ok(()),
                Ok(Progress::Begins) => tokio::time::sleep(PERIOD).await,
                // An engine that has no `ps`, or has ended it already: the inspection says.
                Ok(Progress::Ended) | Err(_) => break,
            }
        }
        while let Some(seen) = self.inspect(name).await? {
            match seen.state {
                // It takes the engine a moment to record the end that was seen.
                ContainerState::Running
                    if Instant::now() < deadline && self.is_empty(name).await =>
                {
                    tokio::time::sleep(PERIOD).await;
                }
                ContainerState::Exited { exit_code: 126 | 127, .. } => {
                    return match self.complaint_of_init(name).await {
                        Some(message) => Err(EngineError::InvalidCommand { message }),
                        None => Ok(()),
                    };
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    async fn is_empty(&self, name: &str) -> bool {
        let look = self.connection.call(QUICK, |docker| async move {
            docker.top_processes(name, None::<TopOptions>).await
        });
        look.await.is_ok_and(|it| progress(&it) == Progress::Ended)
    }

    /// What the init process wrote when it could not run the command. A command of the user's may end with 127 as well,
    /// as a shell does whose script has a mistake: that one did run.
    async fn complaint_of_init(&self, name: &str) -> Option<String> {
        let query = LogQuery { tail: Some(5), since: None, follow: false };
        let lines: Vec<_> = self.logs(name, query).await.ok()?.collect().await;
        lines.into_iter().filter_map(Result::ok).find_map(|it| complaint(&it.text))
    }
}

fn progress(top: &ContainerTopResponse) -> Progress {
    let rows = top.processes.iter().flatten();
    let mut commands = rows.filter_map(|it| it.last()).peekable();
    if commands.peek().is_none() {
        return Progress::Ended;
    }
    match commands.any(|it| is_a_command(it)) {
        true => Progress::Runs,
        false => Progress::Begins,
    }
}

/// Not the init process (`/sbin/docker-init -- sleep 60`), which its child is too until it becomes the command; nor a
/// process that is over, which `ps` shows in brackets.
fn is_a_command(shown: &str) -> bool {
    let program = shown.split_whitespace().next().unwrap_or_default();
    let file = program.rsplit('/').next().unwrap_or_default();
    let is_init =
        (file.ends_with("-init") || matches!(file, "tini" | "catatonit")) && shown.contains(" -- ");
    !is_init && !program.starts_with('[')
}

/// `[FATAL tini (7)] exec nope failed: No such file or directory`
fn complaint(line: &str) -> Option<String> {
    let (before, said) = line.split_once("] exec ")?;
    let (program, why) = said.rsplit_once(" failed: ")?;
    let program = orch_domain::text::excerpt(program, 200);
    before.starts_with("[FATAL tini (").then(|| clean(&format!("\"{program}\": {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(commands: &[&str]) -> ContainerTopResponse {
        let rows = commands.iter().map(|it| vec!["1234".to_owned(), (*it).to_owned()]);
        ContainerTopResponse { titles: None, processes: Some(rows.collect()) }
    }

    #[test]
    fn a_command_runs_when_a_process_is_not_the_init_process() {
        const INIT: &str = "/sbin/docker-init -- sleep 60";
        assert_eq!(progress(&top(&[])), Progress::Ended);
        assert_eq!(progress(&top(&[INIT])), Progress::Begins);
        assert_eq!(progress(&top(&[INIT, INIT])), Progress::Begins);
        assert_eq!(progress(&top(&[INIT, "[docker-init] <defunct>"])), Progress::Begins);
        assert_eq!(progress(&top(&[INIT, "sleep 60"])), Progress::Runs);
        assert_eq!(progress(&top(&["nginx: master process"])), Progress::Runs);
    }

    #[test]
    fn the_complaint_of_the_init_process_is_read() {
        let line = "[FATAL tini (7)] exec /bin/nope failed: No such file or directory";
        assert_eq!(complaint(line).unwrap(), "\"/bin/nope\": No such file or directory");
        assert_eq!(complaint("sh: nope: not found"), None);
    }
}

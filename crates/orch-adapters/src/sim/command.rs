//! The few commands that every simulated container knows.

use std::collections::BTreeMap;
use std::time::Duration;

use orch_core::ports::engine::{EngineError, ExecRequest};

pub(super) struct Answer {
    pub(super) after: Duration,
    pub(super) exit_code: i64,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

pub(super) fn run(
    request: &ExecRequest,
    container_env: &BTreeMap<String, String>,
) -> Result<Answer, EngineError> {
    let Some((program, arguments)) = request.command.split_first() else {
        return Err(EngineError::InvalidCommand { message: "no command was given".to_owned() });
    };
    let answer = |exit_code: i64, stdout: String| Answer {
        after: Duration::ZERO,
        exit_code,
        stdout,
        stderr: String::new(),
    };
    match program.rsplit('/').next().unwrap_or_default() {
        "true" | "cat" | "sync" => Ok(answer(0, String::new())),
        "false" => Ok(answer(1, String::new())),
        "echo" => Ok(answer(0, format!("{}\n", arguments.join(" ")))),
        "hostname" => Ok(answer(0, "sim\n".to_owned())),
        "env" => {
            let mut env = container_env.clone();
            env.extend(request.env.clone());
            Ok(answer(0, env.iter().map(|(key, value)| format!("{key}={value}\n")).collect()))
        }
        "sleep" => {
            let seconds = arguments.first().and_then(|it| it.parse::<f64>().ok());
            match seconds.and_then(|it| Duration::try_from_secs_f64(it).ok()) {
                Some(after) => Ok(Answer { after, ..answer(0, String::new()) }),
                None => Ok(Answer {
                    stderr: "sleep: invalid number\n".to_owned(),
                    ..answer(1, String::new())
                }),
            }
        }
        _ => Err(EngineError::InvalidCommand {
            message: format!(
                "\"{}\": executable file not found in $PATH",
                orch_domain::text::excerpt(program, 100)
            ),
        }),
    }
}

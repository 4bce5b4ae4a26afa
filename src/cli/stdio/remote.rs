//! `stdio --connect`: a client that only starts programs uses an endpoint elsewhere.

use std::collections::BTreeMap;

use anyhow::Context;
use orch_domain::secret::Secret;
use orch_gateway::remote::Remote;

use crate::cli::args::{Globals, StdioArgs};
use crate::cli::{ExitStatus, serve};
use crate::config::Env;
use crate::telemetry;

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    url: &str,
    args: &StdioArgs,
) -> anyhow::Result<ExitStatus> {
    let config = globals.load(env)?;
    telemetry::start_logging(&config.server)?;
    let mut headers = BTreeMap::new();
    for header in &args.headers {
        // The value may be a secret and is in no message.
        let (name, value) = header
            .split_once('=')
            .with_context(|| "`--header` is NAME=VALUE, such as `--header X-Tenant=acme`")?;
        headers.insert(name.trim().to_owned(), Secret::new(value.to_owned()));
    }
    let mut remote = Remote { url: url.to_owned(), headers };
    if let Some(name) = &args.token_env {
        let token = env.get(name).filter(|it| !it.trim().is_empty()).with_context(|| {
            format!("the environment variable `{name}`, which `--token-env` names, is not set")
        })?;
        remote = remote.with_token(token.trim());
    }
    let (read, write) = rmcp::transport::stdio_pipes();
    remote.carry(read, write, serve::stop_on_signal()?).await?;
    Ok(ExitStatus::Done)
}

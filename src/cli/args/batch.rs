//! The arguments of `batch`.

use clap::{ArgGroup, Args, Subcommand};

use super::{Output, Target};

pub(super) const BATCH_EXAMPLES: &str = "\
Examples:
  mcp-orch batch run plan.yaml                          run a plan, and watch it
  mcp-orch batch run plan.yaml --dry-run                check it, and draw what it would do
  mcp-orch batch run --request 'stop all my instances'  let a model make the plan
  mcp-orch batch run - --output json < plan.json
  mcp-orch batch list
  mcp-orch batch events b-0123456789abcdef0

Exit status: 0 it succeeded, 1 it failed, 2 a mistake in the command line or in the plan, 3 refused with the error shown,
130 cancelled or interrupted.";

#[derive(Subcommand)]
pub(in crate::cli) enum BatchCommand {
    /// Run a plan, or have a model make one of words, and watch it until it has ended.
    Run(Box<RunBatchArgs>),
    /// Show how far a batch is, step by step.
    Status(OneBatchArgs),
    /// Show what came of a batch.
    Result {
        /// Only of this step.
        #[arg(long, value_name = "ID")]
        step: Option<String>,
        #[command(flatten)]
        of: OneBatchArgs,
    },
    /// Cancel a batch: what is under way is withdrawn, and nothing more is begun.
    Cancel(OneBatchArgs),
    /// List your batches, newest first.
    List {
        /// How to show the answer.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        target: Target,
    },
    /// Watch a batch until it has ended; leaving does not end it.
    Events {
        /// As `batch run` or `batch list` shows it.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Args)]
pub(in crate::cli) struct OneBatchArgs {
    /// As `batch run` or `batch list` shows it.
    #[arg(value_name = "ID")]
    pub id: String,
    /// How to show the answer.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true).args(["file", "request"])))]
pub(in crate::cli) struct RunBatchArgs {
    /// A plan in JSON or YAML; `-` reads stdin. It may also be what `batch_execute` takes, with `plan`, `calls` or
    /// `request` and their settings.
    pub file: Option<String>,
    /// What is to be done, in words, for the model that is configured under `llm`.
    #[arg(long, value_name = "WORDS")]
    pub request: Option<String>,
    /// Steps at the same time.
    #[arg(long, value_name = "N")]
    pub max_parallel: Option<u32>,
    /// Seconds that one attempt of a step may take, where the step does not say.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Times that a step is tried again, where its tool says that repeating is safe.
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Seconds that the whole batch may take.
    #[arg(long, value_name = "SECONDS")]
    pub deadline: Option<f64>,
    /// Names the batch: with the same token and plan, the same batch is followed and nothing runs twice.
    #[arg(long)]
    pub token: Option<String>,
    /// Print the id of the batch and leave it to the server that runs.
    #[arg(long, conflicts_with = "dry_run")]
    pub detach: bool,
    /// Check the plan and draw it, and run nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How to show the answer.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub target: Target,
}

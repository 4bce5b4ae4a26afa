//! Whether the language model that the configuration names can be asked. Nothing that costs is asked.

use orch_domain::text::excerpt;

use super::{Finding, bad, good, poor};
use crate::app::llm;
use crate::cli::chain;
use crate::config::Config;

const SUBJECT: &str = "llm";
/// Names of models that are shown when the one wanted is not there.
const N_SHOWN: usize = 5;

/// None: no provider is chosen, and there is no key of one either.
pub(super) async fn look(config: &Config) -> Option<Finding> {
    let look = match llm::look(config).await {
        Ok(Some(it)) => it,
        Ok(None) => return unchosen(config),
        Err(err) => return Some(bad(SUBJECT, chain(&err.into()))),
    };
    let name = look.name;
    let models = match look.models {
        None => {
            let text = format!("{name} is configured; not tried, as every request costs");
            return Some(good(SUBJECT, text));
        }
        Some(Err(err)) => {
            let text = format!(
                "{name}: {}\nhint: without it, requests in words need a client that lends its model",
                chain(&err.into())
            );
            return Some(poor(SUBJECT, text));
        }
        Some(Ok(it)) => it,
    };
    // A tag such as `:latest` need not be said.
    let is_it = |it: &String| {
        it.strip_prefix(look.model.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    if models.is_empty() || models.iter().any(is_it) {
        return Some(good(SUBJECT, format!("{name} answers and takes the key")));
    }
    // Deployments of Azure have names of their own, and so may aliases have.
    let shown: Vec<String> = models.iter().take(N_SHOWN).map(|it| excerpt(it, 60)).collect();
    Some(poor(
        SUBJECT,
        format!(
            "{name} answers and takes the key, but its list of {} models has no `{}`\nhint: there is {}; a deployment or an \
             alias may work all the same",
            models.len(),
            look.model,
            shown.join(", "),
        ),
    ))
}

fn unchosen(config: &Config) -> Option<Finding> {
    let llm = &config.llm;
    let keys = [
        ("openai", llm.openai.api_key.is_some()),
        ("anthropic", llm.anthropic.api_key.is_some()),
        ("azure", llm.azure.api_key.is_some()),
        ("bedrock", llm.bedrock.api_key.is_some() || llm.bedrock.secret_access_key.is_some()),
    ];
    let (provider, _) = keys.into_iter().find(|(_, is_set)| *is_set)?;
    Some(poor(
        SUBJECT,
        format!(
            "none is chosen, and there is a key of `{provider}`\nhint: set `llm.provider` to `{provider}` and \
             `llm.{provider}.model` to plan batches with it"
        ),
    ))
}

//! Which model plans.

use std::sync::Arc;

use orch_domain::Error;

use crate::Cx;
use crate::ports::model::Model;

/// The model of the connected client, else the configured one.
pub fn pick(cx: &Cx, configured: Option<&Arc<dyn Model>>) -> Result<Arc<dyn Model>, Error> {
    cx.model().or(configured).cloned().ok_or_else(|| Error::Unavailable {
        message: "no language model is there to plan with; give `plan` or `calls` instead of `request`, or connect \
                  with an MCP client that lends its model (sampling), or configure one: `llm.provider` in \
                  `config.yaml` as `openai`, `anthropic`, `azure` or `bedrock`, and its key in `OPENAI_API_KEY`, \
                  `ANTHROPIC_API_KEY`, `AZURE_AI_ENDPOINT` and `AZURE_AI_API_KEY`, or `AWS_REGION`, \
                  `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`"
            .to_owned(),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::Scripted;
    use super::*;

    #[test]
    fn the_clients_model_comes_first_and_none_says_what_to_do() {
        let lent: Arc<dyn Model> = Arc::new(Scripted::new("lent", []));
        let configured: Arc<dyn Model> = Arc::new(Scripted::new("configured", []));
        let cx = Cx::new(None);
        assert_eq!(pick(&cx, Some(&configured)).unwrap().name(), "configured");
        let err = pick(&cx, None).err().unwrap().to_string();
        for word in ["`plan`", "`calls`", "sampling", "`llm.provider`", "OPENAI_API_KEY"] {
            assert!(err.contains(word), "{word}: {err}");
        }
        let cx = cx.with_model(lent);
        assert_eq!(pick(&cx, Some(&configured)).unwrap().name(), "lent");
    }
}

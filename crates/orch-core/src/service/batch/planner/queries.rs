//! What to search tools for, where the words of a request are not those of the tools: it may be in another language.

use futures::StreamExt;
use orch_domain::Error;
use tokio_util::sync::CancellationToken;

use super::dialogue::until;
use super::lines::{Found, Lines};
use super::prompt::{Fence, SEARCH};
use crate::ports::model::{Message, Model, Piece, Prompt, Role};

const MAX_QUERIES: usize = 10;
/// In characters.
const LONGEST: usize = 200;
const MAX_TOKENS: u32 = 1_024;

/// Whether most letters are of a script that descriptions of tools are hardly ever written in.
pub(super) fn is_foreign(request: &str) -> bool {
    let letters = || request.chars().filter(|it| it.is_alphabetic());
    let n_foreign = letters().filter(|it| !it.is_ascii()).count();
    letters().count() < 2 * n_foreign
}

/// Queries that the model makes of the request. None, when it makes none: then tools are guessed. The error is only ever
/// that the canvas ended.
pub(super) async fn ask(
    model: &dyn Model,
    request: &str,
    fence: &Fence,
    ended: &CancellationToken,
) -> Result<Vec<String>, Error> {
    let request = fence.around("The request", super::NOTICE_OF_REQUEST, request);
    let prompt = Prompt {
        system: SEARCH.body().to_owned(),
        messages: vec![Message { role: Role::User, text: request }],
        max_tokens: MAX_TOKENS,
    };
    let mut queries = Vec::new();
    let Ok(mut stream) = until(ended, model.generate(&prompt)).await? else { return Ok(queries) };
    let mut lines = Lines::default();
    while let Some(Ok(Piece::Text(text))) = until(ended, stream.next()).await? {
        for found in lines.push(&text) {
            if let Found::Object(object) = found
                && let Some(query) = object.get("query").and_then(serde_json::Value::as_str)
                && queries.len() < MAX_QUERIES
            {
                queries.push(query.chars().take(LONGEST).collect());
            }
        }
    }
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_tools_are_not_described_in_is_foreign() {
        assert!(is_foreign("노드 세 개를 확인하고 nginx를 띄워 줘"));
        assert!(!is_foreign("launch nginx with the label größe=klein"));
        assert!(!is_foreign("1 + 1"));
    }
}

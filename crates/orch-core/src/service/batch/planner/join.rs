//! What becomes of the results: the model answers from them, or asks for further steps.

use orch_domain::Error;

use super::Canvas;
use super::dialogue::{Agreed, Dialogue, Stage, until};
use super::prompt::{Fence, JOIN};
use super::results;
use crate::view::untrusted::NOTICE_OF_TOOL;

/// None: nothing runs on this canvas, so there are no results.
pub(super) async fn answer(
    dialogue: &mut Dialogue<'_>,
    fence: &Fence,
) -> Result<Option<String>, Error> {
    let mut replans_left = dialogue.options.max_replans;
    // The model has seen the results of the steps before them.
    let mut n_shown = 0;
    loop {
        let canvas: &dyn Canvas = dialogue.canvas;
        let Some(ended) = until(canvas.ended(), canvas.settled()).await? else { return Ok(None) };
        let new = ended.get(n_shown..).unwrap_or_default();
        n_shown = ended.len();
        let results = fence.around("How the steps ended", NOTICE_OF_TOOL, &results::shown(new));
        let may_replan = replans_left != 0;
        let next = if may_replan { MAY_REPLAN } else { MUST_ANSWER };
        let text = JOIN.render(&[("results", &results), ("next", next)]);
        let said = std::mem::take(&mut dialogue.said);
        dialogue.tell(said, text);
        match dialogue.agree(Stage::Join { may_replan }).await? {
            Agreed::Answer(it) => return Ok(Some(it)),
            Agreed::Steps => replans_left -= 1,
        }
    }
}

const MAY_REPLAN: &str = "If steps are missing that the request needs and that you could not know before, write \
                          `{\"replan\": \"why\"}`, then the further steps, one per line, and `{\"done\": true}`. They may refer \
                          to all steps before.";
const MUST_ANSWER: &str =
    "No further steps can be taken: answer from what there is, and say what could not be done.";

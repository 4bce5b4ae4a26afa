//! What is said when a reply is not as it should be: to the model, so that it mends it, and to whoever asked, when it
//! does not.

use orch_domain::{Error, ErrorCode, text};

use super::dialogue::{Dialogue, MAX_WRONG, Reply, Stage};
use super::reply::Wrong;
use crate::ports::model::Model;

/// What the model is to mend, a line each; never nothing.
pub(super) fn what_to_mend(
    stage: Stage,
    reply: &Reply,
    wrong: &[Wrong],
    n_taken: usize,
) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    if reply.died.is_some() {
        said.push("your last reply broke off; write what is missing of it".to_owned());
    } else if reply.is_cut {
        said.push(
            "your last reply was longer than it may be and was cut off; go on after what was taken, in fewer \
             words"
                .to_owned(),
        );
    }
    said.extend(wrong.iter().take(MAX_WRONG).map(Wrong::line));
    if said.is_empty() {
        said.push(match stage {
            Stage::Plan if n_taken == 0 => {
                "there was no step in your reply; write one JSON object per line, or `cannot`"
                    .to_owned()
            }
            Stage::Plan => "nothing was mended".to_owned(),
            Stage::Join { .. } => {
                "there was neither an `answer` nor a step in your reply".to_owned()
            }
        });
    }
    said
}

impl Dialogue<'_> {
    pub(super) fn cannot(&self, why: &str) -> Error {
        let why = text::excerpt(&text::sanitize(why), 600);
        Error::invalid(
            "request",
            format!(
                "the planner ({}) says that it cannot be done with the tools you may use: {why}; ask for something else, \
                 or give `plan` or `calls`",
                self.model.name()
            ),
        )
    }

    pub(super) fn unusable(&self, stage: Stage, said: &[String]) -> Error {
        const MAX_SAID: usize = 10;
        let mut what: Vec<String> =
            said.iter().take(MAX_SAID).map(|it| text::excerpt(it, 400)).collect();
        if MAX_SAID < said.len() {
            what.push(format!("and {} more", said.len() - MAX_SAID));
        }
        let (wanted, advice) = match stage {
            Stage::Plan => ("plan", "ask in other words, or give `plan` or `calls`"),
            Stage::Join { .. } => ("answer", "the results of the steps are there all the same"),
        };
        Error::UpstreamError {
            server: self.model.name(),
            message: format!(
                "the model {} wrote no usable {wanted} in {} replies ({} steps were taken): {}; {advice}",
                self.model.name(),
                self.rounds,
                self.taken.len(),
                what.join("; "),
            ),
        }
    }
}

/// Whether asking again may help: what is wrong with a key or a setting stays wrong.
pub(super) fn may_pass(err: &Error) -> bool {
    matches!(
        err.code(),
        ErrorCode::Unavailable
            | ErrorCode::UpstreamError
            | ErrorCode::UpstreamTimeout
            | ErrorCode::TooManyRequests
            | ErrorCode::Internal
    )
}

pub(super) fn cut_off(model: &dyn Model) -> Error {
    Error::UpstreamError {
        server: model.name(),
        message: format!("the reply of the model {} broke off; try again", model.name()),
    }
}

//! How steps ended, short enough for a model to read.

use orch_domain::batch::StepState;
use orch_domain::text;
use serde_json::Value;

use super::Ended;

/// Of one result, in bytes.
const MAX_RESULT: usize = 2_000;
/// Of all results together.
const MAX_RESULTS: usize = 40_000;
/// Steps that are shown one by one; those that did not succeed come first among them.
const MAX_SHOWN: usize = 200;
const LONGEST_REASON: usize = 300;

/// One block for each step, in the order of the plan. Long results are cut, the more the more there are.
pub(super) fn shown(ended: &[Ended]) -> String {
    let mut places: Vec<usize> = (0..ended.len()).collect();
    places.sort_by_key(|it| ended[*it].state == StepState::Succeeded);
    places.truncate(MAX_SHOWN);
    places.sort_unstable();
    let texts: Vec<(usize, Excerpt)> =
        places.into_iter().map(|it| (it, Excerpt::of(ended[it].result.as_deref()))).collect();
    let share = share(texts.iter().map(|it| it.1.text.len()).collect(), MAX_RESULTS);

    let mut out = String::new();
    for (at, excerpt) in &texts {
        let it = &ended[*at];
        out.push_str(&format!(
            "{} ({}): {}",
            it.id,
            text::excerpt(&it.tool, 200),
            it.state.as_str()
        ));
        if let Some(reason) = &it.reason {
            let message = text::excerpt(&reason.message, LONGEST_REASON);
            out.push_str(&format!(", {}: {message}", reason.code));
        }
        out.push('\n');
        let part = text::beginning(&excerpt.text, share);
        if !part.is_empty() {
            out.push_str(part);
            let is_cut = excerpt.is_cut || part.len() < excerpt.text.len();
            out.push_str(if is_cut { " … (there is more)\n" } else { "\n" });
        }
    }
    if texts.len() < ended.len() {
        let n_more = ended.len() - texts.len();
        out.push_str(&format!("… and {n_more} more steps that succeeded\n"));
    }
    out
}

/// The most that each of some texts may have so that all fit: short ones leave their rest to the others.
fn share(mut lengths: Vec<usize>, total: usize) -> usize {
    lengths.sort_unstable();
    let mut left = total;
    for (i, length) in lengths.iter().enumerate() {
        let each = left / (lengths.len() - i);
        if each < *length {
            return each;
        }
        left -= length;
    }
    MAX_RESULT
}

struct Excerpt {
    text: String,
    is_cut: bool,
}

impl Excerpt {
    /// What a tool answered: its structured result, else its text.
    fn of(result: Option<&Value>) -> Excerpt {
        let Some(result) = result else { return Excerpt { text: String::new(), is_cut: false } };
        let mut writer = Bounded { bytes: Vec::new(), is_cut: false };
        let structured = result.get("structuredContent").filter(|it| !it.is_null());
        if let Some(it) = structured {
            writer.json(it);
        } else if let Some(blocks) = result.get("content").and_then(Value::as_array) {
            for block in blocks {
                match block.get("text").and_then(Value::as_str) {
                    Some(text) => writer.text(text),
                    None => writer.text(&format!("({})", name_of(block))),
                }
            }
        } else {
            writer.json(result);
        }
        let text = String::from_utf8_lossy(&writer.bytes);
        let text = text.trim_end_matches('\u{fffd}').trim().to_owned();
        Excerpt { text, is_cut: writer.is_cut }
    }
}

/// Of content that is no text.
fn name_of(block: &Value) -> String {
    let kind = block.get("type").and_then(Value::as_str).unwrap_or("content");
    let media = block.get("mimeType").and_then(Value::as_str).unwrap_or_default();
    text::excerpt(format!("{kind} {media}").trim(), 100)
}

/// Takes the first bytes and refuses the others, so that nobody writes out a large result to show its beginning.
struct Bounded {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Bounded {
    fn json(&mut self, value: &Value) {
        let written = serde_json::to_writer(&mut *self, value);
        self.is_cut |= written.is_err();
    }

    fn text(&mut self, text: &str) {
        let written = std::io::Write::write_all(self, text.as_bytes())
            .and_then(|()| std::io::Write::write_all(self, b"\n"));
        self.is_cut |= written.is_err();
    }
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // A byte more than is kept tells a text that just fits from one that is cut.
        let room = (MAX_RESULT + 1).saturating_sub(self.bytes.len());
        let n = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..n]);
        if n == 0 && !bytes.is_empty() {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use orch_domain::batch::Reason;
    use orch_domain::name::StepId;
    use serde_json::json;

    use super::*;

    fn ended(id: &str, state: StepState, result: Value) -> Ended {
        Ended {
            id: StepId::try_new(id).unwrap(),
            tool: "a.tool".to_owned(),
            state,
            reason: (state != StepState::Succeeded)
                .then(|| Reason::new("ToolError", "no such file")),
            result: (!result.is_null()).then(|| Arc::new(result)),
        }
    }

    #[test]
    fn each_step_says_how_it_ended_and_what_came_of_it() {
        let text = shown(&[
            ended(
                "one",
                StepState::Succeeded,
                json!({"content": [], "structuredContent": {"n": 1}}),
            ),
            ended(
                "two",
                StepState::Succeeded,
                json!({"content": [
                    {"type": "text", "text": "words"}, {"type": "image", "mimeType": "image/png", "data": "AA"},
                ]}),
            ),
            ended("three", StepState::Failed, Value::Null),
        ]);
        assert_eq!(
            text,
            "one (a.tool): succeeded\n{\"n\":1}\ntwo (a.tool): succeeded\nwords\n(image image/png)\n\
             three (a.tool): failed, ToolError: no such file\n"
        );
    }

    #[test]
    fn long_results_are_cut_where_characters_end_and_say_so() {
        let long = json!({"content": [{"type": "text", "text": "ä".repeat(50_000)}]});
        let text = shown(&[ended("one", StepState::Succeeded, long)]);
        assert!(text.len() < MAX_RESULT + 100 && text.contains("ä … (there is more)"), "{text}");
        assert!(!text.contains('\u{fffd}'));
    }

    #[test]
    fn many_results_share_the_room_and_failures_are_all_shown() {
        let result = || json!({"structuredContent": "x".repeat(1_900), "content": []});
        let mut all: Vec<Ended> =
            (0..1_000).map(|i| ended(&format!("s{i}"), StepState::Succeeded, result())).collect();
        all[990] = ended("late", StepState::Failed, Value::Null);
        let text = shown(&all);
        assert!(text.len() < MAX_RESULTS + MAX_SHOWN * 80, "{}", text.len());
        assert!(text.contains("late (a.tool): failed"));
        assert!(text.ends_with("… and 800 more steps that succeeded\n"));
        assert_eq!(share(vec![10, 10, 100], 70), 50);
    }
}

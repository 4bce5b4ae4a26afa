//! The head of a tool's result that is too large, as a valid result that says where the rest is.

use bytes::Bytes;
use serde_json::{Value, json};

use super::results::SCHEME;
use crate::frame::{Raw, raw};
use crate::members::Members;

/// Where in `_meta` the size and the reference stand.
pub const META: &str = "mcp-orch/rest";

/// What of a result is kept for reading on: its text, where it is one text and nothing else, or all of it as JSON.
pub struct Whole {
    pub media_type: &'static str,
    pub body: Bytes,
}

pub fn whole(result: &Raw) -> Whole {
    let as_json = || Whole { media_type: "application/json", body: result.get().to_owned().into() };
    let Some(members) = Members::of(result) else { return as_json() };
    let blocks = members.array("content").unwrap_or_default();
    let text = match blocks.as_slice() {
        [only] => Members::of(only)
            .filter(|it| it.text("type").as_deref() == Some("text"))
            .and_then(|it| it.text("text")),
        _ => None,
    };
    let Some(text) = text else { return as_json() };
    // Servers of structured results repeat them as text; anything else has to be kept too.
    let is_all = members.get("structuredContent").is_none_or(|it| {
        let (structured, said) =
            (serde_json::from_str::<Value>(it.get()).ok(), serde_json::from_str(&text).ok());
        structured.is_some() && structured == said
    });
    if is_all { Whole { media_type: "text/plain", body: text.into() } } else { as_json() }
}

/// At most about `limit` bytes of `result`. `id` is what the whole is kept under. A tool that promised structured content
/// and cannot show it has its result marked as an error, because clients take it for broken otherwise.
pub fn head(result: &Raw, limit: usize, id: &str, whole: &Whole, has_output_schema: bool) -> Raw {
    let size = whole.body.len();
    let Some(mut members) = Members::of(result) else { return raw(&json!({"content": []})) };
    let mut rest = limit;
    // What is not known is kept where it is small.
    let large: Vec<String> = members
        .iter()
        .filter(|(key, value)| {
            !matches!(*key, "content" | "structuredContent") && limit / 4 < value.get().len()
        })
        .map(|(key, _)| key.to_owned())
        .collect();
    large.iter().for_each(|it| members.remove(it));
    let mut blocks: Vec<Raw> = Vec::new();
    let mut kept_text = 0;
    let mut is_cut = false;
    for block in members.array("content").unwrap_or_default() {
        if block.get().len() <= rest {
            rest -= block.get().len();
            kept_text = text_of(&block).map_or(kept_text, |it| it.len());
            blocks.push(block);
            continue;
        }
        is_cut = true;
        match text_of(&block) {
            Some(text) => {
                let head = &text[..fitting(&text, rest)];
                kept_text = head.len();
                rest -= escaped_len(head).min(rest);
                let mut block = Members::of(&block).unwrap_or_default();
                block.set("text", head);
                blocks.push(block.to_raw());
            }
            None => blocks.push(raw(&json!({
                "type": "text", "text": format!("[{} bytes of other content]", block.get().len())
            }))),
        }
        // What comes behind would read as if nothing were missing before it.
        break;
    }
    let mut is_dropped = false;
    if let Some(structured) = members.get("structuredContent")
        && rest < structured.get().len()
    {
        members.remove("structuredContent");
        is_dropped = true;
    }
    // One text is read on where it was cut; anything else is read from its start.
    let offset = if whole.media_type == "text/plain" && is_cut { kept_text } else { 0 };
    let reference = format!("{SCHEME}{id}?offset={offset}");
    let mut note = format!(
        "[This result has {size} bytes and was cut. Read on with the resource `{reference}`, or with `get_result` and \
         id={id} offset={offset}.]"
    );
    if is_dropped && has_output_schema {
        note.insert_str(1, "The call was made and is not to be repeated. ");
        members.set("isError", &true);
    }
    blocks.push(raw(&json!({"type": "text", "text": note})));
    members.set("content", &blocks);
    let mut meta = members.object("_meta").unwrap_or_default();
    meta.set(META, &json!({"reference": reference, "size": size}));
    members.set("_meta", &meta);
    members.to_raw()
}

fn text_of(block: &Raw) -> Option<String> {
    let block = Members::of(block)?;
    (block.text("type")? == "text").then(|| block.text("text"))?
}

/// Bytes of one character in a JSON string.
fn cost(it: char) -> usize {
    match it {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        it if it < ' ' => 6,
        it => it.len_utf8(),
    }
}

fn escaped_len(text: &str) -> usize {
    text.chars().map(cost).sum()
}

/// How much of the text, up to a character's end, takes no more than `room` in JSON.
fn fitting(text: &str, room: usize) -> usize {
    let mut used = 0;
    for (at, it) in text.char_indices() {
        used += cost(it);
        if room < used {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(result: &Value, limit: usize, has_schema: bool) -> (Value, Whole) {
        let result = raw(result);
        let whole = whole(&result);
        let head = head(&result, limit, "r-1", &whole, has_schema);
        assert!(head.get().len() < limit + 700, "{} of {limit}", head.get().len());
        (serde_json::from_str(head.get()).unwrap(), whole)
    }

    #[test]
    fn one_text_is_cut_between_characters_and_read_on_from_there() {
        let text = "é\"世\n".repeat(1000);
        let (head, whole) = cut(
            &json!({"content": [{"type": "text", "text": text, "vendor": 1}], "isError": false}),
            2001,
            false,
        );
        let kept = head["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with(kept) && 1000 < kept.len(), "{}", kept.len());
        assert_eq!(head["content"][0]["vendor"], 1);
        assert_eq!(head["isError"], false);
        assert_eq!(head["_meta"][META]["reference"], format!("result://r-1?offset={}", kept.len()));
        assert_eq!(head["_meta"][META]["size"], text.len());
        assert_eq!((whole.media_type, &*whole.body), ("text/plain", text.as_bytes()));
        assert!(head["content"][1]["text"].as_str().unwrap().contains("get_result"));
    }

    #[test]
    fn what_is_not_one_text_is_kept_as_it_was() {
        let big = "x".repeat(5000);
        let result = json!({
            "content": [{"type": "text", "text": "first"}, {"type": "image", "data": big}, {"type": "text", "text": "last"}],
            "_meta": {"a": 1}, "other": big
        });
        let (head, whole) = cut(&result, 2000, true);
        assert_eq!(whole.media_type, "application/json");
        assert_eq!(serde_json::from_slice::<Value>(&whole.body).unwrap(), result);
        let texts: Vec<&str> = head["content"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["text"].as_str().unwrap())
            .collect();
        assert_eq!(texts[0], "first");
        assert!(texts[1].contains("bytes of other content"));
        assert_eq!(texts.len(), 3);
        assert_eq!(head["_meta"]["a"], 1);
        assert_eq!(head["_meta"][META]["reference"], "result://r-1?offset=0");
        assert!(head.get("other").is_none() && head.get("isError").is_none());
    }

    #[test]
    fn structured_content_goes_when_it_is_what_is_too_large() {
        let data = json!({"rows": vec!["0123456789"; 500]});
        let result = json!({"content": [{"type": "text", "text": data.to_string()}], "structuredContent": data});
        let (head, whole) = cut(&result, 2000, true);
        assert!(head.get("structuredContent").is_none());
        assert_eq!(head["isError"], true, "a client would refuse it otherwise");
        assert_eq!(whole.media_type, "text/plain", "the text says all of it");
        let result =
            json!({"content": [{"type": "text", "text": "short"}], "structuredContent": data});
        let (head, whole) = cut(&result, 2000, false);
        assert_eq!(head["content"][0]["text"], "short");
        assert_eq!(whole.media_type, "application/json");
        assert!(head.get("isError").is_none());
    }
}

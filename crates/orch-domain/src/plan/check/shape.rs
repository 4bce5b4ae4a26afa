//! Where in a result there can be something at all.

use crate::plan::near;
use crate::plan::reference::tokens;

/// What a tool's result has, and `/json`.
const OF_A_TOOL: [&str; 4] = ["structuredContent", "content", "json", "isError"];
/// What `structuredContent` has when a step ran for each element.
const OF_ALL_ELEMENTS: [&str; 4] = ["items", "count", "failed", "errors"];

/// Why nothing can be at `pointer` in the result of a step. All of the result is something.
pub(super) fn wrong_place(pointer: &str, fans_out: bool) -> Option<String> {
    let mut tokens = tokens(pointer);
    let first = tokens.next()?;
    if !OF_A_TOOL.contains(&first.as_ref()) {
        let meant = near::hint(&first, OF_A_TOOL);
        return Some(format!(
            "a result has `/structuredContent`, `/content` and `/isError`, and `/json` for its structured content or the \
             JSON in its first text; not `/{}`{meant}",
            crate::text::excerpt(&first, 60)
        ));
    }
    let second = tokens.next();
    if !fans_out {
        let index = second.filter(|_| first == "content")?;
        return (!is_index(&index)).then(|| {
            format!(
                "`/content` is an array, as in `/content/0/text`; not `/content/{}`",
                crate::text::excerpt(&index, 60)
            )
        });
    }
    if !matches!(first.as_ref(), "structuredContent" | "json") {
        return Some(
            "the result of a step with `for_each` has `/structuredContent` only, with `items`, `count`, `failed` and `errors`"
                .to_owned(),
        );
    }
    let second = second?;
    if !OF_ALL_ELEMENTS.contains(&second.as_ref()) {
        return Some(format!(
            "the result of a step with `for_each` has `items`, `count`, `failed` and `errors`; not `{}`. What one element \
             came to is in `/structuredContent/items/0`",
            crate::text::excerpt(&second, 60)
        ));
    }
    let third = tokens.next().filter(|_| matches!(second.as_ref(), "items" | "errors"))?;
    (!is_index(&third)).then(|| {
        format!(
            "`/{first}/{second}` is an array, as in `/{first}/{second}/0`; not `/{first}/{second}/{}`",
            crate::text::excerpt(&third, 60)
        )
    })
}

fn is_index(token: &str) -> bool {
    token.bytes().all(|it| it.is_ascii_digit())
        && (token == "0" || !token.starts_with('0'))
        && !token.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_can_be_there_are_not_refused() {
        for it in [
            "",
            "/structuredContent",
            "/structuredContent/a/0",
            "/content",
            "/content/12/text",
            "/json/0",
            "/isError",
        ] {
            assert_eq!(wrong_place(it, false), None, "{it}");
        }
        for it in [
            "",
            "/structuredContent/items/0/x",
            "/json/count",
            "/structuredContent/errors/1/message",
            "/json",
        ] {
            assert_eq!(wrong_place(it, true), None, "{it}");
        }
    }

    #[test]
    fn places_that_cannot_be_there_are_explained() {
        for (it, fans_out, why) in [
            ("/id", false, "not `/id`"),
            ("/structured", false, "nearest: `structuredContent`"),
            ("/", false, "not `/`"),
            ("/content/text", false, "`/content/0/text`"),
            ("/content/-", false, "is an array"),
            ("/content/0", true, "`/structuredContent` only"),
            ("/structuredContent/id", true, "`/structuredContent/items/0`"),
            ("/json/items/id", true, "`/json/items` is an array"),
        ] {
            let message = wrong_place(it, fans_out).unwrap();
            assert!(message.contains(why), "{it}: {message}");
        }
    }
}

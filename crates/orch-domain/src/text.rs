//! Text that somebody else wrote (logs, names, output of commands) made safe to show to a person or a model.

use std::collections::VecDeque;

/// At most `max` characters of `text`, without control characters; `…` marks a cut.
pub fn excerpt(text: &str, max: usize) -> String {
    let mut out: String =
        text.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).take(max).collect();
    if text.chars().nth(max).is_some() {
        out.push('…');
    }
    out
}

/// Whether `text` is one line of at most `max` characters that mislead nobody.
pub fn check_line(parameter: &str, text: &str, max: usize) -> Result<(), crate::Error> {
    let n_characters = text.chars().count();
    if max < n_characters {
        let message = format!("it has {n_characters} characters; at most {max} are allowed");
        return Err(crate::Error::invalid(parameter, message));
    }
    if text.chars().any(|it| it.is_control() || is_invisible(it)) {
        let message =
            "it has control characters or invisible ones; one line of plain text is allowed";
        return Err(crate::Error::invalid(parameter, message));
    }
    Ok(())
}

/// Strips what a terminal or a reader could be misled by: ANSI escape sequences, control characters other than
/// newline and tab, and the Unicode characters that reorder or hide text (bidi controls, zero-width, tags).
pub fn sanitize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(it) = chars.next() {
        match it {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' | '\t' => out.push(it),
            // A carriage return alone would overwrite the line before it.
            '\r' => {
                if chars.peek() != Some(&'\n') {
                    out.push('\n');
                }
            }
            _ if it.is_control() || is_invisible(it) => {}
            _ => out.push(it),
        }
    }
    out
}

/// The beginning of `text` that fits into `max_bytes`, on a character boundary.
pub fn beginning(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// The newest lines that fit into so many bytes, of however many there are.
#[derive(Debug)]
pub struct Tail {
    lines: VecDeque<String>,
    /// Invariant: what `lines` take with a newline each.
    n_bytes: usize,
    max_bytes: usize,
    is_truncated: bool,
}

impl Tail {
    pub fn new(max_bytes: usize) -> Tail {
        Tail { lines: VecDeque::new(), n_bytes: 0, max_bytes, is_truncated: false }
    }

    pub fn push(&mut self, mut line: String) {
        let too_long = (line.len() + 1).saturating_sub(self.max_bytes);
        if too_long != 0 {
            line.drain(..line.ceil_char_boundary(too_long.min(line.len())));
            // Nothing older fits before it, even where a cut character leaves a byte or two.
            self.lines.clear();
            self.n_bytes = 0;
            self.is_truncated = true;
        }
        self.n_bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.max_bytes < self.n_bytes
            && let Some(oldest) = self.lines.pop_front()
        {
            self.n_bytes -= oldest.len() + 1;
            self.is_truncated = true;
        }
    }

    pub fn n_lines(&self) -> usize {
        self.lines.len()
    }

    /// Whether older text was dropped.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Every line ends with a newline.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.n_bytes);
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        // CSI: parameters, then one final byte.
        Some('[') => while chars.next().is_some_and(|it| !('\u{40}'..='\u{7e}').contains(&it)) {},
        // OSC, DCS, SOS, PM, APC: up to BEL or ST.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(it) = chars.next() {
                if it == '\u{7}' {
                    break;
                }
                if it == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
        }
        // Two-character sequences with an intermediate byte, such as `ESC ( B`.
        Some(' '..='/') => {
            chars.next();
        }
        _ => {}
    }
}

fn is_invisible(it: char) -> bool {
    matches!(it,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{feff}' | '\u{e0000}'..='\u{e007f}' | '\u{61c}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_reordering_are_gone() {
        let hostile =
            "a\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}b\u{202e}c\u{200b}d\re\u{1b}(Bf\u{8}";
        assert_eq!(sanitize(hostile), "ared bcd\nef");
        assert_eq!(sanitize("line 1\r\nline\t2\n"), "line 1\nline\t2\n");
    }

    #[test]
    fn a_line_has_no_second_line_and_hides_nothing() {
        assert!(check_line("description", "rack 3, left – ok", 20).is_ok());
        for bad in ["two\nlines", "bell\u{7}", "rtl\u{202e}", "longer than twenty characters"] {
            assert!(check_line("description", bad, 20).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_tail_keeps_the_newest_and_says_what_it_dropped() {
        let mut tail = Tail::new(10);
        ["one", "two"].into_iter().for_each(|it| tail.push(it.to_owned()));
        assert_eq!((tail.text().as_str(), tail.is_truncated()), ("one\ntwo\n", false));
        tail.push("three".to_owned());
        assert_eq!((tail.text().as_str(), tail.is_truncated()), ("two\nthree\n", true));
        tail.push("a very long line, ää".to_owned());
        assert_eq!(tail.text(), "ine, ää\n");
    }

    proptest::proptest! {
        #[test]
        fn a_tail_stays_within_its_bytes(lines in proptest::collection::vec("\\PC{0,20}", 0..20), max in 1usize..60) {
            let mut tail = Tail::new(max);
            lines.iter().for_each(|it| tail.push(it.clone()));
            let all: String = lines.iter().map(|it| format!("{it}\n")).collect();
            proptest::prop_assert!(tail.text().len() <= max);
            proptest::prop_assert!(all.ends_with(&tail.text()));
            proptest::prop_assert_eq!(tail.is_truncated(), tail.text() != all);
            proptest::prop_assert!(all.starts_with(beginning(&all, max)) && beginning(&all, max).len() <= max);
        }

        #[test]
        fn nothing_unsafe_survives(text in "\\PC*|[\\x00-\\x1f\\x7f-\\x9f\u{202e}a-z\\[\\]]*") {
            proptest::prop_assert!(
                sanitize(&text).chars().all(|it| it == '\n' || it == '\t' || !(it.is_control() || is_invisible(it)))
            );
        }
    }
}

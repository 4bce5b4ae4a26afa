//! Finds the JSON objects in what a model writes, each as soon as its closing brace is there.
//!
//! Asked for one object per line, models also write fences, a word before, an array over many lines, or one document
//! with all steps in it. So an object is found by its braces outside of strings and not by lines, and what is around it
//! does not matter.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

/// Of one object, in bytes.
const MAX_OBJECT: usize = 256 * 1024;
/// Of all that a model writes in one reply.
const MAX_REPLY: usize = 4 * 1024 * 1024;
/// Models that think aloud do it between these, and objects in there are drafts.
const THOUGHTS: [(&str, &str); 2] = [("<think>", "</think>"), ("<thinking>", "</thinking>")];
const LONGEST_TAG: usize = "</thinking>".len();

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// Of a document with all steps in it (`{"steps": […]}`), the steps come first, one by one, and then itself with an
    /// empty array in their place.
    Object(Map<String, Value>),
    /// Began as an object, and is none.
    Broken { text: String, why: String },
    /// More than anybody reads; nothing after it is looked at.
    TooMuch { why: String },
}

/// Of one reply. What comes out does not depend on the pieces in which the text comes.
#[derive(Default)]
pub(super) struct Lines {
    state: State,
    /// The object under way.
    object: String,
    /// What is open in it.
    open: Vec<Open>,
    /// The last character of it that is no blank and in no string.
    last: char,
    /// Where the string under way began in it.
    string_at: usize,
    /// The document whose steps come one by one.
    document: Option<(String, Vec<Open>)>,
    /// A tag that is being written.
    tag: String,
    /// Something other than blanks, commas and `[` stood in this line before.
    is_line_begun: bool,
    /// After something broken only an object that begins a line is taken for one, not the rest of what broke.
    is_after_broken: bool,
    n_bytes: usize,
    n_ignored: usize,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Prose,
    /// Until this tag.
    Thought(&'static str),
    /// After a brace that may begin an object or be part of a sentence.
    Brace {
        begins_line: bool,
    },
    Object,
    String {
        is_escaped: bool,
    },
    Over,
}

#[derive(Clone, Debug, PartialEq)]
enum Open {
    /// With the member that is being written, as far as anybody asks.
    Object(String),
    Array,
}

impl Lines {
    /// Takes the next piece of the text; what is complete with it.
    pub(super) fn push(&mut self, text: &str) -> Vec<Found> {
        let mut found = Vec::new();
        for it in text.chars() {
            self.n_bytes += it.len_utf8();
            if MAX_REPLY < self.n_bytes && self.state != State::Over {
                found.push(self.over(format!("the reply is longer than {MAX_REPLY} bytes")));
            }
            self.take(it, &mut found);
        }
        found
    }

    /// Nothing comes any more; what was not completed.
    pub(super) fn end(mut self) -> Option<Found> {
        let is_open = matches!(self.state, State::Object | State::String { .. });
        if !is_open && self.document.is_none() {
            return None;
        }
        Some(self.broken("it was not completed; the text ends before its closing brace".to_owned()))
    }

    /// Characters other than blanks that were part of no object.
    pub(super) fn n_ignored(&self) -> usize {
        self.n_ignored
    }

    fn take(&mut self, it: char, found: &mut Vec<Found>) {
        match self.state {
            State::Over => {}
            State::Prose => self.prose(it),
            State::Thought(end) => {
                if self.tag(it).is_some_and(|tag| tag == end) {
                    self.state = State::Prose;
                }
            }
            State::Brace { .. } if it.is_whitespace() => self.object.push(it),
            State::Brace { begins_line } => {
                if matches!(it, '"' | '}') || (begins_line && it != '{') {
                    self.state = State::Object;
                    self.open.push(Open::Object(String::new()));
                    self.last = '{';
                    self.is_after_broken = false;
                    self.within(it, found);
                } else {
                    self.n_ignored += 1;
                    self.object.clear();
                    self.state = State::Prose;
                    self.prose(it);
                }
            }
            State::Object => self.within(it, found),
            State::String { is_escaped } => {
                self.object.push(it);
                match it {
                    '\n' => {
                        let why = "a string is not closed at the end of its line; a newline in a string is \
                                   written `\\n`";
                        found.push(self.broken(why.to_owned()));
                        self.is_line_begun = false;
                        return;
                    }
                    '"' if !is_escaped => {
                        self.state = State::Object;
                        self.close_string();
                    }
                    _ => self.state = State::String { is_escaped: it == '\\' && !is_escaped },
                }
            }
        }
        if MAX_OBJECT < self.object.len() && self.state != State::Over {
            found.push(self.over(format!("an object is longer than {MAX_OBJECT} bytes")));
        }
    }

    fn prose(&mut self, it: char) {
        if let Some(tag) = self.tag(it)
            && let Some((_, end)) = THOUGHTS.iter().find(|(begin, _)| *begin == tag)
        {
            self.state = State::Thought(end);
            return;
        }
        match it {
            '\n' => self.is_line_begun = false,
            '{' if !self.is_after_broken || !self.is_line_begun => {
                self.object.push(it);
                self.state = State::Brace { begins_line: !self.is_line_begun };
                self.is_line_begun = true;
            }
            // The end of the steps of a document.
            ']' => {
                if let Some((text, open)) = self.document.take() {
                    (self.object, self.open) = (text, open);
                    self.object.push(it);
                    self.last = it;
                    self.state = State::Object;
                }
            }
            '[' | ',' => {}
            _ if it.is_whitespace() => {}
            _ => {
                self.n_ignored += 1;
                self.is_line_begun = true;
            }
        }
    }

    /// A character of an object, in none of its strings.
    fn within(&mut self, it: char, found: &mut Vec<Found>) {
        match it {
            '"' => {
                self.string_at = self.object.len() + 1;
                self.state = State::String { is_escaped: false };
                self.object.push(it);
                return;
            }
            '{' if !self.may_begin_value() => {
                // The one before was not closed, and this is the next.
                let why =
                    "an object begins where none can; a closing `}` or `]` is missing before it";
                found.push(self.broken(why.to_owned()));
                self.object.push(it);
                self.state = State::Brace { begins_line: true };
                self.is_line_begun = true;
                return;
            }
            '[' if self.are_steps() => {
                self.object.push(it);
                let document = (std::mem::take(&mut self.object), std::mem::take(&mut self.open));
                self.document = Some(document);
                self.state = State::Prose;
                self.is_line_begun = false;
                return;
            }
            '{' => self.open.push(Open::Object(String::new())),
            '[' => self.open.push(Open::Array),
            '}' | ']' => {
                self.object.push(it);
                self.last = it;
                let fits = match self.open.pop() {
                    Some(Open::Object(_)) => it == '}',
                    Some(Open::Array) => it == ']',
                    None => false,
                };
                if !fits {
                    found.push(self.broken(format!("`{it}` closes nothing that is open")));
                } else if self.open.is_empty() {
                    found.push(self.complete());
                }
                return;
            }
            '`' => {
                found.push(self.broken("it was not completed before a fence of code".to_owned()));
                return;
            }
            _ => {}
        }
        self.object.push(it);
        if !it.is_whitespace() {
            self.last = it;
        }
    }

    fn may_begin_value(&self) -> bool {
        match self.open.last() {
            Some(Open::Object(_)) => self.last == ':',
            Some(Open::Array) => matches!(self.last, '[' | ','),
            None => true,
        }
    }

    /// Whether an array that begins here is the `steps` of a document, or of the `plan` in it.
    fn are_steps(&self) -> bool {
        let path = match &self.open[..] {
            [Open::Object(member)] => ["plan", member.as_str()],
            [Open::Object(outer), Open::Object(member)] => [outer.as_str(), member.as_str()],
            _ => return false,
        };
        self.last == ':' && self.document.is_none() && path == ["plan", "steps"]
    }

    fn close_string(&mut self) {
        const DEEPEST: usize = 2;
        let is_member = matches!(self.last, '{' | ',') && self.open.len() <= DEEPEST;
        if is_member && let Some(Open::Object(member)) = self.open.last_mut() {
            member.clear();
            member.push_str(&self.object[self.string_at..self.object.len() - 1]);
        }
        self.last = '"';
    }

    fn complete(&mut self) -> Found {
        let text = std::mem::take(&mut self.object);
        self.state = State::Prose;
        match serde_json::from_str(&text) {
            Ok(object) => Found::Object(object),
            Err(err) => Found::Broken { text, why: format!("it is no JSON: {err}") },
        }
    }

    fn broken(&mut self, why: String) -> Found {
        let mut text = std::mem::take(&mut self.object);
        self.open.clear();
        self.state = State::Prose;
        self.is_after_broken = true;
        self.is_line_begun = true;
        if text.is_empty() {
            text = self.document.take().map(|it| it.0).unwrap_or_default();
        }
        Found::Broken { text, why }
    }

    fn over(&mut self, why: String) -> Found {
        *self = Lines { state: State::Over, n_ignored: self.n_ignored, ..Lines::default() };
        Found::TooMuch { why }
    }

    /// The tag that `it` completes.
    fn tag(&mut self, it: char) -> Option<String> {
        if it == '<' {
            self.tag.clear();
        } else if self.tag.is_empty() {
            return None;
        }
        self.tag.push(it);
        if it == '>' {
            return Some(std::mem::take(&mut self.tag));
        }
        if LONGEST_TAG < self.tag.len() {
            self.tag.clear();
        }
        None
    }
}

//! References inside strings.

use super::{Reference, Unresolved};
use crate::name::StepId;

#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    /// As it is to stand.
    Text(&'a str),
    Reference(Reference<'a>),
}

/// Takes a string apart.
pub(super) fn pieces(text: &str) -> Pieces<'_> {
    Pieces { rest: text }
}

/// Whether `text` is anything else than what is written there: it holds a reference, a wrong one or a doubled `$`.
pub(in super::super) fn has_references(text: &str) -> bool {
    begin(text).is_some()
}

pub(super) struct Pieces<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Result<Piece<'a>, Unresolved>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(Begin { at, n_word }) = begin(self.rest) else {
            return Some(Ok(Piece::Text(std::mem::take(&mut self.rest))));
        };
        // `at` is the last `$` of a run; each two stand for one.
        let n_dollars = self.rest[..=at].bytes().rev().take_while(|it| *it == b'$').count();
        let is_reference = n_dollars % 2 == 1;
        if !is_reference || n_dollars != 1 || at != 0 {
            let text = &self.rest[..at + 1 - n_dollars + n_dollars / 2];
            self.rest = &self.rest[if is_reference { at } else { at + 1 }..];
            return Some(Ok(Piece::Text(text)));
        }
        Some(self.reference(n_word).map(Piece::Reference))
    }
}

impl<'a> Pieces<'a> {
    /// At `${word#`.
    fn reference(&mut self, n_word: usize) -> Result<Reference<'a>, Unresolved> {
        let rest = self.rest;
        let inside = &rest[2..];
        let mut from = n_word + 1;
        // Where it ends, or where the next one begins before it has.
        let end = loop {
            match inside[from..].find(['}', '$']).map(|it| it + from) {
                Some(it) if inside[it..].starts_with("${") => break Err(it),
                Some(it) if inside[it..].starts_with('$') => from = it + 1,
                Some(it) => break Ok(it),
                None => break Err(inside.len()),
            }
        };
        let advice = "where it is meant as text, write `$${` for `${`";
        match end {
            Ok(end) => {
                self.rest = &inside[end + 1..];
                Reference::parse(&inside[..end]).map_err(|mut err| {
                    err.why = format!("{}; {advice}", err.why);
                    err
                })
            }
            Err(end) => {
                self.rest = &inside[end..];
                let why = format!("`${{{}` is not closed with `}}`; {advice}", &inside[..=n_word]);
                Err(Unresolved::new(&rest[..end + 2], why))
            }
        }
    }
}

struct Begin {
    /// Of the `$` before `{`.
    at: usize,
    n_word: usize,
}

/// The first `${`, an id and `#`.
fn begin(text: &str) -> Option<Begin> {
    let mut from = 0;
    while let Some(at) = text[from..].find("${").map(|it| it + from) {
        let inside = &text[at + 2..];
        let is_letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        // An id has at most 64 characters; looking no further keeps this linear.
        let n_word = inside.bytes().take(65).take_while(is_letter).count();
        let word = &inside[..n_word];
        if inside[n_word..].starts_with('#')
            && (matches!(word, "item" | "index") || StepId::try_new(word).is_ok())
        {
            return Some(Begin { at, n_word });
        }
        from = at + 2;
    }
    None
}

//! What differs between providers.

use std::collections::VecDeque;

use orch_core::ports::model::{End, Piece, Prompt};
use orch_domain::Error;
use orch_domain::secret::Secret;
use reqwest::header::HeaderValue;
use reqwest::{Client, RequestBuilder};

pub(super) trait Wire: Send + Sync {
    /// Asks for one answer, as a stream.
    fn request(&self, http: &Client, prompt: &Prompt) -> Result<RequestBuilder, Error>;

    /// Of one answer.
    fn reader(&self) -> Box<dyn Reader>;

    /// Asks which models there are; None where that cannot be asked for nothing.
    fn models(&self, _http: &Client) -> Option<RequestBuilder> {
        None
    }

    /// Takes a hint from a refusal (status 400) how this endpoint wants to be asked. Whether another try is of use now.
    fn learn(&self, _refusal: &str) -> bool {
        false
    }
}

pub(super) trait Reader: Send {
    /// Takes what came, wherever it was cut, and gives the pieces that are complete by now. Pieces before a mistake are
    /// given with it.
    fn read(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), Broken>;

    /// The body ended as it should.
    fn end(&mut self, out: &mut Out) -> Result<(), Broken>;
}

/// What was read.
#[derive(Default)]
pub(super) struct Out {
    pub pieces: VecDeque<Piece>,
    /// The model works, even where that gave no piece, as when it thinks.
    pub is_moving: bool,
}

impl Out {
    /// Pieces are never empty.
    pub(super) fn text(&mut self, text: String) {
        self.is_moving = true;
        if !text.is_empty() {
            self.pieces.push_back(Piece::Text(text));
        }
    }

    pub(super) fn end(&mut self, end: End) {
        self.is_moving = true;
        self.pieces.push_back(Piece::End(end));
    }
}

/// What providers say of an answer before it is over.
#[derive(Default)]
pub(super) struct Known {
    pub stop: Option<Stop>,
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Done,
    Cut,
}

impl Known {
    pub(super) fn end(&self) -> End {
        End {
            is_cut: self.stop == Some(Stop::Cut),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
        }
    }
}

/// Why an answer cannot be read on.
#[derive(Debug)]
pub(super) enum Broken {
    /// It is not what the protocol has.
    Garbage(String),
    /// The provider gives up, and says why.
    Said { blame: Blame, message: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// Too much was asked in too short a time.
    Rate,
    /// It has a fault of its own, or is overloaded.
    Provider,
    /// It does not want to answer this.
    Request,
}

pub(super) fn garbage(what: impl std::fmt::Display) -> Broken {
    Broken::Garbage(what.to_string())
}

pub(super) fn filtered() -> Broken {
    Broken::Said { blame: Blame::Request, message: "its content filter stopped it".to_owned() }
}

/// An error when the text cannot be in a header.
pub(super) fn header(prefix: &str, secret: &Secret<String>) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", secret.expose()))
        .map_err(|_| Error::invalid("api_key", "it has characters that no key has"))?;
    value.set_sensitive(true);
    Ok(value)
}

//! A language model that writes text: of a provider, or the one that a connected client has.

use async_trait::async_trait;
use futures::stream::BoxStream;
use orch_domain::Error;

#[async_trait]
pub trait Model: Send + Sync {
    /// For people, such as `openai gpt-4o` or `the model of claude-code 2.1`. Never a key.
    fn name(&self) -> String;

    /// Whether it is there only until the call that brought it is answered.
    fn ends_with_call(&self) -> bool {
        false
    }

    /// Begins one answer, which comes in pieces as they are written. Dropping the stream ends the request. The error says
    /// what to configure or when to try again, and never repeats a key.
    async fn generate(
        &self,
        prompt: &Prompt,
    ) -> Result<BoxStream<'static, Result<Piece, Error>>, Error>;
}

#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub system: String,
    /// Begins with the user, then in turn.
    pub messages: Vec<Message>,
    pub max_tokens: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    User,
    Assistant,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Comes after the text before it, with nothing between.
    Text(String),
    /// The last one. A stream that ends without it was cut off.
    End(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// It had more to say than `max_tokens`.
    pub is_cut: bool,
    /// As the provider counts; none where it does not say.
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
}

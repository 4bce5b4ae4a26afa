//! Server-sent events, as a client reads them.

use std::collections::VecDeque;

use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;

use super::cloud::{Ask, Cloud};
use super::within;

/// One block of a stream of server-sent events.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Block {
    pub(crate) id: Option<u64>,
    pub(crate) event: String,
    pub(crate) data: Value,
    pub(crate) comment: String,
}

/// Server-sent events as they come, over whatever brings the bytes.
pub(crate) struct Blocks {
    chunks: BoxStream<'static, Vec<u8>>,
    text: String,
    blocks: VecDeque<Block>,
}

impl Blocks {
    pub(crate) fn new(chunks: BoxStream<'static, Vec<u8>>) -> Blocks {
        Blocks { chunks, text: String::new(), blocks: VecDeque::new() }
    }

    /// `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Block> {
        loop {
            if let Some(it) = self.blocks.pop_front() {
                return Some(it);
            }
            let chunk = within("the next event", self.chunks.next()).await?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                self.blocks.push_back(block_of(block));
                self.text = rest.to_owned();
            }
        }
    }

    /// The next that a client is told of; what only says where it is passes by.
    pub(crate) async fn told(&mut self) -> Option<Block> {
        loop {
            match self.next().await {
                Some(it) if it.event.is_empty() => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn expect(&mut self, kind: &str) -> Block {
        let it = self.told().await.unwrap_or_else(|| panic!("the stream ended before `{kind}`"));
        assert_eq!(it.event, kind, "{it:?}");
        it
    }
}

fn block_of(text: &str) -> Block {
    let mut block = Block::default();
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => block.comment.push_str(value),
            "id" => block.id = Some(value.parse().unwrap()),
            "event" => value.clone_into(&mut block.event),
            "data" => block.data = serde_json::from_str(value).unwrap(),
            _ => {}
        }
    }
    block
}

/// A stream that is open, with its headers.
pub(crate) async fn open(cloud: &Cloud, request: Ask) -> (http::HeaderMap, Blocks) {
    use tower::ServiceExt;
    let request = request.header("accept", "text/event-stream").request();
    let response = cloud.router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    assert_eq!(parts.status, 200, "the stream is open");
    let chunks = body.into_data_stream().map(|it| it.unwrap().to_vec()).boxed();
    (parts.headers, Blocks::new(chunks))
}

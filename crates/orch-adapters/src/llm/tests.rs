//! Recorded answers, cut anywhere.

use orch_core::ports::clock::SystemClock;
use proptest::prelude::*;
use serde_json::Value;

use super::wire::{Broken, Out, Reader};
use super::*;

type NewReader = Box<dyn Fn() -> Box<dyn Reader>>;

fn recorded() -> [(NewReader, Vec<u8>); 4] {
    let frames: Vec<Value> =
        serde_json::from_str(include_str!("../../../../tests/it/llm/bedrock.json")).unwrap();
    let header = |name: &str, value: &str| {
        let lengths = (name.len() as u8, (value.len() as u16).to_be_bytes());
        [&[lengths.0][..], name.as_bytes(), &[7], &lengths.1, value.as_bytes()].concat()
    };
    let frame = |it: &Value| {
        let kind = header(":event-type", it["event"].as_str().unwrap());
        let headers = [kind, header(":message-type", "event")].concat();
        frames::tests::frame(&headers, it["payload"].to_string().as_bytes())
    };
    let api = |url: &str| ApiSettings {
        base_url: Some(url.to_owned()),
        api_key: None,
        model: "m".to_owned(),
    };
    let of = |wire: Box<dyn Wire>| -> NewReader { Box::new(move || wire.reader()) };
    let azure = AzureSettings {
        endpoint: "http://h".to_owned(),
        api_key: Secret::new("k".to_owned()),
        model: "m".to_owned(),
        api_version: None,
    };
    let bedrock = BedrockSettings {
        region: "r".to_owned(),
        credentials: Credentials::ApiKey(Secret::new("k".to_owned())),
        model: "m".to_owned(),
        endpoint: None,
        clock: Arc::new(SystemClock),
    };
    [
        (
            of(Box::new(openai::Chat::new(api("http://h")).unwrap())),
            include_bytes!("../../../../tests/it/llm/openai.sse").to_vec(),
        ),
        (
            of(Box::new(azure::chat(azure).unwrap())),
            include_bytes!("../../../../tests/it/llm/azure.sse").to_vec(),
        ),
        (
            of(Box::new(anthropic::Messages::new(api("http://h")).unwrap())),
            include_bytes!("../../../../tests/it/llm/anthropic.sse").to_vec(),
        ),
        (
            of(Box::new(bedrock::Converse::new(bedrock).unwrap())),
            frames.iter().map(frame).collect::<Vec<_>>().concat(),
        ),
    ]
}

fn pieces(mut reader: Box<dyn Reader>, chunks: &[&[u8]]) -> Result<Vec<Piece>, Broken> {
    let mut out = Out::default();
    for it in chunks {
        reader.read(it, &mut out)?;
    }
    Ok(out.pieces.into())
}

proptest! {
    #[test]
    fn cuts_make_no_difference(mut cuts in proptest::collection::vec(0usize..4000, 0..40)) {
        cuts.sort_unstable();
        for (reader, bytes) in recorded() {
            let mut at: Vec<usize> = cuts.iter().map(|it| (*it).min(bytes.len())).collect();
            at.insert(0, 0);
            at.push(bytes.len());
            let chunks: Vec<&[u8]> = at.windows(2).map(|it| &bytes[it[0]..it[1]]).collect();
            let whole = pieces(reader(), &[&bytes]).unwrap();
            prop_assert!(matches!(whole.last(), Some(Piece::End(_))) && 3 <= whole.len());
            prop_assert_eq!(pieces(reader(), &chunks).unwrap(), whole);
        }
    }

    /// What a broken provider sends is an error or nothing, and no end of this process.
    #[test]
    fn no_bytes_make_a_reader_panic(at in 0usize..4000, wrong in proptest::collection::vec(any::<u8>(), 1..20)) {
        for (reader, mut bytes) in recorded() {
            let at = at.min(bytes.len());
            let end = (at + wrong.len()).min(bytes.len());
            bytes.splice(at..end, wrong.iter().copied());
            drop(pieces(reader(), &[&bytes]));
        }
    }
}

//! One JSON-RPC message, its parts as they were written.
//!
//! A gateway that decodes what passes through it loses what it does not know, reorders members and rounds numbers. So only
//! the envelope is understood here: `params`, `result` and `error` stay the bytes that came in.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// JSON as it was written.
pub type Raw = Box<RawValue>;

/// A request has `method` and `id`, a notification only `method`, a response `id` and one of `result` and `error`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Frame {
    pub jsonrpc: Version,
    /// A string or a number; `null` only in the answer to what could not be read.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub id: Option<Raw>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Raw>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub result: Option<Raw>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Raw>,
}

/// `2.0`; nothing else is spoken.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub enum Version {
    #[default]
    #[serde(rename = "2.0")]
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Notification,
    Response,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("it is not a JSON-RPC 2.0 message: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "it is neither a request nor a response: it has no `method`, and not one of `result` and `error`"
    )]
    Shapeless,
}

/// `null` is a value here, and not the absence of one.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Raw>, D::Error> {
    Raw::deserialize(from).map(Some)
}

impl Frame {
    pub fn parse(bytes: &[u8]) -> Result<Frame, FrameError> {
        let frame: Frame = serde_json::from_slice(bytes)?;
        let is_answer = frame.result.is_some() != frame.error.is_some() && frame.id.is_some();
        if frame.method.is_some() || is_answer { Ok(frame) } else { Err(FrameError::Shapeless) }
    }

    pub fn request(id: Raw, method: &str, params: Option<Raw>) -> Frame {
        Frame { id: Some(id), ..Frame::notification(method, params) }
    }

    pub fn notification(method: &str, params: Option<Raw>) -> Frame {
        Frame {
            jsonrpc: Version::V2,
            id: None,
            method: Some(method.to_owned()),
            params,
            result: None,
            error: None,
        }
    }

    pub fn result(id: Raw, result: Raw) -> Frame {
        let empty = Frame { method: None, ..Frame::notification("", None) };
        Frame { id: Some(id), result: Some(result), ..empty }
    }

    /// A protocol error, such as -32601 for a method nobody has.
    pub fn error(id: Raw, code: i64, message: &str) -> Frame {
        let empty = Frame { method: None, ..Frame::notification("", None) };
        let error = raw(&serde_json::json!({"code": code, "message": message}));
        Frame { id: Some(id), error: Some(error), ..empty }
    }

    pub fn kind(&self) -> Kind {
        match (&self.method, &self.id) {
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, _) => Kind::Response,
        }
    }

    pub fn is(&self, method: &str) -> bool {
        self.method.as_deref() == Some(method)
    }

    /// One line, without its end: JSON has no line breaks but between tokens, and those go.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("raw JSON and text can be written");
        // A raw part may have been written on several lines.
        if line.iter().any(|it| matches!(it, b'\n' | b'\r')) {
            line.iter_mut().filter(|it| matches!(**it, b'\n' | b'\r')).for_each(|it| *it = b' ');
        }
        line
    }
}

/// `value` as raw JSON.
pub fn raw<T: Serialize + ?Sized>(value: &T) -> Raw {
    to_raw_value(value).expect("what we make ourselves can be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn unchanged(line: &str) -> Frame {
        let frame = Frame::parse(line.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(frame.to_line()).unwrap(), line);
        frame
    }

    #[test]
    fn what_passes_through_is_what_came() {
        let frame = unchanged(
            r#"{"jsonrpc":"2.0","id":"a","result":{"z":0.7,"a":50.0,"n":123456789012345678901234567890,"u":"\u00e9"}}"#,
        );
        assert_eq!(frame.kind(), Kind::Response);
        let frame = unchanged(r#"{"jsonrpc":"2.0","id":7,"method":"x/unknown","params":[1, 2]}"#);
        assert_eq!(frame.kind(), Kind::Request);
        let frame = unchanged(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#);
        assert_eq!(frame.kind(), Kind::Notification);
        unchanged(r#"{"jsonrpc":"2.0","id":1,"result":null}"#);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"jsonrpc":"2.0"}"#,
            r#"{"jsonrpc":"1.0","method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
            r#"{"jsonrpc":"2.0","result":1}"#,
        ] {
            assert!(Frame::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_is_one_line() {
        let frame =
            Frame::parse(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\n\"a\": 1\r\n}}").unwrap();
        let line = frame.to_line();
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        assert_eq!(Frame::parse(&line).unwrap().to_line(), line);
    }
}

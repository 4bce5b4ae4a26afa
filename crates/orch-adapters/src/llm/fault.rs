//! Why there is no answer, in words that say what to do, and whether another try may help.

use std::time::Duration;

use orch_domain::Error;
use orch_domain::redact::redacted;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::About;
use super::wire::{Blame, Broken};

/// What is said to wait where a provider names no time.
const RETRY_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) enum Fault {
    /// It may go away; after so long, where the provider says.
    Passing {
        error: Error,
        after: Option<Duration>,
    },
    Final(Error),
}

impl Fault {
    pub(super) fn into_error(self) -> Error {
        match self {
            Fault::Passing { error, .. } | Fault::Final(error) => error,
        }
    }
}

fn upstream(about: &About, message: String) -> Error {
    Error::UpstreamError { server: about.provider.to_owned(), message }
}

fn unavailable(message: String, source: Option<reqwest::Error>) -> Error {
    // The URL is in the configuration, and not for everybody.
    Error::Unavailable { message, source: source.map(|it| it.without_url().into()) }
}

fn too_many(about: &About, after: Option<Duration>, said: &str) -> Error {
    let wait = after.unwrap_or(RETRY_AFTER);
    let message = format!(
        "`{}` is asked too often or for too much; try again in {} s{said}",
        about.name(),
        wait.as_secs_f64().ceil(),
    );
    let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Error::TooManyRequests { message, retry_after_ms }
}

/// No connection, or none that lasted to the beginning of an answer.
pub(super) fn unreachable(about: &About, err: reqwest::Error) -> Fault {
    let name = about.name();
    let message = if err.is_connect() {
        format!("`{name}` cannot be reached: look at the network, or correct `{}`", about.url_key)
    } else {
        format!("the connection to `{name}` broke before it answered; try again")
    };
    Fault::Passing { error: unavailable(message, Some(err)), after: None }
}

pub(super) fn silent(about: &About, after: Duration) -> Fault {
    let message = format!(
        "`{}` gave nothing of an answer for {} s; try again, or give it longer with `llm.timeout`",
        about.name(),
        after.as_secs_f64()
    );
    Fault::Final(unavailable(message, None))
}

pub(super) fn cut_off(about: &About, source: Option<reqwest::Error>) -> Fault {
    let message = format!(
        "the answer of `{}` was cut off: its stream ended before its last event; try again",
        about.name()
    );
    Fault::Passing { error: unavailable(message, source), after: None }
}

pub(super) fn too_long(about: &About, max: usize) -> Fault {
    let message = format!("the answer of `{}` has more than {max} bytes of text", about.name());
    Fault::Final(upstream(about, message))
}

pub(super) fn broken(about: &About, broken: Broken) -> Fault {
    let name = about.name();
    match broken {
        Broken::Garbage(what) => Fault::Final(upstream(
            about,
            format!(
                "what `{name}` answers is not what its protocol has ({}); look whether `{}` is the right address",
                shown(about, &what),
                about.url_key
            ),
        )),
        Broken::Said { blame, message } => {
            let said = quoted(about, &message);
            match blame {
                Blame::Rate => Fault::Passing { error: too_many(about, None, &said), after: None },
                Blame::Provider => {
                    let message = format!("`{name}` gave up on its answer; try again later{said}");
                    Fault::Passing { error: unavailable(message, None), after: None }
                }
                Blame::Request => {
                    let message = format!("`{name}` does not answer this{said}");
                    Fault::Final(upstream(about, message))
                }
            }
        }
    }
}

/// It answers, and in another form than was asked for.
pub(super) fn no_stream(about: &About, kind: &str, body: &str) -> Fault {
    let message = format!(
        "`{}` answers with `{}` and not with a stream of events; look whether `{}` is the right address{}",
        about.name(),
        shown(about, kind),
        about.url_key,
        quoted(about, &reason(body)),
    );
    Fault::Final(upstream(about, message))
}

pub(super) fn refused(about: &About, status: u16, headers: &HeaderMap, body: &str) -> Fault {
    let name = about.name();
    let (provider, keys, url_key) = (about.provider, &about.secret_keys, about.url_key);
    let reason = reason(body);
    let said = quoted(about, &reason);
    let after = retry_after(headers);
    let message = match status {
        300..=399 => format!(
            "`{name}` sends us elsewhere (status {status}), which is not followed; correct `{url_key}`"
        ),
        // Not quoted: providers repeat parts of a key that they do not know.
        401 if about.has_secret => {
            format!("`{provider}` refuses the key (status 401): correct {keys}")
        }
        401 => format!("`{provider}` wants a key (status 401): set {keys}"),
        403 => format!(
            "`{provider}` refuses the key, or that it is used for the model `{}` (status 403): correct {keys}, or allow it there{said}",
            about.model
        ),
        404 => format!(
            "`{provider}` has no model `{}` at this address (status 404): correct `{}` or `{url_key}`{said}",
            about.model,
            about.model_key(),
        ),
        429 if is_out_of_credit(body) => {
            format!("the account at `{provider}` has used up what is paid for (status 429){said}")
        }
        429 => return Fault::Passing { error: too_many(about, after, &said), after },
        408 | 424 | 500..=599 => {
            let message = format!(
                "`{name}` has a fault or is overloaded (status {status}); try again later{said}"
            );
            return Fault::Passing { error: unavailable(message, None), after };
        }
        _ => format!("`{name}` refuses the request (status {status}){said}"),
    };
    Fault::Final(upstream(about, message))
}

/// Waiting does not help.
fn is_out_of_credit(body: &str) -> bool {
    body.contains("insufficient_quota")
}

/// In whole or broken seconds, or in milliseconds; a date is as good as nothing.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds =
        number("retry-after-ms").map(|it| it / 1000.0).or_else(|| number("retry-after"))?;
    // Longer than a day is a mistake, and infinity no duration.
    (0.0..86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// What a body says of a refusal, where it has the form that all providers give it.
fn reason(body: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(body) else { return body.to_owned() };
    let places =
        [&value["error"]["message"], &value["message"], &value["Message"], &value["error"]];
    places.into_iter().find_map(Value::as_str).map_or_else(|| body.to_owned(), str::to_owned)
}

fn quoted(about: &About, said: &str) -> String {
    let said = shown(about, said.trim());
    if said.is_empty() { said } else { format!("; it said: {said}") }
}

/// Without secrets, on one line, and not longer than somebody reads.
fn shown(about: &About, text: &str) -> String {
    let redacted = redacted(&Value::from(text), &[&about.secrets]);
    orch_domain::text::excerpt(redacted.as_str().unwrap_or_default(), 300)
}

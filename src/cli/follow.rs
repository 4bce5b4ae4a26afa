//! `call instance_logs follow=true`: the log of an instance as it grows, until it stands still or nobody wants it.
//!
//! The operation answers what there is; here it is asked again for what came since. Over HTTP, `GET …/logs?follow=true`
//! streams.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::client::{Connection, Outcome};
use super::print;

/// Between two looks; a person does not notice it.
const PERIOD: Duration = Duration::from_millis(400);
/// The most that one answer of the operation has.
const MAX_TAIL: u32 = 10_000;
const MAX_BYTES: u32 = 1 << 20;

/// Whether the lines to come are wanted, and the arguments without that wish, which the operation does not know.
pub(super) fn take(operation: &str, words: &[String]) -> (bool, Vec<String>) {
    let is_wish = |it: &&String| operation == "instance_logs" && it.starts_with("follow=");
    let (wishes, others): (Vec<&String>, Vec<&String>) = words.iter().partition(is_wish);
    let follows = wishes.last().is_some_and(|it| *it == "follow=true");
    (follows, others.into_iter().cloned().collect())
}

/// Prints until the instance has ended (then `None`), `stop` says so (the same), or the operation refuses.
pub(super) async fn logs(
    connection: &Connection,
    mut arguments: Map<String, Value>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Outcome>> {
    let with_times = arguments.insert("timestamps".to_owned(), true.into()) == Some(true.into());
    let instance = Map::from_iter(arguments.get("id").map(|it| ("id".to_owned(), it.clone())));
    let mut seen = Seen::default();
    loop {
        // Looked at before the log: what it wrote until its end is then in the log.
        let record =
            connection.call("get_instance", instance.clone(), None, stop.cancelled()).await?;
        let is_over = record.is_some_and(|it| {
            matches!(it.value["state"].as_str(), Some("stopped" | "shutting-down" | "terminated"))
        });
        let read =
            connection.call("instance_logs", arguments.clone(), None, stop.cancelled()).await?;
        let Some(read) = read.filter(|_| !stop.is_cancelled()) else { return Ok(None) };
        if read.is_error {
            return Ok(Some(read));
        }
        for (time, text) in seen.fresh(read.value["text"].as_str().unwrap_or_default()) {
            match with_times {
                true => print(format!("{time} {text}"))?,
                false => print(text)?,
            }
        }
        if is_over {
            return Ok(None);
        }
        if !seen.last.is_empty() {
            arguments.insert("since".to_owned(), seen.last.as_str().into());
            arguments.insert("tail".to_owned(), MAX_TAIL.into());
            arguments.insert("max_bytes".to_owned(), MAX_BYTES.into());
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// How far the log was read. Several lines may have been written at one moment, and the next answer has them again.
#[derive(Default)]
struct Seen {
    last: String,
    n_at_last: usize,
}

impl Seen {
    /// The lines of `text` that were not seen, with their times.
    fn fresh<'a>(&mut self, text: &'a str) -> Vec<(&'a str, &'a str)> {
        let (before, mut n_known) = (self.last.clone(), self.n_at_last);
        let mut fresh = Vec::new();
        for (time, line) in text.lines().map(|it| it.split_once(' ').unwrap_or((it, ""))) {
            if time == before && 0 < n_known {
                n_known -= 1;
                continue;
            }
            if time == self.last {
                self.n_at_last += 1;
            } else {
                (self.last, self.n_at_last) = (time.to_owned(), 1);
            }
            fresh.push((time, line));
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_told_once_even_of_one_moment() {
        let mut seen = Seen::default();
        let text =
            |lines: Vec<(&str, &str)>| lines.iter().map(|it| it.1.to_owned()).collect::<Vec<_>>();
        assert_eq!(text(seen.fresh("t1 a\nt2 b\nt2 b")), ["a", "b", "b"]);
        assert_eq!(text(seen.fresh("t2 b\nt2 b")), Vec::<String>::new());
        assert_eq!(text(seen.fresh("t2 b\nt2 b\nt2 c d\nt3 ")), ["c d", ""]);
        assert_eq!(text(seen.fresh("t3 \nt4 e")), ["e"]);
        assert_eq!(text(seen.fresh("")), Vec::<String>::new());
    }

    #[test]
    fn the_wish_is_taken_from_logs_only() {
        let words = ["id=i-1".to_owned(), "follow=true".to_owned()];
        assert_eq!(take("instance_logs", &words), (true, vec!["id=i-1".to_owned()]));
        assert_eq!(take("get_instance", &words), (false, words.to_vec()));
    }
}

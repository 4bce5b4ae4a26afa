//! What a container wrote, put together from the engine's frames to lines.

use bollard::container::LogOutput;
use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder};
use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use orch_core::ports::engine::{EngineError, LogLine, LogQuery, LogStream};
use orch_domain::time::Timestamp;

use super::error::Failure;
use super::observe::timestamp;

/// A line without an end must not fill our memory; it is cut into pieces of this size.
const MAX_LINE_BYTES: usize = 64 * 1024;

pub(super) fn options(query: &LogQuery) -> LogsOptions {
    let tail = query.tail.map_or_else(|| "all".to_owned(), |it| it.to_string());
    // Whole seconds; what is too early is dropped when its own time is read.
    let since =
        query.since.map_or(0, |it| i32::try_from(it.as_millis() / 1000).unwrap_or(i32::MAX));
    LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .follow(query.follow)
        .tail(&tail)
        .since(since.max(0))
        .build()
}

/// Ends after the first error.
pub(super) fn lines(
    frames: impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send + 'static,
    since: Option<Timestamp>,
) -> BoxStream<'static, Result<LogLine, EngineError>> {
    let start = (Box::pin(frames), [Partial::default(), Partial::default()], false);
    let lines = futures::stream::unfold(start, |(mut frames, mut partial, is_over)| async move {
        if is_over {
            return None;
        }
        loop {
            match frames.next().await {
                Some(Ok(frame)) => {
                    let (stream, bytes) = demux(frame);
                    if let Some(line) = partial[stream as usize].take(stream, &bytes) {
                        return Some((vec![Ok(line)], (frames, partial, false)));
                    }
                }
                Some(Err(cause)) => {
                    let err = EngineError::from(Failure::from(cause));
                    return Some((vec![Err(err)], (frames, partial, true)));
                }
                None => {
                    let rest = [LogStream::Stdout, LogStream::Stderr]
                        .into_iter()
                        .filter_map(|it| partial[it as usize].flush(it).map(Ok))
                        .collect();
                    return Some((rest, (frames, partial, true)));
                }
            }
        }
    });
    lines
        .flat_map(futures::stream::iter)
        .filter(move |it| {
            let is_early = matches!((it, since), (Ok(LogLine { at: Some(at), .. }), Some(since)) if *at < since);
            std::future::ready(!is_early)
        })
        .boxed()
}

fn demux(frame: LogOutput) -> (LogStream, Bytes) {
    match frame {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message }
        | LogOutput::StdIn { message }
        | LogOutput::Console { message } => (LogStream::Stdout, message),
    }
}

/// The engine keeps long lines in pieces of 16 KiB, each with a time of its own; only the last ends in a newline.
#[derive(Default)]
struct Partial {
    at: Option<Timestamp>,
    bytes: Vec<u8>,
    is_open: bool,
}

impl Partial {
    fn take(&mut self, stream: LogStream, frame: &[u8]) -> Option<LogLine> {
        let (at, text) = split_time(frame);
        if !self.is_open {
            self.at = at;
            self.is_open = true;
        }
        self.bytes.extend_from_slice(text);
        if self.bytes.ends_with(b"\n") || MAX_LINE_BYTES <= self.bytes.len() {
            return self.flush(stream);
        }
        None
    }

    fn flush(&mut self, stream: LogStream) -> Option<LogLine> {
        if !std::mem::take(&mut self.is_open) {
            return None;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Some(LogLine {
            at: self.at.take(),
            stream,
            text: String::from_utf8_lossy(text).into_owned(),
        })
    }
}

/// `2025-11-20T08:30:00.042123456Z text`
fn split_time(frame: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let Some(at) = frame.iter().take(64).position(|it| *it == b' ') else { return (None, frame) };
    match std::str::from_utf8(&frame[..at]).ok().and_then(timestamp) {
        Some(time) => (Some(time), &frame[at + 1..]),
        None => (None, frame),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn read(frames: Vec<LogOutput>, since: Option<Timestamp>) -> Vec<LogLine> {
        let frames = futures::stream::iter(frames.into_iter().map(Ok));
        let lines = lines(frames, since).map(Result::unwrap).collect::<Vec<_>>();
        lines.now_or_never().unwrap()
    }

    fn out(text: &str) -> LogOutput {
        LogOutput::StdOut { message: Bytes::copy_from_slice(text.as_bytes()) }
    }

    #[test]
    fn pieces_of_two_streams_become_their_lines() {
        let err =
            LogOutput::StdErr { message: Bytes::from_static(b"2025-11-20T08:30:00.5Z oops\r\n") };
        let lines = read(
            vec![
                out("2025-11-20T08:30:00.042Z first "),
                err,
                out("2025-11-20T08:30:00.043Z half\n"),
                out("2025-11-20T08:30:01Z no end"),
            ],
            None,
        );
        let seen: Vec<_> = lines.iter().map(|it| (it.stream, it.text.as_str())).collect();
        assert_eq!(
            seen,
            [
                (LogStream::Stderr, "oops"),
                (LogStream::Stdout, "first half"),
                (LogStream::Stdout, "no end")
            ]
        );
        assert_eq!(lines[1].at, Some(Timestamp::from_millis(1_763_627_400_042)));
    }

    #[test]
    fn bytes_that_are_not_text_and_lines_without_end_do_no_harm() {
        let hostile = LogOutput::StdOut { message: Bytes::from_static(b"\xff\xfe\x00\x1b[2J\n") };
        assert_eq!(read(vec![hostile], None)[0].text, "\u{fffd}\u{fffd}\0\u{1b}[2J");
        let long: Vec<LogOutput> = (0..20).map(|_| out(&"x".repeat(16 * 1024))).collect();
        let lines = read(long, None);
        assert!(lines.iter().all(|it| it.text.len() <= MAX_LINE_BYTES + 16 * 1024));
        assert_eq!(lines.iter().map(|it| it.text.len()).sum::<usize>(), 20 * 16 * 1024);
    }

    #[test]
    fn since_is_exact_to_the_millisecond() {
        let lines = read(
            vec![out("2025-11-20T08:30:00.041Z a\n"), out("2025-11-20T08:30:00.042Z b\n")],
            Some(Timestamp::from_millis(1_763_627_400_042)),
        );
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].text, "b");
    }
}

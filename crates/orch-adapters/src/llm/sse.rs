//! Server-sent events out of bytes, as far as providers use them: `event` and `data`, bounded, and lenient with what the
//! standard says to ignore.

use super::wire::{Broken, Out, Reader, garbage};

/// Bytes of one event, with its name.
const MAX_EVENT: usize = 1 << 20;

pub(super) trait Events: Send {
    fn event(&mut self, data: &str, out: &mut Out) -> Result<(), Broken>;

    /// The body ended as it should; nothing said by `event` so far was the last.
    fn end(&mut self, out: &mut Out) -> Result<(), Broken>;
}

/// An answer in events.
pub(super) struct SseReader<E> {
    events: E,
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    /// The last byte was a carriage return, which a line feed may follow.
    is_after_return: bool,
    is_first_line: bool,
}

impl<E> SseReader<E> {
    pub(super) fn new(events: E) -> SseReader<E> {
        SseReader {
            events,
            line: Vec::new(),
            data: None,
            is_after_return: false,
            is_first_line: true,
        }
    }
}

impl<E: Events> SseReader<E> {
    fn end_of_line(&mut self, out: &mut Out) -> Result<(), Broken> {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if std::mem::take(&mut self.is_first_line) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(out);
        }
        let Some(value) = line.strip_prefix(b"data") else { return Ok(()) };
        let value = match value {
            [] => value,
            [b':', b' ', rest @ ..] | [b':', rest @ ..] => rest,
            // A field of another name that begins so.
            _ => return Ok(()),
        };
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
        self.check_length()
    }

    fn check_length(&self) -> Result<(), Broken> {
        if MAX_EVENT < self.line.len() + self.data.as_ref().map_or(0, Vec::len) {
            return Err(garbage(format!("an event has more than {MAX_EVENT} bytes")));
        }
        Ok(())
    }

    fn dispatch(&mut self, out: &mut Out) -> Result<(), Broken> {
        let Some(data) = self.data.take() else { return Ok(()) };
        let data = std::str::from_utf8(&data).map_err(|_| garbage("an event is not UTF-8"))?;
        if data.trim().is_empty() { Ok(()) } else { self.events.event(data, out) }
    }
}

impl<E: Events> Reader for SseReader<E> {
    fn read(&mut self, mut bytes: &[u8], out: &mut Out) -> Result<(), Broken> {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.is_after_return) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|it| matches!(it, b'\n' | b'\r')) else {
                self.line.extend_from_slice(bytes);
                return self.check_length();
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.check_length()?;
            self.is_after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_of_line(out)?;
        }
        Ok(())
    }

    /// Some servers leave out the empty line, or all of the line's end, after the last event.
    fn end(&mut self, out: &mut Out) -> Result<(), Broken> {
        if !self.line.is_empty() {
            self.end_of_line(out)?;
        }
        self.dispatch(out)?;
        self.events.end(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes down every event.
    struct Plain;

    impl Events for Plain {
        fn event(&mut self, data: &str, out: &mut Out) -> Result<(), Broken> {
            out.text(data.to_owned());
            Ok(())
        }
        fn end(&mut self, _: &mut Out) -> Result<(), Broken> {
            Ok(())
        }
    }

    fn events(chunks: &[&[u8]]) -> Result<Vec<String>, Broken> {
        let (mut reader, mut out) = (SseReader::new(Plain), Out::default());
        for it in chunks {
            reader.read(it, &mut out)?;
        }
        reader.end(&mut out)?;
        Ok(out.pieces.into_iter().map(|it| format!("{it:?}")).collect())
    }

    #[test]
    fn every_way_to_end_a_line_and_everything_to_ignore() {
        let text = "\u{feff}data: a\r\nid: 7\r\n\r\n: comment\n\nevent: x\ndata:b\ndata: c\n\nretry: soon\rdata: d\r\rwhat\n\
                    datum: e\n\ndata\n\ndata: f";
        let wanted = ["a", "b\\nc", "d", "f"].map(|it| format!("Text(\"{it}\")"));
        assert_eq!(events(&[text.as_bytes()]).unwrap(), wanted);
        let one_by_one: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(events(&one_by_one).unwrap(), wanted);
    }

    #[test]
    fn neither_one_line_nor_one_event_grows_without_end() {
        let line = vec![b'x'; MAX_EVENT / 4];
        assert!(events(&[b"data: ", &line, &line, &line, &line, &line]).is_err());
        let small = [b"data: ", &line[..1000], b"\n"].concat();
        let many: Vec<&[u8]> = std::iter::repeat_n(small.as_slice(), 2000).collect();
        assert!(events(&many).is_err());
        assert!(events(&[b"data: \xff\n\n"]).is_err());
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(text in "(data: ?|event|: |[a-zä€🦀 :]{0,3}|\r|\n|\r\n){0,40}", cuts in proptest::collection::vec(0usize..200, 0..12)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|it| it.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|it| &bytes[it[0]..it[1]]).collect();
            prop_assert_eq!(events(&chunks).unwrap(), events(&[bytes]).unwrap());
        }
    }
}

//! The binary framing of AWS's event streams, bounded: frames out of bytes, wherever they were cut.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;
use bytes::{Buf, BytesMut};

use super::wire::{Broken, garbage};

/// Two lengths and their checksum.
const PRELUDE: usize = 12;
/// The prelude and the checksum of the whole.
const SHORTEST: usize = PRELUDE + 4;
/// Far more than a piece of text takes.
const LONGEST: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Frames(BytesMut);

impl Frames {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next frame that is complete.
    pub(super) fn next(&mut self) -> Result<Option<Message>, Broken> {
        if self.0.len() < PRELUDE {
            return Ok(None);
        }
        let mut prelude = &self.0[..PRELUDE];
        let sum = crc32fast::hash(&prelude[..8]);
        let (length, headers) = (prelude.get_u32() as usize, prelude.get_u32() as usize);
        // Checked before anything of that length is waited for.
        if prelude.get_u32() != sum {
            return Err(garbage("the checksum of a frame's lengths is wrong"));
        }
        if !(SHORTEST..=LONGEST).contains(&length) || length - SHORTEST < headers {
            return Err(garbage(format!("a frame has {length} bytes, {headers} of them headers")));
        }
        if self.0.len() < length {
            return Ok(None);
        }
        let frame = self.0.split_to(length).freeze();
        // Before the headers are read, which say how long they are.
        let (whole, mut sum) = frame.split_at(length - 4);
        if sum.get_u32() != crc32fast::hash(whole) {
            return Err(garbage("the checksum of a frame is wrong"));
        }
        read_message_from(frame).map(Some).map_err(garbage)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::llm) fn frame(headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let length = (SHORTEST + headers.len() + payload.len()) as u32;
        let mut out = length.to_be_bytes().to_vec();
        out.extend((headers.len() as u32).to_be_bytes());
        out.extend(crc32fast::hash(&out).to_be_bytes());
        out.extend([headers, payload].concat());
        out.extend(crc32fast::hash(&out).to_be_bytes());
        out
    }

    /// The shortest message there is, as AWS publishes it for tests.
    #[test]
    fn a_frame_of_aws_itself() {
        const EMPTY: &str = "000000100000000005c248eb7d98c8ff";
        let mut frames = Frames::default();
        frames.push(&hex::decode(EMPTY).unwrap());
        let message = frames.next().unwrap().unwrap();
        assert!(message.headers().is_empty() && message.payload().is_empty() && frames.is_empty());
        assert_eq!(hex::encode(frame(b"", b"")), EMPTY, "and those of these tests are like it");
    }

    #[test]
    fn lengths_are_checked_before_they_are_waited_for() {
        let good = frame(b"", b"{}");
        let next = |bytes: &[u8]| {
            let mut frames = Frames::default();
            frames.push(bytes);
            frames.next()
        };
        assert_eq!(&next(&good).unwrap().unwrap().payload()[..], b"{}");
        assert!(next(&good[..good.len() - 1]).unwrap().is_none());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(next(&bad).is_err(), "a wrong bit at {at} is seen");
        }
        let mut huge = (LONGEST as u32 + 1).to_be_bytes().to_vec();
        huge.extend([0; 4]);
        huge.extend(crc32fast::hash(&huge).to_be_bytes());
        assert!(next(&huge).is_err());
    }

    proptest! {
        /// Checksums that are right say nothing of what is in between.
        #[test]
        fn no_headers_make_it_panic(headers in proptest::collection::vec(any::<u8>(), 0..40), payload in proptest::collection::vec(any::<u8>(), 0..8)) {
            let mut frames = Frames::default();
            frames.push(&frame(&headers, &payload));
            drop(frames.next());
        }
    }
}

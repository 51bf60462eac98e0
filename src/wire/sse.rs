//! Splits a stream into server-sent events, however its bytes were cut on their way, so that each
//! can be relayed as it came and its data read.
//!
//! Lines end with CRLF, LF or CR, and an event with an empty line (WHATWG HTML, section 9.2). An
//! event is complete as soon as its end is certain, so a stream is never held back: when a CR comes
//! last in the buffer, the LF that may follow it counts as the next event's.

use super::span::Span;
use memchr::memchr2;

/// Bytes of one event.
pub(crate) const EVENT_BYTES_MAX: usize = 1024 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An event is over [`EVENT_BYTES_MAX`]. There is no splitting after this: relay the rest unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLarge;

/// A complete event at the start of the buffer. Spans are relative to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent {
    /// Its bytes, the empty line included.
    pub bytes: usize,
    /// The value of its `event:` field.
    pub name: Option<Span>,
    first_data: Option<Span>,
    data_end: u32,
    data_lines: u32,
}

impl SseEvent {
    /// Where its data stands, if it is all on one line.
    pub(crate) fn data_line(&self) -> Option<Span> {
        self.first_data.filter(|_| self.data_lines == 1)
    }

    /// The values of its `data:` fields, joined by LF; `None` without one. `buf` is the buffer
    /// that it was found in; `scratch` is used where there is more than one.
    pub fn data<'a>(&self, buf: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let first = self.first_data?;
        if self.data_lines == 1 {
            return Some(first.of(buf));
        }
        scratch.clear();
        scratch.extend_from_slice(first.of(buf));
        let rest = &buf[first.end as usize..self.data_end as usize];
        for line in rest.split(|byte| *byte == b'\n' || *byte == b'\r') {
            if let (b"data", value) = field(line) {
                scratch.push(b'\n');
                scratch.extend_from_slice(value);
            }
        }
        Some(scratch)
    }
}

/// Finds events one after the other.
#[derive(Debug, Default)]
pub struct SseSplitter {
    scanned: usize,
    line_start: usize,
    /// The last byte looked at was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The stream's first line has been looked at.
    begun: bool,
    name: Option<Span>,
    first_data: Option<Span>,
    data_end: u32,
    data_lines: u32,
}

impl SseSplitter {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The event that `buf` begins with, once it is complete. Then call again with `buf` from
    /// [`SseEvent::bytes`] on; as long as it is `None`, with the same bytes and more.
    pub fn next_event(&mut self, buf: &[u8]) -> Result<Option<SseEvent>, EventTooLarge> {
        loop {
            if self.after_cr {
                match buf.get(self.scanned) {
                    None => return Ok(None),
                    Some(b'\n') => self.scanned += 1,
                    Some(_) => {}
                }
                self.line_start = self.scanned;
                self.after_cr = false;
            }
            let rest = buf.get(self.scanned..).unwrap_or_default();
            let found = memchr2(b'\n', b'\r', rest);
            let end = self.scanned + found.unwrap_or(rest.len());
            if end >= EVENT_BYTES_MAX {
                return Err(EventTooLarge);
            }
            self.scanned = end;
            if found.is_none() {
                return Ok(None);
            }
            self.scanned = end + 1;
            self.after_cr = buf[end] == b'\r';
            let start = self.line_start + self.mark_bytes(&buf[self.line_start..end]);
            self.line_start = end + 1;
            if start == end {
                return Ok(Some(self.finish(buf)));
            }
            self.note_line(buf, start, end);
        }
    }

    /// Bytes of the byte order mark that the stream's first line may begin with.
    fn mark_bytes(&mut self, line: &[u8]) -> usize {
        let is_first = !std::mem::replace(&mut self.begun, true);
        if is_first && line.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 }
    }

    fn note_line(&mut self, buf: &[u8], start: usize, end: usize) {
        match field(&buf[start..end]) {
            (b"event", value) => self.name = Some(Span::within(buf, value)),
            (b"data", value) => {
                let span = Span::within(buf, value);
                self.first_data.get_or_insert(span);
                self.data_end = span.end;
                self.data_lines += 1;
            }
            _ => {}
        }
    }

    fn finish(&mut self, buf: &[u8]) -> SseEvent {
        if self.after_cr && buf.get(self.scanned) == Some(&b'\n') {
            self.scanned += 1;
            self.after_cr = false;
        }
        let event = SseEvent {
            bytes: self.scanned,
            name: self.name,
            first_data: self.first_data,
            data_end: self.data_end,
            data_lines: self.data_lines,
        };
        *self = Self { after_cr: self.after_cr, begun: true, ..Self::default() };
        event
    }
}

/// Name and value of a line; a comment has an empty name.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let value = line.get(name.len() + 1..).unwrap_or(&line[line.len()..]);
    (name, value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    type Found = (Option<String>, Option<String>);

    /// Events with a name or data, found in a stream that comes in pieces, and the bytes left.
    fn split(pieces: &[&[u8]]) -> (Vec<Found>, Vec<u8>) {
        let (mut splitter, mut buf, mut scratch) = (SseSplitter::new(), Vec::new(), Vec::new());
        let (mut found, mut relayed) = (Vec::new(), Vec::new());
        for piece in pieces {
            buf.extend_from_slice(piece);
            while let Some(event) = splitter.next_event(&buf).unwrap() {
                assert!(event.bytes > 0);
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let name = event.name.map(|name| text(name.of(&buf)));
                let data = event.data(&buf, &mut scratch).map(text);
                if name.is_some() || data.is_some() {
                    found.push((name, data));
                }
                relayed.extend(buf.drain(..event.bytes));
            }
        }
        relayed.extend_from_slice(&buf);
        assert_eq!(relayed, pieces.concat(), "every byte is relayed, in order");
        (found, buf)
    }

    fn some(name: &str, data: &str) -> Found {
        let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (part(name), part(data))
    }

    #[test]
    fn events_end_with_an_empty_line_of_any_kind() {
        for end in ["\n", "\r\n", "\r"] {
            let stream =
                "\u{feff}: hello\n\ndata: {\"a\":1}\n\nevent: x\ndata:b\nid: 3\ndata:  c\n\
                          data\nfoo: d\n\nevent:\n\ndata: [DONE]\n\ndata: cut"
                    .replace('\n', end);
            let (found, rest) = split(&[stream.as_bytes()]);
            let unnamed = (Some(String::new()), None);
            assert_eq!(
                found,
                [some("", "{\"a\":1}"), some("x", "b\n c\n"), unnamed, some("", "[DONE]")]
            );
            assert_eq!(rest, b"data: cut");
        }
    }

    #[test]
    fn an_event_is_complete_with_its_last_byte() {
        for stream in ["data: a\n\n", "data: a\r\n\r\n", "data: a\r\r"] {
            let mut splitter = SseSplitter::new();
            let before = &stream.as_bytes()[..stream.len() - 1];
            // A CR that ends the empty line is enough, whether or not an LF follows.
            let is_early = stream.ends_with("\r\n");
            assert_eq!(splitter.next_event(before).unwrap().is_some(), is_early);
            if !is_early {
                let event = splitter.next_event(stream.as_bytes()).unwrap().unwrap();
                assert_eq!(event.bytes, stream.len());
            }
        }
    }

    #[test]
    fn an_event_is_bounded() {
        let mut splitter = SseSplitter::new();
        let mut stream = vec![b'a'; EVENT_BYTES_MAX - 2];
        assert_eq!(splitter.next_event(&stream), Ok(None));
        stream.extend_from_slice(b"\n\n");
        assert_eq!(splitter.next_event(&stream).unwrap().unwrap().bytes, EVENT_BYTES_MAX);
        stream.insert(0, b'a');
        assert_eq!(SseSplitter::new().next_event(&stream), Err(EventTooLarge));
        assert_eq!(SseSplitter::new().next_event(&stream[..EVENT_BYTES_MAX - 1]), Ok(None));
        let line = vec![b'a'; EVENT_BYTES_MAX];
        assert_eq!(SseSplitter::new().next_event(&line), Err(EventTooLarge));
    }

    proptest! {
        #[test]
        fn a_stream_splits_alike_however_it_is_cut(
            lines in proptest::collection::vec(
                prop_oneof!["data: ?[a-z: ]{0,4}", "event: ?[a-z]{0,3}", ":", "", "[a-z:]{0,3}"],
                0..20),
            ends in proptest::collection::vec(
                prop_oneof![Just("\n"), Just("\r\n"), Just("\r")], 20),
            cut in 1usize..9,
        ) {
            let pairs = lines.iter().zip(&ends);
            let stream: String = pairs.flat_map(|(line, end)| [line, *end]).collect();
            let pieces: Vec<&[u8]> = stream.as_bytes().chunks(cut).collect();
            prop_assert_eq!(split(&pieces).0, split(&[stream.as_bytes()]).0);
        }

        #[test]
        fn any_bytes_are_relayed_in_order(
            stream in proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b':')], 0..80),
            cut in 1usize..9,
        ) {
            let pieces: Vec<&[u8]> = stream.chunks(cut).collect();
            prop_assert_eq!(split(&pieces).0, split(&[&stream]).0);
        }
    }
}

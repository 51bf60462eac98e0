//! The chunked coding: a decoder that copies nothing, and what little an encoder needs.
//!
//! Sizes are plain hexadecimal digits and lines end with CRLF, or the body is refused: a lenient
//! reader here and a strict one behind it would disagree about where the next request begins.

use std::ops::Range;

/// Bytes of all chunk extensions of a body.
pub(crate) const EXTENSION_BYTES_MAX: u32 = 4 * 1024;
/// Bytes of all trailer fields of a body.
pub(crate) const TRAILER_BYTES_MAX: u32 = 8 * 1024;
/// Hexadecimal digits of a size.
const SIZE_DIGITS_MAX: u8 = 16;

/// What ends a chunk's data.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";
/// What ends a body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What one call of [`ChunkDecoder::decode`] found. `consumed` bytes of the input are done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `payload` of the input is data; `consumed` is its end. Call again with the rest.
    Data {
        /// Where in the input.
        payload: Range<usize>,
        /// Bytes done with.
        consumed: usize,
    },
    /// All of the input is consumed, and the body goes on.
    More {
        /// Bytes done with.
        consumed: usize,
    },
    /// The body has ended; what follows `consumed` is the next message.
    End {
        /// Bytes done with.
        consumed: usize,
    },
}

/// Why a chunked body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkError {
    /// A size that is not 1 to 16 hexadecimal digits.
    Size,
    /// A line that does not end with CRLF, or a control character in one.
    Line,
    /// Data that goes on past its chunk's size.
    Overrun,
    /// Extensions over their bound.
    ExtensionsTooLarge,
    /// Trailers over their bound.
    TrailersTooLarge,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// Decodes one body, over as many reads as it takes.
#[derive(Debug, Default)]
pub(crate) struct ChunkDecoder {
    state: State,
    remaining: u64,
    digits: u8,
    extension_bytes: u32,
    trailer_bytes: u32,
}

impl ChunkDecoder {
    /// Ready for a body's first byte.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The body has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next bytes of the body.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut at = 0;
        while self.state != State::Done {
            let Some(byte) = input.get(at) else { return Ok(Step::More { consumed: at }) };
            if self.state == State::Data {
                return Ok(self.take_data(at, input.len()));
            }
            self.state = self.framing_byte(*byte)?;
            at += 1;
        }
        Ok(Step::End { consumed: at })
    }

    fn take_data(&mut self, start: usize, end: usize) -> Step {
        let bytes = self.remaining.min((end - start) as u64);
        self.remaining -= bytes;
        if self.remaining == 0 {
            self.state = State::DataCr;
        }
        let consumed = start + bytes as usize;
        Step::Data { payload: start..consumed, consumed }
    }

    fn framing_byte(&mut self, byte: u8) -> Result<State, ChunkError> {
        match (self.state, byte) {
            (State::Size, _) => self.size_byte(byte),
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, _) if is_text(byte) => {
                count(&mut self.extension_bytes, EXTENSION_BYTES_MAX)
                    .map(|()| State::Extension)
                    .ok_or(ChunkError::ExtensionsTooLarge)
            }
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                Ok(if self.remaining == 0 { State::TrailerStart } else { State::Data })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataCr, _) => Err(ChunkError::Overrun),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::TrailerStart | State::Trailer, _) if is_text(byte) => {
                count(&mut self.trailer_bytes, TRAILER_BYTES_MAX)
                    .map(|()| State::Trailer)
                    .ok_or(ChunkError::TrailersTooLarge)
            }
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Done),
            _ => Err(ChunkError::Line),
        }
    }

    fn size_byte(&mut self, byte: u8) -> Result<State, ChunkError> {
        let digit = match byte {
            b'\r' if self.digits > 0 => return Ok(State::SizeLf),
            b';' if self.digits > 0 => return Ok(State::Extension),
            _ => char::from(byte).to_digit(16).ok_or(ChunkError::Size)?,
        };
        if self.digits == SIZE_DIGITS_MAX {
            return Err(ChunkError::Size);
        }
        self.digits += 1;
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }
}

fn count(bytes: &mut u32, max: u32) -> Option<()> {
    *bytes += 1;
    (*bytes <= max).then_some(())
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// What comes before `bytes` of data; [`CHUNK_END`] comes after them. A chunk of 0 bytes would end
/// the body, so nothing is written for it.
pub(crate) fn write_chunk_head(out: &mut Vec<u8>, bytes: usize) {
    debug_assert!(bytes > 0, "an empty chunk ends the body");
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[bytes >> (4 * place) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Data, bytes consumed, ended.
    type Decoded = Result<(Vec<u8>, usize, bool), ChunkError>;

    fn decode(pieces: &[&[u8]]) -> Decoded {
        let mut decoder = ChunkDecoder::new();
        let (mut data, mut total) = (Vec::new(), 0);
        for piece in pieces {
            let mut at = 0;
            loop {
                match decoder.decode(&piece[at..])? {
                    Step::Data { payload, consumed } => {
                        assert!(consumed > 0 && payload.end == consumed);
                        data.extend_from_slice(&piece[at..][payload]);
                        at += consumed;
                    }
                    Step::More { consumed } => {
                        assert_eq!(at + consumed, piece.len());
                        total += piece.len();
                        break;
                    }
                    Step::End { consumed } => return Ok((data, total + at + consumed, true)),
                }
            }
        }
        Ok((data, total, decoder.is_done()))
    }

    fn encode(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in chunks {
            write_chunk_head(&mut out, chunk.len());
            out.extend_from_slice(chunk);
            out.extend_from_slice(CHUNK_END);
        }
        out.extend_from_slice(LAST_CHUNK);
        out
    }

    #[test]
    fn extensions_and_trailers_are_skipped() {
        let body = b"5;a=\"b\"\r\nhello\r\n00;x\r\nA: b\r\nC: d\r\n\r\nGET";
        assert_eq!(decode(&[body]), Ok((b"hello".to_vec(), body.len() - 3, true)));
        assert_eq!(decode(&[b"00000000000000Ff\r\n"]), Ok((vec![], 18, false)));
    }

    #[test]
    fn ambiguous_chunks_are_refused() {
        for (body, error) in [
            (&b"\r\n"[..], ChunkError::Size),
            (b"+5\r\n", ChunkError::Size),
            (b"-5\r\n", ChunkError::Size),
            (b" 5\r\n", ChunkError::Size),
            (b"5 \r\n", ChunkError::Size),
            (b"0x5\r\n", ChunkError::Size),
            (b"5_0\r\n", ChunkError::Size),
            (b"g\r\n", ChunkError::Size),
            (b"00000000000000005\r\n", ChunkError::Size),
            (b"10000000000000000\r\n", ChunkError::Size),
            (b";a\r\n", ChunkError::Size),
            (b"5\nhello\r\n", ChunkError::Size),
            (b"5\rhello", ChunkError::Line),
            (b"5;a\nhello", ChunkError::Line),
            (b"5;a\0\r\n", ChunkError::Line),
            (b"5\r\nhello\n", ChunkError::Overrun),
            (b"5\r\nhello!\r\n", ChunkError::Overrun),
            (b"5\r\nhello\r0", ChunkError::Line),
            (b"0\r\n\n", ChunkError::Line),
            (b"0\r\nA: b\n", ChunkError::Line),
            (b"0\r\n\rA", ChunkError::Line),
        ] {
            assert_eq!(decode(&[body]), Err(error), "{body:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded_over_the_whole_body() {
        let extension = format!("1;{}\r\na\r\n", "x".repeat(1023));
        let allowed = extension.repeat(4);
        assert_eq!(decode(&[allowed.as_bytes()]).map(|(data, ..)| data.len()), Ok(4));
        let refused = extension.repeat(5);
        assert_eq!(decode(&[refused.as_bytes()]), Err(ChunkError::ExtensionsTooLarge));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(2049));
        assert_eq!(decode(&[trailers.as_bytes()]), Err(ChunkError::TrailersTooLarge));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_however_it_is_cut(
            chunks in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            tail in proptest::collection::vec(any::<u8>(), 0..8),
            cut in 1usize..16,
        ) {
            let body = encode(&chunks);
            let whole: Vec<u8> = body.iter().chain(&tail).copied().collect();
            let pieces: Vec<&[u8]> = whole.chunks(cut).collect();
            prop_assert_eq!(decode(&pieces), Ok((chunks.concat(), body.len(), true)));
        }

        #[test]
        fn any_bytes_decode_alike_however_they_are_cut(
            body in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..60),
                "([0-9a-f]{0,2}(;[a-z]*)?\r\n[a-z]{0,12}\r?\n?){0,4}".prop_map(String::into_bytes),
            ],
            cut in 1usize..8,
        ) {
            let pieces: Vec<&[u8]> = body.chunks(cut).collect();
            prop_assert_eq!(decode(&pieces), decode(&[&body]));
        }
    }
}

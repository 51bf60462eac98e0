//! What request and response heads share: finding the end of a head as its bytes arrive, the
//! fields that decide where the body ends, and which fields stop at this hop.
//!
//! httparse forgives a bare LF and stops at the first empty line, so lines are found here, before
//! it sees them. The search never takes quadratic time, even if a head arrives byte by byte.

use super::span::Span;
use memchr::memchr;

/// Field lines that a head may have, whatever the configuration allows.
pub const HEADERS_MAX: usize = 256;
/// Options that all Connection fields of a head may list.
const CONNECTION_OPTIONS_MAX: usize = 32;
/// Empty lines that may come before a first line (RFC 9112, section 2.2, asks for one).
const BLANK_LINES_MAX: u8 = 2;

/// The bounds of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// First line and fields together.
    pub head_bytes: usize,
    /// The request target.
    pub uri_bytes: usize,
    /// Field lines; 256 ([`HEADERS_MAX`]) at the most.
    pub headers: usize,
}

/// Why a head is refused before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanError {
    /// Not HTTP.
    Malformed(&'static str),
    /// The first line is too long.
    FirstLineTooLong,
    /// The head is too long.
    TooLarge,
}

/// How far the search for a head's end has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScan {
    scanned: usize,
    line_start: usize,
    blank_lines: u8,
    first_line_seen: bool,
    /// Where the first line begins.
    pub start: usize,
}

impl HeadScan {
    /// Where the head ends, its empty line included; `None` until that has come. Between two calls
    /// `buf` may only grow at its end.
    pub(super) fn find_end(
        &mut self,
        buf: &[u8],
        head_bytes: usize,
        first_line_bytes: usize,
    ) -> Result<Option<usize>, ScanError> {
        while let Some(found) = buf.get(self.scanned..).and_then(|rest| memchr(b'\n', rest)) {
            let lf = self.scanned + found;
            if lf == self.line_start || buf[lf - 1] != b'\r' {
                return Err(ScanError::Malformed("a line ends with a bare LF"));
            }
            let line_bytes = lf - 1 - self.line_start;
            self.scanned = lf + 1;
            self.line_start = lf + 1;
            if line_bytes > first_line_bytes && !self.first_line_seen {
                return Err(ScanError::FirstLineTooLong);
            }
            if lf >= head_bytes {
                return Err(ScanError::TooLarge);
            }
            match (line_bytes == 0, self.first_line_seen) {
                (true, true) => return Ok(Some(lf + 1)),
                (true, false) => self.skip_blank_line()?,
                (false, _) => self.first_line_seen = true,
            }
        }
        self.scanned = buf.len();
        if !self.first_line_seen && buf.len().saturating_sub(self.start) > first_line_bytes + 1 {
            return Err(ScanError::FirstLineTooLong);
        }
        if buf.len() >= head_bytes { Err(ScanError::TooLarge) } else { Ok(None) }
    }

    /// The first line is not complete yet.
    pub(super) fn in_first_line(&self) -> bool {
        !self.first_line_seen
    }

    fn skip_blank_line(&mut self) -> Result<(), ScanError> {
        self.blank_lines += 1;
        self.start = self.line_start;
        if self.blank_lines > BLANK_LINES_MAX {
            return Err(ScanError::Malformed("empty lines instead of a message"));
        }
        Ok(())
    }
}

/// The fields that say where the body ends and whether the connection lives on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FramingFields {
    /// Content-Length.
    pub length: Option<u64>,
    /// Transfer-Encoding: chunked.
    pub chunked: bool,
    /// Connection: close.
    pub close: bool,
    /// Connection: keep-alive.
    pub keep_alive: bool,
    /// Connection names other fields.
    pub lists_fields: bool,
    options: usize,
}

impl FramingFields {
    /// Takes note of one field; the error is a reason that a client may see.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err("more than one Content-Length");
                }
                self.length = Some(plain_u64(value).ok_or("Content-Length is not a number")?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked {
                    return Err("more than one Transfer-Encoding");
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("a Transfer-Encoding other than chunked");
                }
                self.chunked = true;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => self.note_connection(value)?,
            _ => {}
        }
        Ok(())
    }

    /// Refuses what two readers could frame differently.
    pub(super) fn check(&self, http_10: bool) -> Result<(), &'static str> {
        if self.chunked && self.length.is_some() {
            return Err("both Content-Length and Transfer-Encoding");
        }
        if self.chunked && http_10 {
            return Err("Transfer-Encoding in HTTP/1.0");
        }
        Ok(())
    }

    /// The connection may carry another message.
    pub(super) fn persists(&self, http_10: bool) -> bool {
        !self.close && (!http_10 || self.keep_alive)
    }

    fn note_connection(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for option in list_items(value) {
            self.options += 1;
            if self.options > CONNECTION_OPTIONS_MAX {
                return Err("too many Connection options");
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                self.lists_fields = true;
            }
        }
        Ok(())
    }
}

/// Is the field for this hop only, and never passed on? So are those that the message's Connection
/// field names: see `is_forwarded` of the heads.
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    match name.len() {
        2 => is(b"te"),
        7 => is(b"trailer") || is(b"upgrade"),
        10 => is(b"connection") || is(b"keep-alive"),
        17 if is(b"transfer-encoding") => true,
        _ => name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"proxy-")),
    }
}

/// Does a Connection field among `headers` name the field `name`?
pub(super) fn is_listed(buf: &[u8], headers: &[(Span, Span)], name: &[u8]) -> bool {
    headers
        .iter()
        .filter(|(known, _)| known.of(buf).eq_ignore_ascii_case(b"connection"))
        .flat_map(|(_, value)| list_items(value.of(buf)))
        .any(|option| option.eq_ignore_ascii_case(name))
}

/// `value` without the blanks around it.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn list_items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|item| !item.is_empty())
}

/// The number that `digits` are; `None` if anything else is there, or if it does not fit.
pub(super) fn plain_u64(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain_and_fit() {
        assert_eq!(plain_u64(b"0"), Some(0));
        assert_eq!(plain_u64(b"18446744073709551615"), Some(u64::MAX));
        for wrong in [&b""[..], b"18446744073709551616", b"+1", b"-1", b"1 ", b"0x1", b"1,1"] {
            assert_eq!(plain_u64(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn hop_by_hop_fields_are_known_in_any_case() {
        for name in ["TE", "Trailer", "upgrade", "Keep-Alive", "Transfer-Encoding", "Proxy-Foo"] {
            assert!(is_hop_by_hop(name.as_bytes()), "{name}");
        }
        for name in ["", "t", "content-length", "proxyfoo", "host", "traceparent"] {
            assert!(!is_hop_by_hop(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn blanks_are_trimmed_on_both_sides() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
    }
}

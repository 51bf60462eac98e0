//! Writing heads: status lines, fields, and numbers without allocation.

/// The reason phrase of a status; empty for one that has none here.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        529 => "Overloaded",
        _ => "",
    }
}

/// `HTTP/1.1 200 OK` and the line's end.
pub fn write_status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_u64(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// One field. Neither part may hold a line's end: they come from parsed heads or from us.
pub fn write_header(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!value.iter().chain(name).any(|byte| b"\r\n\0".contains(byte)));
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// One field whose value is a number.
pub fn write_header_u64(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    write_u64(out, value);
    out.extend_from_slice(b"\r\n");
}

/// The number in decimal.
pub fn write_u64(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// A span of `ns` nanoseconds as OpenAI's reset fields have it: `12ms`, `1.5s`, `6m0s`, `27h3m2s`.
/// Rounded up to the next millisecond, so that who waits that long has waited long enough.
pub fn write_duration(out: &mut Vec<u8>, ns: u64) {
    let ms = ns.div_ceil(1_000_000);
    if ms > 0 && ms < 1_000 {
        write_u64(out, ms);
        out.extend_from_slice(b"ms");
        return;
    }
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    if hours > 0 {
        write_u64(out, hours);
        out.push(b'h');
    }
    if hours > 0 || minutes > 0 {
        write_u64(out, minutes);
        out.push(b'm');
    }
    write_u64(out, ms / 1_000 % 60);
    let mut rest = ms % 1_000;
    if rest > 0 {
        out.push(b'.');
    }
    while rest > 0 {
        out.push(b'0' + (rest / 100) as u8);
        rest = rest % 100 * 10;
    }
    out.push(b's');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 1, 9, 10, 12_345, u64::MAX] {
            assert_eq!(written(|out| write_u64(out, number)), number.to_string());
        }
    }

    #[test]
    fn durations_have_the_form_that_clients_parse() {
        const MS: u64 = 1_000_000;
        for (ns, text) in [
            (0, "0s"),
            (1, "1ms"),
            (12 * MS, "12ms"),
            (12 * MS + 1, "13ms"),
            (999 * MS + 1, "1s"),
            (1_000 * MS, "1s"),
            (1_050 * MS, "1.05s"),
            (59_951 * MS, "59.951s"),
            (86_400 * MS, "1m26.4s"),
            (360_000 * MS, "6m0s"),
            (3_600_000 * MS, "1h0m0s"),
            (97_382_000 * MS, "27h3m2s"),
        ] {
            assert_eq!(written(|out| write_duration(out, ns)), text);
        }
        assert_eq!(written(|out| write_duration(out, u64::MAX)), "5124095h34m33.71s");
    }

    #[test]
    fn heads_are_written_line_by_line() {
        let head = written(|out| {
            write_status_line(out, 429);
            write_status_line(out, 599);
            write_header(out, b"a", b"b c");
            write_header_u64(out, b"retry-after", 3);
        });
        assert_eq!(
            head,
            "HTTP/1.1 429 Too Many Requests\r\nHTTP/1.1 599 \r\na: b c\r\nretry-after: 3\r\n"
        );
    }
}

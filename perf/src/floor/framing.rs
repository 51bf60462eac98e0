//! Where an HTTP/1.1 message ends: head, then `Content-Length` bytes. Nothing else is known here.

use memchr::{memchr_iter, memmem};

const NAME: &[u8] = b"content-length:";

/// The length of the message that `bytes` begin with; `None` as long as its head is not whole.
pub fn message_len(bytes: &[u8]) -> Option<usize> {
    let head_len = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let mut line_at = 0;
    for end in memchr_iter(b'\n', &bytes[..head_len]) {
        let line = &bytes[line_at..end];
        line_at = end + 1;
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let digits = line[NAME.len()..].iter().filter(|byte| byte.is_ascii_digit());
            let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            return Some(head_len + length);
        }
    }
    Some(head_len)
}

#[cfg(test)]
mod tests {
    use super::message_len;

    #[test]
    fn a_message_ends_behind_its_body() {
        assert_eq!(message_len(b"GET / HTTP/1.1\r\nhost: a\r\n"), None);
        assert_eq!(message_len(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET"), Some(27));
        assert_eq!(message_len(b"P / HTTP/1.1\r\nContent-Length: 12\r\n\r\n"), Some(36 + 12));
    }
}

//! Appending to a buffer of bytes, in chains, without allocating or formatting.

/// Appends; each returns the buffer for the next.
pub(super) trait Put {
    /// Bytes as they are.
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self;
    /// Text as it is.
    fn text(&mut self, text: &str) -> &mut Self;
    /// Text if `wanted`.
    fn text_if(&mut self, wanted: bool, text: &str) -> &mut Self;
    /// A decimal number.
    fn number(&mut self, number: u64) -> &mut Self;
    /// Sixteen hexadecimal digits.
    fn id(&mut self, id: u64) -> &mut Self;
    /// One chunk of a chunked body.
    fn chunk(&mut self, content: &[u8]) -> &mut Self;
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Put for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn text_if(&mut self, wanted: bool, text: &str) -> &mut Self {
        if wanted { self.text(text) } else { self }
    }

    fn number(&mut self, number: u64) -> &mut Self {
        let (mut digits, mut at, mut rest) = ([0; 20], 20, number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return self.bytes(&digits[at..]);
            }
        }
    }

    fn id(&mut self, id: u64) -> &mut Self {
        let digits: [u8; 16] = std::array::from_fn(|at| HEX[(id >> (60 - 4 * at)) as usize & 0xf]);
        self.bytes(&digits)
    }

    fn chunk(&mut self, content: &[u8]) -> &mut Self {
        let size = content.len();
        let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
        for at in (0..digits).rev() {
            self.push(HEX[(size >> (4 * at)) & 0xf]);
        }
        self.text("\r\n").bytes(content).text("\r\n")
    }
}

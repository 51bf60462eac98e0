//! A range of a connection's buffer, half the size of a slice and free of its lifetime.

/// Bytes `start..end` of the buffer that it was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Past the last byte.
    pub end: u32,
}

impl Span {
    /// The span `start..end`. Buffers are bounded far below 4 GiB; more is a bug of ours.
    pub fn new(start: usize, end: usize) -> Self {
        assert!(start <= end && end <= u32::MAX as usize, "a span outside of any buffer");
        Self { start: start as u32, end: end as u32 }
    }

    /// Where `part` lies in `buf`; `part` must be a slice of it.
    pub fn within(buf: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
        assert!(start <= buf.len() && part.len() <= buf.len() - start, "not a part of the buffer");
        Self::new(start, start + part.len())
    }

    /// The bytes.
    pub fn of<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        &buf[self.start as usize..self.end as usize]
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// No byte.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_where_it_lies() {
        let buf = b"abcdef";
        let span = Span::within(buf, &buf[2..4]);
        assert_eq!(span, Span { start: 2, end: 4 });
        assert_eq!((span.of(buf), span.len(), span.is_empty()), (&b"cd"[..], 2, false));
        assert!(Span::within(buf, &buf[6..]).is_empty());
    }
}

//! What a path ends in, as a server may read it that is lenient. Pure.
//!
//! What is metered hangs on it, so a spelling that some upstream takes for the plain one must be
//! taken for it here too.

/// Is `name`, in lower case, the last segment of `path` that is not empty? Case, percent-encoding,
/// a segment's parameters, doubled and trailing slashes make no difference.
pub(super) fn ends_in(path: &[u8], name: &[u8]) -> bool {
    let (mut rest, mut segment, mut is_last) = (path, PathSegment::default(), false);
    while let Some((byte, after)) = decoded(rest) {
        match byte {
            b'/' | b'\\' => {
                is_last = segment.is_last(name, is_last);
                segment = PathSegment::default();
            }
            b';' => segment.has_parameters = true,
            _ if segment.has_parameters => {}
            _ => segment.take(byte.to_ascii_lowercase(), name),
        }
        rest = after;
    }
    segment.is_last(name, is_last)
}

#[derive(Default)]
struct PathSegment {
    bytes: usize,
    differs: bool,
    has_parameters: bool,
}

impl PathSegment {
    fn take(&mut self, byte: u8, name: &[u8]) {
        self.differs |= name.get(self.bytes) != Some(&byte);
        self.bytes += 1;
    }

    /// Is it the name; or, being empty, was the one before it?
    fn is_last(&self, name: &[u8], before: bool) -> bool {
        if self.bytes == 0 { before } else { !self.differs && self.bytes == name.len() }
    }
}

/// The first byte of `rest` with its encoding undone, and what comes after it.
fn decoded(rest: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if let [b'%', high, low, after @ ..] = rest
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some(((high << 4 | low) as u8, after));
    }
    rest.split_first().map(|(byte, after)| (*byte, after))
}

#[cfg(test)]
mod tests {
    use super::ends_in;

    #[test]
    fn a_path_ends_in_its_last_segment_however_it_is_spelt() {
        for path in [
            "/v1/chat/completions",
            "/v1/chat/completions/",
            "/v1/chat//completions//",
            "/v1/chat/Completions",
            "/v1/chat/%63ompletions",
            "/v1/chat/%43ompletion%73",
            "/v1/chat%2fcompletions%2F",
            "/v1/chat\\completions",
            "/v1/chat/completions;a=b",
            "/v1/chat/completions;a=b/;c",
            "completions",
        ] {
            assert!(ends_in(path.as_bytes(), b"completions"), "{path}");
        }
        for path in [
            "",
            "/",
            "/v1/completions/x",
            "/v1/chat/completion",
            "/v1/chat/completionss",
            "/v1/xcompletions",
            "/v1/chat;/completions;x/y",
            "/v1/chat/%completions",
        ] {
            assert!(!ends_in(path.as_bytes(), b"completions"), "{path}");
        }
    }
}

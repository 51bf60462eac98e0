//! How many tokens an image costs, by its provider's published rule, from nothing but the first
//! bytes of its file: they say how wide and how high it is. Nothing is decompressed.
//!
//! Used only for calls whose upstream reports no usage, so the rules are those of most models:
//! OpenAI's tiles (platform.openai.com/docs/guides/images-vision, "Calculating costs", of GPT-4o
//! and GPT-4.1) and Anthropic's pixels (docs.anthropic.com/en/docs/build-with-claude/vision,
//! "Evaluate image size").

/// Tokens of an image at low detail; any other costs these and its tiles.
const BASE_TOKENS: u64 = 85;
/// A tile of 512 × 512 pixels.
const TILE_TOKENS: u64 = 170;
const TILE_PIXELS: u64 = 512;
/// An image is scaled down to fit into a square of this side, then until its shorter side fits too.
const SQUARE_PIXELS: u64 = 2048;
const SHORT_PIXELS: u64 = 768;
/// An image whose size is unknown here (behind a link, say) counts as 1024 × 1024, the first
/// example of the rule: four tiles.
const OPENAI_UNKNOWN: Pixels = Pixels { width: 1024, height: 1024 };

/// Pixels of one token.
const PIXELS_PER_TOKEN: u64 = 750;
/// An image is scaled down until its longer side and its tokens are within these.
const LONG_PIXELS: u64 = 1568;
const TOKENS_MAX: u64 = 1600;

/// Segments of a JPEG file that are read before its size is given up.
const SEGMENTS_MAX: usize = 256;

/// An image's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pixels {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// Tokens of an image by OpenAI's rule; `None`: its size is unknown.
pub(super) fn openai_tokens(size: Option<Pixels>, is_low_detail: bool) -> u64 {
    if is_low_detail {
        return BASE_TOKENS;
    }
    let (short, long) = size.unwrap_or(OPENAI_UNKNOWN).sides();
    let (short, long) = fitted((short, long), long, SQUARE_PIXELS);
    let (short, long) = fitted((short, long), short, SHORT_PIXELS);
    BASE_TOKENS + TILE_TOKENS * short.div_ceil(TILE_PIXELS) * long.div_ceil(TILE_PIXELS)
}

/// Tokens of an image by Anthropic's rule; one of unknown size costs as much as any can.
pub(super) fn anthropic_tokens(size: Option<Pixels>) -> u64 {
    let Some(size) = size else { return TOKENS_MAX };
    let (short, long) = size.sides();
    let (short, long) = fitted((short, long), long, LONG_PIXELS);
    (short * long).div_ceil(PIXELS_PER_TOKEN).min(TOKENS_MAX)
}

/// Both sides, scaled down to make `side`, one of them, `most` where it is larger.
fn fitted((short, long): (u64, u64), side: u64, most: u64) -> (u64, u64) {
    if side <= most {
        return (short, long);
    }
    let scaled = |pixels: u64| (pixels * most / side).max(1);
    (scaled(short), scaled(long))
}

impl Pixels {
    fn sides(self) -> (u64, u64) {
        let (width, height) = (u64::from(self.width), u64::from(self.height));
        (width.min(height), width.max(height))
    }

    /// The size of the PNG, GIF, WebP or JPEG file whose Base64 this is.
    pub(super) fn of_base64(text: &[u8]) -> Option<Self> {
        let file = Base64(text);
        let (width, height) = if file.has(0, b"\x89PNG\r\n\x1a\n") {
            (file.big(16, 4)?, file.big(20, 4)?)
        } else if file.has(0, b"GIF8") {
            (file.little(6, 2)?, file.little(8, 2)?)
        } else if file.has(0, b"RIFF") && file.has(8, b"WEBP") {
            webp_size(&file)?
        } else if file.has(0, b"\xff\xd8") {
            jpeg_size(&file)?
        } else {
            return None;
        };
        (width > 0 && height > 0).then_some(Self { width, height })
    }
}

/// RFC 9649: lossy frames have their size after a start code, lossless ones as two numbers of 14
/// bits; extended files have their canvas's.
fn webp_size(file: &Base64<'_>) -> Option<(u32, u32)> {
    const FOURTEEN_BITS: u32 = 0x3fff;
    if file.has(12, b"VP8X") {
        return Some((file.little(24, 3)? + 1, file.little(27, 3)? + 1));
    }
    if file.has(12, b"VP8L") && file.has(20, b"\x2f") {
        let bits = file.little(21, 4)?;
        return Some(((bits & FOURTEEN_BITS) + 1, (bits >> 14 & FOURTEEN_BITS) + 1));
    }
    let is_lossy = file.has(12, b"VP8 ") && file.has(23, b"\x9d\x01\x2a");
    is_lossy.then_some((file.little(26, 2)? & FOURTEEN_BITS, file.little(28, 2)? & FOURTEEN_BITS))
}

/// ITU-T T.81, annex B: segments with their lengths, up to the one that begins the frame.
fn jpeg_size(file: &Base64<'_>) -> Option<(u32, u32)> {
    let mut at = 2;
    for _ in 0..SEGMENTS_MAX {
        if file.byte(at)? != 0xff {
            return None;
        }
        match file.byte(at + 1)? {
            0xff => at += 1,
            0xc4 | 0xc8 | 0xcc => at += 2 + file.big(at + 2, 2)? as usize,
            0xc0..=0xcf => return Some((file.big(at + 7, 2)?, file.big(at + 5, 2)?)),
            0x01 | 0xd0..=0xd8 => at += 2,
            0xd9 | 0xda => return None,
            _ => at += 2 + file.big(at + 2, 2)? as usize,
        }
    }
    None
}

/// A file in Base64 of which only single bytes are decoded.
struct Base64<'a>(&'a [u8]);

impl Base64<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        let first = at / 3 * 4 + at % 3;
        let (high, low) = (sextet(*self.0.get(first)?)?, sextet(*self.0.get(first + 1)?)?);
        Some(match at % 3 {
            0 => high << 2 | low >> 4,
            1 => high << 4 | low >> 2,
            _ => high << 6 | low,
        })
    }

    fn has(&self, at: usize, bytes: &[u8]) -> bool {
        bytes.iter().enumerate().all(|(place, byte)| self.byte(at + place) == Some(*byte))
    }

    fn big(&self, at: usize, bytes: usize) -> Option<u32> {
        (at..at + bytes).try_fold(0, |number, at| Some(number << 8 | u32::from(self.byte(at)?)))
    }

    fn little(&self, at: usize, bytes: usize) -> Option<u32> {
        let places = (at..at + bytes).rev();
        places.into_iter().try_fold(0, |number, at| Some(number << 8 | u32::from(self.byte(at)?)))
    }
}

/// The six bits that this letter of either alphabet of RFC 4648 stands for.
fn sextet(letter: u8) -> Option<u8> {
    Some(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(width: u32, height: u32) -> Option<Pixels> {
        Some(Pixels { width, height })
    }

    #[test]
    fn tokens_are_those_of_the_published_examples() {
        for (of, is_low_detail, tokens) in [
            (size(1024, 1024), false, 765),
            (size(2048, 4096), false, 1105),
            (size(4096, 8192), true, 85),
            (size(512, 512), false, 255),
            (size(513, 1), false, 425),
            (size(1, 1), false, 255),
            (size(u32::MAX, 1), false, 85 + 4 * 170),
            (None, false, 765),
            (None, true, 85),
        ] {
            assert_eq!(openai_tokens(of, is_low_detail), tokens, "{of:?}");
        }
        for (of, tokens) in [
            (size(200, 200), 54),
            (size(1000, 1000), 1334),
            (size(1092, 1092), 1590),
            (size(3136, 1000), 1046),
            (size(u32::MAX, u32::MAX), 1600),
            (None, 1600),
        ] {
            assert_eq!(anthropic_tokens(of), tokens, "{of:?}");
        }
    }

    pub(crate) fn base64(bytes: &[u8]) -> Vec<u8> {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = Vec::new();
        for three in bytes.chunks(3) {
            let word = (0..3)
                .fold(0u32, |word, at| word << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
            for place in 0..=three.len() {
                text.push(LETTERS[(word >> (18 - 6 * place) & 63) as usize]);
            }
            text.resize(text.len().next_multiple_of(4), b'=');
        }
        text
    }

    #[test]
    fn sizes_are_read_from_the_first_bytes() {
        let jpeg = [
            &b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"[..],
            b"\xff\xff\xc4\x00\x04\x00\x00\xff\xc2\x00\x11\x08\x01\x02\x03\x04\x03",
        ]
        .concat();
        for (name, file, expected) in [
            (
                "PNG",
                b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x04\0\0\0\x02\x01".to_vec(),
                size(1024, 513),
            ),
            ("GIF", b"GIF89a\x0a\x00\x00\x01\xf7".to_vec(), size(10, 256)),
            ("JPEG", jpeg.clone(), size(0x304, 0x102)),
            ("half a JPEG", jpeg[..25].to_vec(), None),
            (
                "WebP",
                b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x80\x02\xe0\x41".to_vec(),
                size(640, 480),
            ),
            (
                "WebP, lossless",
                b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x7f\xc2\x77\x00".to_vec(),
                size(640, 480),
            ),
            (
                "WebP, extended",
                b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x7f\x02\0\xdf\x01\0".to_vec(),
                size(640, 480),
            ),
            ("no size", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\0\0\0\x02\x01".to_vec(), None),
            ("no image", b"<svg width=\"10\" height=\"10\"/>".to_vec(), None),
            ("nothing", Vec::new(), None),
        ] {
            assert_eq!(Pixels::of_base64(&base64(&file)), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_file_is_survived(
            start in prop::sample::select(vec![
                &b"\x89PNG\r\n\x1a\n"[..], b"GIF8", b"RIFF\0\0\0\0WEBPVP8 ", b"\xff\xd8\xff", b"",
            ]),
            rest in proptest::collection::vec(any::<u8>(), 0..80),
            cut in 0usize..100,
        ) {
            let mut text = base64(&[start, &rest].concat());
            text.truncate(cut);
            let tokens = openai_tokens(Pixels::of_base64(&text), false);
            prop_assert!((255..=1445).contains(&tokens), "{tokens}");
            prop_assert!(anthropic_tokens(Pixels::of_base64(&text)) <= TOKENS_MAX);
        }
    }
}

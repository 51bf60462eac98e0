//! Vectors for `/v1/embeddings`, as numbers or in base64, as the caller asks.

use super::draw::draw;
use serde::Deserialize;
use serde_json::Value;
use std::io::Write;

/// Most inputs of a request.
const INPUTS_MAX: usize = 2048;
/// Most dimensions of a vector.
const DIMENSIONS_MAX: u32 = 1536;
/// Dimensions if the request names none.
const DIMENSIONS_DEFAULT: u32 = 8;

/// The vectors that a request wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vectors {
    /// How many.
    pub count: u32,
    dimensions: u32,
    base64: bool,
}

impl Default for Vectors {
    fn default() -> Self {
        Self { count: 1, dimensions: DIMENSIONS_DEFAULT, base64: false }
    }
}

#[derive(Deserialize)]
struct EmbeddingsBody {
    input: Value,
    encoding_format: Option<String>,
    dimensions: Option<u32>,
}

impl Vectors {
    /// Reads the request; `None` if it makes no sense. Without a body it is one input.
    pub(super) fn wanted(body: &[u8]) -> Option<Self> {
        if body.is_empty() {
            return Some(Self::default());
        }
        let body: EmbeddingsBody = serde_json::from_slice(body).ok()?;
        let count = match &body.input {
            // An array of numbers is one input, already cut into tokens.
            Value::Array(items) if items.first()?.is_number() => 1,
            Value::Array(items) if items.len() <= INPUTS_MAX => items.len() as u32,
            Value::String(_) => 1,
            _ => return None,
        };
        let dimensions = body.dimensions.unwrap_or(DIMENSIONS_DEFAULT);
        let base64 = match body.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return None,
        };
        (1..=DIMENSIONS_MAX).contains(&dimensions).then_some(Self { count, dimensions, base64 })
    }

    /// Appends vector `index` of answer `id` as a JSON value.
    pub(super) fn put(&self, out: &mut Vec<u8>, id: u64, index: u32) {
        // Multiples of 1/256, so that both encodings say exactly the same.
        let vector = (0..self.dimensions).map(|dimension| {
            let drawn = draw(id, u64::from(index), u64::from(dimension));
            ((drawn >> 55) as f32 - 256.0) / 256.0
        });
        if self.base64 {
            out.push(b'"');
            put_base64(out, vector.flat_map(f32::to_le_bytes));
            out.push(b'"');
            return;
        }
        out.push(b'[');
        for (dimension, number) in vector.enumerate() {
            if dimension > 0 {
                out.push(b',');
            }
            // Writing to a Vec can't fail.
            let _ = write!(out, "{number}");
        }
        out.push(b']');
    }
}

fn put_base64(out: &mut Vec<u8>, mut bytes: impl Iterator<Item = u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    while let Some(first) = bytes.next() {
        let (second, third) = (bytes.next(), bytes.next());
        let group = u32::from_be_bytes([0, first, second.unwrap_or(0), third.unwrap_or(0)]);
        let digit = |shift: u32| DIGITS[(group >> shift) as usize & 63];
        out.extend_from_slice(&[digit(18), digit(12)]);
        out.push(if second.is_some() { digit(6) } else { b'=' });
        out.push(if third.is_some() { digit(0) } else { b'=' });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            let mut out = Vec::new();
            put_base64(&mut out, plain.bytes());
            assert_eq!(out, coded.as_bytes());
        }
    }

    #[test]
    fn counts_inputs_and_refuses_nonsense() {
        let count = |body: &str| Vectors::wanted(body.as_bytes()).map(|vectors| vectors.count);
        assert_eq!(count(r#"{"input":"a"}"#), Some(1));
        assert_eq!(count(r#"{"input":["a","b"]}"#), Some(2));
        assert_eq!(count(r#"{"input":[1,2,3]}"#), Some(1));
        assert_eq!(count(r#"{"input":[[1,2],[3],[4]]}"#), Some(3));
        assert_eq!(count(r#"{"input":[]}"#), None);
        assert_eq!(count(r#"{"input":"a","dimensions":1537}"#), None);
        assert_eq!(count(r#"{"input":"a","encoding_format":"hex"}"#), None);
        assert_eq!(count("{"), None);
    }
}

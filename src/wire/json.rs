//! JSON as RFC 8259 has it, read in place: a pull reader that validates as it goes, and views of
//! values built on it. Nothing is copied and nothing recurses.
//!
//! Accepts what serde_json accepts, but for nesting over 64 levels. Numbers have no range here, and
//! a lone surrogate escape (`"\ud800"`), which the grammar allows, decodes as U+FFFD.

use super::json_string::string_end;
use memchr::memchr;

/// Levels of nesting.
pub(crate) const DEPTH_MAX: u32 = 64;

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonError {
    /// Not JSON.
    Malformed,
    /// Nested over [`DEPTH_MAX`] levels.
    TooDeep,
    /// JSON, but not an object.
    NotAnObject,
}

/// A string's characters as they stand in the text, escapes and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// What stands between the quotes.
    pub raw: &'a [u8],
    /// There are escapes in it.
    pub escaped: bool,
}

impl Text<'_> {
    /// Are its decoded characters `plain`?
    #[inline]
    pub fn is(&self, plain: &str) -> bool {
        if self.escaped { self.decodes_to(plain) } else { self.raw == plain.as_bytes() }
    }

    fn decodes_to(&self, plain: &str) -> bool {
        let mut rest = plain.as_bytes();
        let matches = unescape(self.raw, |piece| match rest.strip_prefix(piece) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        });
        matches && rest.is_empty()
    }

    /// Would a reader that ignores case take its characters for `plain`, which is in lower case?
    /// Go's encoding/json is such a reader. It folds letters as Unicode does: a long s is an s, and
    /// the Kelvin sign is a k.
    #[inline]
    pub(crate) fn folds_to(&self, plain: &str) -> bool {
        if self.raw.len() <= plain.len() {
            // Escapes, and letters outside of ASCII, would make it longer.
            return self.raw.eq_ignore_ascii_case(plain.as_bytes());
        }
        (self.escaped || !self.raw.is_ascii()) && self.folds_letter_by_letter_to(plain)
    }

    fn folds_letter_by_letter_to(&self, plain: &str) -> bool {
        let mut rest = plain.chars();
        let folds = unescape(self.raw, |piece| {
            std::str::from_utf8(piece).is_ok_and(|piece| {
                piece.chars().all(|letter| {
                    let folded = match letter {
                        '\u{17f}' => 's',
                        '\u{212a}' => 'k',
                        other => other.to_ascii_lowercase(),
                    };
                    rest.next() == Some(folded)
                })
            })
        });
        folds && rest.next().is_none()
    }

    /// Appends its characters, decoded.
    pub(crate) fn decode_into(&self, out: &mut Vec<u8>) {
        unescape(self.raw, |piece| {
            out.extend_from_slice(piece);
            true
        });
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// A value in a text that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Its bytes: quotes, braces and brackets included.
    pub raw: &'a [u8],
    /// What it is.
    pub kind: Kind,
}

impl<'a> Value<'a> {
    /// The number, where it is a non-negative integer written as digits only, and fits.
    pub fn as_u64(&self) -> Option<u64> {
        (self.kind == Kind::Number).then(|| super::head::plain_u64(self.raw)).flatten()
    }

    /// The truth value.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        (self.kind == Kind::Bool).then_some(self.raw == b"true")
    }

    /// The string.
    pub(crate) fn as_text(&self) -> Option<Text<'a>> {
        if self.kind != Kind::String {
            return None;
        }
        let raw = self.raw.get(1..self.raw.len() - 1)?;
        Some(Text { raw, escaped: memchr(b'\\', raw).is_some() })
    }

    /// The members of an object, in order; none of anything else.
    pub(crate) fn members(&self) -> Members<'a> {
        Members { reader: self.opened(Kind::Object) }
    }

    /// The elements of an array, in order; none of anything else.
    pub(crate) fn elements(&self) -> Elements<'a> {
        Elements { reader: self.opened(Kind::Array) }
    }

    /// The first member of that name.
    pub(crate) fn member(&self, name: &str) -> Option<Value<'a>> {
        self.members().find(|(key, _)| key.is(name)).map(|(_, value)| value)
    }

    fn opened(&self, kind: Kind) -> Reader<'a> {
        let mut reader = Reader::new(if self.kind == kind { self.raw } else { b"" });
        // The first token is the opening brace or bracket; without one the iteration is empty.
        let _opening = reader.next_token();
        reader
    }
}

/// See [`Value::members`].
#[derive(Debug)]
pub(crate) struct Members<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Members<'a> {
    type Item = (Text<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.next_member()
    }
}

/// See [`Value::elements`].
#[derive(Debug)]
pub struct Elements<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.reader.next_value().ok()
    }
}

/// A step through a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// `{`
    ObjectStart,
    /// `[`
    ArrayStart,
    /// `}` or `]`
    End,
    /// A member's name; its value comes next.
    Key(Text<'a>),
    /// A string.
    String(Text<'a>),
    /// A number.
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    FirstElement,
    FirstKey,
    Key,
    CommaOrEnd,
    Nothing,
}

/// Reads a text token by token, up to the first error. Strings are not checked for UTF-8:
/// [`scan_object`] does that for the whole text beforehand.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    token_start: usize,
    depth: u32,
    /// One bit for each open level, the innermost lowest: set for objects.
    objects: u64,
    expect: Expect,
}

impl<'a> Reader<'a> {
    /// At the start of `text`.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, token_start: 0, depth: 0, objects: 0, expect: Expect::Value }
    }

    /// Starts inside the object that `text` is, where a member's name begins. What stands before is
    /// not checked: only for texts that matter to nobody but their sender.
    pub(crate) fn at_member(text: &'a [u8], at: usize) -> Self {
        Self { text, at, token_start: at, depth: 1, objects: 1, expect: Expect::Key }
    }

    /// Where in the text the last token begins.
    pub(crate) fn token_start(&self) -> usize {
        self.token_start
    }

    /// Levels that are open after the last token.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// The next token; `None` after the last one.
    pub(crate) fn next_token(&mut self) -> Result<Option<Token<'a>>, JsonError> {
        let mut byte = self.peek();
        if self.expect == Expect::CommaOrEnd && byte == Some(b',') {
            self.at += 1;
            self.expect = if self.objects & 1 == 1 { Expect::Key } else { Expect::Value };
            byte = self.peek();
        }
        self.token_start = self.at;
        let Some(byte) = byte else {
            let is_end = self.expect == Expect::Nothing;
            return if is_end { Ok(None) } else { Err(JsonError::Malformed) };
        };
        match (self.expect, byte) {
            (Expect::FirstKey | Expect::CommaOrEnd, b'}') if self.objects & 1 == 1 => self.close(),
            (Expect::FirstElement | Expect::CommaOrEnd, b']') if self.objects & 1 == 0 => {
                self.close()
            }
            (Expect::FirstKey | Expect::Key, b'"') => self.key(),
            (Expect::Value | Expect::FirstElement, _) => self.value(byte),
            _ => Err(JsonError::Malformed),
        }
        .map(Some)
    }

    /// The next value, whole.
    pub(crate) fn next_value(&mut self) -> Result<Value<'a>, JsonError> {
        let depth = self.depth;
        let kind = match self.next_token()? {
            Some(Token::ObjectStart) => Kind::Object,
            Some(Token::ArrayStart) => Kind::Array,
            Some(Token::String(_)) => Kind::String,
            Some(Token::Number) => Kind::Number,
            Some(Token::Bool) => Kind::Bool,
            Some(Token::Null) => Kind::Null,
            Some(Token::End | Token::Key(_)) | None => return Err(JsonError::Malformed),
        };
        let start = self.token_start;
        while self.depth > depth {
            self.next_token()?;
        }
        Ok(Value { raw: &self.text[start..self.at], kind })
    }

    /// The next member of the object that is open, whole; `None` at its end or at an error.
    pub(crate) fn next_member(&mut self) -> Option<(Text<'a>, Value<'a>)> {
        match self.next_token() {
            Ok(Some(Token::Key(key))) => Some((key, self.next_value().ok()?)),
            _ => None,
        }
    }

    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn open(&mut self, is_object: bool) -> Result<(), JsonError> {
        if self.depth == DEPTH_MAX {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(is_object);
        self.expect = if is_object { Expect::FirstKey } else { Expect::FirstElement };
        Ok(())
    }

    fn close(&mut self) -> Result<Token<'a>, JsonError> {
        if self.depth == 0 {
            return Err(JsonError::Malformed);
        }
        self.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
        self.after_value();
        Ok(Token::End)
    }

    fn after_value(&mut self) {
        self.expect = if self.depth == 0 { Expect::Nothing } else { Expect::CommaOrEnd };
    }

    fn key(&mut self) -> Result<Token<'a>, JsonError> {
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(JsonError::Malformed);
        }
        self.at += 1;
        self.expect = Expect::Value;
        Ok(Token::Key(key))
    }

    fn value(&mut self, byte: u8) -> Result<Token<'a>, JsonError> {
        let token = match byte {
            b'{' => return self.open(true).map(|()| Token::ObjectStart),
            b'[' => return self.open(false).map(|()| Token::ArrayStart),
            b'"' => Token::String(self.string()?),
            b't' => self.literal(b"true", Token::Bool)?,
            b'f' => self.literal(b"false", Token::Bool)?,
            b'n' => self.literal(b"null", Token::Null)?,
            _ => self.number()?,
        };
        self.after_value();
        Ok(token)
    }

    fn literal(&mut self, word: &[u8], token: Token<'a>) -> Result<Token<'a>, JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(JsonError::Malformed);
        }
        self.at += word.len();
        Ok(token)
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
    fn number(&mut self) -> Result<Token<'a>, JsonError> {
        self.skip_if(|byte| byte == b'-');
        let leads_with_zero = self.text.get(self.at) == Some(&b'0');
        let digits = self.digits()?;
        if leads_with_zero && digits > 1 {
            return Err(JsonError::Malformed);
        }
        if self.skip_if(|byte| byte == b'.') {
            self.digits()?;
        }
        if self.skip_if(|byte| byte == b'e' || byte == b'E') {
            self.skip_if(|byte| byte == b'+' || byte == b'-');
            self.digits()?;
        }
        Ok(Token::Number)
    }

    fn skip_if(&mut self, is_wanted: impl Fn(u8) -> bool) -> bool {
        let found = self.text.get(self.at).is_some_and(|byte| is_wanted(*byte));
        self.at += usize::from(found);
        found
    }

    fn digits(&mut self) -> Result<usize, JsonError> {
        let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        if digits == 0 { Err(JsonError::Malformed) } else { Ok(digits) }
    }

    /// Reads a string, from its opening quote past the closing one.
    fn string(&mut self) -> Result<Text<'a>, JsonError> {
        let start = self.at + 1;
        let plain_end = start + plain_bytes(self.text.get(start..).unwrap_or_default());
        let (end, escaped) = match self.text.get(plain_end) {
            Some(b'"') => (plain_end, false),
            _ => string_end(self.text, plain_end).ok_or(JsonError::Malformed)?,
        };
        self.at = end + 1;
        Ok(Text { raw: &self.text[start..end], escaped })
    }
}

/// How many bytes at the start of `text` stand for themselves in a string. Looks at 32 at the most:
/// most names and many values are shorter, and `string_end` is faster on longer ones.
fn plain_bytes(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Sets the top bit of each byte that is zero; bytes above such a one may be wrong, and don't
    // matter (Bit Twiddling Hacks, "Determine if a word has a zero byte").
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut plain = 0;
    for bytes in text.as_chunks::<8>().0.iter().take(4) {
        let word = u64::from_le_bytes(*bytes);
        let control = zeros(word & (ONES * 0xe0));
        let special = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * 0x5c));
        let found = (control | special) & (ONES << 7);
        if found != 0 {
            return plain + found.trailing_zeros() as usize / 8;
        }
        plain += 8;
    }
    plain
}

/// Validates the whole text, which must be an object, and reports its members in order. Each is
/// reported before what follows it is validated: after an error none of them counts.
pub(crate) fn scan_object<'a>(
    text: &'a [u8],
    mut on_member: impl FnMut(Text<'a>, Value<'a>),
) -> Result<(), JsonError> {
    if std::str::from_utf8(text).is_err() {
        return Err(JsonError::Malformed);
    }
    let mut reader = Reader::new(text);
    if reader.next_token()? != Some(Token::ObjectStart) {
        return Err(JsonError::NotAnObject);
    }
    while let Some(token) = reader.next_token()? {
        if let Token::Key(key) = token {
            on_member(key, reader.next_value()?);
        }
    }
    Ok(())
}

/// The members of the object that `text` is, up to the first error: for texts that were validated,
/// or that nothing depends on.
pub(crate) fn members(text: &[u8]) -> Members<'_> {
    Value { raw: text, kind: Kind::Object }.members()
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits
        .get(..4)?
        .iter()
        .try_fold(0, |number, byte| Some(number << 4 | char::from(*byte).to_digit(16)?))
}

/// Gives `take` the decoded characters piece by piece; stops and returns false when it does.
fn unescape(mut raw: &[u8], mut take: impl FnMut(&[u8]) -> bool) -> bool {
    while !raw.is_empty() {
        let plain = memchr(b'\\', raw).unwrap_or(raw.len());
        if plain > 0 && !take(&raw[..plain]) {
            return false;
        }
        raw = &raw[plain..];
        let Some(escape) = raw.get(1) else { return true };
        let (decoded, bytes) = match escape {
            b'u' => unescape_unicode(raw),
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            itself => (char::from(*itself), 2),
        };
        if !take(decoded.encode_utf8(&mut [0; 4]).as_bytes()) {
            return false;
        }
        raw = raw.get(bytes..).unwrap_or_default();
    }
    true
}

/// The character that `\uXXXX`, or a pair, at the start of `raw` stands for, and its bytes there.
fn unescape_unicode(raw: &[u8]) -> (char, usize) {
    let unit = raw.get(2..).and_then(hex4).unwrap_or(0xfffd);
    if let Some(single) = char::from_u32(unit) {
        return (single, 6);
    }
    let low = raw.get(6..).and_then(|rest| rest.strip_prefix(b"\\u")).and_then(hex4);
    match low {
        Some(low @ 0xdc00..=0xdfff) if unit < 0xdc00 => {
            let pair = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            (char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
        }
        _ => (char::REPLACEMENT_CHARACTER, 6),
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;

//! A cursor over JSON text: tokens one at a time, no tree, depth counted instead of recursed.

use std::borrow::Cow;
use std::ops::Range;

/// Deepest nesting of arrays and objects (protocols.md §3); one bit each in [`Reader::skip_value`].
pub(super) const MAX_DEPTH: u32 = 64;

/// Where a document stops being JSON, or stops being what was expected there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {problem}")]
pub(crate) struct JsonError {
    /// Offset of the offending byte.
    pub(super) at: usize,
    /// What is wrong with it.
    pub(super) problem: Problem,
}

/// What can be wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("unexpected end")]
    End,
    #[error("expected {0}")]
    Expected(&'static str),
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("invalid UTF-8")]
    Utf8,
    #[error("control character in a string")]
    ControlCharacter,
    #[error("invalid escape in a string")]
    Escape,
    #[error("unexpected text after the document")]
    Trailing,
}

/// A number or constant as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar<'a> {
    /// Digits, sign, fraction, exponent: valid by JSON's grammar.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
    /// `NaN`, `Infinity`, `-Infinity`.
    NonFinite(f64),
}

/// A position in a document.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte; a UTF-8 byte order mark is passed over.
    pub(super) fn new(document: &'a [u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(document).map_err(|error| JsonError {
            at: error.valid_up_to(),
            problem: Problem::Utf8,
        })?;
        let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Ok(Self { text, at, depth: 0 })
    }

    /// A reader of the same document that stands at `at`, as deep as this one.
    pub(super) fn resumed(&self, at: usize) -> Self {
        Self { at, ..self.clone() }
    }

    /// Offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    #[cfg(test)]
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// Bytes not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// Moves on by `bytes`, which [`rest`](Self::rest) has shown to end a token.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// An error at the next byte: the document ends, or something else was expected.
    #[cold]
    pub(super) fn expected(&self, what: &'static str) -> JsonError {
        let problem = if self.rest().is_empty() {
            Problem::End
        } else {
            Problem::Expected(what)
        };
        self.error(problem)
    }

    #[cold]
    fn error(&self, problem: Problem) -> JsonError {
        JsonError { at: self.at, problem }
    }

    /// Skips white space and shows the next byte.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn require(&mut self, byte: u8, what: &'static str) -> Result<(), JsonError> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.expected(what))
        }
    }

    /// Takes `null` if it is next.
    pub(super) fn take_null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.take_word("null")
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.text[self.at..].starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Opens an array or object.
    pub(super) fn open(&mut self, byte: u8, what: &'static str) -> Result<(), JsonError> {
        self.require(byte, what)?;
        if self.depth == MAX_DEPTH {
            self.at -= 1;
            return Err(self.error(Problem::TooDeep));
        }
        self.depth += 1;
        Ok(())
    }

    /// Notes that an array or object was closed.
    pub(super) fn closed(&mut self) {
        self.depth -= 1;
    }

    /// Inside an object: the next key, or `None` once it is closed.
    ///
    /// `first` is true before the first key and is cleared.
    pub(super) fn next_key(&mut self, first: &mut bool) -> Result<Option<Cow<'a, str>>, JsonError> {
        if !self.another(b'}', "`,` or `}`", first)? {
            return Ok(None);
        }
        let key = self.string()?;
        self.require(b':', "`:`")?;
        Ok(Some(key))
    }

    /// Inside an array: whether another element follows; `false` once it is closed.
    pub(super) fn next_element(&mut self, first: &mut bool) -> Result<bool, JsonError> {
        self.another(b']', "`,` or `]`", first)
    }

    fn another(&mut self, close: u8, what: &'static str, first: &mut bool) -> Result<bool, JsonError> {
        let was_first = std::mem::replace(first, false);
        if self.take(close) {
            self.closed();
            return Ok(false);
        }
        if !was_first {
            self.require(b',', what)?;
        }
        Ok(true)
    }

    /// A string; borrowed if nothing in it is escaped.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let (raw, escaped) = self.raw_string()?;
        if !escaped {
            return Ok(Cow::Borrowed(raw));
        }
        let start = self.at - raw.len() - 1;
        let mut out = String::with_capacity(raw.len());
        unescape(raw, &mut out).map_err(|at| JsonError {
            at: start + at,
            problem: Problem::Escape,
        })?;
        Ok(Cow::Owned(out))
    }

    /// What stands between the quotes, and whether it holds escapes; control characters are refused.
    fn raw_string(&mut self) -> Result<(&'a str, bool), JsonError> {
        self.require(b'"', "a string")?;
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut at = start;
        let mut escaped = false;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(0..0x20) => {
                    self.at = at;
                    return Err(self.error(Problem::ControlCharacter));
                }
                Some(_) => at += 1,
                None => {
                    self.at = bytes.len();
                    return Err(self.error(Problem::End));
                }
            }
        }
        self.at = at + 1;
        // After `\` one byte is passed over unseen; if it opens a multi-byte character, the next bytes are none of
        // the ASCII bytes above, so both ends are character boundaries.
        Ok((&self.text[start..at], escaped))
    }

    /// A number, `true`, `false`, or one of the bare non-finite tokens.
    pub(super) fn scalar(&mut self) -> Result<Scalar<'a>, JsonError> {
        const WHAT: &str = "a number, string or constant";
        match self.peek() {
            Some(b't') if self.take_word("true") => Ok(Scalar::Bool(true)),
            Some(b'f') if self.take_word("false") => Ok(Scalar::Bool(false)),
            Some(b'N') if self.take_word("NaN") => Ok(Scalar::NonFinite(f64::NAN)),
            Some(b'I') if self.take_word("Infinity") => Ok(Scalar::NonFinite(f64::INFINITY)),
            Some(b'-') if self.take_word("-Infinity") => Ok(Scalar::NonFinite(f64::NEG_INFINITY)),
            Some(b'-' | b'0'..=b'9') => {
                let Some(len) = number_len(self.rest()) else {
                    return Err(self.expected("a number"));
                };
                let number = &self.text[self.at..self.at + len];
                self.at += len;
                Ok(Scalar::Number(number))
            }
            _ => Err(self.expected(WHAT)),
        }
    }

    /// Reads any value, checks that it is JSON, and says where it stands.
    ///
    /// Iterative: what is open is one bit per level.
    pub(super) fn skip_value(&mut self) -> Result<Range<usize>, JsonError> {
        self.peek();
        let start = self.at;
        let outer = self.depth;
        let mut objects = 0u64; // Bit k: the array or object opened at depth k is an object.
        loop {
            // A value starts here.
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    self.open(open, "a value")?;
                    let bit = 1u64 << (self.depth - 1);
                    objects = if open == b'{' {
                        objects | bit
                    } else {
                        objects & !bit
                    };
                    let close = if open == b'{' { b'}' } else { b']' };
                    if !self.take(close) {
                        if open == b'{' {
                            self.skip_key()?;
                        }
                        continue;
                    }
                    self.closed();
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'n') if self.take_word("null") => {}
                _ => {
                    self.scalar()?;
                }
            }
            // A value ended here: close what ends with it, or go on to the next.
            loop {
                if self.depth == outer {
                    return Ok(start..self.at);
                }
                let in_object = objects & (1u64 << (self.depth - 1)) != 0;
                if self.take(b',') {
                    if in_object {
                        self.skip_key()?;
                    }
                    break;
                }
                let (close, what) = if in_object {
                    (b'}', "`,` or `}`")
                } else {
                    (b']', "`,` or `]`")
                };
                self.require(close, what)?;
                self.closed();
            }
        }
    }

    fn skip_key(&mut self) -> Result<(), JsonError> {
        self.string()?;
        self.require(b':', "`:`")
    }

    /// Checks that nothing but white space is left.
    pub(super) fn finish(mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error(Problem::Trailing)),
        }
    }
}

/// Length of the number that `bytes` starts with, by JSON's grammar.
pub(super) fn number_len(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        bytes[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return None;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    Some(at)
}

/// Appends `raw` with its escapes resolved; the error is the offset of a bad escape.
fn unescape(raw: &str, out: &mut String) -> Result<(), usize> {
    let mut rest = raw;
    loop {
        let at = raw.len() - rest.len();
        let Some((plain, escape)) = rest.split_once('\\') else {
            out.push_str(rest);
            return Ok(());
        };
        out.push_str(plain);
        let bad = at + plain.len();
        let kind = escape.bytes().next().ok_or(bad)?;
        let (character, len) = match kind {
            b'"' => ('"', 1),
            b'\\' => ('\\', 1),
            b'/' => ('/', 1),
            b'b' => ('\u{8}', 1),
            b'f' => ('\u{c}', 1),
            b'n' => ('\n', 1),
            b'r' => ('\r', 1),
            b't' => ('\t', 1),
            b'u' => unicode_escape(escape.as_bytes()).ok_or(bad)?,
            _ => return Err(bad),
        };
        out.push(character);
        rest = &escape[len..];
    }
}

/// Reads `uXXXX`, or `uXXXX\uXXXX` for a surrogate pair; a lone surrogate is no character.
fn unicode_escape(bytes: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| -> Option<u32> {
        let digits = bytes.get(at..at + 4)?;
        digits.iter().try_fold(0, |value, &digit| {
            Some(value * 16 + char::from(digit).to_digit(16)?)
        })
    };
    let first = unit(1)?;
    if !(0xD800..0xE000).contains(&first) {
        return Some((char::from_u32(first)?, 5));
    }
    let second = unit(7).filter(|_| bytes[5..].starts_with(b"\\u"))?;
    if first >= 0xDC00 || !(0xDC00..0xE000).contains(&second) {
        return None;
    }
    let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    Some((char::from_u32(code)?, 11))
}

#[cfg(test)]
mod tests;

//! Words of the text format: names, numbers, strings, punctuation, each with its place.

use std::iter::Peekable;
use std::str::Chars;

use super::Position;
use crate::error::ConfigError;

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A field name, an enum value, `true`, `inf`, …
    Name(String),
    /// Anything that begins with a digit or a dot, as written.
    Number(String),
    /// A quoted literal, escapes resolved.
    Text(Vec<u8>),
    /// One of `{ } < > [ ] : , ; -`.
    Mark(char),
    /// The end of the text.
    End,
}

/// Cuts the text into tokens.
pub(super) struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    position: Position,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer {
            chars: text.chars().peekable(),
            position: Position::START,
        }
    }

    /// The next token and where it begins.
    pub(super) fn next(&mut self) -> Result<(Position, Token), ConfigError> {
        self.skip_blank();
        let at = self.position;
        let token = match self.chars.peek().copied() {
            None => Token::End,
            Some('"' | '\'') => self.quoted()?,
            Some(c) if c.is_ascii_digit() || c == '.' => Token::Number(self.number()),
            Some(c) if is_name(c) => Token::Name(self.take_while(is_name)),
            Some(c @ ('{' | '}' | '<' | '>' | '[' | ']' | ':' | ',' | ';' | '-')) => {
                self.bump();
                Token::Mark(c)
            }
            Some(c) => return Err(ConfigError::text(at, format!("unexpected character {c:?}"))),
        };
        Ok((at, token))
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        self.position.advance(c);
        Some(c)
    }

    fn skip_blank(&mut self) {
        while let Some(&c) = self.chars.peek() {
            if c == '#' {
                while self.chars.peek().is_some_and(|&c| c != '\n') {
                    self.bump();
                }
            } else if c.is_whitespace() {
                self.bump();
            } else {
                return;
            }
        }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some(&c) = self.chars.peek() {
            if !wanted(c) {
                break;
            }
            word.push(c);
            self.bump();
        }
        word
    }

    /// Digits, letters and dots, and a sign right after an exponent's `e`.
    fn number(&mut self) -> String {
        let mut word = String::new();
        while let Some(&c) = self.chars.peek() {
            let hexadecimal = word.starts_with("0x") || word.starts_with("0X");
            let exponent_sign = matches!(c, '+' | '-') && !hexadecimal && word.ends_with(['e', 'E']);
            if !(is_name(c) || c == '.' || exponent_sign) {
                break;
            }
            word.push(c);
            self.bump();
        }
        word
    }

    fn quoted(&mut self) -> Result<Token, ConfigError> {
        let start = self.position;
        let quote = self.bump();
        let mut bytes = Vec::new();
        loop {
            let at = self.position;
            match self.bump() {
                None | Some('\n') => {
                    return Err(ConfigError::text(start, "the string does not end on its line"));
                }
                c if c == quote => return Ok(Token::Text(bytes)),
                Some('\\') => self.escape(at, &mut bytes)?,
                Some(c) => push(c, &mut bytes),
            }
        }
    }

    fn escape(&mut self, at: Position, bytes: &mut Vec<u8>) -> Result<(), ConfigError> {
        let wrong = |what: &str| Err(ConfigError::text(at, format!("{what} in a string")));
        match self.bump() {
            Some('n') => bytes.push(b'\n'),
            Some('t') => bytes.push(b'\t'),
            Some('r') => bytes.push(b'\r'),
            Some('a') => bytes.push(7),
            Some('b') => bytes.push(8),
            Some('f') => bytes.push(12),
            Some('v') => bytes.push(11),
            Some(c @ ('\\' | '"' | '\'' | '?')) => push(c, bytes),
            Some(c) if c.is_digit(8) => {
                let value = self.digits(8, 3, Some(c));
                match u8::try_from(value) {
                    Ok(byte) => bytes.push(byte),
                    Err(_) => return wrong("octal escape above \\377"),
                }
            }
            Some('x' | 'X') if self.chars.peek().is_some_and(char::is_ascii_hexdigit) => {
                let value = self.digits(16, 2, None);
                bytes.push(u8::try_from(value).expect("two hexadecimal digits fit a byte"));
            }
            Some('u') => match self.code_point(4) {
                Some(c) => push(c, bytes),
                None => return wrong("\\u needs four hexadecimal digits that name a character"),
            },
            Some('U') => match self.code_point(8) {
                Some(c) => push(c, bytes),
                None => return wrong("\\U needs eight hexadecimal digits that name a character"),
            },
            _ => return wrong("unknown escape"),
        }
        Ok(())
    }

    fn digits(&mut self, radix: u32, most: usize, first: Option<char>) -> u32 {
        let mut value = first.and_then(|c| c.to_digit(radix)).unwrap_or(0);
        for _ in usize::from(first.is_some())..most {
            let Some(digit) = self.chars.peek().and_then(|c| c.to_digit(radix)) else {
                break;
            };
            value = value.wrapping_mul(radix).wrapping_add(digit);
            self.bump();
        }
        value
    }

    /// Exactly `count` hexadecimal digits; a high surrogate takes its `\u` low half with it.
    fn code_point(&mut self, count: usize) -> Option<char> {
        let value = self.exact_hex(count)?;
        if !(0xD800..0xDC00).contains(&value) {
            return char::from_u32(value);
        }
        if self.bump() != Some('\\') || self.bump() != Some('u') {
            return None;
        }
        let low = self.exact_hex(4)?;
        let low = low.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
        char::from_u32(0x10000 + ((value - 0xD800) << 10) + low)
    }

    fn exact_hex(&mut self, count: usize) -> Option<u32> {
        let mut value = 0u32;
        for _ in 0..count {
            let digit = self.chars.peek()?.to_digit(16)?;
            value = value.checked_mul(16)?.checked_add(digit)?;
            self.bump();
        }
        Some(value)
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn push(c: char, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

//! Reads Triton's `config.pbtxt` (protocols.md §10.3) into a [`RawConfig`].

mod lexer;
mod parser;
mod typed;

use std::fmt;

use super::raw::RawConfig;
use super::schema::MODEL_CONFIG;
use crate::error::ConfigError;

/// Reads the bytes of a file.
///
/// Errors: what is wrong with line and column; an unknown field with the nearest known name.
pub fn read(bytes: &[u8]) -> Result<RawConfig, ConfigError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let (good, _) = bytes.split_at(error.valid_up_to());
            let position = Position::after(&String::from_utf8_lossy(good));
            return Err(ConfigError::text(position, "the file is not UTF-8"));
        }
    };
    let tree = parser::parse(text)?;
    let mut warnings = tree.warnings;
    warnings.sort();
    Ok(RawConfig {
        fields: typed::message(&MODEL_CONFIG, tree.entries)?,
        warnings,
        ..RawConfig::default()
    })
}

/// A place in the text, counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    line: usize,
    column: usize,
}

impl Position {
    const START: Position = Position { line: 1, column: 1 };

    fn after(text: &str) -> Position {
        let mut position = Position::START;
        text.chars().for_each(|c| position.advance(c));
        position
    }

    fn advance(&mut self, c: char) {
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests;

//! RFC 8785, the JSON Canonicalization Scheme: one spelling per value, so that values can be hashed and signed.

use serde_json::{Map, Value};

use super::number;

/// How deep arrays and objects may stand in each other; serde_json reads no deeper.
const MAX_DEPTH: usize = 127;

/// Why a value has no canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// An integer that no double holds (RFC 8785 §3.2.2.3, RFC 7493 §2.2).
    #[error("the integer {0} is not exact as a double; write it as a string")]
    Integer(String),
    /// Infinite, or not a number.
    #[error("a number is not finite")]
    NotFinite,
    /// Too many levels.
    #[error("more than {MAX_DEPTH} arrays and objects stand in each other")]
    Depth,
}

/// The canonical spelling of `value`, in UTF-8.
///
/// Errors: [`NotCanonical`].
pub fn canonical(value: &Value) -> Result<String, NotCanonical> {
    let mut out = String::new();
    write(value, 0, &mut out)?;
    Ok(out)
}

/// The canonical spelling of a string.
pub fn text(text: &str) -> String {
    let mut out = String::new();
    string(text, &mut out);
    out
}

fn write(value: &Value, depth: usize, out: &mut String) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => number::write(number, out)?,
        Value::String(text) => string(text, out),
        Value::Array(items) => array(items, deeper(depth)?, out)?,
        Value::Object(members) => object(members, deeper(depth)?, out)?,
    }
    Ok(())
}

fn deeper(depth: usize) -> Result<usize, NotCanonical> {
    (depth < MAX_DEPTH)
        .then_some(depth + 1)
        .ok_or(NotCanonical::Depth)
}

fn array(items: &[Value], depth: usize, out: &mut String) -> Result<(), NotCanonical> {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, depth, out)?;
    }
    out.push(']');
    Ok(())
}

/// Names are sorted by their UTF-16 code units (RFC 8785 §3.2.3), which differs from UTF-8 above U+FFFF.
fn object(members: &Map<String, Value>, depth: usize, out: &mut String) -> Result<(), NotCanonical> {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
    out.push('{');
    for (index, (name, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        string(name, out);
        out.push(':');
        write(value, depth, out)?;
    }
    out.push('}');
    Ok(())
}

/// RFC 8785 §3.2.2.2.
fn string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests;

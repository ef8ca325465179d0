//! What the right answer to a row is.

use serde_json::Value;

/// The right answer to one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Label {
    /// A class by its number, or a count; yes and no are 1 and 0.
    Integer(i64),
    /// A number.
    Number(f64),
    /// A class by its name.
    Text(String),
}

impl Label {
    /// Reads a label in JSON; `None` for what is neither a number, a text nor a yes or no.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(yes) => Some(Label::Integer(i64::from(*yes))),
            Value::String(text) => Some(Label::Text(text.clone())),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => Some(Label::Integer(integer)),
                None => number.as_f64().map(Label::Number),
            },
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// As a number; `None` for a text.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Label::Integer(integer) => Some(*integer as f64),
            Label::Number(number) => Some(*number),
            Label::Text(_) => None,
        }
    }
}

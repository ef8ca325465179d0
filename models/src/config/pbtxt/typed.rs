//! Gives the fields of a parsed text their meaning, by the schema.

use serde_json::{Map, Number, Value};

use super::Position;
use super::parser::{Entry, Node, Scalar};
use crate::config::json::exclusive_sibling;
use crate::config::schema::{Field, Kind, Label, Message};
use crate::error::ConfigError;

/// The canonical form of a message's fields.
pub(super) fn message(
    schema: &'static Message,
    entries: Vec<Entry>,
) -> Result<Map<String, Value>, ConfigError> {
    let mut fields = Map::new();
    for Entry { at, name, node } in entries {
        let Some(field) = schema.field(&name) else {
            return Err(ConfigError::UnknownField {
                place: at.to_string(),
                nearest: schema.nearest(&name).map(str::to_owned),
                name: name.chars().take(80).collect(),
                owner: Some(schema.name.to_owned()),
            });
        };
        if let Some(other) = exclusive_sibling(schema, field, &fields) {
            return Err(ConfigError::text(
                at,
                format!("`{name}` excludes `{other}`; keep one of them"),
            ));
        }
        match field.label {
            Label::One => {
                if fields.contains_key(field.name) {
                    return Err(ConfigError::text(at, format!("`{name}` is given twice")));
                }
                fields.insert(name, single(field, node)?);
            }
            Label::Many => {
                let items = fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = items else { continue };
                for node in elements(node) {
                    items.push(single(field, node)?);
                }
            }
            Label::Map => {
                let map = fields.entry(name).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(map) = map else { continue };
                for node in elements(node) {
                    let (key, value) = map_entry(field, node)?;
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(fields)
}

fn elements(node: Node) -> Vec<Node> {
    match node {
        Node::List(_, nodes) => nodes,
        node => vec![node],
    }
}

/// `{ key: … value: … }`; an absent value is the default one.
fn map_entry(field: &Field, node: Node) -> Result<(String, Value), ConfigError> {
    let Node::Message(at, entries) = node else {
        return Err(ConfigError::text(
            node.at(),
            format!("`{}`: expected `{{ key: … value: … }}`", field.name),
        ));
    };
    let (mut key, mut value) = (None, None);
    for Entry { at, name, node } in entries {
        let twice = match name.as_str() {
            "key" => key.replace(map_key(node)?).is_some(),
            "value" => value.replace(single(field, node)?).is_some(),
            _ => {
                return Err(ConfigError::UnknownField {
                    place: at.to_string(),
                    nearest: crate::config::nearest(&name, ["key", "value"]).map(str::to_owned),
                    name,
                    owner: Some(format!("an entry of `{}`", field.name)),
                });
            }
        };
        if twice {
            return Err(ConfigError::text(at, format!("`{name}` is given twice")));
        }
    }
    let key = key.ok_or_else(|| ConfigError::text(at, format!("an entry of `{}` has no key", field.name)))?;
    let absent = || match field.kind {
        Kind::Message(_) => Value::Object(Map::new()),
        _ => Value::from(""),
    };
    Ok((key, value.unwrap_or_else(absent)))
}

fn map_key(node: Node) -> Result<String, ConfigError> {
    match node {
        Node::Scalar(at, Scalar::Text(bytes)) => text(at, bytes),
        Node::Scalar(_, Scalar::Number(number)) => {
            Ok(parse_integer(&number).map_or(number, |value| value.to_string()))
        }
        node => Err(ConfigError::text(node.at(), "a key is a string or a number")),
    }
}

fn single(field: &Field, node: Node) -> Result<Value, ConfigError> {
    let at = node.at();
    let wrong = |got: String| {
        ConfigError::text(
            at,
            format!("`{}`: expected {}, got {got}", field.name, field.kind.describe()),
        )
    };
    match (field.kind, node) {
        (Kind::Free, node) => free(node),
        (Kind::Message(schema), Node::Message(_, entries)) => Ok(Value::Object(message(schema, entries)?)),
        (Kind::Text, Node::Scalar(at, Scalar::Text(bytes))) => text(at, bytes).map(Value::from),
        (kind, Node::Scalar(_, Scalar::Number(number))) => {
            number_value(kind, &number).ok_or_else(|| wrong(number))
        }
        (Kind::Bool, Node::Scalar(_, Scalar::Name(name))) => {
            boolean(&name).map(Value::from).ok_or_else(|| wrong(name))
        }
        (Kind::Enum(values), Node::Scalar(_, Scalar::Name(name))) => {
            if values.iter().any(|(known, _)| *known == name) {
                return Ok(Value::from(name));
            }
            let hint = crate::config::nearest(&name, values.iter().map(|(known, _)| *known));
            let hint = hint
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            Err(wrong(format!("`{name}`{hint}")))
        }
        (_, Node::Scalar(_, Scalar::Name(name))) => Err(wrong(format!("`{name}`"))),
        (_, Node::Scalar(_, Scalar::Text(_))) => Err(wrong("a string".to_owned())),
        (_, Node::Message(..)) => Err(wrong("a message".to_owned())),
        (_, Node::List(..)) => Err(wrong("a list".to_owned())),
    }
}

fn text(at: Position, bytes: Vec<u8>) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|_| ConfigError::text(at, "the string is not UTF-8"))
}

fn boolean(name: &str) -> Option<bool> {
    match name {
        "true" | "True" | "t" => Some(true),
        "false" | "False" | "f" => Some(false),
        _ => None,
    }
}

fn number_value(kind: Kind, number: &str) -> Option<Value> {
    match kind {
        Kind::Integer(_) | Kind::Enum(_) => parse_integer(number).and_then(|value| kind.integer(value)),
        Kind::Bool => match parse_integer(number)? {
            0 => Some(Value::Bool(false)),
            1 => Some(Value::Bool(true)),
            _ => None,
        },
        Kind::Text | Kind::Message(_) | Kind::Free => None,
    }
}

fn float(number: &str) -> Option<Value> {
    let digits = number.strip_suffix(['f', 'F']).unwrap_or(number);
    let value: f64 = digits.parse().ok()?;
    Number::from_f64(value).map(Value::Number)
}

/// Decimal, `0x…` or octal `0…`, with an optional `-`.
fn parse_integer(number: &str) -> Option<i128> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -value } else { value })
}

/// A field without a schema, as it stands: names that repeat become lists.
fn free(node: Node) -> Result<Value, ConfigError> {
    Ok(match node {
        Node::Scalar(at, Scalar::Text(bytes)) => Value::from(text(at, bytes)?),
        Node::Scalar(_, Scalar::Name(name)) => boolean(&name).map_or_else(|| Value::from(name), Value::from),
        Node::Scalar(_, Scalar::Number(number)) => {
            let integer = parse_integer(&number).and_then(|value| i64::try_from(value).ok());
            integer
                .map(Value::from)
                .or_else(|| float(&number))
                .unwrap_or_else(|| Value::from(number))
        }
        Node::List(_, nodes) => nodes.into_iter().map(free).collect::<Result<_, _>>()?,
        Node::Message(_, entries) => {
            let mut fields = Map::new();
            for Entry { name, node, .. } in entries {
                let value = free(node)?;
                match (fields.get_mut(&name), value) {
                    (None, value) => {
                        fields.insert(name, value);
                    }
                    (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
                    (Some(Value::Array(items)), value) => items.push(value),
                    (Some(before), value) => {
                        let first = std::mem::take(before);
                        *before = Value::Array(vec![first, value]);
                    }
                }
            }
            Value::Object(fields)
        }
    })
}

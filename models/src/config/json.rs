//! Reads ModelConfig as JSON (the `config` parameter of a load call) into a [`RawConfig`].
//!
//! Keys in snake_case or lowerCamelCase, 64-bit integers as numbers or strings, enums by name or number.

use serde_json::{Map, Value};

use super::finding;
use super::raw::RawConfig;
use super::schema::{Field, Kind, Label, MODEL_CONFIG, Message};
use crate::error::ConfigError;

/// Reads JSON text.
///
/// Errors: broken JSON with its line and column; an unknown key with the nearest known one; a value of the wrong kind.
pub fn read(text: &str) -> Result<RawConfig, ConfigError> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        ConfigError::text(
            format!("line {}, column {}", error.line(), error.column()),
            error.to_string(),
        )
    })?;
    let Value::Object(object) = value else {
        return Err(ConfigError::text("line 1, column 1", "expected a JSON object"));
    };
    let mut fields = message(&MODEL_CONFIG, object, "")?;
    finding::take_out(&mut fields);
    Ok(RawConfig {
        fields,
        ..RawConfig::default()
    })
}

fn message(
    schema: &'static Message,
    object: Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>, ConfigError> {
    let mut fields = Map::new();
    for (key, value) in object {
        let Some(field) = schema
            .fields
            .iter()
            .find(|field| field.name == key || camel(field.name) == key)
        else {
            return Err(ConfigError::UnknownField {
                place: if path.is_empty() {
                    "top level".to_owned()
                } else {
                    format!("`{path}`")
                },
                nearest: schema.nearest(&key).map(str::to_owned),
                name: clip(&key),
                owner: Some(schema.name.to_owned()),
            });
        };
        if value.is_null() {
            continue;
        }
        let path = if path.is_empty() {
            field.name.to_owned()
        } else {
            format!("{path}.{}", field.name)
        };
        if fields.contains_key(field.name) {
            return Err(ConfigError::text(format!("`{path}`"), "given twice"));
        }
        if let Some(other) = exclusive_sibling(schema, field, &fields) {
            return Err(ConfigError::text(
                format!("`{path}`"),
                format!("excludes `{other}`; keep one of them"),
            ));
        }
        fields.insert(field.name.to_owned(), labelled(field, value, &path)?);
    }
    Ok(fields)
}

/// Another member of the field's group that is already there.
pub(super) fn exclusive_sibling<'a>(
    schema: &'a Message,
    field: &Field,
    present: &Map<String, Value>,
) -> Option<&'a str> {
    let group = field.group?;
    schema
        .fields
        .iter()
        .find(|other| {
            other.group == Some(group) && other.name != field.name && present.contains_key(other.name)
        })
        .map(|other| other.name)
}

fn labelled(field: &Field, value: Value, path: &str) -> Result<Value, ConfigError> {
    match (field.label, value) {
        (Label::One, value) => single(field.kind, value, path),
        (Label::Many, Value::Array(items)) => items
            .into_iter()
            .enumerate()
            .map(|(k, item)| single(field.kind, item, &format!("{path}[{k}]")))
            .collect(),
        (Label::Map, Value::Object(entries)) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let value = single(field.kind, value, &format!("{path}.{}", clip(&key)))?;
                map.insert(key, value);
            }
            Ok(Value::Object(map))
        }
        (Label::Many, _) => Err(ConfigError::text(format!("`{path}`"), "expected a list")),
        (Label::Map, _) => Err(ConfigError::text(format!("`{path}`"), "expected an object")),
    }
}

fn single(kind: Kind, value: Value, path: &str) -> Result<Value, ConfigError> {
    let wrong = |got: &Value| {
        ConfigError::text(
            format!("`{path}`"),
            format!("expected {}, got {}", kind.describe(), clip(&got.to_string())),
        )
    };
    match (kind, value) {
        (Kind::Free, value) => Ok(value),
        (Kind::Message(schema), Value::Object(object)) => Ok(Value::Object(message(schema, object, path)?)),
        (Kind::Text, value @ Value::String(_)) | (Kind::Bool, value @ Value::Bool(_)) => Ok(value),
        (Kind::Enum(names), Value::String(name)) if names.iter().any(|(known, _)| *known == name) => {
            Ok(Value::String(name))
        }
        (Kind::Integer(_) | Kind::Enum(_), value @ Value::Number(_)) => integer(&value)
            .and_then(|number| kind.integer(number))
            .ok_or_else(|| wrong(&value)),
        (Kind::Integer(_), Value::String(text)) => text
            .parse()
            .ok()
            .and_then(|number| kind.integer(number))
            .ok_or_else(|| wrong(&Value::String(text))),
        (_, value) => Err(wrong(&value)),
    }
}

fn integer(value: &Value) -> Option<i128> {
    value
        .as_i64()
        .map(i128::from)
        .or_else(|| value.as_u64().map(i128::from))
}

/// `max_batch_size` → `maxBatchSize`.
fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                camel.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => camel.push(c),
        }
    }
    camel
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_and_both_forms_of_integers_and_enums_are_the_same() {
        let snake = r#"{"max_batch_size": 8, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}],
            "dynamic_batching": {"max_queue_delay_microseconds": 100}, "version_policy": {"specific": {"versions": [1, 2]}}}"#;
        let camel = r#"{"maxBatchSize": "8", "input": [{"name": "x", "dataType": 11, "dims": ["-1", 3]}],
            "dynamicBatching": {"maxQueueDelayMicroseconds": "100"}, "versionPolicy": {"specific": {"versions": ["1", "2"]}},
            "output": null}"#;
        assert_eq!(read(snake).unwrap(), read(camel).unwrap());
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(r#"{"max_batch_sise": 1}"#, "did you mean `max_batch_size`?");
        check(
            r#"{"input": [{"dims": [1, "x"]}]}"#,
            "`input[0].dims[1]`: expected an integer (int64)",
        );
        check(r#"{"max_batch_size": 3000000000}"#, "int32");
        check(r#"{"input": [{"data_type": "FP32"}]}"#, "TYPE_FP32");
        check(r#"{"dynamic_batching": {}, "sequence_batching": {}}"#, "excludes");
        check(r#"{"maxBatchSize": 1, "max_batch_size": 1}"#, "given twice");
        check(r#"{"input": {}}"#, "expected a list");
        check("[1]", "expected a JSON object");
        check("{", "line 1, column 1");
        check(&"[".repeat(200_000), "line 1");
    }
}

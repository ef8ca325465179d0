//! The two events that KServe's logger sends for a request (kserve/kserve, pkg/logger/worker.go): CloudEvents 1.0 in binary mode, with one
//! id. Their data are the bodies of the protocol, made of what the log has. Pure.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{Array, RecordBatch};
use crossfade_inference_log::{Restored, Side, restored, tensors};
use crossfade_journal::audit::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::event::Event;
use crate::http::json::response::push_tensor;

const REQUEST: &str = "org.kubeflow.serving.inference.request";
const RESPONSE: &str = "org.kubeflow.serving.inference.response";

/// A row as its events.
///
/// * `id`: of the request; `ts_us`: when it came
pub(super) fn events(table: &RecordBatch, row: usize, id: &str, ts_us: i64, namespace: &str) -> [Event; 2] {
    let text = |name: &str| -> Option<&str> {
        let column = table.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let (model, version) = (
        text("model").unwrap_or_default(),
        text("version").unwrap_or_default(),
    );
    let took = table
        .column_by_name("total_us")
        .and_then(|column| column.as_primitive_opt::<UInt32Type>())
        .filter(|column| column.is_valid(row))
        .map_or(0, |column| i64::from(column.value(row)));
    let is_ok = text("outcome") == Some("ok");
    let request = format!(
        "{{{}\"inputs\":[{}]}}",
        id_of(text("client_request_id")),
        all(table, row, Side::Input)
    );
    let response = match is_ok {
        true => format!(
            "{{\"model_name\":{},\"model_version\":{},{}\"outputs\":[{}]}}",
            Value::from(model),
            Value::from(version),
            id_of(text("client_request_id")),
            all(table, row, Side::Output)
        ),
        false => json!({ "error": text("error").or(text("outcome")) }).to_string(),
    };
    let metadata =
        json!({ "x-request-id": [id], "x-model-version": [version], "outcome": [text("outcome")] });
    let headers = |kind: &str, at_us: i64| {
        let time = Timestamp::from_unix_micros(at_us).map_or_else(|_| String::new(), |time| time.to_string());
        let endpoint = match text("stage") {
            Some("canary") => "canary",
            Some("shadow") => "shadow",
            _ => "default",
        };
        let attributes = [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-type", kind),
            (
                "ce-source",
                &format!("crossfade/{}", text("replica").unwrap_or_default()),
            ),
            ("ce-time", &time),
            ("ce-inferenceservicename", model),
            ("ce-namespace", namespace),
            ("ce-component", "predictor"),
            ("ce-endpoint", endpoint),
            ("ce-metadata", &metadata.to_string()),
            ("ce-recordedtime", &time),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in attributes {
            // Names of models and hosts may hold what a header cannot.
            if let Ok(value) = HeaderValue::from_str(&encoded(value)) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    };
    let event = |part: &str, kind: &str, at_us: i64, text: String| Event {
        id: id.to_owned(),
        name: format!("{id}-{part}"),
        ts_us,
        headers: Some(headers(kind, at_us)),
        text,
    };
    [
        event("request", REQUEST, ts_us, request),
        event("response", RESPONSE, ts_us.saturating_add(took), response),
    ]
}

/// The id that the client gave, as a member of an object.
fn id_of(client: Option<&str>) -> String {
    client.map_or_else(String::new, |id| format!("\"id\":{},", Value::from(id)))
}

/// The tensors of a side as the protocol writes them, those that the log has as they were.
fn all(table: &RecordBatch, row: usize, side: Side) -> String {
    let mut written = Vec::new();
    for spec in tensors(table, side) {
        let Restored::Tensor(tensor) = restored(table, row, side, &spec) else {
            continue;
        };
        let mut out = Vec::new();
        // Bytes that are no text have no place in JSON.
        if push_tensor(&spec.name, &tensor, false, &mut out).is_ok()
            && let Ok(text) = String::from_utf8(out)
        {
            written.push(text);
        }
    }
    written.join(",")
}

/// A value of an attribute as a header carries it (CloudEvents, HTTP binding 1.0.2, section 3.1.3.2): what is not printable ASCII, and quotes
/// and per cent, percent-encoded.
fn encoded(value: &str) -> String {
    let plain = |byte: u8| matches!(byte, 0x21..=0x7E) && !b"\"%".contains(&byte);
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            byte if plain(byte) => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_attributes_are_encoded_as_the_binding_says() {
        for (value, expected) in [
            ("plain-1.0", "plain-1.0"),
            ("a b", "a%20b"),
            ("\"100%\"", "%22100%25%22"),
            ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ] {
            assert_eq!(encoded(value), expected);
        }
    }
}

//! Records as CloudEvents (1.0, JSON). Pure.

use std::collections::BTreeSet;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use crossfade_inference_log::{LogError, Selection, write_lines};
use http::HeaderMap;
use serde_json::{Value, json};
use uuid::Uuid;

use super::kserve;
use crate::config::EventFormat;

/// The type of every event.
const TYPE: &str = "io.crossfade.inference";

/// What is sent of a record.
pub(super) struct Event {
    /// The request's id, and the event's: whoever gets it twice tells so by it, and by its type.
    pub(super) id: String,
    /// What tells its file from others where it is put aside.
    pub(super) name: String,
    /// When the request came, microseconds since 1970.
    pub(super) ts_us: i64,
    /// Where the event's attributes are headers (binary mode): those. It is sent alone then.
    pub(super) headers: Option<HeaderMap>,
    /// JSON: the event, or its data.
    pub(super) text: String,
}

/// Which records are sent, and as what.
pub(super) struct Wanted {
    pub(super) format: EventFormat,
    /// In events of KServe's.
    pub(super) namespace: String,
    /// Of these models; empty: of all.
    pub(super) models: Vec<String>,
    /// Only of requests that were answered.
    pub(super) only_success: bool,
    /// About none of these persons.
    pub(super) without: BTreeSet<[u8; 16]>,
}

/// The records of tables that are wanted.
///
/// Errors: none, of tables of a log.
pub(super) fn all(tables: &[RecordBatch], wanted: &Wanted) -> Result<Vec<Event>, LogError> {
    let others = Selection {
        without: wanted.without.clone(),
        ..Selection::default()
    };
    let mut events = Vec::new();
    for table in tables {
        let table = &others.of(table)?;
        let text = |name: &str, row: usize| -> Option<&str> {
            let column = table.column_by_name(name)?.as_string_opt::<i32>()?;
            column.is_valid(row).then(|| column.value(row))
        };
        let ids = table
            .column_by_name("request_id")
            .and_then(|column| column.as_fixed_size_binary_opt());
        let times = table
            .column_by_name("ts")
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let (Some(ids), Some(times)) = (ids, times) else {
            continue;
        };
        let mut lines = Vec::new();
        write_lines(table, &mut lines)?;
        for (row, line) in lines
            .split(|byte| *byte == b'\n')
            .take(table.num_rows())
            .enumerate()
        {
            let model = text("model", row).unwrap_or_default();
            let models = &wanted.models;
            let is_meant = models.is_empty() || models.iter().any(|wanted| wanted == model);
            if !is_meant || wanted.only_success && text("outcome", row) != Some("ok") {
                continue;
            }
            let id = Uuid::from_slice(ids.value(row)).unwrap_or_default().to_string();
            let ts_us = times.value(row);
            if wanted.format == EventFormat::Kserve {
                events.extend(kserve::events(table, row, &id, ts_us, &wanted.namespace));
                continue;
            }
            let Ok(data) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            let event = json!({
                "specversion": "1.0",
                "type": TYPE,
                "source": format!("crossfade/{}", text("replica", row).unwrap_or_default()),
                "subject": model,
                "id": id,
                "time": data["ts"],
                "datacontenttype": "application/json",
                "data": data,
            });
            events.push(Event {
                name: id.clone(),
                id,
                ts_us,
                headers: None,
                text: event.to_string(),
            });
        }
    }
    Ok(events)
}

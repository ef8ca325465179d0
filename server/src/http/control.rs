//! Everything but inference over HTTP: JSON in, JSON out, no scope (protocols.md §3, §7–§9).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::Front;
use super::inference::{heavy, read, refuse};
use super::reply::{self, Failure, ReplyBody};
use super::routes::{Model, ModelRoute, Route, SharedMemory};
use crate::audit::{Action, Call};
use crate::control::{
    LoadParameters, ModelStatistics, Settings, StatisticDuration, TensorMetadata, object, trace_object,
};
use crate::infer::Parameter;
use crate::scope::Outcome;
use crate::service::Service;
use crate::status::{Refusal, Status};

/// Answers a request for `route`, whose method is allowed there.
pub(super) async fn answer(
    front: &Front,
    call: Call,
    route: Route,
    head: &Parts,
    mut body: Incoming,
) -> Response<ReplyBody> {
    match attempt(front, call, route, head, &mut body).await {
        Ok(response) => response,
        Err(failure) => refuse(&failure, &head.headers, body).await,
    }
}

/// The models that are loaded, as OpenAI's clients and those of KServe's first protocol read them.
fn models(service: &Service) -> Value {
    let mut names: Vec<String> = service
        .registry()
        .models()
        .iter()
        .map(|model| model.name().to_string())
        .collect();
    names.dedup();
    let data: Vec<Value> = names
        .iter()
        .map(|name| json!({ "id": name, "object": "model", "created": 0, "owned_by": "crossfade" }))
        .collect();
    json!({ "models": names, "object": "list", "data": data })
}

/// The status of an answer, and its JSON.
type Answered = (StatusCode, Value);

fn found(body: impl Into<Value>) -> Answered {
    (StatusCode::OK, body.into())
}

pub(super) async fn attempt(
    front: &Front,
    call: Call,
    route: Route,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<ReplyBody>, Failure> {
    let body = match head.method {
        Method::POST => received(front, &call, &route, head, body).await?,
        _ => Bytes::new(),
    };
    let (status, answer) = carry_out(&front.service, call, route, &body).await?;
    Ok(reply::json(status, answer.to_string().into_bytes()))
}

/// Reads a call's body; one that would change something and cannot be read is recorded.
pub(super) async fn received(
    front: &Front,
    call: &Call,
    route: &Route,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Bytes, Failure> {
    match (read(front, &head.headers, body, None).await, change(route)) {
        (Err(failure), Some(change)) => Err(unread(&front.service, call.clone(), change, failure).await),
        (received, _) => received,
    }
}

/// Answers a call that has this body.
pub(super) async fn carry_out(
    service: &Service,
    call: Call,
    route: Route,
    body: &[u8],
) -> Result<Answered, Failure> {
    let document = match (document(body), change(&route)) {
        (Err(refusal), Some(change)) => return Err(unread(service, call, change, refusal.into()).await),
        (document, _) => document?,
    };
    Ok(match route {
        Route::ServerMetadata => {
            let server = service.server_metadata();
            found(json!({ "name": server.name, "version": server.version, "extensions": server.extensions }))
        }
        Route::Live => found(json!({ "live": true, "ready": service.ready() })),
        Route::Ready => {
            let ready = service.ready();
            (ready_status(ready), json!({ "live": true, "ready": ready }))
        }
        Route::Model(model, ModelRoute::Ready) => model_ready(service, &model),
        Route::Model(model, ModelRoute::Metadata) => found(metadata(service, &model)?),
        Route::Model(model, ModelRoute::Config) => found(service.model_config(&model.name, &model.version)?),
        Route::Model(model, ModelRoute::Statistics) => {
            found(statistics(&service.statistics(&model.name, &model.version)?))
        }
        Route::AllStatistics => found(statistics(&service.statistics("", "")?)),
        // The caller sends inference elsewhere.
        Route::Model(_, ModelRoute::Infer) | Route::Text(_) => return Err(Failure::UnknownPath),
        Route::Models => found(models(service)),
        Route::Index { repository } => found(index(service, &repository, &document).await?),
        Route::Load { repository, model } => {
            let parameters = match load_parameters(document) {
                Ok(parameters) => parameters,
                Err(refusal) => {
                    let change = (Action::Load, object(&repository, &model));
                    return Err(unread(service, call, change, refusal.into()).await);
                }
            };
            service
                .load(call, &repository, &model, parameters)
                .await
                .map_err(Failure::Repository)?;
            found(json!({}))
        }
        Route::Unload { repository, model } => {
            service
                .unload(call, &repository, &model)
                .await
                .map_err(Failure::Repository)?;
            found(json!({}))
        }
        Route::Logging => found(log_settings(service, call, document).await?),
        Route::Trace { model } => found(trace_settings(service, call, &model, document).await?),
        // No region was ever registered: none is listed, and there is nothing to unregister.
        Route::SharedMemory(SharedMemory::Status) => found(json!([])),
        Route::SharedMemory(SharedMemory::Unregister) => found(json!({})),
        Route::SharedMemory(SharedMemory::Register) => {
            let message = "shared memory is not offered; send tensors in the request";
            return Err(Refusal::new(Status::Unsupported, message).into());
        }
    })
}

/// What a call of this route would change, and of what: the audit's words.
pub(super) fn change(route: &Route) -> Option<(Action, String)> {
    match route {
        Route::Load { repository, model } => Some((Action::Load, object(repository, model))),
        Route::Unload { repository, model } => Some((Action::Unload, object(repository, model))),
        Route::Logging => Some((Action::LogSettings, "log".to_owned())),
        Route::Trace { model } => Some((Action::TraceSettings, trace_object(model))),
        Route::ServerMetadata
        | Route::Live
        | Route::Ready
        | Route::Model(..)
        | Route::AllStatistics
        | Route::Index { .. }
        | Route::Models
        | Route::Text(_)
        | Route::SharedMemory(_) => None,
    }
}

/// Records a call that would change something and cannot be read; returns what to answer.
pub(super) async fn unread(
    service: &Service,
    call: Call,
    change: (Action, String),
    failure: Failure,
) -> Failure {
    let (action, object) = change;
    let Outcome::Refused(status) = failure.outcome() else {
        return failure;
    };
    let refusal = Refusal::new(status, failure.message());
    let recorded = service.refuse_change(call, action, &object, refusal).await;
    if recorded.status == status {
        failure
    } else {
        recorded.into()
    }
}

fn ready_status(ready: bool) -> StatusCode {
    if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn model_ready(service: &Service, model: &Model) -> Answered {
    match service.model_ready(&model.name, &model.version) {
        Ok(ready) => (ready_status(ready), json!({ "name": model.name, "ready": ready })),
        Err(refusal) => {
            let body = json!({ "name": model.name, "ready": false, "error": refusal.message });
            (refusal.status.http(), body)
        }
    }
}

fn metadata(service: &Service, model: &Model) -> Result<Value, Refusal> {
    let metadata = service.model_metadata(&model.name, &model.version)?;
    let tensors = |tensors: &[TensorMetadata]| -> Vec<Value> {
        let one = |t: &TensorMetadata| json!({ "name": t.name, "datatype": t.datatype, "shape": t.shape });
        tensors.iter().map(one).collect()
    };
    Ok(json!({
        "name": metadata.name,
        "versions": metadata.versions.iter().map(u64::to_string).collect::<Vec<_>>(),
        "platform": metadata.platform,
        "inputs": tensors(&metadata.inputs),
        "outputs": tensors(&metadata.outputs),
    }))
}

fn statistics(models: &[ModelStatistics]) -> Value {
    let duration = |d: StatisticDuration| json!({ "count": d.count, "ns": d.ns });
    let none = || duration(StatisticDuration::default());
    let model = |model: &ModelStatistics| {
        let batch = |batch: &crate::control::BatchStatistics| {
            json!({
                "batch_size": batch.batch_size,
                "compute_input": duration(batch.compute_input),
                "compute_infer": duration(batch.compute_infer),
                "compute_output": duration(batch.compute_output),
            })
        };
        let memory =
            |&(kind, id, bytes): &(&str, i64, u64)| json!({ "type": kind, "id": id, "byte_size": bytes });
        json!({
            "name": model.name,
            "version": model.version.to_string(),
            "last_inference": model.last_inference,
            "inference_count": model.inference_count,
            "execution_count": model.execution_count,
            "inference_stats": {
                "success": duration(model.success),
                "fail": duration(model.fail),
                "queue": duration(model.queue),
                "compute_input": duration(model.compute_input),
                "compute_infer": duration(model.compute_infer),
                "compute_output": duration(model.compute_output),
                "cache_hit": none(),
                "cache_miss": none(),
            },
            "response_stats": {},
            "batch_stats": model.batches.iter().map(batch).collect::<Vec<_>>(),
            "memory_usage": model.memory.iter().map(memory).collect::<Vec<_>>(),
        })
    };
    json!({ "model_stats": models.iter().map(model).collect::<Vec<_>>() })
}

async fn index(service: &Service, repository: &str, document: &Map<String, Value>) -> Result<Value, Failure> {
    let ready = match document.get("ready") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(ready)) => *ready,
        Some(_) => return Err(Refusal::invalid("`ready` must be true or false").into()),
    };
    let entries = service
        .index(repository, ready)
        .await
        .map_err(Failure::Repository)?;
    let entries = entries.into_iter().map(|entry| {
        let mut row = json!({ "name": entry.name, "state": entry.state, "reason": entry.reason });
        if let Some(version) = entry.version {
            row["version"] = version.to_string().into();
        }
        row
    });
    Ok(entries.collect())
}

/// Reads a body that is a JSON object, or nothing.
fn document(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match heavy(body.len(), || serde_json::from_slice(body)) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(Refusal::invalid("the request's body must be a JSON object")),
        Err(error) => Err(Refusal::invalid(format!("malformed JSON: {error}"))),
    }
}

/// Reads `parameters` of a load call; `null` is as good as absent.
fn load_parameters(mut document: Map<String, Value>) -> Result<LoadParameters, Refusal> {
    let mut load = LoadParameters::default();
    let parameters = match document.remove("parameters") {
        None | Some(Value::Null) => return Ok(load),
        Some(Value::Object(parameters)) => parameters,
        Some(_) => return Err(Refusal::invalid("`parameters` must be an object")),
    };
    for (key, value) in parameters {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text,
            _ => {
                return Err(Refusal::invalid(format!(
                    "load parameter `{}` must be a string",
                    clip(&key)
                )));
            }
        };
        match key.strip_prefix("file:") {
            Some(path) => {
                let content = heavy(text.len(), || STANDARD.decode(&text));
                let content = content.map_err(|error| {
                    Refusal::invalid(format!("load parameter `{}` is not base64: {error}", clip(&key)))
                })?;
                load.files.insert(path.to_owned(), content);
            }
            None if key == "config" => load.config = Some(text),
            None if key == "labels" => load.labels = Some(text),
            None => {
                let message = format!(
                    "unknown load parameter `{}`; known are config, file:…, labels",
                    clip(&key)
                );
                return Err(Refusal::invalid(message));
            }
        }
    }
    Ok(load)
}

fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}

async fn log_settings(service: &Service, call: Call, document: Map<String, Value>) -> Result<Value, Refusal> {
    let changes = match log_changes(document) {
        Ok(changes) => changes,
        Err(refusal) => {
            return Err(service
                .refuse_change(call, Action::LogSettings, "log", refusal)
                .await);
        }
    };
    let settings = service.log_settings(call, changes).await?;
    let value = |value| match value {
        Parameter::Bool(value) => value.into(),
        Parameter::Int(value) => value.into(),
        Parameter::Uint(value) => value.into(),
        Parameter::Double(value) => value.into(),
        Parameter::String(value) => Value::String(value),
    };
    Ok(settings
        .into_iter()
        .map(|(key, setting)| (key, value(setting)))
        .collect())
}

fn log_changes(document: Map<String, Value>) -> Result<Settings, Refusal> {
    let mut changes = Settings::new();
    for (key, value) in document {
        let value = match value {
            Value::Null => continue,
            Value::Bool(value) => Parameter::Bool(value),
            Value::String(value) => Parameter::String(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => Parameter::Uint(value),
                (None, Some(value)) => Parameter::Int(value),
                (None, None) => Parameter::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::Array(_) | Value::Object(_) => {
                let message = format!("setting `{}` must be a string, number or bool", clip(&key));
                return Err(Refusal::invalid(message));
            }
        };
        changes.insert(key, value);
    }
    Ok(changes)
}

/// Trace settings: each a string or a list of strings; `null` asks for the default, as an empty list does on gRPC.
async fn trace_settings(
    service: &Service,
    call: Call,
    model: &str,
    document: Map<String, Value>,
) -> Result<Value, Refusal> {
    let changes = match trace_changes(document) {
        Ok(changes) => changes,
        Err(refusal) => {
            let object = trace_object(model);
            return Err(service
                .refuse_change(call, Action::TraceSettings, &object, refusal)
                .await);
        }
    };
    let settings = service.trace_settings(call, model, changes).await?;
    let value = |key: &str, mut values: Vec<String>| match (key, values.len()) {
        // The one setting that is a list by nature.
        ("trace_level", _) | (_, 2..) => Value::from(values),
        _ => Value::String(values.pop().unwrap_or_default()),
    };
    Ok(settings
        .into_iter()
        .map(|(key, values)| {
            let value = value(&key, values);
            (key, value)
        })
        .collect())
}

fn trace_changes(document: Map<String, Value>) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
    let mut changes = BTreeMap::new();
    for (key, value) in document {
        let wrong = || {
            Refusal::invalid(format!(
                "setting `{}` must be a string or a list of strings",
                clip(&key)
            ))
        };
        let values = match value {
            Value::Null => Vec::new(),
            Value::Array(values) => values
                .into_iter()
                .map(|value| text(value).ok_or_else(wrong))
                .collect::<Result<_, _>>()?,
            value => vec![text(value).ok_or_else(wrong)?],
        };
        changes.insert(key, values);
    }
    Ok(changes)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(document: Value, expected: Result<&LoadParameters, &str>) {
        let Value::Object(map) = document else {
            panic!("an object")
        };
        match (load_parameters(map), expected) {
            (Ok(load), Ok(expected)) => assert_eq!(format!("{load:?}"), format!("{expected:?}")),
            (Err(refusal), Err(part)) => assert!(refusal.message.contains(part), "{refusal}"),
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn load_parameters_are_strings_and_files_base64() {
        check(json!({}), Ok(&LoadParameters::default()));
        check(json!({ "parameters": null }), Ok(&LoadParameters::default()));
        let expected = LoadParameters {
            config: Some("{}".to_owned()),
            files: BTreeMap::from([("1/model.onnx".to_owned(), b"abc".to_vec())]),
            labels: Some("{\"a\":1}".to_owned()),
        };
        let parameters = json!({ "config": "{}", "file:1/model.onnx": "YWJj", "labels": "{\"a\":1}" });
        check(json!({ "parameters": parameters }), Ok(&expected));
        check(json!({ "parameters": [] }), Err("must be an object"));
        check(
            json!({ "parameters": { "config": {} } }),
            Err("`config` must be a string"),
        );
        check(
            json!({ "parameters": { "file:1/m": "?" } }),
            Err("`file:1/m` is not base64"),
        );
        check(
            json!({ "parameters": { "other": "x" } }),
            Err("unknown load parameter `other`"),
        );
    }
}

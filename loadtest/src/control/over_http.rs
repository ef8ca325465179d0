//! Control calls as the protocol's REST routes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Parameters, Spell, Statistics};
use crate::payload::encode::escaped;
use crate::payload::{Input, Signature};
use crate::target::Target;
use crate::wire::http1::{self, Http1};

/// One exchange; the answer's body, if its status is 2xx.
async fn exchange(target: &Target, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    let what = || format!("{method} {}{path}", target.url.trim_end_matches('/'));
    let headers: &[(&str, &str)] = if body.is_empty() {
        &[]
    } else {
        &[("Content-Type", "application/json")]
    };
    let request = http1::request(target, method, path, headers, body);
    let mut connection = Http1::connect(target)
        .await
        .map_err(|_| anyhow::anyhow!("cannot connect to {}: does a server listen there?", target.url))?;
    let answer = connection
        .exchange(&request)
        .await
        .map_err(|failure| anyhow::anyhow!("{}: {}; is it an HTTP server?", what(), failure.name()))?;
    if !(200..300).contains(&answer.status) {
        let reason: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let reason = reason.and_then(|body| Some(body.get("error")?.as_str()?.to_owned()));
        bail!("{}: {} {}", what(), answer.status, reason.unwrap_or_default());
    }
    Ok(answer.body.to_vec())
}

async fn get<T: for<'de> Deserialize<'de>>(target: &Target, path: &str) -> Result<T> {
    let body = exchange(target, "GET", path, &[]).await?;
    serde_json::from_slice(&body)
        .with_context(|| format!("GET {path}: not the JSON that the protocol has there"))
}

#[derive(Deserialize)]
struct ServerMetadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

pub(super) async fn server(target: &Target) -> Result<(String, String)> {
    let metadata: ServerMetadata = get(target, "/v2").await?;
    Ok((metadata.name, metadata.version))
}

#[derive(Deserialize)]
struct ModelMetadata {
    #[serde(default)]
    inputs: Vec<TensorMetadata>,
}

#[derive(Deserialize)]
struct TensorMetadata {
    name: String,
    datatype: String,
    #[serde(default)]
    shape: Vec<i64>,
}

pub(super) async fn signature(target: &Target, model: &str, version: Option<&str>) -> Result<Signature> {
    let version = version
        .map(|version| format!("/versions/{}", escaped(version)))
        .unwrap_or_default();
    let metadata: ModelMetadata = get(target, &format!("/v2/models/{}{version}", escaped(model))).await?;
    let input = |input: TensorMetadata| Input {
        name: input.name,
        datatype: input.datatype,
        shape: input.shape,
    };
    Ok(Signature {
        inputs: metadata.inputs.into_iter().map(input).collect(),
    })
}

#[derive(Deserialize)]
struct AllStatistics {
    model_stats: Vec<ModelStatistics>,
}

#[derive(Deserialize)]
struct ModelStatistics {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    execution_count: u64,
    inference_stats: BTreeMap<String, Spell>,
    #[serde(default)]
    batch_stats: Vec<BatchStatistics>,
}

#[derive(Deserialize)]
struct BatchStatistics {
    batch_size: u64,
    compute_infer: Spell,
}

pub(super) async fn statistics(target: &Target, model: &str) -> Result<Vec<Statistics>> {
    let all: AllStatistics = get(target, &format!("/v2/models/{}/stats", escaped(model))).await?;
    let convert = |one: ModelStatistics| {
        let spell = |name: &str| one.inference_stats.get(name).copied().unwrap_or_default();
        Statistics {
            executions: one.execution_count,
            success: spell("success"),
            queue: spell("queue"),
            compute_input: spell("compute_input"),
            compute_infer: spell("compute_infer"),
            compute_output: spell("compute_output"),
            batches: one
                .batch_stats
                .iter()
                .map(|batch| (batch.batch_size, batch.compute_infer.count))
                .collect(),
            model: one.name,
            version: one.version,
        }
    };
    Ok(all.model_stats.into_iter().map(convert).collect())
}

pub(super) async fn config(target: &Target, model: &str) -> Result<Value> {
    get(target, &format!("/v2/models/{}/config", escaped(model))).await
}

pub(super) async fn load(target: &Target, model: &str, parameters: &Parameters) -> Result<()> {
    let body = if parameters.is_empty() {
        json!({})
    } else {
        json!({ "parameters": parameters })
    };
    let path = format!("/v2/repository/models/{}/load", escaped(model));
    exchange(target, "POST", &path, &serde_json::to_vec(&body)?)
        .await
        .map(drop)
}

pub(super) async fn unload(target: &Target, model: &str) -> Result<()> {
    let path = format!("/v2/repository/models/{}/unload", escaped(model));
    exchange(target, "POST", &path, b"{}").await.map(drop)
}

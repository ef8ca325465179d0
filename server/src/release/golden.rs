//! The golden gate: requests whose answers are known are put to a version before it has any traffic (rollout.md §6).
//!
//! A pair is `NAME.request.json` and `NAME.response.json`, requests and responses of the protocol. A response that
//! names a `model_version` holds for that version alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossfade_batcher::Job;
use crossfade_rollout::gate::{GoldenReport, RowDiff, golden};
use crossfade_rollout::policy::Golden;
use crossfade_runtimes_core::{Datatype, Tensor};
use half::{bf16, f16};
use serde_json::{Value, json};

use crate::http::binary::decode_request;
use crate::infer::Inputs;
use crate::servable::Servable;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks a version all pairs that hold for it, and judges its answers.
///
/// * `folder`: where the pairs lie
///
/// Errors: a pair that cannot be read, or does not get an answer; the text names it. Blocks until all are answered:
/// for load threads.
pub(super) fn judge(limits: &Golden, folder: &Path, servable: &Servable) -> Result<GoldenReport, String> {
    let mut rows = Vec::new();
    for request in requests(folder)? {
        let of = |problem: String| format!("`{}`: {problem}", request.display());
        let Some(expected) = expected(&request, servable.version()).map_err(of)? else {
            continue;
        };
        let answers = ask(servable, &request, &expected).map_err(of)?;
        let pairs = expected.iter().zip(&answers);
        let diffs = pairs.map(|((_, expected), answer)| difference(rows.len(), expected, answer));
        let worst = diffs.reduce(worse);
        rows.extend(worst);
    }
    Ok(golden(limits, rows))
}

/// The requests in a folder, by name.
fn requests(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("`{}`: {error}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.to_string_lossy().ends_with(".request.json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The outputs that a request must get; `None` if they are those of another version.
fn expected(request: &Path, version: u64) -> Result<Option<Vec<(String, Tensor)>>, String> {
    let name = request.to_string_lossy();
    let name = name.strip_suffix(".request.json").unwrap_or(&name);
    let path = format!("{name}.response.json");
    let text = fs::read(&path).map_err(|error| format!("its answer `{path}`: {error}"))?;
    let response: Value = serde_json::from_slice(&text).map_err(|error| format!("its answer: {error}"))?;
    if response["model_version"]
        .as_str()
        .is_some_and(|of| of != version.to_string())
    {
        return Ok(None);
    }
    // Outputs are written as inputs are, so that one reader serves both.
    let turned = json!({ "inputs": response["outputs"] }).to_string();
    tensors(turned.into())
        .map(Some)
        .map_err(|error| format!("its answer: {error}"))
}

fn tensors(json: Bytes) -> Result<Vec<(String, Tensor)>, String> {
    let decoded = decode_request("", "", &json, None).map_err(|refusal| refusal.message)?;
    match decoded.request.inputs {
        Inputs::Named(tensors) => Ok(tensors),
        Inputs::RawBody(_) => Err("it names no tensors".to_owned()),
    }
}

/// The answers to a request, in the order of what is expected.
fn ask(servable: &Servable, request: &Path, expected: &[(String, Tensor)]) -> Result<Vec<Tensor>, String> {
    let signature = servable.signature();
    let text = fs::read(request).map_err(|error| error.to_string())?;
    let (inputs, rows) = signature
        .check(tensors(text.into())?)
        .map_err(|error| error.to_string())?;
    let names = expected.iter().map(|(name, _)| name.as_str());
    let outputs = signature
        .resolve_outputs(Some(names))
        .map_err(|error| error.to_string())?;
    let job = Job {
        inputs,
        outputs,
        rows,
        priority: 0,
        deadline: None,
        arrived: Instant::now(),
    };
    let pending = servable
        .running()
        .batcher
        .submit(job)
        .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, pending).await });
    let answer = answered.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
    Ok(answer.map_err(|error| error.to_string())?.outputs)
}

/// The row that is further off.
fn worse(a: RowDiff, b: RowDiff) -> RowDiff {
    RowDiff {
        row: a.row,
        max_abs: larger(a.max_abs, b.max_abs),
        max_rel: larger(a.max_rel, b.max_rel),
        mismatch: a.mismatch || b.mismatch,
    }
}

/// As `max`, but what is not a number stays.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// How far an output is from what was expected.
fn difference(row: usize, expected: &Tensor, answer: &Tensor) -> RowDiff {
    let mut diff = RowDiff {
        row,
        max_abs: 0.0,
        max_rel: 0.0,
        mismatch: false,
    };
    let alike = expected.datatype == answer.datatype && expected.shape == answer.shape;
    if alike && expected.data == answer.data {
        return diff;
    }
    let (Some(wanted), Some(got), true) = (numbers(expected), numbers(answer), alike) else {
        diff.mismatch = true;
        return diff;
    };
    for (wanted, got) in wanted.into_iter().zip(got) {
        if wanted.is_finite() != got.is_finite() {
            diff.mismatch = true;
        } else if wanted.is_finite() {
            let apart = (wanted - got).abs();
            let relative = if apart == 0.0 { 0.0 } else { apart / wanted.abs() };
            diff.max_abs = diff.max_abs.max(apart);
            diff.max_rel = diff.max_rel.max(relative);
        } else if wanted.is_nan() != got.is_nan() || wanted.is_sign_negative() != got.is_sign_negative() {
            diff.mismatch = true;
        }
    }
    diff
}

/// The elements as numbers; `None` for text.
fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    let data = &tensor.data;
    Some(match tensor.datatype {
        Datatype::Bool | Datatype::Uint8 => each(data, |[byte]: [u8; 1]| f64::from(byte)),
        Datatype::Int8 => each(data, |bytes| f64::from(i8::from_le_bytes(bytes))),
        Datatype::Uint16 => each(data, |bytes| f64::from(u16::from_le_bytes(bytes))),
        Datatype::Int16 => each(data, |bytes| f64::from(i16::from_le_bytes(bytes))),
        Datatype::Uint32 => each(data, |bytes| f64::from(u32::from_le_bytes(bytes))),
        Datatype::Int32 => each(data, |bytes| f64::from(i32::from_le_bytes(bytes))),
        Datatype::Uint64 => each(data, |bytes| u64::from_le_bytes(bytes) as f64),
        Datatype::Int64 => each(data, |bytes| i64::from_le_bytes(bytes) as f64),
        Datatype::Fp16 => each(data, |bytes| f16::from_le_bytes(bytes).to_f64()),
        Datatype::Bf16 => each(data, |bytes| bf16::from_le_bytes(bytes).to_f64()),
        Datatype::Fp32 => each(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Datatype::Fp64 => each(data, f64::from_le_bytes),
        Datatype::Bytes => return None,
    })
}

fn each<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let (elements, _) = data.as_chunks();
    elements.iter().map(|bytes| number(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::Shape;

    fn floats(values: &[f32]) -> Tensor {
        Tensor {
            datatype: Datatype::Fp32,
            shape: Shape::from([values.len()]),
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    #[test]
    fn differences_are_absolute_and_relative() {
        let check = |expected: &[f32], answer: &[f32], abs: f64, rel: f64, mismatch: bool| {
            let diff = difference(0, &floats(expected), &floats(answer));
            assert_eq!((diff.max_abs, diff.max_rel, diff.mismatch), (abs, rel, mismatch));
        };
        check(&[1.0, 2.0], &[1.0, 2.0], 0.0, 0.0, false);
        check(&[1.0, 2.0], &[1.5, 2.0], 0.5, 0.5, false);
        check(&[0.0, 2.0], &[1.0, 2.0], 1.0, f64::INFINITY, false);
        check(&[f32::NAN, 1.0], &[f32::NAN, 2.0], 1.0, 1.0, false);
        check(&[1.0], &[f32::NAN], 0.0, 0.0, true);
        check(&[f32::INFINITY], &[f32::NEG_INFINITY], 0.0, 0.0, true);
        check(&[1.0], &[1.0, 1.0], 0.0, 0.0, true);
    }

    #[test]
    fn text_must_be_the_same() {
        let text = |bytes: &'static [u8]| Tensor {
            datatype: Datatype::Bytes,
            shape: Shape::from([1]),
            data: Bytes::from_static(bytes),
        };
        assert!(!difference(0, &text(b"\x01\0\0\0a"), &text(b"\x01\0\0\0a")).mismatch);
        assert!(difference(0, &text(b"\x01\0\0\0a"), &text(b"\x01\0\0\0b")).mismatch);
    }
}

//! The golden gate: requests whose answers are known are put to a version before it has any traffic, and to the live
//! version from time to time (rollout.md §6).

use std::path::Path;

use crossfade_rollout::gate::{GoldenReport, RowDiff, golden};
use crossfade_rollout::policy::Golden;
use crossfade_runtimes_core::{Datatype, Tensor};
use half::{bf16, f16};
use serde_json::json;

use super::asker::{Asker, NoAnswer};
use super::report::Gate;
use crate::dataset::{self, Case, Reading, Want};
use crate::servable::Servable;

/// Cases that are read before they are asked.
const CHUNK: usize = 64;

/// Asks a version every case that holds for it, and judges its answers.
///
/// * `data`: where the cases lie
/// * `at_once`: cases that are on their way
///
/// Errors: a case that cannot be read, or does not get an answer; the text names it. Blocks until all are answered.
pub(super) fn judge(
    limits: &Golden,
    data: &Path,
    servable: &Servable,
    asker: &Asker<'_>,
    at_once: usize,
) -> Result<GoldenReport, NoAnswer> {
    let reading = Reading {
        signature: servable.signature(),
        version: servable.version(),
        want: Want::Outputs,
    };
    let mut cases = dataset::open(data, reading).map_err(|error| error.to_string())?;
    let mut rows: Vec<RowDiff> = Vec::new();
    loop {
        let some: Result<Vec<Case>, _> = cases.by_ref().take(CHUNK).collect();
        let some = some.map_err(|error| error.to_string())?;
        if some.is_empty() {
            return Ok(golden(limits, rows));
        }
        let answers = asker.answers(servable, &some, None, at_once)?;
        for (case, answer) in some.iter().zip(&answers) {
            let pairs = case.outputs.iter().zip(&answer.outputs);
            let diffs = pairs.map(|((_, expected), answer)| difference(rows.len(), expected, answer));
            let worst = diffs.reduce(worse);
            rows.extend(worst);
        }
    }
}

/// What the gate says of a report.
pub(super) fn gate(report: &GoldenReport) -> Gate {
    let worst = report.worst.map_or_else(String::new, |row| {
        let of = row.row + 1;
        let (abs, rel) = (row.max_abs, row.max_rel);
        let mismatch = if row.mismatch { ", of another kind" } else { "" };
        format!("; number {of} is furthest off: {abs:e} absolute, {rel:e} relative{mismatch}")
    });
    let worst = match report.rows {
        0 => "; a version without a known answer does not pass".to_owned(),
        _ => worst,
    };
    Gate {
        name: "golden",
        outcome: report.outcome.into(),
        why: format!("{} known answers{worst}", report.rows),
        evidence: json!(report),
    }
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
pub(super) fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
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
    use bytes::Bytes;
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

//! The decision layer: what a model decides by its outputs, as `[decision]` says. Pure.
//!
//! Argmax goes over the last axis, so that `[rows, classes]` gives one decision per row; a threshold gives one per element.
//! Without a decision an output is a number, or text that can only be told from other text.

use std::hash::{DefaultHasher, Hasher};

use crossfade_rollout::policy::{Decision, DecisionKind};
use crossfade_runtimes_core::{BytesElements, Datatype, ModelSignature, Tensor};

use super::elements::numbers;

/// The class of a row in which nothing is the largest: all of it is NaN.
const UNDECIDED: u32 = u32::MAX;
/// Elements of a row that go into its number: reading it must not become noticeable for a request.
const FOLDED: usize = 1024;

/// What one row says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Reading {
    /// A class: a decision, or the hash of a text.
    Class(u64),
    /// A number.
    Number(f64),
}

/// Reads the outputs of a model as its owner has said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reader {
    decision: Option<Decision>,
}

impl Reader {
    /// A reader by this rule, if there is one.
    pub(crate) fn new(decision: Option<Decision>) -> Self {
        Self { decision }
    }

    /// The output that is read; the model's first one where no rule names another.
    pub(crate) fn output<'a>(&'a self, signature: &'a ModelSignature) -> Option<&'a str> {
        match &self.decision {
            Some(decision) => Some(&decision.output),
            None => signature.outputs.first().map(|spec| &*spec.name),
        }
    }

    /// The output that the rule names, if there is one.
    pub(super) fn named(&self) -> Option<&str> {
        self.decision.as_ref().map(|decision| &*decision.output)
    }

    /// Whether there is a decision to read, rather than a number.
    pub(super) fn decides(&self) -> bool {
        let kind = self.decision.as_ref().map(|decision| decision.kind);
        kind.is_some_and(|kind| kind != DecisionKind::None)
    }

    /// Whether a model of this signature can be read.
    ///
    /// Errors: why not.
    pub(super) fn check(&self, signature: &ModelSignature) -> Result<(), String> {
        let Some(decision) = &self.decision else {
            return Ok(());
        };
        let name = &decision.output;
        let spec = signature.outputs.iter().find(|spec| &*spec.name == name);
        let spec = spec.ok_or_else(|| format!("`decision.output`: the model has no output `{name}`"))?;
        if decision.kind == DecisionKind::None {
            return Ok(());
        }
        if spec.datatype == Datatype::Bytes {
            return Err(format!(
                "`decision.output`: `{name}` is text, which has no largest value and no threshold"
            ));
        }
        let classes = spec.shape.iter().last().and_then(|dim| dim.fixed());
        if decision.kind == DecisionKind::Argmax && classes == Some(1) {
            return Err(format!(
                "`decision.kind`: the last axis of `{name}` has one value, which is always the largest"
            ));
        }
        Ok(())
    }

    /// The decisions in a tensor of the output, in order; `None` where there is no decision to read.
    pub(super) fn decisions(&self, tensor: &Tensor) -> Option<Vec<u32>> {
        let values = || numbers(tensor);
        match self.decision.as_ref()?.kind {
            DecisionKind::Argmax => {
                let width = last_axis(tensor);
                let values: Vec<f64> = values()?.collect();
                Some(
                    values
                        .chunks(width)
                        .map(|row| largest(row.iter().copied()))
                        .collect(),
                )
            }
            DecisionKind::Threshold(limit) => {
                Some(values()?.map(|value| u32::from(value >= limit)).collect())
            }
            DecisionKind::None => None,
        }
    }

    /// What a decision is called.
    pub(super) fn name(&self, class: u32) -> String {
        let mut labels = self.decision.iter().flat_map(|decision| &decision.labels);
        let label = usize::try_from(class).ok().and_then(|class| labels.nth(class));
        match label {
            Some(label) => label.clone(),
            None if class == UNDECIDED => "none".to_owned(),
            None => class.to_string(),
        }
    }

    /// What the first row of a tensor of the output says. Of a request's rows one is read: they are not independent.
    ///
    /// A row of several numbers without a decision is folded into one, with weights of which no two are equal, so that a
    /// shift of any of them shows, and so does one number that grows by what another loses.
    ///
    /// * `rows`: of the request
    ///
    /// Cost: reads at most a row; no allocation.
    pub(crate) fn first(&self, tensor: &Tensor, rows: usize) -> Option<Reading> {
        let Some(mut values) = numbers(tensor) else {
            let text = BytesElements::new(&tensor.data).next()?.ok()?;
            let mut hasher = DefaultHasher::new();
            hasher.write(text.get(..FOLDED).unwrap_or(text));
            return Some(Reading::Class(hasher.finish()));
        };
        match self.decision.as_ref().map(|decision| decision.kind) {
            Some(DecisionKind::Argmax) => {
                let row = values.take(last_axis(tensor));
                Some(Reading::Class(u64::from(largest(row))))
            }
            Some(DecisionKind::Threshold(limit)) => Some(Reading::Class(u64::from(values.next()? >= limit))),
            Some(DecisionKind::None) | None => {
                let row = values.len().checked_div(rows)?;
                if row <= 1 {
                    return values.next().map(Reading::Number);
                }
                let folded = values.take(row.min(FOLDED)).enumerate();
                let sum = folded.map(|(index, value)| value * weight(index)).sum();
                Some(Reading::Number(sum))
            }
        }
    }
}

/// Between ½ and 1½, spread evenly (the golden ratio's multiples, modulo one).
fn weight(index: usize) -> f64 {
    0.5 + (index as f64 * 0.618_033_988_749_895).fract()
}

/// How many elements the last axis has; a scalar has one.
fn last_axis(tensor: &Tensor) -> usize {
    tensor.shape.last().copied().unwrap_or(1).max(1)
}

/// The position of the largest value, the first of equal ones.
fn largest(row: impl Iterator<Item = f64>) -> u32 {
    let mut best = (UNDECIDED, f64::NEG_INFINITY);
    for (index, value) in row.enumerate() {
        let first = best.0 == UNDECIDED && !value.is_nan();
        if first || value > best.1 {
            best = (u32::try_from(index).unwrap_or(UNDECIDED), value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::{Shape, ShapeSpec, TensorSpec};

    fn reader(kind: DecisionKind) -> Reader {
        Reader::new(Some(Decision {
            output: "y".into(),
            kind,
            labels: Vec::new(),
        }))
    }

    fn floats(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor {
            datatype: Datatype::Fp32,
            shape: Shape::from(shape),
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    #[test]
    fn the_largest_of_the_last_axis_and_the_values_above_a_limit() {
        let check = |kind, shape: &[usize], values: &[f32], expected: &[u32]| {
            let (reader, tensor) = (reader(kind), floats(shape, values));
            assert_eq!(reader.decisions(&tensor).as_deref(), Some(expected), "{values:?}");
            let first = expected.first().map(|class| Reading::Class(u64::from(*class)));
            assert_eq!(reader.first(&tensor, 1), first, "{values:?}");
        };
        let (argmax, half) = (DecisionKind::Argmax, DecisionKind::Threshold(0.5));
        check(argmax, &[2, 3], &[0.0, 2.0, 1.0, 5.0, 4.0, 5.0], &[1, 0]);
        check(argmax, &[3], &[-3.0, -1.0, -2.0], &[1]);
        check(argmax, &[1, 2], &[f32::NAN, -1.0], &[1]);
        check(argmax, &[1, 2], &[f32::NEG_INFINITY, f32::NAN], &[0]);
        check(argmax, &[1, 2], &[f32::NAN, f32::NAN], &[UNDECIDED]);
        check(half, &[3, 1], &[0.5, 0.4, 0.9], &[1, 0, 1]);
        check(half, &[1], &[f32::NAN], &[0]);
    }

    #[test]
    fn classes_have_the_names_of_their_labels() {
        let mut reader = reader(DecisionKind::Threshold(0.5));
        if let Some(decision) = &mut reader.decision {
            decision.labels = vec!["ok".into(), "fraud".into()];
        }
        let names = [0, 1, 2, UNDECIDED].map(|class| reader.name(class));
        assert_eq!(names, ["ok", "fraud", "2", "none"]);
    }

    #[test]
    fn without_a_decision_a_row_is_one_number() {
        for reader in [reader(DecisionKind::None), Reader::new(None)] {
            assert_eq!(reader.decisions(&floats(&[2], &[1.0, 2.0])), None);
            let first = |shape: &[usize], values: &[f32], rows| reader.first(&floats(shape, values), rows);
            assert_eq!(first(&[2], &[7.0, 1.0], 2), Some(Reading::Number(7.0)));
            assert_eq!(first(&[2, 1], &[7.0, 1.0], 2), Some(Reading::Number(7.0)));
            assert_eq!(first(&[0], &[], 0), None);
            assert_eq!(first(&[0, 2], &[], 1), None);
            let row = first(&[1, 2], &[0.25, 0.75], 1);
            assert_ne!(row, first(&[1, 2], &[0.75, 0.25], 1), "their sum is the same");
            assert_eq!(
                row,
                first(&[2, 2], &[0.25, 0.75, 9.0, 9.0], 2),
                "of the first row"
            );
        }
    }

    #[test]
    fn text_is_told_from_other_text() {
        let text = |bytes: &'static [u8]| Tensor {
            datatype: Datatype::Bytes,
            shape: Shape::from([1]),
            data: bytes::Bytes::from_static(bytes),
        };
        let first = |bytes| Reader::new(None).first(&text(bytes), 1).unwrap();
        assert_eq!(first(b"\x01\0\0\0a"), first(b"\x01\0\0\0a\x01\0\0\0b"));
        assert_ne!(first(b"\x01\0\0\0a"), first(b"\x01\0\0\0b"));
    }

    #[test]
    fn a_rule_must_fit_the_model() {
        let signature = |datatype, dims: &[i64]| ModelSignature {
            outputs: vec![TensorSpec::new("y", datatype, ShapeSpec::from(dims))],
            ..Default::default()
        };
        let check = |kind, name: &str, datatype, dims: &[i64], expected: &str| {
            let mut reader = reader(kind);
            if let Some(decision) = &mut reader.decision {
                decision.output = name.to_owned();
            }
            let error = reader.check(&signature(datatype, dims)).err().unwrap_or_default();
            assert!(
                error.contains(expected) && error.is_empty() == expected.is_empty(),
                "{error}"
            );
        };
        check(DecisionKind::Argmax, "y", Datatype::Fp32, &[-1, 3], "");
        check(
            DecisionKind::Argmax,
            "y",
            Datatype::Fp32,
            &[-1, 1],
            "always the largest",
        );
        check(
            DecisionKind::Argmax,
            "z",
            Datatype::Fp32,
            &[-1, 3],
            "no output `z`",
        );
        check(
            DecisionKind::Threshold(0.5),
            "y",
            Datatype::Bytes,
            &[-1],
            "is text",
        );
        check(DecisionKind::None, "y", Datatype::Bytes, &[-1], "");
        assert_eq!(Reader::new(None).check(&signature(Datatype::Fp32, &[])), Ok(()));
        let of = signature(Datatype::Fp32, &[]);
        assert_eq!(Reader::new(None).output(&of), Some("y"));
    }
}

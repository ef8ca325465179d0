//! Two answers to one request: do they have the same form, how far are they apart, is one decided otherwise? Pure.

use std::sync::Arc;

use crossfade_runtimes_core::Tensor;

use super::super::decision::Reader;
use super::super::elements::{is_floating, numbers};

/// The outputs of an answer, by name.
pub(crate) type Outputs = [(Arc<str>, Tensor)];

/// How the candidate's answer differs from the live version's.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Difference {
    /// An output has another shape or datatype, or is not there.
    pub(crate) form: bool,
    /// A number of the candidate's is NaN or infinite where the live version's is not, or the other way round.
    pub(crate) finite: bool,
    /// The candidate's is the one that is NaN or infinite.
    pub(crate) broken: bool,
    /// The largest |Δ|.
    pub(crate) max_abs: f64,
    /// The largest |Δ| relative to the live version's number.
    pub(crate) max_rel: f64,
    /// The sum of all |Δ|, and of how many numbers.
    pub(crate) sum_abs: f64,
    pub(crate) numbers: u64,
    /// It is decided otherwise.
    pub(crate) flipped: bool,
    /// The first decision that differs: the live version's and the candidate's.
    pub(crate) decisions: Option<(u32, u32)>,
}

/// What a flip is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    reader: Reader,
    /// Numbers further apart than this are a flip, where there is no decision.
    tolerance: Option<f64>,
}

impl Rule {
    /// * `tolerance`: numbers further apart are a flip, where there is no decision
    pub(crate) fn new(reader: Reader, tolerance: Option<f64>) -> Self {
        Self { reader, tolerance }
    }

    /// Compares the answers to one request.
    ///
    /// * `primary`: the live version's; only outputs that it has are compared
    pub(crate) fn compare(&self, primary: &Outputs, candidate: &Outputs) -> Difference {
        let mut total = Difference::default();
        for (name, ours) in primary {
            let theirs = candidate.iter().find(|(other, _)| other == name);
            let Some((_, theirs)) = theirs else {
                total.form = true;
                total.flipped = true;
                continue;
            };
            let mut one = apart(ours, theirs);
            one.decisions = self.otherwise(name, ours, theirs);
            one.flipped = self.flips(name, ours, theirs, &one);
            total.add(&one);
        }
        total
    }

    /// The first decision that differs, where the output decides.
    fn otherwise(&self, name: &str, ours: &Tensor, theirs: &Tensor) -> Option<(u32, u32)> {
        let decides = self.reader.decides() && self.reader.named() == Some(name);
        let (ours, theirs) = decides.then(|| (self.reader.decisions(ours), self.reader.decisions(theirs)))?;
        ours?
            .into_iter()
            .zip(theirs?)
            .find(|(ours, theirs)| ours != theirs)
    }

    /// Whether an output is decided otherwise.
    fn flips(&self, name: &str, ours: &Tensor, theirs: &Tensor, one: &Difference) -> bool {
        if self.reader.named().is_some_and(|output| output != name) {
            return false;
        }
        if one.form || one.finite {
            return true;
        }
        if self.reader.decides() {
            return one.decisions.is_some();
        }
        match numbers(ours) {
            Some(_) => self.tolerance.is_some_and(|tolerance| one.max_abs > tolerance),
            None => ours.data != theirs.data,
        }
    }
}

impl Difference {
    /// Takes in another output.
    fn add(&mut self, other: &Difference) {
        self.form |= other.form;
        self.finite |= other.finite;
        self.broken |= other.broken;
        self.flipped |= other.flipped;
        self.max_abs = self.max_abs.max(other.max_abs);
        self.max_rel = self.max_rel.max(other.max_rel);
        self.sum_abs += other.sum_abs;
        self.numbers += other.numbers;
        self.decisions = self.decisions.or(other.decisions);
    }
}

/// How far two outputs are apart; nothing is flipped yet.
fn apart(ours: &Tensor, theirs: &Tensor) -> Difference {
    let mut found = Difference::default();
    if ours.datatype != theirs.datatype || ours.shape != theirs.shape {
        found.form = true;
        found.broken =
            is_floating(theirs.datatype) && !is_floating_broken(ours) && is_floating_broken(theirs);
        return found;
    }
    let (Some(ours), Some(theirs)) = (numbers(ours), numbers(theirs)) else {
        return found;
    };
    found.numbers = ours.len() as u64;
    for (ours, theirs) in ours.zip(theirs) {
        if ours.is_finite() && theirs.is_finite() {
            let distance = (ours - theirs).abs();
            let relative = if distance == 0.0 {
                0.0
            } else {
                distance / ours.abs()
            };
            found.max_abs = found.max_abs.max(distance);
            found.max_rel = found.max_rel.max(relative);
            found.sum_abs += distance;
        } else if ours != theirs && !(ours.is_nan() && theirs.is_nan()) {
            found.finite = true;
            found.broken |= ours.is_finite();
        }
    }
    found
}

/// Whether any of its numbers is NaN or infinite.
fn is_floating_broken(tensor: &Tensor) -> bool {
    numbers(tensor).is_some_and(|mut numbers| numbers.any(|number| !number.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_rollout::policy::{Decision, DecisionKind};
    use crossfade_runtimes_core::{Datatype, Shape};

    fn floats(values: &[f32]) -> Tensor {
        Tensor {
            datatype: Datatype::Fp32,
            shape: Shape::from([1, values.len()]),
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn rule(kind: Option<DecisionKind>, tolerance: Option<f64>) -> Rule {
        let decision = kind.map(|kind| Decision {
            output: "y".into(),
            kind,
            labels: Vec::new(),
        });
        Rule {
            reader: Reader::new(decision),
            tolerance,
        }
    }

    fn compare(rule: &Rule, ours: Tensor, theirs: Tensor) -> Difference {
        rule.compare(&[("y".into(), ours)], &[("y".into(), theirs)])
    }

    #[test]
    fn distances_of_all_numbers() {
        let found = compare(&rule(None, None), floats(&[1.0, -2.0]), floats(&[1.5, -1.0]));
        let expected = Difference {
            max_abs: 1.0,
            max_rel: 0.5,
            sum_abs: 1.5,
            numbers: 2,
            ..Difference::default()
        };
        assert_eq!(found, expected);
        let found = compare(&rule(None, None), floats(&[0.0]), floats(&[1.0]));
        assert_eq!(found.max_rel, f64::INFINITY);
    }

    #[test]
    fn what_is_no_number_on_one_side_only() {
        let check = |ours: f32, theirs: f32, finite, broken| {
            let found = compare(&rule(None, None), floats(&[ours]), floats(&[theirs]));
            assert_eq!((found.finite, found.broken), (finite, broken), "{ours} {theirs}");
            assert_eq!(found.flipped, finite);
        };
        check(1.0, f32::NAN, true, true);
        check(f32::NAN, 1.0, true, false);
        check(f32::NAN, f32::NAN, false, false);
        check(f32::INFINITY, f32::INFINITY, false, false);
        check(f32::INFINITY, f32::NEG_INFINITY, true, false);
    }

    #[test]
    fn another_form_is_a_flip() {
        let plain = rule(None, None);
        let found = compare(&plain, floats(&[1.0]), floats(&[1.0, 2.0]));
        assert!(found.form && found.flipped && !found.broken);
        let found = compare(&plain, floats(&[1.0]), floats(&[1.0, f32::NAN]));
        assert!(found.broken);
        let found = plain.compare(&[("y".into(), floats(&[1.0]))], &[]);
        assert!(found.form && found.flipped);
    }

    #[test]
    fn flips_by_decision_by_tolerance_and_by_text() {
        let check = |rule: &Rule, ours: &[f32], theirs: &[f32], expected| {
            let found = compare(rule, floats(ours), floats(theirs));
            assert_eq!(found.flipped, expected, "{rule:?} {ours:?} {theirs:?}");
        };
        let argmax = rule(Some(DecisionKind::Argmax), Some(0.0));
        check(&argmax, &[1.0, 2.0], &[1.0, 9.0], false);
        check(&argmax, &[1.0, 2.0], &[3.0, 2.0], true);
        let half = rule(Some(DecisionKind::Threshold(0.5)), None);
        check(&half, &[0.4], &[0.1], false);
        check(&half, &[0.4], &[0.6], true);
        let found = compare(&half, floats(&[0.9, 0.4]), floats(&[0.9, 0.6]));
        assert_eq!(found.decisions, Some((0, 1)));
        for kind in [None, Some(DecisionKind::None)] {
            let near = rule(kind, Some(0.1));
            check(&near, &[1.0], &[1.05], false);
            check(&near, &[1.0], &[1.2], true);
        }
        let text = |bytes: &'static [u8]| Tensor {
            datatype: Datatype::Bytes,
            shape: Shape::from([1]),
            data: bytes::Bytes::from_static(bytes),
        };
        let plain = rule(None, None);
        assert!(compare(&plain, text(b"\x01\0\0\0a"), text(b"\x01\0\0\0b")).flipped);
        assert!(!compare(&plain, text(b"\x01\0\0\0a"), text(b"\x01\0\0\0a")).flipped);
    }

    /// Only the output that decides can flip; the others are measured.
    #[test]
    fn other_outputs_do_not_flip() {
        let argmax = rule(Some(DecisionKind::Argmax), None);
        let answer = |y: &[f32], z: &[f32]| [("y".into(), floats(y)), ("z".into(), floats(z))];
        let found = argmax.compare(&answer(&[1.0, 2.0], &[1.0]), &answer(&[1.0, 2.0], &[5.0]));
        assert!(!found.flipped && found.max_abs == 4.0);
    }
}

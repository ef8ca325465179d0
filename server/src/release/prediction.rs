//! From a version's answer to what is compared with a label: a class, a score of a yes or no, a number.

use std::collections::HashMap;

use crossfade_rollout::policy::{Decision, DecisionKind, QualityMetric};
use crossfade_runtimes_core::{BytesElements, Datatype, Tensor};

use super::golden::numbers;
use crate::dataset::Label;
use crate::servable::Servable;

/// Which output holds predictions, and how they are read.
pub(super) struct Reader<'a> {
    /// The output.
    pub(super) output: String,
    metric: QualityMetric,
    kind: Option<DecisionKind>,
    /// Names of the classes, by number.
    names: &'a [String],
}

/// Labels or predictions of rows, by metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows {
    /// Classes: as many names as there are, in the order of their first use.
    pub(super) classes: Vec<u64>,
    /// Scores of a yes, or numbers.
    pub(super) numbers: Vec<f64>,
}

/// Class names to numbers, the same for labels and both versions.
#[derive(Debug, Default)]
pub(super) struct Classes(HashMap<String, u64>);

impl Classes {
    fn number(&mut self, name: String) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(name).or_insert(next)
    }
}

impl<'a> Reader<'a> {
    /// How the answers of a version are read.
    ///
    /// * `output`: the one that the policy names
    ///
    /// Errors: no output is named and the model has several; the model does not have it.
    pub(super) fn new(
        metric: QualityMetric,
        output: Option<&str>,
        decision: Option<&'a Decision>,
        servable: &'a Servable,
    ) -> Result<Self, String> {
        let outputs = &servable.signature().outputs;
        let named = output.or(decision.map(|decision| decision.output.as_str()));
        let index = match (named, outputs.len()) {
            (Some(named), _) => outputs.iter().position(|spec| &*spec.name == named),
            (None, 1) => Some(0),
            (None, _) => {
                return Err("the model has several outputs; set `gates.quality.output`".to_owned());
            }
        };
        let index =
            index.ok_or_else(|| format!("the model has no output `{}`", named.unwrap_or_default()))?;
        let output = outputs.get(index).map(|spec| spec.name.to_string());
        let output = output.unwrap_or_default();
        // A decision says how one output is read, not another one.
        let decision = decision.filter(|decision| decision.output == output);
        let names = decision.map_or(&[][..], |decision| &decision.labels);
        Ok(Self {
            metric,
            kind: decision.map(|decision| decision.kind),
            names: if names.is_empty() {
                servable.labels(index)
            } else {
                names
            },
            output,
        })
    }

    /// Adds the labels of some rows.
    ///
    /// Errors: a label that the metric cannot use.
    pub(super) fn labels(
        &self,
        labels: &[Label],
        classes: &mut Classes,
        rows: &mut Rows,
    ) -> Result<(), String> {
        for label in labels {
            let wrong = |expected: &str| format!("its label {label:?} is no {expected}");
            match self.metric {
                QualityMetric::Accuracy => {
                    let name = match label {
                        Label::Text(text) => text.clone(),
                        Label::Integer(class) => self.name(usize::try_from(*class).ok(), *class),
                        Label::Number(number) if number.fract() == 0.0 => self.whole(*number),
                        Label::Number(_) => return Err(wrong("class")),
                    };
                    rows.classes.push(classes.number(name));
                }
                QualityMetric::Auc => {
                    let yes = match label {
                        Label::Text(text) => {
                            let class = self.names.iter().position(|name| name == text);
                            class.filter(|_| self.names.len() == 2).map(|class| class as f64)
                        }
                        other => other.number(),
                    };
                    let yes = yes.filter(|yes| *yes == 0.0 || *yes == 1.0);
                    rows.numbers.push(yes.ok_or_else(|| wrong("yes or no (1 or 0)"))?);
                }
                QualityMetric::Rmse => {
                    let number = label.number().filter(|number| number.is_finite());
                    rows.numbers.push(number.ok_or_else(|| wrong("number"))?);
                }
            }
        }
        Ok(())
    }

    /// Adds what an answer predicts.
    ///
    /// * `count`: rows of the request
    ///
    /// Errors: an answer with another number of rows, or of a kind that the metric cannot use.
    pub(super) fn predictions(
        &self,
        answer: &Tensor,
        count: usize,
        classes: &mut Classes,
        rows: &mut Rows,
    ) -> Result<(), String> {
        let wrong = |problem: &str| format!("output `{}`: {problem}", self.output);
        let elements = answer.shape.element_count().unwrap_or_default();
        let width = elements.checked_div(count).unwrap_or_default();
        if width == 0 || width * count != elements {
            let problem = format!("{elements} elements for {count} labels");
            return Err(wrong(&problem));
        }
        if answer.datatype == Datatype::Bytes {
            if self.metric != QualityMetric::Accuracy || width != 1 {
                return Err(wrong("texts are compared one per row, for accuracy"));
            }
            for text in BytesElements::new(&answer.data) {
                let text = text.map_err(|error| wrong(&error.to_string()))?;
                let name = String::from_utf8_lossy(text).into_owned();
                rows.classes.push(classes.number(name));
            }
            return Ok(());
        }
        let values = numbers(answer).unwrap_or_default();
        for row in values.chunks_exact(width) {
            if row.iter().any(|value| value.is_nan()) {
                return Err(wrong("it is not a number"));
            }
            match (self.metric, row) {
                (QualityMetric::Accuracy, _) => {
                    let name = self.class(row, is_float(answer.datatype));
                    rows.classes.push(classes.number(name));
                }
                (QualityMetric::Auc, [score] | [_, score]) | (QualityMetric::Rmse, [score]) => {
                    rows.numbers.push(*score);
                }
                (QualityMetric::Auc, _) => return Err(wrong("expected one score per row, or two")),
                (QualityMetric::Rmse, _) => return Err(wrong("expected one number per row")),
            }
        }
        Ok(())
    }

    /// The class of one row: by the decision; else the number itself, the larger side of one half, or the position of
    /// the largest value.
    fn class(&self, row: &[f64], float: bool) -> String {
        let at_least = |limit: f64| usize::from(row.last().is_some_and(|value| *value >= limit));
        let class = match (self.kind, row) {
            (Some(DecisionKind::Threshold(limit)), [_] | [_, _]) => at_least(limit),
            (_, [value]) if !float => return self.whole(*value),
            (_, [_]) => at_least(0.5),
            _ => largest(row),
        };
        self.name(Some(class), class)
    }

    /// A number that is a class.
    fn whole(&self, number: f64) -> String {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "classes are small; a number beyond 64 bits is no class of anything"
        )]
        let class = number as i64;
        self.name(usize::try_from(class).ok(), class)
    }

    fn name(&self, position: Option<usize>, number: impl ToString) -> String {
        let name = position.and_then(|position| self.names.get(position));
        name.cloned().unwrap_or_else(|| number.to_string())
    }
}

fn is_float(datatype: Datatype) -> bool {
    matches!(
        datatype,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64
    )
}

/// The position of the largest value, the first of equal ones.
fn largest(row: &[f64]) -> usize {
    let mut best = 0;
    for (position, value) in row.iter().enumerate() {
        if row.get(best).is_some_and(|largest| value > largest) {
            best = position;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::Shape;

    fn reader(metric: QualityMetric, kind: Option<DecisionKind>, names: &[String]) -> Reader<'_> {
        Reader {
            output: "y".into(),
            metric,
            kind,
            names,
        }
    }

    fn floats(rows: usize, values: &[f32]) -> Tensor {
        Tensor {
            datatype: Datatype::Fp32,
            shape: Shape::from([rows, values.len() / rows]),
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// Whether predictions and labels are of the same class, row by row.
    fn right(reader: &Reader<'_>, answer: &Tensor, labels: &[Label]) -> Result<Vec<bool>, String> {
        let (mut classes, mut known, mut got) = (Classes::default(), Rows::default(), Rows::default());
        reader.labels(labels, &mut classes, &mut known)?;
        reader.predictions(answer, labels.len(), &mut classes, &mut got)?;
        Ok(known
            .classes
            .iter()
            .zip(&got.classes)
            .map(|(a, b)| a == b)
            .collect())
    }

    #[test]
    fn classes_are_positions_numbers_names_or_decisions() {
        let none: [String; 0] = [];
        let names = ["no".to_owned(), "yes".to_owned()];
        let plain = reader(QualityMetric::Accuracy, None, &none);
        let labels = [Label::Integer(1), Label::Integer(1)];
        assert_eq!(
            right(&plain, &floats(2, &[0.1, 0.9, 0.9, 0.1]), &labels),
            Ok(vec![true, false])
        );
        assert_eq!(
            right(&plain, &floats(2, &[0.5, 0.4]), &labels),
            Ok(vec![true, false])
        );
        let named = reader(QualityMetric::Accuracy, None, &names);
        let labels = [Label::Text("yes".into()), Label::Integer(0)];
        assert_eq!(
            right(&named, &floats(2, &[0.1, 0.9, 0.9, 0.1]), &labels),
            Ok(vec![true, true])
        );
        let strict = reader(
            QualityMetric::Accuracy,
            Some(DecisionKind::Threshold(0.95)),
            &names,
        );
        assert_eq!(
            right(&strict, &floats(2, &[0.1, 0.9, 0.9, 0.1]), &labels),
            Ok(vec![false, true])
        );
        let integers = Tensor {
            datatype: Datatype::Int64,
            shape: Shape::from([2]),
            data: [7_i64, 8].iter().flat_map(|class| class.to_le_bytes()).collect(),
        };
        let labels = [Label::Integer(7), Label::Number(7.0)];
        assert_eq!(right(&plain, &integers, &labels), Ok(vec![true, false]));
        let texts = Tensor {
            datatype: Datatype::Bytes,
            shape: Shape::from([2]),
            data: bytes::Bytes::from_static(b"\x02\0\0\0es\x02\0\0\0de"),
        };
        let labels = [Label::Text("es".into()), Label::Text("fr".into())];
        assert_eq!(right(&plain, &texts, &labels), Ok(vec![true, false]));
    }

    #[test]
    fn what_a_metric_cannot_use_is_named() {
        let none: [String; 0] = [];
        let check = |metric, answer: &Tensor, label: Label, expected: &str| {
            let reader = reader(metric, None, &none);
            let (mut classes, mut rows) = (Classes::default(), Rows::default());
            let labels = reader.labels(&[label], &mut classes, &mut rows);
            let error = labels.and_then(|()| reader.predictions(answer, 1, &mut classes, &mut rows));
            let error = error.unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        use QualityMetric::{Accuracy, Auc, Rmse};
        check(Auc, &floats(1, &[0.5]), Label::Integer(2), "yes or no");
        check(Auc, &floats(1, &[0.1, 0.2, 0.7]), Label::Integer(1), "one score");
        check(Rmse, &floats(1, &[0.5]), Label::Text("a".into()), "number");
        check(Rmse, &floats(1, &[0.5, 1.0]), Label::Integer(1), "one number");
        check(
            Accuracy,
            &floats(1, &[f32::NAN]),
            Label::Integer(1),
            "not a number",
        );
        check(Accuracy, &floats(1, &[0.5]), Label::Number(0.5), "class");
        check(
            Accuracy,
            &Tensor {
                shape: Shape::from([0]),
                ..floats(1, &[])
            },
            Label::Integer(0),
            "0 elements",
        );
    }
}

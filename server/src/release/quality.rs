//! The quality gate (G1): candidate and champion answer the same labelled rows (rollout.md §6).

use std::path::Path;

use crossfade_rollout::gate::{LabelledRows, QualityReport, sudden_drop};
use crossfade_rollout::policy::{Decision, Quality, QualityMetric};
use crossfade_statistics::quality;
use serde_json::{Value, json};

use super::asker::{Asker, IDLE, NoAnswer, SERVING};
use super::prediction::{Classes, Reader, Rows};
use super::report::{Gate, Outcome};
use crate::dataset::{self, Case, Reading, Want};
use crate::servable::Servable;

/// Rows that are read before they are asked.
const CHUNK: usize = 64;

/// What labelled rows say of one version, or of two.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Comparison {
    /// sha256 of the rows' file or folder.
    pub(super) dataset: String,
    /// How many rows there are.
    rows: usize,
    /// The candidate's value of the metric.
    pub(super) candidate: f64,
    /// Of both, where there is a champion.
    pub(super) report: Option<QualityReport>,
}

/// Labels and predictions, taken in row by row.
struct Compared<'a> {
    reader: Reader<'a>,
    classes: Classes,
    labels: Rows,
    champion: Rows,
    candidate: Rows,
}

/// Has the versions answer every row, and compares them.
///
/// * `data`: the labelled rows
/// * `champion`: the version that serves; asked a few rows at a time, beside its requests
///
/// Errors: rows that cannot be read or do not get an answer, labels and answers that cannot be compared; the text names
/// them. Blocks until all are answered. Cost: the predictions of all rows in memory; for AUC and RMSE 10 000 resamples.
pub(super) fn compare(
    limits: &Quality,
    decision: Option<&Decision>,
    data: &Path,
    candidate: &Servable,
    champion: Option<&Servable>,
    asker: &Asker<'_>,
) -> Result<Comparison, NoAnswer> {
    let dataset = digest(data)?;
    let output = limits.output.as_deref();
    let mut compared = Compared {
        reader: Reader::new(limits.metric, output, decision, candidate)?,
        classes: Classes::default(),
        labels: Rows::default(),
        champion: Rows::default(),
        candidate: Rows::default(),
    };
    let reading = Reading {
        signature: candidate.signature(),
        version: candidate.version(),
        want: Want::Labels,
    };
    let mut cases = dataset::open(data, reading).map_err(|error| error.to_string())?;
    loop {
        let some: Result<Vec<Case>, _> = cases.by_ref().take(CHUNK).collect();
        let some = some.map_err(|error| error.to_string())?;
        if some.is_empty() {
            return Ok(compared.conclude(limits, champion.is_some(), dataset)?);
        }
        compared.take(&some, candidate, champion, asker)?;
    }
}

/// sha256 of labelled rows.
fn digest(data: &Path) -> Result<String, String> {
    let digest = if data.is_dir() {
        super::digest::of(data)
    } else {
        dataset::digest_of_file(data)
    };
    digest.map_err(|error| format!("`{}`: {error}", data.display()))
}

impl Compared<'_> {
    fn take(
        &mut self,
        cases: &[Case],
        candidate: &Servable,
        champion: Option<&Servable>,
        asker: &Asker<'_>,
    ) -> Result<(), NoAnswer> {
        let output = Some(self.reader.output.as_str());
        let of = |version: &Servable, problem: NoAnswer| match problem {
            NoAnswer::Wrong(problem) => NoAnswer::Wrong(format!("version {}: {problem}", version.version())),
            NoAnswer::Stopped => NoAnswer::Stopped,
        };
        let new = asker.answers(candidate, cases, output, IDLE);
        let new = new.map_err(|problem| of(candidate, problem))?;
        let old = champion.map(|champion| {
            let old = asker.answers(champion, cases, output, SERVING);
            old.map_err(|problem| of(champion, problem))
        });
        let old = old.transpose()?;
        for (index, case) in cases.iter().enumerate() {
            let named = |problem: String| format!("`{}`: {problem}", case.name);
            let rows = new.get(index).map_or(0, |answer| answer.rows);
            if candidate.signature().batched && rows != case.labels.len() {
                let problem = format!("{} labels for {rows} rows", case.labels.len());
                return Err(named(problem).into());
            }
            let (reader, classes) = (&self.reader, &mut self.classes);
            reader
                .labels(&case.labels, classes, &mut self.labels)
                .map_err(named)?;
            let sides = [
                (Some(&new), &mut self.candidate),
                (old.as_ref(), &mut self.champion),
            ];
            for (answers, rows) in sides {
                let answer = answers.and_then(|answers| answers.get(index)?.outputs.first());
                if let Some(answer) = answer {
                    let count = case.labels.len();
                    reader.predictions(answer, count, classes, rows).map_err(named)?;
                }
            }
        }
        Ok(())
    }

    fn conclude(&self, limits: &Quality, champion: bool, dataset: String) -> Result<Comparison, String> {
        let (labels, old, new) = (&self.labels, &self.champion, &self.candidate);
        let yes: Vec<bool> = labels.numbers.iter().map(|label| *label == 1.0).collect();
        let candidate = match limits.metric {
            QualityMetric::Accuracy => quality::accuracy(&labels.classes, &new.classes),
            QualityMetric::Auc => quality::auc(&yes, &new.numbers),
            QualityMetric::Rmse => quality::rmse(&labels.numbers, &new.numbers),
        };
        let candidate = candidate.map_err(|error| error.to_string())?;
        let rows = match limits.metric {
            QualityMetric::Accuracy => LabelledRows::Classes(&labels.classes, &old.classes, &new.classes),
            QualityMetric::Auc => LabelledRows::Scores(&yes, &old.numbers, &new.numbers),
            QualityMetric::Rmse => LabelledRows::Values(&labels.numbers, &old.numbers, &new.numbers),
        };
        let report = champion.then(|| sudden_drop(limits, rows)).transpose();
        Ok(Comparison {
            dataset,
            rows: labels.classes.len().max(labels.numbers.len()),
            candidate,
            report: report.map_err(|error| error.to_string())?,
        })
    }
}

/// What the gate says of a comparison.
pub(super) fn gate(limits: &Quality, comparison: &Comparison) -> Gate {
    let metric = name(limits.metric);
    let Comparison {
        dataset,
        rows,
        candidate,
        ..
    } = comparison;
    let of = json!({ "dataset_sha256": dataset, "rows": rows });
    let Some(report) = &comparison.report else {
        return Gate {
            name: "quality",
            outcome: Outcome::Skipped,
            why: format!("{metric} {candidate:.6} on {rows} rows; there is no version to compare with"),
            evidence: merged(of, json!({ "metric": limits.metric, "candidate": candidate })),
        };
    };
    let why = format!(
        "{metric} {:.6} after {:.6} on {rows} rows: a drop of {:.6}, below {:.6} with {} % certainty, p = {:.4}; at most {}",
        report.candidate,
        report.champion,
        report.drop,
        report.upper,
        100.0 * (1.0 - limits.alpha),
        report.p,
        limits.max_drop,
    );
    Gate {
        name: "quality",
        outcome: report.outcome.into(),
        why,
        evidence: merged(
            of,
            json!({ "report": report, "max_drop": limits.max_drop, "alpha": limits.alpha }),
        ),
    }
}

/// What a metric is called.
pub(super) fn name(metric: QualityMetric) -> &'static str {
    match metric {
        QualityMetric::Accuracy => "accuracy",
        QualityMetric::Auc => "AUC",
        QualityMetric::Rmse => "RMSE",
    }
}

/// Both objects in one.
fn merged(mut one: Value, other: Value) -> Value {
    if let (Some(one), Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}

//! The quality of earlier versions, by model, metric and data set: what the trend gate (G2) looks back on.
//!
//! ```text
//! <data_dir>/state/rollout/<model>.quality    replaced when a version was compared
//! ```
//!
//! A value counts only on the same rows. There is no store of artifacts yet: earlier versions are not evaluated again on
//! a new data set, and the trend begins anew with it.

use std::path::{Path, PathBuf};

use crossfade_journal::snapshot;
use crossfade_rollout::gate::slow_degradation;
use crossfade_rollout::policy::{QualityMetric, Trend};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::quality;
use super::report::Gate;

/// Values that are kept; the oldest go first.
const MOST: usize = 1000;

/// What a version was worth on a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Point {
    pub(crate) metric: QualityMetric,
    /// sha256 of the rows.
    pub(crate) dataset: String,
    pub(crate) version: u64,
    pub(crate) value: f64,
}

/// Every value that is known, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct History(Vec<Point>);

impl History {
    /// Notes a value, in place of an earlier one of the same version on the same rows.
    pub(crate) fn note(&mut self, point: Point) {
        let same = |known: &Point| {
            (known.metric, &known.dataset, known.version) == (point.metric, &point.dataset, point.version)
        };
        self.0.retain(|known| !same(known));
        self.0.push(point);
        let surplus = self.0.len().saturating_sub(MOST);
        self.0.drain(..surplus);
    }

    /// The values of these versions, in their order, and how many of them have none.
    fn of(&self, metric: QualityMetric, dataset: &str, versions: &[u64]) -> (Vec<f64>, usize) {
        let value = |version: &u64| {
            let mut points = self.0.iter();
            let point = points
                .find(|point| (point.metric, &*point.dataset, point.version) == (metric, dataset, *version));
            point.map(|point| point.value)
        };
        let values: Vec<f64> = versions.iter().filter_map(value).collect();
        let missing = versions.len() - values.len();
        (values, missing)
    }

    /// The trend gate.
    ///
    /// * `before`: the versions that were live before the candidate, oldest first
    pub(super) fn gate(
        &self,
        limits: &Trend,
        metric: QualityMetric,
        dataset: &str,
        before: &[u64],
        candidate: f64,
    ) -> Gate {
        // No more of them count.
        let earlier = before.len().saturating_sub(limits.last.saturating_sub(1));
        let (values, missing) = self.of(metric, dataset, before.get(earlier..).unwrap_or_default());
        let report = match slow_degradation(limits, metric, &values, candidate) {
            Ok(report) => report,
            Err(error) => return Gate::broken("trend", error.to_string()),
        };
        let unknown = match missing {
            0 => String::new(),
            some => {
                format!("; {some} earlier versions have no value on these rows and are not evaluated again")
            }
        };
        let slope = match report.slope {
            Some(slope) => format!("a slope of {slope:.6} per version, at least {}", limits.min_slope),
            None => "too few versions for a slope".to_owned(),
        };
        let why = format!(
            "{} {candidate:.6}, {:.6} from the best of {} versions, at most {}; {slope}{unknown}",
            quality::name(metric),
            report.below_best,
            report.points.len(),
            limits.best_minus,
        );
        Gate {
            name: "trend",
            outcome: report.outcome.into(),
            why,
            evidence: json!({
                "dataset_sha256": dataset, "metric": metric, "report": report, "missing": missing, "limits": limits,
            }),
        }
    }
}

/// Where a model's history lies.
fn path(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.quality"))
}

/// The history of a model; none where there is none, or where it cannot be read, with a warning.
pub(super) fn read(folder: &Path, model: &str) -> History {
    let path = path(folder, model);
    let found = snapshot::read(&path).map_err(|error| error.to_string());
    let found = found.and_then(|bytes| match bytes {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        None => Ok(History::default()),
    });
    found.unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "the quality of earlier versions cannot be used");
        History::default()
    })
}

/// Keeps the history of a model.
///
/// Errors: it cannot be written.
pub(super) fn keep(folder: &Path, model: &str, history: &History) -> Result<(), String> {
    let bytes = serde_json::to_vec(history).map_err(|error| error.to_string())?;
    snapshot::replace(&path(folder, model), &bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::report::Outcome;

    fn point(version: u64, value: f64) -> Point {
        Point {
            metric: QualityMetric::Accuracy,
            dataset: "d".into(),
            version,
            value,
        }
    }

    const LIMITS: Trend = Trend {
        last: 10,
        best_minus: 0.01,
        min_slope: -0.0005,
    };

    /// rollout.md §6: each version is 0.3 points worse, so that no single step is too large.
    #[test]
    fn a_slow_decline_is_stopped_at_the_fifth_version() {
        let mut history = History::default();
        let mut outcomes = Vec::new();
        for version in 1..=5_u32 {
            let value = 0.9 - 0.003 * f64::from(version - 1);
            let before: Vec<u64> = (1..u64::from(version)).collect();
            let gate = history.gate(&LIMITS, QualityMetric::Accuracy, "d", &before, value);
            outcomes.push(gate.outcome);
            history.note(point(version.into(), value));
        }
        let passed = Outcome::Passed;
        assert_eq!(outcomes, [passed, passed, passed, passed, Outcome::Failed]);
    }

    #[test]
    fn only_the_same_rows_and_versions_that_were_live_count() {
        let mut history = History::default();
        history.note(point(1, 0.9));
        history.note(point(2, 0.99));
        history.note(Point {
            dataset: "other".into(),
            ..point(3, 0.99)
        });
        let gate = history.gate(&LIMITS, QualityMetric::Accuracy, "d", &[1, 3], 0.9);
        assert_eq!(gate.outcome, Outcome::Passed, "{}", gate.why);
        assert_eq!(gate.evidence["report"]["points"], json!([0.9, 0.9]));
        assert!(
            gate.why.contains("1 earlier versions have no value"),
            "{}",
            gate.why
        );
        history.note(point(1, 0.95));
        let gate = history.gate(&LIMITS, QualityMetric::Accuracy, "d", &[1], 0.9);
        assert_eq!(gate.outcome, Outcome::Failed, "a value is replaced: {}", gate.why);
    }

    #[test]
    fn a_history_is_read_back_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::default();
        (0..MOST as u64 + 5).for_each(|version| history.note(point(version, 0.5)));
        assert_eq!(history.0.len(), MOST);
        keep(folder.path(), "m", &history).unwrap();
        assert_eq!(read(folder.path(), "m"), history);
        assert_eq!(read(folder.path(), "n"), History::default());
        std::fs::write(path(folder.path(), "m"), "broken").unwrap();
        assert_eq!(read(folder.path(), "m"), History::default());
    }
}

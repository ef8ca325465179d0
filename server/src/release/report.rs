//! What the gates said of a candidate, and on what evidence.

use std::collections::BTreeMap;

use crossfade_journal::Hash;
use crossfade_journal::audit::canonical::canonical;
use crossfade_rollout::gate::GateOutcome;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The candidate may go on.
    Passed,
    /// It may not.
    Failed,
    /// The rows are too few to tell; the candidate may go on.
    Inconclusive,
    /// There was nothing to compare with; the candidate may go on.
    Skipped,
}

impl From<GateOutcome> for Outcome {
    fn from(outcome: GateOutcome) -> Self {
        match outcome {
            GateOutcome::Passed => Outcome::Passed,
            GateOutcome::Failed => Outcome::Failed,
            GateOutcome::Inconclusive => Outcome::Inconclusive,
        }
    }
}

impl Outcome {
    /// In lower case.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Inconclusive => "inconclusive",
            Outcome::Skipped => "skipped",
        }
    }
}

/// One gate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Gate {
    /// Its name, such as `quality`.
    pub(crate) name: &'static str,
    /// What it says.
    pub(crate) outcome: Outcome,
    /// Why, in a line.
    pub(crate) why: String,
    /// The numbers behind it.
    pub(crate) evidence: Value,
}

impl Gate {
    /// A gate that could not be run at all: the candidate may not go on.
    pub(super) fn broken(name: &'static str, why: String) -> Self {
        Gate {
            name,
            outcome: Outcome::Failed,
            why,
            evidence: Value::Null,
        }
    }
}

/// All gates of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct GateReport {
    /// The model.
    pub(crate) model: String,
    /// The candidate; text, because canonical JSON has no integer of 64 bits.
    pub(crate) version: String,
    /// The version that it was compared with.
    pub(crate) champion: Option<String>,
    /// In the order in which they ran.
    pub(crate) gates: Vec<Gate>,
}

impl GateReport {
    /// Whether the candidate may go on.
    pub(crate) fn passed(&self) -> bool {
        self.gates.iter().all(|gate| gate.outcome != Outcome::Failed)
    }

    /// Why the candidate may not go on, or what there is to know of one that may, in a line.
    pub(crate) fn gist(&self) -> String {
        let failed = |gate: &&Gate| gate.outcome == Outcome::Failed;
        let some: Vec<&Gate> = match self.passed() {
            true => self.gates.iter().collect(),
            false => self.gates.iter().filter(failed).collect(),
        };
        let lines = some.iter().map(|gate| format!("{}: {}", gate.name, gate.why));
        lines.collect::<Vec<_>>().join("; ")
    }

    /// The one spelling of the report, which is kept and whose digest is approved.
    pub(crate) fn canonical(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        // Evidence is made of doubles, counts and texts; something else must not stop a release from being recorded.
        canonical(&value).unwrap_or_else(|error| json!({ "unreadable": error.to_string() }).to_string())
    }
}

/// What an approval names as `report_sha256`: sha256 of a report's [canonical spelling](GateReport::canonical).
///
/// * `report`: as it was written down with the release; not made again, since numbers that are read back from a text may
///   differ in their last digit
pub(crate) fn report_sha256(report: &str) -> Hash {
    Hash(Sha256::digest(report.as_bytes()).into())
}

/// Whether each gate of a report that was written down let its candidate pass.
pub(super) fn passed(report: &str) -> BTreeMap<String, bool> {
    let report: Value = serde_json::from_str(report).unwrap_or_default();
    let gates = report["gates"].as_array().into_iter().flatten();
    let passed = |gate: &Value| {
        let name = gate["name"].as_str()?.to_owned();
        Some((name, gate["outcome"] != Outcome::Failed.name()))
    };
    gates.filter_map(passed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_one_spelling_and_one_digest() {
        let report = |outcome| GateReport {
            model: "m".into(),
            version: u64::MAX.to_string(),
            champion: None,
            gates: vec![Gate {
                name: "golden",
                outcome,
                why: "1 pair".into(),
                evidence: json!({ "worst": 0.1, "rows": 1, "nothing": f64::NAN }),
            }],
        };
        let text = report(Outcome::Passed).canonical();
        let expected = format!(
            r#"{{"champion":null,"gates":[{{"evidence":{{"nothing":null,"rows":1,"worst":0.1}},"name":"golden","outcome":"passed","why":"1 pair"}}],"model":"m","version":"{}"}}"#,
            u64::MAX
        );
        assert_eq!(text, expected);
        let digest = report_sha256(&text);
        assert_eq!(digest, report_sha256(&report(Outcome::Passed).canonical()));
        let failed = report(Outcome::Failed).canonical();
        assert_ne!(digest, report_sha256(&failed));
        let of = |passed| BTreeMap::from([("golden".to_owned(), passed)]);
        assert_eq!((passed(&text), passed(&failed)), (of(true), of(false)));
        assert_eq!(passed("broken"), BTreeMap::new());
    }

    #[test]
    fn only_a_failed_gate_holds_a_candidate_back() {
        let gate = |outcome| Gate {
            name: "quality",
            outcome,
            why: "so".into(),
            evidence: Value::Null,
        };
        let report = |outcomes: &[Outcome]| GateReport {
            model: "m".into(),
            version: "1".into(),
            champion: None,
            gates: outcomes.iter().copied().map(gate).collect(),
        };
        assert!(report(&[Outcome::Passed, Outcome::Inconclusive, Outcome::Skipped]).passed());
        let failed = report(&[Outcome::Passed, Outcome::Failed]);
        assert_eq!(
            (failed.passed(), failed.gist()),
            (false, "quality: so".to_owned())
        );
    }
}

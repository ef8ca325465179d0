//! The gates of one candidate, in their order: by the server before any traffic, and by `crossfade test` alike.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crossfade_rollout::policy::{Decision, Gates, Performance, Quality};
use serde_json::{Value, json};

use super::asker::{Asker, IDLE, NoAnswer};
use super::history::{History, Point};
use super::report::{Gate, GateReport, Outcome};
use super::{closed_load, golden, quality};
use crate::dataset::{self, Case, Reading, Want};
use crate::servable::Servable;

/// Cases of which a load is made.
const LOAD_CASES: usize = 64;

/// A candidate, and what it is compared with.
pub(crate) struct Examination<'a> {
    pub(crate) candidate: &'a Servable,
    /// The version that it would replace.
    pub(crate) champion: Option<&'a Servable>,
    /// The model's.
    pub(crate) directory: &'a Path,
    pub(crate) gates: &'a Gates,
    pub(crate) decision: Option<&'a Decision>,
    /// The versions that were live before it, oldest first, the champion last.
    pub(crate) before: &'a [u64],
    /// What they were worth.
    pub(crate) history: &'a History,
    /// Resident memory before the candidate was loaded, bytes.
    pub(crate) resident_before: u64,
    /// The process ends.
    pub(crate) stop: &'a AtomicBool,
}

/// What the gates said.
pub(crate) struct Examined {
    pub(crate) report: GateReport,
    /// Values that are worth keeping.
    pub(crate) points: Vec<Point>,
    /// How far the candidate's known answers are off at most.
    pub(crate) golden_diff: Option<f64>,
}

impl Examination<'_> {
    /// Runs every gate that the policy asks for; one that fails does not keep the others from being run.
    ///
    /// Errors: `None` if the process ends meanwhile. Blocks: for load threads.
    pub(crate) fn run(&self) -> Option<Examined> {
        self.all().ok()
    }

    fn all(&self) -> Result<Examined, NoAnswer> {
        let mut examined = Examined {
            report: GateReport {
                model: self.candidate.name().to_string(),
                version: self.candidate.version().to_string(),
                champion: self.champion.map(|champion| champion.version().to_string()),
                gates: vec![self.loaded()],
            },
            points: Vec::new(),
            golden_diff: None,
        };
        let asker = match Asker::new(self.stop) {
            Ok(asker) => asker,
            Err(problem) => {
                let gate = settled("load", Err(problem))?;
                examined.report.gates.push(gate);
                return Ok(examined);
            }
        };
        if self.gates.golden.is_some() {
            let gate = settled("golden", self.golden(&asker, &mut examined.golden_diff))?;
            examined.report.gates.push(gate);
        }
        if let Some(limits) = &self.gates.quality {
            self.quality(limits, &asker, &mut examined)?;
        }
        if let Some(limits) = &self.gates.performance {
            let gate = settled("performance", self.performance(limits, &asker))?;
            examined.report.gates.push(gate);
        }
        Ok(examined)
    }

    /// It is loaded and warm, or it would not be here.
    fn loaded(&self) -> Gate {
        let bytes = self.candidate.memory_bytes();
        Gate {
            name: "load",
            outcome: Outcome::Passed,
            why: format!("loaded and warm, {bytes} bytes of weights and instances"),
            evidence: json!({ "memory_bytes": bytes, "platform": self.candidate.platform() }),
        }
    }

    fn golden(&self, asker: &Asker<'_>, diff: &mut Option<f64>) -> Result<Gate, NoAnswer> {
        let Some(limits) = &self.gates.golden else {
            return Err(NoAnswer::Wrong("it is not asked for".to_owned()));
        };
        let data = self.directory.join(&limits.file);
        let report = golden::judge(limits, &data, self.candidate, asker, IDLE)?;
        *diff = report.worst.map(|row| row.max_abs);
        Ok(golden::gate(&report))
    }

    /// The comparison with the champion, and the trend, which looks at the same value.
    fn quality(&self, limits: &Quality, asker: &Asker<'_>, examined: &mut Examined) -> Result<(), NoAnswer> {
        let data = self.directory.join(&limits.data);
        let compared = quality::compare(limits, self.decision, &data, self.candidate, self.champion, asker);
        let comparison = match compared {
            Ok(comparison) => comparison,
            Err(NoAnswer::Stopped) => return Err(NoAnswer::Stopped),
            Err(NoAnswer::Wrong(problem)) => {
                examined.report.gates.push(Gate::broken("quality", problem));
                if self.gates.trend.is_some() {
                    let why = "the candidate has no value on the labelled rows".to_owned();
                    examined.report.gates.push(Gate::broken("trend", why));
                }
                return Ok(());
            }
        };
        examined.report.gates.push(quality::gate(limits, &comparison));
        let point = |version: u64, value: f64| Point {
            metric: limits.metric,
            dataset: comparison.dataset.clone(),
            version,
            value,
        };
        let mut history = self.history.clone();
        if let (Some(champion), Some(report)) = (self.champion, &comparison.report) {
            examined.points.push(point(champion.version(), report.champion));
        }
        examined
            .points
            .iter()
            .cloned()
            .for_each(|point| history.note(point));
        if let Some(trend) = &self.gates.trend {
            let (dataset, value) = (&*comparison.dataset, comparison.candidate);
            let gate = history.gate(trend, limits.metric, dataset, self.before, value);
            examined.report.gates.push(gate);
        }
        examined
            .points
            .push(point(self.candidate.version(), comparison.candidate));
        Ok(())
    }

    fn performance(&self, limits: &Performance, asker: &Asker<'_>) -> Result<Gate, NoAnswer> {
        let (cases, from) = self.load_cases()?;
        let load = closed_load::run(self.candidate, &cases, self.resident_before, asker)?;
        let mut gate = closed_load::gate(limits, &load);
        gate.evidence["inputs"] = Value::from(from);
        Ok(gate)
    }

    /// Known inputs, or made-up ones where there are none.
    fn load_cases(&self) -> Result<(Vec<Case>, &'static str), String> {
        let golden = self.gates.golden.as_ref().map(|golden| &golden.file);
        let labelled = self.gates.quality.as_ref().map(|quality| &quality.data);
        let reading = Reading {
            signature: self.candidate.signature(),
            version: self.candidate.version(),
            want: Want::Inputs,
        };
        for (data, from) in [(golden, "golden"), (labelled, "quality")] {
            let data = data
                .map(|data| self.directory.join(data))
                .filter(|data| data.exists());
            let Some(data) = data else { continue };
            let cases = dataset::open(&data, reading).map_err(|error| error.to_string())?;
            let cases: Result<Vec<Case>, _> = cases.take(LOAD_CASES).collect();
            let cases = cases.map_err(|error| error.to_string())?;
            if !cases.is_empty() {
                return Ok((cases, from));
            }
        }
        let made_up = Case {
            name: "made up".to_owned(),
            inputs: self.candidate.made_up(),
            outputs: Vec::new(),
            labels: Vec::new(),
        };
        Ok((vec![made_up], "made up"))
    }
}

/// What a version is worth on labelled rows, compared with nothing.
///
/// * `directory`: the model's
///
/// Errors: as of the quality gate. Blocks.
pub(crate) fn value(
    limits: &Quality,
    decision: Option<&Decision>,
    directory: &Path,
    version: &Servable,
    stop: &AtomicBool,
) -> Result<Point, String> {
    let data = directory.join(&limits.data);
    let compared =
        Asker::new(stop).and_then(|asker| quality::compare(limits, decision, &data, version, None, &asker));
    match compared {
        Ok(comparison) => Ok(Point {
            metric: limits.metric,
            dataset: comparison.dataset,
            version: version.version(),
            value: comparison.candidate,
        }),
        Err(NoAnswer::Wrong(problem)) => Err(problem),
        Err(NoAnswer::Stopped) => Err("the process ends".to_owned()),
    }
}

/// A gate that could not be run has failed; only the end of the process is no answer.
fn settled(name: &'static str, gate: Result<Gate, NoAnswer>) -> Result<Gate, NoAnswer> {
    match gate {
        Err(NoAnswer::Wrong(problem)) => Ok(Gate::broken(name, problem)),
        other => other,
    }
}

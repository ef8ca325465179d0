//! Results of gates in JUnit's XML, which build servers show: a suite per model, a case per gate.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::Tested;
use crate::release::report::{Gate, Outcome};

/// The report of all models.
pub(super) fn report(tested: &[Tested]) -> Report {
    let mut report = Report::new("crossfade test");
    for Tested { report: gates, took } in tested {
        let name = format!("{}/{}", gates.model, gates.version);
        let mut suite = TestSuite::new(name.clone());
        suite.set_time(*took);
        suite.add_test_cases(gates.gates.iter().map(|gate| case(&name, gate)));
        report.add_test_suite(suite);
    }
    report
}

fn case(suite: &str, gate: &Gate) -> TestCase {
    let status = match gate.outcome {
        Outcome::Passed | Outcome::Inconclusive => TestCaseStatus::success(),
        Outcome::Failed => {
            let mut failed = TestCaseStatus::non_success(NonSuccessKind::Failure);
            failed.set_message(gate.why.clone());
            failed.set_type("gate");
            failed
        }
        Outcome::Skipped => {
            let mut skipped = TestCaseStatus::skipped();
            skipped.set_message(gate.why.clone());
            skipped
        }
    };
    let mut case = TestCase::new(gate.name, status);
    case.set_classname(suite);
    case.set_system_out(format!(
        "{}: {}\n{}",
        gate.outcome.name(),
        gate.why,
        gate.evidence
    ));
    case
}

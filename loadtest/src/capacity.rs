//! Capacity: the highest rate that holds an objective, found by runs and stated with its confidence.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::result::{LoadKind, RunResult, SCHEMA};
use crate::sweep::Sweep;

pub use objective::{Micros, Objective};
pub use search::{Ending, Finding, Phase, Rung, SearchOptions};

use search::{Outcome, Search, Step};

pub mod search;

mod objective;

/// What a capacity search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// The objective, in words.
    pub objective: String,
    /// The highest rate that held by its repeats, requests per second; absent if none did.
    pub rate: Option<f64>,
    /// The answer and how sure it is, in words.
    pub statement: String,
    /// The rates on both sides of the border, and why the search ended.
    pub finding: Finding,
    /// What each run was for, in the order of the sweep's runs.
    pub probes: Vec<Probe>,
}

/// One run of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Requests per second asked for.
    pub rate: f64,
    /// What part of the search it belongs to.
    pub phase: Phase,
    /// Whether the objective held.
    pub held: bool,
    /// What was missed, in words.
    pub misses: Vec<String>,
}

/// Finds the highest rate at which `run` holds `objective`, telling `observer` of each run when it is over.
///
/// `run` makes one run, warm-up included, at the rate it is given. The sweep holds every run that was made.
///
/// Errors: those of `run`; what was measured until then is lost.
pub async fn find(
    objective: &Objective,
    options: SearchOptions,
    mut run: impl AsyncFnMut(f64) -> Result<RunResult>,
    mut observer: impl FnMut(&Probe),
) -> Result<Sweep> {
    let mut search = Search::new(options);
    let (mut runs, mut probes) = (Vec::new(), Vec::new());
    let finding = loop {
        let (rate, phase) = match search.step() {
            Step::Done(finding) => break finding,
            Step::Run { rate, phase } => (rate, phase),
        };
        let result = run(rate).await?;
        let (outcome, misses) = judge(objective, &result);
        search.record(outcome);
        let probe = Probe {
            rate,
            phase,
            held: outcome == Outcome::Held,
            misses,
        };
        observer(&probe);
        probes.push(probe);
        runs.push(result);
    };
    let capacity = Capacity {
        objective: objective.to_string(),
        rate: finding.holds.as_ref().map(|rung| rung.rate),
        statement: statement(objective, &finding),
        finding,
        probes,
    };
    Ok(Sweep {
        schema: SCHEMA,
        capacity: Some(capacity),
        runs,
    })
}

/// A run that holds the objective says so of the server even when the tester was late: lateness only adds to latencies.
/// One that misses it is the tester's doing where its lateness is of the size of the objective; a tester that was a little
/// late beside a server that was very late is not the one to blame.
fn judge(objective: &Objective, run: &RunResult) -> (Outcome, Vec<String>) {
    let mut misses = objective.misses(run);
    if misses.is_empty() {
        return (Outcome::Held, misses);
    }
    let tester = &run.tester;
    // A closed loop sends as fast as it is answered: it cannot be late.
    let could_be_late = tester.is_bottleneck && run.load.kind == LoadKind::Open;
    if could_be_late && tester.late_p99_us >= objective.tightest_us() / 2 {
        misses.push(format!("the tester fell behind: {}", tester.why));
        return (Outcome::TesterLimited, misses);
    }
    (Outcome::Failed, misses)
}

/// The answer in words, with what the repeats allow to be said about it.
fn statement(objective: &Objective, finding: &Finding) -> String {
    let repeats = |rung: &Rung| {
        let (low, high) = rung.interval();
        format!(
            "{} of {} runs held (95 % interval of a run's chance to hold: {:.0}–{:.0} %, Clopper–Pearson)",
            rung.held,
            rung.runs,
            low * 100.0,
            high * 100.0
        )
    };
    let mut text = match &finding.holds {
        Some(rung) => format!("{:.0} requests/s hold {objective}: {}", rung.rate, repeats(rung)),
        None => format!("no rate was found to hold {objective}"),
    };
    if let Some(rung) = &finding.fails {
        text.push_str(&format!("; at {:.0} requests/s {}", rung.rate, repeats(rung)));
    }
    text.push_str(match finding.ending {
        Ending::Bracketed => "",
        Ending::BelowLowest => {
            "; that is the lowest rate of the search: lower it with --lowest-rate, or relax the objective"
        }
        Ending::AboveHighest => "; that is the highest rate of the search: the capacity is at least this",
        Ending::TesterLimited => {
            "; there the tester itself was the limit: the capacity is at least what held"
        }
        Ending::OutOfRuns => "; the search ran out of runs before the border was decided: raise --most-runs",
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::fixtures;
    use proptest::prelude::*;

    /// Waiting times of an M/M/1 queue served at `capacity`: exponential with a mean of 1 / (capacity − rate); at or past
    /// the capacity the queue grows all the time. The quantiles stand for the sample, so that runs do not differ.
    fn queue(capacity: f64, rate: f64) -> RunResult {
        let mean_us = if rate < capacity {
            1e6 / (capacity - rate)
        } else {
            10e6
        };
        let quantiles = (0..1_000).map(|index| f64::from(index) / 1_000.0);
        #[expect(clippy::cast_possible_truncation, reason = "microseconds, rounded down")]
        let latencies: Vec<u64> = quantiles
            .map(|share| (-mean_us * (1.0 - share).ln()) as u64)
            .collect();
        fixtures::run(rate, &latencies)
    }

    fn run(objective: &str, server: impl Fn(f64) -> RunResult) -> Sweep {
        let objective: Objective = objective.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = find(
            &objective,
            SearchOptions::default(),
            async |rate| Ok(server(rate)),
            |_| (),
        );
        runtime.block_on(found).unwrap()
    }

    #[test]
    fn statement_gives_both_sides_of_the_border_with_their_intervals() {
        let sweep = run("p99=20ms,errors=0", |rate| queue(1_000.0, rate));
        let capacity = sweep.capacity.unwrap();
        assert_eq!(capacity.probes.len(), sweep.runs.len());
        for part in [
            "hold p99 ≤ 20 ms, errors ≤ 0: 5 of 5 runs held",
            "48–100 %",
            "0 of 5 runs held",
            "0–52 %",
        ] {
            assert!(
                capacity.statement.contains(part),
                "{part}: {}",
                capacity.statement
            );
        }
    }

    #[test]
    fn tester_that_is_the_limit_is_named() {
        let capacity = beside_a_late_tester(15_000);
        assert_eq!(capacity.finding.ending, Ending::TesterLimited);
        assert!(
            capacity.statement.contains("the tester itself was the limit"),
            "{}",
            capacity.statement
        );
        assert!(
            capacity
                .probes
                .iter()
                .any(|probe| probe.misses.iter().any(|miss| miss.contains("no core left")))
        );
    }

    #[test]
    fn tester_that_is_late_by_far_less_than_the_objective_is_not_blamed() {
        assert_eq!(beside_a_late_tester(2_000).finding.ending, Ending::Bracketed);
    }

    /// The capacity of a server that fails past 2,000 requests per second, where the tester is late too.
    fn beside_a_late_tester(late_p99_us: u64) -> Capacity {
        let sweep = run("p99=20ms", |rate| {
            let mut run = queue(100_000.0, rate);
            if rate > 2_000.0 {
                run = queue(1_000.0, rate);
                run.tester.is_bottleneck = true;
                run.tester.late_p99_us = late_p99_us;
                run.tester.why = "it had no core left".to_owned();
            }
            run
        });
        sweep.capacity.unwrap()
    }

    #[test]
    fn errors_end_the_capacity_as_latencies_do() {
        let sweep = run("p99=1s,errors=0", |rate| {
            let mut run = queue(1e6, rate);
            if rate > 500.0 {
                run.total.errors.insert("503".to_owned(), 1);
            }
            run
        });
        let rate = sweep.capacity.unwrap().rate.unwrap();
        assert!((475.0..=500.0).contains(&rate), "{rate}");
    }

    #[test]
    fn failing_run_fails_the_search() {
        let objective: Objective = "p99=1s".parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = find(
            &objective,
            SearchOptions::default(),
            async |_| anyhow::bail!("gone"),
            |_| (),
        );
        assert_eq!(runtime.block_on(found).unwrap_err().to_string(), "gone");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn capacity_of_a_queue_is_where_its_p99_crosses(service in 500.0_f64..50_000.0) {
            // The p99 of an M/M/1 queue is ln(100) / (service − rate): it crosses 20 ms at this rate.
            let expected = service - 100.0_f64.ln() / 0.020;
            let sweep = run("p99=20ms,errors=0", |rate| queue(service, rate));
            let rate = sweep.capacity.unwrap().rate.unwrap();
            prop_assert!((expected * 0.94..=expected * 1.01).contains(&rate), "{} for {}", rate, expected);
        }
    }
}

//! `run … --find-capacity --slo p99=20ms,errors=0`: the highest rate that holds an objective.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use clap::Args;

use super::share;
use crate::arrivals::Arrivals;
use crate::capacity::{self, Objective, Phase, Probe, SearchOptions};
use crate::engine;
use crate::live::Live;
use crate::plan::{Load, Plan};
use crate::sweep::Sweep;

/// How a capacity is searched for.
#[derive(Debug, Clone, Args)]
pub struct SearchArgs {
    /// Search for the highest rate that holds --slo; each try is a whole run, warm-up included.
    #[arg(long, requires = "slo", help_heading = "Capacity")]
    pub find_capacity: bool,
    /// What must hold: latencies by mean, p50, p90, p95, p99, p99.9 or max, and errors as a count or a percentage, such as
    /// p99=20ms,errors=0
    #[arg(
        long,
        value_name = "OBJECTIVE",
        requires = "find_capacity",
        help_heading = "Capacity"
    )]
    pub slo: Option<Objective>,
    /// Give up below this rate.
    #[arg(long, value_name = "PER_SECOND", default_value_t = SearchOptions::default().lowest_rate, help_heading = "Capacity")]
    pub lowest_rate: f64,
    /// Stop at this rate.
    #[arg(long, value_name = "PER_SECOND", default_value_t = SearchOptions::default().highest_rate, help_heading = "Capacity")]
    pub highest_rate: f64,
    /// The step between rates at the border.
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = share, help_heading = "Capacity")]
    pub resolution: f64,
    /// How many runs decide a rate at the border.
    #[arg(long, value_name = "RUNS", default_value_t = SearchOptions::default().repeats, help_heading = "Capacity")]
    pub repeats: u32,
    /// The most runs in all.
    #[arg(long, value_name = "RUNS", default_value_t = SearchOptions::default().most_runs, help_heading = "Capacity")]
    pub most_runs: u32,
}

impl SearchArgs {
    /// Searches with runs of `plan` at other rates, showing each on `live`; the plan's own rate is tried first.
    ///
    /// Errors: if the arguments or the plan do not suit a search, or if a run cannot be made.
    pub async fn search<W: Write + Send>(&self, plan: &Plan, live: &mut Live<W>) -> Result<Sweep> {
        let Some(objective) = &self.slo else {
            bail!("--find-capacity needs an objective: add --slo p99=20ms,errors=0");
        };
        let options = self.options(plan)?;
        // Two closures write to the view, never at once; the lock is not held while a run is awaited.
        let live = Mutex::new(live);
        let run = async |rate| {
            let plan = plan.at_rate(rate);
            engine::run(&plan, &mut |tick| {
                live.lock().unwrap_or_else(PoisonError::into_inner).tick(tick)
            })
            .await
        };
        let observer = |probe: &Probe| {
            live.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note(&note(probe));
        };
        capacity::find(objective, options, run, observer).await
    }

    fn options(&self, plan: &Plan) -> Result<SearchOptions> {
        let first_rate = match &plan.load {
            Load::Open(Arrivals::Constant(rate) | Arrivals::Poisson(rate)) => *rate,
            Load::Open(_) => {
                bail!("a search sets the rate itself: leave out --arrivals, or give poisson or constant")
            }
            Load::Closed { .. } => {
                bail!(
                    "a capacity is a rate: leave out --concurrency, and give --rate as the first one to try"
                )
            }
        };
        if !plan.during.is_empty() {
            bail!("--find-capacity and --during do not go together: find the capacity first, then run at it");
        }
        let (lowest, highest) = (self.lowest_rate, self.highest_rate);
        if !(lowest > 0.0 && lowest < highest && highest.is_finite()) {
            bail!("--lowest-rate {lowest} must be above zero and below --highest-rate {highest}");
        }
        if !(0.001..=0.5).contains(&self.resolution) || self.repeats == 0 {
            bail!("--resolution must be between 0.1% and 50%, and --repeats at least 1");
        }
        Ok(SearchOptions {
            first_rate: first_rate.clamp(lowest, highest),
            lowest_rate: lowest,
            highest_rate: highest,
            resolution: self.resolution,
            repeats: self.repeats,
            most_runs: self.most_runs,
        })
    }
}

/// One line that stays on the terminal for each run of the search.
fn note(probe: &Probe) -> String {
    let phase = match probe.phase {
        Phase::Bracket => "bracket",
        Phase::Bisect => "bisect",
        Phase::Border => "border",
    };
    let outcome = if probe.held {
        "held".to_owned()
    } else {
        probe.misses.join("; ")
    };
    format!("{phase:>9} {:>8.0}/s  {outcome}", probe.rate)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::plan::MixEntry;
    use crate::target::{Protocol, Target};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SearchArgs,
    }

    fn parse(line: &[&str]) -> Result<SearchArgs, clap::Error> {
        Line::try_parse_from([&["run"], line].concat()).map(|line| line.args)
    }

    fn plan() -> Plan {
        let target = Target::resolve("http://127.0.0.1:1", Protocol::HttpBinary, None);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Plan::new(runtime.block_on(target).unwrap(), vec![MixEntry::of("iris")])
    }

    fn refused(line: &[&str], plan: &Plan) -> String {
        parse(line).unwrap().options(plan).unwrap_err().to_string()
    }

    #[test]
    fn a_search_begins_at_the_rate_of_the_run() {
        let args = parse(&["--find-capacity", "--slo", "p99=20ms", "--resolution", "2%"]).unwrap();
        let plan = Plan {
            load: Load::Open(Arrivals::Constant(250.0)),
            ..plan()
        };
        let options = args.options(&plan).unwrap();
        assert!((options.first_rate - 250.0).abs() < 1.0, "{}", options.first_rate);
        assert_eq!(options.resolution, 0.02);
        assert_eq!(options.repeats, SearchOptions::default().repeats);
    }

    #[test]
    fn a_search_and_its_objective_come_together() {
        assert!(parse(&["--find-capacity"]).is_err());
        assert!(parse(&["--slo", "p99=20ms"]).is_err());
        let error = parse(&["--find-capacity", "--slo", "errors=0"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("bounds no latency"), "{error}");
        assert!(!parse(&[]).unwrap().find_capacity);
    }

    #[test]
    fn what_is_no_search_is_refused_with_a_way_out() {
        let search = ["--find-capacity", "--slo", "p99=20ms"];
        let closed = Plan {
            load: Load::Closed { concurrency: 4 },
            ..plan()
        };
        assert!(refused(&search, &closed).contains("leave out --concurrency"));
        let ramp = Plan {
            load: Load::Open(Arrivals::Ramp(1.0, 9.0)),
            ..plan()
        };
        assert!(refused(&search, &ramp).contains("leave out --arrivals"));
        let upside_down = [&search[..], &["--lowest-rate", "10", "--highest-rate", "5"]].concat();
        assert!(refused(&upside_down, &plan()).contains("below --highest-rate"));
        assert!(refused(&[&search[..], &["--repeats", "0"]].concat(), &plan()).contains("at least 1"));
    }

    #[test]
    fn a_rate_below_the_lowest_starts_there() {
        let line = ["--find-capacity", "--slo", "p99=20ms", "--lowest-rate", "500"];
        let plan = Plan {
            duration: Duration::from_secs(5),
            ..plan()
        };
        assert_eq!(parse(&line).unwrap().options(&plan).unwrap().first_rate, 500.0);
    }
}

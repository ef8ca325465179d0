//! `run … --sweep 500,1000,2000`: one run at each of several rates.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;

use crate::arrivals::Arrivals;
use crate::engine;
use crate::live::Live;
use crate::plan::{Load, Plan};
use crate::result::SCHEMA;
use crate::sweep::Sweep;

/// The rates of a sweep.
#[derive(Debug, Clone, Args)]
pub struct SweepArgs {
    /// Make one run at each of these rates, for the plot of latency against offered load.
    #[arg(
        long,
        value_name = "PER_SECOND",
        value_delimiter = ',',
        conflicts_with = "find_capacity",
        help_heading = "Capacity"
    )]
    pub sweep: Vec<f64>,
}

impl SweepArgs {
    /// Makes the runs of `plan`, each with its warm-up, in the order of the rates.
    ///
    /// Errors: if a rate is not positive, the plan is a closed loop, or a run cannot be made.
    pub async fn run<W: Write + Send>(&self, plan: &Plan, live: &mut Live<W>) -> Result<Sweep> {
        if let Some(rate) = self.sweep.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
            bail!("--sweep {rate}: give rates above zero, such as --sweep 500,1000,2000");
        }
        if !matches!(
            plan.load,
            Load::Open(Arrivals::Constant(_) | Arrivals::Poisson(_))
        ) {
            bail!(
                "--sweep sets the rate of poisson or constant arrivals: leave out --concurrency and other --arrivals"
            );
        }
        let mut runs = Vec::new();
        for rate in &self.sweep {
            let run = engine::run(&plan.at_rate(*rate), &mut |tick| live.tick(tick)).await?;
            live.note(&format!(
                "{rate:>8.0}/s  {:.0}/s answered",
                run.total.throughput_per_s
            ));
            runs.push(run);
        }
        Ok(Sweep {
            schema: SCHEMA,
            capacity: None,
            runs,
        })
    }
}

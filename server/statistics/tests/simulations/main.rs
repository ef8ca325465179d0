//! Releases simulated many times: how often a good one is stopped, and how soon a bad one.
//!
//! Each case prints a row, tabs between cells, which `cargo xtask rollout-statistics` makes a page of.

mod power;
mod reference;
mod type_one;

use crossfade_statistics::random::SplitMix64;
use crossfade_statistics::{Counts, Share, log_e};

/// The level of every simulated check.
const ALPHA: f64 = 0.01;

/// A row of a table, for whoever runs the simulations to see it.
#[expect(
    clippy::print_stdout,
    reason = "the table is what the simulations are run for"
)]
fn row(table: &str, cells: &[String]) {
    println!("{table}\t{}", cells.join("\t"));
}

fn share(w: f64) -> Share {
    Share::new(w).expect("the simulation's shares are shares")
}

/// For each number of the control's events, how many of the canary's it takes to reach a level.
///
/// Evidence rises with the canary's events and falls with the control's, so looking after every event needs only
/// this table, which real calls of `log_e` fill.
struct Boundary {
    share: Share,
    level: f64,
    needed: Vec<u64>,
}

impl Boundary {
    fn new(w: f64, alpha: f64) -> Self {
        Boundary {
            share: share(w),
            level: -alpha.ln(),
            needed: Vec::new(),
        }
    }

    fn reached(&mut self, canary: u64, control: u64) -> bool {
        let row = usize::try_from(control).expect("the simulation's counts are small");
        while self.needed.len() <= row {
            let control = self.needed.len() as u64;
            let mut canary = self.needed.last().copied().unwrap_or(0);
            while log_e(Counts { canary, control }, self.share) < self.level {
                canary += 1;
            }
            self.needed.push(canary);
        }
        canary >= self.needed[row]
    }
}

/// How many trials it takes until one of probability `p` succeeds.
fn geometric(random: &mut SplitMix64, p: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "rounding down is meant")]
    #[expect(clippy::cast_sign_loss, reason = "a quotient of two negative numbers")]
    let failures = ((1.0 - random.unit()).ln() / (-p).ln_1p()) as usize;
    1 + failures
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

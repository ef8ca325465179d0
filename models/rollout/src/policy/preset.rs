//! What a tier adds where the file says nothing (rollout.md §8).

use std::time::Duration;

use super::gates::Trust;
use super::{Risk, Step};

/// The values of one tier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preset {
    pub(super) signature: Trust,
    /// G1.
    pub(super) quality: bool,
    /// G1 without a clear answer fails.
    pub(super) inconclusive_fails: bool,
    /// G2.
    pub(super) trend: bool,
    pub(super) slices: bool,
    pub(super) performance: bool,
    /// Pairs to see in shadow.
    pub(super) shadow: Option<u64>,
    /// Percent, minutes, units of each step.
    steps: &'static [(f64, u64, u64)],
    pub(super) bake: Duration,
    pub(super) max_psi: Option<f64>,
    pub(super) flips_critical: bool,
    pub(super) quorum: u32,
    pub(super) not_author: bool,
    pub(super) independent: bool,
}

/// Percent of the requests that shadow copies.
pub(super) const SHADOW_PERCENT: f64 = 20.0;
/// The least time of shadow; the design gives its units only.
pub(super) const SHADOW_MIN: Duration = Duration::from_secs(60);
/// The highest acceptable rate of flips.
pub(super) const MAX_FLIP_RATE: f64 = 0.05;
/// The distance from which on a distribution warns.
pub(super) const WARN_DISTANCE: f64 = 0.05;
/// Tolerance and accepted rate of errors.
pub(super) const ERRORS: (f64, f64) = (1.0, 0.005);
/// Tolerance and accepted rate of slow batches.
pub(super) const LATENCY: (f64, f64) = (1.5, 0.03);
/// What is no difference in latency: less than a client's network varies by.
pub(super) const SLACK: Duration = Duration::from_micros(100);
/// The budget of false rollbacks per release.
pub(super) const ALPHA: f64 = 0.01;
/// The level of passing (rollout.md §5.6).
pub(super) const ALPHA_PASS: f64 = 0.05;
/// Earlier versions that stay loaded.
pub(super) const KEEP_WARM: usize = 1;
/// Requests of the control before there is a latency threshold; as many as the guard of §5.4 asks for.
pub(super) const WARMUP: u64 = 1000;

const LOW: Preset = Preset {
    signature: Trust::Recorded,
    quality: false,
    inconclusive_fails: false,
    trend: false,
    slices: false,
    performance: false,
    shadow: None,
    steps: &[(10.0, 1, 100)],
    bake: Duration::ZERO,
    max_psi: None,
    flips_critical: false,
    quorum: 0,
    not_author: false,
    independent: false,
};

const MEDIUM: Preset = Preset {
    signature: Trust::Pinned,
    quality: true,
    shadow: Some(500),
    steps: &[(5.0, 2, 200), (25.0, 5, 500), (50.0, 5, 500)],
    bake: Duration::from_secs(3600),
    max_psi: Some(0.25),
    flips_critical: true,
    quorum: 1,
    ..LOW
};

const HIGH: Preset = Preset {
    signature: Trust::Required,
    inconclusive_fails: true,
    trend: true,
    slices: true,
    performance: true,
    shadow: Some(2000),
    steps: &[(1.0, 10, 300), (5.0, 10, 500), (25.0, 15, 1000), (50.0, 15, 1000)],
    bake: Duration::from_secs(24 * 3600),
    quorum: 2,
    not_author: true,
    independent: true,
    ..MEDIUM
};

impl Preset {
    /// The tier's values; without a tier those of the lowest.
    pub(super) fn of(risk: Option<Risk>) -> &'static Self {
        match risk {
            None | Some(Risk::Low) => &LOW,
            Some(Risk::Medium) => &MEDIUM,
            Some(Risk::High) => &HIGH,
        }
    }

    /// The steps below 100 %.
    pub(super) fn steps(&self) -> Vec<Step> {
        let step = |&(percent, minutes, min_units): &(f64, u64, u64)| {
            let min = Duration::from_secs(60 * minutes);
            Step {
                percent,
                min,
                max: longest(min),
                min_units,
            }
        };
        self.steps.iter().map(step).collect()
    }
}

/// How long a stage may last if the file does not say: twelve times its least time, at least half an hour.
pub(super) fn longest(min: Duration) -> Duration {
    min.saturating_mul(12).max(Duration::from_secs(30 * 60))
}

/// The ratio that passing shows, if the file does not say: 2, the wider column of rollout.md §5.6, or a third above
/// a larger tolerance.
pub(super) fn margin(tolerance: f64) -> f64 {
    (tolerance * 4.0 / 3.0).max(2.0)
}

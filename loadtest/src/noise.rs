//! Noise: how far the difference of two measurements strays by chance alone.
//!
//! Seconds of one run lean on their neighbours (a stall, a scrape, a warm cache last longer than a second), so they
//! are resampled in blocks: the circular block bootstrap (Politis and Romano, "A circular block-resampling procedure
//! for stationary data", 1992), with blocks of ⌈n^⅓⌉ seconds (the order that Hall, Horowitz and Jing, Biometrika 82
//! (1995), find best for a variance). Runs of one side do not lean on each other, so where there are enough of them
//! their own spread is used: Welch's t-interval (Biometrika 34, 1947), which also sees what differs between runs.
//!
//! Never reads a clock; the same seed gives the same answer.

use crate::interval::student_t;
use crate::rng::Rng;

/// Resamples per band: the 99 % quantile of 2,000 has a standard error of 0.2 points of confidence.
const RESAMPLES: usize = 2_000;

/// The fewest seconds of a run that a bootstrap is attempted on.
pub const FEWEST_SECONDS: usize = 5;

/// What one second adds to a figure, which is Σ `amount` / Σ `weight` over seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// The second's share of the numerator, in the figure's unit.
    pub amount: f64,
    /// The second's share of the denominator.
    pub weight: f64,
}

/// How two figures are set against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// ln(b / a): for figures that are never zero, such as latencies.
    Ratio,
    /// b − a: for figures that may be zero, such as the share of errors.
    Difference,
}

impl Scale {
    /// The distance from `a` to `b`; `None` where this scale has none (a ratio with zero).
    pub fn distance(self, a: f64, b: f64) -> Option<f64> {
        let distance = match self {
            Self::Ratio if a > 0.0 && b > 0.0 => (b / a).ln(),
            Self::Ratio => return None,
            Self::Difference => b - a,
        };
        distance.is_finite().then_some(distance)
    }
}

/// The distance between `a` and `b` that chance alone stays below with probability `confidence`, from the seconds of
/// the runs on each side; `None` where a run has fewer than [`FEWEST_SECONDS`] or the scale has no distance.
///
/// It is the `confidence` quantile of |d* − d|, d* being the distance between resampled sides, widened by √(n/(n−l)) for
/// what resampling n seconds in blocks of l loses of the variance.
///
/// Cost: 2,000 × the number of seconds.
pub fn band_of_seconds(
    a: &[Vec<Part>],
    b: &[Vec<Part>],
    scale: Scale,
    confidence: f64,
    seed: u64,
) -> Option<f64> {
    let fewest = a.iter().chain(b).map(Vec::len).min()?;
    if fewest < FEWEST_SECONDS || a.is_empty() || b.is_empty() {
        return None;
    }
    let distance = scale.distance(figure(a)?, figure(b)?)?;
    let mut random = Rng::new(seed);
    let mut strays: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let (a, b) = (
                resampled_figure(a, &mut random)?,
                resampled_figure(b, &mut random)?,
            );
            Some((scale.distance(a, b)? - distance).abs())
        })
        .collect();
    // A resample without a figure (all of its seconds empty) says nothing; when most are like that, so do we.
    if strays.len() < RESAMPLES / 2 {
        return None;
    }
    strays.sort_by(f64::total_cmp);
    let lost = block_length(fewest);
    let widening = (fewest as f64 / (fewest - lost) as f64).sqrt();
    Some(quantile(&strays, confidence) * widening)
}

/// The distance between the means of `a` and `b` that chance alone stays below with probability `confidence`, each
/// value being one run's figure (its logarithm on the ratio scale); `None` below two runs a side.
pub fn band_of_runs(a: &[f64], b: &[f64], confidence: f64) -> Option<f64> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let ((mean_error_a, freedom_a), (mean_error_b, freedom_b)) = (mean_error(a), mean_error(b));
    let together = mean_error_a + mean_error_b;
    if together == 0.0 {
        return Some(0.0);
    }
    // The Welch–Satterthwaite degrees of freedom.
    let freedom = together.powi(2) / (mean_error_a.powi(2) / freedom_a + mean_error_b.powi(2) / freedom_b);
    Some(student_t(confidence, freedom) * together.sqrt())
}

/// The arithmetic mean; zero of nothing.
pub fn mean(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    values.iter().sum::<f64>() / count
}

/// The squared standard error of the mean of `values`, and its degrees of freedom.
fn mean_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    (squares / (count - 1.0) / count, count - 1.0)
}

fn figure(runs: &[Vec<Part>]) -> Option<f64> {
    ratio(runs.iter().flatten())
}

fn ratio<'a>(parts: impl Iterator<Item = &'a Part>) -> Option<f64> {
    let (amount, weight) = parts.fold((0.0, 0.0), |(amount, weight), part| {
        (amount + part.amount, weight + part.weight)
    });
    (weight > 0.0).then(|| amount / weight)
}

/// One resample of every run, in blocks that may wrap around its end, and its figure.
fn resampled_figure(runs: &[Vec<Part>], random: &mut Rng) -> Option<f64> {
    let (mut amount, mut weight) = (0.0, 0.0);
    for run in runs {
        let length = block_length(run.len());
        let mut taken = 0;
        while taken < run.len() {
            let start = below(run.len(), random);
            for offset in 0..length.min(run.len() - taken) {
                let part = run[(start + offset) % run.len()];
                amount += part.amount;
                weight += part.weight;
                taken += 1;
            }
        }
    }
    (weight > 0.0).then(|| amount / weight)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the cube root of a count of seconds"
)]
fn block_length(seconds: usize) -> usize {
    (seconds as f64).cbrt().ceil() as usize
}

/// The value at `share` of the way through `sorted`, which is not empty.
#[expect(clippy::cast_possible_truncation, reason = "an index into a slice of 2,000")]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let index = (share * sorted.len() as f64).ceil() as usize;
    sorted[index.clamp(1, sorted.len()) - 1]
}

/// An index below `bound`, by multiplication (Lemire 2019); its bias at these sizes is below 2^-50.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the high half is below `bound`, a usize"
)]
fn below(bound: usize, random: &mut Rng) -> usize {
    ((u128::from(random.word()) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    /// A run of `seconds` around `level`, each leaning on the one before by `lean`, with about `spread` of noise.
    fn run(level: f64, spread: f64, lean: f64, seconds: usize, random: &mut Rng) -> Vec<Part> {
        let mut stray = 0.0;
        (0..seconds)
            .map(|_| {
                // The sum of twelve uniforms less six is close to a standard normal.
                let fresh: f64 = (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
                stray = lean * stray + (1.0 - lean * lean).sqrt() * fresh;
                Part {
                    amount: level * (1.0 + spread * stray),
                    weight: 1.0,
                }
            })
            .collect()
    }

    /// In how many of `pairs` the distance of two runs exceeds the band.
    fn alarms(pairs: usize, shift: f64, lean: f64, seconds: usize) -> usize {
        let mut random = Rng::new(7);
        (0..pairs)
            .filter(|pair| {
                let a = [run(1_000.0, 0.03, lean, seconds, &mut random)];
                let b = [run(1_000.0 * shift, 0.03, lean, seconds, &mut random)];
                let distance = Scale::Ratio
                    .distance(figure(&a).unwrap(), figure(&b).unwrap())
                    .unwrap();
                distance.abs() > band_of_seconds(&a, &b, Scale::Ratio, 0.99, *pair as u64).unwrap()
            })
            .count()
    }

    #[test]
    fn equal_runs_rarely_alarm() {
        // Seeded, so this is a fact and not a chance; one of 100 is expected to alarm.
        let (long, short) = (alarms(50, 1.0, 0.0, 30), alarms(50, 1.0, 0.0, 10));
        assert!(long <= 2, "{long} of 50 with 30 seconds");
        assert!(short <= 3, "{short} of 50 with 10 seconds");
    }

    #[test]
    fn seconds_that_lean_on_each_other_do_not_make_false_certainty() {
        let alarms = alarms(50, 1.0, 0.4, 60);
        assert!(alarms <= 4, "{alarms} of 50");
    }

    #[test]
    fn a_shift_of_three_spreads_is_always_seen() {
        assert_eq!(alarms(20, 1.09, 0.0, 30), 20);
    }

    #[test]
    fn too_few_seconds_are_not_judged() {
        let run = vec![vec![
            Part {
                amount: 1.0,
                weight: 1.0
            };
            FEWEST_SECONDS - 1
        ]];
        assert_eq!(band_of_seconds(&run, &run, Scale::Ratio, 0.99, 1), None);
    }

    #[test]
    fn spread_between_runs_makes_the_band_of_runs() {
        // Means 2 and 5, variances 1 and 1, three each: standard error √(2/3), four degrees of freedom.
        let band = band_of_runs(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0], 0.95).unwrap();
        assert!(
            (band - 2.776_445_1 * (2.0_f64 / 3.0).sqrt()).abs() < 1e-6,
            "{band}"
        );
        assert_eq!(band_of_runs(&[1.0], &[4.0, 5.0], 0.95), None);
        assert_eq!(band_of_runs(&[1.0, 1.0], &[2.0, 2.0], 0.95), Some(0.0));
    }

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_band(seed in any::<u64>(), levels in prop::collection::vec(1.0_f64..100.0, 5..30)) {
            let side = [levels.iter().map(|&amount| Part { amount, weight: 1.0 }).collect::<Vec<_>>()];
            let band = band_of_seconds(&side, &side, Scale::Ratio, 0.99, seed);
            prop_assert_eq!(band, band_of_seconds(&side, &side, Scale::Ratio, 0.99, seed));
            prop_assert!(band.unwrap() >= 0.0);
        }

        #[test]
        fn a_figure_that_never_moves_has_no_noise(level in 1.0_f64..1e6, seconds in FEWEST_SECONDS..40) {
            let side = [vec![Part { amount: level, weight: 1.0 }; seconds]];
            let band = band_of_seconds(&side, &side, Scale::Ratio, 0.99, 1).unwrap();
            prop_assert!(band < 1e-9);
        }
    }
}

//! An axis: where a value stands along it, and which values are written beside it.

/// How values are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spacing {
    /// Equal distances for equal differences.
    Linear,
    /// Equal distances for equal ratios.
    Log,
}

/// A range of values laid out along a line from 0 to 1.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    spacing: Spacing,
    low: f64,
    high: f64,
    /// The values written beside it, and their text.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// A linear axis from zero to the largest of `values`, with round ticks.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        let high = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let high = if high > 0.0 { high } else { 1.0 };
        let step = round_step(high / 5.0);
        let high = (high / step).ceil() * step;
        let ticks = steps(step, high).map(|value| (value, short(value))).collect();
        Self {
            spacing: Spacing::Linear,
            low: 0.0,
            high,
            ticks,
        }
    }

    /// A logarithmic axis over the positive ones of `values`, widened to round ticks that `text` writes.
    pub(super) fn log(values: impl Iterator<Item = f64>, text: impl Fn(f64) -> String) -> Self {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = positive.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if high > 0.0 { (low, high) } else { (1.0, 10.0) };
        // Few decades leave room for the 2 and the 5 of each.
        let stops: &[f64] = if high / low < 1_000.0 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let first_decade = decade(low);
        let all: Vec<f64> = (0..40)
            .flat_map(|step| {
                stops
                    .iter()
                    .map(move |stop| stop * first_decade * 10_f64.powi(step))
            })
            .collect();
        let below = all.iter().rev().copied().find(|stop| *stop <= low).unwrap_or(low);
        let above = all
            .iter()
            .copied()
            .find(|stop| *stop >= high && *stop > below)
            .unwrap_or(high);
        let ticks = all
            .iter()
            .filter(|stop| (below..=above).contains(stop))
            .map(|stop| (*stop, text(*stop)));
        Self {
            spacing: Spacing::Log,
            low: below,
            high: above,
            ticks: ticks.collect(),
        }
    }

    /// A linear axis from zero to `high` with ticks of the caller's choice.
    pub(super) fn with_ticks(high: f64, ticks: Vec<(f64, String)>) -> Self {
        let ticks = ticks.into_iter().filter(|(value, _)| *value <= high).collect();
        Self {
            spacing: Spacing::Linear,
            low: 0.0,
            high,
            ticks,
        }
    }

    /// Where `value` stands, from 0 to 1; values outside stand at the ends.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.spacing {
            Spacing::Linear => (value - self.low) / (self.high - self.low),
            Spacing::Log if value > 0.0 => (value / self.low).ln() / (self.high / self.low).ln(),
            Spacing::Log => 0.0,
        };
        if place.is_finite() {
            place.clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}

/// A number in at most a few characters: `950`, `1.5k`, `20M`.
pub(super) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The least of 1, 2, 5, 10, … times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let base = decade(step);
    [1.0, 2.0, 5.0, 10.0]
        .map(|stop| stop * base)
        .into_iter()
        .find(|stop| *stop >= step)
        .unwrap_or(base * 10.0)
}

/// The power of ten at or below `value`, which is positive.
fn decade(value: f64) -> f64 {
    10_f64.powf(value.log10().floor())
}

fn steps(step: f64, high: f64) -> impl Iterator<Item = f64> {
    (0..=20)
        .map(move |index| f64::from(index) * step)
        .take_while(move |value| *value <= high * 1.000_001)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticks(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(
            ticks(&Axis::from_zero([930.0].into_iter())),
            ["0", "200", "400", "600", "800", "1k"]
        );
        assert_eq!(
            ticks(&Axis::from_zero([].into_iter())),
            ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        );
    }

    #[test]
    fn logarithmic_ticks_are_decades_where_there_are_many() {
        assert_eq!(
            ticks(&Axis::log([130.0, 900.0].into_iter(), short)),
            ["100", "200", "500", "1k"]
        );
        assert_eq!(
            ticks(&Axis::log([3.0, 2e5].into_iter(), short)),
            ["1", "10", "100", "1k", "10k", "100k", "1M"]
        );
    }

    proptest! {
        #[test]
        fn every_value_stands_on_its_axis_in_order(mut values in prop::collection::vec(1e-3_f64..1e9, 1..20)) {
            values.sort_by(f64::total_cmp);
            for axis in [Axis::from_zero(values.iter().copied()), Axis::log(values.iter().copied(), short)] {
                let places: Vec<f64> = values.iter().map(|value| axis.place(*value)).collect();
                prop_assert!(places.iter().all(|place| (0.0..=1.0).contains(place)));
                prop_assert!(places.is_sorted());
                prop_assert!((2..=21).contains(&axis.ticks.len()), "{:?}", axis.ticks);
            }
        }
    }
}

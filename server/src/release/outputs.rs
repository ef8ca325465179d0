//! What both versions answer, side by side: windows of readings that become histograms over the same cells
//! (rollout.md §5.5).
//!
//! A window is closed once both sides have enough, and the next one begins empty: windows do not overlap, so that each
//! is looked at once. The cells are made of both sides together, so that neither can be told from the other by them.

use std::collections::{BTreeMap, HashSet};

use crossfade_models::Division;
use crossfade_rollout::routing::{Portion, Purpose, Salt, Traffic};
use crossfade_runtimes_core::{ModelSignature, Tensor};
use crossfade_statistics::Arm;

use super::decision::{Reader, Reading};

/// Readings of each side that close a window: as many as a distribution is judged by.
const ENOUGH: usize = 500;
/// Readings of one side that a window holds; one that fills up while the other side lacks is given up.
const MOST: usize = 8192;
/// Cells of a histogram. With 500 readings a side, chance alone makes the stability index 0.08 in 20 cells, and never
/// 0.25; with the hundreds of cells that a model of many classes has, it would.
const CELLS: usize = 20;
/// How many times as many readings the live version gives.
const CONTROL: f64 = 4.0;

/// Which requests of a stage are read, and how.
#[derive(Debug)]
pub(crate) struct Watch {
    reader: Reader,
    salt: Salt,
    /// Of the live version's requests: so many that its readings are of the same time as the few of the other one.
    control: Portion,
}

impl Watch {
    /// For a stage in which the candidate has this share; `None` where requests are not divided.
    pub(super) fn new(reader: Reader, division: &Division, percent: f64) -> Option<Self> {
        let Traffic::Canary { salt, .. } = division.traffic else {
            return None;
        };
        Some(Self {
            reader,
            salt,
            control: Portion::percent(100.0 * CONTROL * percent / (100.0 - percent)),
        })
    }

    /// Reads an answer, if it is one of those that are read.
    ///
    /// * `outputs`: what was asked for, as indices of the signature; `tensors`: the answer, in the same order
    ///
    /// Cost: one hash for a request of the live version; one row for those that are read.
    pub(crate) fn read(
        &self,
        arm: Arm,
        id: &[u8],
        signature: &ModelSignature,
        outputs: &[usize],
        tensors: &[Tensor],
        rows: usize,
    ) -> Option<Reading> {
        if arm == Arm::Control && !self.control.holds(self.salt.draw(Purpose::Monitor, id)) {
            return None;
        }
        let name = self.reader.output(signature)?;
        let named = |index: &usize| {
            signature
                .outputs
                .get(*index)
                .is_some_and(|spec| &*spec.name == name)
        };
        let tensor = tensors.get(outputs.iter().position(named)?)?;
        self.reader.first(tensor, rows)
    }
}

/// The window that is open.
#[derive(Debug, Default)]
pub(super) struct Window {
    control: Vec<Reading>,
    canary: Vec<Reading>,
    /// Keys that have had their reading: a user who asks often counts once.
    units: HashSet<u64>,
}

/// Two histograms over the same cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cells {
    pub(super) control: Vec<u64>,
    pub(super) canary: Vec<u64>,
}

impl Window {
    /// Takes in a reading.
    ///
    /// * `unit`: of whom, where a unit counts once
    pub(super) fn add(&mut self, arm: Arm, unit: Option<u64>, reading: Reading) {
        if unit.is_some_and(|unit| !self.units.insert(unit)) {
            return;
        }
        let side = match arm {
            Arm::Control => &mut self.control,
            Arm::Canary => &mut self.canary,
        };
        side.push(reading);
        if side.len() > MOST {
            self.clear();
        }
    }

    /// The histograms, once there is enough; then the next window begins.
    ///
    /// * `classes`: numbers, too, are told apart and not put in order
    pub(super) fn close(&mut self, classes: bool) -> Option<Cells> {
        if self.control.len().min(self.canary.len()) < ENOUGH {
            return None;
        }
        let window = std::mem::take(self);
        let numbers =
            |side: &[Reading]| -> Option<Vec<f64>> { side.iter().map(|reading| reading.number()).collect() };
        Some(
            match (numbers(&window.control), numbers(&window.canary), classes) {
                (Some(control), Some(canary), false) => by_rank(&control, &canary),
                _ => by_class(&window.control, &window.canary),
            },
        )
    }

    /// Another stage begins.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Reading {
    fn number(self) -> Option<f64> {
        match self {
            // So that both zeros are one.
            Reading::Number(number) => Some(number + 0.0),
            Reading::Class(_) => None,
        }
    }

    fn class(self) -> u64 {
        match self {
            Reading::Number(number) => (number + 0.0).to_bits(),
            Reading::Class(class) => class,
        }
    }
}

/// Cells between the quantiles of both sides together; what is not a number has the last one.
fn by_rank(control: &[f64], canary: &[f64]) -> Cells {
    let mut all: Vec<f64> = control.iter().chain(canary).copied().collect();
    all.sort_by(f64::total_cmp);
    let finite = all.iter().filter(|value| !value.is_nan()).count();
    all.retain(|value| !value.is_nan());
    let mut edges: Vec<f64> = (1..CELLS)
        .filter_map(|k| all.get(k * finite / CELLS).copied())
        .collect();
    edges.dedup();
    let count = |side: &[f64]| {
        let mut cells = vec![0; edges.len() + 2];
        for value in side {
            let cell = if value.is_nan() {
                edges.len() + 1
            } else {
                edges.partition_point(|edge| edge <= value)
            };
            if let Some(cell) = cells.get_mut(cell) {
                *cell += 1;
            }
        }
        cells
    };
    Cells {
        control: count(control),
        canary: count(canary),
    }
}

/// A cell for each of the most frequent classes, and one for the others.
fn by_class(control: &[Reading], canary: &[Reading]) -> Cells {
    let mut counts: BTreeMap<u64, [u64; 2]> = BTreeMap::new();
    for (side, readings) in [control, canary].into_iter().enumerate() {
        for reading in readings {
            if let Some(count) = counts.entry(reading.class()).or_default().get_mut(side) {
                *count += 1;
            }
        }
    }
    let mut counts: Vec<[u64; 2]> = counts.into_values().collect();
    counts.sort_by_key(|[control, canary]| std::cmp::Reverse(control + canary));
    let rest = counts.split_off(counts.len().min(CELLS - 1));
    let add = |[a, b]: [u64; 2], [c, d]: [u64; 2]| [a + c, b + d];
    counts.push(rest.into_iter().fold([0, 0], add));
    Cells {
        control: counts.iter().map(|[control, _]| *control).collect(),
        canary: counts.iter().map(|[_, canary]| *canary).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_statistics::distribution::{chi_squared, kolmogorov_smirnov, stability_index};
    use crossfade_statistics::random::SplitMix64;

    fn window(control: impl Fn(u64) -> Reading, canary: impl Fn(u64) -> Reading, each: u64) -> Window {
        let mut window = Window::default();
        for turn in 0..each {
            window.add(Arm::Control, None, control(turn));
            window.add(Arm::Canary, None, canary(turn));
        }
        window
    }

    #[test]
    fn a_window_closes_once_and_begins_again() {
        let class = |turn| Reading::Class(turn % 2);
        let mut open = window(class, class, ENOUGH as u64 - 1);
        assert_eq!(open.close(true), None);
        open.add(Arm::Canary, None, Reading::Class(0));
        assert_eq!(open.close(true), None, "one side lacks");
        open.add(Arm::Control, None, Reading::Class(0));
        let cells = open.close(true).expect("both have enough");
        assert_eq!(cells.control.iter().sum::<u64>(), ENOUGH as u64);
        assert_eq!(open.close(true), None);
    }

    #[test]
    fn a_user_counts_once_in_a_window() {
        let mut open = Window::default();
        for _ in 0..2 * ENOUGH {
            open.add(Arm::Canary, Some(1), Reading::Class(0));
        }
        assert_eq!(open.canary.len(), 1);
    }

    #[test]
    fn a_window_without_its_other_side_is_given_up() {
        let mut open = Window::default();
        for _ in 0..=MOST {
            open.add(Arm::Control, None, Reading::Class(0));
        }
        assert!(open.control.is_empty());
    }

    #[test]
    fn equal_sides_are_equal_and_shifted_ones_are_far_apart() {
        let mut random = SplitMix64::new(7);
        let mut draw = |shift: f64| -> Vec<f64> { (0..2000).map(|_| random.unit() + shift).collect() };
        let (control, same, other) = (draw(0.0), draw(0.0), draw(0.5));
        let cells = by_rank(&control, &same);
        assert_eq!(cells.control.len(), CELLS + 1);
        let psi = |cells: &Cells| stability_index(&cells.control, &cells.canary).unwrap();
        assert!(psi(&cells) < 0.08, "{}", psi(&cells));
        let cells = by_rank(&control, &other);
        let compared = kolmogorov_smirnov(&cells.control, &cells.canary).unwrap();
        assert!((compared.effect - 0.5).abs() < 0.06, "{compared:?}");
        assert!(psi(&cells) > 1.0);
    }

    #[test]
    fn constants_ties_and_what_is_no_number_have_cells() {
        let constant = by_rank(&[2.0; 5], &[2.0; 7]);
        assert_eq!(
            (constant.control, constant.canary),
            (vec![0, 5, 0], vec![0, 7, 0])
        );
        let cells = by_rank(&[0.0, -0.0, f64::NAN], &[f64::INFINITY, 1.0, 0.0]);
        assert_eq!(cells.control.last(), Some(&1));
        assert_eq!(cells.canary.iter().sum::<u64>(), 3);
    }

    /// The stability index of equal sides stays low however many classes there are.
    #[test]
    fn many_classes_share_cells() {
        let mut random = SplitMix64::new(11);
        let mut draw = |classes: f64| -> Vec<Reading> {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small class"
            )]
            let class = |unit: f64| Reading::Class((unit * classes) as u64);
            (0..ENOUGH).map(|_| class(random.unit())).collect()
        };
        for classes in [2.0, 1000.0] {
            let cells = by_class(&draw(classes), &draw(classes));
            assert!(cells.control.len() <= CELLS);
            assert!(stability_index(&cells.control, &cells.canary).unwrap() < 0.2);
            assert!(chi_squared(&cells.control, &cells.canary).unwrap().p > 1e-4);
        }
        let cells = by_class(&[Reading::Class(1); 600], &[Reading::Class(2); 600]);
        assert!(chi_squared(&cells.control, &cells.canary).unwrap().effect > 0.99);
    }
}

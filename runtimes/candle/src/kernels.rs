//! Functions over rows of FP32, written so that the compiler vectorises them for the CPU at hand: softmax, layer
//! normalisation, activations. Sums run in 16 lanes, whatever the CPU, so that every CPU gives the same sums.

use pulp::Arch;

use crate::card::Activation;

/// Lanes of a sum: what AVX-512 holds.
const LANES: usize = 16;

/// Which vector instructions there are; asked once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernels(Arch);

impl Kernels {
    /// Those of this CPU.
    pub(crate) fn new() -> Self {
        Self(Arch::new())
    }

    /// Makes each row of `scores`, of `columns` elements, its softmax.
    pub(crate) fn softmax(self, scores: &mut [f32], columns: usize) {
        self.0.dispatch(
            #[inline(always)]
            || {
                for row in scores.chunks_exact_mut(columns) {
                    softmax(row);
                }
            },
        );
    }

    /// `rows = norm(rows + added + bias)`: layer normalisation of each row (Ba et al. 2016, equation 4).
    ///
    /// * `rows`, `added`: `[n, width]`; `bias`, `weight`, `shift`: `[width]`
    pub(crate) fn add_and_norm(self, rows: &mut [f32], added: &[f32], bias: &[f32], norm: &Norm<'_>) {
        self.0.dispatch(
            #[inline(always)]
            || {
                for (row, added) in rows
                    .chunks_exact_mut(bias.len())
                    .zip(added.chunks_exact(bias.len()))
                {
                    for ((x, &a), &b) in row.iter_mut().zip(added).zip(bias) {
                        *x += a + b;
                    }
                    layer_norm(row, norm);
                }
            },
        );
    }

    /// Layer normalisation of each row.
    pub(crate) fn norm(self, rows: &mut [f32], norm: &Norm<'_>) {
        self.0.dispatch(
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(norm.weight.len()) {
                    layer_norm(row, norm);
                }
            },
        );
    }

    /// `rows = activation(rows + bias)`.
    pub(crate) fn activate(self, rows: &mut [f32], bias: &[f32], activation: Activation) {
        self.0.dispatch(
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(bias.len()) {
                    match activation {
                        Activation::Gelu => each(row, bias, gelu),
                        Activation::GeluTanh => each(row, bias, gelu_tanh),
                        Activation::Relu => each(row, bias, |x| x.max(0.0)),
                    }
                }
            },
        );
    }
}

/// The parameters of a layer normalisation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) shift: &'a [f32],
    pub(crate) epsilon: f32,
}

#[inline(always)]
fn each(row: &mut [f32], bias: &[f32], function: impl Fn(f32) -> f32) {
    for (x, &b) in row.iter_mut().zip(bias) {
        *x = function(*x + b);
    }
}

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let largest = fold(row, f32::NEG_INFINITY, |a, x| a.max(x), f32::max);
    for x in row.iter_mut() {
        *x = exp(*x - largest);
    }
    let sum = fold(row, 0.0, |a, x| a + x, |a, b| a + b);
    let scale = 1.0 / sum;
    for x in row.iter_mut() {
        *x *= scale;
    }
}

#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "a row has fewer than 2^24 elements")]
fn layer_norm(row: &mut [f32], norm: &Norm<'_>) {
    let count = row.len() as f32;
    let mean = fold(row, 0.0, |a, x| a + x, |a, b| a + b) / count;
    let squares = fold(row, 0.0, |a, x| a + (x - mean) * (x - mean), |a, b| a + b);
    let scale = 1.0 / (squares / count + norm.epsilon).sqrt();
    for ((x, &w), &s) in row.iter_mut().zip(norm.weight).zip(norm.shift) {
        *x = (*x - mean) * scale * w + s;
    }
}

/// Folds in lanes: element `i` into lane `i mod 16`, then the lanes in order.
#[inline(always)]
fn fold(row: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, x);
    }
    lanes.into_iter().fold(start, join)
}

/// e^x to 2 units in the last place: 2^n · e^r with |r| ≤ ln 2 / 2 (Cody and Waite 1980, chapter 6), the polynomial by
/// Taylor's series to degree 7, whose remainder is below 2^-27 there.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with trailing zeros, so that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    // The bits of `n + ROUND` end in n: its exponent is put together from them.
    let power = f32::from_bits(((n + ROUND).to_bits() << 23).wrapping_add(127 << 23));
    p * power
}

/// The error function to 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let mut p = 1.061_405_4;
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        p = p * t + coefficient;
    }
    (1.0 - p * t * exp(-a * a)).copysign(x)
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    /// √(2/π)
    const SCALE: f32 = 0.797_884_6;
    let y = SCALE * (x + 0.044_715 * x * x * x);
    // 1 + tanh y = 2 / (1 + e^-2y)
    x / (1.0 + exp(-2.0 * y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn softmaxed(values: &[f32]) -> Vec<f32> {
        let mut row = values.to_vec();
        Kernels::new().softmax(&mut row, values.len());
        row
    }

    /// The error function by its series, in FP64 (Abramowitz and Stegun, formula 7.1.6).
    fn exact_erf(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= 2.0 * x * x / (2.0 * f64::from(n) + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
    }

    #[test]
    fn functions_are_as_exact_as_stated() {
        for i in -8600..8800i16 {
            let x = f32::from(i) / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}): {error:e}");
        }
        for i in -500..500i16 {
            let x = f32::from(i) / 100.0;
            let error = (f64::from(erf(x)) - exact_erf(f64::from(x))).abs();
            assert!(error < 3e-7, "erf({x}): {error:e}");
            let exact =
                0.5 * f64::from(x) * (1.0 + exact_erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2));
            assert!((f64::from(gelu(x)) - exact).abs() < 1e-6, "gelu({x})");
            let y = f64::from(x);
            let inner = 0.797_884_560_802_865_4 * (y + 0.044_715 * y * y * y);
            let exact = 0.5 * y * (1.0 + inner.tanh());
            assert!((f64::from(gelu_tanh(x)) - exact).abs() < 1e-6, "gelu_tanh({x})");
        }
    }

    #[test]
    fn a_softmax_of_extremes_is_a_distribution() {
        assert_eq!(softmaxed(&[0.0; 4]), [0.25; 4]);
        assert_eq!(
            softmaxed(&[-1e30, 0.0, -1e30]),
            [
                softmaxed(&[-1e30, 0.0, -1e30])[0],
                1.0,
                softmaxed(&[-1e30, 0.0, -1e30])[2]
            ]
        );
        assert!(softmaxed(&[-1e30, 0.0])[0] < 1e-37);
        assert_eq!(softmaxed(&[1e30]), [1.0]);
    }

    proptest! {
        #[test]
        fn rows_of_every_length_are_normalised(values in prop::collection::vec(-50.0f32..50.0, 1..70)) {
            let row = softmaxed(&values);
            let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5);
            let largest = values.iter().copied().fold(f32::MIN, f32::max);
            let exact: Vec<f64> = values.iter().map(|&x| f64::from(x - largest).exp()).collect();
            let total: f64 = exact.iter().sum();
            for (got, exact) in row.iter().zip(&exact) {
                prop_assert!((f64::from(*got) - exact / total).abs() < 1e-6);
            }

            let n = values.len();
            let (weight, shift) = (vec![2.0; n], vec![0.5; n]);
            let norm = Norm { weight: &weight, shift: &shift, epsilon: 1e-5 };
            let mut row = values.clone();
            Kernels::new().add_and_norm(&mut row, &vec![1.0; n], &vec![-1.0; n], &norm);
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
            for (got, &x) in row.iter().zip(&values) {
                let exact = (f64::from(x) - mean) / (variance + 1e-5).sqrt() * 2.0 + 0.5;
                prop_assert!((f64::from(*got) - exact).abs() < 1e-3, "{got} {exact}");
            }
        }
    }
}

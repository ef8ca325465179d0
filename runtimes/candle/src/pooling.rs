//! One vector per row from its tokens' vectors, and logits from those.

use candle_core::Tensor;
use crossfade_runtimes_core::RuntimeError;

use crate::convert::{Matrix, product};
use crate::error::not_loaded;
use crate::parameters::Pooling;
use crate::tokens::Tokens;
use crate::weights::{Classifier, Linear};

/// Pools `vectors`, `[tokens, width]`, into `out`, `[rows, width]`; a row without tokens gives zeros.
pub(crate) fn pool(pooling: Pooling, normalize: bool, tokens: &Tokens, vectors: &[f32], out: &mut [f32]) {
    let width = out.len() / tokens.rows.max(1);
    if width == 0 {
        return;
    }
    for (row, span) in out.chunks_exact_mut(width).zip(tokens.spans()) {
        let of_row = vectors[span.start * width..span.end * width].chunks_exact(width);
        let count = of_row.len();
        row.fill(0.0);
        match pooling {
            Pooling::Cls | Pooling::None => {
                if let Some(first) = of_row.clone().next() {
                    row.copy_from_slice(first);
                }
            }
            Pooling::Mean => {
                for vector in of_row {
                    row.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += x);
                }
                let scale = 1.0 / float(count.max(1));
                row.iter_mut().for_each(|x| *x *= scale);
            }
            Pooling::Max => {
                if count > 0 {
                    row.fill(f32::NEG_INFINITY);
                }
                for vector in of_row {
                    row.iter_mut()
                        .zip(vector)
                        .for_each(|(most, &x)| *most = most.max(x));
                }
            }
        }
        if normalize {
            to_length_one(row);
        }
    }
}

/// As torch.nn.functional.normalize: a vector shorter than 1e-12 stays what it is.
fn to_length_one(row: &mut [f32]) {
    let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let scale = 1.0 / squares.sqrt().max(1e-12);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the quotient is rounded to FP32, which it is one of"
    )]
    row.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
}

#[expect(clippy::cast_precision_loss, reason = "a sequence has fewer than 2^24 tokens")]
fn float(count: usize) -> f32 {
    count as f32
}

/// Puts vectors where their columns are, `[rows, columns, width]`; padding stays zero.
pub(crate) fn spread(tokens: &Tokens, vectors: &[f32], out: &mut [f32]) {
    let places = tokens.rows * tokens.columns;
    let width = out.len() / places.max(1);
    if width == 0 {
        return;
    }
    for (row, span) in tokens.spans().enumerate() {
        for token in span {
            let place = (row * tokens.columns + tokens.columns_of[token]) * width;
            out[place..place + width].copy_from_slice(&vectors[token * width..(token + 1) * width]);
        }
    }
}

/// A classifier in FP32 on the CPU.
pub(crate) struct Logits {
    dense: Affine,
    rectifies: bool,
    out: Affine,
}

struct Affine {
    /// `[out, in]`
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Logits {
    /// Takes the weights over.
    pub(crate) fn new(classifier: &Classifier) -> Result<Self, RuntimeError> {
        Ok(Self {
            dense: Affine::new(&classifier.dense)?,
            rectifies: classifier.rectifies,
            out: Affine::new(&classifier.out)?,
        })
    }

    /// Number of classes.
    pub(crate) fn labels(&self) -> usize {
        self.out.bias.len()
    }

    /// Logits, `[rows, labels]`, of the rows' first vectors, `[rows, width]`.
    pub(crate) fn of(&self, first: &[f32], out: &mut [f32]) {
        let rows = out.len() / self.labels();
        let mut middle = vec![0.0; rows * self.dense.bias.len()];
        self.dense.apply(first, &mut middle);
        for x in &mut middle {
            *x = match self.rectifies {
                true => x.max(0.0),
                false => x.tanh(),
            };
        }
        self.out.apply(&middle, out);
    }
}

impl Affine {
    fn new(linear: &Linear) -> Result<Self, RuntimeError> {
        let read = |tensor: &Tensor| {
            let numbers = || {
                tensor
                    .to_dtype(candle_core::DType::F32)?
                    .flatten_all()?
                    .to_vec1::<f32>()
            };
            numbers().map_err(|error| not_loaded(&error))
        };
        Ok(Self {
            weight: read(&linear.weight)?,
            bias: read(&linear.bias)?,
        })
    }

    fn apply(&self, rows: &[f32], out: &mut [f32]) {
        let to = self.bias.len();
        let from = self.weight.len() / to;
        for row in out.chunks_exact_mut(to) {
            row.copy_from_slice(&self.bias);
        }
        let count = out.len() / to;
        let weight = Matrix::rows(&self.weight, to, from, from).transposed();
        product(out, to, Matrix::rows(rows, count, from, from), weight, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens {
            rows: 3,
            columns: 3,
            starts: vec![0, 2, 2, 3],
            ids: vec![1; 3],
            positions: vec![0; 3],
            types: vec![],
            columns_of: vec![0, 2, 1],
        }
    }

    const VECTORS: [f32; 6] = [1.0, -4.0, 3.0, 2.0, 6.0, 8.0];

    fn pooled(pooling: Pooling, normalize: bool) -> [f32; 6] {
        let mut out = [9.0; 6];
        pool(pooling, normalize, &tokens(), &VECTORS, &mut out);
        out
    }

    #[test]
    fn rows_are_pooled_each_for_itself() {
        assert_eq!(pooled(Pooling::Cls, false), [1.0, -4.0, 0.0, 0.0, 6.0, 8.0]);
        assert_eq!(pooled(Pooling::Mean, false), [2.0, -1.0, 0.0, 0.0, 6.0, 8.0]);
        assert_eq!(pooled(Pooling::Max, false), [3.0, 2.0, 0.0, 0.0, 6.0, 8.0]);
        assert_eq!(pooled(Pooling::Max, true)[4..], [0.6, 0.8]);
        assert_eq!(pooled(Pooling::Mean, true)[2..4], [0.0, 0.0]);
    }

    #[test]
    fn vectors_go_back_to_their_columns() {
        let mut out = [0.0; 18];
        spread(&tokens(), &VECTORS, &mut out);
        let expected = [
            1.0, -4.0, 0.0, 0.0, 3.0, 2.0, // row 0: columns 0 and 2
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, // row 1 has none
            0.0, 0.0, 6.0, 8.0, 0.0, 0.0, // row 2: column 1
        ];
        assert_eq!(out, expected);
    }
}

//! One vector per row from its tokens' vectors, for models that leave that to whoever calls them.

use crossfade_runtimes_core::{Datatype, Tensor};

use crate::settings::Pooling;

/// Pools `hidden`, FP32 `[rows, columns, width]`, over the tokens that `mask`, INT64 `[rows, columns]`, does not leave
/// out; a row without any gives zeros.
///
/// Errors: what does not fit.
pub(crate) fn pool(
    hidden: &Tensor,
    mask: &Tensor,
    pooling: Pooling,
    normalize: bool,
) -> Result<Vec<f32>, String> {
    let &[rows, columns, width] = &*hidden.shape else {
        return Err(format!("the tokens' vectors have shape {}", hidden.shape));
    };
    if hidden.datatype != Datatype::Fp32 || mask.shape[..] != [rows, columns] {
        return Err(format!(
            "{} {} does not go with a mask of {}",
            hidden.datatype, hidden.shape, mask.shape
        ));
    }
    let mut pooled = vec![0.0f32; rows * width];
    if columns * width == 0 {
        return Ok(pooled);
    }
    let counts = mask.data.chunks_exact(8).map(|bytes| bytes != [0; 8]);
    let counts: Vec<bool> = counts.collect();
    let vectors = hidden.data.chunks_exact(columns * width * 4);
    for ((out, vectors), counts) in pooled
        .chunks_exact_mut(width)
        .zip(vectors)
        .zip(counts.chunks_exact(columns))
    {
        let vectors = vectors.chunks_exact(width * 4).zip(counts);
        pool_row(
            out,
            vectors.filter(|(_, counts)| **counts).map(|(vector, _)| vector),
            pooling,
        );
        if normalize {
            to_length_one(out);
        }
    }
    Ok(pooled)
}

fn pool_row<'a>(out: &mut [f32], vectors: impl Iterator<Item = &'a [u8]>, pooling: Pooling) {
    let mut count = 0u32;
    for vector in vectors {
        count += 1;
        let numbers = vector
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks of four bytes")));
        for (x, number) in out.iter_mut().zip(numbers) {
            *x = match pooling {
                Pooling::Mean => *x + number,
                Pooling::Max if count > 1 => x.max(number),
                Pooling::Max | Pooling::Cls => number,
            };
        }
        if pooling == Pooling::Cls {
            return;
        }
    }
    if pooling == Pooling::Mean {
        #[expect(clippy::cast_precision_loss, reason = "a sequence has fewer than 2^24 tokens")]
        let scale = 1.0 / count.max(1) as f32;
        out.iter_mut().for_each(|x| *x *= scale);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::Shape;

    fn fp32(shape: [usize; 3], numbers: &[f32]) -> Tensor {
        Tensor {
            datatype: Datatype::Fp32,
            shape: Shape::from(shape),
            data: numbers
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect::<Vec<u8>>()
                .into(),
        }
    }

    fn mask(shape: [usize; 2], ones: &[i64]) -> Tensor {
        Tensor {
            datatype: Datatype::Int64,
            shape: Shape::from(shape),
            data: ones
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect::<Vec<u8>>()
                .into(),
        }
    }

    #[test]
    fn what_the_mask_leaves_out_does_not_count() {
        // Two rows of three tokens; of the first the last does not count, of the second none does.
        let hidden = fp32(
            [2, 3, 2],
            &[1.0, -4.0, 3.0, 2.0, 99.0, 99.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0],
        );
        let counts = mask([2, 3], &[1, 1, 0, 0, 0, 0]);
        let pooled = |pooling, normalize| pool(&hidden, &counts, pooling, normalize).unwrap();
        assert_eq!(pooled(Pooling::Mean, false), [2.0, -1.0, 0.0, 0.0]);
        assert_eq!(pooled(Pooling::Max, false), [3.0, 2.0, 0.0, 0.0]);
        assert_eq!(pooled(Pooling::Cls, false), [1.0, -4.0, 0.0, 0.0]);
        let unit = pooled(Pooling::Mean, true);
        assert!((unit[0] - 2.0 / 5.0f32.sqrt()).abs() < 1e-6 && unit[2] == 0.0);
        let other = mask([1, 3], &[1, 1, 1]);
        assert!(
            pool(&hidden, &other, Pooling::Mean, false)
                .unwrap_err()
                .contains("mask")
        );
    }
}

//! Where slices and files meet code that trusts its caller: the mapped file of weights, and the matrix product.

use std::path::PathBuf;

use candle_core::safetensors::MmapedSafetensors;

/// Maps files of weights for as long as a load takes; tensors are copied out of them.
///
/// Whoever changes a file in place meanwhile changes what is loaded, and who truncates it ends the process: files of
/// a repository are replaced by renaming (docs/serve-your-own-model.md).
#[expect(
    unsafe_code,
    reason = "a mapped file can be changed by others; reading it whole would need its size twice"
)]
pub(crate) fn map(files: &[PathBuf]) -> candle_core::Result<MmapedSafetensors> {
    // SAFETY: the mappings are private to the load and read-only; their bytes become numbers, for which every bit pattern is
    // valid. Offsets are checked against a mapping's length when its header is read.
    unsafe { MmapedSafetensors::multi(files) }
}

/// A matrix in a slice: element `(r, c)` is at `r · row + c · column`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Elements from a row to the next.
    pub(crate) row: usize,
    /// Elements from a column to the next.
    pub(crate) column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other, `stride` elements apart.
    pub(crate) fn rows(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self {
            data,
            rows,
            columns,
            row: stride,
            column: 1,
        }
    }

    /// The same elements with rows as columns.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row: self.column,
            column: self.row,
        }
    }

    /// One behind the last element that is read; `None` where it does not fit.
    fn end(&self) -> Option<usize> {
        match (self.rows.checked_sub(1), self.columns.checked_sub(1)) {
            (Some(r), Some(c)) => r
                .checked_mul(self.row)?
                .checked_add(c.checked_mul(self.column)?)?
                .checked_add(1),
            _ => Some(0),
        }
    }
}

/// `out = left · right`, or `out += left · right` if `adds`; row `r` of the result begins at `r · stride` of `out`.
///
/// Panics if the matrices do not fit each other or their slices: sizes come from the model, not from requests.
/// Runs on the calling thread.
#[expect(unsafe_code, reason = "the product takes pointers and strides")]
pub(crate) fn product(out: &mut [f32], stride: usize, left: Matrix<'_>, right: Matrix<'_>, adds: bool) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    assert_eq!(k, right.rows, "columns of the left are rows of the right");
    let written = Matrix {
        data: &[],
        rows: m,
        columns: n,
        row: stride,
        column: 1,
    };
    assert!(stride >= n, "rows of the result do not overlap");
    assert!(
        written.end().is_some_and(|end| end <= out.len()),
        "the result fits"
    );
    assert!(
        left.end().is_some_and(|end| end <= left.data.len()),
        "the left fits"
    );
    assert!(
        right.end().is_some_and(|end| end <= right.data.len()),
        "the right fits"
    );
    let signed = |stride: usize| isize::try_from(stride).expect("a stride within a slice is an isize");
    // SAFETY: every element that is read or written, `r · row + c · column` for r and c below the matrix's sizes, lies
    // within its slice: asserted above for the largest. `out` is borrowed mutably, so it overlaps neither input, and its
    // rows do not overlap each other. f32 has no alignment beyond that of its slice and every bit pattern is valid.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            signed(stride),
            adds,
            left.data.as_ptr(),
            signed(left.column),
            signed(left.row),
            right.data.as_ptr(),
            signed(right.column),
            signed(right.row),
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(matrix: Matrix<'_>, r: usize, c: usize) -> f64 {
        f64::from(matrix.data[r * matrix.row + c * matrix.column])
    }

    proptest! {
        #[test]
        fn a_product_is_the_sum_of_products(
            m in 1usize..9, n in 1usize..9, k in 1usize..9, gap in 0usize..3, adds: bool, transposed: bool,
        ) {
            let numbers = |count: usize, seed: u8| -> Vec<f32> {
                (0..count).map(|i| f32::from(u8::try_from((i * 31 + usize::from(seed)) % 17).unwrap()) - 8.0).collect()
            };
            let (a, b) = (numbers(m * (k + gap), 3), numbers((n + gap) * (k + gap) * 2, 5));
            let left = Matrix::rows(&a, m, k, k + gap);
            let right = match transposed {
                false => Matrix::rows(&b, k, n, n + gap),
                true => Matrix::rows(&b, n, k, k + gap).transposed(),
            };
            let mut out = numbers(m * (n + gap), 7);
            let before = out.clone();
            product(&mut out, n + gap, left, right, adds);
            for r in 0..m {
                for c in 0..n + gap {
                    let old = f64::from(before[r * (n + gap) + c]);
                    let sum: f64 = (0..k)
                        .filter(|_| c < n)
                        .map(|i| element(left, r, i) * element(right, i, c))
                        .sum();
                    let expected = if c >= n { old } else if adds { old + sum } else { sum };
                    prop_assert_eq!(f64::from(out[r * (n + gap) + c]), expected);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "the right fits")]
    fn a_matrix_beyond_its_slice_is_not_read() {
        let (a, b, mut out) = ([1.0; 4], [1.0; 3], [0.0; 4]);
        product(
            &mut out,
            2,
            Matrix::rows(&a, 2, 2, 2),
            Matrix::rows(&b, 2, 2, 2),
            false,
        );
    }
}

//! Matrix products over strided slices: the one door to the `gemm` crate.

use gemm::Parallelism;

/// A matrix in a slice: element (i, j) lies at `i * row_step + j * column_step`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_step: usize,
    pub(crate) column_step: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` values, one after the other.
    pub(crate) fn rows(values: &'a [f32], width: usize) -> Self {
        Self { values, row_step: width, column_step: 1 }
    }

    /// The transpose of [`Matrix::rows`].
    pub(crate) fn columns(values: &'a [f32], height: usize) -> Self {
        Self { values, row_step: 1, column_step: height }
    }

    /// The matrix without its first `row` rows.
    fn below(&self, row: usize) -> Self {
        Self { values: &self.values[row * self.row_step..], ..*self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row_step + (columns - 1) * self.column_step < self.values.len()
    }
}

/// Rows that gemm's kernels for AVX2 multiply without a copy of `right`, at their best.
const ROWS_WITHOUT_COPY: usize = 32;

/// Whether gemm would copy `right` for so few rows that the copy costs more than it brings. Its kernels for AVX2
/// (tiles of 24 rows and 4 columns) copy a `right` that isn't contiguous along k for more than two tiles of rows,
/// four values at a time. The weight gradient of a convolution is such a product: with 64 channels it is a sixth
/// faster in two pieces, with 96 an eighth; with 128 a copy may be better. The kernels for AVX-512 have tiles of 48
/// rows, and pieces made them slower. More than 64 rows of few columns are left out because there gemm sums pieces in
/// another order than the whole.
fn is_better_in_pieces(m: usize, n: usize, right: Matrix<'_>) -> bool {
    #[cfg(target_arch = "x86_64")]
    if !(cfg!(feature = "avx512") && std::arch::is_x86_feature_detected!("avx512f")) {
        return (49..=96).contains(&m) && (m <= 64 || n > 64) && right.row_step != 1;
    }
    let _ = (m, n, right);
    false
}

/// `out = left · right`, or `out += left · right` with `add`. `left` is m x k, `right` k x n, and `out` m x n in
/// columns of `out_step` values, each column contiguous. Runs on the calling thread only.
///
/// The kernels keep their matrices in rows, which as columns are the transposes. So they ask for `y^T = b^T · a^T`
/// where they mean `y = a · b`; the comments beside the products name the shapes of the latter.
pub(crate) fn product(
    [m, n, k]: [usize; 3],
    left: Matrix<'_>,
    right: Matrix<'_>,
    out: &mut [f32],
    out_step: usize,
    add: bool,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let compute = if is_better_in_pieces(m, n, right) { in_pieces } else { whole };
    compute([m, n, k], left, right, out, out_step, add);
}

/// The product by one call of gemm; no dimension is 0.
fn whole([m, n, k]: [usize; 3], left: Matrix<'_>, right: Matrix<'_>, out: &mut [f32], out_step: usize, add: bool) {
    assert!(left.holds(m, k) && right.holds(k, n), "an operand is too short");
    assert!(out_step >= m && (n - 1) * out_step + m <= out.len(), "the result is too short");
    #[allow(unsafe_code)]
    // SAFETY: the assertions above keep every element that gemm reads or writes inside its slice, `out` is borrowed
    // mutably and its elements are distinct (the step is at least a column), and isize holds any slice's length.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            out_step as isize,
            1,
            add,
            left.values.as_ptr(),
            left.column_step as isize,
            left.row_step as isize,
            right.values.as_ptr(),
            right.column_step as isize,
            right.row_step as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The product, some rows at a time.
fn in_pieces([m, n, k]: [usize; 3], left: Matrix<'_>, right: Matrix<'_>, out: &mut [f32], out_step: usize, add: bool) {
    for top in (0..m).step_by(ROWS_WITHOUT_COPY) {
        let rows = ROWS_WITHOUT_COPY.min(m - top);
        whole([rows, n, k], left.below(top), right, &mut out[top..], out_step, add);
    }
}

/// Writes rows of `width` values, transposed, to `out`, which has as many.
pub(crate) fn transpose(values: &[f32], width: usize, out: &mut [f32]) {
    /// Rows and columns that are moved together, so that both sides stay in the cache.
    const TILE: usize = 32;
    let height = values.len() / width;
    for top in (0..height).step_by(TILE) {
        for left in (0..width).step_by(TILE) {
            for row in top..height.min(top + TILE) {
                for column in left..width.min(left + TILE) {
                    out[column * height + row] = values[row * width + column];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_with_transposed_operands_is_that_of_the_definition() {
        let (m, n, k) = (5, 3, 4);
        let left: Vec<f32> = (0..m * k).map(|i| i as f32 * 0.5 - 3.0).collect();
        let right: Vec<f32> = (0..k * n).map(|i| 2.0 - i as f32).collect();
        let mut out = vec![1.0; m * n];
        product([m, n, k], Matrix::rows(&left, k), Matrix::columns(&right, k), &mut out, m, true);
        for i in 0..m {
            for j in 0..n {
                let expected: f32 = 1.0 + (0..k).map(|l| left[i * k + l] * right[l + j * k]).sum::<f32>();
                assert_eq!(out[i + j * m], expected);
            }
        }
    }

    #[test]
    fn a_product_in_pieces_has_the_bits_of_the_whole() {
        for (m, n, k) in
            [(64, 75, 144), (64, 40, 600), (64, 70, 600), (96, 75, 600), (70, 65, 20), (33, 10, 1), (31, 2, 5)]
        {
            let left: Vec<f32> = (0..m * k).map(|i| (i * 37 % 101) as f32 * 0.1 - 5.0).collect();
            let right: Vec<f32> = (0..k * n).map(|i| (i * 53 % 97) as f32 * 0.1 - 4.0).collect();
            let (left, right) = (Matrix::columns(&left, m), Matrix::rows(&right, n));
            let [mut expected, mut found] = [0, 1].map(|_| vec![1.0; m * n]);
            whole([m, n, k], left, right, &mut expected, m, true);
            in_pieces([m, n, k], left, right, &mut found, m, true);
            assert_eq!(expected, found, "{m} x {n} x {k}");
        }
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn a_short_operand_is_caught_before_memory_is_read() {
        product([2, 2, 2], Matrix::rows(&[0.0; 3], 2), Matrix::rows(&[0.0; 4], 2), &mut [0.0; 4], 2, false);
    }
}

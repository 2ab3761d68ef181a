//! Loops that take one value after the other, in the order in which they lie. They are compiled along with their
//! caller, to be vectorised there ([`with_avx2`](super::with_avx2)).
//!
//! The rectifier is max(0, x), and NaN for NaN: a training whose values have left all bounds has to notice it, and a
//! comparison written the other way round would hide it behind a zero.

use super::op::Output;

/// Whether the rectifier makes this zero. NaN is not: no comparison holds of it.
#[inline(always)]
pub(super) fn is_cut(value: f32) -> bool {
    value <= 0.0
}

/// The rectifier (Nair and Hinton 2010).
#[inline(always)]
pub(super) fn relu(value: f32) -> f32 {
    if is_cut(value) { 0.0 } else { value }
}

/// Writes the gradient that the rectifier lets pass, given what it gave.
#[inline(always)]
pub(super) fn relu_backward(out: Output<'_>, passed: &mut [f32]) {
    for (passed, (&y, &grad)) in passed.iter_mut().zip(out.y.iter().zip(out.grad)) {
        *passed = if is_cut(y) { 0.0 } else { grad };
    }
}

/// Rectified sums, in place.
#[inline(always)]
pub(super) fn add_relu(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = relu(*sum + value);
    }
}

/// Sums, in place.
#[inline(always)]
pub(super) fn add(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// Adds `row` to each of the rows.
#[inline(always)]
pub(super) fn add_to_rows(rows: &mut [f32], row: &[f32]) {
    rows.chunks_exact_mut(row.len()).for_each(|to| add(to, row));
}

/// Adds each of the rows to `sums`.
#[inline(always)]
pub(super) fn add_rows(sums: &mut [f32], rows: &[f32]) {
    rows.chunks_exact(sums.len()).for_each(|row| add(sums, row));
}

//! How the images of a batch are shared out among threads: in blocks whose borders depend only on the batch, so that
//! the results are the same bits for any number of threads.

use super::elementwise::add;
use super::with_avx2;
use rayon::iter::Either;
use rayon::prelude::*;

/// Blocks that a batch is cut into at most. Each block of a convolution keeps partial sums of the weights' gradient,
/// which bounds memory; and it bounds the threads that can work at once.
const BLOCKS_MAX: usize = 12;

/// Images in a block, given those in the batch: the same for any number of threads.
pub(super) fn images_per_block(images: usize) -> usize {
    images.div_ceil(BLOCKS_MAX).max(1)
}

/// For each block its item, or none if there are no items.
pub(super) fn optional<I: IndexedParallelIterator>(
    items: Option<I>,
    blocks: usize,
) -> impl IndexedParallelIterator<Item = Option<I::Item>> {
    match items {
        Some(items) => Either::Left(items.map(Some)),
        None => Either::Right((0..blocks).into_par_iter().map(|_| None)),
    }
}

/// Adds the blocks' sums in their order, so that the result is the same for any number of threads.
pub(super) fn add_blocks(sums: &[f32], totals: &mut [f32]) {
    /// Values that one thread adds at once: small enough for the cache, large enough to be worth a task.
    const PIECE: usize = 4096;
    let len = totals.len();
    let (first, others) = sums.split_at(len);
    totals.par_chunks_mut(PIECE).zip(first.par_chunks(PIECE)).enumerate().for_each(|(piece, (totals, first))| {
        totals.copy_from_slice(first);
        for block in others.chunks_exact(len) {
            with_avx2(|| add(totals, &block[piece * PIECE..]));
        }
    });
}

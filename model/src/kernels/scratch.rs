//! Buffers that a thread keeps between steps: fresh pages for every image would cost as much as the arithmetic.

use std::cell::RefCell;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `N` buffers of at least the given lengths, whose contents are whatever was left there.
///
/// The buffers are taken out while `work` runs, so a nested call gets others instead of a panic.
pub(crate) fn with<const N: usize, T>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> T) -> T {
    let mut buffers: [Vec<f32>; N] =
        BUFFERS.with_borrow_mut(|kept| std::array::from_fn(|_| kept.pop().unwrap_or_default()));
    for (buffer, len) in buffers.iter_mut().zip(lens) {
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
    }
    let mut lens = lens.iter();
    let result = work(buffers.each_mut().map(|buffer| {
        let len = lens.next().copied().unwrap_or(0);
        &mut buffer[..len]
    }));
    // Put back in reverse, so that the next call of the same kernel finds each buffer at its size.
    BUFFERS.with_borrow_mut(|kept| kept.extend(buffers.into_iter().rev()));
    result
}

//! Buffers that a thread keeps between steps: fresh pages for every image would cost as much as the arithmetic.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

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

/// A buffer that lives from a forward pass to its backward pass; its memory goes to the next one of its kind. Its
/// contents are whatever was left there, until they are written.
#[derive(Debug)]
pub(super) struct Recycled<T: Element>(Vec<T>);

/// What recycled buffers hold.
pub(super) trait Element: Copy + Default + Send + 'static {
    /// Buffers of it that wait for their next use.
    fn pool() -> &'static Mutex<Vec<Vec<Self>>>;
}

/// Buffers that wait at most: more than the layers of the nets that train here side by side.
const WAITING_MAX: usize = 64;

impl Element for f32 {
    fn pool() -> &'static Mutex<Vec<Vec<Self>>> {
        static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());
        &POOL
    }
}

impl Element for u8 {
    fn pool() -> &'static Mutex<Vec<Vec<Self>>> {
        static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
        &POOL
    }
}

impl<T: Element> Recycled<T> {
    /// A buffer of this length.
    pub(super) fn take(len: usize) -> Self {
        let mut pool = T::pool().lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, and none that is far too large: those stay for the kernels that need them.
        let fits = |capacity: usize| capacity >= len && capacity / 2 <= len;
        let fitting = pool.iter().enumerate().filter(|(_, buffer)| fits(buffer.capacity()));
        let best = fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(place, _)| place);
        let mut buffer = best.map(|place| pool.remove(place)).unwrap_or_default();
        drop(pool);
        buffer.resize(len, T::default());
        Self(buffer)
    }
}

impl<T: Element> Drop for Recycled<T> {
    fn drop(&mut self) {
        let mut pool = T::pool().lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() >= WAITING_MAX {
            // The oldest: it has gone unused for the longest time.
            pool.remove(0);
        }
        pool.push(std::mem::take(&mut self.0));
    }
}

impl<T: Element> std::ops::Deref for Recycled<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Element> std::ops::DerefMut for Recycled<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

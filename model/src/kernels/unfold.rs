//! im2col and its adjoint for images with channels last.
//!
//! A row of the unfolded image holds what one output position sees: `kernel` runs of `kernel * channels` values, each
//! contiguous in the padded image.

use super::with_avx2;

/// Values copied at once. A run's last copy may reach past its end, into what is written next; hence [`SLACK`].
const CHUNK: usize = 16;
/// Values that the buffers must have beyond their contents.
pub(super) const SLACK: usize = CHUNK;

/// The sizes of a convolution of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) out: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) pad: usize,
}

impl Geometry {
    #[inline(always)]
    pub(super) fn out_height(&self) -> usize {
        (self.height + 2 * self.pad - self.kernel) / self.stride + 1
    }

    #[inline(always)]
    pub(super) fn out_width(&self) -> usize {
        (self.width + 2 * self.pad - self.kernel) / self.stride + 1
    }

    /// Output positions of an image.
    pub(super) fn positions(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Values that one position sees.
    pub(super) fn window(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    pub(super) fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    #[inline(always)]
    fn padded_line(&self) -> usize {
        (self.width + 2 * self.pad) * self.channels
    }

    /// Length of a padded image's buffer.
    pub(super) fn padded_len(&self) -> usize {
        (self.height + 2 * self.pad) * self.padded_line() + SLACK
    }

    #[inline(always)]
    /// Where the window of an output position starts in the padded image.
    fn start(&self, y: usize, x: usize) -> usize {
        (y * self.padded_line() + x * self.channels) * self.stride
    }
}

/// Copies an image into the middle of a padded one, whose border becomes zero.
pub(super) fn pad(image: &[f32], padded: &mut [f32], g: &Geometry) {
    let (line, padded_line) = (g.width * g.channels, g.padded_line());
    let mut end = 0;
    for (y, from) in image.chunks_exact(line).enumerate() {
        let start = (y + g.pad) * padded_line + g.pad * g.channels;
        // What lies between the lines, and above the first one.
        padded[end..start].fill(0.0);
        end = start + line;
        padded[start..end].copy_from_slice(from);
    }
    padded[end..].fill(0.0);
}

/// The adjoint of [`pad`]: the middle of a padded image.
pub(super) fn crop(padded: &[f32], image: &mut [f32], g: &Geometry) {
    let (line, padded_line) = (g.width * g.channels, g.padded_line());
    for (y, to) in image.chunks_exact_mut(line).enumerate() {
        let start = (y + g.pad) * padded_line + g.pad * g.channels;
        to.copy_from_slice(&padded[start..start + line]);
    }
}

/// Writes the window of every position, `[position, kernel y, kernel x, channel]`; `windows` has [`SLACK`] values more.
pub(super) fn unfold(padded: &[f32], windows: &mut [f32], g: &Geometry) {
    with_avx2(|| unfold_inline(padded, windows, g));
}

#[inline(always)]
fn unfold_inline(padded: &[f32], windows: &mut [f32], g: &Geometry) {
    let (run, line) = (g.kernel * g.channels, g.padded_line());
    let rounded = run.next_multiple_of(CHUNK);
    let mut at = 0;
    for y in 0..g.out_height() {
        for x in 0..g.out_width() {
            let start = g.start(y, x);
            for ky in 0..g.kernel {
                let from = &padded[start + ky * line..];
                copy_chunks(from, &mut windows[at..at + rounded], run);
                at += run;
            }
        }
    }
}

/// Copies a run and what follows it up to a whole chunk, where the source has that much.
#[inline(always)]
fn copy_chunks(from: &[f32], to: &mut [f32], run: usize) {
    if from.len() < to.len() {
        return to[..run].copy_from_slice(&from[..run]);
    }
    let (to, _) = to.as_chunks_mut::<CHUNK>();
    let (from, _) = from.as_chunks::<CHUNK>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// The adjoint of [`unfold`]: adds every window to where it came from.
pub(super) fn fold(windows: &[f32], padded: &mut [f32], g: &Geometry) {
    padded.fill(0.0);
    with_avx2(|| fold_inline(windows, padded, g));
}

#[inline(always)]
fn fold_inline(windows: &[f32], padded: &mut [f32], g: &Geometry) {
    let (run, line) = (g.kernel * g.channels, g.padded_line());
    let mut runs = windows.chunks_exact(run);
    for y in 0..g.out_height() {
        for x in 0..g.out_width() {
            let start = g.start(y, x);
            for (ky, from) in runs.by_ref().take(g.kernel).enumerate() {
                let to = &mut padded[start + ky * line..][..run];
                for (to, from) in to.iter_mut().zip(from) {
                    *to += *from;
                }
            }
        }
    }
}

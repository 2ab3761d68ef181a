//! How a kernel becomes an operation of candle: the one place that knows candle's storages, layouts and locks. The
//! kernels compute on slices.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, InplaceOp1, InplaceOp2, Layout, Result, Shape, Storage, Tensor};
use std::ops::Deref;
use std::sync::OnceLock;

/// The three arguments of a layer, or something of each: its values, its gradient.
#[derive(Debug, Clone, Copy)]
pub(super) struct Args<T> {
    /// The layer's input, a batch.
    pub(super) x: T,
    /// What the input is multiplied by: a convolution's or linear layer's weight, a norm's scale.
    pub(super) weight: T,
    /// What is added after that; where a norm follows a convolution, the norm's scale and shift as well.
    pub(super) affine: T,
}

impl<T> Args<T> {
    fn as_ref(&self) -> Args<&T> {
        Args { x: &self.x, weight: &self.weight, affine: &self.affine }
    }

    pub(super) fn map<U>(self, mut f: impl FnMut(T) -> U) -> Args<U> {
        Args { x: f(self.x), weight: f(self.weight), affine: f(self.affine) }
    }

    fn try_map<U>(self, mut f: impl FnMut(T) -> Result<U>) -> Result<Args<U>> {
        Ok(Args { x: f(self.x)?, weight: f(self.weight)?, affine: f(self.affine)? })
    }
}

/// A contiguous tensor as a kernel sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// Its elements in the order of its shape.
    pub(super) values: &'a [f32],
    pub(super) shape: &'a Shape,
}

/// What a forward pass returns.
pub(super) struct Forward<S> {
    /// The output's elements in the order of its shape.
    pub(super) y: Vec<f32>,
    pub(super) shape: Shape,
    /// What the backward pass will read.
    pub(super) saved: S,
}

/// What a backward pass starts from: slices of a batch, or of a block of its images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output<'a> {
    /// The output of the forward pass.
    pub(super) y: &'a [f32],
    /// The gradient of the loss with respect to it.
    pub(super) grad: &'a [f32],
}

/// The gradient of the loss with respect to an argument. `None` gives candle none: it is not
/// wanted, or the kernel has written it elsewhere.
pub(super) type Gradient = Option<Vec<f32>>;

/// A layer without parameters, on slices.
pub(super) trait Kernel1: Send + Sync + 'static {
    /// The operation's name in candle's errors.
    const NAME: &'static str;

    /// The output's elements, and its shape.
    fn forward(&self, x: View<'_>) -> Result<(Vec<f32>, Shape)>;

    /// The gradient with respect to the input, given that with respect to the output.
    fn backward(&self, x: View<'_>, grad: &[f32]) -> Result<Vec<f32>>;
}

/// A layer with parameters, on slices.
pub(super) trait Kernel3: Send + Sync + 'static {
    /// The operation's name in candle's errors.
    const NAME: &'static str;

    /// What the forward pass leaves for the backward pass.
    type Saved: Send + Sync;

    /// Checks the shapes and computes the output.
    fn forward(&self, args: Args<View<'_>>) -> Result<Forward<Self::Saved>>;

    /// The gradient with respect to each argument, given what the forward pass saved and gave.
    fn backward(&self, args: Args<View<'_>>, saved: &Self::Saved, out: Output<'_>) -> Result<Args<Gradient>>;
}

/// Applies a kernel to a tensor in CPU memory; gradients can be taken through it.
pub(super) fn apply1(kernel: impl Kernel1, x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op1(kernel))
}

/// Applies a kernel to tensors in CPU memory; gradients can be taken through it.
pub(super) fn apply3(kernel: impl Kernel3, args: Args<&Tensor>) -> Result<Tensor> {
    let Args { x, weight, affine } = args.try_map(Tensor::contiguous)?;
    x.apply_op3(&weight, &affine, Op3 { kernel, saved: OnceLock::new() })
}

struct Op1<K>(K);

impl<K: Kernel1> CustomOp1 for Op1<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, shape) = self.0.forward(view(storage, layout)?)?;
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (locked, locked_grad) = (lock(x), lock(&grad));
        let gradient = self.0.backward(locked.view()?, locked_grad.view()?.values)?;
        Tensor::from_vec(gradient, x.shape(), x.device()).map(Some)
    }
}

struct Op3<K: Kernel3> {
    kernel: K,
    /// Set by the forward pass.
    saved: OnceLock<K::Saved>,
}

impl<K: Kernel3> CustomOp3 for Op3<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let args = Args { x: view(s1, l1)?, weight: view(s2, l2)?, affine: view(s3, l3)? };
        let Forward { y, shape, saved } = self.kernel.forward(args)?;
        // An operation runs forward once; were it to run again, it would save the same.
        let _ = self.saved.set(saved);
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        affine: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(saved) = self.saved.get() else { candle_core::bail!("{}: backward before forward", K::NAME) };
        let grad = grad.contiguous()?;
        let args = Args { x, weight, affine };
        let (locked, locked_y, locked_grad) = (args.map(lock), lock(y), lock(&grad));
        let out = Output { y: locked_y.view()?.values, grad: locked_grad.view()?.values };
        let gradients = self.kernel.backward(locked.as_ref().try_map(|locked| locked.view())?, saved, out)?;
        let tensor = |gradient: Gradient, argument: &Tensor| {
            gradient.map(|values| Tensor::from_vec(values, argument.shape(), argument.device())).transpose()
        };
        Ok((tensor(gradients.x, x)?, tensor(gradients.weight, weight)?, tensor(gradients.affine, affine)?))
    }
}

/// A tensor, locked against changes while it is read.
struct Locked<'a, S> {
    storage: S,
    layout: &'a Layout,
}

fn lock(tensor: &Tensor) -> Locked<'_, impl Deref<Target = Storage> + '_> {
    let (storage, layout) = tensor.storage_and_layout();
    Locked { storage, layout }
}

impl<S: Deref<Target = Storage>> Locked<'_, S> {
    fn view(&self) -> Result<View<'_>> {
        match &*self.storage {
            Storage::Cpu(storage) => view(storage, self.layout),
            _ => candle_core::bail!("a CPU kernel got a tensor of another device"),
        }
    }
}

/// What a kernel sees of an argument, which was made contiguous before.
fn view<'a>(storage: &'a CpuStorage, layout: &'a Layout) -> Result<View<'a>> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(View { values: &values[start..end], shape: layout.shape() }),
        None => candle_core::bail!("a kernel's argument is not contiguous"),
    }
}

/// The elements of what is changed in place.
fn view_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("what is changed in place is not contiguous f32"),
    }
}

/// Calls `read` with the elements of a tensor in CPU memory.
pub(super) fn read<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let locked = lock(&tensor);
    Ok(read(locked.view()?.values))
}

/// Calls `change` with the elements of a contiguous tensor in CPU memory, to be changed in place.
pub(super) fn change(tensor: &Tensor, change: impl Fn(&mut [f32])) -> Result<()> {
    struct Change<F>(F);
    impl<F: Fn(&mut [f32])> InplaceOp1 for Change<F> {
        fn name(&self) -> &'static str {
            "change"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            (self.0)(view_mut(storage, layout)?);
            Ok(())
        }
    }
    tensor.inplace_op1(&Change(change))
}

/// Calls `change` with the elements of a contiguous tensor in CPU memory, to be changed in place, and as many of
/// another tensor.
pub(super) fn change_by(tensor: &Tensor, other: &Tensor, change: impl Fn(&mut [f32], &[f32])) -> Result<()> {
    struct ChangeBy<F>(F);
    impl<F: Fn(&mut [f32], &[f32])> InplaceOp2 for ChangeBy<F> {
        fn name(&self) -> &'static str {
            "change-by"
        }

        fn cpu_fwd(&self, to: &mut CpuStorage, layout: &Layout, by: &CpuStorage, by_layout: &Layout) -> Result<()> {
            let (to, by) = (view_mut(to, layout)?, view(by, by_layout)?.values);
            if to.len() != by.len() {
                candle_core::bail!("{} values to change {} by", by.len(), to.len())
            }
            (self.0)(to, by);
            Ok(())
        }
    }
    tensor.inplace_op2(&other.contiguous()?, &ChangeBy(change))
}

/// The gradient of a weight: written over `to` if that is given, else for candle to add up. candle begins with zeros:
/// writing it over `to` saves three passes over what is often the largest array of a step.
pub(super) fn weight_gradient(to: Option<&Tensor>, weight: &Shape, write: impl Fn(&mut [f32])) -> Result<Gradient> {
    match to {
        Some(to) if to.shape() == weight => change(to, write).map(|()| None),
        Some(to) => candle_core::bail!("a gradient of {:?} for a weight of {weight:?}", to.shape()),
        None => {
            let mut values = vec![0f32; weight.elem_count()];
            write(&mut values);
            Ok(Some(values))
        }
    }
}

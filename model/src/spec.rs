//! What a net is made of: layers, the shapes between them, and the presets.

/// Layers of a net at most: far above any net that trains on a CPU, and it bounds the work of checking a run file.
pub const LAYERS_MAX: usize = 256;
/// Parameters of a net at most: 1 GiB of f32, the most that a node should have to hold several times over.
pub const PARAMETERS_MAX: usize = 1 << 28;
/// Values of one image's activations at most, so that a batch fits in memory.
pub const ACTIVATIONS_MAX: usize = 1 << 26;
/// Values that a layer takes or gives for a batch at most: 4 GiB.
pub const VALUES_MAX: usize = 1 << 30;
/// Side of a convolution's kernel at most.
pub const KERNEL_MAX: usize = 31;
/// Outputs or channels of a layer at most: far above any net that fits the bound on parameters.
pub const WIDTH_MAX: usize = 1 << 20;
/// Classes at most: labels are kept as u16.
pub const CLASSES_MAX: usize = 1 << 16;

/// The presets that [`NetSpec::preset`] knows.
pub const PRESETS: [&str; 6] = ["cifar-cnn", "mnist-cnn", "mlp", "shapes-cnn", "resnet8", "table-mlp"];

/// One layer of a net.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// A square convolution with bias.
    Conv {
        /// Output channels.
        out: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Step in both directions.
        stride: usize,
        /// Zeros added on each side.
        pad: usize,
    },
    /// Group normalisation with scale and shift a channel (Wu and He 2018, section 3).
    GroupNorm {
        /// Groups of channels; divides the channels.
        groups: usize,
    },
    /// max(x, 0).
    Relu,
    /// The maximum of windows that don't overlap; rows and columns that fill no window are dropped.
    MaxPool {
        /// Side of the window, and the step.
        size: usize,
    },
    /// The basic block of a residual net (He et al. 2016, section 3.3) with group in place of batch normalisation:
    /// 3x3 convolution, norm, rectifier, 3x3 convolution, norm; to that the input is added, through a 1x1 convolution
    /// and a norm where its shape differs; then a rectifier.
    Residual {
        /// Output channels.
        out: usize,
        /// Step of the first convolution, and of that of the shortcut.
        stride: usize,
        /// Groups of channels of the norms; divides `out`.
        groups: usize,
    },
    /// From an image to a row: the mean of each channel.
    GlobalAvgPool,
    /// From an image to a row of numbers, in the order height, width, channel.
    Flatten,
    /// Fully connected, with bias; flattens an image first.
    Linear {
        /// Outputs.
        out: usize,
    },
    /// Sets values to zero at random while training and scales the others up (Srivastava et al. 2014).
    Dropout {
        /// The share that is set to zero, in [0, 1).
        rate: f64,
    },
}

/// A net: what it sees, its layers, what it tells apart.
#[derive(Debug, Clone, PartialEq)]
pub struct NetSpec {
    /// Channels, height and width of what the net sees; a row of a table is as many channels of one pixel. A crop may make that smaller than the images
    /// ([`crate::data::Preprocess`]).
    pub input: [usize; 3],
    /// Classes, which the last layer's outputs must equal; 1 where a number is learnt.
    pub classes: usize,
    /// The layers, in order.
    pub layers: Vec<Layer>,
}

/// One tensor of a net. Of the nets that are made of layers, convolutions have the weight `[kernel, kernel, in, out]` and linear layers `[in, out]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamShape {
    /// Layer and role, as `conv1.weight`.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl ParamShape {
    /// Its values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a net can't be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// No preset has this name.
    #[error("no net is called `{name}`: use one of {}, or list the layers", PRESETS.join(", "))]
    UnknownPreset {
        /// The name that the run file gives.
        name: String,
    },
    /// A layer is impossible where it stands.
    #[error("layer {number} ({layer}): {reason}")]
    Layer {
        /// Its place, from 1.
        number: usize,
        /// Its kind.
        layer: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The net as a whole is impossible.
    #[error("the net: {0}")]
    Net(String),
}

/// The shape of one image's activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Image { height: usize, width: usize, channels: usize },
    Row(usize),
}

impl Shape {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Image { height, width, channels } => height * width * channels,
            Self::Row(len) => len,
        }
    }
}

impl NetSpec {
    /// A net by name, for images of `[channels, height, width]`.
    ///
    /// - `cifar-cnn`: the CIFAR-10 net of McMahan et al. 2017, section 3 (TensorFlow's tutorial net without its local
    ///   response normalisation). It sees 24x24 crops; 1,068,298 parameters on three channels and 10 classes.
    /// - `mnist-cnn`: the MNIST CNN of the same paper; 1,663,370 parameters on 1x28x28.
    /// - `mlp`: the "2NN" of the same paper, two hidden layers of 200; 199,210 parameters on 1x28x28.
    /// - `shapes-cnn`: small, for slow CPUs and 3x32x32.
    /// - `resnet8`: the residual net for CIFAR-10 of He et al. 2016, section 4.2, with n = 1 and group normalisation;
    ///   78,378 parameters on three channels and 10 classes.
    /// - `table-mlp`: for rows of a table, two hidden layers of 64 and 32; 4,130 parameters on 30 numbers and two classes.
    pub fn preset(arch: &str, input: [usize; 3], classes: usize) -> Result<Self, SpecError> {
        let [channels, height, width] = input;
        let (input, layers) = match arch {
            "cifar-cnn" => ([channels, height.min(CROP), width.min(CROP)], cifar_cnn(classes)),
            "mnist-cnn" => (input, mnist_cnn(classes)),
            "mlp" => (input, mlp(classes)),
            "shapes-cnn" => (input, shapes_cnn(classes)),
            "resnet8" => (input, resnet8(classes)),
            "table-mlp" => (input, table_mlp(classes)),
            _ => return Err(SpecError::UnknownPreset { name: arch.to_owned() }),
        };
        let spec = Self { input, classes, layers };
        spec.parameters()?;
        Ok(spec)
    }

    /// The parameters in the order in which models keep them; checks the whole net on the way.
    pub fn parameters(&self) -> Result<Vec<ParamShape>, SpecError> {
        let shapes = self.shapes()?;
        let (mut convs, mut norms, mut linears) = (0, 0, 0);
        let mut parameters = Vec::new();
        let mut push = |layer: &str, number: &mut usize, roles: [(&str, Vec<usize>); 2]| {
            *number += 1;
            for (role, shape) in roles {
                parameters.push(ParamShape { name: format!("{layer}{number}.{role}"), shape });
            }
        };
        let conv = |kernel, inputs, out| [("weight", vec![kernel, kernel, inputs, out]), ("bias", vec![out])];
        let norm = |channels| [("scale", vec![channels]), ("shift", vec![channels])];
        for (layer, shape) in self.layers.iter().zip(&shapes) {
            match (layer, *shape) {
                (&Layer::Conv { out, kernel, .. }, Shape::Image { channels, .. }) => {
                    push("conv", &mut convs, conv(kernel, channels, out));
                }
                (Layer::GroupNorm { .. }, Shape::Image { channels, .. }) => push("norm", &mut norms, norm(channels)),
                (&Layer::Residual { out, stride, .. }, Shape::Image { channels, .. }) => {
                    for (kernel, inputs) in residual_convs(channels, out, stride) {
                        push("conv", &mut convs, conv(kernel, inputs, out));
                        push("norm", &mut norms, norm(out));
                    }
                }
                (&Layer::Linear { out }, shape) => {
                    push("linear", &mut linears, [("weight", vec![shape.len(), out]), ("bias", vec![out])]);
                }
                _ => {}
            }
        }
        Ok(parameters)
    }

    /// All the numbers of the net.
    pub fn parameter_count(&self) -> Result<usize, SpecError> {
        Ok(self.parameters()?.iter().map(|p| p.shape.iter().product::<usize>()).sum())
    }

    /// Images that a batch may have at most, so that what a layer takes or gives for it has [`VALUES_MAX`] values.
    pub fn batch_max(&self) -> Result<usize, SpecError> {
        let largest = self.shapes()?.into_iter().map(Shape::len).max().unwrap_or(1);
        Ok((VALUES_MAX / largest.max(1)).max(1))
    }

    /// The shape that goes into each layer, and last what the net gives; every bound is checked here.
    pub(crate) fn shapes(&self) -> Result<Vec<Shape>, SpecError> {
        let [channels, height, width] = self.input;
        if self.layers.len() > LAYERS_MAX {
            return Err(SpecError::Net(format!("{} layers, {LAYERS_MAX} at most", self.layers.len())));
        }
        if self.classes == 0 || self.classes > CLASSES_MAX {
            return Err(SpecError::Net(format!("{} classes, from 1 to {CLASSES_MAX} are possible", self.classes)));
        }
        let values = [channels, height, width].iter().try_fold(1usize, |product, &side| product.checked_mul(side));
        if !values.is_some_and(|values| (1..=ACTIVATIONS_MAX).contains(&values)) {
            return Err(SpecError::Net(format!(
                "the input {channels}x{height}x{width} has no value, or more than {ACTIVATIONS_MAX}: scale the images"
            )));
        }
        let mut shapes = vec![Shape::Image { height, width, channels }];
        let mut parameters = 0usize;
        for (index, layer) in self.layers.iter().enumerate() {
            let fail = |reason| SpecError::Layer { number: index + 1, layer: layer.kind(), reason };
            let (next, more) = layer.after(shapes[index]).map_err(fail)?;
            parameters = parameters.saturating_add(more);
            if parameters > PARAMETERS_MAX {
                return Err(fail(format!("the net has more than {PARAMETERS_MAX} parameters: make a layer smaller")));
            }
            shapes.push(next);
        }
        match shapes.last() {
            Some(&Shape::Row(len)) if len == self.classes => Ok(shapes),
            Some(&Shape::Row(len)) => Err(SpecError::Net(format!(
                "the last layer gives {len} numbers for {} classes: end with a linear layer with `out = {}`",
                self.classes, self.classes
            ))),
            _ => Err(SpecError::Net(format!(
                "it ends in an image: end with a linear layer with `out = {}`",
                self.classes
            ))),
        }
    }
}

impl Layer {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::GroupNorm { .. } => "group_norm",
            Self::Relu => "relu",
            Self::MaxPool { .. } => "max_pool",
            Self::Residual { .. } => "residual",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::Flatten => "flatten",
            Self::Linear { .. } => "linear",
            Self::Dropout { .. } => "dropout",
        }
    }

    /// What comes out for `shape`, and how many parameters the layer has.
    fn after(&self, shape: Shape) -> Result<(Shape, usize), String> {
        match (self, shape) {
            (&Self::Conv { out, kernel, stride, pad }, Shape::Image { height, width, channels }) => {
                conv_after([height, width, channels], out, kernel, stride, pad)
            }
            (&Self::GroupNorm { groups }, Shape::Image { channels, .. }) => {
                if groups == 0 || channels % groups != 0 {
                    return Err(indivisible(groups, channels));
                }
                Ok((shape, 2 * channels))
            }
            (&Self::MaxPool { size }, Shape::Image { height, width, channels }) => {
                // The window is kept as one byte an output, 255 left for "none".
                if !(1..=15).contains(&size) || size > height || size > width {
                    return Err(format!("a window of {size}x{size} on {height}x{width}: from 1 to 15, and inside it"));
                }
                Ok((Shape::Image { height: height / size, width: width / size, channels }, 0))
            }
            (&Self::Residual { out, stride, groups }, Shape::Image { height, width, channels }) => {
                if groups == 0 || out % groups != 0 {
                    return Err(indivisible(groups, out));
                }
                let (shape, _) = conv_after([height, width, channels], out, 3, stride, 1)?;
                if let Shape::Image { height, width, channels } = shape {
                    conv_after([height, width, channels], out, 3, 1, 1)?;
                }
                let of_conv =
                    |(kernel, inputs): (usize, usize)| (kernel * kernel * inputs).saturating_add(3).saturating_mul(out);
                let parameters = residual_convs(channels, out, stride).into_iter().map(of_conv);
                Ok((shape, parameters.fold(0, usize::saturating_add)))
            }
            (Self::GlobalAvgPool, Shape::Image { channels, .. }) => Ok((Shape::Row(channels), 0)),
            (Self::Relu, shape) => Ok((shape, 0)),
            (Self::Flatten, shape) => Ok((Shape::Row(shape.len()), 0)),
            (&Self::Dropout { rate }, shape) => {
                if !(0.0..1.0).contains(&rate) {
                    return Err(format!("rate {rate}: it must be at least 0 and below 1"));
                }
                Ok((shape, 0))
            }
            (&Self::Linear { out }, shape) => {
                if !(1..=ACTIVATIONS_MAX).contains(&out) {
                    return Err(format!("{out} outputs: from 1 to {ACTIVATIONS_MAX}"));
                }
                Ok((Shape::Row(out), shape.len().saturating_add(1).saturating_mul(out)))
            }
            (_, Shape::Row(len)) => Err(format!(
                "it needs an image, and gets a row of {len} numbers: move it before the layer that flattens the image"
            )),
        }
    }
}

fn indivisible(groups: usize, channels: usize) -> String {
    format!("{groups} groups don't divide {channels} channels: choose a divisor")
}

/// Kernel and input channels of the convolutions of a residual block, the shortcut's last, if it has one.
pub(crate) fn residual_convs(channels: usize, out: usize, stride: usize) -> Vec<(usize, usize)> {
    let mut convs = vec![(3, channels), (3, out)];
    if channels != out || stride != 1 {
        convs.push((1, channels));
    }
    convs
}

fn conv_after(
    [height, width, channels]: [usize; 3],
    out: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
) -> Result<(Shape, usize), String> {
    if !(1..=KERNEL_MAX).contains(&kernel) {
        return Err(format!("a kernel of {kernel}: from 1 to {KERNEL_MAX}"));
    }
    if stride == 0 || stride > kernel {
        return Err(format!("a stride of {stride}: from 1 to the kernel's {kernel}"));
    }
    if pad >= kernel {
        return Err(format!("a pad of {pad}: it must be below the kernel's {kernel}"));
    }
    if height + 2 * pad < kernel || width + 2 * pad < kernel {
        return Err(format!("a kernel of {kernel} doesn't fit {height}x{width} padded by {pad}"));
    }
    if !(1..=ACTIVATIONS_MAX).contains(&out) {
        return Err(format!("{out} output channels: from 1 to {ACTIVATIONS_MAX}"));
    }
    let (height, width) = ((height + 2 * pad - kernel) / stride + 1, (width + 2 * pad - kernel) / stride + 1);
    let unfolded = (height * width).saturating_mul(kernel * kernel * channels);
    if (height * width).saturating_mul(out).max(unfolded) > ACTIVATIONS_MAX {
        return Err(format!("more than {ACTIVATIONS_MAX} values an image: make it smaller"));
    }
    let parameters = (kernel * kernel * channels).saturating_add(1).saturating_mul(out);
    Ok((Shape::Image { height, width, channels: out }, parameters))
}

/// Side of the crops of `cifar-cnn` (McMahan et al. 2017, section 3).
pub(crate) const CROP: usize = 24;

fn conv(out: usize, kernel: usize) -> Layer {
    Layer::Conv { out, kernel, stride: 1, pad: kernel / 2 }
}

fn cifar_cnn(classes: usize) -> Vec<Layer> {
    use Layer::{Flatten, Linear, MaxPool, Relu};
    vec![
        conv(64, 5),
        Relu,
        MaxPool { size: 2 },
        conv(64, 5),
        Relu,
        MaxPool { size: 2 },
        Flatten,
        Linear { out: 384 },
        Relu,
        Linear { out: 192 },
        Relu,
        Linear { out: classes },
    ]
}

fn mnist_cnn(classes: usize) -> Vec<Layer> {
    use Layer::{Flatten, Linear, MaxPool, Relu};
    vec![
        conv(32, 5),
        Relu,
        MaxPool { size: 2 },
        conv(64, 5),
        Relu,
        MaxPool { size: 2 },
        Flatten,
        Linear { out: 512 },
        Relu,
        Linear { out: classes },
    ]
}

fn mlp(classes: usize) -> Vec<Layer> {
    use Layer::{Flatten, Linear, Relu};
    vec![Flatten, Linear { out: 200 }, Relu, Linear { out: 200 }, Relu, Linear { out: classes }]
}

fn table_mlp(classes: usize) -> Vec<Layer> {
    use Layer::{Flatten, Linear, Relu};
    vec![Flatten, Linear { out: 64 }, Relu, Linear { out: 32 }, Relu, Linear { out: classes }]
}

fn shapes_cnn(classes: usize) -> Vec<Layer> {
    use Layer::{Flatten, GroupNorm, Linear, MaxPool, Relu};
    vec![
        conv(16, 5),
        GroupNorm { groups: 4 },
        Relu,
        MaxPool { size: 2 },
        conv(32, 3),
        GroupNorm { groups: 4 },
        Relu,
        MaxPool { size: 2 },
        conv(32, 3),
        GroupNorm { groups: 4 },
        Relu,
        MaxPool { size: 2 },
        Flatten,
        Linear { out: classes },
    ]
}

fn resnet8(classes: usize) -> Vec<Layer> {
    use Layer::{GlobalAvgPool, GroupNorm, Linear, Relu};
    let block = |out, stride| Layer::Residual { out, stride, groups: 8 };
    vec![
        conv(16, 3),
        GroupNorm { groups: 8 },
        Relu,
        block(16, 1),
        block(32, 2),
        block(64, 2),
        GlobalAvgPool,
        Linear { out: classes },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Convolutions with biases, then norms, then the linear layer.
    const RESNET8: usize = (27 * 16 + 2 * 144 * 16 + (144 + 288) * 32 + (288 + 576) * 64)
        + (16 * 32 + 32 * 64)
        + (3 * 16 + 3 * 32 + 3 * 64)
        + 2 * (3 * 16 + 3 * 32 + 3 * 64)
        + 650;

    fn count(arch: &str, input: [usize; 3]) -> usize {
        NetSpec::preset(arch, input, 10).and_then(|spec| spec.parameter_count()).expect("a preset is valid")
    }

    #[test]
    fn the_presets_have_the_parameter_counts_of_the_paper() {
        assert_eq!(count("cifar-cnn", [3, 24, 24]), 1_068_298);
        assert_eq!(count("cifar-cnn", [3, 32, 32]), 1_068_298);
        assert_eq!(count("mnist-cnn", [1, 28, 28]), 1_663_370);
        assert_eq!(count("mlp", [1, 28, 28]), 199_210);
        assert_eq!(count("resnet8", [3, 32, 32]), RESNET8);
        let table = NetSpec::preset("table-mlp", [30, 1, 1], 2).and_then(|spec| spec.parameter_count());
        assert_eq!(table.expect("a preset is valid"), 4_130);
    }

    #[test]
    fn an_unknown_preset_names_the_known_ones() {
        let error = NetSpec::preset("resnet9", [3, 32, 32], 10).expect_err("no such preset").to_string();
        assert!(PRESETS.iter().all(|preset| error.contains(preset)), "{error}");
    }

    #[test]
    fn impossible_layers_are_refused_with_their_place() {
        let cases = [
            (Layer::Conv { out: 4, kernel: 0, stride: 1, pad: 0 }, "kernel"),
            (Layer::Conv { out: 4, kernel: 3, stride: 0, pad: 0 }, "stride"),
            (Layer::Conv { out: 4, kernel: 3, stride: 1, pad: 3 }, "pad"),
            (Layer::Conv { out: 4, kernel: 9, stride: 1, pad: 0 }, "fit"),
            (Layer::Conv { out: usize::MAX, kernel: 3, stride: 1, pad: 1 }, "output channels"),
            (Layer::GroupNorm { groups: 2 }, "groups"),
            (Layer::MaxPool { size: 9 }, "window"),
            (Layer::Dropout { rate: 1.0 }, "rate"),
            (Layer::Dropout { rate: f64::NAN }, "rate"),
            (Layer::Linear { out: 0 }, "outputs"),
        ];
        for (layer, word) in cases {
            let spec =
                NetSpec { input: [3, 8, 8], classes: 10, layers: vec![layer.clone(), Layer::Linear { out: 10 }] };
            let error = spec.parameters().expect_err("impossible").to_string();
            assert!(error.starts_with("layer 1") && error.contains(word), "{layer:?}: {error}");
        }
    }

    #[test]
    fn a_net_that_ends_wrong_or_is_too_large_is_refused() {
        let net = |layers| NetSpec { input: [3, 8, 8], classes: 10, layers }.parameters();
        assert!(net(vec![Layer::Relu]).is_err());
        assert!(net(vec![Layer::Linear { out: 9 }]).is_err());
        assert!(net(vec![Layer::Flatten, Layer::MaxPool { size: 2 }]).is_err());
        assert!(net(vec![Layer::Linear { out: ACTIVATIONS_MAX }, Layer::Linear { out: 10 }]).is_err());
        assert!(net(vec![Layer::Relu; LAYERS_MAX + 1]).is_err());
        assert!(NetSpec { input: [usize::MAX, 2, 2], classes: 10, layers: vec![] }.parameters().is_err());
    }
}

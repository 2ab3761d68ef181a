//! A model as PyTorch has it: its tensors, by the names and with the layouts of `torch.nn`, and a Python module that is the
//! same net.
//!
//! Here images lie channels last; PyTorch has them channels first. So a convolution's weight `[kernel, kernel, in, out]`
//! becomes `[out, in, kernel, kernel]`, a linear layer's `[in, out]` becomes `[out, in]`, and where its input is a flattened
//! image, its columns follow PyTorch's order of that image. A norm's scale and shift are its `weight` and `bias`.

mod module;

use crate::net::ModelError;
use crate::spec::{Layer, NetSpec, ParamShape, Shape, SpecError};
use crate::weights::{check_weights, values};

pub use module::{Sees, module};

/// A tensor of a model, as PyTorch has it.
#[derive(Debug, Clone, PartialEq)]
pub struct TorchTensor {
    /// As in a state dict: `conv1.weight`.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The values, in the order of the shape.
    pub values: Vec<f32>,
}

impl TorchTensor {
    /// A tensor that is as it is, of a model that no layers describe: its weights are raw little-endian f32.
    pub fn plain(shape: &ParamShape, weights: &[u8]) -> Self {
        Self { name: shape.name.clone(), shape: shape.shape.clone(), values: values(weights).collect() }
    }
}

/// The tensors of a model, given its weights as raw little-endian f32; in the order of [`NetSpec::parameters`].
///
/// # Errors
/// The net is impossible, or the bytes are no weights of it.
pub fn tensors(spec: &NetSpec, weights: &[u8]) -> Result<Vec<TorchTensor>, ModelError> {
    let parameters = spec.parameters()?;
    check_weights(weights, parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum())?;
    let mut flattened = flattened(spec)?.into_iter();
    let mut all = values(weights);
    let tensors = parameters.into_iter().map(|parameter| {
        let values: Vec<f32> = all.by_ref().take(parameter.shape.iter().product()).collect();
        let name = parameter.name.replace(".scale", ".weight").replace(".shift", ".bias");
        match *parameter.shape {
            [kernel, _, inputs, out] => {
                let values = permuted(&values, [kernel * kernel, inputs, out], [2, 1, 0]);
                TorchTensor { name, shape: vec![out, inputs, kernel, kernel], values }
            }
            [inputs, out] => {
                // Rows of one pixel each; a row of numbers is an image of one pixel.
                let [pixels, channels] = flattened.next().flatten().unwrap_or([1, inputs]);
                let values = permuted(&values, [pixels, channels, out], [2, 1, 0]);
                TorchTensor { name, shape: vec![out, inputs], values }
            }
            _ => TorchTensor { name, shape: parameter.shape, values },
        }
    });
    Ok(tensors.collect())
}

/// The weights of a net as raw little-endian f32, given its tensors as PyTorch has them: what [`tensors`] undoes.
///
/// # Errors
/// A tensor is missing, too many, or of another shape: it is named.
pub fn weights(spec: &NetSpec, given: &[TorchTensor]) -> Result<Vec<u8>, String> {
    let parameters = spec.parameters().map_err(|error| error.to_string())?;
    let blank = vec![0; 4 * parameters.iter().map(ParamShape::len).sum::<usize>()];
    let wanted = tensors(spec, &blank).map_err(|error| error.to_string())?;
    if let Some(other) = given.iter().find(|tensor| !wanted.iter().any(|wanted| wanted.name == tensor.name)) {
        return Err(format!("tensor `{}` is none of this net's", other.name));
    }
    let mut flattened = flattened(spec).map_err(|error| error.to_string())?.into_iter();
    let mut all = Vec::with_capacity(blank.len());
    for (parameter, wanted) in parameters.iter().zip(&wanted) {
        let name = &wanted.name;
        let found = given.iter().find(|tensor| tensor.name == *name);
        let TorchTensor { shape, values, .. } = found.ok_or_else(|| format!("tensor `{name}` is missing"))?;
        if *shape != wanted.shape || values.len() != parameter.len() {
            return Err(format!("tensor `{name}` has shape {shape:?}, and {:?} in this net", wanted.shape));
        }
        let values = match *parameter.shape {
            [kernel, _, inputs, out] => permuted(values, [out, inputs, kernel * kernel], [2, 1, 0]),
            [inputs, out] => {
                let [pixels, channels] = flattened.next().flatten().unwrap_or([1, inputs]);
                permuted(values, [out, channels, pixels], [2, 1, 0])
            }
            _ => values.clone(),
        };
        all.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok(all)
}

/// For each linear layer the pixels and channels of the image that its input is, if that is one.
fn flattened(spec: &NetSpec) -> Result<Vec<Option<[usize; 2]>>, SpecError> {
    let (mut image, mut linears) = (None, Vec::new());
    for (layer, shape) in spec.layers.iter().zip(spec.shapes()?) {
        if let Shape::Image { height, width, channels } = shape {
            image = Some([height * width, channels]);
        }
        match layer {
            Layer::Linear { .. } => linears.push(image.take()),
            Layer::GlobalAvgPool => image = None,
            _ => {}
        }
    }
    Ok(linears)
}

/// The values of a tensor of these dimensions with its axes in another order.
fn permuted(values: &[f32], shape: [usize; 3], axes: [usize; 3]) -> Vec<f32> {
    let strides = [shape[1] * shape[2], shape[2], 1];
    let [a, b, c] = axes;
    let mut all = Vec::with_capacity(values.len());
    for i in 0..shape[a] {
        for j in 0..shape[b] {
            let start = i * strides[a] + j * strides[b];
            all.extend((0..shape[c]).map(|k| values[start + k * strides[c]]));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Preprocess;
    use crate::net::{Mode, Model};
    use candle_core::{Device, Tensor};

    /// A batch of images, channels first, of any size.
    #[derive(Clone)]
    struct Batch {
        shape: [usize; 4],
        values: Vec<f32>,
    }

    /// The net as `torch.nn` documents its layers, on tensors as PyTorch has them: slow, and nothing of it shared with the
    /// kernels.
    struct Torch(Vec<TorchTensor>);

    impl Torch {
        fn get(&self, name: &str) -> &TorchTensor {
            self.0.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("there is no {name}"))
        }

        fn conv(&self, x: &Batch, number: usize, stride: usize, pad: usize) -> Batch {
            let weight = self.get(&format!("conv{number}.weight"));
            let bias = self.get(&format!("conv{number}.bias"));
            let [n, inputs, height, width] = x.shape;
            let [out, kernel] = [weight.shape[0], weight.shape[2]];
            assert_eq!(weight.shape[1], inputs);
            let side = |len: usize| (len + 2 * pad - kernel) / stride + 1;
            let shape = [n, out, side(height), side(width)];
            let mut values = Vec::new();
            for (image, o, y, x0) in places(shape) {
                let mut sum = f64::from(bias.values[o]);
                for (c, ky, kx) in
                    (0..inputs * kernel * kernel).map(|i| (i / (kernel * kernel), i / kernel % kernel, i % kernel))
                {
                    let (row, column) = (y * stride + ky, x0 * stride + kx);
                    if (pad..pad + height).contains(&row) && (pad..pad + width).contains(&column) {
                        let at = ((image * inputs + c) * height + row - pad) * width + column - pad;
                        let w = weight.values[((o * inputs + c) * kernel + ky) * kernel + kx];
                        sum += f64::from(x.values[at]) * f64::from(w);
                    }
                }
                values.push(sum as f32);
            }
            Batch { shape, values }
        }

        fn norm(&self, x: &Batch, number: usize, groups: usize) -> Batch {
            let weight = self.get(&format!("norm{number}.weight"));
            let bias = self.get(&format!("norm{number}.bias"));
            let [_, channels, height, width] = x.shape;
            let group = channels / groups * height * width;
            let mut values = x.values.clone();
            for (i, values) in values.chunks_mut(group).enumerate() {
                let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / group as f64;
                let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / group as f64;
                for (j, value) in values.iter_mut().enumerate() {
                    let channel = i % groups * (channels / groups) + j / (height * width);
                    let scaled = (f64::from(*value) - mean) / (variance + 1e-5).sqrt();
                    *value = (scaled * f64::from(weight.values[channel]) + f64::from(bias.values[channel])) as f32;
                }
            }
            Batch { values, ..x.clone() }
        }

        fn linear(&self, x: &Batch, number: usize) -> Batch {
            let weight = self.get(&format!("linear{number}.weight"));
            let bias = self.get(&format!("linear{number}.bias"));
            let [out, inputs] = [weight.shape[0], weight.shape[1]];
            let rows = x.values.chunks(inputs);
            let product = |row: &[f32], o: usize| {
                let weights = &weight.values[o * inputs..][..inputs];
                let sum: f64 = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                (sum + f64::from(bias.values[o])) as f32
            };
            let values = rows.flat_map(|row| (0..out).map(move |o| product(row, o)).collect::<Vec<_>>()).collect();
            Batch { shape: [x.shape[0], out, 1, 1], values }
        }

        fn forward(&self, spec: &NetSpec, mut x: Batch) -> Vec<f32> {
            let (mut convs, mut norms, mut linears) = (0, 0, 0);
            let count = |number: &mut usize| {
                *number += 1;
                *number
            };
            for layer in &spec.layers {
                x = match *layer {
                    Layer::Conv { stride, pad, .. } => self.conv(&x, count(&mut convs), stride, pad),
                    Layer::GroupNorm { groups } => self.norm(&x, count(&mut norms), groups),
                    Layer::Relu => relu(x),
                    Layer::MaxPool { size } => pooled(&x, size),
                    Layer::Residual { out, stride, groups } => {
                        let first = self.conv(&x, count(&mut convs), stride, 1);
                        let first = relu(self.norm(&first, count(&mut norms), groups));
                        let second = self.conv(&first, count(&mut convs), 1, 1);
                        let mut second = self.norm(&second, count(&mut norms), groups);
                        let short = match x.shape[1] == out && stride == 1 {
                            true => x,
                            false => {
                                let short = self.conv(&x, count(&mut convs), stride, 0);
                                self.norm(&short, count(&mut norms), groups)
                            }
                        };
                        second.values.iter_mut().zip(&short.values).for_each(|(y, x)| *y += x);
                        relu(second)
                    }
                    Layer::GlobalAvgPool => {
                        let [n, channels, height, width] = x.shape;
                        let means = x.values.chunks(height * width).map(|c| c.iter().sum::<f32>() / c.len() as f32);
                        Batch { shape: [n, channels, 1, 1], values: means.collect() }
                    }
                    Layer::Flatten | Layer::Dropout { .. } => x,
                    Layer::Linear { .. } => self.linear(&x, count(&mut linears)),
                };
            }
            x.values
        }
    }

    fn places([n, channels, height, width]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        (0..n * channels * height * width).map(move |i| {
            (i / (channels * height * width), i / (height * width) % channels, i / width % height, i % width)
        })
    }

    fn relu(mut x: Batch) -> Batch {
        x.values.iter_mut().for_each(|v| *v = v.max(0.0));
        x
    }

    fn pooled(x: &Batch, size: usize) -> Batch {
        let [n, channels, height, width] = x.shape;
        let shape = [n, channels, height / size, width / size];
        let at = |plane: usize, row: usize, column: usize| x.values[(plane * height + row) * width + column];
        let values = places(shape).map(|(image, channel, y, x0)| {
            let window =
                (0..size * size).map(|i| at(image * channels + channel, y * size + i / size, x0 * size + i % size));
            window.fold(f32::NEG_INFINITY, f32::max)
        });
        Batch { shape, values: values.collect() }
    }

    /// Nets with every layer, in every place where a layout matters.
    fn specs() -> Vec<NetSpec> {
        let layers = vec![
            Layer::Conv { out: 6, kernel: 3, stride: 2, pad: 2 },
            Layer::Relu,
            Layer::Residual { out: 6, stride: 1, groups: 3 },
            Layer::Residual { out: 8, stride: 2, groups: 2 },
            Layer::MaxPool { size: 2 },
            Layer::Dropout { rate: 0.5 },
            Layer::Linear { out: 7 },
            Layer::Relu,
            Layer::Linear { out: 3 },
        ];
        let own = NetSpec { input: [2, 13, 11], classes: 3, layers };
        let preset = |arch, input| NetSpec::preset(arch, input, 10).expect("a preset");
        vec![
            own,
            preset("shapes-cnn", [3, 32, 32]),
            preset("resnet8", [3, 16, 16]),
            preset("mlp", [1, 8, 9]),
            preset("cifar-cnn", [3, 12, 12]),
        ]
    }

    fn weights(spec: &NetSpec) -> Vec<u8> {
        Model::initial(spec, &Device::Cpu, 3).and_then(|m| m.to_bytes()).expect("a model")
    }

    #[test]
    fn what_pytorch_computes_with_the_tensors_is_what_the_net_computes() {
        for spec in specs() {
            let mut weights = weights(&spec);
            // Biases and shifts begin at zero, where a wrong place would not show.
            for (i, value) in weights.chunks_exact_mut(4).enumerate() {
                let moved = f32::from_le_bytes([value[0], value[1], value[2], value[3]]) + (i % 7) as f32 * 0.01 - 0.03;
                value.copy_from_slice(&moved.to_le_bytes());
            }
            let [channels, height, width] = spec.input;
            let shape = [2, channels, height, width];
            let values: Vec<f32> = (0..shape.iter().product()).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
            let theirs = Torch(tensors(&spec, &weights).expect("its weights"))
                .forward(&spec, Batch { shape, values: values.clone() });
            let x = Tensor::from_vec(values, &shape, &Device::Cpu).expect("a tensor");
            let model = Model::from_bytes(&spec, &Device::Cpu, &weights).expect("its weights");
            let ours = model.forward(&x, Mode::Eval).and_then(|y| y.flatten_all()?.to_vec1::<f32>()).expect("logits");
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!((ours - theirs).abs() < 1e-4 * (1.0 + ours.abs()), "{ours}, not {theirs}, in {spec:?}");
            }
        }
    }

    #[test]
    fn tensors_have_the_names_and_shapes_of_a_state_dict() {
        let spec = NetSpec::preset("shapes-cnn", [3, 32, 32], 10).expect("a preset");
        let tensors = tensors(&spec, &weights(&spec)).expect("its weights");
        let named: Vec<(&str, &[usize])> = tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())).collect();
        assert_eq!(named[0], ("conv1.weight", [16, 3, 5, 5].as_slice()));
        assert_eq!(named[2], ("norm1.weight", [16].as_slice()));
        assert_eq!(named[3], ("norm1.bias", [16].as_slice()));
        assert_eq!(named[named.len() - 2], ("linear1.weight", [10, 512].as_slice()));
    }

    #[test]
    fn a_module_builds_each_layer_that_has_parameters() {
        for spec in specs() {
            let text = module(&spec, Sees::Images(Preprocess::Plain), &[], "A net.", "m.safetensors").expect("a net");
            for tensor in tensors(&spec, &weights(&spec)).expect("its weights") {
                let (layer, _) = tensor.name.split_once('.').expect("a layer and its role");
                assert!(text.contains(&format!("self.{layer} = nn.")), "{layer} is missing in\n{text}");
                assert!(text.contains(&format!("self.{layer}(")), "{layer} is not used in\n{text}");
            }
        }
    }

    #[test]
    fn names_of_a_run_file_stay_within_their_quotes() {
        let classes = ["a \"b\"\n".into(), "c\\".into(), "<steps>".into()];
        let about = "A \"\"\"net\"\"\" of <classes>\\";
        let text =
            module(&specs()[0], Sees::Images(Preprocess::Plain), &classes, about, "m.safetensors").expect("a net");
        assert!(text.starts_with("\"\"\"A '''net''' of <classes>/\n"), "{text}");
        assert!(text.contains("    \"a \\\"b\\\"\\u000a\",\n    \"c\\\\\",\n    \"<steps>\",\n]"), "{text}");
    }

    #[test]
    fn bytes_of_another_net_are_refused() {
        let spec = NetSpec::preset("mlp", [1, 8, 9], 10).expect("a preset");
        assert!(matches!(tensors(&spec, &weights(&spec)[4..]), Err(ModelError::Weights(_))));
    }

    #[test]
    fn what_is_taken_to_pytorch_comes_back_as_it_was() {
        for arch in crate::spec::PRESETS {
            let spec = NetSpec::preset(arch, [3, 32, 32], 10).or_else(|_| NetSpec::preset(arch, [1, 28, 28], 10));
            let spec = spec.expect("it fits one of them");
            let before = Model::initial(&spec, &Device::Cpu, 3).and_then(|model| model.to_bytes()).expect("memory");
            let mut there = tensors(&spec, &before).expect("it is its own");
            assert_eq!(super::weights(&spec, &there), Ok(before), "{arch}");
            let last = there.pop().expect("tensors");
            assert_eq!(super::weights(&spec, &there), Err(format!("tensor `{}` is missing", last.name)));
            there.push(TorchTensor { name: "other".to_owned(), ..last });
            assert_eq!(super::weights(&spec, &there), Err("tensor `other` is none of this net's".to_owned()));
        }
    }
}

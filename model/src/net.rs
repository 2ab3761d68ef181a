//! A model: the parameters of a net on a device, and its forward pass.

use crate::init;
use crate::kernels::conv::{ConvLayer, Epilogue, conv};
use crate::kernels::residual::ResidualLayer;
use crate::kernels::{linear, norm, pool, residual};
use crate::random_stream::RandomStream;
use crate::spec::{Layer, NetSpec, ParamShape, Shape, SpecError, residual_convs};
use crate::weights::{self, WeightsError};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

/// The parameters of a net, in the order of [`NetSpec::parameters`], as candle variables on one device.
#[derive(Debug)]
pub struct Model {
    stages: Vec<Stage>,
    variables: Vec<Var>,
    /// Whether each of them is trained; empty where all are.
    trained: Vec<bool>,
    /// Where the backward pass writes the gradients of the large weights; nothing of a model that isn't trained.
    gradients: Vec<Option<Tensor>>,
    input: [usize; 3],
}

/// Why a model can't be made of a net and bytes.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The net's layers don't fit together.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The bytes are no weights of this net.
    #[error("the weights are refused: {0}")]
    Weights(#[from] WeightsError),
    /// The device gave no memory or failed at a copy.
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

/// What a forward pass is done for.
#[derive(Debug)]
pub enum Mode<'a> {
    /// Training: gradients are tracked, and dropout draws from this stream.
    Train(&'a mut RandomStream),
    /// Evaluation: no gradients, no dropout.
    Eval,
}

/// One step of the forward pass: a layer, with what follows it where one kernel does both. The numbers are indices of
/// variables; a layer's second parameter follows its first.
#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Conv { weight: usize, layer: ConvLayer },
    GroupNorm { scale: usize, groups: usize, relu: bool },
    Relu,
    MaxPool { size: usize },
    Residual { first: usize, layer: ResidualLayer },
    GlobalAvgPool,
    Flatten,
    Linear { weight: usize, relu: bool, input_gradient: bool },
    Dropout { rate: f64 },
}

impl Model {
    /// The initial model: a function of the net and the seed, bit-identical on every CPU
    /// (docs/protocol.md, section 14).
    pub fn initial(spec: &NetSpec, device: &Device, seed: u64) -> Result<Self, ModelError> {
        let parameters = spec.parameters()?;
        Self::build(spec, device, &parameters, |index| init::values(&parameters, index, seed))
    }

    /// A model from raw little-endian f32, the parameters in order and nothing else. Length and finiteness are checked
    /// before any tensor is made.
    pub fn from_bytes(spec: &NetSpec, device: &Device, bytes: &[u8]) -> Result<Self, ModelError> {
        let parameters = spec.parameters()?;
        weights::check_weights(bytes, parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum())?;
        let mut values = weights::values(bytes);
        Self::build(spec, device, &parameters, |index| {
            values.by_ref().take(parameters[index].shape.iter().product()).collect()
        })
    }

    /// The parameters as raw little-endian f32, in order.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut bytes = Vec::new();
        for variable in &self.variables {
            let values = variable.as_detached_tensor().flatten_all()?.to_vec1::<f32>()?;
            bytes.reserve(values.len() * 4);
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Ok(bytes)
    }

    /// The logits `[n, classes]` of a batch `x`, `[n, channels, height, width]` in f32 on the model's device. A batch
    /// whose values lie channels last (a permuted tensor) isn't copied.
    pub fn forward(&self, x: &Tensor, mut mode: Mode<'_>) -> candle_core::Result<Tensor> {
        let [channels, height, width] = self.input;
        if !matches!(x.dims(), [n, rest @ ..] if *n > 0 && rest == self.input) {
            candle_core::bail!("the net sees one or more {channels}x{height}x{width} images, not {:?}", x.dims())
        }
        let mut x = x.permute((0, 2, 3, 1))?.contiguous()?;
        for stage in &self.stages {
            x = self.apply(stage, &x, &mut mode)?;
        }
        Ok(x)
    }

    /// The parameters, in order.
    pub fn variables(&self) -> &[Var] {
        &self.variables
    }

    /// From now on these variables are trained, and the backward pass goes no deeper than the first of them. It keeps the
    /// gradients of the weights of convolutions and linear layers out of candle's store, where that is faster;
    /// [`Model::gradient`] finds them all the same.
    pub(crate) fn train_only(&mut self, spec: &NetSpec, trained: &[bool]) -> Result<(), ModelError> {
        (self.stages, self.trained) = (stages(spec, trained)?, trained.to_vec());
        let mut gradients = vec![None; self.variables.len()];
        for stage in &self.stages {
            if let Stage::Conv { weight, .. } | Stage::Linear { weight, .. } = *stage
                && trained.get(weight).is_none_or(|is| *is)
                && self.variables[weight].device().is_cpu()
            {
                gradients[weight] = Some(self.variables[weight].zeros_like()?);
            }
        }
        self.gradients = gradients;
        Ok(())
    }

    /// The gradient of a variable after a backward pass, which may be changed until the next.
    pub(crate) fn gradient(&self, variable: usize, store: &mut GradStore) -> Option<Tensor> {
        let kept = self.gradients.get(variable).cloned().flatten();
        kept.or_else(|| store.remove(self.variables[variable].as_tensor()))
    }

    fn build(
        spec: &NetSpec,
        device: &Device,
        parameters: &[ParamShape],
        mut values: impl FnMut(usize) -> Vec<f32>,
    ) -> Result<Self, ModelError> {
        let variable = |index: usize| Var::from_vec(values(index), parameters[index].shape.as_slice(), device);
        let variables = (0..parameters.len()).map(variable).collect::<candle_core::Result<_>>()?;
        let stages = stages(spec, &[])?;
        Ok(Self { stages, variables, trained: Vec::new(), gradients: Vec::new(), input: spec.input })
    }

    fn apply(&self, stage: &Stage, x: &Tensor, mode: &mut Mode<'_>) -> candle_core::Result<Tensor> {
        let training = matches!(mode, Mode::Train(_));
        let parameter = |index: usize| match training && self.trained.get(index).is_none_or(|is| *is) {
            true => self.variables[index].as_tensor().clone(),
            false => self.variables[index].as_detached_tensor(),
        };
        let weight_grad = |index: usize| self.gradients.get(index).and_then(Option::as_ref);
        // With a norm the bias is followed by scale and shift; the operation takes the three as one tensor.
        let conv_layer = |x: &Tensor, weight: usize, layer: ConvLayer| {
            let affine = match layer.epilogue {
                Epilogue::Pool { .. } => parameter(weight + 1),
                Epilogue::Norm { .. } => {
                    Tensor::cat(&[parameter(weight + 1), parameter(weight + 2), parameter(weight + 3)], 0)?
                }
            };
            conv(x, &parameter(weight), &affine, layer, weight_grad(weight))
        };
        match *stage {
            Stage::Conv { weight, layer } => conv_layer(x, weight, layer),
            Stage::GroupNorm { scale, groups, relu } => {
                norm::group_norm(x, &parameter(scale), &parameter(scale + 1), groups, relu)
            }
            Stage::Relu => x.relu(),
            Stage::MaxPool { size } => pool::max_pool(x, size),
            Stage::Residual { first, layer } => {
                let convs = (first..).step_by(4).take(if layer.shortcut { 3 } else { 2 });
                let weights = convs.clone().map(|conv| parameter(conv).flatten_all());
                let affine = convs.flat_map(|conv| [parameter(conv + 1), parameter(conv + 2), parameter(conv + 3)]);
                let weights = Tensor::cat(&weights.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
                residual::residual(x, &weights, &Tensor::cat(&affine.collect::<Vec<_>>(), 0)?, layer)
            }
            Stage::GlobalAvgPool => x.mean((1, 2)),
            Stage::Flatten => x.flatten_from(1),
            Stage::Linear { weight, relu, input_gradient } => {
                linear::linear(x, &parameter(weight), &parameter(weight + 1), relu, input_gradient, weight_grad(weight))
            }
            Stage::Dropout { rate } => match mode {
                Mode::Train(stream) if rate > 0.0 => dropout(x, rate, stream),
                _ => Ok(x.clone()),
            },
        }
    }
}

fn dropout(x: &Tensor, rate: f64, stream: &mut RandomStream) -> candle_core::Result<Tensor> {
    let kept = (1.0 / (1.0 - rate)) as f32;
    let mask = (0..x.elem_count()).map(|_| if f64::from(stream.unit()) < rate { 0.0 } else { kept }).collect();
    x.mul(&Tensor::from_vec::<_, f32>(mask, x.shape(), x.device())?)
}

/// The steps of a net, with layers joined where one kernel does both. `trained` says of each parameter whether it is trained;
/// of none, all are.
fn stages(spec: &NetSpec, trained: &[bool]) -> Result<Vec<Stage>, SpecError> {
    let shapes = spec.shapes()?;
    let mut stages = Vec::new();
    let mut parameters = 0;
    for (layer, shape) in spec.layers.iter().zip(&shapes) {
        // Nothing before the first parameter that is trained needs a gradient.
        let input_gradient = (0..parameters).any(|index| trained.get(index).is_none_or(|is| *is));
        match *layer {
            Layer::Conv { stride, pad, .. } => {
                let layer = ConvLayer { stride, pad, epilogue: Epilogue::NONE, input_gradient };
                stages.push(Stage::Conv { weight: parameters, layer });
                parameters += 2;
            }
            Layer::GroupNorm { groups } => {
                match stages.last_mut() {
                    Some(Stage::Conv { layer, .. }) if layer.epilogue == Epilogue::NONE => {
                        layer.epilogue = Epilogue::Norm { groups, relu: false };
                    }
                    _ => stages.push(Stage::GroupNorm { scale: parameters, groups, relu: false }),
                }
                parameters += 2;
            }
            Layer::Linear { .. } => {
                if matches!(shape, Shape::Image { .. }) {
                    stages.push(Stage::Flatten);
                }
                stages.push(Stage::Linear { weight: parameters, relu: false, input_gradient });
                parameters += 2;
            }
            // The maximum and the rectifier commute, so their order doesn't matter to the kernel.
            Layer::Relu => match stages.last_mut() {
                Some(
                    Stage::Conv {
                        layer: ConvLayer { epilogue: Epilogue::Pool { relu, .. } | Epilogue::Norm { relu, .. }, .. },
                        ..
                    }
                    | Stage::GroupNorm { relu, .. }
                    | Stage::Linear { relu, .. },
                ) => *relu = true,
                _ => stages.push(Stage::Relu),
            },
            Layer::MaxPool { size } => match stages.last_mut() {
                Some(Stage::Conv {
                    layer: ConvLayer { epilogue: Epilogue::Pool { size: none @ 1, .. }, .. }, ..
                }) => *none = size,
                _ => stages.push(Stage::MaxPool { size }),
            },
            Layer::Residual { out, stride, groups } => {
                let Shape::Image { channels, .. } = *shape else { continue };
                let convs = residual_convs(channels, out, stride).len();
                let layer = ResidualLayer { out, stride, groups, shortcut: convs > 2 };
                stages.push(Stage::Residual { first: parameters, layer });
                parameters += 4 * convs;
            }
            Layer::GlobalAvgPool => stages.push(Stage::GlobalAvgPool),
            Layer::Flatten => stages.push(Stage::Flatten),
            Layer::Dropout { rate } => stages.push(Stage::Dropout { rate }),
        }
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_stream::{Purpose, StreamKey};
    use crate::spec::PRESETS;

    fn spec() -> NetSpec {
        NetSpec::preset("shapes-cnn", [3, 32, 32], 10).expect("a preset")
    }

    fn stream() -> RandomStream {
        RandomStream::new(&StreamKey { seed: 1, round: 1, node: &[], purpose: Purpose::Dropout, index: 0 })
    }

    #[test]
    fn initial_values_are_the_same_bits_on_every_cpu() {
        let golden = [
            ("cifar-cnn", "0ea69663c289060e50a118f72b37a1d0ccd2aced70c1ee760e5f02d5c41fca87"),
            ("mnist-cnn", "01489e70d23c6007e7bed18d0c94fb32b859f3ba40b7358df76def103f6a13ed"),
            ("mlp", "b47372ca6325c75e1d3c1be69f2b5a26e76f5a12f234cbe25d051870756b47fb"),
            ("shapes-cnn", "c36c37ef3fb4aae6ef0657cdb5bb297bc325e7c6feb632d48ea13feea8ee9525"),
            ("resnet8", "b566a8eb6c13d1c9a95d3642184838bbd0a9c03ad1be71fc3796c7d789af71f8"),
            ("table-mlp", "ccef3c54506f692beceba95df923180677fc8ecbf0f66de77b372ced4bd48f73"),
        ];
        for (arch, expected) in golden {
            let input = if arch.starts_with('m') { [1, 28, 28] } else { [3, 32, 32] };
            let spec = NetSpec::preset(arch, input, 10).expect("a preset");
            let bytes = Model::initial(&spec, &Device::Cpu, 1).and_then(|model| model.to_bytes()).expect("a model");
            assert_eq!(blake3::hash(&bytes).to_hex().as_str(), expected, "{arch}");
        }
        assert_eq!(golden.map(|(arch, _)| arch), PRESETS);
    }

    #[test]
    fn another_seed_gives_another_model() {
        let bytes =
            |seed| Model::initial(&spec(), &Device::Cpu, seed).and_then(|model| model.to_bytes()).expect("a model");
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    #[test]
    fn bytes_make_the_model_that_they_came_from() {
        let model = Model::initial(&spec(), &Device::Cpu, 1).expect("a model");
        let bytes = model.to_bytes().expect("a model");
        assert_eq!(bytes.len(), 4 * spec().parameter_count().expect("a preset"));
        let again = Model::from_bytes(&spec(), &Device::Cpu, &bytes).expect("its own bytes");
        assert_eq!(again.to_bytes().expect("a model"), bytes);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut bytes = Model::initial(&spec(), &Device::Cpu, 1).and_then(|model| model.to_bytes()).expect("a model");
        let refused = |bytes: &[u8]| Model::from_bytes(&spec(), &Device::Cpu, bytes).expect_err("must be refused");
        assert!(matches!(refused(&bytes[4..]), ModelError::Weights(WeightsError::WrongLength { .. })));
        bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(matches!(refused(&bytes), ModelError::Weights(WeightsError::NotFinite { index: 2 })));
    }

    #[test]
    fn gradients_that_are_kept_apart_are_those_of_candles_store() {
        let layers = vec![
            Layer::Conv { out: 3, kernel: 3, stride: 1, pad: 1 },
            Layer::MaxPool { size: 2 },
            Layer::Linear { out: 5 },
            Layer::Relu,
            Layer::Linear { out: 2 },
        ];
        let spec = NetSpec { input: [2, 6, 6], classes: 2, layers };
        let x = Tensor::arange(0f32, 216.0, &Device::Cpu).and_then(|x| (x / 216.0)?.reshape((3, 2, 6, 6)));
        let x = x.expect("a tensor");
        let gradients = |keep: bool| -> Vec<Vec<f32>> {
            let mut model = Model::initial(&spec, &Device::Cpu, 1).expect("a model");
            if keep {
                model.train_only(&spec, &[]).expect("memory");
            }
            // Twice, since what was there before must not matter.
            let mut all = Vec::new();
            for _ in 0..2 {
                let y = model.forward(&x, Mode::Train(&mut stream()));
                let mut store = y.and_then(|y| y.sqr()?.sum_all()?.backward()).expect("tracked");
                all = (0..6).map(|i| model.gradient(i, &mut store).expect("every variable has one")).collect();
            }
            all.iter().map(|g| g.flatten_all().and_then(|g| g.to_vec1()).expect("f32")).collect()
        };
        assert_eq!(gradients(true), gradients(false));
    }

    #[test]
    fn a_batch_of_another_shape_is_an_error() {
        let model = Model::initial(&spec(), &Device::Cpu, 1).expect("a model");
        for shape in [&[2, 3, 31, 32][..], &[0, 3, 32, 32], &[3, 32, 32], &[]] {
            let x = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).expect("a tensor");
            assert!(model.forward(&x, Mode::Eval).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn dropout_is_for_training_alone_and_keeps_the_mean() {
        let x = Tensor::ones((100, 100), candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        let y = dropout(&x, 0.25, &mut stream()).and_then(|y| y.flatten_all()?.to_vec1::<f32>()).expect("a tensor");
        let zeros = y.iter().filter(|&&value| value == 0.0).count();
        assert!((2_300..2_700).contains(&zeros), "{zeros}");
        let kept = 1.0 / 0.75;
        assert!(y.iter().all(|&value| value == 0.0 || (value - kept).abs() < 1e-6));
        let layers = vec![Layer::Flatten, Layer::Dropout { rate: 0.5 }, Layer::Linear { out: 2 }];
        let spec = NetSpec { input: [1, 8, 8], classes: 2, layers };
        let model = Model::initial(&spec, &Device::Cpu, 1).expect("a model");
        let x = Tensor::ones((1, 1, 8, 8), candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        let values = |y: candle_core::Result<Tensor>| -> Vec<f32> {
            y.and_then(|y| y.flatten_all()?.to_vec1()).expect("a tensor")
        };
        let evaluated = || values(model.forward(&x, Mode::Eval));
        let trained = || values(model.forward(&x, Mode::Train(&mut stream())));
        assert_eq!(evaluated(), evaluated());
        assert_eq!(trained(), trained());
        assert_ne!(evaluated(), trained());
    }

    #[test]
    fn layers_join_the_one_before_them_where_one_kernel_does_both() {
        let kinds: Vec<bool> = stages(&NetSpec::preset("cifar-cnn", [3, 24, 24], 10).expect("a preset"), &[])
            .expect("a preset")
            .iter()
            .map(|stage| matches!(stage, Stage::Relu | Stage::MaxPool { .. }))
            .collect();
        assert_eq!(kinds, [false; 6]);
    }
}

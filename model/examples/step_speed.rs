//! How fast a training step is: images a second with the crate's kernels and with candle's own convolution.
//!
//! `RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo run --release -p paceline-model --example step_speed [THREADS]`
//!
//! The variables hold candle to one thread: ours are counted by the argument, 1 without.

use candle_core::{DType, Device, Tensor, Var};
use paceline_model::{Images, Model, NetSpec, Preprocess, Rule, Threads, TrainConfig, TrainJob, train};
use std::ops::ControlFlow;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WARM_UP: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads: usize = std::env::args().nth(1).map_or(Ok(1), |count| count.parse())?;
    for (arch, input, batch, steps) in [
        ("cifar-cnn", [3, 32, 32], 50, 40),
        ("mnist-cnn", [1, 28, 28], 10, 100),
        ("mnist-cnn", [1, 28, 28], 50, 40),
        ("mlp", [1, 28, 28], 50, 100),
        ("shapes-cnn", [3, 32, 32], 50, 40),
    ] {
        let rate = ours(arch, input, batch, steps, threads)?;
        println!("{arch:10} batch {batch:2}, {threads} threads: {rate:7.0} images/s");
    }
    println!("cifar-cnn  batch 50 with candle's own convolution: {:7.0} images/s", candles(50, 5)?);
    Ok(())
}

/// Whole training steps as a node takes them, preprocessing included.
fn ours(
    arch: &str,
    input: [usize; 3],
    batch: usize,
    steps: usize,
    threads: usize,
) -> Result<f64, Box<dyn std::error::Error>> {
    let spec = NetSpec::preset(arch, input, 10)?;
    let count = batch * (steps + WARM_UP);
    let pixels = (0..count * input.iter().product::<usize>()).map(|i| (i * 31 % 251) as u8).collect();
    let data = Images::new(input, 10, pixels, (0..count).map(|i| (i % 10) as u16).collect())?;
    let parent = Model::initial(&spec, &Device::Cpu, 1)?.to_bytes()?;
    let config = TrainConfig {
        epochs: 1,
        batch,
        lr: 0.01,
        lr_decay: 1.0,
        momentum: 0.0,
        weight_decay: 0.0,
        clip_norm: 0.0,
        prox_mu: 0.0,
        augment: true,
    };
    let job = TrainJob {
        spec: &spec,
        preprocess: Preprocess::for_preset(arch, input),
        rule: &Rule::FedAvg,
        parent: &parent,
        control: None,
        data: &data,
        config: &config,
        round: 1,
        seed: 1,
        node_key: b"speed",
        device: &Device::Cpu,
    };
    let mut start = Instant::now();
    let mut seconds = 0.0;
    train(&job, &Threads::new(threads)?, &mut |progress| {
        if progress.batch == WARM_UP {
            start = Instant::now();
        }
        seconds = start.elapsed().as_secs_f64();
        ControlFlow::Continue(())
    })?;
    Ok((batch * steps) as f64 / seconds)
}

/// The same net from candle's operations alone. Its max pooling has a wrong gradient and is used for its time only.
fn candles(batch: usize, steps: usize) -> candle_core::Result<f64> {
    let device = Device::Cpu;
    let variable = |shape: &[usize]| Var::rand_f64(-0.02, 0.02, shape, DType::F32, &device);
    let convs = [variable(&[64, 3, 5, 5])?, variable(&[64, 64, 5, 5])?];
    let linears = [variable(&[2304, 384])?, variable(&[384, 192])?, variable(&[192, 10])?];
    let x = Tensor::rand(-1f32, 1f32, (batch, 3, 24, 24), &device)?;
    let step = || -> candle_core::Result<()> {
        let mut y = x.clone();
        for conv in &convs {
            y = y.conv2d(conv, 2, 1, 1, 1)?.relu()?.max_pool2d(2)?;
        }
        y = y.flatten_from(1)?;
        for (i, linear) in linears.iter().enumerate() {
            y = y.matmul(linear)?;
            y = if i < 2 { y.relu()? } else { y };
        }
        let gradients = y.log_softmax_first()?.backward()?;
        for variable in convs.iter().chain(&linears) {
            if let Some(gradient) = gradients.get(variable.as_tensor()) {
                variable.set(&(variable.as_detached_tensor() - (gradient * 0.01)?)?)?;
            }
        }
        Ok(())
    };
    step()?;
    let start = Instant::now();
    (0..steps).try_for_each(|_| step())?;
    Ok((batch * steps) as f64 / start.elapsed().as_secs_f64())
}

/// Cross-entropy with the first class as every label.
trait LogSoftmaxFirst {
    fn log_softmax_first(&self) -> candle_core::Result<Tensor>;
}

impl LogSoftmaxFirst for Tensor {
    fn log_softmax_first(&self) -> candle_core::Result<Tensor> {
        candle_nn::ops::log_softmax(self, 1)?.narrow(1, 0, 1)?.mean_all()?.neg()
    }
}

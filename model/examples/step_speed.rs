//! How fast a training step is.
//!
//! ```text
//! CANDLE_NUM_THREADS=1 step_speed step NET BATCH THREADS SECONDS    images a second
//! CANDLE_NUM_THREADS=1 step_speed share NET BATCH                   of the matrix-multiply peak, on one thread
//! CANDLE_NUM_THREADS=1 RAYON_NUM_THREADS=1 step_speed candle        cifar-cnn with candle's own convolution, on one thread
//! ```
//!
//! The variables hold candle to one thread: ours are counted by the argument.

use candle_core::{DType, Device, Tensor, Var};
use paceline_model::{Examples, Layer, Model, NetSpec, Preprocess, Task, Threads, TrainConfig, TrainJob, train};
use std::ops::ControlFlow;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const WARM_UP: usize = 5;
const USAGE: &str = "usage: step_speed step NET BATCH THREADS SECONDS | share NET BATCH | candle";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["step", net, batch, threads, seconds] => {
            println!("{:.0}", rate(net, batch.parse()?, threads.parse()?, seconds.parse()?)?);
        }
        ["share", net, batch] => share(net, batch.parse()?)?,
        ["candle"] => println!("{:.0}", candles(50, 5)?),
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// Images of each class in turn, of no meaning.
fn images(input: [usize; 3], count: usize) -> Result<Examples> {
    let pixels = (0..count * input.iter().product::<usize>()).map(|i| (i * 31 % 251) as u8).collect();
    Ok(Examples::new(input, 10, pixels, (0..count).map(|i| (i % 10) as u16).collect())?)
}

fn input(net: &str) -> [usize; 3] {
    if net.starts_with('m') { [1, 28, 28] } else { [3, 32, 32] }
}

/// Images a second of whole training steps as a node takes them, preprocessing included.
fn rate(net: &str, batch: usize, threads: usize, seconds: f64) -> Result<f64> {
    let input = input(net);
    let spec = NetSpec::preset(net, input, 10)?;
    let data = images(input, batch * 64)?;
    let parent = Model::initial(&spec, &Device::Cpu, 1)?.to_bytes()?;
    let config = TrainConfig::sgd(usize::MAX, batch, 0.01);
    let task = Task::plain(1, 1, b"speed", &parent);
    let job = TrainJob {
        task,
        spec: &spec,
        preprocess: Preprocess::for_preset(net, input),
        data: &data,
        config: &config,
        device: &Device::Cpu,
    };
    let (mut start, mut steps, mut took) = (Instant::now(), 0usize, 0.0);
    let ended = train(&job, &Threads::new(threads)?, &mut |_| {
        steps += 1;
        if steps == WARM_UP {
            start = Instant::now();
        }
        took = start.elapsed().as_secs_f64();
        if steps > WARM_UP && took >= seconds { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match ended {
        Err(paceline_model::TrainError::Cancelled) => Ok(((steps - WARM_UP) * batch) as f64 / took),
        Err(error) => Err(error.into()),
        Ok(_) => Err("the training ended by itself".into()),
    }
}

/// A matrix product, m x n x k, and how often an image takes it.
type Product = ([usize; 3], f64);

/// The products of a training step, by what they are for.
fn products(net: &str, batch: usize) -> Result<Vec<Product>> {
    let spec = NetSpec::preset(net, input(net), 10)?;
    let (mut height, mut width, mut channels) = (spec.input[1], spec.input[2], spec.input[0]);
    let mut all = Vec::new();
    let mut conv = |height: &mut usize, width: &mut usize, inputs: usize, out: usize, kernel: usize, stride: usize| {
        (*height, *width) = (height.div_ceil(stride), width.div_ceil(stride));
        let (positions, window) = (*height * *width, kernel * kernel * inputs);
        all.push(([out, positions, window], 1.0));
        all.push(([out, window, positions], 1.0));
        // The first layer's input needs no gradient.
        if inputs > 3 {
            all.push(([window, positions, out], 1.0));
        }
    };
    let mut linears = Vec::new();
    let mut row = None;
    for layer in &spec.layers {
        match *layer {
            Layer::Conv { out, kernel, stride, .. } => {
                conv(&mut height, &mut width, channels, out, kernel, stride);
                channels = out;
            }
            Layer::Residual { out, stride, .. } => {
                if out != channels || stride != 1 {
                    conv(&mut height.clone(), &mut width.clone(), channels, out, 1, stride);
                }
                conv(&mut height, &mut width, channels, out, 3, stride);
                conv(&mut height, &mut width, out, out, 3, 1);
                channels = out;
            }
            Layer::MaxPool { size } => (height, width) = (height / size, width / size),
            Layer::GlobalAvgPool => row = Some(channels),
            Layer::Linear { out } => {
                let inputs = row.unwrap_or(height * width * channels);
                linears.extend([[out, batch, inputs], [out, inputs, batch], [batch, inputs, out]]);
                row = Some(out);
            }
            _ => {}
        }
    }
    all.extend(linears.into_iter().map(|sizes| (sizes, 1.0 / batch as f64)));
    Ok(all)
}

/// What of a step is matrix products at the speed of the `gemm` crate, on one thread.
fn share(net: &str, batch: usize) -> Result<()> {
    let peak = 2.0 * 1024f64.powi(3) / seconds_of([1024; 3]);
    let (mut flops, mut seconds) = (0.0, 0.0);
    for (sizes, count) in products(net, batch)? {
        flops += 2.0 * sizes.iter().product::<usize>() as f64 * count;
        seconds += seconds_of(sizes) * count;
    }
    let step = 1.0 / rate(net, batch, 1, 3.0)?;
    println!("peak, 1024x1024x1024: {:.0} GFLOP/s", peak / 1e9);
    println!("{net}, batch {batch}: {:.1} MFLOP an image in products", flops / 1e6);
    println!("  the products alone: {:.3} ms an image, {:.0} GFLOP/s", seconds * 1e3, flops / seconds / 1e9);
    println!("  a step: {:.3} ms an image, {:.0} GFLOP/s", step * 1e3, flops / step / 1e9);
    println!(
        "  {:.0} % of the peak, {:.0} % of the products' own speed",
        100.0 * flops / step / peak,
        100.0 * seconds / step
    );
    Ok(())
}

/// Seconds of one product, the fastest of several.
fn seconds_of([m, n, k]: [usize; 3]) -> f64 {
    let (left, right) = (vec![0.5f32; m * k], vec![0.25f32; k * n]);
    let mut out = vec![0f32; m * n];
    let repeat = (200_000_000 / (2 * m * n * k)).clamp(1, 1000);
    let once = |out: &mut [f32]| {
        #[allow(unsafe_code)]
        // SAFETY: `left` is m x k, `right` k x n and `out` m x n, all in columns and of exactly these lengths.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                m as isize,
                1,
                false,
                left.as_ptr(),
                m as isize,
                1,
                right.as_ptr(),
                k as isize,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    };
    let timed = |_| {
        let start = Instant::now();
        (0..repeat).for_each(|_| once(&mut out));
        start.elapsed().as_secs_f64() / repeat as f64
    };
    (0..7).map(timed).fold(f64::MAX, f64::min)
}

/// The same net from candle's operations only. Its max pooling has a wrong gradient and is used for its time only.
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
        // Cross-entropy with the first class as every label.
        let loss = candle_nn::ops::log_softmax(&y, 1)?.narrow(1, 0, 1)?.mean_all()?.neg()?;
        let gradients = loss.backward()?;
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

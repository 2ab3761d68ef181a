//! A candle model of one's own and its data, two spirals, trained by three nodes in this process; on machines of their own
//! each would run one. `cargo run --release --example own_model`

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear, loss::cross_entropy};
use paceline::node::{Node, Options};
use paceline_model::{CandleLearner, CandleModel, Measure};
use paceline_protocol::io::Event;

/// Points, and which spiral each is on.
#[derive(Debug)]
struct Spirals {
    points: Tensor,
    spirals: Tensor,
}

impl Spirals {
    /// Every third point, from this one on.
    fn of(node: usize) -> Result<Self> {
        let (mut points, mut spirals) = (Vec::new(), Vec::new());
        for i in (node..600).step_by(3) {
            let (spiral, turn) = (i % 2, i as f32 / 600.0);
            let angle = 6.0 * turn + std::f32::consts::PI * spiral as f32;
            points.extend([turn * angle.cos(), turn * angle.sin()]);
            spirals.push(spiral as u32);
        }
        let count = spirals.len();
        let points = Tensor::from_vec(points, (count, 2), &Device::Cpu)?;
        Ok(Self { points, spirals: Tensor::from_vec(spirals, count, &Device::Cpu)? })
    }
}

impl CandleModel for Spirals {
    type Net = [Linear; 3];

    fn net(&self, tensors: VarBuilder<'_>) -> Result<Self::Net> {
        Ok([linear(2, 32, tensors.pp("in"))?, linear(32, 32, tensors.pp("mid"))?, linear(32, 2, tensors.pp("out"))?])
    }

    fn examples(&self) -> usize {
        self.spirals.elem_count()
    }

    fn loss(&self, net: &Self::Net, examples: &[u32]) -> Result<Tensor> {
        let chosen = Tensor::new(examples, &Device::Cpu)?;
        cross_entropy(&scores(net, &self.points.index_select(&chosen, 0)?)?, &self.spirals.index_select(&chosen, 0)?)
    }

    fn evaluate(&self, net: &Self::Net) -> Result<Vec<Measure>> {
        let right = scores(net, &self.points)?.argmax(D::Minus1)?.eq(&self.spirals)?.to_dtype(DType::F32)?;
        Ok(vec![Measure::new("accuracy", right.sum_all()?.to_scalar::<f32>()?.into(), self.examples() as u64)])
    }
}

fn scores([first, middle, last]: &[Linear; 3], points: &Tensor) -> Result<Tensor> {
    last.forward(&middle.forward(&first.forward(points)?.tanh()?)?.tanh()?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let run_file = paceline::run_file::parse(include_str!("run.toml"), "run.toml")?;
    let (homes, mut nodes) = (tempfile::tempdir()?, Vec::new());
    for number in 0..3 {
        let learner = CandleLearner::new(Spirals::of(number)?, run_file.learning.train.config.clone())?;
        let node = Node::open(homes.path().join(number.to_string()), run_file.clone()).await?;
        let bootstrap = nodes.iter().flat_map(paceline::node::Running::addresses).collect();
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
        let options = Options { bootstrap, listen, no_mdns: true, exits_when_done: true, ..Options::default() };
        nodes.push(node.run(Arc::new(learner), options).await?);
    }
    for node in &mut nodes {
        anyhow::ensure!(matches!(node.ended().await?, Some(Event::Finished { complete: true })), "the run did not end");
    }
    for round in nodes[0].rounds() {
        println!("round {}: {:?}, model {}", round.round, round.metrics, &round.model_hash[..10]);
    }
    Ok(())
}

//! The optimiser: mini-batch SGD with momentum, weight decay and FedProx's pull, anew each round.

use crate::kernels::sgd;
use crate::net::Model;
use crate::train::TrainConfig;
use candle_core::Tensor;

/// SGD with momentum, weight decay and FedProx's pull.
pub(crate) struct Descent {
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    prox_mu: f64,
    velocities: Vec<Option<Tensor>>,
    /// The global model, kept where it pulls.
    origin: Vec<Tensor>,
}

impl Descent {
    /// For one round of training from the model's present weights.
    pub(crate) fn new(model: &Model, config: &TrainConfig, round: u64) -> candle_core::Result<Self> {
        let origin = match config.prox_mu > 0.0 {
            true => model
                .variables()
                .iter()
                .map(|variable| variable.as_detached_tensor().copy())
                .collect::<Result<_, _>>()?,
            false => Vec::new(),
        };
        // Multiplied out rather than powf, whose rounding differs between systems.
        let decay = (1..round).fold(1.0, |factor, _| factor * config.lr_decay);
        Ok(Self {
            lr: config.lr * decay,
            momentum: config.momentum,
            weight_decay: config.weight_decay,
            prox_mu: config.prox_mu,
            velocities: vec![None; model.variables().len()],
            origin,
        })
    }

    /// One step down the gradient of `loss`.
    pub(crate) fn step(&mut self, model: &Model, loss: &Tensor) -> candle_core::Result<()> {
        let mut gradients = loss.backward()?;
        for (i, variable) in model.variables().iter().enumerate() {
            let Some(mut gradient) = gradients.remove(variable.as_tensor()) else { continue };
            let weights = variable.as_detached_tensor();
            if self.weight_decay > 0.0 {
                gradient = (gradient + (&weights * self.weight_decay)?)?;
            }
            if let Some(origin) = self.origin.get(i) {
                gradient = (gradient + ((&weights - origin)? * self.prox_mu)?)?;
            }
            if self.momentum > 0.0 {
                if let Some(velocity) = self.velocities[i].take() {
                    gradient = ((velocity * self.momentum)? + gradient)?;
                }
                self.velocities[i] = Some(gradient.clone());
            }
            drop(weights);
            sgd::add_scaled(variable, &gradient, -self.lr)?;
        }
        Ok(())
    }
}

//! The local optimiser: mini-batch SGD with FedProx's pull, clipping, weight decay, SCAFFOLD's correction and
//! momentum, in this order, anew each round.

use crate::kernels::sgd;
use crate::net::Model;
use crate::train::{TrainConfig, TrainJob};
use crate::weights;
use candle_core::{Tensor, Var};

/// What one client's steps of one round have in common.
pub(crate) struct LocalOptimizer {
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    prox_mu: f64,
    clip_norm: f64,
    velocities: Vec<Option<Tensor>>,
    /// The global model, kept where it pulls.
    origin: Vec<Tensor>,
    /// SCAFFOLD: the server's control variate less the client's.
    correction: Vec<Tensor>,
}

impl LocalOptimizer {
    /// For one round of training from the variables' present values, with the round's learning rate. `correction` is
    /// SCAFFOLD's, empty without it.
    pub(crate) fn new(
        variables: &[Var],
        config: &TrainConfig,
        lr: f64,
        correction: Vec<Tensor>,
    ) -> candle_core::Result<Self> {
        let origin = match config.prox_mu > 0.0 {
            true => variables.iter().map(|v| v.as_detached_tensor().copy()).collect::<candle_core::Result<_>>()?,
            false => Vec::new(),
        };
        Ok(Self {
            lr,
            momentum: config.momentum,
            weight_decay: config.weight_decay,
            prox_mu: config.prox_mu,
            clip_norm: config.clip_norm,
            velocities: vec![None; variables.len()],
            origin,
            correction,
        })
    }

    /// One step down these gradients, which it changes.
    pub(crate) fn apply(&mut self, variables: &[Var], given: Vec<Option<Tensor>>) -> candle_core::Result<()> {
        let mut gradients = Vec::with_capacity(variables.len());
        for (i, (variable, gradient)) in variables.iter().zip(given).enumerate() {
            let Some(mut gradient) = gradient else { continue };
            if let Some(origin) = self.origin.get(i) {
                // The pull mu/2·|w - w0|² is part of the loss (FedProx, Li et al. 2020, equation 2).
                gradient = sgd::plus(gradient, &variable.as_detached_tensor(), self.prox_mu)?;
                gradient = sgd::plus(gradient, origin, -self.prox_mu)?;
            }
            gradients.push((i, variable, gradient));
        }
        let factor = self.clip_factor(&gradients)?;
        for (i, variable, mut gradient) in gradients {
            if factor < 1.0 {
                gradient = sgd::times(gradient, factor)?;
            }
            if self.weight_decay > 0.0 {
                gradient = sgd::plus(gradient, &variable.as_detached_tensor(), self.weight_decay)?;
            }
            if let Some(correction) = self.correction.get(i) {
                gradient = sgd::plus(gradient, correction, 1.0)?;
            }
            if self.momentum > 0.0 {
                gradient = match self.velocities[i].take() {
                    Some(velocity) => sgd::plus(sgd::times(velocity, self.momentum)?, &gradient, 1.0)?,
                    // The gradient's own memory belongs to the next step.
                    None => gradient.copy()?,
                };
                self.velocities[i] = Some(gradient.clone());
            }
            sgd::add_scaled(variable, &gradient, -self.lr)?;
        }
        Ok(())
    }

    /// What the gradients are multiplied by so that their norm, taken over all of them, stays within bounds (Pascanu
    /// et al. 2013, section 3.2).
    fn clip_factor(&self, gradients: &[(usize, &Var, Tensor)]) -> candle_core::Result<f64> {
        if self.clip_norm == 0.0 {
            return Ok(1.0);
        }
        let squares = gradients.iter().map(|(_, _, gradient)| sgd::sum_of_squares(gradient));
        let norm = squares.sum::<candle_core::Result<f64>>()?.sqrt();
        Ok(if norm > self.clip_norm { self.clip_norm / norm } else { 1.0 })
    }
}

/// c - c_i for each variable (Karimireddy et al. 2020, algorithm 1, line 10); nothing but for SCAFFOLD.
pub(crate) fn correction(model: &Model, job: &TrainJob<'_>) -> candle_core::Result<Vec<Tensor>> {
    let Some(server) = job.task.rule.control(job.task.state) else { return Ok(Vec::new()) };
    let mut server = weights::values(server);
    let mut own = job.task.control.map(weights::values);
    let tensors = model.variables().iter().map(|variable| {
        let values: Vec<f32> = server
            .by_ref()
            .take(variable.elem_count())
            .map(|c| c - own.as_mut().and_then(Iterator::next).unwrap_or(0.0))
            .collect();
        Tensor::from_vec(values, variable.shape(), variable.device())
    });
    tensors.collect()
}

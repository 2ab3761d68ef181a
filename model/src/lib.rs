//! Learning, and nothing else: nets, data, local training, exact averaging. Built on candle; without network, clock and
//! protocol, and only [`data`] reads files.
//!
//! - [`NetSpec`] describes a net, [`Model`] holds its parameters on a device.
//! - [`data::load`] gives a [`DataSet`], [`DataSet::part`] a node's share of it.
//! - [`train()`] makes a delta from a model and a node's images, [`evaluate()`] measures a model.
//! - [`ExactSum`] averages updates (FedAvg, McMahan et al. 2017) bit for bit, in any order; a [`Rule`] makes the next
//!   global state of the mean.
//!
//! Models and deltas travel as raw little-endian f32, the parameters in the net's order; [`check_weights`] and
//! [`check_delta`] judge foreign bytes.
//!
//! Everything repeats: the same inputs give the same bits, for any number of threads. Initial values, generated data,
//! partitions and averages are the same on every CPU; training is on the same kind of CPU.

mod candle_learner;
pub mod data;
pub mod evaluate;
pub mod exact;
pub mod format;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod init;
#[doc(hidden)] // Public only for the benchmarks.
pub mod kernels;
pub mod learner;
mod local_optimizer;
pub mod net;
mod net_learner;
pub mod random_stream;
pub mod rule;
pub mod spec;
pub mod threads;
pub mod torch;
pub mod train;
mod tuned_learner;
pub mod weights;

pub use candle_core::Device;
pub use candle_learner::{CandleLearner, CandleModel};
pub use data::{DataError, DataSet, Examples, Fit, Partition, Preprocess, Source, Totals, load, load_part, partition};
pub use evaluate::{Confusion, Evaluation, EvaluationJob, evaluate, predict};
pub use exact::{ExactError, ExactSum};
pub use format::{Layout, LayoutError, StateFormat, UpdateFormat};
pub use learner::{Learner, Measure, Task, Watch};
pub use net::{Mode, Model, ModelError};
pub use net_learner::{ACCURACY, MEAN_ERROR, NetLearner, RMSE};
pub use rule::{Moment, Rule};
pub use spec::{Layer, NetSpec, ParamShape, SpecError};
pub use threads::{Threads, ThreadsError};
pub use train::{Progress, TrainConfig, TrainError, TrainJob, Trained, train};
pub use tuned_learner::{Trainable, TunedLearner, joined};
pub use weights::{WeightsError, check_delta, check_weights};

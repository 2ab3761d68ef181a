//! Everything that can happen to three machines, within bounds: a search through all states, where the rest of [`super`]
//! draws worlds from seeds.

mod digest;
mod laws;
mod node;
mod scene;
mod search;
#[cfg(test)]
mod tests;

pub use scene::{Scene, Story};
pub use search::Report;

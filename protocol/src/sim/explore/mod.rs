//! Everything that can happen to three machines, within bounds: a search through all states, where the rest of
//! [`super`] draws worlds from seeds.
//!
//! # What is searched
//!
//! The machine itself, not a model of it: [`Machine`](crate::machine::Machine) is cloned, given one input, and the node
//! that comes of it is known again by a digest (`digest`). What can happen to a node next (`node::Act`):
//!
//! * it hears anything that another has ever said to it, or gets a blob that another has ever held,
//! * its clock goes on to what is due next, or past all that is due,
//! * its oldest write is on disk, and confirmed,
//! * its trainer is done,
//! * it crashes, with any number of its writes under way done and the others lost, and starts again.
//!
//! **Time** is each node's own: its clock goes on whenever the search likes, and no message takes any. So a timeout may
//! come before or after whatever others do, and moments count by their distance alone.
//!
//! **Loss, repetition, delay and reordering** have no bound and no steps of their own. What was said stays said: a message
//! that is never heard was lost, one that is heard late was delayed, one that is heard twice was repeated.
//!
//! # Why a state is so small
//!
//! What a node does depends on itself and on what it hears, and what others said only grows. So a state of the world is one
//! number for each node, and two orders of what happens at different nodes are the same state: the order among nodes needs
//! no reduction, it is not there. A machine handles an input once, however many states it happens in.
//!
//! What changes nothing is no step: hearing what does nothing is the same as losing it. Where nobody crashes any more a
//! write is confirmed at once: what leaves with it may be delayed for ever anyway. A crash is searched for one node at a
//! time, the others' writes being at once; only this node's can be lost.
//!
//! # Why not stateright
//!
//! It was not tried; this is an argument. A model checker that is given `next_state(state, action)` makes the whole state
//! anew for each transition: three machines cloned, one driven, three digested. Here a transition of machines that were
//! driven alike before is a look-up: in the search of two ballots 515 thousand transitions need 20 thousand inputs to
//! machines. And bugs are planted in a thread, where a checker with threads of its own would not see them.
//!
//! # What the bounds leave out
//!
//! A founding's own messages are heard once in a node's life, and a node that gave its chain up is not followed. With a
//! crash, a founding is searched to its end among two nodes alone; among three that has more than two million states. No
//! search that ends has a founding that is aborted. Where two chains meet, all have heard where the others are when the
//! search begins, and hear of no change of that: with every presence, which is another one after each change and may come at
//! any time, a yield has more than four million states.
//!
//! Three nodes, the attempts and steps of time that a [`Scene`] gives, one crash, and what is beyond the round: a node that
//! is there is not followed. Workers other than the trainer are done at once, and a blob that was ever held can be had. Small
//! scenes lose all that binds nobody and only speeds things up (`Scene::chatter`).

mod digest;
mod laws;
mod node;
mod scene;
mod search;
#[cfg(test)]
mod tests;

pub use scene::{Scene, Story};
pub use search::Report;

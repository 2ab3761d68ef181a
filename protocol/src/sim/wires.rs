//! The network of a world: which way is open from one node to another.

use std::collections::{BTreeMap, BTreeSet};

/// Names something that is in the way, so that it can be taken away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockId(u64);

/// Something in the way of messages.
#[derive(Debug, Clone)]
pub enum Block {
    /// Node `i` is on side `sides[i]`: nothing goes from one side to another.
    Sides(Vec<u8>),
    /// Nothing goes between these two.
    Pair(usize, usize),
    /// Nothing that these say gets to any of the others; they hear all that the others say.
    Mute(BTreeSet<usize>),
}

impl Block {
    fn lets_through(&self, from: usize, to: usize) -> bool {
        match self {
            Block::Sides(sides) => sides[from] == sides[to],
            Block::Pair(a, b) => (from.min(to), from.max(to)) != (*a.min(b), *a.max(b)),
            Block::Mute(mute) => !mute.contains(&from) || mute.contains(&to),
        }
    }
}

/// All that is in the way.
#[derive(Debug, Default)]
pub(super) struct Wires {
    blocks: BTreeMap<BlockId, Block>,
    made: u64,
}

impl Wires {
    pub(super) fn block(&mut self, block: Block) -> BlockId {
        self.made += 1;
        self.blocks.insert(BlockId(self.made), block);
        BlockId(self.made)
    }

    pub(super) fn unblock(&mut self, block: BlockId) {
        self.blocks.remove(&block);
    }

    pub(super) fn clear(&mut self) {
        self.blocks.clear();
    }

    /// Whether a message gets from one to the other.
    pub(super) fn carry(&self, from: usize, to: usize) -> bool {
        self.blocks.values().all(|b| b.lets_through(from, to))
    }

    /// Whether messages get both ways, without which no connection is made.
    pub(super) fn join(&self, a: usize, b: usize) -> bool {
        self.carry(a, b) && self.carry(b, a)
    }
}

//! What can be done to a world and its nodes.

use crate::base::ids::{Hash, Time};
use crate::base::roster::Part;
use crate::io::Persist;
use crate::io::{Command, Input};

use super::clock::TRUE_PER_MILLE;
#[cfg(test)]
use super::disk::Disk;
use super::hostile::{Hostility, Liar};
use super::rng::Rng;
use super::trap::{Blow, Trap};
use super::wires::{Block, BlockId};
use super::world::{Health, Network, Sim, SimOptions, Trainer};

/// How long the earlier run of a stranded node is given, in virtual time.
const PAST_MS: u64 = 300_000;

/// A connection over a wire that is cut ends so much later, as far as nobody says anything before.
const NOTICED_MS: (u64, u64) = (2_000, 6_000);

impl Sim {
    /// Makes a node lie. Before it starts.
    pub fn turn(&mut self, node: usize, hostility: Hostility) {
        let this = &mut self.nodes[node];
        this.liar = Some(Liar::new(hostility, this.identity.clone(), self.params.clone()));
        self.invariants.distrust(this.id);
    }

    /// Plants a bug: these items are confirmed before they are on disk.
    #[cfg(test)]
    pub(super) fn confirm_early(&mut self, early: fn(&Persist) -> bool) {
        self.early = Some(early);
    }

    /// Plants a bug: a restart forgets what was accepted.
    #[cfg(test)]
    pub(super) fn forget_accepts(&mut self) {
        self.forgets_accepts = true;
    }

    /// Starts every node that is down.
    pub fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.start_again(node));
    }

    /// Starts a node if it is down.
    pub fn start_again(&mut self, node: usize) {
        let is_down = match self.is_stranger(node) {
            true => self.nodes[node].boot == 0,
            false => self.nodes[node].machine.is_none(),
        };
        if is_down {
            self.start(node);
        }
    }

    /// The process stands still for so long, as on a machine that is suspended: all that happens to it waits, and what it
    /// has received is handled before it looks at its clock.
    pub fn freeze(&mut self, node: usize, ms: u64) {
        self.nodes[node].frozen_until = self.now.plus_ms(ms);
    }

    /// The next write of a record of this round or a later one fails, once.
    pub fn fail_record(&mut self, node: usize, round: u64) {
        self.nodes[node].fails_record = Some(round);
    }

    /// Nothing can be written on this node's disk any more, or it can again.
    pub fn fill_disk(&mut self, node: usize, full: bool) {
        self.nodes[node].health.is_full = full;
    }

    /// From now on every training of a node fails.
    pub fn fail_training(&mut self, node: usize) {
        let health = &mut self.nodes[node].health;
        if let Trainer::Takes(ms) = health.trainer {
            health.trainer = Trainer::Fails(ms);
        }
    }

    /// How a node's disk and trainer are from now on.
    pub fn set_health(&mut self, node: usize, health: Health) {
        self.nodes[node].health = health;
    }

    /// How the network is from now on.
    pub fn set_network(&mut self, network: Network) {
        self.network = network;
    }

    /// A node's clock runs at another rate, in milliseconds a second; 1000 is right.
    pub fn set_clock_rate(&mut self, node: usize, per_mille: u64) {
        let now = self.now;
        self.nodes[node].clock.set_rate(now, per_mille);
        self.drain(node);
    }

    /// A node's clock jumps forward.
    pub fn jump_clock(&mut self, node: usize, ms: u64) {
        self.nodes[node].clock.jump(ms);
        self.drain(node);
    }

    /// A blow falls on the next node that takes a step.
    pub fn set_trap(&mut self, trap: Trap) {
        self.traps.push(trap);
    }

    /// A process is killed, and started again after so long.
    pub fn kill(&mut self, node: usize, down_ms: u64) {
        if self.nodes[node].machine.is_some() {
            self.crash(node);
            self.start_after(node, (down_ms, down_ms));
        }
    }

    pub(super) fn strike(&mut self, node: usize, blow: Blow) {
        match blow {
            Blow::Crash { down_ms } => self.kill(node, down_ms),
            Blow::Freeze { ms } => {
                self.tally.fault("freeze in the middle of a step");
                self.freeze(node, ms);
            }
        }
    }

    /// Puts something in the way of messages. If it is noticed, connections that it concerns end, later.
    pub fn block(&mut self, block: Block, is_noticed: bool) -> BlockId {
        let id = self.wires.block(block);
        if is_noticed {
            self.rewire();
        }
        id
    }

    /// Takes away what was in the way.
    pub fn unblock(&mut self, block: BlockId) {
        self.wires.unblock(block);
        self.rewire();
    }

    /// Cuts the network in two, and ends what was in the way before: node `i` is on side `side[i]`.
    pub fn partition(&mut self, side: &[u8]) {
        self.wires.clear();
        self.block(Block::Sides(side.to_vec()), true);
    }

    /// Cuts the one wire between two nodes. Connections notice late.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.block(Block::Pair(a, b), true);
    }

    /// Takes away all that is in the way.
    pub fn heal(&mut self) {
        self.wires.clear();
        self.rewire();
    }

    /// Connections whose wire is cut end, late; where it is whole, new ones are made.
    fn rewire(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                // After a restart one end may take for a connection what the other knows nothing of.
                let ends = [self.nodes[a].links.contains(&b), self.nodes[b].links.contains(&a)];
                match self.wires.join(a, b) {
                    false if ends.contains(&true) => self.unlink_later(a, b, NOTICED_MS),
                    true if ends.contains(&false) => self.link_later(a, b),
                    _ => {}
                }
            }
        }
    }

    /// Whatever went wrong goes right again: wires, clocks, processes that stand still. Nothing is started.
    pub fn calm_down(&mut self) {
        self.traps.clear();
        for node in 0..self.nodes.len() {
            self.nodes[node].frozen_until = Time::default();
            self.nodes[node].fails_record = None;
            self.set_clock_rate(node, TRUE_PER_MILLE);
        }
        self.heal();
    }

    /// Keeps a copy of a node's home as it is on disk now.
    pub fn copy_home(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.copy = Some(this.disk.clone());
    }

    /// A node is killed and comes back with the copy of its home. It has forgotten what it promised, and counts as one that
    /// lies from now on. Whether there was a copy.
    pub fn roll_back(&mut self, node: usize) -> bool {
        let Some(copy) = self.nodes[node].copy.take() else { return false };
        self.crash(node);
        self.nodes[node].disk = copy;
        self.invariants.distrust(self.nodes[node].id);
        self.start(node);
        true
    }

    /// A node is killed and comes back with an empty home and its old identity.
    #[cfg(test)]
    pub(super) fn lose_home(&mut self, node: usize) {
        self.crash(node);
        self.nodes[node].disk = Disk::default();
        self.invariants.distrust(self.nodes[node].id);
        self.start(node);
    }

    /// Gives a node the home of an earlier run of the same file that came so many rounds far, none of whose other members
    /// exists any more. Before it starts.
    pub fn strand(&mut self, node: usize, rounds: u64, seed: u64) {
        let members = self.params.min_nodes.max(3);
        // Its members are none of this world's.
        let seed = Rng::new(!seed).draw();
        let mut past =
            Sim::new(SimOptions { model_bytes: self.params.update_len, ..SimOptions::calm(members, 0, seed) });
        past.params = self.params.clone();
        past.adopt(self.nodes[node].identity.clone());
        past.start_all();
        past.run_until(PAST_MS, |s| s.round(0) > rounds);
        past.crash(0);
        self.nodes[node].disk = past.nodes[0].disk.clone();
        self.nodes[node].stranded = true;
    }

    /// What people ask of a node.
    pub fn command(&mut self, node: usize, command: Command) {
        self.give(node, Input::Command(command));
    }

    /// Gives a node's `--part`. Before it starts.
    pub fn set_part(&mut self, node: usize, part: Part) {
        self.nodes[node].part = Some(part);
    }

    /// Names the only chain that a node may enter. Before it starts.
    pub fn pin(&mut self, node: usize, genesis: Hash) {
        self.nodes[node].pinned = Some(genesis);
    }

    /// A node that does not run is moved to another chain of its run.
    pub fn switch(&mut self, node: usize, genesis: Hash) {
        let written = self.nodes[node].disk.write(Persist::Switched { to: genesis });
        assert!(written.is_ok(), "it has no place to miss");
        self.pin(node, genesis);
    }

    /// A node that does not run forgets which chain it may enter, as when it is started with a run file.
    #[cfg(test)]
    pub(super) fn unpin(&mut self, node: usize) {
        self.nodes[node].pinned = None;
    }

    /// From now on messages are counted by their bytes, see [`Sim::sent`].
    pub fn weigh(&mut self) {
        self.weighs = true;
        self.nodes.iter_mut().for_each(|n| n.sent.clear());
    }
}

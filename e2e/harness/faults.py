"""What can go wrong, a kind each: a context whose beginning hurts and whose end mends.

Everything that is drawn comes from the generator that is handed in, so a seed names the same faults again. When a
fault meets which message is the machine's business and differs from time to time.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .net import Lane
from .nodes import Node, Status, Violation, wait_until
from .world import HEALED_S, World

# Moments of a round, as `status` tells them apart.
PHASES = ("electing", "training", "collecting", "aggregating", "proposing")
# How long a moment of a round is waited for; some last a few milliseconds and are missed in many rounds.
MOMENT_S = 8.0
ROSTER_MIN, ROSTER_MAX = 4, 9


@dataclass
class Injury:
    """What a fault did, for the record."""

    victims: list[Node] = field(default_factory=list)
    detail: str = ""
    # How long it is left as it is, at most.
    hold_s: float = 3.0
    # The coordinator died in this phase and round, at this time.
    coordinator: tuple[str, int, float] | None = None
    # Whether the run may stand still meanwhile: too few can talk, or everybody's link is bad.
    may_stall: bool = False


Inflict = Callable[[World, random.Random], contextlib.AbstractContextManager[Injury]]


def kill(world: World, rng: random.Random) -> Iterator[Injury]:
    """kill -9 of any node at any time, and its start."""
    (victim,) = world.draw(rng)
    time.sleep(rng.uniform(0, 1))
    victim.kill()
    yield Injury([victim], hold_s=rng.uniform(0.1, 4))
    victim.start()


def kill_coordinator(world: World, rng: random.Random) -> Iterator[Injury]:
    """kill -9 of the coordinator in a drawn phase."""
    phase = rng.choice(PHASES)
    victim, round_number, met = catch_coordinator(world, phase, rng)
    victim.kill()
    killed_at = time.monotonic()
    yield Injury(
        [victim], f"in round {round_number}, {met}", rng.uniform(2, 4), coordinator=(met, round_number, killed_at)
    )
    victim.start()


def stop(world: World, rng: random.Random) -> Iterator[Injury]:
    """SIGTERM, and its start."""
    (victim,) = world.draw(rng)
    victim.stop()
    yield Injury([victim], hold_s=rng.uniform(0.1, 4))
    victim.start()


def freeze(world: World, rng: random.Random, hold_s: float = 30.0) -> Iterator[Injury]:
    """SIGSTOP for half a minute."""
    (victim,) = world.draw(rng)
    victim.freeze()
    yield Injury([victim], hold_s=hold_s)
    victim.thaw()


def pull(world: World, rng: random.Random, longest_s: float = 30.0) -> Iterator[Injury]:
    """The cable is out for a while."""
    (victim,) = world.draw(rng)
    victim.host.pull()
    yield Injury([victim], hold_s=rng.choice([rng.uniform(1, 8), longest_s]))
    victim.host.plug()


def one_way(world: World, rng: random.Random) -> Iterator[Injury]:
    """Everything in one direction is lost: a node that is deaf, or mute."""
    (victim,) = world.draw(rng)
    is_deaf = rng.random() < 0.5
    gone, fine = Lane(loss=1.0), Lane()
    victim.host.spoil(gone if is_deaf else fine, fine if is_deaf else gone, rng.randrange(1 << 32))
    yield Injury([victim], "deaf" if is_deaf else "mute", rng.uniform(3, 8))
    victim.host.heal()


def _bad_links(world: World, rng: random.Random, one: Lane, many: Lane) -> Iterator[Injury]:
    """One bad cable, or all of them, each half as bad since a packet then passes two."""
    everybody = rng.random() < 0.5
    victims = world.running() if everybody else world.draw(rng)
    lane = many if everybody else one
    for victim in victims:
        victim.host.spoil(lane, lane, rng.randrange(1 << 32))
    yield Injury(
        [] if everybody else victims, "everywhere" if everybody else "", rng.uniform(5, 9), may_stall=everybody
    )
    for victim in victims:
        victim.host.heal()


def loss(world: World, rng: random.Random) -> Iterator[Injury]:
    """5 % of the packets are lost, both ways."""
    return _bad_links(world, rng, Lane(loss=0.05), Lane(loss=0.025))


def latency(world: World, rng: random.Random) -> Iterator[Injury]:
    """200 ms there and back."""
    return _bad_links(world, rng, Lane(delay_ms=100), Lane(delay_ms=50))


def narrow(world: World, rng: random.Random) -> Iterator[Injury]:
    """10 Mbit/s, both ways."""
    return _bad_links(world, rng, Lane(mbit_per_s=10), Lane(mbit_per_s=10))


def full_disk(world: World, rng: random.Random) -> Iterator[Injury]:
    """The file system of a home is full, and has room again."""
    small = [n for n in world.running() if world.is_on_small_disk(n) and not n.has_left]
    if not small:
        yield Injury(detail="nobody with a small disk runs", hold_s=0)
        return
    victim = small[0]
    victim.may_end = True
    victim.fill_disk()
    yield Injury([victim], hold_s=rng.uniform(3, 6))
    victim.empty_disk()
    _start_if_ended(victim)


def failing_writes(world: World, rng: random.Random) -> Iterator[Injury]:
    """Every write to a file fails, and succeeds again."""
    (victim,) = world.draw(rng)
    victim.may_end = True
    victim.limit_files(0)
    yield Injury([victim], hold_s=rng.uniform(3, 6))
    victim.limit_files(-1)
    _start_if_ended(victim)


def restart_all(world: World, rng: random.Random) -> Iterator[Injury]:
    """A power cut: everybody is killed at once and started at once."""
    victims = world.running()
    for victim in victims:
        victim.kill()
    yield Injury(victims, hold_s=rng.uniform(0, 2), may_stall=True)
    for victim in victims:
        victim.start()


def quorum_lost(world: World, rng: random.Random) -> Iterator[Injury]:
    """So many are killed that no quorum is left."""
    members = [n for n in world.members() if n.is_running]
    victims = rng.sample(members, len(members) // 2 + 1)
    for victim in victims:
        victim.kill()
    yield Injury(victims, f"{len(victims)} of {len(members)}", rng.uniform(2, 8), may_stall=True)
    for victim in victims:
        victim.start()


def bootstrap_gone(world: World, rng: random.Random) -> Iterator[Injury]:
    """The bootstrap goes for good, and a node that is started afterwards finds the others all the same."""
    was_there = world.bootstrap is not None
    world.kill_bootstrap()
    (victim,) = world.draw(rng)
    victim.kill()
    yield Injury([victim], "" if was_there else "there was none", rng.uniform(0.5, 3))
    victim.start()


def join(world: World, rng: random.Random) -> Iterator[Injury]:
    """A new node comes, with a ticket or with the run file."""
    if len(world.members()) >= ROSTER_MAX:
        yield Injury(detail="enough are there", hold_s=0)
        return
    newcomer = world.add(f"node-{len(world.nodes) + 1}")
    with_ticket = rng.random() < 0.5 or world.is_bootstrap_gone
    ticket = next((t for n in world.members() if n.is_running and (t := n.ticket())), None) if with_ticket else None
    if ticket:
        newcomer.arguments[0] = ticket
    newcomer.start()
    yield Injury([newcomer], "with a ticket" if ticket else "with the run file", 0)


def leave(world: World, rng: random.Random) -> Iterator[Injury]:
    """A node leaves for good."""
    members = [n for n in world.members() if n.is_running]
    if len(members) < ROSTER_MIN:
        yield Injury(detail="too few would be left", hold_s=0)
        return
    leaver = rng.choice([n for n in members if not world.is_on_small_disk(n)])
    leaver.has_left = leaver.leave()
    yield Injury(detail=leaver.name, hold_s=0)
    if not wait_until(HEALED_S, lambda: world.lost() is not None or not leaver.is_running):
        raise Violation(
            f"{leaver.name} was told to leave and is still there after {HEALED_S:.0f} s\n{world.describe()}"
        )


def old_home(world: World, rng: random.Random) -> Iterator[Injury]:
    """Homes of an earlier run of the same run file come up: one, or its whole roster."""
    if not world.old_homes:
        yield Injury(detail="there is no earlier run", hold_s=0)
        return
    count = rng.choice([1, len(world.old_homes)])
    old = [world.add(f"old-{len(world.nodes) + 1}", home_of=home) for home in world.old_homes[:count]]
    for node in old:
        node.is_old = True
        node.start()
    yield Injury(detail=f"{count} of them", hold_s=rng.uniform(4, 8))
    for node in old:
        node.stop()


KINDS: dict[str, tuple[int, Inflict]] = {
    function.__name__: (weight, contextlib.contextmanager(function))
    for weight, function in [
        (6, kill_coordinator),
        (3, kill),
        (1, stop),
        (1, freeze),
        (2, pull),
        (2, one_way),
        (2, loss),
        (2, latency),
        (1, narrow),
        (2, full_disk),
        (2, failing_writes),
        (1, restart_all),
        (1, quorum_lost),
        (1, bootstrap_gone),
        (2, join),
        (1, leave),
        (1, old_home),
    ]
}


def catch_coordinator(world: World, phase: str, rng: random.Random) -> tuple[Node, int, str]:
    """Waits until a coordinator is in this phase; who it is, the round, and the phase that was met in the end."""
    until = time.monotonic() + MOMENT_S
    drawn = world.draw(rng)[0]
    while time.monotonic() < until:
        world.no_losses()
        if phase == "electing":
            # Nobody knows who will be elected: a drawn node dies while another says that there is no coordinator.
            for node in world.members():
                if node.is_running and (status := node.status()) and status["phase"] == "electing":
                    return drawn, status["round"], "electing"
            continue
        for node in world.members():
            while node.is_running and world.status(node).get("is_coordinator") and (status := node.status()):
                if not status["is_coordinator"]:
                    break
                if moment(status) == phase:
                    return node, status["round"], phase
                if time.monotonic() >= until:
                    return node, status["round"], moment(status)
        time.sleep(0.001)
    return drawn, world.head() + 1, "any"


def moment(status: Status) -> str:
    """The phase of a coordinator, with the collecting of updates told apart from the training before."""
    if status["phase"] != "collecting":
        return str(status["phase"])
    states = [p["state"] for p in status["participants"]]
    return "collecting" if "done" in states or "uploading" in states else "training"


def _start_if_ended(victim: Node) -> None:
    """Where a fault of the disk ended the node, as it should if it had to promise something, it is started again."""
    time.sleep(0.3)  # One that has just met the failure is about to end.
    if not victim.is_running or victim.ended() is not None:
        victim.start()
    victim.may_end = False


def copy_home(home: Path, target: Path) -> Path:
    """A home for later, without what only fills the disk."""
    shutil.copytree(home, target, ignore=shutil.ignore_patterns("reserve", "filler", "lock", "http"))
    return target

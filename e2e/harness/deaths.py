"""Coordinators that die, one after the other, in each phase of a round: how long until the round commits?"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

from . import sandbox
from .faults import PHASES, Inflict, Injury, catch_coordinator
from .nodes import Violation
from .storm import RUN, finish, suffer
from .tally import Tally
from .world import World, say

NODES = 5
# A dead coordinator stays away at least so long, and at most until the round is committed.
HOLD_S = 0.2


def deaths(tally: Tally, program: Path, minutes: float) -> None:
    """Five nodes; a coordinator is killed, comes back, and the next one is killed, until the time is over."""
    box = sandbox.scratch()
    assert box is not None, "this runs inside the box"
    began = time.monotonic()
    until = began + minutes * 60
    label = f"{tally.seed}/deaths-{tally.pieces}"
    tally.pieces += 1
    healed, violations = [], []
    with World(box / "deaths", program, RUN, label) as world:
        try:
            for k in range(1, NODES + 1):
                world.add(f"node-{k}").start()
            tally.founding_s.append(world.found())
            world.await_all()
            count = 0
            while time.monotonic() < until:
                phase = PHASES[count % len(PHASES)]
                rng = random.Random(f"{label}/{count}")
                healed += suffer(world, "kill_coordinator", killed_in(phase), rng, tally, HOLD_S)
                count += 1
        except Violation as violation:
            violations.append(str(violation))
        violations += finish(world, tally, healed)
    for what in violations:
        say(f"VIOLATION: {what}")
        tally.violated(label, what)
    if violations:
        sandbox.keep(box / "deaths", "deaths")
    tally.worlds += 1
    tally.seconds += time.monotonic() - began


def killed_in(phase: str) -> Inflict:
    """The fault that kills a coordinator in this phase."""

    @contextlib.contextmanager
    def fault(world: World, rng: random.Random) -> Iterator[Injury]:
        # A moment of its own: at once after the last commit is not the only time to die.
        time.sleep(rng.uniform(0, 1))
        victim, number, met = catch_coordinator(world, phase, rng)
        victim.kill()
        dead = (met, number, time.monotonic())
        yield Injury([victim], f"in round {number}, {met}", hold_s=HOLD_S, coordinator=dead)
        victim.start()

    return fault

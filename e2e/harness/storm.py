"""Worlds one after the other, each with faults drawn from the seed, until the time is over."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import check, sandbox
from .faults import KINDS, Inflict, Injury, copy_home
from .nodes import Node, Violation, wait_until
from .tally import Tally
from .world import HEALED_S, World, run_file, say

# Every world has the same run file, so that a home of an earlier one is of the same run. The rounds never run out.
RUN = run_file("chaos", rounds=100_000, min_nodes=3, samples=1000, lr=0.02, epochs=10)
NODES = (3, 7)
FAULTS = (5, 9)
# What CI has time for: every kind once, each for a moment, in two worlds; with this seed one over mDNS, one with a
# bootstrap, so that it can go.
SHORT_SEED = 40
SHORT_HOLD_S = 2.5
SHORT = (
    ("kill_coordinator", "full_disk", "stop", "freeze", "one_way", "join", "failing_writes", "pull", "old_home"),
    ("loss", "kill", "latency", "leave", "narrow", "restart_all", "kill_coordinator", "bootstrap_gone", "quorum_lost"),
)
# Without a commit for so long while a quorum can talk, the run counts as stuck. The longest honest wait known: a frozen
# coordinator (1.5 s), the next one's failed fetches from it, and a straggler.
STALL_S = 20.0
# Without one for so long, progress tells where everybody is.
TOLD_S = 4.0
# A victim that is gone or silent for so long must be shown as such by somebody.
NAMED_S = 6.0


@dataclass
class Healed:
    """A fault that is over, for the questions that only the final histories answer."""

    kind: str
    victim: str
    head: int


@dataclass(frozen=True)
class Plan:
    """Which worlds there are to be."""

    # The faults to draw from.
    kinds: tuple[str, ...] = tuple(KINDS)
    # Or the faults of each world, and no world after these.
    worlds: tuple[tuple[str, ...], ...] | None = None
    # No fault lasts longer.
    longest_hold_s: float = 60.0
    # Homes and logs of every world are kept, not only of those in which something was violated.
    keeps_all: bool = False

    def faults(self, world: int, rng: random.Random) -> tuple[str, ...]:
        """What happens in a world, in order."""
        if self.worlds is not None:
            return self.worlds[world]
        return tuple(rng.choices(self.kinds, [KINDS[k][0] for k in self.kinds], k=rng.randint(*FAULTS)))


SHORT_PLAN = Plan(worlds=SHORT, longest_hold_s=SHORT_HOLD_S)


def storm(tally: Tally, program: Path, minutes: float, totals: Path | None, plan: Plan) -> None:
    """As many worlds as there is time for. Goes on behind the last world that `tally` knows."""
    box = sandbox.scratch()
    assert box is not None, "this runs inside the box"
    until = time.monotonic() + minutes * 60
    tally.pieces += 1
    old_homes = earlier_run(box, program)
    while plan.worlds is None or tally.worlds < len(plan.worlds):
        began = time.monotonic()
        number = tally.worlds
        label = f"{tally.seed}/{number}"
        violations = one_world(tally, box / f"world-{number}", program, plan, old_homes, until)
        for what in violations:
            tally.violated(label, what)
        if violations or plan.keeps_all:
            sandbox.keep(box / f"world-{number}", f"world-{tally.seed}-{number}")
        shutil.rmtree(box / f"world-{number}")
        tally.worlds += 1
        tally.seconds += time.monotonic() - began
        tally.save(totals)
        if time.monotonic() + 30 > until:
            return


def earlier_run(box: Path, program: Path) -> list[Path]:
    """Three homes of a run of the same run file that had two rounds some time ago."""
    with World(box / "earlier", program, RUN, "earlier") as world:
        nodes = [world.add(f"node-{k}") for k in range(1, 4)]
        for node in nodes:
            node.start()
        world.found()
        world.await_commit(1)
        for node in nodes:
            node.stop()
    return [copy_home(node.home, box / "earlier" / f"old-{node.name}") for node in nodes]


def one_world(tally: Tally, folder: Path, program: Path, plan: Plan, old_homes: list[Path], until: float) -> list[str]:
    """One world from founding to check; what was violated in it."""
    label = f"{tally.seed}/{tally.worlds}"
    rng = random.Random(label)
    violations: list[str] = []
    healed: list[Healed] = []
    with World(folder, program, RUN, label) as world:
        world.old_homes = old_homes
        count = rng.randint(*NODES)
        if rng.random() < 0.5:
            world.use_bootstrap()
        drawn = plan.faults(tally.worlds, rng)
        found_by = "a bootstrap" if world.bootstrap else "mDNS"
        say(f"world {label}: {count} nodes, found by {found_by}; {', '.join(drawn)}")
        try:
            for k in range(1, count + 1):
                world.add(f"node-{k}", small_disk=k == count).start()
            tally.founding_s.append(world.found())
            world.await_all()
            for place, kind in enumerate(drawn):
                if time.monotonic() > until:
                    break
                dice = random.Random(f"{label}/{place}")
                healed += suffer(world, kind, KINDS[kind][1], dice, tally, plan.longest_hold_s)
        except Violation as violation:
            violations.append(str(violation))
            say(world.describe())
        violations += finish(world, tally, healed)
    return violations


def suffer(
    world: World, kind: str, inflict: Inflict, rng: random.Random, tally: Tally, longest_hold_s: float
) -> list[Healed]:
    """One fault: it begins, lasts, is mended, and everybody comes back."""
    before = world.head()
    with inflict(world, rng) as injury:
        injury.hold_s = min(injury.hold_s, longest_hold_s)
        began = time.monotonic()
        say(f"  {kind} {', '.join(v.name for v in injury.victims)} {injury.detail} (round {world.head() + 1})".rstrip())
        hold(world, kind, injury, before, tally)
    tally.count(kind)
    mended, head = time.monotonic(), world.head()
    back = comes_back(world, injury.victims, mended)
    world.await_commit(head)
    world.await_all()
    for seconds, _ in back.values():
        tally.rejoin_s.setdefault(kind, []).append(seconds)
    took = ", ".join(f"{victim} {seconds:.1f} s" for victim, (seconds, _) in back.items())
    say(f"    held {mended - began:.1f} s with {head - before} rounds; back: {took or 'nobody was away'}")
    return [Healed(kind, victim.name, head) for victim in injury.victims]


def hold(world: World, kind: str, injury: Injury, before: int, tally: Tally) -> None:
    """Lets a fault last, watches whether the run goes on, and notes what nodes say about it."""
    began = last_change = time.monotonic()
    until, head, longest = began + injury.hold_s, world.head(), 0.0
    while (now := time.monotonic()) < until or (injury.coordinator and head < injury.coordinator[1]):
        world.no_losses()
        if world.head() > head:
            head, last_change = world.head(), now
        if longest < TOLD_S <= now - last_change and not injury.may_stall:
            say(f"    no commit for {TOLD_S:.0f} s: {world.describe()}")
        longest = max(longest, now - last_change)
        if longest > STALL_S and not injury.may_stall:
            raise Violation(f"{kind}: no commit for {longest:.0f} s though a quorum can talk\n{world.describe()}")
        if now - began > 2:
            note_reasons(world, kind, injury, tally)
        time.sleep(0.02)
    if not injury.may_stall and injury.hold_s > 1:
        tally.stall_s.setdefault(kind, []).append(longest)
    if injury.hold_s > NAMED_S and injury.victims and not injury.may_stall and kind in ("kill", "freeze", "pull"):
        if not any(shows_unreachable(world, injury.victims[0])):
            tally.said(kind, "NOT SHOWN", f"after {injury.hold_s:.0f} s no survivor shows the victim as unreachable")
    if injury.coordinator:
        phase, number, killed_at = injury.coordinator
        committed_at = max(killed_at, world.seen.committed_at.get((world.chain or "", number), killed_at))
        training = world.trained_after(killed_at, committed_at)
        recovery = max(0.0, committed_at - killed_at - training)
        tally.recovery_s.setdefault(phase, []).append(recovery)
        say(f"    committed {committed_at - killed_at:.2f} s after the kill, {training:.2f} s of it training")


def shows_unreachable(world: World, victim: Node) -> Iterator[bool]:
    """For each survivor whether its status says that the victim can't be reached."""
    for node in world.running():
        if node is not victim:
            yield any(m["name"] == victim.name and not m["reachable"] for m in world.status(node).get("roster", []))


def note_reasons(world: World, kind: str, injury: Injury, tally: Tally) -> None:
    """What `reason` says meanwhile, at the victims and at the others."""
    for node in world.running():
        if (reason := world.status(node).get("reason")) and not node.is_frozen:
            who = "the victim" if node in injury.victims else "an old home" if node.is_old else "the others"
            tally.said(kind, who, reason)


def comes_back(world: World, victims: list[Node], mended: float) -> dict[str, tuple[float, int]]:
    """For each victim how long after the mending it held the newest round, and the round."""
    back: dict[str, tuple[float, int]] = {}

    def all_are() -> bool:
        for victim in victims:
            at = world.seen.status.get(victim.name, (0.0, {}))[0]
            if victim.name not in back and at > mended and world.is_current(victim, world.head()):
                back[victim.name] = (time.monotonic() - mended, world.head())
        return len(back) == len(victims) or world.lost() is not None

    if not wait_until(HEALED_S, all_are, 0.01):
        late = [v.name for v in victims if v.name not in back]
        raise Violation(f"{', '.join(late)} not back {HEALED_S:.0f} s after the mending\n{world.describe()}")
    world.no_losses()
    return back


def finish(world: World, tally: Tally, healed: list[Healed]) -> list[str]:
    """The end of a world: what its homes contradict, and when its victims took part again."""
    ids = {n.name: world.status(n).get("node_id") for n in world.nodes}
    histories = check.conclude(world)
    tally.homes_checked += sum(len(of) for of in histories.chains.values())
    tally.homes_verified += histories.verified
    rows = histories.rows(world.chain or "")
    tally.rounds += len(rows)
    for one in healed:
        victim = ids[one.victim]
        contributed = [r for r in rows if r > one.head and victim in [c["node_id"] for c in rows[r]["contributions"]]]
        if contributed:
            tally.rounds_missed.setdefault(one.kind, []).append(min(contributed) - one.head - 1)
    return histories.violations

"""Ten nodes of which three come and go in each round: does the run go on, and does it learn as well as a calm one?"""

from __future__ import annotations

import json
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import check
from .nodes import Node, Violation, wait_until
from .tally import spread
from .world import World, run_file, say

NODES, GOING = 10, 3
# Parts for those who leave and for those who come: a leaver's part is free only once it is off the roster.
PARTS = 16
# The last rounds, over which the accuracy is averaged: a single round's swings by more than a point.
LAST = 10
# A round in which three go takes a second or two; without a commit for so long it is stuck.
STUCK_S = 30.0
# So many of those who go leave for good, and somebody new comes; the others are killed and come back.
LEAVING = 0.12


def run_text() -> str:
    """A net that learns within 100 rounds, on little data. The run itself never ends."""
    return run_file("churn", 100_000, NODES, samples=200 * PARTS, model='arch = "shapes-cnn"')


@dataclass
class Churn:
    """What was done to whom."""

    world: World
    free_parts: list[int] = field(default_factory=lambda: list(range(NODES + 1, PARTS + 1)))
    parts: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"killed": 0, "back": 0, "left": 0, "joined": 0})
    full_rounds: int = 0
    gaps: list[float] = field(default_factory=list)
    seconds: float = 0.0
    down: list[Node] = field(default_factory=list)
    leaving: list[Node] = field(default_factory=list)
    rng: random.Random = field(default_factory=random.Random)

    @staticmethod
    def resumed(world: World, path: Path) -> Churn:
        """Ten new nodes, or everybody who was there at the end of the last piece."""
        if not path.exists():
            state = Churn(world)
            for part in range(1, NODES + 1):
                state.add(part)
            return state
        kept = json.loads(path.read_text())
        gone = set(kept.pop("gone"))
        state = Churn(world, **kept)
        for name in state.parts:
            # Hosts are numbered in order, so that everybody has the address that the others remember.
            node = world.add(name)
            node.has_left = name in gone
            if not node.has_left:
                node.start()
        return state

    def save(self, path: Path) -> None:
        """For the next piece."""
        keys = ("free_parts", "parts", "counts", "full_rounds", "gaps", "seconds")
        gone = [n.name for n in self.world.nodes if n.has_left]
        path.write_text(json.dumps({key: getattr(self, key) for key in keys} | {"gone": gone}))

    def add(self, part: int) -> Node:
        """A node with this part, started."""
        node = self.world.add(f"node-{len(self.world.nodes) + 1}", more=["--part", f"{part}/{PARTS}"])
        self.parts[node.name] = part
        node.start()
        return node

    def come(self) -> None:
        """Whoever was killed is back, and for each that has left somebody new comes."""
        self.all_back()
        for node in [n for n in self.leaving if not n.is_running]:
            self.leaving.remove(node)
            self.free_parts.append(self.parts[node.name])
            self.counts["left"] += 1
            self.add(self.free_parts.pop(0))
            self.counts["joined"] += 1

    def all_back(self) -> None:
        """Whoever was killed is back."""
        for node in self.down:
            node.start()
            self.counts["back"] += 1
        self.down = []

    def three_go(self, head: int) -> bool:
        """Three go within the round after this one; whether so many could be spared."""
        went = 0
        until = time.monotonic() + STUCK_S
        while went < GOING and self.world.head() == head and time.monotonic() < until:
            went += self.go(GOING - went)
            time.sleep(0.05)
        return went == GOING

    def go(self, count: int) -> int:
        """Some go, while a quorum of the roster is left; how many went."""
        world = self.world
        head = world.head()
        going = {n.name for n in [*self.down, *self.leaving]}
        standing = [n for n in world.members() if n.name not in going and world.is_current(n, head - 1)]
        newest = max((world.status(n) for n in standing), key=lambda s: s["round"], default=None)
        if newest is None:
            return 0
        listed = {m["node_id"] for m in newest["roster"]}
        standing = [n for n in standing if world.status(n)["node_id"] in listed]
        spare = len(standing) - newest["quorum"]
        went = 0
        for node in self.rng.sample(standing, min(count, max(0, spare))):
            if self.rng.random() < LEAVING and len(self.leaving) < 2:
                node.has_left = node.leave()
                if node.has_left:
                    self.leaving.append(node)
                    went += 1
            else:
                time.sleep(self.rng.uniform(0, 0.2))
                node.kill()
                self.down.append(node)
                self.counts["killed"] += 1
                went += 1
        return went


def churn(program: Path, seed: int, rounds: int, folder: Path, minutes: float) -> dict[str, Any] | None:
    """The calm run and the one with churn, compared. Nothing while the time is over and there is more to do: both live
    in `folder`, so that the next call goes on, after a restart of everybody."""
    until = time.monotonic() + 60 * minutes
    results = {}
    for name in ("calm", "churn"):
        result = folder / f"{name}.json"
        if not result.exists():
            figures = one_run(program, seed, rounds, name == "churn", folder / name, until)
            if figures is None:
                return None
            result.write_text(json.dumps(figures))
        results[name] = json.loads(result.read_text())
    violations = [v for figures in results.values() for v in figures.pop("violations")]
    points = None
    if None not in (accuracies := [results[name]["accuracy"] for name in ("calm", "churn")]):
        points = round(100 * (accuracies[1] - accuracies[0]), 2)
        if points < -1:
            violations.append(f"the accuracy under churn is {-points} points lower than that of the calm run")
    return {"seed": seed, **results, "points_of_accuracy": points, "violations": violations}


def one_run(
    program: Path, seed: int, rounds: int, with_churn: bool, folder: Path, until: float
) -> dict[str, Any] | None:
    """One run of ten nodes, or a piece of it."""
    began = time.monotonic()
    violations: list[str] = []
    name = folder.name
    with World(folder, program, run_text(), f"{name}-{seed}") as world:
        state = Churn.resumed(world, folder / "state.json")
        # Where no round was committed yet, this is 0.
        state.rng = random.Random(f"{name}/{seed}/{state.seconds}")
        try:
            world.found()
            world.await_all()
            say(f"{name}: round {world.head()} after {time.monotonic() - began:.1f} s")
            while world.head() < rounds and time.monotonic() < until:
                head, last = world.head(), time.monotonic()
                if with_churn:
                    state.come()
                    state.full_rounds += state.three_go(head)
                world.await_commit(head, STUCK_S)
                world.no_losses()
                state.gaps.append(time.monotonic() - last)
                if world.head() // 10 > head // 10:
                    say(f"{name}: round {world.head()}, {state.counts}, {statistics.median(state.gaps):.2f} s a round")
            is_over = world.head() >= rounds
            state.all_back()
            wait_until(STUCK_S, lambda: world.lost() is not None or all(not n.is_running for n in state.leaving))
            world.await_all()
        except Violation as violation:
            is_over = True
            violations.append(str(violation))
        state.seconds += time.monotonic() - began
        histories = check.conclude(world)
        violations += histories.violations
        rows = histories.rows(world.chain or "")
        state.save(folder / "state.json")
    if not is_over and not violations:
        return None
    return {
        "rounds": len(rows),
        "accuracy": accuracy_of(rows, rounds),
        "contributions_a_round": round(statistics.mean(len(r["contributions"]) for r in rows.values()), 2)
        if rows
        else 0,
        "empty_rounds": sum(row["kind"] == "empty" for row in rows.values()),
        "late_attempts": sum((row["committed_attempt"] or 0) > 0 for row in rows.values()),
        "round_s": spread(state.gaps),
        **({**state.counts, "rounds_in_which_three_went": state.full_rounds} if with_churn else {}),
        "homes_checked": len(world.nodes),
        "homes_verified": histories.verified,
        "seconds": round(state.seconds, 1),
        "violations": violations,
    }


def accuracy_of(rows: dict[int, Any], rounds: int) -> float | None:
    """The mean accuracy of the last of these rounds, each of which the round after it tells."""
    known = [rows[r]["accuracy"] for r in range(rounds - LAST, rounds) if r in rows and rows[r]["accuracy"] is not None]
    return round(statistics.mean(known), 4) if known else None

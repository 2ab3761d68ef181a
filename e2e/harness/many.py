"""Fifty processes on one machine with a tiny net: do they found, agree, and end with one model?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import check, sandbox
from .nodes import Violation, wait_until
from .tally import spread
from .world import World, run_file, say

# Fifty processes start one after the other on a few cores, and all must be in one view before anybody founds.
FOUNDING_S = 180.0
STUCK_S = 90.0
# The kernel keeps 1,024 neighbours for all namespaces together (gc_thresh3), which 33 hosts that all talk to each other
# use up; so nodes share hosts, and find each other there by mDNS as well.
HOSTS = 10


def many(program: Path, nodes: int, rounds: int) -> dict[str, Any]:
    """One run of so many nodes for so many rounds, found by mDNS."""
    box = sandbox.scratch()
    assert box is not None, "this runs inside the box"
    violations: list[str] = []
    began = time.monotonic()
    founded_s, gaps = None, []
    with World(box / "many", program, run_file("many", rounds, nodes, samples=20 * nodes), "many") as world:
        hosts = [world.switch.host() for _ in range(min(HOSTS, nodes))]
        for k in range(nodes):
            part = ["--part", f"{k + 1}/{nodes}"]
            world.add(f"node-{k + 1}", host=hosts[k % len(hosts)], more=part).start()
        say(f"{nodes} processes started after {time.monotonic() - began:.1f} s")
        try:
            if not wait_until(FOUNDING_S, lambda: world.head() >= 1, 0.1):
                raise Violation(f"no round within {FOUNDING_S:.0f} s\n{world.describe()}")
            founded_s = time.monotonic() - began
            say(f"the first round is committed after {founded_s:.1f} s")
            while world.head() < rounds:
                head, last = world.head(), time.monotonic()
                world.await_commit(head, STUCK_S)
                world.no_losses()
                gaps.append((time.monotonic() - last) / (world.head() - head))
                say(f"round {world.head()} after {time.monotonic() - began:.1f} s")
            world.await_all(STUCK_S)
        except Violation as violation:
            violations.append(str(violation))
        histories = check.conclude(world)
        violations += histories.violations
        rows = histories.rows(world.chain or "")
        agreed = {
            row["model_hash"] for of in histories.chains.values() for history in of.values() for row in history[-1:]
        }
        if len(agreed) != 1 or sum(len(of) for of in histories.chains.values()) != nodes:
            violations.append(f"{len(agreed)} last models among {nodes} nodes")
    if violations:
        sandbox.keep(box / "many", "many")
    return {
        "nodes": nodes,
        "rounds": len(rows),
        "first_commit_s": founded_s and round(founded_s, 1),
        "round_s": spread(gaps),
        "overhead_ms": spread([r["overhead_ms"] for r in rows.values() if r["overhead_ms"] is not None]),
        "late_attempts": sum((row["committed_attempt"] or 0) > 0 for row in rows.values()),
        "contributions_a_round": spread([len(row["contributions"]) for row in rows.values()]),
        "seconds": round(time.monotonic() - began, 1),
        "violations": violations,
    }

"""What the homes hold in the end, collected and compared: the promises, checked from outside.

`paceline verify` checks a home by itself, where the program has it; what is here compares homes with each other.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .nodes import Node, Violation
from .world import World

Row = dict[str, Any]

# What a node says in its log where it found a promise broken. Nobody lies in these worlds.
ALARMS = {
    "a node panicked": re.compile(r"panicked at"),
    "a second commit": re.compile(r"was committed twice"),
    "an honest node was called a liar": re.compile(r"signed two statements that contradict each other"),
}


@dataclass
class Histories:
    """The rounds of each home, by chain."""

    # By genesis and node: its rows, oldest first.
    chains: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    verified: int = 0
    # Whether the program has `verify`.
    has_verify: bool = False

    def rows(self, chain: str) -> dict[int, Row]:
        """Every round of a chain that some home holds."""
        rows: dict[int, Row] = {}
        for history in self.chains.get(chain, {}).values():
            rows.update({row["round"]: row for row in history})
        return rows


@cache
def has_verify(program: Path) -> bool:
    """Whether this program knows the command."""
    return subprocess.run([str(program), "verify", "--help"], capture_output=True).returncode == 0


def collect(nodes: Iterable[Node], program: Path) -> Histories:
    """Reads every home (its node may run or not) and checks what it finds."""
    found = Histories(has_verify=has_verify(program))
    for node in nodes:
        if not (node.home / "store.redb").exists():
            continue
        done = node.command("rounds", "--format", "json")
        if done.returncode != 0:
            found.violations.append(f"{node.name}: `rounds` failed: {done.stderr.strip()}")
            continue
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        if rows:
            found.violations += [f"{node.name}: {what}" for what in _one(rows)]
            found.chains.setdefault(rows[0]["parent"], {})[node.name] = rows
        if found.has_verify:
            verified = node.command("verify", "--format", "json")
            found.verified += verified.returncode == 0
            if verified.returncode != 0:
                said = (verified.stdout + verified.stderr).strip()
                found.violations.append(f"{node.name}: `verify` ended with {verified.returncode}: {said[:2000]}")
        found.violations += [f"{node.name}: {what}" for what in _alarms(node)]
    for chain, histories in found.chains.items():
        found.violations += _many(chain, histories)
    return found


def conclude(world: World) -> Histories:
    """The end of a world: everybody stops, the homes are read, and hold what was seen committed, in one chain."""
    stopped = []
    for node in world.running():
        node.host.heal()
        node.tell_to_stop()
    for node in world.running():
        try:
            node.stop()
        except Violation as violation:
            stopped.append(str(violation))
    found = collect(world.nodes, world.program)
    found.violations += world.seen.violations + stopped
    old = {n.name for n in world.nodes if n.is_old}
    own = {chain: sorted(of) for chain, of in found.chains.items() if not set(of) <= old}
    if len(own) > 1:
        found.violations.append(f"the nodes are in {len(own)} chains: {own}")
    for chain in found.chains:
        rows = found.rows(chain)
        for (seen_chain, number), (record, _, who) in world.seen.records.items():
            held = rows[number]["record_hash"] if number in rows else "nothing"
            if seen_chain == chain and held != record:
                found.violations.append(f"round {number}: {who} showed {record} as committed; the homes hold {held}")
    world.unmount()
    return found


def _one(rows: list[Row]) -> Iterable[str]:
    """What is wrong with one history by itself."""
    for place, row in enumerate(rows):
        if row["round"] != place + 1:
            yield f"round {row['round']} stands in place {place + 1}"
        if place and row["parent"] != rows[place - 1]["record_hash"]:
            before = rows[place - 1]["record_hash"]
            yield f"round {row['round']} has parent {row['parent']}, the round before is {before}"
        who = [c["node_id"] for c in row["contributions"]]
        if len(who) != len(set(who)):
            yield f"round {row['round']} has two contributions of one node: {who}"
        if row["kind"] == "empty" and place and row["model_hash"] != rows[place - 1]["model_hash"]:
            yield f"round {row['round']} is empty, but changes the model"
        if row["kind"] == "train" and not who:
            yield f"round {row['round']} trains without a contribution"


def _many(chain: str, histories: dict[str, list[Row]]) -> Iterable[str]:
    """Where the histories of one chain contradict each other."""
    first: dict[int, tuple[str, Row]] = {}
    for name, rows in histories.items():
        for row in rows:
            other, known = first.setdefault(row["round"], (name, row))
            for what in ("record_hash", "model_hash", "parent"):
                if row[what] != known[what]:
                    where = f"chain {chain[:10]}, round {row['round']}"
                    yield f"{where}: {what} is {known[what]} at {other}, {row[what]} at {name}"


def _alarms(node: Node) -> Iterable[str]:
    if not node.log.exists():
        return
    for line in node.log.read_text(errors="replace").splitlines():
        for what, pattern in ALARMS.items():
            if pattern.search(line):
                yield f"{what}: {line.strip()}"

"""A run of real nodes on one switch, and what is seen of it while it goes on."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from .net import Host, Switch
from .nodes import Node, Status, Violation, start_bootstrap, wait_until

# Founding takes a stable view, invitations, binds and one decision: seconds. Beyond this something is wrong.
FOUNDING_S = 60.0
# After everything is mended a round must commit, and every node be where the others are, within this.
HEALED_S = 30.0
# A small file system for a home: room for the reserve of 4 MiB, the store and some models.
SMALL_DISK_MIB = 24

TINY = 'layers = [ { type = "flatten" }, { type = "linear", out = 10 } ]'


def run_file(
    name: str, rounds: int, min_nodes: int, samples: int, model: str = TINY, lr: float = 0.05, epochs: int = 1
) -> str:
    """A run that trains for a moment, on generated pictures."""
    return (
        f'[run]\nname = "{name}"\nrounds = {rounds}\nmin_nodes = {min_nodes}\n'
        f"[model]\n{model}\n"
        f'[data]\ndataset = "shapes"\nsamples = {samples}\n'
        f"[train]\nbatch = 10\nlr = {lr}\nepochs = {epochs}\naugment = false\n"
        f'[round]\ntimeout = "1min"\n'
    )


@dataclass
class Seen:
    """What the watchers gathered. Written by their threads under `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    # The last status of each node, and when it came.
    status: dict[str, tuple[float, Status]] = field(default_factory=dict)
    # When a round was first seen committed, by chain and round.
    committed_at: dict[tuple[str, int], float] = field(default_factory=dict)
    # The record that a round was first seen with, and who showed it.
    records: dict[tuple[str, int], tuple[str, str, str]] = field(default_factory=dict)
    # The highest round seen committed, by chain.
    head: dict[str, int] = field(default_factory=dict)
    # When each node's trainer was seen at work: (from, to).
    trained: dict[str, list[list[float]]] = field(default_factory=dict)
    # What is wrong already: two records for one round.
    violations: list[str] = field(default_factory=list)


class World:
    """The nodes of one run. `with` it: all processes end with the block."""

    def __init__(self, folder: Path, program: Path, run: str, label: str) -> None:
        self.folder = folder
        self.program = program
        self.label = label
        self.seen = Seen()
        self.nodes: list[Node] = []
        # Homes of an earlier run of the same run file.
        self.old_homes: list[Path] = []
        self.is_bootstrap_gone = False
        self.finding: list[str] = []
        self.bootstrap: subprocess.Popen[str] | None = None
        self._mounts: list[Path] = []
        self._over = threading.Event()
        self._poll_s = 0.02
        folder.mkdir(parents=True, exist_ok=True)
        self.run_file = folder / "run.toml"
        self.run_file.write_text(run)
        self.target = str(self.run_file)
        self.switch = Switch()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for node in self.nodes:
            node.kill()
        self.kill_bootstrap()
        self.switch.close()

    def unmount(self) -> None:
        """Brings homes on small disks back to the folder, so that they can be looked at."""
        while self._mounts:
            home = self._mounts.pop()
            copy = home.with_suffix(".copy")
            shutil.copytree(home, copy, ignore=shutil.ignore_patterns("reserve", "filler"))
            subprocess.run(["umount", str(home)], check=True)
            home.rmdir()
            copy.rename(home)

    # Who is there.

    def use_bootstrap(self) -> None:
        """Nodes find each other by a bootstrap alone, not by mDNS."""
        host = self.switch.host()
        self.bootstrap, self.target = start_bootstrap(self.program, self.run_file, host)
        self.finding = ["--no-mdns", "--listen", "/ip4/0.0.0.0/tcp/0"]

    def kill_bootstrap(self) -> None:
        """The bootstrap is gone for good."""
        if self.bootstrap is not None:
            self.bootstrap.kill()
            self.bootstrap.wait()
            self.bootstrap = None
            self.is_bootstrap_gone = True

    def add(
        self,
        name: str,
        small_disk: bool = False,
        home_of: Path | None = None,
        more: list[str] | None = None,
        host: Host | None = None,
    ) -> Node:
        """Another node, not started yet; on a host of its own unless one is named."""
        home = self.folder / name
        if home_of is not None:
            shutil.copytree(home_of, home)
        home.mkdir(exist_ok=True)
        if small_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MIB}m", "none", str(home)], check=True)
            self._mounts.append(home)
        arguments = [self.target, *self.finding, *(more or [])]
        node = Node(self.program, host or self.switch.host(), home, self.folder, arguments)
        self.nodes.append(node)
        self._poll_s = max(0.02, 0.004 * len(self.nodes))
        threading.Thread(target=self._watch, args=(node,), daemon=True).start()
        return node

    def look_every(self, seconds: float) -> None:
        """How often nodes are looked at from now on."""
        self._poll_s = seconds

    def is_on_small_disk(self, node: Node) -> bool:
        """Whether the node's home is a file system of its own."""
        return node.home in self._mounts

    def running(self) -> list[Node]:
        """Nodes with a process."""
        return [n for n in self.nodes if n.is_running]

    def members(self) -> list[Node]:
        """Nodes of this run that are meant to be on the roster, in a fixed order: what is drawn among."""
        return [n for n in self.nodes if not n.has_left and not n.is_old]

    def draw(self, rng: random.Random, count: int = 1) -> list[Node]:
        """Some of those that run."""
        candidates = [n for n in self.members() if n.is_running]
        return rng.sample(candidates, min(count, len(candidates)))

    # What they say.

    def status(self, node: Node) -> Status:
        """The last that was seen of a node; empty if nothing was."""
        return self.seen.status.get(node.name, (0.0, {}))[1]

    @property
    def chain(self) -> str | None:
        """The chain that the nodes of this run are in."""
        of = [s.get("genesis") for n in self.members() if (s := self.status(n))]
        chains = [c for c in of if c]
        return max(set(chains), key=chains.count) if chains else None

    def head(self) -> int:
        """The highest round that was seen committed; 0 before the first."""
        return self.seen.head.get(self.chain or "", 0)

    def is_current(self, node: Node, head: int) -> bool:
        """Whether a node says, after its start, that it is a member and holds this round."""
        at, status = self.seen.status.get(node.name, (0.0, {}))
        last = (status.get("last_commit") or {}).get("round", 0)
        is_in = at > node.started_at and status.get("state") in ("member", "finished")
        return is_in and bool(last >= head)

    def found(self) -> float:
        """Waits for the first commit; returns how long it took."""
        began = time.monotonic()
        if not wait_until(FOUNDING_S, lambda: self.head() >= 1 or self.lost() is not None):
            raise Violation(f"no round committed within {FOUNDING_S:.0f} s of the start")
        self.no_losses()
        return time.monotonic() - began

    def lost(self) -> str | None:
        """Who ended without being made to."""
        for node in self.running():
            if (code := node.ended()) is None:
                continue
            if node.has_left and code == 0:
                continue
            if not node.may_end:
                return f"{node.name} ended by itself with {code}:\n{node.tail()}"
        return None

    def no_losses(self) -> None:
        """That nobody ended without being made to, and nothing was contradicted."""
        if (lost := self.lost()) is not None:
            raise Violation(lost)
        if self.seen.violations:
            raise Violation("; ".join(self.seen.violations))

    def await_commit(self, beyond: int, limit_s: float = HEALED_S) -> float:
        """Waits for a commit beyond a round; returns how long it took."""
        began = time.monotonic()
        if not wait_until(limit_s, lambda: self.head() > beyond):
            raise Violation(f"stuck: no commit beyond round {beyond} within {limit_s:.0f} s\n{self.describe()}")
        return time.monotonic() - began

    def await_all(self, limit_s: float = HEALED_S) -> None:
        """Waits until every node that runs holds the newest round."""
        nodes = [n for n in self.running() if not n.is_old and not n.has_left]
        if not wait_until(
            limit_s, lambda: all(self.is_current(n, self.head()) for n in nodes) or self.lost() is not None
        ):
            late = [n.name for n in nodes if not self.is_current(n, self.head())]
            raise Violation(f"{', '.join(late)} not back after {limit_s:.0f} s\n{self.describe()}")
        self.no_losses()

    def describe(self) -> str:
        """Everybody in a line each, for a message that says what is stuck."""
        lines = [f"head {self.head()} of chain {(self.chain or '-')[:10]}"]
        now = time.monotonic()
        for node in self.nodes:
            at, s = self.seen.status.get(node.name, (0.0, {}))
            if not node.is_running:
                lines.append(f"  {node.name}: no process")
            elif not s:
                lines.append(f"  {node.name}: says nothing")
            else:
                last = (s.get("last_commit") or {}).get("round")
                names = {m["node_id"]: m["name"] for m in s["roster"]}
                gone = [m["name"] or m["node_id"][-6:] for m in s["roster"] if not m["reachable"]]
                coordinator = names.get(s["coordinator"], s["coordinator"])
                lines.append(
                    f"  {node.name} ({now - at:.1f} s ago): {s['state']}, {s['phase']} {s['round']}.{s['attempt']},"
                    f" coordinator {coordinator}, holds {last}, unreachable {gone}, reason: {s['reason']}"
                )
        return "\n".join(lines)

    def trained_after(self, moment: float, until: float) -> float:
        """The longest that one node that still runs was seen training between two moments."""

        def overlap(spans: list[list[float]]) -> float:
            return sum(max(0.0, min(b, until) - max(a, moment)) for a, b in spans)

        with self.seen.lock:
            return max((overlap(self.seen.trained.get(n.name, [])) for n in self.running()), default=0.0)

    def _watch(self, node: Node) -> None:
        """Looks at a node again and again, in a thread of its own, since a frozen one answers late."""
        while not self._over.is_set():
            began = time.monotonic()
            if node.is_running and (status := node.watched_status()) is not None:
                self._note(node, status, time.monotonic())
            time.sleep(max(0.001, self._poll_s - (time.monotonic() - began)))

    def _note(self, node: Node, status: Status, now: float) -> None:
        seen = self.seen
        with seen.lock:
            seen.status[node.name] = (now, status)
            spans = seen.trained.setdefault(node.name, [])
            if status.get("training") is not None:
                if spans and now - spans[-1][1] < 4 * self._poll_s + 0.05:
                    spans[-1][1] = now
                else:
                    spans.append([now, now])
            chain, last = status.get("genesis"), status.get("last_commit")
            if not chain or not last:
                return
            key = (chain, last["round"])
            seen.committed_at.setdefault(key, now)
            seen.head[chain] = max(seen.head.get(chain, 0), last["round"])
            record, model, who = seen.records.setdefault(key, (last["record_hash"], last["model_hash"], node.name))
            if (record, model) != (last["record_hash"], last["model_hash"]):
                seen.violations.append(
                    f"two records for round {key[1]} of chain {chain[:10]}: {who} showed {record}, {node.name} shows"
                    f" {last['record_hash']}"
                )


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

"""`e2e/hostile`: honest nodes make rounds while a hostile client has a go at them, in each way that it knows.

Measured are the rounds that are committed, the memory of the honest nodes, whether the attacker is cut off, and whether
an honest node ever loses sight of another one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import check, sandbox
from .nodes import Node, Violation, wait_until
from .share import Share, cpu_s, forget_peak, memory_mib
from .world import World, run_file, say

ROOT = Path(__file__).resolve().parents[2]

# In the order of the table; `rubbish` joins the run, so it comes while there are few records to catch up with.
KINDS = (
    "rubbish",
    "flood-messages",
    "flood-gossip",
    "flood-control",
    "flood-requests",
    "flood-streams",
    "stall",
    "stall-handshake",
    "connections",
    "reconnect",
    "announce",
    "replay",
    "junk",
)
# Where everybody must notice who it is, and close its connections or refuse more of them.
CUT_OFF = ("flood-messages", "flood-gossip", "flood-control", "flood-streams", "stall", "connections", "announce")

NODES = 5
PORT = 4001
# What honest nodes must keep of their rounds.
KEPT = 0.8
# What a node may hold more than when it is calm, whatever comes: `docs/reliability.md` adds it up.
MORE_MIB = 256.0
# How long an attacker that takes part may take to become a member.
JOINING_S = 30.0
# How long everything may take to be as it was, before the next attack.
SETTLING_S = 3.0
# A net of two chunks, so that its bytes go the way of a large one's.
NET = 'layers = [ { type = "flatten" }, { type = "linear", out = 110 }, { type = "relu" }, { type = "linear", out = 10 } ]'


@dataclass
class Stretch:
    """What was measured for a while."""

    kind: str
    against: str
    seconds: float = 0.0
    rounds_per_min: float = 0.0
    # Of the rate beside a client that does no harm: computes alone, measured right before and right after, or takes part as
    # `rubbish` does; for such a client itself, of the rate without.
    kept: float | None = None
    rss_mib: float = 0.0
    more_mib: float = 0.0
    honest_cores: float = 0.0
    attacker_cores: float = 0.0
    # Honest members that an honest node did not reach at some moment.
    lost: list[str] = field(default_factory=list)
    attacker: dict[str, Any] = field(default_factory=dict)
    # What the honest nodes counted, all together.
    counted: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)


def main(program: Path, arguments: list[str]) -> int:
    """Outside the box, start it; inside, the work."""
    options = parse(arguments)
    if sandbox.scratch() is not None:
        return work(options)
    if (missing := sandbox.what_is_missing()) is not None:
        print(f"SKIPPED: e2e/hostile needs network namespaces; {missing}", file=sys.stderr)
        return 0 if options.short else 2
    for needed in (options.paceline, options.client):
        if not needed.exists():
            print(f"there is no {needed}: cargo build -p paceline --bins --example hostile", file=sys.stderr)
            return 2
    if options.seed is None:
        arguments = [*arguments, "--seed", str(random.SystemRandom().randrange(1 << 31))]
    return sandbox.run_inside(program, arguments, options.keep)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, with their defaults."""
    about = "Honest nodes and a hostile client, all of them real processes. Exit code 1 if a bar is missed."
    parser = argparse.ArgumentParser(prog="e2e/hostile", description=about)
    parser.add_argument("--attacks", help=f"with commas between [default: all of {', '.join(KINDS)}]")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each attack [default: %(default)s]")
    parser.add_argument("--against", choices=["one", "all", "both"], default="both", help="[default: both]")
    parser.add_argument("--cores", type=float, default=0.25, help="what the attacker may take [default: %(default)s]")
    parser.add_argument("--seed", type=int, help="what is drawn from it [default: drawn, and printed]")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="[default: text]")
    parser.add_argument("--short", action="store_true", help="for CI: all attacks for a moment, in about a minute")
    parser.add_argument("--paceline", type=Path, help="the binary [default: the release build, or else the test build]")
    parser.add_argument("--client", type=Path, help="the hostile client [default: the example beside the binary]")
    parser.add_argument("--keep", type=Path, help="where homes and logs go [default: a new folder, if a bar is missed]")
    options = parser.parse_args(arguments)
    options.paceline = (options.paceline or default_program()).resolve()
    options.client = (options.client or options.paceline.parent / "examples" / "hostile").resolve()
    options.keep = options.keep and options.keep.resolve()
    options.attacks = options.attacks.split(",") if options.attacks else list(KINDS)
    if unknown := set(options.attacks) - set(KINDS):
        parser.error(f"no such attack: {', '.join(unknown)}")
    if options.short:
        options.seconds, options.against, options.seed = 3.0, "all", options.seed or 1
    return options


def default_program() -> Path:
    """The release build, or else the test build."""
    release, debug = (ROOT / "target" / profile / "paceline" for profile in ("release", "debug"))
    return debug if debug.exists() and not release.exists() else release


def work(options: argparse.Namespace) -> int:
    """Inside the box."""
    box = sandbox.scratch()
    assert box is not None, "this is the inside"
    os.chdir(box)
    say(f"seed {options.seed}")
    stretches, wrong = [], []
    with (
        World(box / "world", options.paceline, run_file("hostile", 50_000, NODES, 400, NET), "hostile") as world,
        Share(options.cores) as share,
    ):
        say(f"the attacker has {share}")
        siege = Siege(world, share, options)
        try:
            siege.begin()
            stretches = siege.all()
        except Violation as violation:
            wrong.append(str(violation))
        if not wrong:
            wrong += check.conclude(world).violations
    wrong += [f"{s.kind} against {s.against}: {m}" for s in stretches for m in s.missed]
    if options.format == "json":
        print(json.dumps({"stretches": [asdict(s) for s in stretches], "wrong": wrong}, indent=1))
    else:
        print(table(stretches))
    for what in wrong:
        say(f"MISSED: {what}")
    if wrong:
        sandbox.keep(box / "world", "world")
    return 1 if wrong else 0


class Siege:
    """The nodes, and what is done to them."""

    def __init__(self, world: World, share: Share, options: argparse.Namespace) -> None:
        self.world, self.share, self.options = world, share, options
        self.honest: list[Node] = []
        self.calm_mib: dict[str, float] = {}
        self.settling_s = 0.5 if options.short else SETTLING_S

    def begin(self) -> None:
        """Starts the honest nodes, and waits until they are at it."""
        world = self.world
        world.use_bootstrap()
        world.finding = ["--no-mdns", "--listen", f"/ip4/0.0.0.0/tcp/{PORT}"]
        self.honest = [world.add(f"node-{k + 1}", more=["--part", f"{k + 1}/{NODES}"]) for k in range(NODES)]
        for node in self.honest:
            node.start()
        world.found()
        # To look at them costs rounds as well.
        world.look_every(0.2)
        time.sleep(self.settling_s)

    def all(self) -> list[Stretch]:
        """Each attack against one and against all, and before each what it is like without.

        An attacker has a machine of its own. Here it computes on the nodes', so what an attack costs is what they lose
        beside a client that computes as much and says nothing.
        """
        seconds = self.options.seconds
        calm = self.measure("calm", "-", None, seconds)
        self.calm_mib = {n.name: memory_mib(n.pid, "VmHWM") for n in self.honest}
        burn = self.measure("burn", "-", [], seconds)
        burn.kept = burn.rounds_per_min / max(1.0, calm.rounds_per_min)
        stretches, before = [calm, burn], burn.rounds_per_min
        member = None
        if "rubbish" in self.options.attacks:
            # A round waits for its members, and this one may compute little, honest or not.
            member = self.measure("member", "-", [], seconds)
            member.kept = member.rounds_per_min / max(1.0, calm.rounds_per_min)
            stretches.append(member)
        for kind in self.options.attacks:
            for against in ["one", "all"] if self.options.against == "both" else [self.options.against]:
                targets = self.honest if against == "all" else self.honest[:1]
                attacked = self.measure(kind, against, targets, seconds)
                time.sleep(self.settling_s)
                # Right before and right after: a machine is not the same all the time.
                after = self.measure("burn", "-", [], min(seconds, 8.0)).rounds_per_min
                usual = member.rounds_per_min if member and kind == "rubbish" else (before + after) / 2
                attacked.kept = attacked.rounds_per_min / max(1.0, usual)
                before = after
                self.judge(attacked)
                stretches.append(attacked)
                say(row(attacked))
        return stretches

    def measure(self, kind: str, against: str, targets: list[Node] | None, seconds: float) -> Stretch:
        """For so long; `None` if nobody attacks, no targets where the client only computes."""
        stretch = Stretch(kind, against)
        world = self.world
        for node in self.honest:
            forget_peak(node.pid)
        joining_s = JOINING_S if kind in ("rubbish", "member") else 0.0
        attacker = None if targets is None else self.attack(kind, targets or self.honest[:1], joining_s + seconds)
        if joining_s and not wait_until(joining_s, lambda: self.has_joined(kind), 0.1):
            stretch.missed.append(f"the attacker did not get onto the roster within {joining_s:.0f} s")
        began, head = time.monotonic(), world.head()
        cpu, counted = self.cpu_s(), self.counted()
        lost: set[str] = set()
        attacker_cpu = 0.0
        while time.monotonic() < began + seconds:
            time.sleep(0.1)
            lost |= self.lost()
            if attacker is not None:
                attacker_cpu = max(attacker_cpu, cpu_s(attacker.pid))
        stretch.seconds = time.monotonic() - began
        stretch.rounds_per_min = round((world.head() - head) / stretch.seconds * 60, 1)
        stretch.honest_cores = round((self.cpu_s() - cpu) / stretch.seconds, 2)
        stretch.rss_mib = round(max(memory_mib(n.pid, "VmHWM") for n in self.honest), 1)
        more = [memory_mib(n.pid, "VmHWM") - self.calm_mib.get(n.name, 0.0) for n in self.honest]
        stretch.more_mib = round(max(more), 1) if self.calm_mib else 0.0
        stretch.counted = {k: n - counted.get(k, 0) for k, n in self.counted().items() if n > counted.get(k, 0)}
        stretch.lost = sorted(lost)
        if attacker is not None:
            stretch.attacker_cores = round(attacker_cpu / stretch.seconds, 2)
            stretch.attacker = self.end(attacker)
        world.no_losses()
        return stretch

    def attack(self, kind: str, targets: list[Node], seconds: float) -> subprocess.Popen[str]:
        """Starts the client, on a host that nobody has seen before: what one did is not held against the next."""
        host = self.world.switch.host()
        command = [str(self.options.client), kind, "--run", str(self.world.run_file), "--seconds", str(seconds)]
        seed = self.options.seed + (kind == "member")
        command += ["--seed", str(seed), "--home", str(self.world.folder / kind)]
        for node in targets:
            status = node.status() or {}
            command += ["--target", f"/ip4/{node.host.address}/tcp/{PORT}/p2p/{status['node_id']}"]
            blob = status.get("model_hash")
        command += ["--blob", blob] if blob else []
        with host.inside():
            return subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, preexec_fn=self.share.take
            )

    def end(self, attacker: subprocess.Popen[str]) -> dict[str, Any]:
        """What the client says it did."""
        try:
            said, _ = attacker.communicate(timeout=JOINING_S + 15)
            return dict(json.loads(said)) if said else {}
        except (subprocess.TimeoutExpired, ValueError):
            attacker.kill()
            attacker.wait()
            return {}

    def judge(self, stretch: Stretch) -> None:
        """Against the bars."""
        # A moment says nothing about a rate.
        if not self.options.short and stretch.kept is not None and stretch.kept < KEPT:
            stretch.missed.append(f"{stretch.kept:.0%} of the rounds, at least {KEPT:.0%} are asked for")
        if stretch.more_mib > MORE_MIB:
            stretch.missed.append(f"{stretch.more_mib:.0f} MiB more than when it is calm, at most {MORE_MIB:.0f} are allowed")
        if stretch.rounds_per_min == 0:
            stretch.missed.append("no round was committed")
        if stretch.lost:
            stretch.missed.append(f"honest nodes lost sight of each other: {', '.join(stretch.lost)}")
        if stretch.kind in CUT_OFF and stretch.attacker.get("cut_off_ms") is None:
            stretch.missed.append("the attacker was not cut off")

    def has_joined(self, name: str) -> bool:
        """Whether the attacker is on the roster; it is named after what it does."""
        status = self.world.status(self.honest[0])
        return any(member["name"] == name for member in status.get("roster", []))

    def lost(self) -> set[str]:
        """Honest members that are unreachable for an honest node, as far as is seen."""
        honest = {n.name for n in self.honest}
        found = set()
        for node in self.honest:
            for member in self.world.status(node).get("roster", []):
                if member["name"] in honest and not member["reachable"]:
                    found.add(f"{member['name']} by {node.name}")
        return found

    def cpu_s(self) -> float:
        """What the honest nodes have computed."""
        return sum(cpu_s(n.pid) for n in self.honest)

    def counted(self) -> dict[str, int]:
        """What they have refused, in their own words."""
        total: dict[str, int] = {}
        for node in self.honest:
            status = node.status() or {}
            for counts in (status.get("refused", {}), status.get("network", {})):
                for what, n in counts.items():
                    total[what] = total.get(what, 0) + n
        return total


def row(s: Stretch) -> str:
    """A line of the table."""
    kept = "" if s.kept is None else f"{s.kept:.0%}"
    a = s.attacker
    cut = a.get("cut_off_ms")
    did = f"{a.get('sent', 0)} sent, {a.get('bytes', 0) / 1e6:.0f} MB, {a.get('connected', 0)} connected," if a else ""
    did += f" {a.get('closed', 0)} closed, {a.get('refused', 0)} refused" if a else ""
    cells = [
        f"{s.kind:16}", f"{s.against:4}", f"{s.rounds_per_min:8.0f}", f"{kept:>6}", f"{s.rss_mib:8.0f}",
        f"{s.more_mib:8.0f}", f"{s.honest_cores:7.2f}", f"{s.attacker_cores:7.2f}",
        f"{'-' if cut is None else f'{cut / 1000:.1f} s':>8}", did,
    ]  # fmt: skip
    return "  ".join(cells)


def table(stretches: list[Stretch]) -> str:
    """For people."""
    names = ["attack", "on", "rounds/m", "kept", "MiB", "more MiB", "cores", "its", "cut off", "what it did"]
    widths = [16, -4, 8, 6, 8, 8, 7, 7, 8, 0]
    head = "  ".join(f"{n:<{w}}" if w == 16 else f"{n:>{abs(w)}}" for n, w in zip(names, widths, strict=True))
    return "\n".join([head, *map(row, stretches)])

"""The command line of `e2e/chaos`."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

from . import sandbox
from .storm import storm
from .tally import Tally
from .world import say

ROOT = Path(__file__).resolve().parents[2]


def main(program: Path, arguments: list[str]) -> int:
    """Reads the arguments, and does what they say: outside the box, start it; inside, the work."""
    options = parse(arguments)
    if sandbox.scratch() is not None:
        return work(options)
    if (missing := sandbox.what_is_missing()) is not None:
        print(f"SKIPPED: e2e/chaos needs network namespaces; {missing}", file=sys.stderr)
        return 0 if options.short else 2
    if not options.paceline.exists():
        print(f"there is no {options.paceline}: build it (cargo build --release), or name one with --paceline", file=sys.stderr)
        return 2
    return sandbox.run_inside(program, pinned(options, arguments), options.keep)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, with their defaults."""
    parser = argparse.ArgumentParser(prog="e2e/chaos", description="Real paceline processes under faults, and a check of what they leave.")
    parser.add_argument("mode", nargs="?", default="storm", choices=["storm"])
    parser.add_argument("--paceline", type=Path, default=default_program(), help="the binary [default: %(default)s]")
    parser.add_argument("--seed", type=int, help="what all faults are drawn from [default: drawn, and printed]")
    parser.add_argument("--minutes", type=float, default=4.0, help="for how long new worlds begin [default: 4]")
    parser.add_argument("--short", action="store_true", help="a fixed set within 2.5 minutes, for CI; skips where there are no namespaces")
    parser.add_argument("--totals", type=Path, help="a JSON file that adds up pieces: the same command goes on with the next world")
    parser.add_argument("--keep", type=Path, help="where homes and logs of a violated world go [default: a new folder]")
    parser.add_argument("--stop-at-first", action="store_true", help="end with the first violation")
    options = parser.parse_args(arguments)
    options.paceline = options.paceline.resolve()
    return options


def default_program() -> Path:
    """The release build, or else the test build."""
    release, debug = (ROOT / "target" / profile / "paceline" for profile in ("release", "debug"))
    return debug if debug.exists() and not release.exists() else release


def pinned(options: argparse.Namespace, arguments: list[str]) -> list[str]:
    """The arguments with the seed in them."""
    return arguments if options.seed is not None else [*arguments, "--seed", str(random.SystemRandom().randrange(1 << 31))]


def work(options: argparse.Namespace) -> int:
    """Inside the box."""
    os.chdir(sandbox.scratch() or ".")
    say(f"seed {options.seed}")
    tally = Tally.load(options.totals, options.seed)
    began = time.monotonic()
    known = len(tally.violations)
    try:
        storm(tally, options.paceline, options.minutes, options.totals, options.stop_at_first)
    except KeyboardInterrupt:
        say("interrupted")
    tally.save(options.totals)
    print_summary(tally.summary())
    found = tally.violations[known:]
    say(f"{len(found)} violations in {time.monotonic() - began:.0f} s")
    return 1 if found else 0


def print_summary(summary: dict[str, object]) -> None:
    """JSON with a line for each figure, so that people can read it too."""

    def lines(value: object, depth: int) -> str:
        if depth == 0 or not isinstance(value, dict) or not value:
            return json.dumps(value)
        inner = ",\n".join(f"{' ' * (3 - depth)}{json.dumps(k)}: {lines(v, depth - 1)}" for k, v in value.items())
        return "{\n" + inner + "\n" + " " * (2 - depth) + "}"

    print(lines(summary, 2))

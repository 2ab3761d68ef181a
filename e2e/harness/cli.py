"""The command line of `e2e/chaos`."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import sandbox
from .churn import churn
from .deaths import deaths
from .faults import KINDS
from .many import many
from .nodes import Violation
from .storm import SHORT_PLAN, SHORT_SEED, Plan, storm
from .tally import Tally
from .world import say

ROOT = Path(__file__).resolve().parents[2]


def main(program: Path, arguments: list[str]) -> int:
    """Reads the arguments, and does what they say: outside the box, start it; inside, the work."""
    options = parse(arguments)
    if sandbox.scratch() is not None:
        try:
            return work(options)
        except KeyboardInterrupt:
            say("interrupted")
            return 130
    if (missing := sandbox.what_is_missing()) is not None:
        print(f"SKIPPED: e2e/chaos needs network namespaces; {missing}", file=sys.stderr)
        return 0 if options.short else 2
    if not options.paceline.exists():
        print(
            f"there is no {options.paceline}: build it (cargo build --release), or name one with --paceline",
            file=sys.stderr,
        )
        return 2
    return sandbox.run_inside(program, pinned(options, arguments), options.keep)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, with their defaults."""
    about = "Real paceline processes under faults, and a check of what they leave. Progress on stderr, JSON on stdout."
    parser = argparse.ArgumentParser(prog="e2e/chaos", description=about)
    modes = (
        "storm: worlds with drawn faults; deaths: coordinators killed in each phase;"
        " churn: of ten nodes three come and go each round; many: 50 processes"
    )
    parser.add_argument("mode", nargs="?", default="storm", choices=["storm", "deaths", "churn", "many"], help=modes)
    parser.add_argument("--paceline", type=Path, default=default_program(), help="the binary [default: %(default)s]")
    parser.add_argument("--seed", type=int, help="what all faults are drawn from [default: drawn, and printed]")
    parser.add_argument("--minutes", type=float, help="for how long [default: 4; churn: as long as it takes]")
    parser.add_argument("--rounds", type=int, help="churn, many: how many [default: 100, 20]")
    parser.add_argument("--nodes", type=int, default=50, help="many: how many [default: 50]")
    parser.add_argument(
        "--short",
        action="store_true",
        help="for CI: each fault once, for a moment, within 2.5 minutes; skips where there are no namespaces",
    )
    parser.add_argument(
        "--kinds", help=f"storm: draw from these faults alone, with commas between; of {', '.join(KINDS)}"
    )
    parser.add_argument(
        "--totals", type=Path, help="a JSON file that adds up pieces: the same command goes on with the next world"
    )
    parser.add_argument(
        "--keep", type=Path, help="where all homes and logs go [default: a new folder, if something was violated]"
    )
    options = parser.parse_args(arguments)
    options.paceline = options.paceline.resolve()
    options.totals = options.totals and options.totals.resolve()
    options.kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"no such fault: {', '.join(unknown)}")
    options.minutes = options.minutes or (600 if options.mode == "churn" else 4)
    options.keep = options.keep and options.keep.resolve()
    if options.short:
        options.mode, options.seed, options.minutes, options.totals = "storm", SHORT_SEED, 60, None
    return options


def default_program() -> Path:
    """The release build, or else the test build."""
    release, debug = (ROOT / "target" / profile / "paceline" for profile in ("release", "debug"))
    return debug if debug.exists() and not release.exists() else release


def pinned(options: argparse.Namespace, arguments: list[str]) -> list[str]:
    """The arguments with the seed in them."""
    return (
        arguments if options.seed is not None else [*arguments, "--seed", str(random.SystemRandom().randrange(1 << 31))]
    )


def work(options: argparse.Namespace) -> int:
    """Inside the box."""
    os.chdir(sandbox.scratch() or ".")
    say(f"seed {options.seed}")
    began = time.monotonic()
    summary, found = compare(options) if options.mode in ("churn", "many") else tallied(options)
    print_summary(summary)
    for violation in found:
        say(f"VIOLATION: {violation}")
    say(f"{len(found)} violations in {time.monotonic() - began:.0f} s")
    return 1 if found else 0


def compare(options: argparse.Namespace) -> tuple[dict[str, Any], list[Any]]:
    """A run that is measured as a whole."""
    if options.mode == "many":
        counted = many(options.paceline, options.nodes, options.rounds or 20)
        return counted, counted["violations"]
    box = sandbox.scratch()
    assert box is not None, "this runs inside the box"
    compared = churn(options.paceline, options.seed, options.rounds or 100, options.keep or box, options.minutes)
    if compared is None:
        say("the time is over, the rounds are not: the same command goes on, if it has --keep")
        return {}, []
    return compared, compared["violations"]


def tallied(options: argparse.Namespace) -> tuple[dict[str, Any], list[Any]]:
    """What goes on as long as it is told, in pieces."""
    tally = Tally.load(options.totals, options.seed)
    known = len(tally.violations)
    try:
        if options.mode == "deaths":
            deaths(tally, options.paceline, options.minutes)
        else:
            plan = SHORT_PLAN if options.short else Plan(tuple(options.kinds))
            plan = replace(plan, keeps_all=options.keep is not None)
            storm(tally, options.paceline, options.minutes, options.totals, plan)
    except Violation as violation:
        tally.violated("earlier run", str(violation))
    except KeyboardInterrupt:
        say("interrupted")
    tally.save(options.totals)
    return tally.summary(), [f"world {v['world']}: {v['what']}" for v in tally.violations[known:]]


def print_summary(summary: dict[str, object]) -> None:
    """JSON with a line for each figure, so that people can read it too."""

    def lines(value: object, depth: int) -> str:
        if depth == 0 or not isinstance(value, dict) or not value:
            return json.dumps(value)
        inner = ",\n".join(f"{' ' * (3 - depth)}{json.dumps(k)}: {lines(v, depth - 1)}" for k, v in value.items())
        return "{\n" + inner + "\n" + " " * (2 - depth) + "}"

    print(lines(summary, 2))

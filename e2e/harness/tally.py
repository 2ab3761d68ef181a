"""What was counted, over all pieces of a long run: kept in one JSON file, so that hours may be cut in pieces."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Examples of what status said under a fault: a few of each kind are enough to judge by.
EXAMPLES_MAX = 6


@dataclass
class Tally:
    """Numbers that add up."""

    seed: int = 0
    worlds: int = 0
    pieces: int = 0
    seconds: float = 0.0
    rounds: int = 0
    homes_checked: int = 0
    homes_verified: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[dict[str, Any]] = field(default_factory=list)
    # Kill to commit, less the training that remained; seconds, by the phase that the coordinator died in.
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    # From the mending of a fault until its victim holds the newest round; by kind.
    rejoin_s: dict[str, list[float]] = field(default_factory=dict)
    # Rounds that passed after the mending without an update of the victim; by kind.
    rounds_missed: dict[str, list[int]] = field(default_factory=dict)
    # The longest time without a commit while a fault lasted that should not stop the run; by kind.
    stall_s: dict[str, list[float]] = field(default_factory=dict)
    founding_s: list[float] = field(default_factory=list)
    # What nodes said in `reason` while a fault lasted: the others', and the victim's own.
    reasons: dict[str, list[str]] = field(default_factory=dict)

    @staticmethod
    def load(path: Path | None, seed: int) -> Tally:
        """What earlier pieces counted, if there were any; of another seed is refused."""
        if path is None or not path.exists():
            return Tally(seed=seed)
        tally = Tally(**json.loads(path.read_text()))
        if tally.seed != seed:
            raise SystemExit(f"{path} is of seed {tally.seed}; go on with that, or name another file")
        return tally

    def save(self, path: Path | None) -> None:
        """Kept so that a kill in the middle leaves the old or the new file."""
        if path is not None:
            new = path.with_suffix(".new")
            new.write_text(json.dumps(asdict(self), indent=1))
            new.replace(path)

    def count(self, kind: str) -> None:
        """One more fault."""
        self.faults[kind] = self.faults.get(kind, 0) + 1

    def said(self, kind: str, who: str, reason: str) -> None:
        """An example of what a status said."""
        examples = self.reasons.setdefault(f"{kind}, {who}", [])
        if reason not in examples and len(examples) < EXAMPLES_MAX:
            examples.append(reason)

    def violated(self, world: str, what: str) -> None:
        """A promise that was not kept."""
        self.violations.append({"world": world, "what": what})

    def summary(self) -> dict[str, Any]:
        """For people and scripts."""
        return {
            "seed": self.seed,
            "minutes": round(self.seconds / 60, 1),
            "worlds": self.worlds,
            "rounds": self.rounds,
            "faults": sum(self.faults.values()),
            "faults_by_kind": dict(sorted(self.faults.items())),
            "violations": self.violations,
            "homes_checked": self.homes_checked,
            "homes_verified": self.homes_verified,
            "founding_s": spread(self.founding_s),
            "coordinator_killed_s": spread([s for of in self.recovery_s.values() for s in of]),
            "coordinator_killed_by_phase_s": {k: spread(v) for k, v in sorted(self.recovery_s.items())},
            "rejoin_s": {k: spread(v) for k, v in sorted(self.rejoin_s.items())},
            "rounds_missed_after_mending": {k: spread(v) for k, v in sorted(self.rounds_missed.items())},
            "longest_without_commit_s": {k: spread(v) for k, v in sorted(self.stall_s.items())},
            "reasons": self.reasons,
        }


def spread(values: list[float] | list[int]) -> dict[str, float] | None:
    """Count, median, 99th percentile, greatest."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "p99": round(percentile(ordered, 0.99), 2),
        "max": round(ordered[-1], 2),
    }


def percentile(ordered: list[Any], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    return float(ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)])

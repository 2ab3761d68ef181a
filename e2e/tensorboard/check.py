#!/usr/bin/env python3
"""TensorBoard itself reads from an event file of ours what the rounds say: every tag, step and value, and no others.

    e2e/tensorboard/check.py FOLDER ROUNDS

FOLDER holds the event file; ROUNDS is what `paceline rounds --export jsonl` prints of the same rounds. Needs the
tensorboard package and its numpy; no part of CI.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator


def figures_of(row):
    """What a round has to come to, by tag; None where it is not known."""
    seconds = lambda ms: None if ms is None else ms / 1000
    longest_training_ms = max((c["train_ms"] for c in row["contributions"]), default=None)
    return {f"evaluation/{name}": value for name, value in row["metrics"].items()} | {
        "train/loss": row["train_loss"],
        "time/round_s": seconds(row["duration_ms"]),
        "time/overhead_s": seconds(row["overhead_ms"]),
        "time/longest_training_s": seconds(longest_training_ms),
        "updates/count": len(row["contributions"]),
        "bytes/sent": row["bytes_sent"],
        "bytes/received": row["bytes_received"],
    }


def expected_of(rows):
    """By tag: steps and values, oldest first. Scalars of TensorBoard are of 32 bits."""
    expected = defaultdict(list)
    for row in rows:
        for tag, value in figures_of(row).items():
            if value is not None:
                expected[tag].append((row["round"], float(numpy.float32(value))))
    return dict(expected)


def gaps_of(rows):
    """Seconds from each round to the next."""
    return [(row["duration_ms"] or 0) / 1000 for row in rows[1:]]


def main():
    folder, rows = sys.argv[1], [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
    # 0: all of them, where it would keep a sample.
    read = EventAccumulator(folder, size_guidance={SCALARS: 0}).Reload()
    assert read.file_version == 2.0, read.file_version
    found = {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()[SCALARS]}
    expected = expected_of(rows)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for tag, values in expected.items():
        assert found[tag] == values, f"{tag}: {found[tag]} instead of {values}"
    if rows:
        times = numpy.array([event.wall_time for event in read.Scalars("updates/count")])
        assert numpy.allclose(numpy.diff(times), gaps_of(rows), rtol=0, atol=1e-5), "times go by the durations"
    print(f"{sum(map(len, found.values()))} values of {len(found)} tags and {len(rows)} rounds are as they should be")


if __name__ == "__main__":
    main()

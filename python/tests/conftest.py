from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_node import FakeNode

# Each test replaces what it is about.
TRAINER = """
import sys
import numpy
import paceline

def initial(job):
    return {"weight": numpy.full((2, 3), float(job.seed)), "bias": numpy.zeros(3)}

def train(weights, job):
    return {name: tensor + 1 for name, tensor in weights.items()}, 1437, 0.65

def evaluate(weights, job):
    return {"accuracy": (131, 144), "loss": (41.07, 144)}
"""

Start = Callable[..., FakeNode]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a trainer: `start(source)` or `start()`. What the source defines comes in place of TRAINER's functions."""
    nodes = []

    def start(source: str = "", run: str = "", **hello: Any) -> FakeNode:
        script = tmp_path / "train.py"
        call = f"paceline.run(initial=initial, train=train, evaluate=evaluate, {run})"
        script.write_text("\n".join([TRAINER, textwrap.dedent(source), call]))
        nodes.append(FakeNode(script, tmp_path / f"trainer-{len(nodes)}", **hello))
        return nodes[-1]

    yield start
    for node in nodes:
        node.kill()


@pytest.fixture
def greeted(start: Start) -> Start:
    """As `start`, and past the greeting."""

    def greeted(source: str = "", **hello: Any) -> FakeNode:
        node = start(source, **hello)
        assert node.hello()["type"] == "ready"
        return node

    return greeted

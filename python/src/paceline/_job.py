"""What a trainer is asked, and what it gives back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, Any]
"""Tensors by name: arrays of NumPy or whatever NumPy takes for one, or tensors of PyTorch, on any device. They hold
floating-point values and travel as float32."""


class Fit(NamedTuple):
    """What `train` gives back. A plain tuple in this order will do as well."""

    weights: Weights
    """All tensors of the model, trained."""
    samples: int
    """The weight of this node's update in the average, 1 to 1,048,576: the number of its training examples."""
    loss: Optional[float] = None
    """The mean training loss."""


class Cancelled(BaseException):
    """The node has given the job up. `Job.progress` raises it, and no trainer needs to catch it.

    It is not an `Exception`, so that an `except Exception` in a training loop lets it through.
    """


def _to_nobody(done: int, of: int, loss: float | None) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Job:
    """One thing that the node asks for, with all that it told of the run and of itself.

    Made by hand, it stands in for a node in a test or a notebook: `train(initial(Job()), Job(round=1))`.
    """

    seed: int = 1
    """Draw from this alone: in `train` the job's, which differs from round to round and from node to node; in `initial`
    and `evaluate` the run's, which is the same on every node."""
    run_seed: int = 1
    """The run's seed."""
    round: int = 0
    """The round, from 1; 0 in `initial` and `evaluate`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The run file's `[train.settings]`."""
    train: dict[str, Any] = field(default_factory=dict)
    """The run file's `[train]`: `epochs`, `batch`, `lr` and the others, defaults included."""
    trainable: tuple[str, ...] = ()
    """Patterns of the tensors that this run trains (`trainable` in `[model]`); of none, all are. See `trains`."""
    data: Path | None = None
    """What the node was given as `--data`."""
    part: tuple[int, int] | None = None
    """(K, N) of `--part K/N`, with K from 1 to N. `share` does the arithmetic."""
    threads: int = 1
    """How many threads may compute."""
    node: str = ""
    """The name of the node."""
    run: str = ""
    """The name of the run."""
    folder: Path = Path()
    """The trainer's own folder, which is emptied when it starts and after each job."""
    _progress: Callable[[int, int, float | None], None] = field(default=_to_nobody, repr=False)

    def trains(self, name: str) -> bool:
        """Whether the run trains the tensor of this name. The others must come back as they were.

        >>> job = Job(trainable=("head.*",))
        >>> job.trains("head.weight"), job.trains("body.weight"), Job().trains("body.weight")
        (True, False, True)
        """
        patterns = (".*".join(map(re.escape, pattern.split("*"))) for pattern in self.trainable)
        return not self.trainable or any(re.fullmatch(pattern, name, re.DOTALL) for pattern in patterns)

    def progress(self, done: int, of: int = 0, loss: float | None = None) -> None:
        """Say that `done` of `of` steps are done (0: nobody knows of how many), with the latest loss.

        Call it after every step: the node is told ten times a second at most, and a trainer that the node hears nothing
        of for two minutes is taken for hung.

        Raises `Cancelled` where the node has given the job up.
        """
        self._progress(done, of, loss)

    def share(self, n: int) -> NDArray[np.int64]:
        """The indices, ascending, of those of `n` examples that are this node's: int64, shape [n / N], rounded up or
        down.

        The parts of the N nodes are drawn at random, have nothing in common and make up the whole. They follow from the
        run's seed, so every node finds the same ones. Without `--part` all examples are this node's own.

        >>> Job(part=(1, 3)).share(8), Job(part=(2, 3)).share(8), Job(part=(3, 3)).share(8)
        (array([1, 2, 6]), array([3, 4, 5]), array([0, 7]))
        >>> Job().share(4)
        array([0, 1, 2, 3])
        """
        if self.part is None:
            return np.arange(n, dtype=np.int64)
        k, parts = self.part
        # RandomState, because NumPy promises that its numbers stay the same from version to version. It takes 32 bits.
        order = np.random.RandomState([self.run_seed & 0xFFFF_FFFF, self.run_seed >> 32]).permutation(n)
        return np.sort(order[k - 1 :: parts]).astype(np.int64)

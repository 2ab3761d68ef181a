"""The loop of a trainer: hello, then jobs until the node has had enough."""

from __future__ import annotations

import math
import operator
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Optional, SupportsFloat, Union

import numpy as np
from numpy.typing import NDArray

from . import _tensors
from ._job import Cancelled, Fit, Job, Weights
from ._node import Message, Node

Metrics = Mapping[str, tuple[SupportsFloat, SupportsFloat]]
Initial = Callable[[Job], Weights]
Train = Callable[
    [dict[str, NDArray[np.float32]], Job],
    Union[Fit, tuple[Weights, int], tuple[Weights, int, Optional[float]]],
]
Evaluate = Callable[[dict[str, NDArray[np.float32]], Job], Metrics]

# docs/trainer.md has all of these but the last.
PROTOCOL = 1
NAME_BYTES_MAX = 64
WHY_BYTES_MAX = 256
SAMPLES_MAX = 1 << 20
METRICS_MAX = 8
METRIC_NAME = re.compile(r"[a-z0-9_]{1,32}")
PROGRESS_S = 0.1
"""The least time between two lines of progress."""


def run(*, initial: Initial, train: Train, evaluate: Evaluate | None = None, name: str | None = None) -> None:
    """Serve the node that started this process, and return when it stops the trainer or has gone.

    `initial(job)` gives all tensors of the model, before any training. They must be the same bits on every node: draw
    from `job.seed` alone.

    `train(weights, job)` gives new weights, the number of samples and, if it likes, the mean loss: a `Fit`, or a tuple
    in this order. `weights` are arrays of float32 by name, and may be written to. The new ones have the same names and
    shapes.

    `evaluate(weights, job)` gives metrics of this node's held-out data by name (`a-z`, `0-9`, `_`), each as (sum,
    count): `{"accuracy": (131, 144)}`. The mean over all nodes is then exact. Eight at most. Of a `perplexity` the sum
    is one of losses in nats, of an `rmse` one of squared errors.

    `name` stands in the records of the updates (64 bytes; what is longer is cut). Without one it is the script's, with
    the framework's version.

    An exception of any of these goes to stderr in full and to the node in one line; the trainer lives on. What they
    print goes to stderr. Ctrl-C is left to the node. In a worker process of `multiprocessing` that imports the script
    again, this does nothing; in a terminal it says how a trainer is started, and exits with 2.
    """
    if sys._getframe(1).f_globals["__name__"] == "__mp_main__":  # what multiprocessing calls the script then
        return
    if os.isatty(0):
        command = f'paceline join run.toml --trainer "python3 {Path(sys.argv[0]).name}"'
        print(f"This is a trainer; a node starts it: {command}", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    node = Node()
    hello = node.next()
    if hello is None:
        return
    if hello["protocol"] != PROTOCOL:
        node.say("failed", why=f"this trainer speaks protocol {PROTOCOL}, not {hello['protocol']}")
        return
    trainer = _Trainer(node, hello, initial, train, evaluate)
    node.say("ready", protocol=PROTOCOL, name=_cut(name or _own_name(), NAME_BYTES_MAX))
    for message in iter(node.next, None):
        trainer.answer(message)


class _Trainer:
    """A user's functions, and the node that asks for them."""

    def __init__(self, node: Node, hello: Message, initial: Initial, train: Train, evaluate: Evaluate | None) -> None:
        self._node = node
        self._hello = hello
        self._initial, self._train, self._evaluate = initial, train, evaluate
        self._jobs = {"initial": self._do_initial, "train": self._do_train, "evaluate": self._do_evaluate}

    def answer(self, message: Message) -> None:
        kind = message["type"]
        if kind in self._jobs:
            self._work(message)
        elif kind == "cancel":
            self._node.say("cancelled", id=message["id"])
        elif kind == "ping":
            self._node.say("pong")

    def _work(self, message: Message) -> None:
        job: int = message["id"]
        if self._node.gave_up(job):
            return
        try:
            kind, fields = self._jobs[message["type"]](message)
        except (Exception, Cancelled) as error:
            kind, fields = "failed", {"why": _why(error)}
            if not self._node.gave_up(job):
                traceback.print_exc()
        # The cancel of a job that was given up is answered in its turn: it has been heard.
        if not self._node.gave_up(job):
            self._node.say(kind, id=job, **fields)

    def _do_initial(self, message: Message) -> tuple[str, Message]:
        weights = self._initial(self._job(message, self._hello["seed"]))
        _tensors.write(message["result"], _tensors.checked(weights))
        return "initialized", {}

    def _do_train(self, message: Message) -> tuple[str, Message]:
        weights = _tensors.read(message["weights"])
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        outcome = self._train(weights, self._job(message, message["seed"]))
        if not isinstance(outcome, tuple):
            raise TypeError(f"train gives (weights, samples) or (weights, samples, loss), not {type(outcome).__name__}")
        fit = Fit(*outcome)
        trained = _tensors.checked(fit.weights, shapes)
        told = {"samples": _samples(fit.samples), "loss": _loss(fit.loss)}
        _tensors.write(message["result"], trained)
        return "trained", told

    def _do_evaluate(self, message: Message) -> tuple[str, Message]:
        metrics: Metrics = {}
        if self._evaluate is not None:
            job = self._job(message, self._hello["seed"])
            metrics = self._evaluate(_tensors.read(message["weights"]), job)
        return "evaluated", {"metrics": _metrics(metrics)}

    def _job(self, message: Message, seed: int) -> Job:
        hello, node = self._hello, self._hello["node"]
        return Job(
            seed=seed,
            run_seed=hello["seed"],
            round=message.get("round", 0),
            settings=hello["settings"],
            trainable=tuple(hello.get("trainable", ())),
            train=hello["train"],
            data=Path(hello["data"]) if hello["data"] is not None else None,
            part=(node["part"][0], node["part"][1]) if node["part"] is not None else None,
            threads=hello["threads"],
            node=node["name"] or "",
            run=hello["run"]["name"],
            folder=Path(hello["folder"]),
            _progress=self._progress(message["id"]),
        )

    def _progress(self, job: int) -> Callable[[int, int, float | None], None]:
        due = -math.inf

        def progress(done: int, of: int, loss: float | None) -> None:
            nonlocal due
            if self._node.gave_up(job):
                raise Cancelled
            if time.monotonic() >= due:
                due = time.monotonic() + PROGRESS_S
                latest = None if loss is None or not math.isfinite(loss) else float(loss)
                self._node.say("progress", id=job, done=int(done), of=int(of), loss=latest)

        return progress


def _samples(samples: Any) -> int:
    number = operator.index(samples)
    if not 1 <= number <= SAMPLES_MAX:
        raise ValueError(f"samples: {number}, but an update weighs from 1 to {SAMPLES_MAX}")
    return number


def _loss(loss: Any) -> float | None:
    return None if loss is None else _number("loss", loss)


def _metrics(metrics: Metrics) -> dict[str, dict[str, float]]:
    """The metrics as the node wants them; without those that have a count of 0, which say nothing.

    >>> _metrics({"accuracy": (131, 144), "recall": (0, 0)})
    {'accuracy': {'sum': 131, 'count': 144}}
    """
    if len(metrics) > METRICS_MAX:
        raise ValueError(f"{len(metrics)} metrics, and {METRICS_MAX} at most can be told")
    told = {}
    for name, metric in metrics.items():
        if not METRIC_NAME.fullmatch(name):
            raise ValueError(f"metric {name!r}: a name has 1 to 32 of a-z, 0-9 and _")
        if not isinstance(metric, (tuple, list)) or len(metric) != 2:
            raise TypeError(f"metric {name}: (sum, count) is wanted, not {metric!r}")
        total, count = (_number(f"metric {name}", value) for value in metric)
        if count < 0:
            raise ValueError(f"metric {name}: its count is {count}")
        if count:
            told[name] = {"sum": total, "count": count}
    return told


def _number(name: str, value: Any) -> float:
    """A finite number for JSON, whole ones as integers: from Python, NumPy or a tensor without dimensions."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name}: {number} is not finite")
    return int(number) if number.is_integer() else number


def _why(error: BaseException) -> str:
    r"""What an exception says, for people on other machines: one line, and of paths the last names alone.

    >>> _why(FileNotFoundError(2, "No such file or directory", "/home/ada/my data/train.csv"))
    "FileNotFoundError: [Errno 2] No such file or directory: 'train.csv'"
    >>> _why(ValueError("1/2 of part/a.bin and /home/ada/b.bin:\nbroken"))
    'ValueError: 1/2 of part/a.bin and b.bin:'
    >>> _why(KeyError())
    'KeyError'
    """
    said = str(error).strip().split("\n")[0].rstrip()
    said = re.sub(r"(?<=['\"])/[^'\"]*/(?=[^'\"])", "", said)  # in quotes, with any spaces in it
    said = re.sub(r"(?<![\w.~])/+(?:[^\s/'\"]+/+)*(?=\S)", "", said)
    return _cut(": ".join(filter(None, [type(error).__name__, said])), WHY_BYTES_MAX)


def _own_name() -> str:
    """For instance `train.py (torch 2.15.0)`."""
    framework = next(name for name in ("torch", "tensorflow", "jax", "sklearn", "numpy") if name in sys.modules)
    return f"{Path(sys.argv[0]).name} ({framework} {getattr(sys.modules[framework], '__version__', '?')})"


def _cut(text: str, bytes_max: int) -> str:
    """As many whole characters as fit.

    >>> _cut("né à Lyon", 3)
    'né'
    """
    return text.encode(errors="replace")[:bytes_max].decode(errors="ignore")

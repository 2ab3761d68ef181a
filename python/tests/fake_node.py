"""A node as a trainer sees it: starts one and says the lines of docs/trainer.md, one at a time."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

import paceline

# As a person's shell has it, but for where the package lies and for output that Python doesn't buffer.
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
    "PYTHONPATH": str(Path(paceline.__file__).parents[1]),
}
PATIENCE_S = 120


class FakeNode:
    """`log` is what the trainer writes to stderr. `hello` has the fields of the page; keywords replace them."""

    def __init__(self, script: Path, folder: Path, **hello: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.log"
        self._greeting = {
            "protocol": 1,
            "paceline": "0.1.0",
            "run": {"id": "5f0c", "name": "iris", "rounds": 20},
            "seed": 1,
            "node": {"id": "12D3", "name": "lab-3", "part": None},
            "data": None,
            "folder": str(folder),
            "threads": 1,
            "train": {"epochs": 1, "batch": 50, "lr": 0.05},
            "settings": {},
            **hello,
        }
        self._jobs = 0
        self._heard: queue.Queue[bytes] = queue.Queue()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=ENVIRONMENT,
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, kind: str, **fields: Any) -> None:
        self.process.stdin.write(json.dumps({"type": kind, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next line. An empty one is the end of the trainer's stdout."""
        line = self._heard.get(timeout=PATIENCE_S)
        assert line, f"the trainer ended: {self.log.read_text()}"
        return json.loads(line)

    def hello(self) -> dict[str, Any]:
        self.say("hello", **self._greeting)
        return self.hear()

    def begin(self, kind: str, weights: dict[str, Any] | None = None, **fields: Any) -> int:
        """Asks for a job, and gives its id."""
        self._jobs += 1
        if weights is not None:
            save_file(weights, self._file("weights"))
            fields["weights"] = str(self._file("weights"))
        if kind != "evaluate":
            fields["result"] = str(self._file("result"))
        self.say(kind, id=self._jobs, **fields)
        return self._jobs

    def end(self) -> dict[str, Any]:
        """The answer to the job. What came before it is in `progress`."""
        self.progress = []
        deadline = time.monotonic() + PATIENCE_S
        while (answer := self.hear())["type"] == "progress":
            assert time.monotonic() < deadline, "the job goes on and on"
            self.progress.append(answer)
        assert answer["id"] == self._jobs
        return answer

    def initial(self) -> dict[str, Any]:
        self.begin("initial")
        return self.end()

    def train(self, weights: dict[str, Any], round: int = 1, seed: int = 99) -> dict[str, Any]:
        self.begin("train", weights, round=round, seed=seed)
        return self.end()

    def evaluate(self, weights: dict[str, Any]) -> dict[str, Any]:
        self.begin("evaluate", weights)
        return self.end()

    def result(self) -> dict[str, Any]:
        """The tensors that the last job wrote."""
        return load_file(self._file("result"))

    def stop(self) -> int:
        """Ends the trainer's stdin. The trainer's exit code."""
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)

    def stop_listening(self) -> None:
        """Nobody reads the trainer's stdout any more, once a read that is under way has ended; its stdin stays."""
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, self.process.stdout.fileno())
        os.close(nothing)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _file(self, what: str) -> Path:
        return self.folder / f"{self._jobs}-{what}.safetensors"

    def _listen(self) -> None:
        for line in self.process.stdout:
            self._heard.put(line)
        self._heard.put(b"")

"""The node at the other end of stdin and stdout: what it says, and what is said to it. One JSON object a line."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

Message = dict[str, Any]

PARTING_S = 3.0
"""How long a job may take to end when the node has gone, or wants the trainer to go: it kills after 5 s."""


class Node:
    """Says what it is told to; hears at any time, so that a job that was given up is known while it is under way."""

    def __init__(self) -> None:
        lines, self._out = _take_stdin_and_stdout()
        self._saying = threading.Lock()
        self._heard: SimpleQueue[Message | None] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._gone = False
        threading.Thread(target=self._listen, args=(lines,), daemon=True).start()

    def next(self) -> Message | None:
        """What the node says next, or None when it has said its last."""
        return self._heard.get()

    def say(self, kind: str, **fields: Any) -> None:
        """Says a line. Where nobody reads any more, the node has gone."""
        line = json.dumps({"type": kind, **fields}, allow_nan=False).encode() + b"\n"
        try:
            with self._saying:
                while line:
                    line = line[os.write(self._out, line) :]
        except BrokenPipeError:
            self._part()

    def gave_up(self, job: int) -> bool:
        """Whether nobody wants the outcome of this job any more."""
        return self._gone or job in self._cancelled

    def _listen(self, lines: int) -> None:
        try:
            for line in _lines(lines):
                message = json.loads(line)
                if message["type"] == "stop":
                    break
                if message["type"] == "cancel":
                    self._cancelled.add(message["id"])
                self._heard.put(message)
        except Exception:
            traceback.print_exc()
        self._part()
        # A job that asks is over by then; one that doesn't goes down with the process.
        time.sleep(PARTING_S)
        os._exit(0)

    def _part(self) -> None:
        self._gone = True
        self._heard.put(None)


def _take_stdin_and_stdout() -> tuple[int, int]:
    """Keeps both for the node, on new descriptors. Others find nothing to read, and what they print goes to stderr.

    What was printed before, and is still in Python's buffer, goes there as well.
    """
    lines, out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    return lines, out


def _lines(descriptor: int) -> Iterator[bytes]:
    """Whole lines as they come. Read without a file object: at its end Python wants the lock of each, and a thread that
    waits for a line would have it."""
    rest = b""
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines

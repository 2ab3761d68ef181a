"""One node: a home, a host, and the process that comes and goes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .net import Host

# Nodes of one host have one control API each, from here on.
HTTP_PORT = 8080
# A control API on the same machine answers within milliseconds; one that does not is frozen or gone.
ANSWER_S = 1.0
# How long a node may take to end after SIGTERM.
ENDING_S = 10.0
FILLER = "filler"

Status = dict[str, Any]


class Api:
    """A connection to a node's control API that is kept while it holds. For one thread."""

    def __init__(self, host: Host, port: int) -> None:
        self._host, self._port = host, port
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str) -> Any:
        """The answer, or nothing while there is none."""
        # A kept connection may be one to a process that was killed since: only a fresh one's failure counts.
        for is_kept in [True, False] if self._connection is not None else [False]:
            try:
                if not is_kept:
                    self._connection = http.client.HTTPConnection("127.0.0.1", self._port)
                    self._connection.sock = self._host.connect(self._port, ANSWER_S)
                assert self._connection is not None
                self._connection.request(method, path, headers={"x-paceline": "1"} if method == "POST" else {})
                answer = self._connection.getresponse()
                body = answer.read()
                return json.loads(body) if answer.status == 200 else None
            except (OSError, http.client.HTTPException, ValueError):
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
        return None


class Node:
    """A member, or one to be."""

    def __init__(self, program: Path, host: Host, home: Path, logs: Path, arguments: list[str]) -> None:
        self.name = home.name
        self.host = host
        self.home = home
        self.log = logs / f"{home.name}.log"
        self.arguments = arguments
        self.lives = 0
        self.started_at = 0.0
        self.is_frozen = False
        # Left for good: not started again.
        self.has_left = False
        # A member of another chain of the same run, from an earlier time.
        self.is_old = False
        # A fault of its disk may end the process; nothing else that we do not do ourselves may.
        self.may_end = False
        self._program = program
        self._port = HTTP_PORT + host.nodes
        host.nodes += 1
        self._process: subprocess.Popen[bytes] | None = None
        # One connection for the thread that watches, one for whoever else asks.
        self._watched, self._asked = Api(host, self._port), Api(host, self._port)
        home.mkdir(parents=True, exist_ok=True)

    # What a person does to it.

    def start(self) -> None:
        """Starts it, or starts it again."""
        assert not self.is_running, f"{self.name} runs already"
        self.lives += 1
        # As people do: the home knows the run and how it was started.
        is_known = (self.home / "run.toml").exists()
        command = [str(self._program), "join", "--home", str(self.home), "--http", f"127.0.0.1:{self._port}"]
        command += [] if is_known else [*self.arguments, "--name", self.name, "--threads", "1"]
        with self.host.inside():
            # SIGXFSZ stays ignored, as Python has it, so that a file at its limit fails its write as a full disk does.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                restore_signals=False,
                cwd=self.home.parent,
            )
        self.is_frozen = self.may_end = False
        self.started_at = time.monotonic()
        # Through a pipe: what a process logs must not fail with its files.
        threading.Thread(target=self._write_log, args=(self._process, self.lives), daemon=True).start()

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def tell_to_stop(self) -> None:
        """SIGTERM."""
        self.thaw()
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """SIGTERM, and the end that follows."""
        if self._process is None:
            return
        self.tell_to_stop()
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired as late:
            self.kill()
            raise Violation(f"{self.name} did not end within {ENDING_S:.0f} s of SIGTERM") from late
        self._forget()

    def freeze(self) -> None:
        """SIGSTOP: a laptop that sleeps."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        if self.is_frozen:
            self._signal(signal.SIGCONT)
            self.is_frozen = False

    def leave(self) -> bool:
        """Asks it to leave the run for good; whether it could be asked."""
        return self._asked.ask("POST", "/leave") is not None

    def ticket(self) -> str | None:
        """A ticket for others."""
        answer = self._asked.ask("GET", "/ticket")
        return answer["ticket"] if answer else None

    def limit_files(self, length: int) -> None:
        """From now on no write beyond this many bytes of a file succeeds; -1 lifts that."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (length, -1))

    def fill_disk(self) -> None:
        """Takes what is left of the home's file system."""
        with open(self.home / FILLER, "wb", buffering=0) as filler, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12, 1 << 6, 1):
                with contextlib.suppress(OSError):
                    while filler.write(bytes(size)):
                        pass

    def empty_disk(self) -> None:
        """Gives that back."""
        (self.home / FILLER).unlink(missing_ok=True)

    # What is seen of it.

    @property
    def is_running(self) -> bool:
        """Whether there is a process. One that ended by itself is noticed by `ended`."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process, while there is one."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def ended(self) -> int | None:
        """How the process ended, if it did so by itself since the last look."""
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        self._forget()
        return code

    def status(self) -> Status | None:
        """What the node itself says now; nothing while it does not answer."""
        status: Status | None = self._asked.ask("GET", "/status")
        return status

    def watched_status(self) -> Status | None:
        """The same, for the thread that watches."""
        status: Status | None = self._watched.ask("GET", "/status")
        return status

    def command(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A command of the program on this home."""
        command = [str(self._program), *arguments, "--home", str(self.home)]
        with self.host.inside():
            return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _forget(self) -> None:
        self._process = None
        self.is_frozen = False

    def _write_log(self, process: subprocess.Popen[bytes], life: int) -> None:
        assert process.stderr is not None, "it is piped"
        with open(self.log, "ab") as log:
            log.write(f"--- life {life}\n".encode())
            for line in process.stderr:
                log.write(line)
                log.flush()


class Violation(Exception):
    """A promise that was not kept."""


def start_bootstrap(program: Path, run_file: Path, host: Host) -> tuple[subprocess.Popen[str], str]:
    """A bootstrap on a host, and the ticket that it prints."""
    listen = f"/ip4/{host.address}/tcp/4001"
    with host.inside():
        bootstrap = subprocess.Popen(
            [str(program), "--quiet", "bootstrap", "--listen", listen, "--run", str(run_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=run_file.parent,
        )
    assert bootstrap.stdout is not None, "it is piped"
    return bootstrap, bootstrap.stdout.readline().strip()


def wait_until(limit_s: float, is_so: Callable[[], bool], step_s: float = 0.02) -> bool:
    """Waits for something, this long at most; whether it came."""
    until = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() >= until:
            return False
        time.sleep(step_s)
    return True

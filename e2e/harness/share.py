"""How much of a processor an attacker may take, and how much everybody took: on one machine a flood costs what its sender
computes as well, which it would not do to people's nodes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Share:
    """A control group with a quota, where one may be made; else the lowest priority. `with` it: it ends with the block."""

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self._group: Path | None = None
        for root, name, value in [
            (CGROUPS / "cpu", "cpu.cfs_quota_us", f"{int(PERIOD_US * cores)}"),
            (CGROUPS, "cpu.max", f"{int(PERIOD_US * cores)} {PERIOD_US}"),
        ]:
            group = root / f"paceline-hostile-{os.getpid()}-{time.monotonic_ns()}"
            if not (root / "cgroup.procs").exists():
                continue
            with contextlib.suppress(OSError):
                group.mkdir()
                try:
                    (group / name).write_text(value)
                    self._group = group
                    break
                except OSError:
                    group.rmdir()

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        if self._group is None:
            return
        # The kernel needs a moment to see that the last process is gone.
        for _ in range(50):
            with contextlib.suppress(OSError):
                self._group.rmdir()
                return
            time.sleep(0.1)

    def __str__(self) -> str:
        return f"a control group of {self._cores} cores" if self._group else "nice 19: no control group can be made here"

    def take(self) -> None:
        """The calling process, and what it starts, has this share from now on. For a child before it runs its program."""
        if self._group is not None:
            (self._group / "cgroup.procs").write_text(str(os.getpid()))
        else:
            os.nice(19)


def cpu_s(pid: int) -> float:
    """Seconds of computing that a process has taken."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return 0.0


def memory_mib(pid: int, what: str) -> float:
    """`VmRSS` or `VmHWM` of a process."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def forget_peak(pid: int) -> None:
    """From now on `VmHWM` is the most since now."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")

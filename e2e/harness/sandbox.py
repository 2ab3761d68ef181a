"""The box that everything happens in, so that nothing is left behind however the harness ends.

The harness starts itself again in network, mount and process namespaces of its own. The kernel removes all of them,
with every process, interface and mount in them, when the first process inside ends, kill -9 included. The process
outside only waits, passes signals on, and removes the folder on disk.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

INSIDE = "PACELINE_CHAOS_SCRATCH"
KEPT = "kept"
PR_SET_PDEATHSIG = 1

# Interfaces, a bridge and mounts: whatever a run of the harness makes, tried once.
PROBE = (
    "mkdir -p /run/netns; mount -t tmpfs none /run/netns && ip netns add host && ip link add switch type bridge"
    " && ip link add plug type veth peer name eth0 netns host && ip link set plug master switch"
)


def libc() -> ctypes.CDLL:
    """The C library, for the calls that Python 3.11 does not have."""
    return ctypes.CDLL(None, use_errno=True)


def unshare() -> list[str]:
    """The command that starts another one in namespaces of its own; without root, in a user namespace too."""
    own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *own, *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def what_is_missing() -> str | None:
    """Why there can be no box here, or nothing."""
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` here (util-linux, iproute2)"
    tried = subprocess.run([*unshare(), "sh", "-c", PROBE], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"namespaces are not allowed here: {tried.stderr.strip() or 'no reason given'}"
    return None


def scratch() -> Path | None:
    """The folder for everything, inside the box; nothing outside of it."""
    given = os.environ.get(INSIDE)
    return Path(given) if given else None


def keep(folder: Path, name: str) -> None:
    """Leaves a folder of the box on disk for whoever wants to see what happened."""
    box = scratch()
    assert box is not None, "only the inside has something to keep"
    kept = box / KEPT / name
    kept.parent.mkdir(exist_ok=True)
    if kept.exists():
        shutil.rmtree(kept)
    # Small file systems that were mounted for a node are gone with the box: copied, not moved.
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("reserve", "filler"))


def run_inside(program: Path, arguments: list[str], keep_in: Path | None) -> int:
    """Runs this program again inside a box; returns how it ended."""
    box = Path(tempfile.mkdtemp(prefix="paceline-chaos-"))
    # What a person has set must not change what the nodes log.
    environment = {k: v for k, v in os.environ.items() if k != "RUST_LOG"} | {INSIDE: str(box), "RUST_BACKTRACE": "0"}
    child = subprocess.Popen(
        [*unshare(), sys.executable, str(program), *arguments],
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )

    def pass_on(number: int, _frame: object) -> None:
        os.killpg(child.pid, signal.SIGINT)
        signal.alarm(15)  # It has that long to sum up.

    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(child.pid, signal.SIGKILL))
    try:
        return child.wait()
    finally:
        child.kill()
        kept = box / KEPT
        if kept.exists():
            target = keep_in or Path(tempfile.mkdtemp(prefix="paceline-chaos-kept-"))
            shutil.copytree(kept, target, dirs_exist_ok=True)
            print(f"homes and logs are kept in {target}", file=sys.stderr)
        shutil.rmtree(box, ignore_errors=True)

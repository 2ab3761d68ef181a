"""One switch, and hosts with a cable to it: a bridge in the harness's network namespace, and a namespace for each host.

A cable can be pulled, or replaced by a bad one (`forwarder.py`). Whoever looks at a node does so on the node's own
loopback, so that no fault of the network is in the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from .sandbox import libc

CLONE_NEWNET = 0x40000000
BRIDGE = "switch"
FORWARDER = Path(__file__).with_name("forwarder.py")


def ip(*arguments: str) -> None:
    """Runs `ip`; whatever it says goes into the error."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Lane:
    """What a bad cable does in one direction."""

    loss: float = 0.0
    delay_ms: float = 0.0
    mbit_per_s: float | None = None


@dataclass
class Switch:
    """Makes hosts. Addresses are 10.77.x.y/16, in order."""

    hosts: list[Host] = field(default_factory=list)

    def __post_init__(self) -> None:
        _own_names()
        ip("link", "set", "lo", "up")
        ip("link", "add", BRIDGE, "type", "bridge")
        # A bridge that looks into multicast groups forgets them if no router asks; mDNS would stop after a while.
        if Path(f"/sys/class/net/{BRIDGE}/bridge/multicast_snooping").exists():
            ip("link", "set", BRIDGE, "type", "bridge", "mcast_snooping", "0")
        ip("link", "set", BRIDGE, "up")

    def host(self) -> Host:
        """Another host, with its cable plugged in."""
        host = Host(len(self.hosts) + 1)
        self.hosts.append(host)
        return host

    def close(self) -> None:
        """Takes all hosts away, so that the next world has a fresh switch. (The box's end would do as well.)"""
        for host in self.hosts:
            host.close()
        ip("link", "del", BRIDGE)


class Host:
    """A network namespace with one interface."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"host{number}"
        self.address = f"10.77.{number // 250}.{number % 250 + 1}"
        # How many nodes are on it.
        self.nodes = 0
        self._plug = f"plug{number}"
        self._bad: subprocess.Popen[bytes] | None = None
        ip("netns", "add", self.name)
        ip("link", "add", self._plug, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        inside = ["-n", self.name]
        ip(*inside, "link", "set", "lo", "up")
        ip(*inside, "addr", "add", f"{self.address}/16", "dev", "eth0")
        # IPv4 is what nodes listen on; link-local IPv6 would double what mDNS says.
        ip(*inside, "link", "set", "eth0", "addrgenmode", "none", "up")
        # Multicast, which mDNS uses, needs a way out.
        ip(*inside, "route", "add", "default", "dev", "eth0")
        ip("link", "set", self._plug, "master", BRIDGE, "addrgenmode", "none", "up")
        self._namespace = os.open(f"/run/netns/{self.name}", os.O_RDONLY)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is on that host: sockets it opens and processes it starts belong there, for good."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(self._namespace)
            yield
        finally:
            _enter(home)
            os.close(home)

    def connect(self, port: int, timeout_s: float) -> socket.socket:
        """A connection to a port of the host's loopback."""
        with self.inside():
            s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        s.settimeout(timeout_s)
        try:
            s.connect(("127.0.0.1", port))
        except OSError:
            s.close()
            raise
        return s

    def pull(self) -> None:
        """Pulls the cable: the host sees that its link is down."""
        ip("link", "set", self._plug, "down")

    def plug(self) -> None:
        """Plugs the cable in again."""
        ip("link", "set", self._plug, "up")

    def spoil(self, to_host: Lane, from_host: Lane, seed: int) -> None:
        """Puts a bad cable in place of the good one."""
        inner, outer = f"in{self.number}", f"out{self.number}"
        ip("link", "add", inner, "type", "veth", "peer", "name", outer)
        # One packet a frame: what is lost or late is a packet, not 64 KiB that the sender's kernel glued together.
        ip("link", "set", outer, "gso_max_segs", "1", "addrgenmode", "none", "up")
        ip("-n", self.name, "link", "set", "eth0", "gso_max_segs", "1")
        ip("link", "set", inner, "addrgenmode", "none", "up")
        ip("link", "set", self._plug, "nomaster")
        ip("link", "set", outer, "master", BRIDGE)
        lanes = json.dumps({"to_host": asdict(to_host), "from_host": asdict(from_host), "seed": seed})
        self._bad = subprocess.Popen([sys.executable, str(FORWARDER), self._plug, inner, lanes])

    def heal(self) -> None:
        """The good cable again."""
        if self._bad is None:
            return
        self._bad.kill()
        self._bad.wait()
        self._bad = None
        ip("link", "del", f"in{self.number}")
        ip("link", "set", self._plug, "master", BRIDGE)
        ip("-n", self.name, "link", "set", "eth0", "gso_max_segs", "65535")

    def close(self) -> None:
        """Takes the host away."""
        self.heal()
        # By itself it would stay as long as a socket of the namespace does.
        ip("link", "del", self._plug)
        os.close(self._namespace)
        ip("netns", "del", self.name)


@cache
def _own_names() -> None:
    """A fresh /run/netns in the harness's own mount namespace: the names are seen nowhere else."""
    os.makedirs("/run/netns", exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)


def _enter(namespace: int) -> None:
    if libc().setns(namespace, CLONE_NEWNET) != 0:
        raise OSError("setns failed: the harness must run inside its box")

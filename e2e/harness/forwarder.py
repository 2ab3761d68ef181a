"""A bad cable: carries frames between two interfaces, and loses, delays or rations them.

The kernel's own means (netem, a tbf that also delays, nftables) are not everywhere; raw packet sockets are. A program
of its own, so that it costs the harness nothing and ends by a kill:

    forwarder.py PLUG INNER '{"to_host": {"loss": 0.05, "delay_ms": 0, "mbit_per_s": null}, "from_host": .., "seed": 1}'
"""

from __future__ import annotations

import heapq
import json
import random
import select
import socket
import sys
import time
from dataclasses import dataclass, field

ETH_P_ALL = 3
SOL_PACKET = 263
# Frames come with the kernel's note on what is left to do (a checksum), and go on with it.
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
# What a rationed lane holds before it drops: a tenth of a second at 10 Mbit/s, as a home router does.
QUEUE_BYTES_MAX = 128 * 1024
FRAME_BYTES_MAX = 1 << 17


def packet_socket(interface: str) -> socket.socket:
    """All that comes in at an interface, and a way out."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    s.bind((interface, 0))
    s.setblocking(False)
    return s


@dataclass
class Direction:
    """Frames on their way from one interface to the other."""

    source: socket.socket
    sink: socket.socket
    loss: float
    delay_ms: float
    mbit_per_s: float | None
    dice: random.Random
    # When each frame is due, in order: all are delayed alike.
    on_the_way: list[tuple[float, int, bytes]] = field(default_factory=list)
    free_at: float = 0.0
    count: int = 0

    def take(self, now: float) -> None:
        """Takes in what has come."""
        for _ in range(256):
            try:
                frame = self.source.recv(FRAME_BYTES_MAX)
            except OSError:
                return
            if self.loss and self.dice.random() < self.loss:
                continue
            due = now
            if self.mbit_per_s:
                byte_s = 8 / (self.mbit_per_s * 1e6)
                self.free_at = max(now, self.free_at)
                if self.free_at - now > QUEUE_BYTES_MAX * byte_s:
                    continue
                self.free_at += len(frame) * byte_s
                due = self.free_at
            self.count += 1
            heapq.heappush(self.on_the_way, (due + self.delay_ms / 1000, self.count, frame))

    def pass_on(self, now: float) -> float | None:
        """Hands over what is due; returns how long until the next is."""
        while self.on_the_way and self.on_the_way[0][0] <= now:
            try:
                self.sink.send(heapq.heappop(self.on_the_way)[2])
            except OSError:
                pass  # The interface is down or full: the frame is lost, as it would be.
        return self.on_the_way[0][0] - now if self.on_the_way else None


def main() -> None:
    plug, inner, lanes = packet_socket(sys.argv[1]), packet_socket(sys.argv[2]), json.loads(sys.argv[3])
    dice = random.Random(lanes["seed"])
    out = Direction(plug, inner, dice=dice, **lanes["from_host"])
    into = Direction(inner, plug, dice=dice, **lanes["to_host"])
    by_socket = {out.source.fileno(): out, into.source.fileno(): into}
    poll = select.poll()
    for number in by_socket:
        poll.register(number, select.POLLIN)
    while True:
        now = time.monotonic()
        waits = [wait for direction in by_socket.values() if (wait := direction.pass_on(now)) is not None]
        for number, _ in poll.poll(max(0.5, min(waits) * 1000) if waits else None):
            by_socket[number].take(time.monotonic())


if __name__ == "__main__":
    main()

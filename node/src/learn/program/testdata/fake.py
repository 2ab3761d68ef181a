"""A trainer for tests, of the standard library alone. What it does in a job, the file `act` in its data folder says, read
anew each time; without one it does everything right. Its model are two tensors, and training moves them by a little."""

import json
import os
import struct
import sys
import time


def write(path, tensors):
    header, data = {}, b""
    for name, (shape, values, dtype) in tensors.items():
        raw = struct.pack(f"<{len(values)}{'f' if dtype == 'F32' else 'd'}", *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def read(path):
    with open(path, "rb") as file:
        raw = file.read()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, tensor in header.items():
        begin, end = (8 + length + at for at in tensor["data_offsets"])
        found[name] = list(struct.unpack(f"<{(end - begin) // 4}f", raw[begin:end]))
    return found


def say(type, **fields):
    print(json.dumps({"type": type, **fields}), flush=True)


def act(hello):
    try:
        with open(os.path.join(hello["data"], "act")) as file:
            return file.read().strip()
    except (OSError, TypeError):
        return ""


def misbehaves(acts, where, id):
    """What a trainer can do instead of its work."""
    if acts == f"exit in {where}":
        sys.exit(7)
    if acts == f"hang in {where}":
        time.sleep(3600)
    if acts == f"rubbish in {where}":
        print("what is this?", flush=True)
    if acts == f"fail in {where}":
        say("failed", id=id, why="out of memory\nand so on")
        return True
    return False


def main():
    print("importing things")
    hello = json.loads(sys.stdin.readline())
    k, n = hello["node"]["part"] or (1, 1)
    if act(hello) == "exit at once":
        sys.exit("no such file: weights.bin")
    say("ready", protocol=1, name="fake.py")
    for line in sys.stdin:
        message = json.loads(line)
        id, acts = message.get("id"), act(hello)
        if message["type"] == "initial":
            weights = {"head.bias": ([1], [0.5], "F32"), "body": ([2, 2], [float(hello["seed"])] * 4, "F32")}
            write(message["result"], weights)
            say("initialized", id=id)
        elif message["type"] == "train":
            if misbehaves(acts, "train", id):
                continue
            for step in range(200 if acts == "take long" else 3):
                say("progress", id=id, done=step + 1, of=3, loss=1.0 / (step + 1))
                time.sleep(0.1 if acts == "take long" else 0.0)
            old = read(message["weights"])
            moved = {name: [value + 0.01 * k for value in values] for name, values in old.items()}
            new = {"head.bias": ([1], moved["head.bias"], "F32"), "body": ([2, 2], moved["body"], "F32")}
            if acts == "NaN":
                new["body"][1][3] = float("nan")
            elif acts == "leave a tensor out":
                del new["body"]
            elif acts == "one tensor too many":
                new["tail"] = ([1], [1.0], "F32")
            elif acts == "another shape":
                new["body"] = ([4], moved["body"], "F32")
            elif acts == "another type":
                new["body"] = ([2, 2], moved["body"], "F64")
            elif acts == "jump":
                new["head.bias"][1][0] += 20.0
            if acts != "write nothing":
                write(message["result"], new)
            say("trained", id=id, samples=0 if acts == "no samples" else 10 * k, loss=0.25)
        elif message["type"] == "evaluate":
            if not misbehaves(acts, "evaluate", id):
                say("evaluated", id=id, metrics={"accuracy": {"sum": k, "count": 4}, "f1": {"sum": 1.5, "count": 2.0}})
        elif message["type"] == "cancel":
            say("cancelled", id=id)
        elif message["type"] == "ping":
            say("pong")
        elif message["type"] == "stop":
            return


main()

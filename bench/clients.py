"""Client-epochs a second: `paceline simulate` against a plain PyTorch loop over clients of the same size, in one run.

    target/bench-venv/bin/python bench/clients.py target/release/paceline MNIST_FOLDER

(bench/pytorch.sh makes the environment.) MNIST, its CNN, 100 clients of 600 images, 10 a round, B = 10, E = 1; both sides
evaluate the 10,000 test images after each round, use all cores, and their first round is left out.
"""

import copy
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
import torch
import torch.nn.functional as F
from torch import nn

CLIENTS, CHOSEN, BATCH, ROUNDS = 100, 10, 10, 4

RUN = f"""
[run]
name = "clients"
rounds = {ROUNDS}
min_nodes = {CLIENTS}
[model]
arch = "mnist-cnn"
[data]
dataset = "mnist"
[train]
batch = {BATCH}
lr = 0.1
[round]
fraction = {CHOSEN / CLIENTS}
"""


def idx(folder, name):
    """The bytes of an IDX file after its header."""
    path = next(p for p in pathlib.Path(folder).iterdir() if p.name.startswith(name))
    data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    return numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * data[3]).copy()


def simulation(binary, folder):
    with tempfile.TemporaryDirectory() as out:
        run = pathlib.Path(out) / "run.toml"
        run.write_text(RUN)
        command = [binary, "simulate", run, "--data", folder, "--out", f"{out}/out", "--format", "json"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rounds = [json.loads(line) for line in lines][1:]
    return CHOSEN * len(rounds) / sum(r["duration_ms"] / 1000 for r in rounds)


def pytorch(folder):
    def images(name):
        return torch.from_numpy(idx(folder, name)).reshape(-1, 1, 28, 28).float() / 127.5 - 1

    x, y = images("train-images"), torch.from_numpy(idx(folder, "train-labels")).long()
    test_x, test_y = images("t10k-images"), torch.from_numpy(idx(folder, "t10k-labels")).long()
    torch.manual_seed(1)
    conv = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    conv += [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*conv, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10))
    parts = torch.randperm(len(x)).reshape(CLIENTS, -1)
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        mean = [torch.zeros_like(p) for p in model.parameters()]
        for client in torch.randperm(CLIENTS)[:CHOSEN]:
            local = copy.deepcopy(model)
            optimizer = torch.optim.SGD(local.parameters(), lr=0.1)
            for batch in parts[client][torch.randperm(parts.shape[1])].split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(local(x[batch]), y[batch]).backward()
                optimizer.step()
            for total, p in zip(mean, local.parameters()):
                total += p.detach() / CHOSEN
        with torch.no_grad():
            for p, total in zip(model.parameters(), mean):
                p.copy_(total)
            right = sum((model(a).argmax(1) == b).sum().item() for a, b in zip(test_x.split(500), test_y.split(500)))
        took.append(time.perf_counter() - start)
    print(f"(PyTorch's model after {ROUNDS} rounds: {right / len(test_y):.2%})")
    return CHOSEN * (ROUNDS - 1) / sum(took[1:])


binary, folder = sys.argv[1:3]
ours, theirs = simulation(binary, folder), pytorch(folder)
print(f"paceline simulate: {ours:.2f} client-epochs/s, PyTorch: {theirs:.2f}, ratio {ours / theirs:.2f}")

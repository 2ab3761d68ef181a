"""Training steps a second, Paceline's and PyTorch's, in one run on one machine. Start it through bench/pytorch.sh, which
makes the virtual environment and builds what is measured.

Both sides take the same nets, batches and threads, one after the other, several times; the table has the medians. A step
of Paceline's includes the preprocessing from bytes, PyTorch's starts from a tensor that is there.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

NETS = [("cifar-cnn", 50), ("mnist-cnn", 10), ("mnist-cnn", 50), ("resnet8", 50)]


def build(net):
    """The net and the shape of an image."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, inputs, out, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, out, 3, stride, 1)
            self.norm1 = nn.GroupNorm(8, out)
            self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
            self.norm2 = nn.GroupNorm(8, out)
            self.shortcut = nn.Identity()
            if inputs != out or stride != 1:
                self.shortcut = nn.Sequential(nn.Conv2d(inputs, out, 1, stride), nn.GroupNorm(8, out))

        def forward(self, x):
            y = torch.relu(self.norm1(self.conv1(x)))
            return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))

    def conv(inputs, out):
        return [nn.Conv2d(inputs, out, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]

    if net == "cifar-cnn":
        hidden = [nn.Linear(2304, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, 10)]
        return nn.Sequential(*conv(3, 64), *conv(64, 64), nn.Flatten(), *hidden), (3, 24, 24)
    if net == "mnist-cnn":
        hidden = [nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)]
        return nn.Sequential(*conv(1, 32), *conv(32, 64), nn.Flatten(), *hidden), (1, 28, 28)
    stem = [nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(8, 16), nn.ReLU()]
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), (3, 32, 32)


def torch_step(net, batch, threads, layout, seconds):
    """Images a second of PyTorch; runs in a process of its own."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model, image = build(net)
    x = torch.randn(batch, *image)
    if layout == "channels_last":
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    for _ in range(5):
        step()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    print(steps * batch / (time.perf_counter() - start))


def measure(command, environment):
    out = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", help="the built example step_speed")
    parser.add_argument("--avx2", action="store_true", help="hold PyTorch to AVX2; the binary must be built likewise")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        net, batch, threads, layout = options.step
        return torch_step(net, int(batch), int(threads), layout, options.seconds)
    isa = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    isa = isa if options.avx2 else {}
    print("| net, batch | threads | Paceline | PyTorch | ratio | PyTorch, channels_last | ratio |")
    print("|---|---|---|---|---|---|---|")
    for net, batch in NETS:
        for threads in options.threads:
            rates = {"ours": [], "contiguous": [], "channels_last": []}
            for _ in range(options.repeat):
                ours = [options.binary, "step", net, str(batch), str(threads), str(options.seconds)]
                rates["ours"].append(measure(ours, {"CANDLE_NUM_THREADS": "1"}))
                for layout in ["contiguous", "channels_last"]:
                    step = ["--seconds", str(options.seconds), "--step", net, str(batch), str(threads), layout]
                    theirs = [sys.executable, __file__, options.binary, *step]
                    rates[layout].append(measure(theirs, {**isa, "OMP_NUM_THREADS": str(threads)}))
            ours, plain, last = (statistics.median(rates[key]) for key in ["ours", "contiguous", "channels_last"])
            figures = f"{ours:,.0f} | {plain:,.0f} | {ours / plain:.2f} | {last:,.0f} | {ours / last:.2f}"
            print(f"| {net}, {batch} | {threads} | {figures} |", flush=True)


main()

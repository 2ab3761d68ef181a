"""A small CNN on CIFAR-10, in PyTorch: `pip install torch ./python`, then see run.toml."""

import numpy as np
import paceline
import torch
from paceline.torch import load, weights
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network():
    """95,000 parameters. Group normalisation, since an average of batch statistics is none of the whole."""
    layers = []
    for channels, out in (3, 32), (32, 64), (64, 128):
        layers += nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(8, out), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def pictures(job, *files):
    """This node's part: the images, uint8 of shape [n, 3, 32, 32], and their labels."""
    records = np.concatenate([np.fromfile(job.data / file, np.uint8).reshape(-1, 3073) for file in files])
    records = torch.from_numpy(records[job.share(len(records))])
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def ready(images):
    """On the device, as float32 from -1 to 1."""
    return images.to(DEVICE).float() / 127.5 - 1


def initial(job):
    torch.manual_seed(job.seed)
    return weights(network())


def train(tensors, job):
    torch.manual_seed(job.seed)
    torch.set_num_threads(job.threads)
    net = network().to(DEVICE)
    load(net, tensors)
    pairs = TensorDataset(*pictures(job, *(f"data_batch_{n}.bin" for n in range(1, 6))))
    batches = DataLoader(pairs, job.train["batch"], shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=job.train["lr"], momentum=job.train["momentum"])
    losses = []
    for _ in range(job.train["epochs"]):
        for images, labels in batches:
            flipped = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
            loss = cross_entropy(net(ready(flipped)), labels.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            job.progress(len(losses), job.train["epochs"] * len(batches), losses[-1])
    return weights(net), len(pairs), np.mean(losses)


@torch.no_grad()
def evaluate(tensors, job):
    net = network().to(DEVICE).eval()
    load(net, tensors)
    images, labels = pictures(job, "test_batch.bin")
    scores = torch.cat([net(ready(batch)).cpu() for batch in images.split(500)])
    right, loss = (scores.argmax(1) == labels).sum(), cross_entropy(scores, labels, reduction="sum")
    return {"accuracy": (right, len(labels)), "loss": (loss, len(labels))}


if __name__ == "__main__":
    paceline.run(initial=initial, train=train, evaluate=evaluate)

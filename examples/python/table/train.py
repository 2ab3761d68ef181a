"""Logistic regression on a table, in NumPy: `pip install ./python`, then see run.toml.

The table is a CSV file with a header. Its last column is the label, the others are numbers.
"""

import csv

import numpy as np
import paceline


def table(job):
    """What this node trains on and what it tests on, each as (features, labels): every 5th row of the table is for
    testing, and of both the node has its part."""
    with open(job.data, newline="") as file:
        rows = [row for row in csv.reader(file) if row][1:]
    features = np.array([row[:-1] for row in rows], float)
    features = (features - job.settings["means"]) / job.settings["deviations"]
    labels = np.array([job.settings["classes"].index(row[-1]) for row in rows])
    test = np.arange(len(rows)) % 5 == 0

    def share(of):
        mine = np.flatnonzero(of)
        mine = mine[job.share(len(mine))]
        return features[mine], labels[mine]

    return share(~test), share(test)


def probabilities(weights, features):
    """The softmax of each row, shape [rows, classes]."""
    scores = features @ weights["weight"] + weights["bias"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def losses(chances, labels):
    return -np.log(chances[np.arange(len(labels)), labels] + 1e-12)


def initial(job):
    features, classes = len(job.settings["means"]), len(job.settings["classes"])
    return {"weight": np.zeros((features, classes)), "bias": np.zeros(classes)}


def train(weights, job):
    (features, labels), _ = table(job)
    random = np.random.default_rng(job.seed)
    loss = 0.0
    for epoch in range(job.train["epochs"]):
        order = random.permutation(len(labels))
        for start in range(0, len(labels), job.train["batch"]):
            batch = order[start : start + job.train["batch"]]
            chances = probabilities(weights, features[batch])
            loss += losses(chances, labels[batch]).sum()
            gradient = chances - np.eye(chances.shape[1])[labels[batch]]
            weights["weight"] -= job.train["lr"] * features[batch].T @ gradient / len(batch)
            weights["bias"] -= job.train["lr"] * gradient.mean(axis=0)
        job.progress(epoch + 1, job.train["epochs"])
    return weights, len(labels), loss / len(labels) / job.train["epochs"]


def evaluate(weights, job):
    _, (features, labels) = table(job)
    chances = probabilities(weights, features)
    right = (chances.argmax(axis=1) == labels).sum()
    return {"accuracy": (right, len(labels)), "loss": (losses(chances, labels).sum(), len(labels))}


if __name__ == "__main__":
    paceline.run(initial=initial, train=train, evaluate=evaluate)

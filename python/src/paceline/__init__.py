"""Train with any Python framework in a Paceline run.

A trainer is three functions and one call:

    import paceline

    def initial(job):            # the same bits on every node: draw from job.seed alone
        return {"weight": numpy.zeros((30, 2)), "bias": numpy.zeros(2)}

    def train(weights, job):     # new weights, the number of samples, the mean loss
        return weights, 1437, 0.65

    def evaluate(weights, job):  # sums and counts over this node's held-out data
        return {"accuracy": (131, 144)}

    if __name__ == "__main__":
        paceline.run(initial=initial, train=train, evaluate=evaluate)

A node starts it: `paceline join run.toml --trainer "python3 train.py"`. What the two say to each other is in
docs/trainer.md.
"""

from ._job import Cancelled, Fit, Job, Weights
from ._trainer import run

__all__ = ["Cancelled", "Fit", "Job", "Weights", "run"]

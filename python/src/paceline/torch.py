"""Between the nets of PyTorch and the weights of a trainer."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ._job import Weights


def weights(net: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """The floating-point tensors of `net.state_dict()`, copied, as float32. Others are left out, such as the number of
    batches that a BatchNorm has seen.

    >>> {name: array.shape for name, array in weights(torch.nn.Linear(3, 2)).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    return {name: tensor.cpu().float().numpy().copy() for name, tensor in _floating(net).items()}


def load(net: torch.nn.Module, weights: Weights) -> None:
    """Copies the weights into the net, whatever its device and type.

    >>> load(torch.nn.Linear(3, 2), {"weight": np.zeros((2, 2))})
    Traceback (most recent call last):
    ValueError: weight: its shape is [2, 2], the net's is [2, 3]; bias: missing

    Raises ValueError that names each tensor which is missing or has another shape, and then leaves the net as it was.
    """
    wrong = []
    for name, tensor in _floating(net).items():
        if name not in weights:
            wrong.append(f"{name}: missing")
        elif tuple(weights[name].shape) != tuple(tensor.shape):
            wrong.append(f"{name}: its shape is {list(weights[name].shape)}, the net's is {list(tensor.shape)}")
    if wrong:
        raise ValueError("; ".join(wrong))
    with torch.no_grad():
        for name, tensor in _floating(net).items():
            tensor.copy_(torch.as_tensor(weights[name]))


def _floating(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """They share their memory with the net."""
    return {name: tensor for name, tensor in net.state_dict().items() if tensor.is_floating_point()}

"""Tensors on their way from a file to a user's function and back, and what must hold of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ._job import Weights

Tensors = dict[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


def read(path: str) -> Tensors:
    """All tensors of a safetensors file. The caller may write to them: they are copies."""
    return {name: np.array(tensor) for name, tensor in load_file(path).items()}


def write(path: str, tensors: Tensors) -> None:
    """Writes a safetensors file that is whole or not there."""
    unfinished = Path(f"{path}.unfinished")
    try:
        save_file(tensors, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def checked(weights: Weights, shapes: Shapes | None = None) -> Tensors:
    """The weights as finite float32, copied. With `shapes`, they must have those names and shapes.

    >>> checked({"bias": [0.5, 1]})
    {'bias': array([0.5, 1. ], dtype=float32)}
    >>> checked({"bias": [0.5, 1]}, {"bias": (3,)})
    Traceback (most recent call last):
    ValueError: bias: its shape is [2], the model's is [3]

    Raises TypeError for a tensor that holds no floating-point values, ValueError for all else. Both name the tensor.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"the weights are tensors by name, in a dict, not {type(weights).__name__}")
    tensors = {name: _float32(name, value) for name, value in weights.items()}
    if shapes is not None:
        _compare(tensors, shapes)
    return tensors


def _float32(name: str, value: Any) -> NDArray[np.float32]:
    if hasattr(value, "detach"):  # a tensor of PyTorch, whose bfloat16 NumPy doesn't know
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":  # bfloat16 of ml_dtypes, as JAX has it
        raise TypeError(f"{name}: holds {array.dtype}; a model's tensors hold floating-point values")
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and is refused below
        array = np.array(array, dtype=np.float32, order="C")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(f"{name}: {bad} of {array.size} values are not finite")
    return array


def _compare(tensors: Tensors, shapes: Shapes) -> None:
    if missing := shapes.keys() - tensors.keys():
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    if unknown := tensors.keys() - shapes.keys():
        raise ValueError(f"not in the model: {', '.join(sorted(unknown))}")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name]:
            raise ValueError(f"{name}: its shape is {list(tensor.shape)}, the model's is {list(shapes[name])}")

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from paceline._tensors import checked  # noqa: E402
from paceline.torch import load, weights  # noqa: E402


def test_a_net_takes_back_its_own_weights():
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    load(other, weights(one))
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def test_tensors_that_hold_no_floating_point_values_are_left_out():
    assert set(weights(torch.nn.BatchNorm1d(4))) == {"weight", "bias", "running_mean", "running_var"}


def test_weights_are_a_copy():
    net = torch.nn.Linear(3, 2)
    before = weights(net)
    with torch.no_grad():
        net.bias += 1
    assert np.allclose(before["bias"] + 1, net.bias.detach())


def test_a_net_of_bfloat16_gives_and_takes_float32():
    net = torch.nn.Linear(3, 2).bfloat16()
    load(net, {"weight": np.full((2, 3), 0.5, np.float32), "bias": np.zeros(2, np.float32)})
    assert net.weight.dtype == torch.bfloat16
    assert weights(net)["weight"].dtype == np.float32 and (weights(net)["weight"] == 0.5).all()


def test_weights_that_do_not_fit_are_named_and_leave_the_net_as_it_was():
    net = torch.nn.Linear(3, 2)
    before = weights(net)
    with pytest.raises(ValueError, match=r"weight: its shape is \[3, 2\], the net's is \[2, 3\]"):
        load(net, {"bias": np.ones(2, np.float32), "weight": np.ones((3, 2), np.float32)})
    assert (weights(net)["bias"] == before["bias"]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_trainer_may_give_tensors_of_torch(dtype):
    tensor = torch.tensor([0.5, -2], dtype=getattr(torch, dtype), requires_grad=True)
    assert checked({"w": tensor})["w"].tolist() == [0.5, -2]


def test_integers_of_torch_are_refused_by_name():
    with pytest.raises(TypeError, match="steps: holds int64"):
        checked({"steps": torch.tensor(3)})

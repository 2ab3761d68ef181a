from __future__ import annotations

import numpy as np
import pytest

from paceline._tensors import checked, read, write


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_every_floating_point_type_becomes_float32(dtype):
    tensor = checked({"w": np.array([0.5, -2], dtype)})["w"]
    assert tensor.dtype == np.float32 and tensor.tolist() == [0.5, -2]


@pytest.mark.parametrize("value", [np.zeros(2, np.int32), np.zeros(2, bool), np.zeros(2, complex), "text", None])
def test_what_holds_no_floating_point_values_is_refused_by_name(value):
    with pytest.raises(TypeError, match="^head.bias: "):
        checked({"head.bias": value})


def test_tensors_survive_a_file(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    tensors = checked({"matrix": np.arange(6.0).reshape(2, 3).T, "scalar": 1.5})
    write(path, tensors)
    again = read(path)
    assert again["matrix"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert again["scalar"].shape == () and again["scalar"] == 1.5


def test_who_reads_a_file_never_sees_half_of_the_next(tmp_path):
    path = tmp_path / "weights.safetensors"
    write(str(path), checked({"w": [0.5]}))
    first = path.read_bytes()
    with path.open("rb") as reader:
        write(str(path), checked({"w": [1.5]}))
        assert reader.read() == first != path.read_bytes()


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "weights.safetensors").mkdir()
    with pytest.raises(OSError):
        write(str(tmp_path / "weights.safetensors"), checked({"w": [0.5]}))
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]

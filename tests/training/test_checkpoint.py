import errno
import math

import numpy as np
import pytest
import safetensors.torch
import torch

from steadyflow.training import checkpoint

TREE = {
    "weights": {"a.b": torch.randn(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.99)}, 1: {}},
    "list": [1, True, None, "word", 2.5, [torch.tensor(True)]],
    "empty": torch.empty(0),
    "infinite": -math.inf,
    "numpy": np.float32(1.5),
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_comes_back_as_it_was(tmp_path):
    checkpoint.save(TREE, tmp_path / "c")
    assert same(checkpoint.load(tmp_path / "c"), TREE)
    assert same(checkpoint.load(tmp_path / "c", key="list"), TREE["list"])


def test_not_a_number_comes_back(tmp_path):
    checkpoint.save({"loss": math.nan}, tmp_path / "c")
    assert math.isnan(checkpoint.load(tmp_path / "c")["loss"])


def test_tensors_may_share_storage(tmp_path):
    x = torch.arange(4.0)
    checkpoint.save({"all": x, "part": x[1:3]}, tmp_path / "c")
    assert checkpoint.load(tmp_path / "c")["part"].tolist() == [1.0, 2.0]


def test_refuses_what_would_need_a_pickle(tmp_path):
    with pytest.raises(TypeError, match=r"'a\.1' is a set"):
        checkpoint.save({"a": [0, {1, 2}]}, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def write_pickle(path):
    torch.save({"a": 1}, path)


def write_weights(path):
    safetensors.torch.save_file({"a": torch.ones(2)}, path)


def write_half(path):
    checkpoint.save({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-50])


def write_nothing(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("write", [write_pickle, write_weights, write_half, write_nothing])
def test_foreign_and_damaged_files_are_refused(tmp_path, write):
    write(tmp_path / "c")
    with pytest.raises(ValueError, match="is damaged or not a checkpoint of steadyflow"):
        checkpoint.load(tmp_path / "c")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "c")


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoint.save({"a": 1}, tmp_path / "c")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"could not save .*No space left .* is intact"):
        checkpoint.save({"a": 2}, tmp_path / "c")
    assert checkpoint.load(tmp_path / "c") == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1

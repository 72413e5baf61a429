"""Pooling by name, batches of any size, and a cache that survives a torn write."""

import sys

import numpy as np
import pytest
import torch

from steadyflow.data import DataError
from steadyflow.sentences import Encoder, Pooling, encode
from steadyflow.sentences.cache import VectorCache

SENTENCES = ["a", "rather longer one", "b c", "a", "xyz" * 40]


def test_poolings():
    states = [torch.randn(2, 3, 4) for _ in range(4)]
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])

    def of(name):
        return Pooling.named(name)(states, mask)

    torch.testing.assert_close(of("mean")[0], states[-1][0, :2].mean(0))
    torch.testing.assert_close(of("cls"), states[-1][:, 0])
    average = (states[1] + states[3]) / 2
    torch.testing.assert_close(of("first-last")[1], average[1].mean(0))
    torch.testing.assert_close(of("layers:1,-1"), of("first-last"))
    torch.testing.assert_close(of("layers:0")[1], states[0][1].mean(0))
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    torch.testing.assert_close(Pooling.named("cls")(states, left)[0], states[-1][0, 1])


@pytest.mark.parametrize(
    ("name", "said"),
    [("maen", "did you mean 'mean'"), ("layers:a", "whole numbers"), ("layers:", "whole")],
)
def test_unknown_poolings(name, said):
    with pytest.raises(ValueError, match=said):
        Pooling.named(name)


def test_a_layer_that_is_not_there(network):
    with pytest.raises(ValueError, match=r"layer 7, but the encoder has layers 1 to 2"):
        encode(["a"], "tiny", pooling="layers:7")


def test_batches_do_not_matter(network):
    one = encode(SENTENCES, "tiny", batch_size=1)
    np.testing.assert_allclose(encode(SENTENCES, "tiny", batch_size=4), one, atol=1e-6)
    assert one.shape == (5, 6)
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one[0], one[3])
    assert encode([], "tiny").shape == (0, 6)
    with pytest.raises(ValueError, match="put it in"):
        encode("a sentence", "tiny")
    with pytest.raises(ValueError, match="sentence 1 is a int"):
        encode(["a", 3], "tiny")


def test_nothing_is_encoded_twice(network, tmp_path):
    encoder = Encoder("tiny", cache=tmp_path, batch_size=2)
    seen = []
    first = encoder.encode_all(SENTENCES, ["mean", "cls"], lambda *done: seen.append(done))
    assert network.seen == 4
    assert seen[-1] == (4, 4)
    again = Encoder("tiny", cache=tmp_path)
    for name in ("mean", "cls"):
        np.testing.assert_array_equal(again.encode(SENTENCES, name), first[name])
    assert network.seen == 4
    again.encode([*SENTENCES, "new"], "mean")
    assert network.seen == 5
    network.table.weight.data += 1  # other weights are another encoder
    Encoder("tiny", cache=tmp_path).encode(["a"])
    assert network.seen == 6


def test_a_torn_row_is_cut_off(tmp_path):
    cache = VectorCache(tmp_path / "c", {}, 3)
    cache.put(["a", "b"], np.ones((2, 3)))
    with open(tmp_path / "c" / "vectors.bin", "ab") as file:
        file.write(b"torn")
    with open(tmp_path / "c" / "keys.bin", "ab") as file:
        file.write(b"x" * 16)
    again = VectorCache(tmp_path / "c", {}, 3)
    assert len(again) == 2
    again.put(["c"], np.full((1, 3), 5.0))
    np.testing.assert_array_equal(VectorCache(tmp_path / "c", {}, 3).get(["c"]), [[5, 5, 5]])
    with pytest.raises(DataError, match="give another folder"):
        VectorCache(tmp_path / "c", {"pooling": "cls"}, 3)


def test_two_writers_share_a_cache(tmp_path):
    one, two = (VectorCache(tmp_path / "c", {}, 1) for _ in range(2))
    one.put(["a"], np.array([[1.0]]))
    two.put(["a", "b"], np.array([[1.0], [2.0]]))
    one.put(["c"], np.array([[3.0]]))
    assert VectorCache(tmp_path / "c", {}, 1).get(["a", "b", "c"]).ravel().tolist() == [1, 2, 3]


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'steadyflow\[text\]'"):
        Encoder("tiny")

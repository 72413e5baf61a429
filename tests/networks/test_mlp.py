import pytest
import torch

from steadyflow.networks import MLP


def test_starts_at_zero_and_knows_its_shapes():
    network = MLP(3, 5, hidden_features=(7, 9), context_features=2)
    out = network(torch.randn(4, 3), torch.randn(4, 2))
    assert out.shape == (4, 5)
    assert not out.any()


def test_sees_no_further_than_its_clip():
    network = MLP(2, 3, hidden_features=(8,), clip=5.0, zero_output=False)
    far = torch.tensor([[5.0, -5.0], [40.0, -1e30], [float("inf"), -6.0]])
    out = network(far)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


def test_context_is_not_clipped():
    network = MLP(2, 3, hidden_features=(8,), context_features=1, clip=1.0, zero_output=False)
    x = torch.zeros(2, 2)
    near, far = network(x, torch.tensor([[1.0], [9.0]]))
    assert not torch.equal(near, far)


def test_a_wrong_activation_is_named():
    with pytest.raises(ValueError, match="relu"):
        MLP(2, 2, activation="rellu")


def test_no_hidden_layer_is_a_linear_map():
    network = MLP(2, 3, hidden_features=(), zero_output=False)
    x = torch.randn(5, 2)
    torch.testing.assert_close(network(2 * x) - network(x), network(x) - network(0 * x))

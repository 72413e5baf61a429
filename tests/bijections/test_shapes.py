"""Splits, squeezes and permutations for any size, and what they say to a wrong one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from steadyflow.bijections import (
    ActNorm,
    Additive,
    Alternating,
    Chain,
    Checkerboard,
    Coupling,
    Flatten,
    Halves,
    MultiScale,
    Permutation,
    Reverse,
    Shuffle,
    Split,
    Squeeze,
    Unsqueeze,
)

quick = settings(deadline=None, max_examples=40)
few = st.integers(0, 3)
sizes = st.integers(1, 4)


def arange(*shape):
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


@quick
@given(few, st.integers(2, 9), st.booleans(), st.sampled_from([Halves, Alternating]))
def test_vector_splits_divide_and_merge(batch, size, flip, kind):
    split = kind(flip)
    x = arange(batch, size)
    kept, moved = split(x)
    assert split.shapes((size,)) == ((kept.shape[1],), (moved.shape[1],))
    assert {kept.shape[1], moved.shape[1]} == {size // 2, size - size // 2}
    assert torch.equal(split.merge(kept, moved), x)
    expected = (x[:, : size // 2], x[:, 0::2])[kind is Alternating]
    assert torch.equal(moved if flip else kept, expected)


@quick
@given(few, sizes, sizes, sizes, st.booleans())
def test_checkerboards_divide_and_merge(batch, channels, height, width, flip):
    split = Checkerboard(flip)
    x = arange(batch, channels, 2 * height, 2 * width)
    kept, moved = split(x)
    assert kept.shape == moved.shape == (batch, 2 * channels, height, width)
    assert torch.equal(split.merge(kept, moved), x)
    if batch:
        colour = (torch.arange(2 * height)[:, None] + torch.arange(2 * width)) % 2
        ours = x[0][:, colour == int(flip)]
        assert set(kept[0].flatten().tolist()) == set(ours.flatten().tolist())


@quick
@given(few, sizes, sizes, sizes)
def test_squeezes_are_pixel_unshuffles(batch, channels, height, width):
    x = arange(batch, channels, 2 * height, 2 * width)
    z, log_det = Squeeze()(x)
    assert z.shape == (batch, *Squeeze().output_shape(x.shape[1:]))
    assert not log_det.any()
    for back in (Squeeze().inverse(z)[0], Unsqueeze()(z)[0]):
        assert torch.equal(back, x)
    assert torch.equal(Unsqueeze().inverse(x)[0], z)
    if batch:
        assert torch.equal(z, F.pixel_unshuffle(x, 2))


@quick
@given(few, st.integers(1, 9), st.integers(0, 99))
def test_permutations_undo_themselves(batch, size, seed):
    x = arange(batch, size)
    for bijection in (Shuffle(size, seed), Reverse()):
        z, _ = bijection(x)
        assert torch.equal(z.sort(1).values, x)
        assert torch.equal(bijection.inverse(z)[0], x)
    assert torch.equal(Shuffle(size, seed).order, Shuffle(size, seed).order)


def test_a_permutation_reads_its_order():
    z, _ = Permutation([2, 0, 1])(torch.tensor([[10.0, 11.0, 12.0]]))
    assert z.tolist() == [[12.0, 10.0, 11.0]]


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3], [0, 2]])
def test_what_is_no_permutation_is_named(order):
    with pytest.raises(ValueError, match="not a permutation of 0"):
        Permutation(order)


@pytest.mark.parametrize("split", [Halves(), Halves(True), Alternating(), Alternating(True)])
def test_one_variable_can_not_be_divided(split):
    with pytest.raises(ValueError, match="at least two variables"):
        split.shapes((1,))


@pytest.mark.parametrize("shape", [(3,), (1, 3, 4), (1, 4, 3), (1, 7, 7)])
def test_odd_boards_are_named(shape):
    with pytest.raises(ValueError, match="even height and width"):
        Checkerboard().shapes(shape)


def test_odd_squeezes_are_named():
    with pytest.raises(ValueError, match="even height and width, got 3 x 4"):
        Squeeze()(torch.zeros(1, 1, 3, 4))
    with pytest.raises(ValueError, match="channels in fours, got 3"):
        Unsqueeze()(torch.zeros(1, 3, 2, 2))


def test_multi_scale_needs_even_channels_and_as_many_priors_as_it_divides():
    with pytest.raises(ValueError, match="not even"):
        MultiScale([Chain(), Chain()], (3, 4, 4))
    with pytest.raises(ValueError, match="give as many priors, not 2"):
        MultiScale([Chain(), Chain()], (2, 4, 4), [None, None])


def test_latents_come_first_scale_first():
    body = MultiScale([Squeeze(), Squeeze(), Chain()], (1, 4, 4))
    assert body.latent_shapes == [(2, 2, 2), (4, 1, 1), (4, 1, 1)]
    x = arange(1, 1, 4, 4)
    z, _ = body(x)
    squeezed = F.pixel_unshuffle(x, 2)
    assert torch.equal(z[:, :8], squeezed[:, 2:].flatten(1))
    assert torch.equal(body.inverse(z)[0], x)


def test_flatten_restores_its_shape():
    x = arange(2, 3, 4, 5)
    z, _ = Flatten((3, 4, 5))(x)
    assert z.shape == (2, 60)
    assert torch.equal(Flatten((3, 4, 5)).inverse(z)[0], x)


def test_a_chain_is_a_list():
    chain = Chain(Reverse(), ActNorm(3), Reverse())
    assert len(chain) == 3
    assert isinstance(chain[1], ActNorm)
    assert isinstance(chain[-1], Reverse)


def test_bijections_print_what_they_are():
    layer = Coupling(Alternating(True), Additive(), torch.nn.Identity())
    assert "Alternating(flip=True)" in repr(layer)
    assert "Additive" in repr(layer)


def test_the_split_is_abstract():
    with pytest.raises(NotImplementedError):
        Split()(torch.zeros(1, 2))
    with pytest.raises(NotImplementedError):
        Split().merge(torch.zeros(1, 1), torch.zeros(1, 1))

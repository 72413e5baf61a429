"""SentenceFlow: starts as a whitening, and learns what the whitening leaves."""

import numpy as np
import pytest
import torch

import steadyflow
from steadyflow import SentenceFlow, Whitening, data


@pytest.fixture(scope="module")
def bent():
    """Vectors of rank 8 in 10 dimensions, two of whose directions are bent together."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 8))
    z[:, 1] += z[:, 0] ** 2
    x = z @ rng.normal(size=(8, 10)) + 2
    return data.from_arrays(x.astype(np.float32))


def test_it_starts_as_its_whitening(bent):
    flow = SentenceFlow(event_shape=[10], components=6, levels=1, steps=2)
    flow.initialize(bent.train.x)
    linear = Whitening(event_shape=[10], components=6).fit(bent.train.x)
    assert flow.transform(bent.test.x).shape == (400, 6)
    # reversals and activation normalisation keep lengths and log-densities
    torch.testing.assert_close(
        flow.transform(bent.test.x).norm(dim=1),
        linear.transform(bent.test.x).norm(dim=1),
        rtol=1e-3,
        atol=1e-3,
    )
    # but for the variance of what is not shown, which only the whitening models
    ours, theirs = flow.log_prob(bent.test.x), linear.log_prob(bent.test.x)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=0.2)


def test_training_beats_every_linear_map(bent):
    linear = steadyflow.fit("whitening", bent, model_options={"components": 8})
    flow = steadyflow.fit(
        "sentence-flow",
        bent,
        model_options={"components": 8, "hidden_features": [32]},
        steps=300,
        progress=False,
    )
    assert flow.best_validation_loss < linear.best_validation_loss - 0.02
    assert flow.model.similarity(bent.test.x, bent.test.x).allclose(torch.ones(400))


def test_more_components_than_directions(bent):
    with pytest.raises(ValueError, match="8 directions only"):
        SentenceFlow(event_shape=[10], components=None).initialize(bent.train.x)


def test_odd_sizes_have_fewer_levels():
    for size, levels in ((6, 2), (7, 1), (8, 3), (2, 1)):
        flow = SentenceFlow(event_shape=[9], components=size, levels=3)
        body = flow.flow.bijection[1].bijection
        assert len(body.scales) == levels, size


def test_bert_flow_has_its_shape():
    flow = SentenceFlow(event_shape=[768], components=None, whiten=False)
    body = flow.flow.bijection[1].bijection
    assert [shape[0] for shape in body.latent_shapes] == [384, 192, 192]
    assert [len(scale) for scale in body.scales] == [9, 9, 9]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"event_shape": [1]}, "at least two"),
        ({"event_shape": [3, 4, 4]}, "for vectors"),
        ({"event_shape": [4], "components": 1}, "at least two variables"),
        ({"event_shape": [8], "components": 4, "whiten": False}, "only principal"),
        ({"event_shape": [8], "coupling": "afine"}, "did you mean 'affine'"),
        ({"event_shape": [8], "mixing": "lup"}, "did you mean 'lu'"),
    ],
)
def test_bad_constructor(options, said):
    with pytest.raises(ValueError, match=said):
        SentenceFlow(**options)

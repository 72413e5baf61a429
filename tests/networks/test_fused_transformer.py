"""The C kernel of a causal transformer's steps gives what plain torch gives, to rounding."""

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow.networks import cached
from steadyflow.networks.cached import CachedEvaluation
from steadyflow.networks.fused_transformer import serves
from steadyflow.networks.graphed import GraphedSteps
from steadyflow.networks.transformer import CausalTransformer, fitting_heads

PLACES = 6


def steps(network, x, context, sharpness):
    evaluation = CachedEvaluation(network, len(x), context, sharpness)
    out = [evaluation.step(x[:, i - 1] if i else None) for i in range(PLACES)]
    return torch.stack(out, 1), evaluation.fused is not None


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 4, 7, 16, 37])
@pytest.mark.parametrize(
    ("width", "heads", "features", "context"), [(8, 1, 3, None), (20, 2, 5, 3), (66, 3, 1, 2)]
)
def test_it_agrees_with_a_whole_pass(generator, batch, width, heads, features, context, threads):
    network = CausalTransformer(PLACES, features, 7, width, 2, heads, context)
    if not serves(randomize(network, generator)):
        pytest.skip("there is no C compiler")
    x = 3 * torch.randn(batch, PLACES, features, generator=generator)
    given = None if context is None else torch.randn(batch, context, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for sharpness in (None, 0.5 + torch.rand(batch, generator=generator)):
            ours, fused = steps(network, x, given, sharpness)
            assert fused
            wide = None if given is None else given.double()
            exact = network.double()(x.double(), wide, sharpness)
            network.float()
            assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_large_and_missing_numbers_stay_what_they_are(generator):
    network = randomize(CausalTransformer(PLACES, 2, 4, 8, 1), generator)
    x = torch.randn(3, PLACES, 2, generator=generator)
    x[0] *= 1e15
    x[1, 2] = torch.nan
    ours, _ = steps(network, x, None, None)
    whole = network(x)
    assert_close(ours[[0, 2]], whole[[0, 2]], rtol=1e-4, atol=1e-4)
    assert ours[1, :3].isfinite().all()
    assert ours[1, 3:].isnan().all()


@torch.no_grad()
def test_without_it_the_plain_path_serves(generator, monkeypatch):
    network = randomize(CausalTransformer(PLACES, 2, 4, 8, 1), generator)
    x = torch.randn(40, PLACES, 2, generator=generator)
    monkeypatch.setattr(cached, "serves", lambda network: False)
    ours, fused = steps(network, x, None, None)
    assert not fused
    assert_close(ours, network(x), rtol=1e-5, atol=1e-5)
    assert not serves(network.double())


@torch.no_grad()
def test_the_step_that_a_gpu_records_is_the_step(generator):
    network = randomize(CausalTransformer(PLACES, 2, 4, 20, 2, 2, 3).double(), generator)
    x = torch.randn(5, PLACES, 2, generator=generator, dtype=torch.float64)
    given = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    sharpness = torch.rand(5, generator=generator, dtype=torch.float64)
    evaluation = CachedEvaluation(network, 5, given, sharpness)
    out = [evaluation.step(None)]
    steps = GraphedSteps(evaluation)
    for i in range(1, PLACES):
        steps._at.fill_(i)
        steps._previous.copy_(x[:, i - 1])
        out.append(steps.evaluate())
    assert_close(torch.stack(out, 1), network(x, given, sharpness), rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_recorded_steps_agree_with_a_whole_pass(generator):
    network = randomize(CausalTransformer(9, 2, 4, 20, 2, 2), generator).cuda()
    x = torch.randn(5, 9, 2, generator=generator).cuda()
    evaluation = CachedEvaluation(network, 5)
    out = [evaluation.step(x[:, i - 1] if i else None) for i in range(9)]
    assert evaluation.graphed is not None
    assert_close(torch.stack(out, 1), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [1, 7, 48, 64, 97, 128, 768])
def test_heads_divide_the_channels(width):
    assert width % fitting_heads(width) == 0

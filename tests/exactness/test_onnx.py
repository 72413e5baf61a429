"""Densities and decoding of the models of vectors as ONNX, run by another program."""

import pytest
import torch
from torch.testing import assert_close
from zoo import randomize

from steadyflow import MAF, NICE, RealNVP, SplineFlow

PRESETS = {
    "nice": lambda: NICE(event_shape=[4]),
    "realnvp": lambda: RealNVP(event_shape=[4]),
    "maf": lambda: MAF(event_shape=[4], transforms=2),
    "spline-flow": lambda: SplineFlow(event_shape=[4], transforms=2),
    "spline-coupling": lambda: SplineFlow(event_shape=[4], transforms=2, architecture="coupling"),
    "spline-lu": lambda: SplineFlow(event_shape=[4], transforms=2, linear="lu"),
}


class Decoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, z):
        return self.model.decode(z)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("what", ["log_prob", "decode"])
def test_presets_run_as_onnx(name, what, generator):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = randomize(PRESETS[name](), generator, 0.5).eval()
    module = model if what == "log_prob" else Decoder(model)
    x = torch.randn(8, 4, generator=generator)
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(found), module(x), rtol=1e-4, atol=1e-4)

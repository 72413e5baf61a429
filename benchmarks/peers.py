"""The same affine coupling flow in each library: one function a library, one interface.

Each builder takes (dimensions, layers, width) and gives a `Subject`: one-sided affine
couplings, conditioners with two hidden layers, ReLU where the library has it. It imports its
library itself, so that a missing one costs only its own row.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

compiling = False  # the torch libraries' log_prob and sample through torch.compile
FAST_MATMUL = "medium"  # oneDNN for float32 products: faster than MKL on some CPUs, as accurate


@dataclasses.dataclass
class Subject:
    """What can be timed and measured of a flow; arrays are the library's own.

    Attributes:
        train: one step of Adam on a batch, gives the loss.
        log_prob: without gradients.
        sample: n draws, without gradients.
        encode: x to z, and decode: z to x.
        array: a float32 NumPy array to the library's type.
        wait: blocks until a result is there.
        mode: says whether training comes next (True) or evaluation.
        precision: torch.set_float32_matmul_precision while this subject runs.
    """

    train: Callable[[Any], Any]
    log_prob: Callable[[Any], Any]
    sample: Callable[[int], Any]
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None
    array: Callable[[Any], Any] = torch.from_numpy
    wait: Callable[[Any], Any] = lambda value: value
    mode: Callable[[bool], Any] = lambda training: None
    precision: str = FAST_MATMUL


def torch_subject(
    model: nn.Module,
    log_prob: Callable[[Tensor], Tensor],
    sample: Callable[[int], Tensor],
    encode: Callable[[Tensor], Tensor] | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    **settings: Any,
) -> Subject:
    """A Subject of a torch model, trained by fused Adam."""
    if compiling:
        log_prob, sample = torch.compile(log_prob), torch.compile(sample)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def train(x: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = -log_prob(x).mean()
        loss.backward()
        optimizer.step()
        return loss

    def quiet(f: Callable | None) -> Any:
        return f and torch.no_grad()(f)

    return Subject(train, quiet(log_prob), quiet(sample), quiet(encode), quiet(decode), **settings)


def perceptron(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """The conditioner: two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


class Perceptron(nn.Module):
    """The same for libraries that call it with a context."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.network = perceptron(inputs, outputs, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(x)


def ours(d: int, layers: int, width: int) -> Subject:
    """steadyflow's RealNVP as it is built by default."""
    from steadyflow import RealNVP

    model = RealNVP(event_shape=(d,), couplings=layers, hidden_features=(width, width))

    def sample(n: int) -> Tensor:
        return model.decode(torch.randn(n, d)) if compiling else model.sample(n)

    precision = FAST_MATMUL if compiling else "highest"
    return torch_subject(
        model, model.log_prob, sample, model.encode, model.decode, precision=precision
    )


def floor(d: int, layers: int, width: int) -> Subject:
    """The conditioner networks alone: forward for log_prob and sample, and with backward."""
    networks = nn.ModuleList(perceptron(d // 2, d, width) for _ in range(layers))

    def train(x: Tensor) -> None:
        networks.zero_grad(set_to_none=True)
        half = x[:, : d // 2].detach().requires_grad_()
        outputs = [network(half) for network in networks]
        torch.autograd.backward(outputs, [x] * layers)

    @torch.no_grad()
    def forward(x: Tensor) -> None:
        for network in networks:
            network(x[:, : d // 2])

    fixed = torch.randn(4096, d)
    return Subject(train, forward, lambda n: forward(fixed[:n]))


def zuko(d: int, layers: int, width: int) -> Subject:
    import zuko

    model = zuko.flows.RealNVP(d, transforms=layers, hidden_features=(width, width))
    return torch_subject(
        model,
        lambda x: model().log_prob(x),
        lambda n: model().sample((n,)),
        lambda x: model().transform(x),
        lambda z: model().transform.inv(z),
    )


def nflows(d: int, layers: int, width: int) -> Subject:
    from nflows import distributions, flows, transforms

    mask = torch.ones(d)
    mask[::2] = -1
    parts = [
        transforms.AffineCouplingTransform(
            mask * (-1) ** i, lambda inputs, outputs: Perceptron(inputs, outputs, width)
        )
        for i in range(layers)
    ]
    model = flows.Flow(transforms.CompositeTransform(parts), distributions.StandardNormal([d]))
    transform = model._transform
    return torch_subject(
        model,
        model.log_prob,
        model.sample,
        lambda x: transform(x)[0],
        lambda z: transform.inverse(z)[0],
    )


def normflows(d: int, layers: int, width: int) -> Subject:
    import normflows as nf

    parts: list[nn.Module] = []
    for _ in range(layers):
        network = nf.nets.MLP([(d + 1) // 2, width, width, 2 * (d // 2)], init_zeros=True)
        parts += nf.flows.AffineCouplingBlock(network), nf.flows.Permute(d, mode="swap")
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(d, trainable=False), parts)
    return torch_subject(
        model, model.log_prob, lambda n: model.sample(n)[0], model.inverse, model.forward
    )


def freia(d: int, layers: int, width: int) -> Subject:
    import FrEIA.framework
    import FrEIA.modules

    model = FrEIA.framework.SequenceINN(d)
    for _ in range(layers):
        model.append(
            FrEIA.modules.AllInOneBlock,
            subnet_constructor=lambda inputs, outputs: perceptron(inputs, outputs, width),
            permute_soft=False,
        )

    def log_prob(x: Tensor) -> Tensor:
        z, log_det = model(x)
        return log_det - 0.5 * z.square().sum(1) - 0.5 * d * math.log(2 * math.pi)

    def decode(z: Tensor) -> Tensor:
        return model(z, rev=True, jac=False)[0]

    return torch_subject(
        model, log_prob, lambda n: decode(torch.randn(n, d)), lambda x: model(x)[0], decode
    )


def torchflows(d: int, layers: int, width: int) -> Subject:
    from torchflows.bijections.finite.autoregressive import architectures
    from torchflows.flows import Flow

    # its conditioners count the output layer, and have tanh for activation
    bijection = architectures.RealNVP(
        d, n_layers=layers, conditioner_kwargs={"n_hidden": width, "n_layers": 3}
    )
    model = Flow(bijection)
    return torch_subject(
        model,
        model.log_prob,
        model.sample,
        lambda x: bijection.forward(x)[0],
        lambda z: bijection.inverse(z)[0],
    )


def flowjax(d: int, layers: int, width: int) -> Subject:
    """flowjax, compiled by JAX; its training step is its own, with optax's Adam."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax
    import paramax
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow

    key = jax.random.key(0)
    model = coupling_flow(
        key, base_dist=Normal(jnp.zeros(d)), flow_layers=layers, nn_width=width, nn_depth=2
    )
    adam = optax.adam(1e-3)
    trainable, fixed = eqx.partition(
        model, eqx.is_inexact_array, is_leaf=lambda v: isinstance(v, paramax.NonTrainable)
    )
    state = [trainable, adam.init(trainable)]

    @eqx.filter_jit
    def update(trainable, state, x):
        def loss(trainable):
            return -paramax.unwrap(eqx.combine(trainable, fixed)).log_prob(x).mean()

        value, gradients = jax.value_and_grad(loss)(trainable)
        step, state = adam.update(gradients, state, trainable)
        return eqx.apply_updates(trainable, step), state, value

    def train(x: Any) -> Any:
        state[0], state[1], value = update(*state, x)
        return value

    def whole() -> Any:
        return eqx.combine(state[0], fixed)

    log_prob = eqx.filter_jit(lambda model, x: model.log_prob(x))
    sample = eqx.filter_jit(lambda model, key, n: model.sample(key, (n,)))
    encode = eqx.filter_jit(lambda m, x: jax.vmap(paramax.unwrap(m).bijection.inverse)(x))
    decode = eqx.filter_jit(lambda m, z: jax.vmap(paramax.unwrap(m).bijection.transform)(z))
    return Subject(
        train,
        lambda x: log_prob(whole(), x),
        lambda n: sample(whole(), key, n),
        lambda x: encode(whole(), x),
        lambda z: decode(whole(), z),
        array=jnp.asarray,
        wait=jax.block_until_ready,
    )


OURS = {"steadyflow": ours}
PEERS: dict[str, Callable[[int, int, int], Subject]] = {
    "zuko": zuko,
    "nflows": nflows,
    "normflows": normflows,
    "FrEIA": freia,
    "torchflows": torchflows,
    "flowjax": flowjax,
}


def label(name: str) -> str:
    """The name with the installed version of a library."""
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def build(
    names: dict[str, Callable], compiled: set[str], *size: int
) -> tuple[dict[str, Subject], dict[str, str]]:
    """The subjects that can be built, and why the others can not."""
    global compiling
    built, missing = {}, {}
    for name, builder in names.items():
        for compiling in (False, True)[: 1 + (name in compiled)]:
            torch.manual_seed(0)
            try:
                built[label(name) + ", torch.compile" * compiling] = builder(*size)
            except ImportError as error:
                missing[name] = f"not installed ({error})"
    compiling = False
    return built, missing

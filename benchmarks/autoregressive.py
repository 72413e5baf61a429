"""Autoregressive and spline flows on vectors side by side: one process, one CPU thread.

    python benchmarks/autoregressive.py
    python benchmarks/autoregressive.py --kinds maf --dims 8 --budget 5

5 transforms, networks with two hidden layers of 128, 8 bins on [-5, 5], batches of 512. All
libraries run in this one process in turn, round after round, so that whatever else the machine
does meets them alike; times are CPU time, medians, with the ratio to steadyflow in the same round.
Each library has its best settings: compiled where that is its way (flowjax), fused Adam, no
gradients where none are needed, oneDNN matrix products. 'the networks alone' are dense
conditioners of the same size, forward and backward: what no flow without kernels of its own can be
faster than.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from coupling import _hold_to as hold_to
from coupling import cell, machine

LAYERS, WIDTH, BINS, BOUND = 5, 128, 8, 5.0
KINDS = {
    "maf": "affine autoregressive (MAF)",
    "nsf": "rational-quadratic splines, autoregressive",
    "nsfc": "rational-quadratic splines, coupling",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each column")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args()
    hold_to(options.threads)  # before any library starts threads

    import torch

    torch.set_num_threads(options.threads)
    print(f"{machine()}, {options.threads} thread(s), torch {torch.__version__}\n")
    for kind in options.kinds:
        for d in options.dims:
            print(table(kind, d, options), flush=True)


def table(kind: str, d: int, options: argparse.Namespace) -> str:
    """One Markdown table: a row a library, with the ratio of its time to ours."""
    import numpy as np
    import torch

    subjects, missing = {}, {}
    for name, builder in BUILDERS.items():
        torch.manual_seed(0)
        try:
            subject = builder(kind, d)
        except (ImportError, AttributeError) as error:
            missing[name] = f"not installed, or another version ({error})"
            continue
        if subject is not None:
            subjects[name] = subject
    x = np.random.default_rng(0).standard_normal((options.batch, d)).astype("float32")
    tasks: dict[str, dict[str, Callable]] = {"log_prob": {}, "training step": {}, "sample": {}}
    for name, s in subjects.items():
        batch = s.array(x)
        tasks["log_prob"][name] = lambda s=s, batch=batch: s.wait(s.log_prob(batch))
        tasks["training step"][name] = lambda s=s, batch=batch: s.wait(s.train(batch))
        tasks["sample"][name] = lambda s=s: s.wait(s.sample(options.batch))
    columns = {task: race(runs, subjects, options.budget) for task, runs in tasks.items()}
    lines = [
        f"### {KINDS[kind]}, D = {d}\n",
        f"| ms | {' | '.join(tasks)} |",
        "|---|" + "---|" * len(tasks),
    ]
    for name in subjects:
        cells = [cell(name, times) for times in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"\n{name}: {why}" for name, why in missing.items()]
    return "\n".join(lines) + "\n"


def race(
    runs: dict[str, Callable[[], Any]], subjects: dict[str, Any], budget: float
) -> dict[str, list[float]]:
    """Milliseconds of each run in each round; at least three rounds, and the budget's seconds."""
    import torch

    def timed(name: str) -> float:
        torch.set_float32_matmul_precision(subjects[name].precision)
        start, cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < 0.03 or not count:
            runs[name]()
            count += 1
        return 1e3 * (time.process_time() - cpu) / count

    for name in runs:  # compiles, and brings the caches up
        timed(name)
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times[next(iter(runs))]) < 3:
        for name in runs:
            times[name].append(timed(name))
    return times


def ours(kind: str, d: int, **settings: Any) -> Any:
    import peers

    from steadyflow import MAF, SplineFlow

    shared = {"event_shape": (d,), "transforms": LAYERS, "hidden_features": (WIDTH, WIDTH)}
    if kind == "maf":
        model = MAF(**shared)
    else:
        architecture = "coupling" if kind == "nsfc" else "autoregressive"
        model = SplineFlow(**shared, architecture=architecture, bins=BINS, **settings)
    return peers.torch_subject(model, model.log_prob, model.sample)


def ours_unmixed(kind: str, d: int) -> Any:
    """Without the linear layers that no peer has in this architecture."""
    return None if kind == "maf" else ours(kind, d, linear="none")


def networks(kind: str, d: int) -> Any:
    import peers
    import torch
    from torch import nn

    planes = 2 if kind == "maf" else 3 * BINS - 1
    inputs, moved = (d // 2, d // 2) if kind == "nsfc" else (d, d)
    parts = nn.ModuleList(peers.perceptron(inputs, planes * moved, WIDTH) for _ in range(LAYERS))
    noise = torch.randn(512, planes * moved)

    def train(x: torch.Tensor) -> None:
        parts.zero_grad(set_to_none=True)
        some = x[:, :inputs].detach().requires_grad_()
        torch.autograd.backward([part(some) for part in parts], [noise[: len(x)]] * LAYERS)

    @torch.no_grad()
    def forward(x: torch.Tensor) -> None:
        for part in parts:
            part(x[:, :inputs])

    fixed = torch.randn(4096, d)
    return peers.Subject(train, forward, lambda n: forward(fixed[:n]))


def zuko(kind: str, d: int) -> Any:
    import peers
    import zuko
    from zuko.transforms import MonotonicRQSTransform

    shared = {"transforms": LAYERS, "hidden_features": (WIDTH, WIDTH)}
    if kind == "maf":
        model = zuko.flows.MAF(d, **shared)
    elif kind == "nsf":
        model = zuko.flows.NSF(d, bins=BINS, **shared)
    else:
        shapes = [(BINS,), (BINS,), (BINS - 1,)]
        model = zuko.flows.NICE(d, univariate=MonotonicRQSTransform, shapes=shapes, **shared)
    return peers.torch_subject(
        model, lambda x: model().log_prob(x), lambda n: model().sample((n,))
    )


def nflows(kind: str, d: int) -> Any:
    import peers
    import torch
    from nflows import distributions, flows, transforms

    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    masked = {"features": d, "hidden_features": WIDTH, "num_blocks": 1}
    mask = torch.ones(d)
    mask[::2] = -1
    parts: list[Any] = []
    for i in range(LAYERS):
        if kind == "nsfc":
            parts.append(
                transforms.PiecewiseRationalQuadraticCouplingTransform(
                    mask * (-1) ** i, lambda a, b: peers.Perceptron(a, b, WIDTH), **spline
                )
            )
            continue
        parts.append(transforms.ReversePermutation(d))
        if kind == "maf":
            made = transforms.MaskedAffineAutoregressiveTransform
            parts.append(made(**masked, use_residual_blocks=False))
        else:
            made = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
            parts.append(made(**masked, use_residual_blocks=False, **spline))
    base = distributions.StandardNormal([d])
    model = flows.Flow(transforms.CompositeTransform(parts), base)
    return peers.torch_subject(model, model.log_prob, model.sample)


def normflows(kind: str, d: int) -> Any:
    import normflows as nf
    import peers

    parts: list[Any] = []
    for i in range(LAYERS):
        if kind == "maf":
            # as shipped it goes from latent to data: its density would be D passes
            made = nf.flows.MaskedAffineAutoregressive
            part = made(d, WIDTH, num_blocks=1, use_residual_blocks=False)
            parts += nf.flows.Reverse(part), nf.flows.Permute(d, mode="shuffle")
        elif kind == "nsf":
            made = nf.flows.AutoregressiveRationalQuadraticSpline
            part = made(d, 1, WIDTH, num_bins=BINS, tail_bound=BOUND)
            parts += part, nf.flows.Permute(d, mode="shuffle")
        else:
            made = nf.flows.CoupledRationalQuadraticSpline
            settings = {"num_bins": BINS, "tail_bound": BOUND, "reverse_mask": i % 2 == 1}
            parts.append(made(d, 1, WIDTH, **settings))
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(d, trainable=False), parts)
    return peers.torch_subject(model, model.log_prob, lambda n: model.sample(n)[0])


def freia(kind: str, d: int) -> Any:
    """Its coupling of splines moves both halves: three blocks have six networks, not five."""
    if kind != "nsfc":
        return None
    import FrEIA.framework
    import FrEIA.modules
    import peers

    model = FrEIA.framework.SequenceINN(d)
    for _ in range(3):
        model.append(
            FrEIA.modules.RationalQuadraticSpline,
            subnet_constructor=lambda a, b: peers.perceptron(a, b, WIDTH),
            bins=BINS,
        )
    base = torch_normal(d)

    def log_prob(x: Any) -> Any:
        z, log_det = model(x)
        return log_det + base.log_prob(z)

    return peers.torch_subject(
        model, log_prob, lambda n: model(base.sample((n,)), rev=True, jac=False)[0]
    )


def torch_normal(d: int) -> Any:
    import torch

    unit = torch.distributions.Normal(torch.zeros(d), torch.ones(d))
    return torch.distributions.Independent(unit, 1)


def torchflows(kind: str, d: int) -> Any:
    import peers
    from torchflows.bijections.finite.autoregressive import architectures
    from torchflows.flows import Flow

    # its conditioners count the output layer, and have tanh for activation
    shared = {"n_layers": LAYERS, "conditioner_kwargs": {"n_hidden": WIDTH, "n_layers": 3}}
    if kind == "maf":
        bijection = architectures.MAF(d, **shared)
    else:
        name = "CouplingRQNSF" if kind == "nsfc" else "MaskedAutoregressiveRQNSF"
        settings = {"n_bins": BINS, "boundary": BOUND}
        bijection = getattr(architectures, name)(d, **shared, transformer_kwargs=settings)
    model = Flow(bijection)
    return peers.torch_subject(model, model.log_prob, model.sample)


def flowjax(kind: str, d: int) -> Any:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax
    import paramax
    import peers
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow

    key = jax.random.key(0)
    settings: dict[str, Any] = {"flow_layers": LAYERS, "nn_width": WIDTH, "nn_depth": 2}
    if kind != "maf":
        settings["transformer"] = RationalQuadraticSpline(knots=BINS, interval=BOUND)
    made = coupling_flow if kind == "nsfc" else masked_autoregressive_flow
    model = made(key, base_dist=Normal(jnp.zeros(d)), **settings)
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

    log_prob = eqx.filter_jit(lambda model, x: model.log_prob(x))
    sample = eqx.filter_jit(lambda model, key, n: model.sample(key, (n,)))
    return peers.Subject(
        train,
        lambda x: log_prob(eqx.combine(state[0], fixed), x),
        lambda n: sample(eqx.combine(state[0], fixed), key, n),
        array=jnp.asarray,
        wait=jax.block_until_ready,
    )


BUILDERS: dict[str, Callable[[str, int], Any]] = {
    "steadyflow": ours,
    "steadyflow, linear='none'": ours_unmixed,
    "zuko": zuko,
    "nflows": nflows,
    "normflows": normflows,
    "FrEIA": freia,
    "torchflows": torchflows,
    "flowjax": flowjax,
    "the networks alone": networks,
}

if __name__ == "__main__":
    main()

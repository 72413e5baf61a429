"""ODE solving, likelihoods and flow matching beside torchdiffeq, flow_matching and torchcfm.

    python benchmarks/ode.py
    python benchmarks/ode.py --steps 1000 --only overhead pairing

Same networks, same tolerance, one process, one thread, taken in turns; times are CPU time.

overhead     what a solver adds to each call of the network (its time without the network's)
likelihood   evaluations and error of log-likelihoods of one trained network, to tolerance 1e-5
diffusion    the same for a network trained on EDM's path: in the noise level and in the angle
step         a flow-matching training step beside a bare loop with the same network
pairing      minibatch optimal transport of a batch of 256
transport    eight Gaussians to two moons: test negative log-likelihood after training
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from steadyflow import Diffusion, fit
from steadyflow.analytic import eight_gaussians
from steadyflow.bijections import ContinuousFlow
from steadyflow.models.flow_matching import FlowMatching
from steadyflow.networks import VectorField
from steadyflow.pairing import optimal_pairing
from steadyflow.paths import make_path, rows
from steadyflow.solvers import solve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000, help="of training, for transport")
    parser.add_argument("--rate", type=float, default=4e-3, help="of learning, for transport")
    parser.add_argument("--rounds", type=int, default=30, help="of each timing")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, CPU time\n")
    for part in options.only:
        torch.manual_seed(0)
        PARTS[part](options)


def timed(rounds: int, **runs: Callable[[], object]) -> dict[str, float]:
    """The median CPU milliseconds of each, taken in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            before = time.process_time()
            run()
            if turn >= 2:
                found[name].append(1e3 * (time.process_time() - before))
    return {name: statistics.median(times) for name, times in found.items()}


def moons(n: int) -> Tensor:
    """Two moons as torchcfm draws them: noise 0.2, scaled by 3, shifted by -1."""
    from sklearn.datasets import make_moons

    seed = int(torch.randint(2**31 - 1, ()))
    x, _ = make_moons(n, noise=0.2, random_state=seed)
    return torch.as_tensor(x, dtype=torch.float32) * 3 - 1


def eight(n: int) -> Tensor:
    return eight_gaussians().sample(n).float()


@torch.no_grad()
def overhead(options: argparse.Namespace) -> None:
    import torchdiffeq

    turn = torch.randn(2, 2)  # a cheap field: what is left is the solver
    print(
        "| batch | | calls | ms | added to each call, us | of torchdiffeq's |\n" + 6 * "|---" + "|"
    )
    for batch in (256, 4096):
        x = torch.randn(batch, 2)
        span = torch.tensor([0.0, 1.0])
        calls = {}

        def field(t: Tensor, x: Tensor, name: str, calls=calls) -> Tensor:
            calls[name] = calls.get(name, 0) + 1
            return torch.tanh(x @ turn) * 3

        def theirs(field=field, x=x, span=span):
            f = lambda s, x: field(s, x, "torchdiffeq")  # noqa: E731
            return torchdiffeq.odeint(f, x, span, method="dopri5", rtol=1e-5, atol=1e-5)

        def ours(name: str, field=field, x=x, **extra):
            return solve(lambda s, x: field(s, x, name), x, 0.0, 1.0, **extra)

        def alone(x=x):
            for _ in range(50):
                torch.tanh(x @ turn) * 3

        runs = {
            "torchdiffeq": theirs,
            "shared steps": lambda ours=ours: ours("shared steps"),
            "steps per example": lambda ours=ours: ours("steps per example", per_example=True),
            "rk4": lambda ours=ours: ours("rk4", method="rk4", steps=20),
        }
        ms = timed(options.rounds, alone=alone, **runs)
        rounds = options.rounds + 2
        own = ms["alone"] / 50
        added = {k: ms[k] - calls[k] / rounds * own for k in runs}
        each = {k: 1e3 * added[k] / (calls[k] / rounds) for k in runs}
        for k in runs:
            ratio = each[k] / each["torchdiffeq"]
            numbers = f"{calls[k] // rounds} | {ms[k]:.1f} | {each[k]:.0f} | {ratio:.2f}"
            print(f"| {batch} | {k} | {numbers} |")
        print(f"| {batch} | the network alone | 1 | {own:.3f} | | |")
    print(flush=True)


class Velocity(nn.Module):
    """A velocity on [0, 1] in the convention of the flow-matching papers: t = 1 is the data."""

    def __init__(self):
        super().__init__()
        self.net = VectorField(2, (64, 64, 64), clip=None)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(t, x)


def likelihood(options: argparse.Namespace) -> None:
    from flow_matching.solver import ODESolver

    model = Velocity()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(min(options.steps, 3000)):
        data, noise = moons(256), torch.randn(256, 2)
        t = torch.rand(256)
        x = t[:, None] * data + (1 - t[:, None]) * noise
        loss = (model(x, t) - (data - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)
    x = moons(2048)
    path = make_path("straight")
    width = float(x.std())
    calls = {"n": 0}

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls["n"] += 1
        return model(x, t)

    def native(t: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        return -counted(x, (1 - t).to(x.dtype))

    def canonical(angle: Tensor, u: Tensor, context: Tensor | None) -> Tensor:
        t = path.time(width * torch.tan(angle)).clamp(0, 1)
        x = u * rows(path.size(t, width), u)
        made = path.predict("velocity", native(t, x, None), x, t)
        return (
            rows(torch.cos(angle), u) * made.noise - rows(torch.sin(angle), u) * made.data / width
        )

    normal = torch.distributions.Normal(0.0, 1.0)

    def straight(tolerance: float, x: Tensor, **extra) -> Tensor:
        flow = ContinuousFlow(native, rtol=tolerance, atol=tolerance, **extra)
        z, log_det = flow(x)
        return normal.log_prob(z).sum(1) + log_det

    def turned(tolerance: float, x: Tensor, **extra) -> Tensor:
        flow = ContinuousFlow(canonical, t1=math.pi / 2, rtol=tolerance, atol=tolerance, **extra)
        z, log_det = flow(x / width)
        return normal.log_prob(z).sum(1) + log_det - 2 * math.log(width)

    class Wrapped(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return counted(x, t)

    solver = ODESolver(velocity_model=Wrapped())

    def theirs() -> Tensor:
        return solver.compute_likelihood(
            x_1=x,
            log_p0=lambda z: normal.log_prob(z).sum(1),
            step_size=None,
            method="dopri5",
            atol=1e-5,
            rtol=1e-5,
            exact_divergence=True,
        )[1]

    model.double()
    with torch.no_grad():
        truth = straight(1e-10, x.double(), per_example=False)
    model.float()
    shared = {"per_example": False}
    print(f"mean log-likelihood of 2048 points (float64, tolerance 1e-10): {truth.mean():.4f}\n")
    print(
        "| | evaluations | of flow_matching's | ms | largest error, nats |\n|---|---|---|---|---|"
    )
    base = None
    for name, run in {
        "flow_matching, dopri5 in t": theirs,
        "steadyflow in t": lambda: straight(1e-5, x, **shared),
        "steadyflow in the angle": lambda: turned(1e-5, x, **shared),
        "steadyflow in the angle, tsit5": lambda: turned(1e-5, x, method="tsit5", **shared),
        "steadyflow in the angle, steps per example": lambda: turned(1e-5, x),
    }.items():
        calls["n"] = 0
        with torch.no_grad():
            before = time.process_time()
            value = run()
            ms = 1e3 * (time.process_time() - before)
        base = base or calls["n"]
        error = (value.double() - truth).abs().max()
        print(f"| {name} | {calls['n']} | {calls['n'] / base:.2f} | {ms:.0f} | {error:.1e} |")
    print(flush=True)


def diffusion(options: argparse.Namespace) -> None:
    """One trained network of EDM's path: its likelihood in the noise level and in the angle."""
    from flow_matching.solver import ODESolver

    model = Diffusion(event_shape=[2], path="edm", objective="edm", hidden_features=[64, 64, 64])
    fit(
        model,
        moons(20_000).numpy(),
        steps=min(options.steps, 3000),
        batch_size=256,
        progress=False,
    )
    model.eval().requires_grad_(False)
    x = moons(2048)
    u = model.shrinking(model.normalization(x)[0])[0]
    low, high, calls = model.path.t_min, model.path.t_max, {"n": 0}
    y = u * math.hypot(1, low)

    class Native(nn.Module):
        """dy/ds = noise over t = 1 - (s - low) / (high - low), in which flow_matching solves."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            calls["n"] += 1
            s = low + (1 - t.double()) * (high - low)
            angle = torch.atan(s)
            cos, sin = torch.cos(angle), torch.sin(angle)
            point = x * cos.to(x.dtype)
            v = model.network(angle, point)
            return -(high - low) * (sin * point + cos * v).to(x.dtype)

    def wide(z: Tensor) -> Tensor:
        return torch.distributions.Normal(0.0, math.hypot(1, high)).log_prob(z).sum(1)

    def theirs(tolerance: float) -> Tensor:
        return ODESolver(velocity_model=Native()).compute_likelihood(
            x_1=y, log_p0=wide, step_size=None, method="dopri5", atol=tolerance, rtol=tolerance,
            exact_divergence=True,
        )[1]  # fmt: skip

    def ours(tolerance: float, u: Tensor, **extra) -> Tensor:
        counted = lambda t, u, c: [calls.update(n=calls["n"] + 1), model.network(t, u)][1]  # noqa: E731
        ends = {"t0": model.ode.t0, "t1": model.ode.t1}
        flow = ContinuousFlow(counted, **ends, rtol=tolerance, atol=tolerance, **extra)
        z, log_det = flow(u)
        size = math.hypot(1, high)
        return wide(z * size) + log_det + 2 * math.log(size) - 2 * math.log(math.hypot(1, low))

    with torch.no_grad():
        model.double()
        truth = ours(1e-10, u.double(), per_example=False)
        model.float()
        print("| EDM's path, 0.002 to 80 | tolerance | evaluations | of theirs | largest error |")
        print("|---|---|---|---|---|")
        for tolerance in (1e-4, 1e-5):
            base = 0
            for name, run in {
                "flow_matching, dopri5 in the noise": lambda t=tolerance: theirs(t),
                "steadyflow in the angle": lambda t=tolerance: ours(t, u, per_example=False),
            }.items():
                calls["n"] = 0
                error = (run().double() - truth).abs().max()
                base = base or calls["n"]
                ratio = calls["n"] / base
                print(f"| {name} | {tolerance:g} | {calls['n']} | {ratio:.2f} | {error:.1e} |")
    print(flush=True)


def step(options: argparse.Namespace) -> None:
    model = FlowMatching(event_shape=[2], pairing="independent", hidden_features=[64, 64, 64])
    bare = VectorField(2, (64, 64, 64))
    x = moons(256)
    model.initialize(x)
    first = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    second = torch.optim.Adam(bare.parameters(), lr=1e-3, fused=True)

    def ours() -> None:
        loss = model.loss(x)
        first.zero_grad()
        loss.backward()
        first.step()

    def loop() -> None:
        noise, t = torch.randn_like(x), torch.rand(len(x))
        mixed = (1 - t[:, None]) * x + t[:, None] * noise
        loss = (bare(t, mixed) - (noise - x)).square().mean()
        second.zero_grad()
        loss.backward()
        second.step()

    def many(run: Callable[[], None]) -> Callable[[], None]:
        return lambda: [run() for _ in range(20)] and None

    ms = timed(options.rounds, ours=many(ours), bare=many(loop))
    print(
        f"step: {ms['ours'] / 20:.3f} ms, bare loop {ms['bare'] / 20:.3f} ms, "
        f"ratio {ms['ours'] / ms['bare']:.2f}\n",
        flush=True,
    )


def pairing(options: argparse.Namespace) -> None:
    from torchcfm.optimal_transport import OTPlanSampler

    sampler = OTPlanSampler(method="exact")
    x, noise = moons(256), eight(256)
    ms = timed(
        options.rounds,
        torchcfm=lambda: sampler.sample_plan(noise, x),
        ours=lambda: optimal_pairing(x, noise),
        whole=lambda: optimal_pairing(x, noise, block=256),
    )
    distinct = len(sampler.sample_plan(noise, x)[1].unique(dim=0))

    def cost(e: Tensor) -> float:
        return float((x - e).square().sum(1).mean())

    print("| | ms | of torchcfm's | distinct points of 256 | mean squared distance |")
    print("|---|---|---|---|---|")
    a, b = sampler.sample_plan(noise, x)
    theirs = float((a - b).square().sum(1).mean())
    print(f"| torchcfm, exact | {ms['torchcfm']:.2f} | 1 | {distinct} | {theirs:.2f} |")
    for name, block in (("ours", 64), ("whole", 256)):
        e = noise[optimal_pairing(x, noise, block=block)]
        print(
            f"| steadyflow, blocks of {block} | {ms[name]:.2f} | {ms[name] / ms['torchcfm']:.2f} "
            f"| 256 | {cost(e):.2f} |"
        )
    print(f"| at random | 0 | 0 | 256 | {cost(noise):.2f} |\n", flush=True)


def transport(options: argparse.Namespace) -> None:
    from torchcfm.conditional_flow_matching import (
        ConditionalFlowMatcher,
        ExactOptimalTransportConditionalFlowMatcher,
    )

    test = moons(4000)
    source = eight_gaussians()
    print("| pairing | test NLL, nats | ms a step |\n|---|---|---|")
    independent = ConditionalFlowMatcher(sigma=0.0)
    exact = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    for name in (
        "torchcfm, at random",
        "torchcfm, exact OT",
        "steadyflow, one to one, blocks of 64",
    ):
        torch.manual_seed(1)
        model = VectorField(2, (64, 64, 64), clip=None)
        optimizer = torch.optim.Adam(model.parameters(), lr=options.rate, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
        before = time.process_time()
        for _ in range(options.steps):
            noise, data = eight(256), moons(256)
            if name.startswith("torchcfm"):
                matcher = exact if "exact" in name else independent
                t, x, velocity = matcher.sample_location_and_conditional_flow(noise, data)
            else:
                noise = noise[optimal_pairing(data, noise)]
                t = torch.rand(256)
                x, velocity = torch.lerp(noise, data, t[:, None]), data - noise
            loss = (model(t, x) - velocity).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        ms = 1e3 * (time.process_time() - before) / options.steps
        flow = ContinuousFlow(lambda t, x, _, model=model: -model(1 - t, x), per_example=False)
        with torch.no_grad():
            z, log_det = flow(test)
            values = source.log_prob(z) + log_det
        error = values.std() / math.sqrt(len(test))
        print(f"| {name} | {-values.mean():.3f} ± {error:.3f} | {ms:.2f} |", flush=True)
    print(flush=True)


PARTS = {
    "overhead": overhead,
    "likelihood": likelihood,
    "diffusion": diffusion,
    "step": step,
    "pairing": pairing,
    "transport": transport,
}

if __name__ == "__main__":
    main()

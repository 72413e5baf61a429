"""One step of a Markov chain whose stationary distribution is q(x) ~ exp(-U(x)).

    Langevin      x' = m(x) + h n,  m(x) = x - h^2/2 dU(x)     nothing is rejected: biased
    MALA          the same, accepted with min(1, e^(U - U') N(x; m(x'), h^2) / N(x'; m(x), h^2));
                  squared distances enter there, not distances
    HMC           p ~ N(0, I), L leapfrog steps of length h, accepted with min(1, e^(H - H'))
    independence  x' ~ p whatever x is, accepted with min(1, w(x') / w(x)),  w = e^(-U) / p

All are exact but the first. A kernel takes the energy, the state and h, and gives the new state
with the probability of its acceptance, (chains,).

Roberts & Tweedie, "Exponential convergence of Langevin distributions" (1996); Neal, "MCMC using
Hamiltonian dynamics" (2011); Hastings (1970), sec. 2.5.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]  # (chains, *event) to (chains,)
Proposal = Callable[[int], tuple[Tensor, Tensor]]  # n to draws (n, *event) and log p: (n,)


@dataclasses.dataclass(frozen=True)
class State:
    """Where the chains are, with U and, where a kernel uses it, dU/dx; or log p of `proposal`."""

    x: Tensor
    energy: Tensor
    gradient: Tensor | None
    log_prob: Tensor | None = None

    @classmethod
    def at(cls, energy: Energy, x: Tensor, gradient: bool = True) -> State:
        """The state of chains at x: (chains, *event)."""
        if not gradient:
            with torch.no_grad():
                return cls(x, energy(x), None)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            value = energy(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return cls(x, value.detach(), slope)


def _langevin(
    energy: Energy, state: State, h: float, *, generator: Any, **_: Any
) -> tuple[State, Tensor]:
    """One uncorrected step."""
    x = _drifted(state, h) + h * _normal_like(state.x, generator)
    return State.at(energy, x), torch.ones(len(x), dtype=torch.float64, device=x.device)


def _mala(
    energy: Energy, state: State, h: float, *, generator: Any, **_: Any
) -> tuple[State, Tensor]:
    """One step of MALA; the noise of the proposal has standard deviation h."""
    x = _drifted(state, h) + h * _normal_like(state.x, generator)
    new = State.at(energy, x)
    there = _squares(x - _drifted(state, h)) / (2 * h * h)
    back = _squares(state.x - _drifted(new, h)) / (2 * h * h)
    return _decide(state, new, state.energy - new.energy + there - back, generator)


def _hmc(
    energy: Energy, state: State, h: float, *, leapfrog: int, generator: Any, **_: Any
) -> tuple[State, Tensor]:
    """One trajectory of L leapfrog steps."""
    momentum = _normal_like(state.x, generator)
    before = state.energy + _squares(momentum) / 2
    new = state
    for _step in range(leapfrog):
        momentum = momentum - h / 2 * _slope(new)
        new = State.at(energy, new.x + h * momentum)
        momentum = momentum - h / 2 * _slope(new)
    after = new.energy + _squares(momentum) / 2
    return _decide(state, new, before - after, generator)


def _independence(
    energy: Energy, state: State, h: float, *, proposal: Proposal, generator: Any, **_: Any
) -> tuple[State, Tensor]:
    """A proposal that does not know where the chain is."""
    with torch.no_grad():
        x, log_prob = proposal(len(state.x))
        new = State(x, energy(x), None, log_prob)
    if state.log_prob is None:  # p where the chain begins is not known: it leaves at once
        return new, torch.ones(len(x), dtype=torch.float64, device=x.device)
    gain = (state.energy + state.log_prob) - (new.energy + log_prob)
    return _decide(state, new, gain, generator)


KERNELS: dict[str, Callable[..., tuple[State, Tensor]]] = {
    "langevin": _langevin,
    "mala": _mala,
    "hmc": _hmc,
    "independence": _independence,
}


def _decide(old: State, new: State, log_ratio: Tensor, generator: Any) -> tuple[State, Tensor]:
    """Takes the new state with min(1, e^log_ratio); where it is not a number, never."""
    probability = log_ratio.double().nan_to_num(nan=-math.inf).clamp_max(0).exp()
    draw = torch.rand(
        len(probability), generator=generator, dtype=torch.float64, device=probability.device
    )
    taken = draw < probability

    def chosen(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if a is None or b is None:
            return None
        return torch.where(taken.reshape(-1, *[1] * (a.dim() - 1)), a, b)

    fields = [
        chosen(getattr(new, f.name), getattr(old, f.name)) for f in dataclasses.fields(State)
    ]
    return State(*fields), probability  # type: ignore[arg-type]


def _drifted(state: State, h: float) -> Tensor:
    return state.x - h * h / 2 * _slope(state)


def _slope(state: State) -> Tensor:
    assert state.gradient is not None
    return state.gradient


def _squares(x: Tensor) -> Tensor:
    return x.double().flatten(1).square().sum(1)


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

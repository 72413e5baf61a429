"""A flow as a `torch.distributions.Distribution`, for Pyro and everything that takes one.

Pyro wants more methods of a distribution than torch gives it (masks, plates). Where Pyro has been
imported, `make` gives an object that has them too, so that `pyro.sample` takes it as it is.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

if TYPE_CHECKING:
    from steadyflow.flow import Flow
SampleShape = torch.Size | list[int] | tuple[int, ...]


def make(
    flow: Flow, context: Tensor | None = None, validate_args: bool | None = None
) -> FlowDistribution:
    """The distribution of a flow, with Pyro's methods if the program uses Pyro."""
    kind = _with_pyro() if "pyro" in sys.modules else FlowDistribution
    return kind(flow, context, validate_args)


@functools.cache
def _with_pyro() -> Any:
    from pyro.distributions.torch_distribution import TorchDistributionMixin

    return type("PyroFlowDistribution", (FlowDistribution, TorchDistributionMixin), {})


class FlowDistribution(Distribution):
    """The distribution of a flow, given a context if the flow is conditional.

    Without a context the batch shape is (); a context of shape (*batch, features) gives a batch of
    distributions. Draws are reparametrised (`rsample`) unless the data are integers.

    Args:
        flow: the flow.
        context: (*batch, features) or None.
        validate_args: check the values given to `log_prob` (shape, NaN, integers out of range);
            torch's own setting without it.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self, flow: Flow, context: Tensor | None = None, validate_args: bool | None = None
    ):
        self.flow, self.context = flow, context
        batch_shape = torch.Size() if context is None else context.shape[:-1]
        super().__init__(batch_shape, torch.Size(flow.event_shape), validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """True for real-valued data."""
        return self.flow.likelihood != "bound"

    @property
    def support(self) -> constraints.Constraint:
        """Real vectors, or integers for a dequantising flow."""
        dequantization = self.flow.dequantization
        if not hasattr(dequantization, "levels"):
            return constraints.independent(constraints.real, len(self.event_shape))
        levels: int = dequantization.levels  # type: ignore[union-attr, assignment]
        pixels = constraints.integer_interval(0, levels - 1)
        return constraints.independent(pixels, len(self.event_shape))

    def expand(self, batch_shape, _instance=None) -> FlowDistribution:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(FlowDistribution, _instance)
        batch_shape = torch.Size(batch_shape)
        new.flow = self.flow
        new.context = self.context
        if self.context is not None:
            new.context = self.context.expand(*batch_shape, self.context.shape[-1])
        super(FlowDistribution, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: SampleShape = torch.Size()) -> Tensor:  # noqa: B008
        """Draws (*sample_shape, *batch_shape, *event_shape) with gradients to the parameters."""
        if not self.has_rsample:
            raise NotImplementedError("integer data has no reparametrised draw: use sample()")
        n, context, shape = self._draws(sample_shape)
        return self.flow.sample_with_log_prob(n, context)[0].reshape(shape)

    def sample(self, sample_shape: SampleShape = torch.Size()) -> Tensor:  # noqa: B008
        """Draws (*sample_shape, *batch_shape, *event_shape) without gradients."""
        n, context, shape = self._draws(sample_shape)
        return self.flow.sample(n, context).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats of value: (*sample_shape, *batch_shape, *event_shape)."""
        if self._validate_args:
            self._validate_sample(value)
        events = len(self.event_shape)
        leading = value.shape[: value.dim() - events]
        leading = torch.broadcast_shapes(leading, self.batch_shape)
        x = value.expand(*leading, *value.shape[value.dim() - events :])
        context = self._context(leading)
        return self.flow.log_prob(x.reshape(-1, *x.shape[len(leading) :]), context).view(leading)

    def _draws(self, sample_shape: SampleShape) -> tuple[int, Tensor | None, torch.Size]:
        shape = self._extended_shape(torch.Size(sample_shape))
        leading = shape[: len(shape) - len(self.event_shape)]
        return leading.numel(), self._context(leading), shape

    def _context(self, leading: torch.Size) -> Tensor | None:
        if self.context is None:
            return None
        features = self.context.shape[-1]
        return self.context.expand(*leading, features).reshape(-1, features)

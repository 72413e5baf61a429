"""The one interface of every invertible map, and how maps are put together.

    z = f(x),   log_det = log|det df/dx|       forward: from data to latent
    x = f^-1(z), log_det = log|det df^-1/dz|   inverse: from latent to data

Both directions return the value and the log-determinant of the direction just taken, so that
`forward(x)[1] == -inverse(forward(x)[0])[1]`. A composition multiplies Jacobians, so its
log-determinant is the sum of those of its parts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Transformed = tuple[Tensor, Tensor]
Shape = tuple[int, ...]


class Bijection(nn.Module):
    """An invertible, differentiable map with a tractable log-determinant.

    A subclass defines `forward` and `inverse`. It keeps no state between calls; what has to be
    learned from a first batch happens in `initialize`, which the trainer calls once.

    Attributes:
        closed_form_inverse: False if `inverse` iterates.
        exact_log_det: False if the log-determinant is an estimate.
    """

    closed_form_inverse: bool = True
    exact_log_det: bool = True

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Maps data to latent.

        Args:
            x: (batch, *event).
            context: (batch, features) or None.

        Returns:
            z: (batch, *latent event), and log_det: (batch,) in nats, float32 or wider.
        """
        raise NotImplementedError

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Maps latent to data: (batch, *latent event) to x: (batch, *event), log_det: (batch,)."""
        raise NotImplementedError

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets data-dependent parameters from a batch of data; by default there are none."""

    def output_shape(self, event_shape: Shape) -> Shape:
        """The shape of z for the shape of x; by default the same."""
        return tuple(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The shape of x for the shape of z; by default the same."""
        return tuple(event_shape)


class Chain(Bijection):
    """Bijections one after another: f = f_n o ... o f_1 (the first acts on the data).

    Example:
        >>> import torch
        >>> from steadyflow.bijections import Chain, Reverse, Scaling
        >>> chain = Chain(Scaling((2,)), Reverse())
        >>> z, log_det = chain(torch.ones(3, 2))
        >>> z.shape, log_det.shape
        (torch.Size([3, 2]), torch.Size([3]))
    """

    def __init__(self, *bijections: Bijection):
        super().__init__()
        self.bijections = nn.ModuleList(bijections)
        self.closed_form_inverse = all(b.closed_form_inverse for b in bijections)
        self.exact_log_det = all(b.exact_log_det for b in bijections)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Applies the bijections from first to last."""
        total: Tensor | None = None
        for bijection in self.bijections:
            x, log_det = bijection(x, context)
            total = log_det if total is None else total + log_det
        return x, zero_log_det(x) if total is None else total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Applies the inverses from last to first."""
        total: Tensor | None = None
        for bijection in reversed(self.bijections):
            z, log_det = bijection.inverse(z, context)
            total = log_det if total is None else total + log_det
        return z, zero_log_det(z) if total is None else total

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialises each bijection on what the ones before it make of the batch."""
        for bijection in self.bijections:
            bijection.initialize(x, context)
            x, _ = bijection(x, context)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The shape that the last bijection ends with."""
        for bijection in self.bijections:
            event_shape = bijection.output_shape(event_shape)  # type: ignore[operator]
        return tuple(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The shape that the first bijection begins with."""
        for bijection in reversed(self.bijections):
            event_shape = bijection.input_shape(event_shape)  # type: ignore[operator]
        return tuple(event_shape)

    def __len__(self) -> int:
        return len(self.bijections)

    def __getitem__(self, index: int) -> Bijection:
        return self.bijections[index]  # type: ignore[return-value]


class Inverse(Bijection):
    """A bijection the other way round: its forward is the other's inverse."""

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection
        self.closed_form_inverse = bijection.closed_form_inverse
        self.exact_log_det = bijection.exact_log_det

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """The inverse of the wrapped bijection."""
        return self.bijection.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """The forward of the wrapped bijection."""
        return self.bijection(z, context)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The wrapped bijection's input shape."""
        return self.bijection.input_shape(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The wrapped bijection's output shape."""
        return self.bijection.output_shape(event_shape)


def sum_event(values: Tensor) -> Tensor:
    """Sums (batch, *event) over the event to (batch,), in float32 or wider."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return values.flatten(1).sum(1, dtype=wide)


def zero_log_det(x: Tensor) -> Tensor:
    """The log-determinant of a volume-preserving map of x: (batch,) zeros, float32 or wider."""
    return x.new_zeros(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))


def constant_log_det(value: Tensor, x: Tensor) -> Tensor:
    """A scalar log-determinant that is the same for every example of x: (batch,)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return value.to(wide).expand(x.shape[0])

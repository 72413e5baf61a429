"""The one interface of every invertible map, and how maps are put together.

    z = f(x),   log_det = log|det df/dx|       forward: from data to latent
    x = f^-1(z), log_det = log|det df^-1/dz|   inverse: from latent to data

Both directions return the value and the log-determinant of the direction just taken, so that
`forward(x)[1] == -inverse(forward(x)[0])[1]`. A composition multiplies Jacobians, so its
log-determinant is the sum of those of its parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What `forward` gives without its log-determinant, which may be the dearer part."""
        return self(x, context)[0]

    def to_data(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """What `inverse` gives without its log-determinant."""
        return self.inverse(z, context)[0]

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

    Args:
        bijections: the parts, in the order in which they act on data.
        reversible: compute gradients from the output alone, each layer's input being computed
            again by its inverse: the memory of training does not grow with depth, its time by a
            third or so. See `steadyflow.bijections.reversible`. Compiled code stores as usual.

    Attributes:
        drift: of a reversible chain, the largest relative error with which an input has come back
            in a backward pass: a scalar that grows with depth and with what the layers stretch.
    """

    drift: Tensor

    bijections: Sequence[Bijection]

    def __init__(self, *bijections: Bijection, reversible: bool = False):
        super().__init__()
        self.bijections = nn.ModuleList(bijections)  # type: ignore[assignment]
        self.closed_form_inverse = all(b.closed_form_inverse for b in bijections)
        self.exact_log_det = all(b.exact_log_det for b in bijections)
        self.reversible = reversible
        self.register_buffer("drift", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Transformed:
        """Applies the bijections from first to last."""
        if self._by_recomputing():
            from steadyflow.bijections import reversible

            return reversible.run([*self.bijections], x, context, self.drift)
        return compose(self.bijections, x, context)  # type: ignore[arg-type]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Transformed:
        """Applies the inverses from last to first."""
        if self._by_recomputing():
            from steadyflow.bijections import reversible

            back = [Inverse(b) for b in reversed(self.bijections)]  # type: ignore[arg-type]
            return reversible.run(back, z, context, self.drift)
        total: Tensor | None = None
        for bijection in self._backwards():
            z, log_det = bijection.inverse(z, context)
            total = log_det if total is None else total + log_det
        return z, zero_log_det(z) if total is None else total

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Applies the bijections from first to last, without log-determinants."""
        if self._by_recomputing():
            return self(x, context)[0]
        for bijection in self.bijections:
            x = bijection.to_latent(x, context)
        return x

    def to_data(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Applies the inverses from last to first, without log-determinants."""
        if self._by_recomputing():
            return self.inverse(z, context)[0]
        for bijection in self._backwards():
            z = bijection.to_data(z, context)
        return z

    def _backwards(self) -> list[Bijection]:
        # a list, not reversed(): torch.compile loses its place after an inverse that iterates
        return [*self.bijections][::-1]

    def _by_recomputing(self) -> bool:
        return self.reversible and torch.is_grad_enabled() and not torch.compiler.is_compiling()

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Initialises each bijection on what the ones before it make of the batch."""
        for place, bijection in enumerate(self.bijections, 1):
            bijection.initialize(x, context)
            if place < len(self.bijections):  # nobody sees what the last one makes of it
                x = bijection.to_latent(x, context)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The shape that the last bijection ends with."""
        for bijection in self.bijections:
            event_shape = bijection.output_shape(event_shape)
        return tuple(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The shape that the first bijection begins with."""
        for bijection in reversed(self.bijections):
            event_shape = bijection.input_shape(event_shape)
        return tuple(event_shape)

    def __len__(self) -> int:
        return len(self.bijections)

    def __getitem__(self, index: int) -> Bijection:
        return self.bijections[index]


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

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The wrapped bijection's `to_data`."""
        return self.bijection.to_data(x, context)

    def to_data(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The wrapped bijection's `to_latent`."""
        return self.bijection.to_latent(z, context)

    def output_shape(self, event_shape: Shape) -> Shape:
        """The wrapped bijection's input shape."""
        return self.bijection.input_shape(event_shape)

    def input_shape(self, event_shape: Shape) -> Shape:
        """The wrapped bijection's output shape."""
        return self.bijection.output_shape(event_shape)


def compose(layers: Iterable[Bijection], x: Tensor, context: Tensor | None) -> Transformed:
    """Applies bijections one after another: (batch, *event) to z and log_det: (batch,)."""
    total: Tensor | None = None
    for layer in layers:
        x, log_det = layer(x, context)
        total = log_det if total is None else total + log_det
    return x, zero_log_det(x) if total is None else total


def gradients(
    outputs: Sequence[Tensor], grads: Sequence[Tensor], inputs: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """autograd.grad over the outputs that have a gradient at all; None for unused inputs."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    live, of_live = zip(*pairs, strict=True)
    return torch.autograd.grad(live, inputs, of_live, allow_unused=True)


def sum_event(values: Tensor) -> Tensor:
    """Sums (batch, *event) over the event to (batch,), in float32 or wider."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return values.flatten(1).sum(1, dtype=wide)


def zero_log_det(x: Tensor) -> Tensor:
    """The log-determinant of a volume-preserving map of x: (batch,) zeros, float32 or wider."""
    return x.new_zeros(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))


def constant_log_det(values: Tensor, x: Tensor) -> Tensor:
    """The sum of values, the same for every example of x: (batch,), float32 or wider."""
    wide = torch.promote_types(torch.promote_types(x.dtype, values.dtype), torch.float32)
    return values.sum(dtype=wide).expand(x.shape[0])


def same_shape(bijection: Bijection, own: Sequence[int], given: Sequence[int]) -> Shape:
    """The given event shape, if it is the bijection's own; a flow asks when it is built.

    Without this question broadcasting would turn a wrong size into a wrong log-determinant.
    """
    if tuple(given) != tuple(own):
        raise ValueError(
            f"{type(bijection).__name__} was built for events of shape {tuple(own)}, "
            f"but gets them of shape {tuple(given)}"
        )
    return tuple(given)
